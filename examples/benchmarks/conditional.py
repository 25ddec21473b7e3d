"""Densities given a class, on the tables with classes that scikit-learn ships.

``python -m examples.benchmarks.conditional`` prints the mean log-density of held-out rows given
their class (nats, columns standardised by the training rows) of
``FlowMatchingDensity(conditional=True)`` and of one Gaussian mixture for each class, whose number
of components, form of covariance and ``reg_covar`` are chosen by cross-validation within the class.
Also the share of held-out rows that Bayes' rule classifies rightly with these densities.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split

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


def flow_by_class(X, y, X_test, classes):
    """Log-density (n_test, n_classes) of one flow given each class."""
    flow = FlowMatchingDensity(conditional=True, random_state=0).fit(X, y)
    return np.column_stack([flow.score_samples(X_test, label) for label in classes])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| table | rows | columns | classes | model | nats given the class | right class | s |")
    print("|---" * 8 + "|")
    for name, X, y in tables():
        results = {"flow": [], "mixtures": []}
        for seed in range(args.splits):
            X_train, X_test, y_train, y_test = train_test_split(
                X, y, test_size=0.25, stratify=y, random_state=seed
            )
            centre, scale = X_train.mean(axis=0), X_train.std(axis=0)
            X_train, X_test = (X_train - centre) / scale, (X_test - centre) / scale
            classes, code = np.unique(y_test, return_inverse=True)
            prior = np.log([np.mean(y_train == label) for label in classes])
            for model, function in (("flow", flow_by_class), ("mixtures", mixtures_by_class)):
                start = time.perf_counter()
                given = function(X_train, y_train, X_test, classes)
                right = (given + prior).argmax(axis=1) == code
                likelihood = given[np.arange(len(code)), code]
                seconds = time.perf_counter() - start
                results[model].append((likelihood.mean(), right.mean(), seconds))
        for model, found in results.items():
            nats, right, seconds = np.mean(found, axis=0)
            each = ", ".join(f"{row[0]:.2f}" for row in found)
            print(
                f"| {name} | {len(X)} | {X.shape[1]} | {len(np.unique(y))} | {model} | "
                f"{nats:.3f} ({each}) | {right:.3f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
