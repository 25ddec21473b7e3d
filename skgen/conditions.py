"""Densities given conditions: how y is encoded, and what its densities offer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_consistent_length

from .rows import to_array
from .trained_flow import TrainedFlow
from .weights import weighted_mean

MAX_KEPT = 2**14  # encoded training conditions, to draw from where none are given
MAX_CATEGORIES = 20  # different values of a column of whole numbers that is taken as categories


class ConditionEncoder:
    """Columns of conditions as numbers of about unit size, and a last column of ones.

    Columns that are not numbers, or whole numbers of at most `MAX_CATEGORIES` values, are
    categories, one column each; the others are standardised.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_conditions)
        Training conditions.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows.
    """

    def __init__(self, y: Any, sample_weight: np.ndarray | None = None) -> None:
        columns = condition_columns(y)
        self.names = _names(y)
        self.encoders = [
            OneHotEncoder(sparse_output=False).fit(column[:, None])
            if _categorical(column)
            else StandardScaler().fit(column[:, None], sample_weight=sample_weight)
            for column in columns
        ]
        encoded = self(y)
        self.n_columns = encoded.shape[1]
        self.rows = encoded[:: -(-len(encoded) // MAX_KEPT)].astype(np.float32)

    def __call__(self, y: Any) -> np.ndarray:
        """Encoded conditions (n, k); ValueError if a category or the name of a column is new."""
        columns, names = condition_columns(y), _names(y)
        if names and self.names and names != self.names:
            raise ValueError(
                f"y has the columns {names}; fit has seen {self.names}, in this order."
            )
        if len(columns) != len(self.encoders):
            raise ValueError(
                f"y has {len(columns)} column(s); fit has seen {len(self.encoders)} of conditions."
            )
        parts = []
        for j, (encoder, column) in enumerate(zip(self.encoders, columns, strict=True)):
            _check_kind(encoder, column, j)
            parts.append(encoder.transform(column[:, None]))
        return np.column_stack([*parts, np.ones(len(columns[0]))])

    def repeated(self, y: Any, n: int) -> np.ndarray:
        """Encoded conditions (n, k) of n rows: of each, one for all, or None, unknown: zeros."""
        if y is None:
            return np.zeros((n, self.n_columns))
        if not hasattr(y, "columns"):
            y = as_array(y)
            if y.ndim == 0 or (y.ndim == 1 and len(self.encoders) > 1):
                y = y.reshape(1, -1)
        encoded = self(y)
        if len(encoded) not in (1, n):
            raise ValueError(
                f"y must be one condition or {n} of them, one for each row; got {len(encoded)}."
            )
        return np.broadcast_to(encoded, (n, encoded.shape[1]))


def condition_columns(y: Any) -> list[np.ndarray]:
    """Columns of y, numbers as float64; refuses missing values and more than two dimensions."""
    y = to_array(y)
    if hasattr(y, "columns"):
        columns = [np.asarray(y[name]) for name in y.columns]
    else:
        array = as_array(y)
        if array.ndim not in (1, 2):
            raise ValueError(
                f"y must be of shape (n_samples,) or (n_samples, n_conditions), got {array.shape}."
            )
        columns = [array] if array.ndim == 1 else list(array.T)
    columns = [_as_numbers(column) for column in columns]
    for j, column in enumerate(columns):
        if column.dtype == object:
            missing = any(_is_missing(value) for value in column)
        else:
            missing = not np.isfinite(column).all()
        if missing:
            raise ValueError(f"Column {j} of y contains NaN, infinity or None; drop those rows.")
    return columns


def _names(y: Any) -> list[str]:
    """Names of the columns of a frame, if it has any that are names."""
    names = list(getattr(y, "columns", []))
    return names if all(isinstance(name, str) for name in names) else []


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # as pandas.NA is neither true nor false
        return True


def as_array(y: Any) -> np.ndarray:
    """Array of y, in which numbers beside text stay numbers."""
    array = np.asarray(y)
    return np.asarray(y, dtype=object) if array.dtype.kind in "US" else array


def _as_numbers(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype == object and all(isinstance(v, (bool, int, float, np.number)) for v in column):
        return column.astype(np.float64)
    return column.astype(object)


def _categorical(column: np.ndarray) -> bool:
    if column.dtype == object:
        return True
    whole = np.all(column == np.round(column))
    return bool(whole) and len(np.unique(column)) <= MAX_CATEGORIES


def _check_kind(encoder: Any, column: np.ndarray, j: int) -> None:
    """Raise ValueError unless column j of y has categories, or numbers, as it had in the fit."""
    if isinstance(encoder, StandardScaler):
        if column.dtype == object:
            raise ValueError(f"Column {j} of y held numbers in fit; got {column[0]!r}.")
        return
    seen = encoder.categories_[0].tolist()
    new = sorted(set(column.tolist()) - set(seen), key=str)
    if new:
        raise ValueError(f"Column {j} of y has the categories {new}; fit has seen {seen}.")


class ConditionalFlow(TrainedFlow):
    """Base of the flows whose density may be given conditions y, if ``conditional`` is true."""

    conditional: bool
    _encoder: ConditionEncoder | None = None  # of the fit, if that had conditions

    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Log-density of each row, given its conditions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data. Computed in float32 if X has it, else in
            float64.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            Conditions of the rows, or one for all, if the fit had some. None is the density that
            the flow has learnt for rows whose conditions are unknown.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Natural logarithm of the density (nats, in the units of X), in the dtype of X.
        """
        return self._by_chunks(X, lambda rows: self.module_.log_prob(rows), y)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, given their conditions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            Conditions of the rows; ignored unless ``conditional=True``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        log_likelihood : float
            Mean of `score_samples` (nats), larger is better.
        """
        log_density = self.score_samples(X, None if self._encoder is None else y)
        return weighted_mean(log_density, sample_weight)

    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Carry rows back along the flow to noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Distributed like the base, standard normal by default, if X follows the flow; in the
            dtype of X.
        """
        return self._transform(X, y)

    def inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Carry noise along the flow to data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Noise, standard normal by default, to sample from the flow.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data.
        """
        return self._inverse_transform(X, y)

    def sample_given(
        self, X_partial: Any, random_state: Any = None, *, n_proposals: int = 64, y: Any = None
    ) -> Any:
        """Complete rows as `skgen.RealNVPDensity.sample_given` does, given conditions too.

        Parameters
        ----------
        X_partial : array-like of shape (n_samples, n_features)
            Rows in the units of the training data, NaN where a value is unknown.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws, as in `sample`.
        n_proposals : int, default=64
            Proposals a row, all but the first steps of a Markov chain that tends to the exact
            distribution. 1 returns draws from a Gaussian mixture.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The rows with one draw for all unknown values of a row together.
        """
        return self._complete(X_partial, random_state, n_proposals, y)

    def _read_conditions(self, y: Any, sample_weight: np.ndarray | None) -> None:
        if self._continues:
            return
        self._encoder = None
        if self.conditional:
            self._check_given(y, "y")
            check_consistent_length(y, sample_weight)
            self._encoder = ConditionEncoder(y, sample_weight)

    def _rows_given(self, X: np.ndarray, y: Any, name: str) -> np.ndarray:
        if self._encoder is None:
            return X
        self._check_given(y, name)
        check_consistent_length(X, y)
        return np.column_stack([X, self._encoder(y)])

    def _check_given(self, y: Any, name: str) -> None:
        if y is None:
            raise ValueError(
                f"{type(self).__name__}(conditional=True) requires {name} to be passed, but the "
                f"target {name} is None."
            )

    def _rows(self, X: np.ndarray, y: Any) -> np.ndarray:
        conditions = self._conditions(y, len(X))
        return X if conditions is None else np.column_stack([X, conditions.astype(X.dtype)])

    def _conditions(self, y: Any, n: int) -> np.ndarray | None:
        """Encoded conditions (n, k) of n rows; 0 where unknown; None if the fit had none."""
        if self._encoder is not None:
            return self._encoder.repeated(y, n)
        if y is not None:
            raise ValueError("y was given, but the estimator was fitted with conditional=False.")
        return None

    @property
    def _n_conditions(self) -> int:
        """Columns that the conditions are encoded in."""
        return 0 if self._encoder is None else self._encoder.n_columns

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = bool(self.conditional)
        return tags
