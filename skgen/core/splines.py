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
    rest: Tensor  # 1 - xi
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

    # Factors are given as ``alpha`` and ``value`` where they can be: PyTorch makes a tensor of any
    # other number, which takes longer than the arithmetic of a batch.

    def _bend(self, s: Tensor) -> Tensor:
        """``d_{k+1} + d_k - 2 s``."""
        return torch.sub(self.d_next + self.d_k, s, alpha=2)

    def at(self, xi: Tensor) -> Point:
        """Evaluate at shares ``xi`` of the widths."""
        s, rest = self.height / self.width, torch.sub(torch.ones_like(xi), xi)
        mix, bend = xi * rest, self._bend(s)
        inverse = torch.addcmul(s, bend, mix).reciprocal()
        down = self.d_k * rest
        ends = torch.addcmul(down * rest, self.d_next * xi, xi)
        steepness = torch.addcmul(ends, s, mix, value=2)
        value = torch.addcmul(down, s, xi) * xi * inverse
        log_slope = ((s * inverse).square() * steepness).log()
        return Point(xi, rest, s, mix, bend, inverse, steepness, value, log_slope)

    def evaluate(self) -> tuple[Tensor, Point]:
        """Values, and what else is known there."""
        point = self.at((self.x - self.x_k) / self.width)
        return torch.addcmul(self.y_k, self.height, point.value), point

    def invert(self) -> tuple[Tensor, Point]:
        """Preimages of x, and what is known there."""
        s, rise = self.height / self.width, self.x - self.y_k
        turn, drop = rise * self._bend(s), s * rise
        a = torch.addcmul(turn, self.height, s - self.d_k)
        b = self.height * self.d_k - turn
        root = torch.addcmul(b.square(), a, drop, value=4).clamp(min=0).sqrt()
        xi = (drop + drop) / (b + root)
        return torch.addcmul(self.x_k, xi, self.width), self.at(xi)

    def gradient(self, point: Point, grad_y: Tensor, grad_log_slope: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, x_k, y_k, width, height, d_k and d_next through `evaluate`."""
        xi, rest, s, mix, bend, inverse, steepness, value, _ = point
        by_steepness, turn, square = grad_log_slope / steepness, rest - xi, xi.square()
        by_numerator = grad_y * self.height * inverse
        # Minus the gradient of the denominator.
        by_denominator = torch.addcmul(by_numerator * value, grad_log_slope, inverse, value=2)
        to_mix = by_numerator - by_denominator
        up, down = by_steepness * xi, by_steepness * rest
        to_d_k = torch.addcmul(to_mix * mix, down, rest)
        to_d_next = torch.addcmul(up * xi, by_denominator, mix, value=-1)
        to_s = torch.addcdiv(by_numerator * square, grad_log_slope, s, value=2)
        to_s = torch.addcmul(to_s, by_steepness, mix, value=2)
        to_s = torch.addcmul(to_s, by_denominator, torch.addcmul(square, rest, rest), value=-1)
        half = torch.addcmul(by_numerator * xi, by_steepness, turn)
        half = torch.addcmul(torch.addcmul(self.d_next * up, self.d_k, down, value=-1), s, half)
        by_mix = torch.addcmul(by_numerator * self.d_k, by_denominator, bend, value=-1)
        to_x = torch.add(by_mix * turn, half, alpha=2) / self.width
        to_s = to_s / self.width
        to_width = torch.addcmul(to_x * xi, to_s, s).neg_()
        to_height = torch.addcmul(to_s, grad_y, value)
        return to_x, to_x.neg(), grad_y, to_width, to_height, to_d_k, to_d_next


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
