"""What optimal-transport coupling and reflow do to the ways of a flow.

``python -m examples.benchmarks transport`` fits flows with independent and with optimal-transport
coupling to known densities, straightens each by `reflow`, and prints the straightness of their
ways, the log-density of fresh rows, and how far samples by few steps of Euler's method are from the
exact solution from the same noise (root mean square, in standard deviations of the data).
"""

from __future__ import annotations

import numpy as np

from examples.benchmarks.common import Results, parser, set_threads
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


def main(argv=None):
    options = parser(__doc__, "transport")
    options.add_argument("--max-iter", type=int, default=6000)
    args = options.parse_args(argv)
    set_threads(args.threads)
    results = Results(args, {"straightness": ".4f"})
    truths = (EightGaussians(), TwoMoons(), Checkerboard())
    n, max_iter, reflow = 10_000, args.max_iter, {}
    if args.quick:
        n, max_iter, reflow = 2_000, 300, {"n_samples": 2_000, "max_iter": 200}
    for truth in truths[:1] if args.quick else truths:
        X, fresh = truth.sample(n, random_state=0), truth.sample(n, random_state=1)
        for coupling in ("independent", "optimal_transport"):
            flow = FlowMatchingDensity(
                coupling=coupling,
                max_iter=max_iter,
                preconditioning="standardize",
                random_state=0,
            ).fit(X)
            for flows in (coupling, f"{coupling}, reflow"):
                if flows != coupling:
                    flow.reflow(**reflow)
                results.add(
                    density=type(truth).__name__,
                    coupling=flows,
                    straightness=float(flow.straightness(random_state=0)),
                    **{"held-out nats": float(flow.score(fresh))},
                    **dict(zip([f"{k} steps" for k in STEPS], errors(flow, X), strict=True)),
                )


if __name__ == "__main__":
    main()
