"""Rows with missing values, completed by skgen and by scikit-learn's imputer.

``python -m examples.benchmarks.completion --data DIR`` takes every ``.npz`` file of a folder with
arrays ``train`` and ``test``, deletes half of the values of up to 1,000 test rows at random, has
each method complete them, and prints two energy distances of the completed rows, in columns
standardised by the training rows: to as many other rows of the test, if it has at least 1,000, and
to the same rows before the deletion; and in brackets the seconds of fit and completion. The
distance is 0 if and only if two distributions are the same; its square is estimated with all pairs,
so the first is not 0 for the true rows either ("truth"). The imputers see the training rows and
those to complete at once, as they are made for; they and the densities have their defaults.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.preprocessing import StandardScaler

from skgen import FlowMatchingDensity, RealNVPDensity
from skgen.metrics import energy_distance

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


def split(test, rng):
    """Rows to complete, and others to compare them with, none if there are few."""
    test = rng.permutation(test)
    half = len(test) // 2
    if half < N_ROWS // 2:
        return test[:N_ROWS], None
    return test[:half][:N_ROWS], test[half:][:N_ROWS]


def run(path, names, seed):
    """Cells of one table's line."""
    data, rng = np.load(path), np.random.default_rng(seed)
    rows, others = split(data["test"], rng)
    partial = np.where(rng.random(rows.shape) < 0.5, np.nan, rows)
    scale = StandardScaler().fit(data["train"]).transform

    def distances(completed):
        to_others = "-"
        if others is not None:
            to_others = f"{energy_distance(scale(completed), scale(others)):.3f}"
        return f"{to_others}, {energy_distance(scale(completed), scale(rows)):.3f}"

    cells = [str(len(rows)), distances(rows)]
    for name in names:
        start = time.perf_counter()
        completed = METHODS[name](data["train"], partial, seed)
        seconds = time.perf_counter() - start
        cells.append(f"{distances(completed)} ({seconds:.0f})")
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
    print("| " + " | ".join(["set", "rows", "truth", *args.only]) + " |")
    print("|---" * (3 + len(args.only)) + "|")
    for path in sorted(args.data.glob("*.npz")):
        if not args.tables or path.stem in args.tables:
            cells = run(path, args.only, args.seed)
            print(f"| {path.stem} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
