"""Members of a stack, fitted one after the other to splits of the rows until interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from .members import log_densities
from .weights import as_frequencies


class Fit(NamedTuple):
    """A member fitted to the rows of a split."""

    member: Any
    held_out: np.ndarray  # log-densities of the rows that the split holds out
    seconds: float

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C cut it short."""
        return bool(getattr(self.member, "interrupted_", False))


def fit_members(
    members: dict[str, Any],
    X: np.ndarray,
    weight: np.ndarray,
    splits: Sequence[tuple],
    n_jobs: int | None,
    verbose: int,
) -> tuple[list[Fit], bool]:
    """Fit clones of the members to each split: all to the first, then all to the next.

    Parameters
    ----------
    members : dict of estimator
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,)
    splits : sequence of tuple
        Rows to fit on and, unless that is all, those held out. Where there are several splits,
        members are stopped by these: one split's rows mislead if they both stop and weigh members.
    n_jobs, verbose : int

    Returns
    -------
    fits : list of Fit
        In this order; if Ctrl-C ended it, up to the member that it cut short, or the one before.
    interrupted : bool
        Whether it did.
    """
    n_splits = len(splits)
    labels = list(members)
    if n_splits > 1:
        numbers = range(1, n_splits + 1)
        labels = [f"{name}, split {i} of {n_splits}" for i in numbers for name in members]
    jobs = (
        delayed(_fit)(clone(member), n_splits > 1, *((X[rows], weight[rows]) for rows in split))
        for split in splits
        for member in members.values()
    )
    fits: list[Fit] = []
    with tqdm(total=len(labels), desc=labels[0], disable=not verbose) as bar:
        try:
            for fit in Parallel(n_jobs=n_jobs, return_as="generator")(jobs):
                fits.append(fit)
                bar.update()
                if fit.interrupted:
                    return fits, True
                if verbose >= 2:
                    bar.write(f"{labels[len(fits) - 1]}: {_described(fit)}", file=sys.stderr)
                bar.set_description(labels[min(len(fits), len(labels) - 1)])
        except KeyboardInterrupt:
            return fits, True
    return fits, False


def _described(fit: Fit) -> str:
    text = f"{fit.seconds:.1f} s"
    return f"{text}, held-out nats {fit.held_out.mean():.4f}" if len(fit.held_out) else text


def _fit(member: Any, stop: bool, train: tuple, held_out: tuple | None = None) -> Fit:
    """Fit a member to rows with weights, perhaps stopped by those held out if it takes some."""
    start, takes, kwargs = time.perf_counter(), signature(member.fit).parameters, {}
    X, weight = (part[train[1] > 0] for part in train)
    if (weight != 1).any():
        if "sample_weight" in takes:
            kwargs["sample_weight"] = weight
        else:
            X = X[as_frequencies(X, weight)]
    stop &= "X_val" in takes and member.get_params().get("early_stopping", True)
    if stop and held_out is not None and held_out[1].any():
        kwargs["X_val"] = held_out[0][as_frequencies(*held_out)]
    member.fit(X, **kwargs)
    found = np.empty(0) if held_out is None else log_densities([member], held_out[0])[:, 0]
    return Fit(member, found, time.perf_counter() - start)
