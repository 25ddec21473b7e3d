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
        self, path: GaussianPath, n_frequencies: int = 10, resolution: float = 0.05
    ) -> None:
        super().__init__()
        self.path, self.resolution = path, resolution
        phases = torch.tensor([0.0, math.pi / 2]).repeat_interleave(n_frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer(
            "frequencies", torch.logspace(0, math.log10(self.fastest), n_frequencies).repeat(2)
        )
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
    """Times for training, drawn once, with all that depends on them alone.

    To compute that anew in each step would cost a small network a tenth of its training. The times
    are ``t = 1 - (1-u)^power``, scaled to the path's interval. Each batch has one u in each of n
    equal slices of (0, 1), and those of all batches are one in each of the slices' equal parts.

    Parameters
    ----------
    path : GaussianPath
    target : str
        Key of `TARGETS`.
    features : callable
        Maps straight times (n, 1) to what the network sees of them, features and zoom.
    power : float
    """

    n_times = 2**15  # of all batches together, about
    least_sigma = 0.02  # below it a position tells its row, and rounding would decide otherwise

    def __init__(
        self,
        path: GaussianPath,
        target: str,
        features: Callable[[Tensor], tuple[Tensor, Tensor]],
        power: float,
    ) -> None:
        self.path, self.target, self.features, self.power = path, target, features, power
        self.batches: list[tuple[TimeColumns, list[TimeColumns]]] = []
        self.turn = 0

    def next_batches(
        self, x: Tensor, size: int, generator: torch.Generator
    ) -> tuple[TimeColumns, list[TimeColumns]]:
        """Times for rows (n, d), in their dtype and on their device, and those by batch."""
        like = self.batches[0][0].alpha if self.batches else None
        if like is None or (len(like), like.dtype, like.device) != (len(x), x.dtype, x.device):
            self.batches = self._draw(x, size, generator)
        self.turn += 1
        return self.batches[self.turn % len(self.batches)]

    def _draw(
        self, x: Tensor, size: int, generator: torch.Generator
    ) -> list[tuple[TimeColumns, list[TimeColumns]]]:
        n, n_batches = size, -(-self.n_times // len(x)) * (len(x) // size)
        place, offset = torch.rand(
            2, n_batches, n, 1, generator=generator, dtype=x.dtype, device=x.device
        )
        u = torch.arange(n, device=x.device)[:, None] + (place.argsort(0) + offset) / n_batches
        first, last = self.path.interval
        t = first + (last - first) * (1 - (1 - (u / n).flatten(0, 1)) ** self.power)
        straight, r = LinearPath(), self.path.straight_time(t)
        alpha, sigma = straight.coefficients(r)
        data_rate, noise_rate = straight.excess_coefficients(r)
        rate = self.path.straight_rate(t)
        growth = sum(self.path.derivatives(t)) + rate * straight.gaussian_gain(r)
        weight = TARGETS[self.target](self.path, t).square().expand_as(t)
        clear, ratio = sigma < self.least_sigma, alpha / sigma.clamp(min=self.least_sigma)
        columns = (
            alpha,
            sigma,
            data_rate,
            noise_rate,
            (data_rate - noise_rate * ratio).masked_fill(clear, 0.0),
            ratio / sigma.clamp(min=self.least_sigma),
            -0.5 * ratio**2,
            weight / weight.mean(),
            growth,
            rate,
            *self.features(r),
        )
        all_times = TimeColumns(*columns)
        if bool((weight == weight[0]).all()):
            all_times = all_times._replace(weight=None)
        return [(some, some.split(size)) for some in all_times.split(len(x))]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "batches": []}
