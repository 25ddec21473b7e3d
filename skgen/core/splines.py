"""Monotone rational-quadratic spline, forward and inverse."""

from __future__ import annotations

from typing import NamedTuple

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
    x : tensor of shape (..., d)
        Input, clamped here to the interval (outside, the formula has no meaning and its
        gradient is not finite: use tails).
    knots_x, knots_y, slopes : tensors of shape (..., d, K)
        Increasing knots and positive slopes, the same for all rows or each row's own. Unused
        trailing knots repeat the last.
    inverse : bool, default=False
        Solve for the input instead.

    Returns
    -------
    y, log_slope : tensors of shape (..., d)
        Value and logarithm of the derivative of the computed direction.

    References
    ----------
    Gregory and Delbourgo, "Piecewise rational quadratic interpolation to monotonic data",
    1982. Durkan et al., "Neural spline flows", 2019.
    """
    spline = Bins.holding(x, knots_x, knots_y, slopes, inverse)
    return spline.invert() if inverse else spline.evaluate()


class Bins(NamedTuple):
    """The bins that numbers x fall into, each tensor of the shape of x."""

    x: Tensor
    x_k: Tensor
    y_k: Tensor
    width: Tensor
    height: Tensor
    d_k: Tensor
    d_next: Tensor
    k: Tensor  # index, one dimension more

    @staticmethod
    def holding(x: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor, inverse: bool) -> Bins:
        """Find the bins, on the axis of the values if ``inverse``."""
        axis = knots_y if inverse else knots_x
        x = torch.minimum(torch.maximum(x, axis[..., 0]), axis[..., -1])
        k = (x[..., None] > axis[..., 1:-1]).sum(-1, keepdim=True)

        def at(values: Tensor, index: Tensor) -> Tensor:
            return values.expand(*x.shape, values.shape[-1]).gather(-1, index)[..., 0]

        x_k, y_k = at(knots_x, k), at(knots_y, k)
        width, height = at(knots_x, k + 1) - x_k, at(knots_y, k + 1) - y_k
        return Bins(x, x_k, y_k, width, height, at(slopes, k), at(slopes, k + 1), k)

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Value and log-slope."""
        xi = (self.x - self.x_k) / self.width
        value, log_slope = self._at(xi)
        return self.y_k + self.height * value, log_slope

    def invert(self) -> tuple[Tensor, Tensor]:
        """Preimage of x and the log-slope of the inverse."""
        s = self.height / self.width
        rise = self.x - self.y_k
        bend = self.d_next + self.d_k - 2 * s
        a = self.height * (s - self.d_k) + rise * bend
        b = self.height * self.d_k - rise * bend
        c = -s * rise
        xi = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        return self.x_k + xi * self.width, -self._at(xi)[1]

    def _at(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the height and log-slope at a share ``xi`` of the width."""
        s, mix = self.height / self.width, xi * (1 - xi)
        denominator = s + (self.d_next + self.d_k - 2 * s) * mix
        steepness = self.d_next * xi**2 + 2 * s * mix + self.d_k * (1 - xi) ** 2
        log_slope = (s**2 * steepness / denominator**2).log()
        return (s * xi**2 + self.d_k * mix) / denominator, log_slope

    def gradient(self, grad_y: Tensor, grad_log_slope: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, x_k, width, y_k, height, d_k and d_next through `evaluate`."""
        xi = (self.x - self.x_k) / self.width
        s, mix, turn = self.height / self.width, xi * (1 - xi), 1 - 2 * xi
        bend = self.d_next + self.d_k - 2 * s
        inverse = 1 / (s + bend * mix)  # of the denominator
        steepness = self.d_next * xi**2 + 2 * s * mix + self.d_k * (1 - xi) ** 2
        value = (s * xi**2 + self.d_k * mix) * inverse
        rise, per_steepness = grad_y * self.height * inverse, grad_log_slope / steepness
        per_denominator = 2 * grad_log_slope * inverse
        to_xi = (
            rise * s * steepness * inverse
            + 2 * per_steepness * (self.d_next * xi + s * turn - self.d_k * (1 - xi))
            - per_denominator * bend * turn
        )
        to_s = (
            rise * (xi**2 - value * (1 - 2 * mix))
            + 2 * grad_log_slope / s
            + 2 * per_steepness * mix
            - per_denominator * (1 - 2 * mix)
        )
        to_d_k = (rise * (1 - value) - per_denominator) * mix + per_steepness * (1 - xi) ** 2
        to_d_next = -(rise * value + per_denominator) * mix + per_steepness * xi**2
        to_x = to_xi / self.width
        to_width = -(to_xi * xi + to_s * s) / self.width
        return to_x, -to_x, to_width, grad_y, grad_y * value + to_s / self.width, to_d_k, to_d_next


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
