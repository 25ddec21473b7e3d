"""Flows on densities that are known exactly.

``python -m examples.benchmarks known`` fits ``FlowMatchingDensity()`` and ``RealNVPDensity()`` to
10,000 rows of each and prints KL(truth || fit) on fresh rows, the seconds of the fit, the integral
of the fitted density over a fine grid, and the area under the ROC curve of boosted trees that are
to tell samples of the fit from samples of the truth (0.5: they cannot).
"""

from __future__ import annotations

import time
import warnings
from itertools import product

import numpy as np
from sklearn.model_selection import StratifiedKFold

from examples.benchmarks.common import Results, parser, set_threads
from skgen import FlowMatchingDensity, RealNVPDensity
from skgen.datasets import Checkerboard, EightGaussians, TwoMoons
from skgen.metrics import classifier_two_sample_test


def integral(density, rows, n_cells=300, margin=0.15):
    """Integral by the midpoint rule over the range of the rows and a margin."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    width = (high - low) / n_cells
    axes = [low[j] + width[j] * (np.arange(n_cells) + 0.5) for j in range(2)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype(np.float32)
    return float(np.exp(density.score_samples(grid).astype(np.float64)).sum() * width.prod())


def main(argv=None):
    args = parser(__doc__, "known").parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    results = Results(args, {"KL (nats)": ".4f", "fit (s)": ".0f", "integral": ".4f"})
    truths = (EightGaussians(), TwoMoons(), Checkerboard())
    n, options = (2_000, {"max_iter": 300}) if args.quick else (10_000, {})
    for kind, truth in product((FlowMatchingDensity, RealNVPDensity), truths):
        X, fresh = truth.sample(n, random_state=0), truth.sample(2 * n, random_state=1)
        start = time.perf_counter()
        density = kind(random_state=0, **options).fit(X)
        seconds = time.perf_counter() - start
        fake = density.sample(2 * n, random_state=2)
        auc = classifier_two_sample_test(fresh, fake, cv=StratifiedKFold(3), random_state=0)
        results.add(
            **{
                "estimator": kind.__name__,
                "density": type(truth).__name__,
                "KL (nats)": float(truth.score(fresh) - density.score(fresh)),
                "fit (s)": seconds,
                "integral": integral(density, X, 100 if args.quick else 300),
                "AUC": auc,
            }
        )


if __name__ == "__main__":
    main()
