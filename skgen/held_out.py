"""How the trained densities hold rows out, at random or those that `fit` is given."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor
from typing_extensions import Self

from .base import lent
from .completion import CompletingDensity
from .core.interfaces import runs
from .core.supports import Folding
from .rows import check_more_rows
from .supports import check_supported
from .weights import as_frequencies, check_weights

MAX_HELD_OUT = 2000  # rows; more would cost time and training rows, and choose no better
MAX_SPREAD = 100_000  # rows that copies of rows with whole numbers may add up to
MOST_TIES = 10  # copies of a row on average; more equal rows have columns of few values


class Split(NamedTuple):
    """Rows to train on, and those held out, if any are."""

    kept: Tensor
    held: Tensor | None

    @property
    def rows(self) -> Tensor:
        return self.kept if self.held is None else torch.cat([self.kept, self.held])

    def spread(self, folding: Folding, generator: torch.Generator) -> Split:
        """The rows on the line, several copies of each."""
        kept = folding.spread(self.kept, MAX_SPREAD, generator)
        held = self.held
        return Split(kept, held if held is None else folding.spread(held, MAX_HELD_OUT, generator))


class HeldOutDensity(CompletingDensity):
    """Base of the densities that are chosen by the log-likelihood of rows held out."""

    _parameter_constraints: dict = {
        **CompletingDensity._parameter_constraints,
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    }

    _held_out: tuple[Any, Any, Any] = None, None, None  # X_val, y_val and weights of a fit

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the density to data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows: an array, a frame, a list or a torch tensor of finite numbers.
        y : None
            Ignored; present for compatibility with pipelines.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. An integer weight k is the same as k copies of the row.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Rows to hold out in place of a random ``validation_fraction`` of X: later times or other
            groups than those of X. Of more than 2,000, as many spread among them.
        y_val : None
            Ignored, as y is.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the rows of X_val.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If an array or a parameter is invalid, or X_val is given without early stopping. The
            estimator then keeps its former state.
        """
        self._check_continued()
        with lent(self, _held_out=(X_val, y_val, sample_weight_val)):
            super().fit(X, y, sample_weight)
        return self

    @property
    def _max_held_out(self) -> int:
        return MAX_HELD_OUT

    def _hold_out(
        self, x: Tensor, weighted: bool, generator: torch.Generator, n_splits: int = 1
    ) -> list[Split]:
        """Split the rows, in random order, into those trained on and those held out.

        Each of several splits holds out other rows, as long as there are some.
        """
        given = self._given_held_out(x.device)
        if not self.early_stopping or given is not None:
            return [Split(x, given)]
        labels = self._kept_together(x, weighted)
        n_groups, most = int(labels[-1]) + 1, self._max_held_out
        n_held = min(max(1, round(n_groups * self.validation_fraction)), most)
        if n_groups - n_held < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_groups} rows leaves "
                f"{n_groups - n_held} to train on; 2 are needed. Reduce it or set "
                "early_stopping=False."
            )
        order = torch.randperm(n_groups, generator=generator, device=x.device)
        places = order.argsort()[labels]
        splits = []
        for turn in range(min(n_splits, n_groups // n_held)):
            turned = (places - turn * n_held) % n_groups
            rows, n = x[turned.argsort(stable=True)], int((turned < n_held).sum())
            splits.append(Split(rows[n:], _thinned(rows[:n], most)))
        return splits

    def _kept_together(self, x: Tensor, weighted: bool) -> Tensor:
        """Group of each row in order: copies of one, which weights make, are held out together.

        Rows that are equal since their columns have few values are independent, and so is each
        copy of a row that outweighs the rows to hold out.
        """
        labels, alone = runs(x), torch.arange(len(x), device=x.device)
        copies = labels.bincount()
        all_discrete = len(self._supports.discrete) == self.n_features_in_
        if all_discrete or (not weighted and len(x) > MOST_TIES * len(copies)):
            return alone
        heavy = copies > max(1, round(len(x) * self.validation_fraction))
        labels = torch.where(heavy[labels], len(x) + alone, labels)
        return labels.unique_consecutive(return_inverse=True)[1]

    def _given_held_out(self, device: torch.device) -> Tensor | None:
        """Rows of X_val, in order and as often as they weigh, or None."""
        X, y, sample_weight = self._held_out
        if X is None:
            if y is not None or sample_weight is not None:
                raise ValueError("y_val and sample_weight_val belong to X_val, which is None.")
            return None
        if not self.early_stopping:
            raise ValueError(
                "X_val is to stop early by, but early_stopping=False. Set it to True or leave out "
                "X_val."
            )
        X = check_more_rows(self, X, "X_val")
        rows = self._rows_given(X, y, "y_val")
        if sample_weight is not None:
            sample_weight = check_weights(sample_weight, X, 1, "sample_weight_val")
        rows = rows[as_frequencies(rows, sample_weight)]
        x = torch.tensor(rows, dtype=torch.float64, device=device)
        check_supported(self, self._supports, x)
        return _thinned(x, self._max_held_out)


def _thinned(x: Tensor, most: int) -> Tensor:
    """All rows, or as many spread evenly among them."""
    n = min(len(x), most)
    return x[torch.linspace(0, len(x) - 1, n, dtype=torch.float64).round().long()]
