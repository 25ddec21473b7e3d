"""Samplers that follow the times of a path: ODE and SDE, with Langevin corrections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import pi
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from .gaussian import standard_normal
from .interfaces import Density, by_columns
from .paths import GaussianPath, Parts
from .progress import counted
from .solvers import SOLVERS


class TimeGrid(NamedTuple):
    """Times as a smooth function of u from 0 to 1, with its derivative."""

    time: Callable[[Tensor], Tensor]
    rate: Callable[[Tensor], Tensor]


TIME_GRIDS = {
    "uniform": TimeGrid(lambda u: u, torch.ones_like),
    # Short steps near the data, where the velocity changes fastest.
    "quadratic": TimeGrid(lambda u: u * (2 - u), lambda u: 2 * (1 - u)),
    # Between the two, the best of few steps. Its rate has no derivative at 1: order 3/2 at most.
    "three_halves": TimeGrid(lambda u: 1 - (1 - u) ** 1.5, lambda u: 1.5 * (1 - u).sqrt()),
    # Short steps at both ends.
    "cosine": TimeGrid(lambda u: (pi / 2 * u).sin() ** 2, lambda u: pi / 2 * (pi * u).sin()),
}
LAST_TIME = 0.999  # of what divides by sigma, which vanishes at 1


Times = Callable[[float], tuple[Tensor, Tensor]]


class PathFlow(Protocol):
    """What samplers ask of a flow."""

    path: GaussianPath
    base: Density

    def parts(self, t: Tensor, x: Tensor) -> Parts:
        """Mean data and noise at positions x (n, d) and a time t of the path."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A way from noise to data in a number of steps.

    Parameters
    ----------
    n_steps : int
    grid : str
        Key of `TIME_GRIDS`.
    n_corrections : int
        Steps of Langevin dynamics after each step.
    """

    n_steps: int
    grid: str = "uniform"
    n_corrections: int = 0

    correction_size: ClassVar[float] = 0.1  # in units of the variance of the noise
    stochastic: ClassVar[bool]

    @torch.no_grad()
    def positions(
        self, flow: PathFlow, n: int, generator: torch.Generator
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield times and positions (n, d) of n rows at the first time and after each step.

        The last step leaves the times at which all is finite, along the straight line to the data
        that the flow sees there.
        """
        x = flow.base.sample(n, generator)
        first, last = flow.path.interval
        last = min(last, LAST_TIME if self.stochastic or self.n_corrections else 1.0)
        grid = TIME_GRIDS[self.grid]

        def time(u: float) -> tuple[Tensor, Tensor]:
            """Time and its derivative by u."""
            at = x.new_tensor(u)
            return first + (last - first) * grid.time(at), (last - first) * grid.rate(at)

        x = flow.path.gaussian_scale(time(0)[0]) * by_columns(x)
        yield first, x
        walk = counted(self._walk(flow, x, time, generator), n / self.n_steps)
        for k, end in enumerate(walk, start=1):
            t = time(k / self.n_steps)[0]
            if k < self.n_steps or last == 1:
                yield float(t), end
            else:
                yield 1.0, flow.path.position(torch.ones_like(t), flow.parts(t, end))

    @abstractmethod
    def _walk(
        self, flow: PathFlow, x: Tensor, time: Times, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield the positions after each step."""

    def _corrected(
        self, flow: PathFlow, x: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        for _ in range(self.n_corrections):
            x = langevin_step(flow, x, t, self.correction_size, generator)
        return x


@dataclass(frozen=True)
class OdeSampler(Sampler):
    """Solution of ``dx/dt = v(x, t)``, in the positions themselves.

    So a straight flow, such as one with optimal transport, takes one step of Euler's method.

    Parameters
    ----------
    solver : str
        Key of `SOLVERS`.
    """

    solver: str = "rk4"
    stochastic: ClassVar[bool] = False

    def _walk(
        self, flow: PathFlow, x: Tensor, time: Times, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """See `Sampler._walk`."""

        def field(u: float, x: Tensor) -> Tensor:
            t, rate = time(u)
            if not rate:  # as at the end of most grids
                return torch.zeros_like(x)
            return rate * flow.path.velocity(t, flow.parts(t, x))

        n, steps = self.n_steps, SOLVERS[self.solver].steps
        if not self.n_corrections:
            yield from steps(field, x, 0.0, 1.0, n)
            return
        for k in range(n):  # each step anew, as corrections leave the solution
            (x,) = steps(field, x, k / n, (k + 1) / n, 1)
            x = self._corrected(flow, x, time((k + 1) / n)[0], generator)
            yield x


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Solution of ``dx = (v + eps s) dt + sqrt(2 eps) dW`` with the score function s.

    Its marginals are those of the flow for any ``eps(t) >= 0``. The default ``eps = sigma(t)``
    cancels the singularity of the score at the data.

    Parameters
    ----------
    heun : bool
        Whether the drift is averaged over both ends of a step (Heun's method), or taken at its
        start (Euler and Maruyama).
    diffusion : float or callable, optional
        ``eps``, constant or a function of t; None is ``sigma(t)``.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants: a unifying framework for flows
    and diffusions", 2023.
    """

    heun: bool = False
    diffusion: float | Callable[[float], float] | None = None
    stochastic: ClassVar[bool] = True

    def _strength(self, path: GaussianPath, t: Tensor) -> Tensor:
        """``eps(t)``."""
        if self.diffusion is None:
            return path.coefficients(t)[1]
        found = self.diffusion(float(t)) if callable(self.diffusion) else self.diffusion
        if not found >= 0:
            raise ValueError(f"diffusion must not be negative, got {found!r} at t={float(t):g}.")
        return t.new_tensor(found)

    def _drift(self, flow: PathFlow, x: Tensor, t: Tensor) -> Tensor:
        parts, path = flow.parts(t, x), flow.path
        ratio = self._strength(path, t) / path.coefficients(t)[1]
        return path.velocity(t, parts) - ratio * parts.noise

    def _walk(
        self, flow: PathFlow, x: Tensor, time: Times, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """See `Sampler._walk`."""
        for k in range(self.n_steps):
            t, t_next = (time(j / self.n_steps)[0] for j in (k, k + 1))
            x = self._step(flow, x, t, t_next, generator)
            x = self._corrected(flow, x, t_next, generator)
            yield x

    def _step(
        self, flow: PathFlow, x: Tensor, t: Tensor, t_next: Tensor, generator: torch.Generator
    ) -> Tensor:
        h, drift, strength = t_next - t, self._drift(flow, x, t), self._strength(flow.path, t)
        noise = standard_normal(len(x), x, generator)
        end = x + h * drift + (2 * strength * h).sqrt() * noise
        if not self.heun:
            return end
        mean_strength = (strength + self._strength(flow.path, t_next)) / 2
        mean_drift = (drift + self._drift(flow, end, t_next)) / 2
        return x + h * mean_drift + (2 * mean_strength * h).sqrt() * noise


def langevin_step(
    flow: PathFlow, x: Tensor, t: Tensor, step_size: float, generator: torch.Generator
) -> Tensor:
    """Step of Langevin dynamics ``dx = s dt' + sqrt(2) dW`` at a fixed time t of the path.

    The step of t' is ``step_size * sigma(t)^2``: what the noise of the path allows.
    """
    h = step_size * flow.path.coefficients(t)[1] ** 2
    score = flow.path.score(t, flow.parts(t, x))
    return x + h * score + (2 * h).sqrt() * standard_normal(len(x), x, generator)
