"""What stacks and their members share: rows and log-densities of mixtures, standardised columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from .base import MeanScoreMixin, draw_rows


class Mean(MeanScoreMixin, BaseEstimator):
    """Mean of the densities of estimators fitted to different rows."""

    def __init__(self, estimators_):
        self.estimators_ = estimators_

    def score_samples(self, X):
        columns = log_densities(self.estimators_, X)
        with np.errstate(over="ignore"):
            return logsumexp(columns, axis=1) - np.log(len(self.estimators_))

    def sample(self, n_samples=1, random_state=None):
        weights = np.full(len(self.estimators_), 1 / len(self.estimators_))
        return draw(self.estimators_, weights, n_samples, check_random_state(random_state))


class Standardized(MeanScoreMixin, BaseEstimator):
    """A density estimator fitted to standardised columns, with densities in the units of X."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y=None, sample_weight=None):
        self.scaler_ = StandardScaler().fit(X, sample_weight=sample_weight)
        rows = self.scaler_.transform(X)
        self.estimator_ = clone(self.estimator).fit(rows, sample_weight=sample_weight)
        self.interrupted_ = getattr(self.estimator_, "interrupted_", False)
        return self

    def score_samples(self, X):
        log_det = -np.log(self.scaler_.scale_).sum()
        return self.estimator_.score_samples(self.scaler_.transform(X)) + log_det

    def sample(self, n_samples=1, random_state=None):
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return self.scaler_.inverse_transform(draw_rows(self.estimator_, n_samples, seed))


def draw(members: Iterable, weights: np.ndarray, n_samples: int, rng: Any) -> np.ndarray:
    """Rows of a mixture: first the member of each, then the row."""
    parts = [
        draw_rows(member, int(count), int(rng.randint(2**31 - 1)))
        for member, count in zip(members, rng.multinomial(n_samples, weights), strict=True)
        if count
    ]
    return rng.permutation(np.concatenate(parts))


def log_densities(members: Iterable, X: np.ndarray) -> np.ndarray:
    """Log-density of rows under each member (n, K); not a number counts as -infinity."""
    columns = np.column_stack([member.score_samples(X) for member in members])
    return np.nan_to_num(columns.astype(np.float64), nan=-np.inf, posinf=-np.inf, neginf=-np.inf)
