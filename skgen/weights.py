"""Weights of rows, and the copies of rows that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from .core.interfaces import runs
from .rows import LARGEST

COPIES = 4  # of a row, on average, that fractional weights stand for
MOST_COPIES = 2_000_000  # in all, that whole weights may stand for


def check_weights(
    sample_weight: Any, X: np.ndarray, least: int = 2, name: str = "sample_weight"
) -> np.ndarray:
    """Weights of rows as float64; refuses them unless some, two for training, are positive.

    They are in units of the largest where sums of them or their inverses may not be finite.
    """
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if (weight > 0).sum() < least:
        raise ValueError(
            f"{name} is positive for {(weight > 0).sum()} row(s); at least {least} are needed."
        )
    largest = weight.max()
    return weight if 1 / LARGEST <= largest <= LARGEST else weight / largest


def weighted_mean(values: np.ndarray, sample_weight: Any) -> float:
    """Mean as a Python float, of the values that have a weight; refuses weights that do not fit."""
    values = values.astype(np.float64)
    if sample_weight is None:
        return float(values.mean())
    weight = check_weights(sample_weight, values[:, None], least=1)
    return float(np.average(values[weight > 0], weights=weight[weight > 0]))


def as_frequencies(X: np.ndarray, sample_weight: Any) -> np.ndarray:
    """Indices of the rows in lexicographic order, each as often as its weight says.

    With that, a weight k is exactly the same as k copies, and the order of the rows of X has no
    influence. Fractional weights, and whole ones that make more than `MOST_COPIES`, are scaled to
    `COPIES` a row on average and rounded systematically: the number of copies of any run of rows is
    off by less than one.
    """
    order = np.lexsort(X.T[::-1])
    if sample_weight is None:
        return order
    weight = np.asarray(sample_weight, dtype=np.float64)[order]
    most = max(MOST_COPIES, COPIES * len(weight))
    if (weight != weight.round()).any() or weight.sum() > most:
        weight = weight * (COPIES * len(weight) / weight.sum())
    ends = np.cumsum(weight)
    copies = np.searchsorted(ends, np.arange(round(ends[-1])) + 0.5)
    return order[np.minimum(copies, len(order) - 1)]


def n_distinct(rows: Tensor) -> int:
    """Number of rows, copies that follow one another counted once."""
    return int(runs(rows)[-1]) + 1
