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
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from skgen import FlowMatchingDensity, RealNVPDensity
from skgen.datasets import Checkerboard, EightGaussians, TwoMoons


def integral(density, rows, n_cells=300, margin=0.15):
    """Integral by the midpoint rule over the range of the rows and a margin."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    width = (high - low) / n_cells
    axes = [low[j] + width[j] * (np.arange(n_cells) + 0.5) for j in range(2)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype(np.float32)
    return float(np.exp(density.score_samples(grid).astype(np.float64)).sum() * width.prod())


def two_sample_auc(real, fake):
    """Cross-validated AUC of boosted trees that tell two samples apart."""
    X = np.concatenate([real, fake])
    y = np.repeat([0, 1], [len(real), len(fake)])
    trees = HistGradientBoostingClassifier(random_state=0)
    return float(cross_val_score(trees, X, y, cv=3, scoring="roc_auc").mean())


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
        auc = two_sample_auc(fresh, density.sample(20_000, random_state=2))
        print(
            f"| {kind.__name__} | {type(truth).__name__} | {divergence:.4f} | {seconds:.0f} | "
            f"{integral(density, X):.4f} | {auc:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
