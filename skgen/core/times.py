"""Times: what networks see of them, and those of training with what depends on them alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .paths import GaussianPath, LinearPath

# What training may predict: the factor by which an error of the straight velocity is one of it, at
# times t of a path. The network always gives the straight velocity, from which all follow without
# dividing by anything small.
TARGETS: dict[str, Callable[[GaussianPath, Tensor], Tensor]] = {
    "velocity": lambda path, t: path.straight_rate(t),
    "noise": lambda path, t: path.straight_time(t),
    "data": lambda path, t: 1 - path.straight_time(t),
    # Of alpha noise - sigma data: the velocity by the angle, where alpha^2 + sigma^2 is 1.
    "angular_velocity": lambda path, t: path.gaussian_scale(t) ** 2 / sum(path.coefficients(t)),
}


class TimeFeatures(nn.Module):
    """What the networks see of the time.

    Two kinds: ``sin(w t)`` and ``cos(w t)`` with frequencies ``w`` up to 20 rad per unit t; and
    the magnification ``zoom(t) = (sigma(t)^2 + resolution^2)^(-1/2)``, alone and times ``t``. Near
    the data, where sigma vanishes, the velocity varies over distances of order sigma; units that
    also see ``zoom * x`` resolve it with weights of ordinary size. The last feature is 1, whose
    weights are biases.

    Parameters
    ----------
    path : GaussianPath
        Gives ``sigma(t)``.
    n_frequencies : int
        Number of frequencies, spaced geometrically from 1.
    resolution : float
        Bounds the magnification.
    """

    # Faster waves fit no better and make the ODE harder: with 100 rad per unit t the log-density
    # of a 10-feature table needs twice the steps for the same error.
    fastest = 20.0
    frequencies: Tensor
    phases: Tensor

    def __init__(
        self, path: GaussianPath, n_frequencies: int = 6, resolution: float = 0.05
    ) -> None:
        super().__init__()
        self.path, self.resolution = path, resolution
        phases = torch.tensor([0.0, math.pi / 2], dtype=torch.float32)
        self.register_buffer("phases", phases.repeat_interleave(n_frequencies))
        waves = torch.logspace(0, math.log10(self.fastest), n_frequencies, dtype=torch.float32)
        self.register_buffer("frequencies", waves.repeat(2))
        self.n_features = 2 * n_frequencies + 3

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, n_features) and magnification (n, 1) at times (n, 1)."""
        waves = torch.addcmul(self.phases.to(t.dtype), t, self.frequencies.to(t.dtype)).sin_()
        zoom = (self.path.coefficients(t)[1] ** 2 + self.resolution**2).rsqrt()
        return torch.cat([waves, zoom, zoom * t, torch.ones_like(t)], dim=1), zoom


class TimeColumns(NamedTuple):
    """What a batch of training takes from its times: columns (n, 1), and features (n, k).

    Positions and velocities are those of the straight path, at the time r that corresponds.
    """

    alpha: Tensor  # coefficients of data and noise in the position
    sigma: Tensor
    data_rate: Tensor  # in its excess velocity
    noise_rate: Tensor
    origin_rate: Tensor  # of the excess velocity by the data at a given position
    precision: Tensor  # log N(y; alpha x, sigma^2) = precision y x + penalty x^2 + ...
    penalty: Tensor
    weight: Tensor | None  # of a squared error, unless it is 1 at all times
    growth: Tensor  # path velocity = growth * position + rate * straight excess velocity
    rate: Tensor
    features: Tensor  # for the network
    zoom: Tensor

    def split(self, size: int) -> list[TimeColumns]:
        """Divide into batches."""
        parts = [[None] * (len(self.alpha) // size) if c is None else c.split(size) for c in self]
        return [TimeColumns(*batch) for batch in zip(*parts, strict=True)]


class TrainingTimes:
    """Times for training, with all that depends on them alone.

    They are ``t = 1 - (1-u)^power`` for uniform u, scaled to the path's interval.

    Parameters
    ----------
    path : GaussianPath
    target : str
        Key of `TARGETS`.
    features : callable
        Maps straight times (n, 1) to what the network sees of them, features and zoom.
    power : float
    """

    least_sigma = 0.02  # below it a position tells its row, and rounding would decide otherwise

    def __init__(
        self,
        path: GaussianPath,
        target: str,
        features: Callable[[Tensor], tuple[Tensor, Tensor]],
        power: float,
    ) -> None:
        self.path, self.target, self.features, self.power = path, target, features, power
        evenly = (torch.arange(2**12, dtype=torch.float64)[:, None] + 0.5) / 2**12
        weights = self._weights(self._of_path(evenly))
        self.mean_weight = float(weights.mean())
        self.weighted = bool((weights != weights[0]).any())

    def _of_path(self, u: Tensor) -> Tensor:
        first, last = self.path.interval
        u = u.clamp(max=1 - 2**-24)  # rounded, it may be 1
        return first + (last - first) * (1 - (1 - u) ** self.power)

    def _weights(self, t: Tensor) -> Tensor:
        return TARGETS[self.target](self.path, t).square().expand_as(t)

    def __call__(self, u: Tensor) -> TimeColumns:
        """Columns for uniform numbers (n, 1) in [0, 1]."""
        t = self._of_path(u)
        straight, r = LinearPath(), self.path.straight_time(t)
        alpha, sigma = straight.coefficients(r)
        data_rate, noise_rate = straight.excess_coefficients(r)
        rate = self.path.straight_rate(t)
        growth = sum(self.path.derivatives(t)) + rate * straight.gaussian_gain(r)
        clear, ratio = sigma < self.least_sigma, alpha / sigma.clamp(min=self.least_sigma)
        return TimeColumns(
            alpha,
            sigma,
            data_rate,
            noise_rate,
            (data_rate - noise_rate * ratio).masked_fill(clear, 0.0),
            ratio / sigma.clamp(min=self.least_sigma),
            -0.5 * ratio**2,
            self._weights(t) / self.mean_weight if self.weighted else None,
            growth,
            rate,
            *self.features(r),
        )
