"""Monotone maps of numbers with parameters: what a coupling does to a column."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from .splines import Bins


class Transformer(ABC):
    """A monotone map of numbers with parameters; the identity where they are zero."""

    n_parameters: int

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """Image of x (..., d), its log-slope, and what `gradient` needs.

        The parameters are of shape (..., d, n_parameters).
        """

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """Preimage of y."""

    @abstractmethod
    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the parameters."""


class Affine(Transformer):
    """``y = exp(s) x + m`` with the log-scale s bounded smoothly by 2."""

    n_parameters = 2
    limit = 2.0

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """See `Transformer.forward`."""
        log_scale, shift = bounded(parameters[..., 0], self.limit), parameters[..., 1]
        scaled = log_scale.exp() * x
        return scaled + shift, log_scale, (scaled, log_scale)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """See `Transformer.inverse`."""
        return (y - parameters[..., 1]) * (-bounded(parameters[..., 0], self.limit)).exp()

    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Transformer.gradient`."""
        scaled, log_scale = kept
        to_scale = torch.addcmul(grad_log_slope, grad_y, scaled)
        to_scale = to_scale * bounded_slope(log_scale, self.limit)
        return grad_y * log_scale.exp(), torch.stack([to_scale, grad_y], dim=-1)


class RationalQuadratic(Transformer):
    """Spline on an interval around 0, the identity outside.

    Parameters
    ----------
    n_bins : int
    bound : float
        The interval is (-bound, bound).
    """

    # Logarithms of ratios of widths, of heights and of slopes stay below it: bins too narrow or
    # steep would cost the inverse its accuracy.
    limit = 2.5

    def __init__(self, n_bins: int, bound: float = 4.0) -> None:
        self.n_bins, self.bound = n_bins, bound
        self.n_parameters = 3 * n_bins - 1

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bounded parameters, shares of the bins, knots on both axes, and slopes."""
        parameters = bounded(parameters, self.limit)
        sizes = parameters[..., : 2 * self.n_bins].unflatten(-1, (2, self.n_bins)).exp()
        shares = sizes / sizes.sum(-1, keepdim=True)
        inner = (2 * self.bound) * shares[..., :-1].cumsum(-1) - self.bound
        knots = pad(pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)
        slopes = pad(parameters[..., 2 * self.n_bins :], (1, 1)).exp()
        return parameters, shares, knots, slopes

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """See `Transformer.forward`."""
        parameters, shares, knots, slopes = self._knots(parameters)
        bins = Bins.holding(x, knots[..., 0, :], knots[..., 1, :], slopes, inverse=False)
        y, point = bins.evaluate()
        inside = x.abs() <= self.bound
        y, log_slope = torch.where(inside, y, x), torch.where(inside, point.log_slope, 0.0)
        return y, log_slope, (inside, bins, point, parameters, shares)

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """See `Transformer.inverse`."""
        _, _, knots, slopes = self._knots(parameters)
        bins = Bins.holding(y, knots[..., 0, :], knots[..., 1, :], slopes, inverse=True)
        return torch.where(y.abs() <= self.bound, bins.invert()[0], y)

    def gradient(
        self, kept: tuple, grad_y: Tensor, grad_log_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Transformer.gradient`."""
        inside, bins, point, parameters, shares = kept
        inner_y, inner_slope = grad_y * inside, grad_log_slope * inside
        to_x, *ends, to_d_k, to_d_next = bins.gradient(point, inner_y, inner_slope)
        starts, sizes = torch.stack(ends[::2], dim=-1), torch.stack(ends[1::2], dim=-1)
        # A share moves the start of all later bins and is the size of its own.
        before = torch.arange(self.n_bins, device=grad_y.device) < bins.k
        to_shares = starts[..., None] * before[..., None, :].to(grad_y.dtype)
        own = bins.k[..., None, :].expand(*starts.shape, 1)
        to_shares.scatter_(-1, own, sizes[..., None])
        mean = (shares * to_shares).sum(-1, keepdim=True)
        to_shares = (2 * self.bound) * shares * (to_shares - mean)
        to_slopes = grad_y.new_zeros(*grad_y.shape, self.n_bins + 1)
        to_slopes.scatter_(-1, bins.k, (to_d_k * bins.d_k)[..., None])
        to_slopes.scatter_(-1, bins.k + 1, (to_d_next * bins.d_next)[..., None])
        to_parameters = torch.cat([to_shares.flatten(-2), to_slopes[..., 1:-1]], dim=-1)
        to_parameters = to_parameters * bounded_slope(parameters, self.limit)
        return torch.where(inside, to_x, grad_y), to_parameters


def bounded(x: Tensor, limit: float) -> Tensor:
    """Map numbers smoothly into (-limit, limit)."""
    return limit * torch.tanh(x)


def bounded_slope(value: Tensor, limit: float) -> Tensor:
    """Derivative of `bounded` where it has a value."""
    return torch.addcmul(value.new_full((), limit), value, value, value=-1 / limit)
