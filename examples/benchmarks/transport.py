"""What optimal-transport coupling and reflow do to the ways of a flow.

``python -m examples.benchmarks.transport`` fits flows with independent and with optimal-transport
coupling to known densities, straightens each by `reflow`, and prints the straightness of their
ways, the log-density of fresh rows, and how far samples by few steps of Euler's method are from the
exact solution from the same noise (root mean square, in standard deviations of the data).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from skgen import FlowMatchingDensity
from skgen.datasets import Checkerboard, EightGaussians, TwoMoons

STEPS = (1, 2, 4, 8, 16, 32, 64)


def errors(flow, X, n_samples=2000):
    """Root mean square distance to the exact solution for each number of steps."""
    exact = flow.sample_trajectory(n_samples, random_state=0, n_steps=256)[-1]
    found = []
    for n_steps in STEPS:
        few = flow.sample_trajectory(
            n_samples, random_state=0, sampler="euler", n_steps=n_steps, time_grid="uniform"
        )[-1]
        found.append(float(np.sqrt((((few - exact) / X.std(axis=0)) ** 2).mean())))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--max-iter", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| density | coupling | straightness | held-out nats | "
          + " | ".join(f"{n} steps" for n in STEPS) + " |")  # fmt: skip
    print("|---" * (4 + len(STEPS)) + "|")
    for truth in (EightGaussians(), TwoMoons(), Checkerboard()):
        X, fresh = truth.sample(10_000, random_state=0), truth.sample(10_000, random_state=1)
        for coupling in ("independent", "optimal_transport"):
            flow = FlowMatchingDensity(
                coupling=coupling,
                max_iter=args.max_iter,
                preconditioning="standardize",
                random_state=0,
            ).fit(X)
            for flows in (coupling, f"{coupling}, reflow"):
                if flows != coupling:
                    flow.reflow()
                cells = [
                    type(truth).__name__,
                    flows,
                    f"{flow.straightness(random_state=0):.4f}",
                    f"{flow.score(fresh):.3f}",
                    *(f"{error:.3f}" for error in errors(flow, X)),
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
