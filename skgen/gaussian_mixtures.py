"""Gaussian mixtures by EM: one, or the mean of several that were fitted to parts of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from threading import Lock

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold, train_test_split
from threadpoolctl import ThreadpoolController
from torch import Tensor

from .core.gaussian import NormalMixture
from .mixing import mixture_weights

# Covariance types, and the variances added to their diagonals in units of the columns' own.
FORMS = [("full", 1e-6), ("tied", 1e-6)]
FORMS_OF_FEW = [*FORMS, ("diag", 1e-6), ("full", 1e-3), ("full", 1e-2), ("full", 1e-1)]
FORMS_OF_DEFENCE = [("full", 1e-6), ("full", 1e-2), ("diag", 1e-6)]  # beside a flow
SIZES = (1, 2, 4, 8, 16, 32, 64)
SIZES_OF_DEFENCE = 128, 32, 8, 4  # with many rows
EM_STEPS = 20  # of these: with more they take longer and are hardly better
FEW_ROWS = 2000  # up to so many, there is time for more of everything and need of it
VERY_FEW_ROWS = 500  # and for most and most need
MAX_NUMBERS = 2**22  # in the covariances of a mixture; with more, EM takes longer than a flow
N_FOLDS = 5
LEAST_SHARE = 1e-4  # of the rows; mixtures with less are left out


# Of what belongs to the process and is put back: two threads at once would put back each other's.
_process_lock = Lock()


class QuietMixture(GaussianMixture):
    """Gaussian mixture that does not mind if EM stops early: any state of it is a density.

    It is fitted by one thread. Those of BLAS take longer to share a few equations than to solve
    them, and beside other work a hundred times as long. Where arrays of PyTorch are dispatched,
    scikit-learn starts from k-means of none, not even of NumPy's.
    """

    def fit(self, X, y=None):
        modes = config_context(array_api_dispatch=False)
        with _process_lock, _libraries().limit(limits=1), warnings.catch_warnings(), modes:
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().fit(X, y)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def mixture_size(n_rows: int, n_columns: int, most: int = 16) -> int:
    """Components of a Gaussian mixture, one for 20 rows or more."""
    return max(1, min(most, n_rows // 20, MAX_NUMBERS // n_columns**2))


def candidates(
    n_rows: int, n_columns: int, forms: Iterable[tuple[str, float]]
) -> dict[str, QuietMixture]:
    """Mixtures to stack, by name, for rows of columns with unit variance."""
    found = {}
    for form, ridge in forms:
        most = n_rows / 20
        if form == "full":
            most = min(most, MAX_NUMBERS / n_columns**2)
        for k in SIZES:
            if (k == 1 and form != "tied") or 1 < k <= most:
                mixture = QuietMixture(k, covariance_type=form, reg_covar=ridge)
                found[f"{form}{k}_{ridge:g}"] = mixture
    return found


def fit_gaussian_mixture(seed: int, n_components: int, z: Tensor) -> NormalMixture:
    """Gaussian mixture of preconditioned rows by EM."""
    return _joined([_unfitted(n_components, seed).fit(z.cpu().numpy())], [1.0]).to(z.device)


def _unfitted(n_components: int, seed: int) -> QuietMixture:
    return QuietMixture(
        n_components, reg_covar=1e-4, init_params="k-means++", random_state=seed % 2**32
    )


def fit_sized_mixtures(seed: int, z: Tensor) -> NormalMixture:
    """Mean of Gaussian mixtures of several sizes, fitted to nine tenths of preconditioned rows.

    Their weights maximise the likelihood of the tenth left out. Copies of a row, such as weights
    make, stay together: else mixtures would be praised for learning them by heart.
    """
    rows, copies = _distinct(z)
    sizes = sorted({mixture_size(len(rows), z.shape[1], most) for most in SIZES_OF_DEFENCE})
    if len(sizes) == 1:
        return fit_gaussian_mixture(seed, sizes[0], z)
    seed = seed % 2**32
    parts = train_test_split(np.arange(len(rows)), test_size=0.1, random_state=seed)
    some, others = (rows[part].repeat(copies[part], axis=0) for part in parts)
    fitted = [_unfitted(k, seed).set_params(max_iter=EM_STEPS).fit(some) for k in sizes]
    held_out = np.column_stack([mixture.score_samples(others) for mixture in fitted])
    return _joined(fitted, mixture_weights(held_out, floor=0.0, tol=1e-5)).to(z.device)


def fit_stacked_mixtures(seed: int, z: Tensor) -> NormalMixture:
    """Mean of Gaussian mixtures of many sizes and forms, fitted to four fifths of the rows each.

    The weights of the sizes and forms maximise the likelihood of the fifths left out.
    """
    rows, copies = _distinct(z)
    kinds = list(candidates(len(rows), z.shape[1], FORMS_OF_DEFENCE).values())
    if len(rows) < 2 * N_FOLDS:
        return fit_gaussian_mixture(seed, 1, z)
    held_out, fitted = np.empty((len(rows), len(kinds))), []
    folds = KFold(N_FOLDS, shuffle=True, random_state=seed % 2**32)
    for fold, (some, others) in enumerate(folds.split(rows)):
        part = rows[some].repeat(copies[some], axis=0)
        for k, kind in enumerate(kinds):
            mixture = clone(kind).set_params(random_state=(seed + fold) % 2**32).fit(part)
            held_out[others, k] = mixture.score_samples(rows[others])
            fitted.append(mixture)
    weights = mixture_weights(held_out, copies, floor=0.0, tol=1e-5)
    return _joined(fitted, np.tile(weights, N_FOLDS) / N_FOLDS).to(z.device)


def _distinct(z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows without the copies that follow them, and how many copies of each there are."""
    rows, copies = z.unique_consecutive(return_counts=True, dim=0)
    return rows.cpu().numpy(), copies.cpu().numpy()


def _joined(mixtures: Iterable[GaussianMixture], weights: Iterable[float]) -> NormalMixture:
    """Mixture of fitted mixtures, but for those of hardly any weight."""
    kept = [pair for pair in zip(mixtures, weights, strict=True) if pair[1] > LEAST_SHARE]
    total = sum(weight for _, weight in kept)
    parts = [
        (
            weight / total * mixture.weights_,
            mixture.means_,
            np.linalg.cholesky(_covariances(mixture)),
        )
        for mixture, weight in kept
    ]
    arrays = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return NormalMixture(*map(torch.from_numpy, arrays))


def _covariances(mixture: GaussianMixture) -> np.ndarray:
    """Covariances (K, d, d) of the components."""
    k, d = mixture.means_.shape
    if mixture.covariance_type == "diag":
        return mixture.covariances_[:, None] * np.eye(d)
    return np.broadcast_to(mixture.covariances_, (k, d, d))  # of all, where they are tied
