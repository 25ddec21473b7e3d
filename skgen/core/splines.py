"""Monotone rational-quadratic spline, forward and inverse."""

from __future__ import annotations

import torch
from torch import Tensor


def rational_quadratic(
    x: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Evaluate a monotone rational-quadratic spline inside its interval.

    On the bin ``[x_k, x_{k+1}]`` with ``xi = (x - x_k) / w``, width w, height h, ``s = h / w`` and
    knot slopes ``d_k``::

        y = y_k + h (s xi^2 + d_k xi (1-xi)) / (s + (d_{k+1} + d_k - 2 s) xi (1-xi))

    Parameters
    ----------
    x : tensor of shape (n, d)
        Input, clamped here to the interval (outside, the formula has no meaning and its
        gradient is not finite: use tails).
    knots_x, knots_y, slopes : tensors of shape (d, K)
        Increasing knots and positive slopes of each column; unused trailing knots hold
        infinity in ``knots_x`` and ``knots_y``.
    inverse : bool, default=False
        Solve for the input instead.

    Returns
    -------
    y, log_slope : tensors of shape (n, d)
        Value and logarithm of the derivative of the computed direction.

    References
    ----------
    Gregory and Delbourgo, "Piecewise rational quadratic interpolation to monotonic data",
    1982. Durkan et al., "Neural spline flows", 2019.
    """
    axis = knots_y if inverse else knots_x
    used = axis.isfinite()
    last = used.sum(1) - 1
    end = axis.gather(1, last[:, None])[:, 0]
    x = torch.minimum(torch.maximum(x, axis[:, 0]), end)
    k = torch.searchsorted(axis, x.T.contiguous(), right=True) - 1
    k = torch.minimum(k.clamp(min=0), (last - 1)[:, None])

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index).T

    x_k, y_k = at(knots_x, k), at(knots_y, k)
    width, height = at(knots_x, k + 1) - x_k, at(knots_y, k + 1) - y_k
    d_k, d_next = at(slopes, k), at(slopes, k + 1)
    s = height / width
    bend = d_next + d_k - 2 * s
    if inverse:
        rise = x - y_k
        a = height * (s - d_k) + rise * bend
        b = height * d_k - rise * bend
        c = -s * rise
        xi = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
    else:
        xi = (x - x_k) / width
    mix = xi * (1 - xi)
    denominator = s + bend * mix
    log_slope = (
        2 * s.log()
        + (d_next * xi**2 + 2 * s * mix + d_k * (1 - xi) ** 2).log()
        - 2 * denominator.log()
    )
    if inverse:
        return x_k + xi * width, -log_slope
    return y_k + height * (s * xi**2 + d_k * mix) / denominator, log_slope


def monotone_slopes(x: Tensor, y: Tensor) -> Tensor:
    """Slopes at the knots of a column: weighted harmonic means of the neighbouring secants.

    Parameters
    ----------
    x, y : tensors of shape (K,)
        Strictly increasing knots, K >= 2.

    Returns
    -------
    tensor of shape (K,)
        Positive slopes; at the two ends the secant itself.

    References
    ----------
    Fritsch and Butland, "A method for constructing local monotone piecewise cubic
    interpolants", 1984.
    """
    width = x.diff()
    secant = y.diff() / width
    before, after = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    inner = (before + after) / (before / secant[:-1] + after / secant[1:])
    return torch.cat([secant[:1], inner, secant[-1:]])
