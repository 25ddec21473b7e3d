"""Rows and columns at the door: what is taken, what is refused and why, and what is given back."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_n_features, check_array, validate_data
from torch import Tensor

LARGEST = 1e150  # sums of squares of larger numbers are not finite


def check_rows(
    estimator: BaseEstimator, X: Any, named: bool = True, *, reset: bool = True, **options: Any
) -> np.ndarray:
    """Rows as an array of finite numbers, float32 if X has it; options are those of scikit-learn.

    Its own message for NaN goes on to recommend classifiers, and those for text name no column.
    Columns are named as those of the fit or not at all, but for rows that are not of its columns.
    """
    X = to_array(X)
    options = {"dtype": [np.float64, np.float32], "ensure_all_finite": False, **options}
    rows: np.ndarray
    try:
        if named:
            rows = validate_data(estimator, X, reset=reset, **options)
        else:
            rows = check_array(X, estimator=estimator, input_name="X", **options)
            _check_n_features(estimator, rows, reset=reset)
    except (TypeError, ValueError):
        refuse_unflattened(X)
        _refuse_other_than_numbers(estimator, X)
        raise
    for name, bad in {"NaN": np.isnan, "infinity": np.isinf}.items():
        if (where := bad(rows)).any():
            columns = describe_columns(estimator, np.flatnonzero(where.any(axis=0)))
            raise ValueError(
                f"X contains {name}, in {where.any(axis=1).sum()} of {len(rows)} rows and "
                f"column(s) {columns}. {type(estimator).__name__} needs finite numbers: drop those "
                "rows or fill them in."
            )
    if reset and max(float(rows.max()), -float(rows.min())) > LARGEST:
        columns = describe_columns(estimator, np.flatnonzero((abs(rows) > LARGEST).any(axis=0)))
        raise ValueError(
            f"X holds values beyond ±{LARGEST:g}, in column(s) {columns}. Divide these by a "
            "constant, or drop the rows."
        )
    return rows if min(rows.strides) >= 0 else rows.copy()  # tensors have no others


def check_more_rows(estimator: BaseEstimator, X: Any, name: str, **options: Any) -> np.ndarray:
    """Rows, called so, of the columns of X, whose fit they have a part in."""
    try:
        return check_rows(estimator, X, reset=False, **options)
    except ValueError as error:  # which calls them X
        raise ValueError(f"{name} is invalid. {error}") from error


def refuse_unflattened(X: Any, name: str = "X") -> None:
    """Raise an error that says how to make rows of images or series, if X has these."""
    shape = np.shape(X)
    if len(shape) > 2:
        raise ValueError(
            f"{name} has the shape {shape}, but each row must be flat: {name}.reshape(len({name}), "
            "-1) makes rows of images or series."
        )


def _refuse_other_than_numbers(estimator: BaseEstimator, X: Any) -> None:
    """Raise an error, naming them, if columns of X hold values that are no numbers."""
    if issparse(X) or np.asarray(X).dtype.kind in "biufc":
        return
    values, found = np.asarray(X, dtype=object), {}
    for j, column in enumerate(values.T if values.ndim == 2 else []):
        try:
            column.astype(float)
        except (TypeError, ValueError) as error:
            found[j] = error
    if found:
        reason = next(iter(found.values()))
        raise type(reason)(
            f"Column(s) {describe_columns(estimator, found)} of X hold values that are not "
            f"numbers: {reason}. Encode them as numbers or drop them."
        )


def are_positive_ints(values: Iterable[Any]) -> bool:
    """Whether all values are positive whole numbers."""
    return all(isinstance(value, Integral) and int(value) > 0 for value in values)


def check_n_samples(n_samples: Any) -> None:
    """Raise ValueError unless a positive whole number of rows is asked for."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(f"n_samples must be an int of at least 1, got {n_samples!r}.")


def wrap_samples(estimator: BaseEstimator, X: np.ndarray, of: Any = None) -> Any:
    """Give sampled rows the container that ``set_output`` asks for, and the index of others."""
    container = _get_output_config("transform", estimator)["dense"]
    if container == "default":
        return X
    names = getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(X.shape[1])])
    if container == "pandas":
        import pandas

        index = of.index if isinstance(of, pandas.DataFrame) else None
        return pandas.DataFrame(X, index=index, columns=names)
    import polars

    return polars.DataFrame(X, schema=list(names))


def refuse_constant_columns(estimator: BaseEstimator, columns: Any) -> None:
    """Raise ValueError, naming them, if there are columns that do not vary."""
    if len(columns):
        raise ValueError(
            f"Column(s) {describe_columns(estimator, columns)} of X are constant, so X has no "
            "density. Drop them."
        )


def describe_columns(estimator: BaseEstimator, columns: Any) -> str:
    """Columns of X as an error message names them."""
    names = getattr(estimator, "feature_names_in_", None)
    return ", ".join(str(j) if names is None else f"{j} ({names[j]!r})" for j in columns)


def to_array(X: Any) -> Any:
    """Take torch tensors, also from a GPU, as scikit-learn takes arrays; masked values are NaN."""
    if np.ma.is_masked(X):
        return X.astype(X.dtype if X.dtype.kind == "f" else object).filled(np.nan)
    if not isinstance(X, Tensor):
        return X
    X = X.detach().cpu().resolve_neg()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()
