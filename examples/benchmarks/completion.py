"""Rows with missing values, completed by skgen and by scikit-learn's imputer.

``python -m examples.benchmarks completion`` takes the sets of the benchmark of densities, with
``--data DIR`` also every ``.npz`` file of a folder with arrays ``train`` and ``test``, deletes half
of the values of up to 1,000 test rows at random, has each method complete them, and prints two
energy distances of the completed rows, in columns standardised by the training rows: to as many
other rows of the test, if it has at least 1,000, and to the same rows before the deletion; and the
seconds of fit and completion. The distance is 0 if and only if two distributions are the same; its
square is estimated with all pairs, so the first is not 0 for the true rows either ("truth"). The
imputers see the training rows and those to complete at once, as they are made for; they and the
densities have their defaults.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.preprocessing import StandardScaler

from examples.benchmarks.common import Results, data_sets, parser, set_threads
from skgen import FlowMatchingDensity, RealNVPDensity
from skgen.metrics import energy_distance

N_ROWS = 1000


def imputer(sample_posterior):
    def complete(train, partial, seed, **options):
        fresh = IterativeImputer(sample_posterior=sample_posterior, random_state=seed)
        return fresh.fit_transform(np.concatenate([train, partial]))[len(train) :]

    return complete


def density(make):
    def complete(train, partial, seed, **options):
        return make(random_state=seed, **options).fit(train).sample_given(partial)

    return complete


METHODS = {
    "IterativeImputer": imputer(sample_posterior=False),
    "IterativeImputer, sample_posterior": imputer(sample_posterior=True),
    "FlowMatchingDensity": density(FlowMatchingDensity),
    "RealNVPDensity": density(RealNVPDensity),
}


def split(test, rng, n_rows=N_ROWS):
    """Rows to complete, and others to compare them with, none if there are few."""
    test = rng.permutation(test)
    half = len(test) // 2
    if half < n_rows // 2:
        return test[:n_rows], None
    return test[:half][:n_rows], test[half:][:n_rows]


def main(argv=None):
    options = parser(__doc__, "completion", METHODS)
    args = options.parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    results = Results(args, {"seconds": ".0f"})
    n_rows, quick = (50, {"max_iter": 200}) if args.quick else (N_ROWS, {})
    for name, given in data_sets(args.data, args.quick, args.tables).items():
        train, test = given()
        rng = np.random.default_rng(args.seed)
        rows, others = split(test, rng, n_rows)
        partial = np.where(rng.random(rows.shape) < 0.5, np.nan, rows)
        scale = StandardScaler().fit(train).transform
        for method in ["truth", *args.only]:
            start = time.perf_counter()
            completed = rows
            if method != "truth":
                completed = METHODS[method](train, partial, args.seed, **quick)
            seconds = time.perf_counter() - start
            X = scale(completed)
            results.add(
                **{
                    "set": name,
                    "rows": len(rows),
                    "method": method,
                    "to other rows": None if others is None else energy_distance(X, scale(others)),
                    "to the same rows": energy_distance(X, scale(rows)),
                    "seconds": None if method == "truth" else seconds,
                }
            )


if __name__ == "__main__":
    main()
