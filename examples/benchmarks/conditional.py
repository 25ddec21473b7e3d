"""Densities given a class, on the tables with classes that scikit-learn ships.

``python -m examples.benchmarks conditional`` prints the mean log-density of held-out rows given
their class (nats, columns standardised by the training rows) of
``FlowMatchingDensity(conditional=True)`` and of one Gaussian mixture for each class, whose number
of components, form of covariance and ``reg_covar`` are chosen by cross-validation within the class.
Also the share of held-out rows that Bayes' rule classifies rightly with these densities.
"""

from __future__ import annotations

import time
import warnings
from functools import partial

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split

from examples.benchmarks.common import Results, parser, set_threads
from skgen import FlowMatchingDensity

GRID = {
    "n_components": [1, 2, 3, 4],
    "covariance_type": ["full", "tied", "diag", "spherical"],
    "reg_covar": [1e-6, 1e-3, 1e-2, 1e-1],
}


def tables():
    """Name, rows and classes; the grey levels of digits with noise of one level."""
    X, y = load_digits(return_X_y=True)
    yield "digits", X + np.random.RandomState(0).uniform(size=X.shape), y
    yield "wine", *load_wine(return_X_y=True)
    yield "breast_cancer", *load_breast_cancer(return_X_y=True)


def mixtures_by_class(X, y, X_test, classes):
    """Log-density (n_test, n_classes) of the mixture of each class."""
    found = []
    for label in classes:
        search = GridSearchCV(GaussianMixture(random_state=0), GRID, cv=5)
        found.append(search.fit(X[y == label]).score_samples(X_test))
    return np.column_stack(found)


def flow_by_class(X, y, X_test, classes, **options):
    """Log-density (n_test, n_classes) of one flow given each class."""
    flow = FlowMatchingDensity(conditional=True, random_state=0, **options).fit(X, y)
    return np.column_stack([flow.score_samples(X_test, label) for label in classes])


def main(argv=None):
    options = parser(__doc__, "conditional")
    options.add_argument("--splits", type=int, default=3)
    args = options.parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    table = Results(args, {"nats of each split": ".2f", "s": ".0f"})
    flow = partial(flow_by_class, max_iter=200) if args.quick else flow_by_class
    for name, X, y in tables():
        if args.quick and name == "digits":
            continue
        results = {"flow": [], "mixtures": []}
        for seed in range(1 if args.quick else args.splits):
            X_train, X_test, y_train, y_test = train_test_split(
                X, y, test_size=0.25, stratify=y, random_state=seed
            )
            centre, scale = X_train.mean(axis=0), X_train.std(axis=0)
            X_train, X_test = (X_train - centre) / scale, (X_test - centre) / scale
            classes, code = np.unique(y_test, return_inverse=True)
            prior = np.log([np.mean(y_train == label) for label in classes])
            for model, function in (("flow", flow), ("mixtures", mixtures_by_class)):
                start = time.perf_counter()
                given = function(X_train, y_train, X_test, classes)
                right = (given + prior).argmax(axis=1) == code
                likelihood = given[np.arange(len(code)), code]
                seconds = time.perf_counter() - start
                results[model].append((likelihood.mean(), right.mean(), seconds))
        for model, found in results.items():
            nats, right, seconds = np.mean(found, axis=0).tolist()
            table.add(
                **{
                    "table": name,
                    "rows": len(X),
                    "columns": X.shape[1],
                    "classes": len(np.unique(y)),
                    "model": model,
                    "nats given the class": nats,
                    "nats of each split": [float(row[0]) for row in found],
                    "right class": right,
                    "s": seconds,
                }
            )


if __name__ == "__main__":
    main()
