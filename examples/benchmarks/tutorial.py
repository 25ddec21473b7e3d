"""How soon skgen reaches the quality of a tutorial's flow, and how fast it draws samples.

``python -m examples.benchmarks tutorial`` trains a flow on eight Gaussians as tutorials do (three
layers of 512 ReLU units, 5,000 steps of 2,500 fresh rows, Adam at 2e-3 that falls to 0.6 of it
every 1,500 steps), then ``FlowMatchingDensity`` with more and more gradient steps on 50,000 rows,
and prints for each the seconds of the processor, KL(truth || fit) of exact log-densities of fresh
rows, and the energy distance and the area under the ROC curve of boosted trees (0.5: alike) of
20,000 samples, which the tutorial draws by 80 steps of Euler's method. Then it times 20,000 samples
of one fitted flow by skgen and, on the same network, by torchdiffeq's dopri5 at three tolerances.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from examples.benchmarks.known import two_sample_auc
from skgen import FlowMatchingDensity
from skgen.datasets import EightGaussians

N_SAMPLES = 20_000


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


def energy_distance(X, Y):
    """Distance of two samples of many rows, from 5,000 of each."""
    from scipy.spatial.distance import cdist

    X, Y = X[:5000], Y[:5000]
    squared = 2 * cdist(X, Y).mean() - cdist(X, X).mean() - cdist(Y, Y).mean()
    return float(np.sqrt(max(squared, 0)))


def report(name, n_steps, seconds, divergence, samples, fresh):
    print(
        f"| {name} | {n_steps} | {seconds:.1f} | {divergence:.4f} | "
        f"{energy_distance(fresh, samples):.4f} | {two_sample_auc(fresh, samples):.3f} |",
        flush=True,
    )


def sampling(density, truth, fresh):
    """Samples of one network by skgen and by dopri5."""
    from torchdiffeq import odeint

    print("\n| samples by | seconds | energy distance | AUC |\n|---|---|---|---|", flush=True)

    def line(name, draw):
        draw()
        found = [clock(draw) for _ in range(3)]
        samples, seconds = found[0][0], np.median([s for _, s in found])
        print(
            f"| {name} | {seconds:.2f} | {energy_distance(fresh, samples):.4f} | "
            f"{two_sample_auc(fresh, samples):.3f} |",
            flush=True,
        )

    line("skgen", lambda: density.sample(N_SAMPLES, random_state=3))
    for n_steps in (8, 16):
        line(
            f"skgen, heun, {n_steps} steps",
            lambda n_steps=n_steps: density.sample(
                N_SAMPLES, random_state=3, sampler="heun", n_steps=n_steps
            ),
        )
    flow, bijection = density._model, density._density.bijection
    field = flow.network.field(torch.float32)

    @torch.no_grad()
    def velocity(t, x):
        return field(float(t), x)[0] + flow.straight.gaussian_gain(t) * x

    for tolerance in (1e-3, 1e-4, 1e-5):

        @torch.no_grad()
        def dopri5(tolerance=tolerance):
            noise = torch.randn(N_SAMPLES, 2, generator=torch.Generator().manual_seed(3))
            options = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
            ends = odeint(velocity, noise, torch.tensor([0.0, 1.0]), **options)
            return bijection.inverse(ends[-1].double()).numpy()

        line(f"torchdiffeq, dopri5, tolerance {tolerance:g}", dopri5)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    share = 50 if args.quick else 1
    truth = EightGaussians()
    X, fresh = truth.sample(50_000, random_state=0), truth.sample(N_SAMPLES, random_state=1)
    floor = truth.sample(N_SAMPLES, random_state=2)
    print("| flow | gradient steps | seconds | KL, nats | energy distance | AUC |")
    print("|---|---|---|---|---|---|")
    report("truth", "", 0, 0, floor, fresh)
    for n_steps in (250, 500, 1000, 2000, 4000):
        density, seconds = clock(
            lambda n_steps=n_steps: FlowMatchingDensity(
                max_iter=n_steps // share, random_state=0
            ).fit(X)
        )
        divergence = truth.score(fresh) - density.score(fresh)
        samples = density.sample(N_SAMPLES, random_state=3)
        report("skgen", density.n_iter_, seconds, divergence, samples, fresh)
    sampling(density, truth, fresh)
    print("\n| flow | gradient steps | seconds | KL, nats | energy distance | AUC |")
    print("|---|---|---|---|---|---|")
    marks = [step // share for step in (1000, 2500, 5000)]
    for step, network, seconds in train(truth, 5000 // share, marks):
        divergence = np.mean(truth.score_samples(fresh[:2000]) - log_density(network, fresh[:2000]))
        report("tutorial", step, seconds, divergence, euler(network, N_SAMPLES), fresh)


if __name__ == "__main__":
    main()
