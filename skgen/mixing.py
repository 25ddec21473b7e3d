"""Weights of components that are already fitted."""

from __future__ import annotations

from typing import Literal

import numpy as np


def mixture_weights(
    log_densities: np.ndarray,
    sample_weight: np.ndarray | None = None,
    floor: float = 1e-3,
    prior: np.ndarray | float | Literal["first"] = 0.0,
    max_iter: int = 1000,
    tol: float = 1e-8,
) -> np.ndarray:
    r"""Most likely weights of fixed densities on held-out rows, by EM.

    Each iteration replaces the weights by the mean responsibilities,

    .. math:: w_k \leftarrow \frac{1}{n + \sum_l a_l}
        \Big(a_k + \sum_i \frac{w_k p_k(x_i)}{\sum_l w_l p_l(x_i)}\Big)

    What they maximise is concave in the weights, so they do not depend on the start.

    Parameters
    ----------
    log_densities : ndarray of shape (n_samples, n_components)
        Log-density of each row under each component (nats); -infinity is allowed.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.
    floor : float, default=1e-3
        Least weight of a component: no component is ruled out by a small held-out set, and no row
        can fall more than ``-log(floor)`` nats below any component.
    prior : float, ndarray of shape (n_components,) or "first", default=0.0
        Rows ``a_k`` that count for a component before any is seen: a Dirichlet distribution of the
        weights with parameters ``1 + a_k``. 0 is maximum likelihood. "first" is one row for the
        component that is best by itself, as maximum likelihood gives others more than they deserve,
        or for the first that is within one standard error of it.
    max_iter : int, default=1000
        Most iterations.
    tol : float, default=1e-8
        Largest change of a weight at which to stop.

    Returns
    -------
    weights : ndarray of shape (n_components,)
        Positive, summing to 1.

    References
    ----------
    Smyth and Wolpert, "Linearly combining density estimators via stacking", 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen.mixing import mixture_weights
    >>> mixture_weights(np.log([[1.0, 1e-9], [1e-9, 1.0], [1e-9, 1.0]])).round(3)
    array([0.333, 0.667])
    """
    n_components = log_densities.shape[1]
    telling = np.isfinite(log_densities).any(axis=1)
    if sample_weight is not None:
        telling &= sample_weight > 0
        sample_weight = sample_weight[telling]
    possible = log_densities[telling]
    weights = np.full(n_components, 1 / n_components)
    if len(possible):
        if isinstance(prior, str):
            prior = np.eye(n_components)[_first_of_the_best(possible, sample_weight)]
        rows = np.ones(len(possible)) if sample_weight is None else sample_weight
        # Over that of the best component of a row: responsibilities stay the same.
        densities = np.exp(possible - possible.max(axis=1, keepdims=True))
        for _ in range(max_iter):
            counts = prior + weights * ((rows / (densities @ weights)) @ densities)
            new = counts / counts.sum()
            change, weights = np.abs(new - weights).max(), new
            if change < tol:
                break
    low = weights < floor
    weights = np.where(low, floor, weights)
    return np.where(low, floor, weights * (1 - floor * low.sum()) / weights[~low].sum())


def _first_of_the_best(log_densities: np.ndarray, sample_weight: np.ndarray | None) -> int:
    """First component whose mean log-density is within one standard error of the best mean."""
    best = np.average(log_densities, axis=0, weights=sample_weight).argmax()
    weight = np.ones(len(log_densities)) if sample_weight is None else sample_weight
    weight = weight / weight.sum()
    with np.errstate(invalid="ignore", over="ignore"):  # where one or both are minus infinity
        gaps = log_densities[:, [best]] - log_densities
        mean = weight @ gaps
        variance = weight @ (gaps - mean) ** 2 * (weight @ weight)
        return int(np.argmax(mean <= np.sqrt(np.nan_to_num(variance, posinf=0.0))))
