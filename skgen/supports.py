"""Declared supports of columns: with bounds, on circles, of whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from sklearn.base import BaseEstimator
from torch import Tensor

from .core.supports import outside
from .rows import describe_columns

Intervals = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Supports:
    """Declared columns by position; an open bound is infinite.

    Bounds of a discrete column are those of its unit intervals: the upper one is one more.
    """

    bounds: Intervals
    circles: Intervals
    discrete: list[int]


def declared_supports(estimator: Any) -> Supports:
    """Parameters ``bounds``, ``periodic`` and ``discrete`` of an estimator that knows its columns.

    Raises
    ------
    ValueError
        If they do not fit the columns or each other.
    """
    bounds, circles = _intervals(estimator, "bounds"), _intervals(estimator, "periodic")
    columns = () if estimator.discrete is None else estimator.discrete
    discrete = sorted(_columns(estimator, "discrete", columns))
    for j in bounds.keys() & circles.keys():
        column = describe_columns(estimator, [j])
        raise ValueError(f"Column {column} is in bounds and in periodic; it can have one of them.")
    for j in discrete:
        for name, intervals in (("bounds", bounds), ("periodic", circles)):
            if any(math.isfinite(end) and end % 1 for end in intervals.get(j, ())):
                raise ValueError(
                    f"Column {describe_columns(estimator, [j])} is discrete, so its {name} must be "
                    f"whole numbers, got {intervals[j]}."
                )
    bounds = {j: (low, high + (j in discrete)) for j, (low, high) in bounds.items()}
    bounds = {j: ends for j, ends in bounds.items() if ends != (-math.inf, math.inf)}
    return Supports(bounds, circles, discrete)


def check_supported(estimator: BaseEstimator, supports: Supports, x: Tensor) -> None:
    """Raise ValueError, naming the column and a value, if rows contradict the declaration."""
    for j in supports.discrete:
        broken = x[x[:, j] != x[:, j].floor(), j]
        if len(broken):
            raise ValueError(
                f"Column {describe_columns(estimator, [j])} is discrete, so it must hold whole "
                f"numbers, got {float(broken[0])}."
            )
    for j, (low, high) in supports.bounds.items():
        last = high - (j in supports.discrete)
        beyond = x[outside(x[:, j], low, last), j]
        if len(beyond):
            raise ValueError(
                f"Column {describe_columns(estimator, [j])} of X must be within its bounds "
                f"({low}, {last}), got {float(beyond[0])}."
            )


def _intervals(estimator: Any, name: str) -> Intervals:
    """Positions of columns and their intervals, an end that is None replaced by infinity."""
    declared: Mapping[Any, Any] = getattr(estimator, name) or {}
    intervals = {}
    for j, column in _columns(estimator, name, declared).items():
        pair = declared[column]
        ends = tuple(pair) if isinstance(pair, Iterable) else ()
        if len(ends) != 2 or not all(end is None or isinstance(end, Real) for end in ends):
            raise ValueError(
                f"{name} of column {column!r} must be a pair of numbers (low, high), got {pair!r}."
            )
        low = -math.inf if ends[0] is None else float(ends[0])
        high = math.inf if ends[1] is None else float(ends[1])
        if name == "periodic" and math.isinf(high - low):
            raise ValueError(f"periodic of column {column!r} must have two ends, got {pair!r}.")
        if not low < high:
            raise ValueError(f"{name} of column {column!r} must have low < high, got {pair!r}.")
        intervals[j] = (low, high)
    return intervals


def _columns(estimator: Any, name: str, columns: Iterable[Any]) -> dict[int, Any]:
    """Positions of columns given by position or name, each with what it was given by."""
    n_features = estimator.n_features_in_
    names = list(getattr(estimator, "feature_names_in_", []))
    found: dict[int, Any] = {}
    for column in columns:
        j = names.index(column) if column in names else column
        if not isinstance(j, Integral) or isinstance(j, bool) or int(j) not in range(n_features):
            wanted = f"a position from 0 to {n_features - 1}"
            wanted += f" or one of the names {names}" if names else "; X has no column names"
            raise ValueError(f"{name} has the column {column!r}; it must be {wanted}.")
        if int(j) in found:
            raise ValueError(f"{name} has column {describe_columns(estimator, [int(j)])} twice.")
        found[int(j)] = column
    return found
