"""How soon skgen reaches the quality of a tutorial's flow, and how fast it draws samples.

``python -m examples.benchmarks tutorial`` trains a flow on eight Gaussians as tutorials do (three
layers of 512 ReLU units, 5,000 steps of 2,500 fresh rows, Adam at 2e-3 that falls to 0.6 of it
every 1,500 steps), then ``FlowMatchingDensity`` with more and more gradient steps on 50,000 rows,
and prints for each the seconds of the processor, KL(truth || fit) of exact log-densities of fresh
rows, and the energy distance and the area under the ROC curve of boosted trees (0.5: alike) of
20,000 samples, which the tutorial draws by 80 steps of Euler's method. Then it times 20,000 samples
of a default fit to 10,000 rows by skgen, of its network alone, and of that by torchdiffeq's dopri5
at three tolerances, each judged by the mean of several draws.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from torch import nn

from examples.benchmarks.common import Results, alternate, parser, set_threads
from skgen import FlowMatchingDensity
from skgen.datasets import EightGaussians
from skgen.metrics import classifier_two_sample_test, energy_distance

N_SAMPLES = 20_000
N_DRAWS = 4  # whose AUC is averaged, as one is good to 0.004
FEW_STEPS = (
    ("heun", 8, "uniform"),
    ("heun", 8, "quadratic"),
    ("adams", 8, "three_halves"),
    ("adams", 9, "quadratic"),
    ("adams", 10, "quadratic"),
)


def clock(function):
    """Result of a call, and the seconds of the processor that it took."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def train(truth, n_steps, marks):
    """Train as the tutorial does; yields the network and the seconds so far at some steps."""
    torch.manual_seed(0)
    sizes = (3, 512, 512, 512, 2)
    layers = [
        part for n_in, n_out in pairwise(sizes) for part in (nn.Linear(n_in, n_out), nn.ReLU())
    ]
    network = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.StepLR(optimiser, 1500, 0.6)
    seconds, rng = 0.0, np.random.RandomState(0)
    for step in range(1, n_steps + 1):
        start = time.process_time()
        data = torch.tensor(truth.sample(2500, rng), dtype=torch.float32)
        noise, t = torch.randn_like(data), torch.rand(len(data), 1)
        velocity = network(torch.cat([t * data + (1 - t) * noise, t], dim=1))
        loss = (0.5 * velocity.square() - velocity * (data - noise)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        seconds += time.process_time() - start
        if step in marks:
            yield step, network, seconds


def velocity_of(network):
    return lambda t, x: network(torch.cat([x, torch.full_like(x[:, :1], float(t))], dim=1))


@torch.no_grad()
def euler(network, n, n_steps=80):
    """Samples by Euler's method."""
    x, velocity = torch.randn(n, 2), velocity_of(network)
    for k in range(n_steps):
        x = x + velocity(k / n_steps, x) / n_steps
    return x.numpy()


@torch.no_grad()
def log_density(network, X, n_steps=50):
    """Log-densities by the midpoint rule, with the exact trace."""
    velocity = velocity_of(network)
    x, log_det = torch.tensor(X, dtype=torch.float32), torch.zeros(len(X))

    def parts(t, x):
        value, trace = velocity(t, x), 0.0
        for axis in torch.eye(2):
            _, slope = torch.func.jvp(lambda x: velocity(t, x), (x,), (axis.expand_as(x),))
            trace = trace + slope @ axis
        return value, trace

    for k in range(n_steps, 0, -1):
        half = x - parts(k / n_steps, x)[0] / (2 * n_steps)
        value, trace = parts((k - 0.5) / n_steps, half)
        x, log_det = x - value / n_steps, log_det - trace / n_steps
    return (-0.5 * x.square().sum(1) - np.log(2 * np.pi) + log_det).double().numpy()


def sampling(density, truth, results, n_samples, n_draws):
    """Samples of a density by skgen, of its network alone, and of that by dopri5; in turn."""
    from torchdiffeq import odeint

    weights = density._mixture.weights
    defended, alone = weights.clone(), torch.eye(len(weights), dtype=weights.dtype)[0]

    def own(shares, seed=0, **options):
        weights.copy_(shares)
        return density.sample(n_samples, random_state=seed, **options)

    draws = {}
    for name, shares in (("skgen", defended), ("skgen, the network alone", alone)):
        draws[name] = partial(own, shares)
        for sampler, n_steps, grid in FEW_STEPS:
            draws[f"{name}, {sampler}, {n_steps} {grid} steps"] = partial(
                own, shares, sampler=sampler, n_steps=n_steps, time_grid=grid
            )
    flow, bijection = density._model, density._density.bijection
    field = flow.network.field(torch.float32)

    def velocity(t, x):
        return field(float(t), x) + flow.straight.gaussian_gain(t) * x

    @torch.no_grad()
    def dopri5(tolerance, seed=0):
        noise = torch.randn(n_samples, 2, generator=torch.Generator().manual_seed(seed))
        options = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
        ends = odeint(velocity, noise, torch.tensor([0.0, 1.0]), **options)
        return bijection.inverse(ends[-1].double()).numpy()

    for tolerance in (1e-3, 1e-4, 1e-5):
        draws[f"torchdiffeq, dopri5, tolerance {tolerance:g}"] = partial(dopri5, tolerance)
    fresh = [truth.sample(n_samples, random_state=100 + k) for k in range(n_draws)]
    for (name, draw), seconds in zip(
        draws.items(), alternate(list(draws.values()), 5), strict=True
    ):
        qualities = [quality(draw(seed=k), rows) for k, rows in enumerate(fresh)]
        mean = {key: fmean(q[key] for q in qualities) for key in qualities[0]}
        results.add(**{"samples by": name, "seconds": seconds}, **mean)


def quality(samples, fresh):
    """How far samples are from fresh rows of the truth."""
    return {
        "energy distance": energy_distance(fresh[:5000], samples[:5000]),
        "AUC": classifier_two_sample_test(fresh, samples, random_state=0),
    }


def main(argv=None):
    args = parser(__doc__, "tutorial").parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    share, n_samples, n_draws = (50, 2000, 1) if args.quick else (1, N_SAMPLES, N_DRAWS)
    truth = EightGaussians()
    X, fresh = truth.sample(50_000, random_state=0), truth.sample(n_samples, random_state=1)
    formats = {"KL, nats": ".4f", "energy distance": ".4f"}
    results = Results(args, formats)

    def report(name, n_steps, seconds, divergence, samples):
        results.add(
            **{"flow": name, "steps": n_steps, "seconds": seconds, "KL, nats": divergence},
            **quality(samples, fresh),
        )

    report("truth", None, None, None, truth.sample(n_samples, random_state=2))
    for n_steps in (250, 500, 1000, 2000, 4000):
        density = FlowMatchingDensity(max_iter=n_steps // share, random_state=0)
        _, seconds = clock(lambda density=density: density.fit(X))
        divergence = float(truth.score(fresh) - density.score(fresh))
        samples = density.sample(n_samples, random_state=3)
        report("skgen", density.n_iter_, seconds, divergence, samples)
    some = fresh[: n_samples // 10]
    for step, network, seconds in train(
        truth, 5000 // share, [step // share for step in (1000, 2500, 5000)]
    ):
        divergence = float(np.mean(truth.score_samples(some) - log_density(network, some)))
        report("tutorial", step, seconds, divergence, euler(network, n_samples))
    try:
        few_steps = {"max_iter": 80} if args.quick else {}
        density = FlowMatchingDensity(random_state=0, **few_steps).fit(X[:10_000])
        sampling(density, truth, results, n_samples, n_draws)
    except ImportError:
        print("torchdiffeq is not installed: its samples are skipped.")


if __name__ == "__main__":
    main()
