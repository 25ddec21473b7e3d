"""Monotone maps of numbers with parameters: what a coupling does to a column."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, addcmul

from .splines import Bins


class Transformer(ABC):
    """A monotone map of numbers with parameters; the identity where they are zero."""

    n_parameters: int
    muon = False  # whether it pays for the weights that its parameters come from

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """Image of x (...), its log-slope, and what `gradient` needs.

        The parameters are of shape (n_parameters m, ...) for x of shape (m, ...).
        """

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Preimage of y."""

    @abstractmethod
    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the parameters."""


class Bound:
    """Smooth map of numbers into (-limit, limit), with a slope at 0.

    ``x r`` with ``r = 1 / sqrt(1 / slope^2 + x^2 / limit^2)``. It takes a quarter of the time of a
    hyperbolic tangent.

    Parameters
    ----------
    limit, slope : float
    """

    def __init__(self, limit: float, slope: float) -> None:
        self.slope, self.curvature = slope, limit**-2
        # To make this number anew takes as long as to square a row.
        self.at_zero = {
            dtype: torch.full((), slope**-2, dtype=dtype, device="cpu")
            for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        }

    def __call__(self, x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image of x, and r."""
        at_zero = self.at_zero[x.dtype] if x.is_cpu else x.new_full((), self.slope**-2)
        ratio = addcmul(at_zero, x, x, value=self.curvature).rsqrt_()
        return x * ratio if out is None else torch.mul(x, ratio, out=out), ratio

    def derivative(self, ratio: Tensor, scale: float = 1.0) -> Tensor:
        """Derivative where r is a ratio, times a number."""
        factor, cube = scale * self.slope**-2, ratio.pow(3)
        return cube if factor == 1 else cube.mul_(factor)


class Affine(Transformer):
    """``y = exp(s) x + m`` with the log-scale s bounded smoothly by 2."""

    n_parameters = 2
    bound = Bound(limit=2.0, slope=2.0)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """See `Transformer.forward`."""
        log_scale, shift = parameters.split_with_sizes((x.shape[0], x.shape[0]))
        log_scale, ratio = self.bound(log_scale)
        scale = log_scale.exp()
        return addcmul(shift, scale, x), log_scale, (x, scale, ratio)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """See `Transformer.inverse`."""
        log_scale, shift = parameters.split_with_sizes((y.shape[0], y.shape[0]))
        log_scale, _ = self.bound(log_scale)
        return (y - shift) * (-log_scale).exp()

    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Transformer.gradient`."""
        x, scale, ratio = kept
        to_x = grad_y * scale
        to_scale = addcmul(grad_log_slope, to_x, x)
        to_scale.mul_(self.bound.derivative(ratio))
        return to_x, torch.cat([to_scale, grad_y])


class RationalQuadratic(Transformer):
    """Spline on an interval around 0, the identity outside.

    Parameters
    ----------
    n_bins : int
    bound : float
        The interval is (-bound, bound).
    """

    # Logarithms, to base 2, of ratios of widths, of heights and of slopes stay below it: bins too
    # narrow or steep would cost the inverse its accuracy. Powers of 2 take half the time of those
    # of e.
    bound_of_logs = Bound(limit=2.5 / math.log(2), slope=2.5 / math.log(2))
    muon = True

    def __init__(self, n_bins: int, bound: float = 4.0) -> None:
        self.n_bins, self.bound = n_bins, bound
        self.n_parameters = 3 * n_bins - 1

    def _bins(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Bins, tuple]:
        """Bins that hold x, and what `gradient` needs.

        Sizes of bins and slopes are powers of 2; the sizes are then scaled to fill the interval.
        """
        n, axis, shape = self.n_bins, int(inverse), x.shape
        logs, ratio = self.bound_of_logs(parameters)
        sizes, inner = logs.exp2().split_with_sizes((2 * n * len(x), (n - 1) * len(x)))
        sizes, inner = sizes.view(2, n, *shape), inner.view(n - 1, *shape)
        at_end = torch.ones_like(x).unsqueeze(0)
        slopes, ends = torch.cat((at_end, inner, at_end)), sizes.cumsum(1)
        inverse_total = ends.select(1, n - 1).reciprocal()
        scale = inverse_total * (2 * self.bound)
        x = x.clamp(-self.bound, self.bound)
        place = (x + self.bound) / scale.select(0, axis)
        k = (place > ends.select(0, axis).narrow(0, 0, n - 1)).sum(0, keepdim=True)
        own, around = k.expand(2, *k.shape), torch.cat((k, k + 1))
        size, end = sizes.gather(1, own).squeeze(1), ends.gather(1, own).squeeze(1)
        before = end - size
        starts, extents = (before * scale - self.bound).unbind(), (size * scale).unbind()
        bins = Bins(x, *starts, *extents, *slopes.gather(0, around).unbind())
        return bins, (ratio, sizes, scale, inverse_total, before, size, around)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """See `Transformer.forward`."""
        bins, kept = self._bins(x, parameters, inverse=False)
        y, point = bins.evaluate()
        inside = bins.x == x
        mask = inside.to(y.dtype)
        return torch.where(inside, y, x), point.log_slope * mask, (inside, mask, bins, point, kept)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """See `Transformer.inverse`."""
        bins, _ = self._bins(y, parameters, inverse=True)
        return torch.where(bins.x == y, bins.invert()[0], y)

    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Transformer.gradient`."""
        inside, mask, bins, point, from_bins = kept
        ratio, sizes, scale, inverse_total, before, size, around = from_bins
        gradients = bins.gradient(point, grad_y * mask, grad_log_slope * mask)
        to_x, *ends, to_d_k, to_d_next = gradients
        to_start, to_extent = torch.stack(ends[:2]), torch.stack(ends[2:])
        # A bin's share of the interval moves the starts of all later ones and is its own extent;
        # the mean is taken off as the shares add up to 1.
        mean = addcmul(to_start * before, to_extent, size) * inverse_total
        first = ((to_start - mean) * scale).unsqueeze(1)
        # What is added to the first value at k and after it, as a running sum.
        steps = torch.stack((to_extent - to_start, to_extent.neg()), 1) * scale.unsqueeze(1)
        n, shape = self.n_bins, grad_y.shape
        to_sizes = sizes.new_zeros(2, n + 1, *shape).scatter_(1, around.expand_as(steps), steps)
        to_sizes = (to_sizes.cumsum_(1).narrow(1, 0, n) + first) * sizes
        at_knots = torch.stack((to_d_k * bins.d_k, to_d_next * bins.d_next))
        to_slopes = grad_y.new_zeros(n + 1, *shape).scatter_(0, around, at_knots)
        to_parameters = torch.cat(
            (to_sizes.flatten(0, 2), to_slopes.narrow(0, 1, n - 1).flatten(0, 1))
        )
        to_parameters.mul_(self.bound_of_logs.derivative(ratio, math.log(2)))
        return torch.where(inside, to_x, grad_y), to_parameters
