"""The generators whose samples are compared, ours with their defaults and peers as others use them.

Every generator is a function ``fit(X, settings) -> sample(n)`` on standardised rows.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from torch import nn

from examples.benchmarks.peers import tuned_mixture
from skgen import DDPMGenerator, FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.compose import StackedDensity


@dataclass
class Settings:
    """What one run is made with."""

    seed: int = 0
    quick: bool = False
    threads: int = 1
    forest_seconds: float = 150.0


def ours(estimator, **quick):
    """Estimator of skgen; ``quick`` are the parameters of a quick run."""

    def fit(X, settings):
        fresh = clone(estimator)
        if "random_state" in fresh.get_params():
            fresh.set_params(random_state=settings.seed)
        if settings.quick:
            fresh.set_params(**quick)
        fresh.fit(X)
        return lambda n: fresh.sample(n, random_state=settings.seed + 1)

    return fit


def mixture(X, settings):
    """Gaussian mixture of scikit-learn, tuned on a hold-out."""
    fitted = tuned_mixture(GaussianMixture)(X, settings.seed).set_params(
        random_state=settings.seed + 1
    )
    return lambda n: fitted.sample(n)[0]


def flow_matching_network(X, settings):
    """Flow matching as in the tutorials of torchcfm: noise and rows paired at random.

    Three hidden layers of 64 with SELU, Adam 1e-3, 20,000 batches of 256 rows, 100 Euler steps.
    """
    torch.manual_seed(settings.seed)
    X = torch.tensor(X, dtype=torch.float32)
    k, width = X.shape[1], 64
    layers = [nn.Linear(k + 1, width), nn.SELU()]
    layers += [nn.Linear(width, width), nn.SELU(), nn.Linear(width, width), nn.SELU()]
    velocity = nn.Sequential(*layers, nn.Linear(width, k))
    optimiser = torch.optim.Adam(velocity.parameters(), lr=1e-3)
    for _ in range(50 if settings.quick else 20_000):
        rows = X[torch.randint(len(X), (256,))]
        noise, t = torch.randn_like(rows), torch.rand(256, 1)
        x = (1 - t) * noise + t * rows
        loss = ((velocity(torch.cat([x, t], dim=1)) - (rows - noise)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def sample(n):
        x = torch.randn(n, k)
        for step in range(100):
            x = x + velocity(torch.cat([x, torch.full((n, 1), step / 100)], dim=1)) / 100
        return x.double().numpy()

    return sample


def forest_flow(X, settings):
    """ForestFlow of ForestDiffusion: boosted trees for each column at each of 50 times.

    Its defaults, but fewer copies of the rows (100 down to 10), then fewer trees (100 down to 5),
    where trials of a few trees at two times say that the fit would take longer than allowed.
    """
    from ForestDiffusion import ForestDiffusionModel

    def fit(**sizes):
        return ForestDiffusionModel(
            X, n_jobs=1, nthread=settings.threads, seed=settings.seed, **sizes
        )

    def trial(trees):
        start = time.perf_counter()
        model = fit(n_t=2, duplicate_K=10, n_estimators=trees)
        return model, time.perf_counter() - start

    model, _ = trial(1)  # the first is slower
    if not settings.quick:
        (_, few), (_, more) = trial(5), trial(15)
        a_tree, budget = max(more - few, 1e-6) / 10, settings.forest_seconds / 25
        without_trees = max(few - 5 * a_tree, 0)
        trees = np.clip((budget - without_trees) / a_tree, 5, 100)
        copies = 10 * np.clip(budget / (without_trees + 100 * a_tree), 1, 10)
        model = fit(n_t=50, duplicate_K=int(copies), n_estimators=int(trees))

    def sample(n):
        np.random.seed(settings.seed + 1)  # noqa: NPY002 (the generator that it uses)
        return model.generate(batch_size=n)

    sample.note = f"{model.duplicate_K} copies, {model.n_estimators} trees"
    return sample


FEW = 40  # gradient steps of a quick run
GENERATORS = {
    "GaussianMLE": ours(GaussianMLE()),
    "FlowMatchingDensity": ours(FlowMatchingDensity(), max_iter=FEW),
    "RealNVPDensity": ours(RealNVPDensity(), max_iter=FEW),
    "DDPMGenerator": ours(DDPMGenerator(), max_iter=FEW, n_timesteps=50),
    "StackedDensity": ours(
        StackedDensity(),
        estimators=[
            ("mixture", GaussianMixture(4)),
            ("flow", FlowMatchingDensity(max_iter=FEW)),
        ],
    ),
    "GaussianMixture": mixture,
    "ForestFlow": forest_flow,
    "flow matching (MLP)": flow_matching_network,
}
NEEDS = {"ForestFlow": "ForestDiffusion"}


def missing(name):
    """Package that a generator needs and that is not installed, or None."""
    package = NEEDS.get(name)
    return package if package and importlib.util.find_spec(package) is None else None
