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
    if inverse:
        x, point = spline.invert()
        return x, -point.log_slope
    y, point = spline.evaluate()
    return y, point.log_slope


class Point(NamedTuple):
    """What is known of a spline at a share ``xi`` of the width of a bin."""

    xi: Tensor
    s: Tensor
    mix: Tensor  # xi (1 - xi)
    bend: Tensor
    inverse: Tensor  # of the denominator
    steepness: Tensor
    value: Tensor  # share of the height
    log_slope: Tensor


class Bins(NamedTuple):
    """The bins that numbers x fall into, each tensor of the shape of x."""

    x: Tensor
    x_k: Tensor
    y_k: Tensor
    width: Tensor
    height: Tensor
    d_k: Tensor
    d_next: Tensor

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
        return Bins(x, x_k, y_k, width, height, at(slopes, k), at(slopes, k + 1))

    def at(self, xi: Tensor) -> Point:
        """Evaluate at shares ``xi`` of the widths."""
        s, rest = self.height / self.width, 1 - xi
        mix, bend = xi * rest, self.d_next + self.d_k - 2 * s
        inverse = 1 / torch.addcmul(s, bend, mix)
        up, down = self.d_next * xi, self.d_k * rest
        steepness = up * xi + 2 * s * mix + down * rest
        value = (s * xi + down) * xi * inverse
        log_slope = ((s * inverse).square() * steepness).log()
        return Point(xi, s, mix, bend, inverse, steepness, value, log_slope)

    def evaluate(self) -> tuple[Tensor, Point]:
        """Values, and what else is known there."""
        point = self.at((self.x - self.x_k) / self.width)
        return torch.addcmul(self.y_k, self.height, point.value), point

    def invert(self) -> tuple[Tensor, Point]:
        """Preimages of x, and what is known there."""
        s = self.height / self.width
        rise = self.x - self.y_k
        bend = self.d_next + self.d_k - 2 * s
        a = self.height * (s - self.d_k) + rise * bend
        b = self.height * self.d_k - rise * bend
        c = -s * rise
        xi = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        return torch.addcmul(self.x_k, xi, self.width), self.at(xi)

    def gradient(self, point: Point, grad_y: Tensor, grad_log_slope: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, x_k, y_k, width, height, d_k and d_next through `evaluate`."""
        xi, s, mix, bend, inverse, steepness, value, _ = point
        rest, turn = 1 - xi, 1 - 2 * xi
        by_steepness, by_log = grad_log_slope / steepness, 2 * grad_log_slope
        by_numerator = grad_y * self.height * inverse
        by_denominator = torch.addcmul(by_log * inverse, by_numerator, value)  # negative
        to_mix = by_numerator - by_denominator
        up, down = by_steepness * xi, by_steepness * rest
        square = xi.square()
        to_d_k = torch.addcmul(to_mix * mix, down, rest)
        to_d_next = torch.addcmul(up * xi, by_denominator, mix, value=-1)
        twist = 1 - 2 * mix
        to_s = by_numerator * square + by_log / s + 2 * by_steepness * mix - by_denominator * twist
        to_xi = (
            2 * (s * (by_numerator * xi + by_steepness * turn) + self.d_next * up - self.d_k * down)
            + (by_numerator * self.d_k - by_denominator * bend) * turn
        )
        to_x = to_xi / self.width
        to_width = (to_xi * xi + to_s * s).neg() / self.width
        to_height = torch.addcmul(to_s / self.width, grad_y, value)
        return to_x, -to_x, grad_y, to_width, to_height, to_d_k, to_d_next


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
