"""What the training of a flow minimises, and the noise it draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .gaussian import StandardNormal, standard_normal
from .interfaces import Density
from .times import TimeColumns


@dataclass
class Objective:
    """What the training of a flow minimises.

    Parameters
    ----------
    target : str
        Key of `TARGETS`: whose squared error counts. As the network always gives the straight
        velocity, that is a weight that depends on time, of mean 1.
    form : {"regression", "interpolant"}
        Mean squared error, or ``mean (|b|^2 / 2 - b . dx_t/dt)`` of the velocity b of the path
        (rows, not features, are averaged). They differ by a factor and a constant.
    pairing : callable, optional
        Maps noise and data (n, d) to the row of noise for each row of data; None leaves them
        independent.

    References
    ----------
    Albergo and Vanden-Eijnden, "Building normalizing flows with stochastic interpolants", 2023.
    """

    target: str = "velocity"
    form: str = "regression"
    pairing: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(
        self, found: Tensor, target: Tensor, x_t: Tensor, times: TimeColumns
    ) -> tuple[Tensor, Tensor]:
        """Loss of straight excess velocities found for those wanted, and its gradient by them."""
        error = found - target
        if self.form == "regression":
            slope = error if times.weight is None else times.weight * error
            loss = torch.dot(error.flatten(), slope.flatten()) / slope.numel()
            return loss, slope * (2 / slope.numel())
        velocity = torch.addcmul(times.growth * x_t, times.rate, target)
        slope = times.rate.square() * error
        return 0.5 * (error * slope - velocity.square()).sum(1).mean(), slope / len(slope)


class Noise:
    """Noise for training; that of a base other than normal is drawn from rows drawn once.

    Parameters
    ----------
    rows : tensor of shape (m, d), optional
        What to draw from in place of samples of the base.
    """

    n_rows = 2**15

    def __init__(self, rows: Tensor | None = None) -> None:
        self.rows = rows

    def draw(self, base: Density, like: Tensor, generator: torch.Generator) -> Tensor:
        """As many rows as ``like``."""
        if isinstance(base, StandardNormal):
            return standard_normal(len(like), like, generator)
        if self.rows is None:
            self.rows = base.sample(self.n_rows, generator)
        self.rows = self.rows.to(like)
        n_rows = len(self.rows)
        choice = torch.randint(n_rows, (len(like),), generator=generator, device=like.device)
        return self.rows[choice]

    def __getstate__(self) -> dict:
        return {"rows": None}

    def __deepcopy__(self, memo: dict) -> Noise:
        return Noise(self.rows)
