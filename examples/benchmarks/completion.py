"""Rows with missing values, completed by skgen and by scikit-learn's imputer.

``python -m examples.benchmarks.completion --data DIR`` takes every ``.npz`` file of a folder with
arrays ``train`` and ``test``, deletes half of the values of up to 1,000 test rows at random, has
each method complete them, and prints the energy distance between the completed rows and as many
true ones, in columns standardised by the training rows, with seconds of fit and completion in
brackets. It is 0 if and only if the distributions are the same; its square is estimated with all
pairs. The true rows are other rows of the test where it has 1,000, so that "truth", the rows before
the deletion, is not at 0 either; elsewhere they are the same rows. The imputers see the training
rows and those to complete at once, as they are made for; they and the densities have defaults.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.preprocessing import StandardScaler

from skgen import FlowMatchingDensity, RealNVPDensity

N_ROWS = 1000


def imputer(sample_posterior):
    def complete(train, partial, seed):
        fresh = IterativeImputer(sample_posterior=sample_posterior, random_state=seed)
        return fresh.fit_transform(np.concatenate([train, partial]))[len(train) :]

    return complete


def density(make):
    return lambda train, partial, seed: make(random_state=seed).fit(train).sample_given(partial)


METHODS = {
    "IterativeImputer": imputer(sample_posterior=False),
    "IterativeImputer, sample_posterior": imputer(sample_posterior=True),
    "FlowMatchingDensity": density(FlowMatchingDensity),
    "RealNVPDensity": density(RealNVPDensity),
}


def energy_distance(X, Y):
    """Distance of the distributions of the rows of X and Y (standardised units)."""
    squared = 2 * cdist(X, Y).mean() - cdist(X, X).mean() - cdist(Y, Y).mean()
    return float(np.sqrt(max(squared, 0)))


def rows_of(test, rng):
    """Rows to complete, true rows to compare with, and whether these are others."""
    test = rng.permutation(test)
    half = len(test) // 2
    if half < N_ROWS // 2:
        return test[:N_ROWS], test[:N_ROWS], False
    return test[:half][:N_ROWS], test[half:][:N_ROWS], True


def run(path, names, seed):
    """Cells of one table's line."""
    data, rng = np.load(path), np.random.default_rng(seed)
    train = data["train"]
    rows, true, others = rows_of(data["test"], rng)
    partial = np.where(rng.random(rows.shape) < 0.5, np.nan, rows)
    scale = StandardScaler().fit(train).transform
    true = scale(true)
    cells = [f"{len(rows)} {'other' if others else 'same'}"]
    cells.append(f"{energy_distance(scale(rows), true):.3f}")
    for name in names:
        start = time.perf_counter()
        completed = METHODS[name](train, partial, seed)
        seconds = time.perf_counter() - start
        cells.append(f"{energy_distance(scale(completed), true):.3f} ({seconds:.0f})")
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz tables")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tables", nargs="*", help="names of tables; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    print("| " + " | ".join(["set", "rows, true rows", "truth", *args.only]) + " |")
    print("|---" * (3 + len(args.only)) + "|")
    for path in sorted(args.data.glob("*.npz")):
        if not args.tables or path.stem in args.tables:
            cells = run(path, args.only, args.seed)
            print(f"| {path.stem} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
