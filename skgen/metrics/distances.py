"""Distances between two tables of features, and the distance that equal tables would have."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.validation import _get_feature_names

from ..rows import to_array

Array = NDArray[np.float64]


def frechet_distance(features_real: Any, features_fake: Any) -> float:
    r"""Squared Fréchet distance of the Gaussians fitted to two tables of features.

    .. math:: |m_1 - m_2|^2 + \operatorname{tr}\big(S_1 + S_2 - 2 (S_1 S_2)^{1/2}\big)

    with the means and the unbiased covariances of the columns. On the features of an Inception
    network it is the Fréchet inception distance (FID) [1]_.

    The trace of the root is the sum of the singular values of :math:`R_1 R_2^\top`, where
    :math:`S_i = R_i^\top R_i` are triangular factorisations of the centred rows. So no root of a
    matrix is taken, and fewer rows than features are no problem.

    Parameters
    ----------
    features_real : array-like of shape (n_real, n_features)
        Features of the real rows, at least two.
    features_fake : array-like of shape (n_fake, n_features)
        Features of the generated rows, at least two.

    Returns
    -------
    distance : float
        In squared units of the features, 0 if means and covariances agree. The estimate is biased:
        it falls as the number of rows grows, so compare only distances of equally many rows.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have fewer than two rows or values that are not
        finite.

    See Also
    --------
    fid_score : The same from images.
    kernel_distance : An unbiased distance.

    References
    ----------
    .. [1] Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two
       time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.

    Examples
    --------
    >>> from skgen.metrics import frechet_distance
    >>> frechet_distance([[0.0], [2.0]], [[3.0], [5.0]])  # the means are 3 apart
    9.0
    """
    real, fake = check_tables(2, features_real=features_real, features_fake=features_fake)
    (mean_real, root_real), (mean_fake, root_fake) = _moments(real), _moments(fake)
    cross = np.linalg.svd(root_real @ root_fake.T, compute_uv=False).sum()
    spread = np.sum(root_real**2) + np.sum(root_fake**2) - 2 * cross
    # Neither term can be negative but by rounding.
    return float(np.sum((mean_real - mean_fake) ** 2) + max(spread, 0.0))


def _moments(features: Array) -> tuple[Array, Array]:
    """Mean (k,) and a factor R (min(n, k), k) of the covariance R.T @ R."""
    mean = features.mean(axis=0)
    root = np.linalg.qr(features - mean, mode="r")
    return mean, root / np.sqrt(len(features) - 1)


def kernel_distance(
    features_real: Any,
    features_fake: Any,
    n_subsets: int = 100,
    subset_size: int = 1000,
    random_state: Any = None,
    *,
    return_error: bool = False,
) -> Any:
    r"""Squared maximum mean discrepancy of two tables of features, by a cubic kernel.

    .. math:: \mathbb{E}\,k(x, x') + \mathbb{E}\,k(y, y') - 2\, \mathbb{E}\,k(x, y), \qquad
              k(x, y) = \Big(\frac{x^\top y}{d} + 1\Big)^3

    for :math:`d` features, estimated without bias on random subsets of the rows and averaged over
    them. On the features of an Inception network it is the kernel inception distance (KID) [1]_.

    Parameters
    ----------
    features_real : array-like of shape (n_real, n_features)
        Features of the real rows, at least two.
    features_fake : array-like of shape (n_fake, n_features)
        Features of the generated rows, at least two.
    n_subsets : int, default=100
        Number of pairs of subsets.
    subset_size : int, default=1000
        Rows of a subset, at least two; fewer where one of the tables has fewer.
    random_state : int, RandomState instance or None, default=None
        Seed of the subsets.
    return_error : bool, default=False
        Whether to return the standard error, too.

    Returns
    -------
    distance : float
        0 on average if both tables follow the same distribution; single estimates may be negative.
    error : float
        Only with ``return_error=True``: standard error of the distance, for the finite number of
        rows as well as for that of subsets. Too large where the distance is about 0.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have fewer than two rows or values that are not
        finite, or if there are too few subsets or rows in them.

    References
    ----------
    .. [1] Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018.

    Examples
    --------
    >>> from skgen.metrics import kernel_distance
    >>> kernel_distance([[0.0], [0.0]], [[1.0], [1.0]])  # 1 + 8 - 2 * 1
    7.0
    """
    real, fake = check_tables(2, features_real=features_real, features_fake=features_fake)
    check_scalar(n_subsets, "n_subsets", Integral, min_val=1)
    check_scalar(subset_size, "subset_size", Integral, min_val=2)
    rng = check_random_state(random_state)
    size = min(subset_size, len(real), len(fake))
    if size == len(real) == len(fake):
        n_subsets = 1  # every subset would have all rows
    distances, variances = [], []
    for _ in range(n_subsets):
        x, y = (F[rng.choice(len(F), size, replace=False)] for F in (real, fake))
        influence = _influences(x, y)
        distances.append(np.mean(influence[0]) + np.mean(influence[1]))
        variances.append(4 * np.var(influence, axis=1, ddof=1))
    distance = float(np.mean(distances))
    if not return_error:
        return distance
    variance = np.mean(variances, axis=0)
    of_all, of_subset = variance @ [1 / len(real), 1 / len(fake)], variance.sum() / size
    return distance, float(np.sqrt(of_all + (of_subset - of_all) / n_subsets))


def _influences(x: Array, y: Array) -> tuple[Array, Array]:
    """Mean kernel of each row with the others of its table, less that with the other table.

    Their means add up to the unbiased squared discrepancy, and their variances give its own.
    """
    (within_x, within_y), across = (_kernel(x, x), _kernel(y, y)), _kernel(x, y)
    for within in (within_x, within_y):
        np.fill_diagonal(within, 0.0)
    return (
        within_x.sum(axis=1) / (len(x) - 1) - across.mean(axis=1),
        within_y.sum(axis=1) / (len(y) - 1) - across.mean(axis=0),
    )


def _kernel(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1) ** 3


def score_floor(
    X_real: Any,
    metric: Callable[[Any, Any], float],
    n_samples: int | None = None,
    random_state: Any = None,
) -> float:
    """Distance between two random halves of the real rows: the best a generator can reach.

    Print it beside every result. It is not 0, since two finite samples differ even if they follow
    the same distribution.

    Parameters
    ----------
    X_real : array-like of shape (n_rows, n_columns)
        Real rows, or their features, at least four.
    metric : callable
        Distance of two arrays of rows, `frechet_distance` for instance.
    n_samples : int, default=None
        Rows of each of the two samples, from 2 to ``n_rows // 2``, the default. Choose the number
        of the generated rows where the metric depends on it, as the Fréchet distance does.
    random_state : int, RandomState instance or None, default=None
        Seed of the split.

    Returns
    -------
    floor : float

    Raises
    ------
    ValueError
        If there are too few rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen.metrics import frechet_distance, score_floor
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> round(score_floor(X, frechet_distance, random_state=0), 3)
    0.011
    """
    X = check_array(to_array(X_real), dtype=None, ensure_min_samples=4, input_name="X_real")
    half = len(X) // 2
    size = half if n_samples is None else n_samples
    check_scalar(size, "n_samples", Integral, min_val=2, max_val=half)
    order = check_random_state(random_state).permutation(len(X))
    return float(metric(X[order[:size]], X[order[size : 2 * size]]))


def check_tables(min_rows: int, **tables: Any) -> list[Array]:
    """Tables of finite numbers with the same columns, from whatever scikit-learn takes."""
    checked = [
        check_array(to_array(X), dtype=np.float64, ensure_min_samples=min_rows, input_name=name)
        for name, X in tables.items()
    ]
    (first, *others), titles = tables, [_get_feature_names(X) for X in tables.values()]
    for name, X, title in zip(others, checked[1:], titles[1:], strict=True):
        if X.shape[1] != checked[0].shape[1]:
            raise ValueError(
                f"{first} has {checked[0].shape[1]} column(s), {name} {X.shape[1]}; they must have "
                "the same columns."
            )
        if title is not None and titles[0] is not None and list(title) != list(titles[0]):
            raise ValueError(
                f"{first} has the columns {list(titles[0])}, {name} {list(title)}; they must be "
                "the same, in the same order."
            )
    return checked
