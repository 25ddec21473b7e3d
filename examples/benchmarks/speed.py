"""Speed of exact log-densities and of a training step, as ratios.

``python -m examples.benchmarks.speed`` compares, in turn and with one thread, rows per second of
``FlowMatchingDensity.score_samples`` with those of zuko's CNF with its exact trace (same widths,
float32), and the time of a training step with that of its matrix products alone.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch

from skgen import FlowMatchingDensity
from skgen.core.models import Flow
from skgen.core.networks import velocity_network
from skgen.core.paths import LinearPath
from skgen.core.training import Plan, Trainer


def alternate(functions, n_rounds, repeats=1):
    """Median seconds of each function, called in turn."""
    seconds = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(n_rounds):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            times.append((time.perf_counter() - start) / repeats)
    return [float(np.median(times)) for times in seconds]


def mixture_rows(n_rows, n_features, seed):
    """Rows of a mixture of five Gaussians with random centres and axes."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(5, n_features))
    axes = rng.normal(size=(5, n_features, n_features)) / np.sqrt(n_features)
    label = rng.integers(5, size=n_rows)
    noise = rng.normal(size=(n_rows, n_features))
    return centres[label] + np.einsum("nij,nj->ni", axes[label], noise)


def log_densities(n_features, width, max_iter, n_rounds=5):
    """Exact log-densities: skgen (fitted) against zuko (untrained, an easier field)."""
    import zuko

    X = mixture_rows(5000, n_features, 0)
    density = FlowMatchingDensity(
        hidden_layer_sizes=(width, width),
        max_iter=max_iter,
        preconditioning="standardize",
        random_state=0,
    ).fit(X)
    rows, few = X[:1024].astype(np.float32), X[:64].astype(np.float32)
    peer = zuko.flows.CNF(n_features, hidden_features=(width, width), exact=True)

    def peer_log_prob():
        with torch.no_grad():
            peer().log_prob(torch.from_numpy(few))

    ours, theirs = alternate([lambda: density.score_samples(rows), peer_log_prob], n_rounds)
    fine = density.score_samples(rows.astype(np.float64))
    error = np.abs(density.score_samples(rows) - fine)
    density.module_.components[0].model.tolerance = 1e-6
    reference = density.score_samples(rows.astype(np.float64))
    error = np.abs(density.score_samples(rows[:1024]) - reference)
    rates = len(rows) / ours, len(few) / theirs
    print(
        f"d={n_features}, width {width}: skgen {rates[0]:,.0f} rows/s, zuko CNF exact "
        f"{rates[1]:,.0f} rows/s, ratio {rates[0] / rates[1]:.1f}; error of skgen: mean "
        f"{error.mean():.1e}, worst {error.max():.1e} nats",
        flush=True,
    )


def training_step(n_features, width, batch_size, n_rounds=60):
    """A whole gradient step against its matrix products."""
    generator, path = torch.Generator().manual_seed(0), LinearPath()
    network = velocity_network(n_features, (width, width), "silu", path, generator)
    model = Flow(network, path, n_features, "rk4", 8, 0)
    rows = torch.randn(5000, n_features, generator=generator)
    plan = Plan(10**6, batch_size, 3e-3, 1e-4, 0, 10, 10**6)
    from tqdm import tqdm

    trainer = Trainer(model, rows, None, plan, generator, tqdm(disable=True))
    n_inputs = len(network.weight_in)
    inputs, pre = torch.randn(batch_size, n_inputs), torch.randn(batch_size, 2 * width)
    layer, weight_in = torch.randn(batch_size, width), torch.randn(n_inputs, 2 * width)
    hidden, out = torch.randn(width, width), torch.randn(n_features, width)
    grad = torch.randn(batch_size, n_features)

    def products():
        inputs @ weight_in, layer @ hidden.T, layer @ out.T  # forward
        grad @ out, grad.T @ layer, layer @ hidden, layer.T @ layer, inputs.T @ pre  # backward

    step, alone = alternate([trainer._step, products], n_rounds, repeats=20)
    print(
        f"training step, d={n_features}, width {width}, batch {batch_size}: {1e6 * step:.0f} us, "
        f"its matrix products {1e6 * alone:.0f} us, ratio {step / alone:.2f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    for width, batch_size in [(128, 512), (128, 1024), (256, 512)]:
        training_step(10, width, batch_size)
    for n_features in (10, 50):
        log_densities(n_features, width=256, max_iter=1500)


if __name__ == "__main__":
    main()
