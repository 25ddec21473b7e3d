"""Flows on densities that are known exactly.

``python -m examples.benchmarks.known`` fits ``FlowMatchingDensity()`` and ``RealNVPDensity()`` to
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


def main():
    warnings.simplefilter("ignore")
    print(
        "| estimator | density | KL (nats) | fit (s) | integral | AUC |\n|---|---|---|---|---|---|"
    )
    truths = (EightGaussians(), TwoMoons(), Checkerboard())
    for kind, truth in product((FlowMatchingDensity, RealNVPDensity), truths):
        X, fresh = truth.sample(10_000, random_state=0), truth.sample(20_000, random_state=1)
        start = time.perf_counter()
        density = kind(random_state=0).fit(X)
        seconds = time.perf_counter() - start
        divergence = truth.score(fresh) - density.score(fresh)
        fake = density.sample(20_000, random_state=2)
        auc = classifier_two_sample_test(fresh, fake, cv=StratifiedKFold(3), random_state=0)
        print(
            f"| {kind.__name__} | {type(truth).__name__} | {divergence:.4f} | {seconds:.0f} | "
            f"{integral(density, X):.4f} | {auc:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
