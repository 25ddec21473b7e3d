"""Samplers of diffusion chains: ancestral, DDIM and DPM-Solver++, over any choice of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import standard_normal
from .paths import Parts
from .progress import counted
from .samplers import PathFlow
from .schedules import SchedulePath


class Level(NamedTuple):
    """Coefficients of data and noise at a step of a chain, ``alpha^2 + sigma^2 = 1``."""

    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        """Logarithm of ``alpha / sigma``, half the log signal-to-noise ratio."""
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


class Step(NamedTuple):
    """A step of a chain towards the data, with what came before."""

    x: Tensor
    parts: Parts  # mean data and noise at x
    now: Level
    then: Level
    noise: Tensor
    before: tuple[Level, Parts] | None
    variance: str


def posterior(now: Level, then: Level, variance: str) -> tuple[float, float, float]:
    """Coefficients of data and position in the mean of the earlier position, and its variance.

    The noise between the two has variance ``beta = 1 - (alpha_now / alpha_then)^2``. The exact
    posterior given the data has ``beta_tilde = beta sigma_then^2 / sigma_now^2``; "beta" is the
    other end of the range of sensible variances.
    """
    beta = 1 - (now.alpha / then.alpha) ** 2
    data = then.alpha * beta / now.sigma**2
    position = now.alpha / then.alpha * then.sigma**2 / now.sigma**2
    return data, position, beta if variance == "beta" else beta * (then.sigma / now.sigma) ** 2


def ancestral(step: Step) -> Tensor:
    """Draw from the chain itself: a normal step, without noise at the end."""
    data, position, variance = posterior(step.now, step.then, step.variance)
    mean = data * step.parts.data + position * step.x
    return mean + math.sqrt(variance) * step.noise if step.then.sigma else mean


def ddim(step: Step) -> Tensor:
    """Keep the noise and the data found: ``alpha' data + sigma' noise``."""
    return step.then.alpha * step.parts.data + step.then.sigma * step.parts.noise


def _extrapolated(step: Step) -> Tensor:
    """Data in the middle of the step, from those at its start and at the start of the last one."""
    if step.before is None or not step.then.sigma:
        return step.parts.data
    level, parts = step.before
    size = step.then.log_ratio - step.now.log_ratio
    ratio = (step.now.log_ratio - level.log_ratio) / size
    return step.parts.data + (step.parts.data - parts.data) / (2 * ratio)


def dpm_solver(step: Step) -> Tensor:
    """DPM-Solver++ (2M): exact for data that change linearly with the log ratio."""
    ratio = step.then.sigma * step.now.alpha / (step.now.sigma * step.then.alpha)
    data = step.then.alpha * (1 - ratio) * _extrapolated(step)
    return step.then.sigma / step.now.sigma * step.x + data


def dpm_solver_sde(step: Step) -> Tensor:
    """SDE-DPM-Solver++ (2M), which draws noise anew in each step."""
    ratio = step.then.sigma * step.now.alpha / (step.now.sigma * step.then.alpha)
    data = step.then.alpha * (1 - ratio**2) * _extrapolated(step)
    kept = step.then.sigma / step.now.sigma * ratio * step.x
    return kept + data + step.then.sigma * math.sqrt(1 - ratio**2) * step.noise


class Kind(NamedTuple):
    """A sampler of a chain, and how many steps it takes by default; None for all."""

    step: Callable[[Step], Tensor]
    n_steps: int | None


DIFFUSION_SAMPLERS: dict[str, Kind] = {
    "ancestral": Kind(ancestral, None),
    "ddim": Kind(ddim, 50),
    "dpm_solver++": Kind(dpm_solver, 20),
    "dpm_solver++_sde": Kind(dpm_solver_sde, 50),
}


@dataclass(frozen=True)
class DiffusionSampler:
    """A way from noise to data over some of the steps of a chain.

    Parameters
    ----------
    kind : str
        Key of `DIFFUSION_SAMPLERS`.
    n_steps : int
        At most the steps of the chain.
    variance : {"beta", "beta_tilde"}
        Of the steps of the ancestral sampler.
    spacing : float
        Few steps are such that ``log (sigma / (1 + spacing alpha))`` changes evenly: near the data
        as the log ratio does, near the noise slower, the smaller the spacing the less so.

    References
    ----------
    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020. Song, Meng and Ermon,
    "Denoising diffusion implicit models", 2021. Lu et al., "DPM-Solver++", 2022.
    """

    kind: str
    n_steps: int
    variance: str = "beta"
    spacing: float = 2.0

    def steps(self, path: SchedulePath) -> list[int]:
        """Steps of the chain that are visited, from the last to 0: all, or down to 1 few."""
        if self.n_steps >= path.n_timesteps:
            return list(range(path.n_timesteps, -1, -1))
        alpha, sigma = path.coefficients(1 - path.steps[1:] / path.n_timesteps)
        places = (sigma / (1 + self.spacing * alpha)).log()
        first, last = places[[0, -1]].tolist()
        wanted = torch.linspace(first, last, self.n_steps, dtype=torch.float64)
        nearest = (1 + torch.searchsorted(places, wanted)).clamp(max=path.n_timesteps).tolist()
        return [*sorted(set(nearest), reverse=True), 0]

    @torch.no_grad()
    def positions(
        self, flow: PathFlow, n: int, generator: torch.Generator
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield times and positions (n, d) of n rows at the last step and at each visited one."""
        path = flow.path
        assert isinstance(path, SchedulePath)
        x, before = flow.base.sample(n, generator), None
        yield 0.0, x
        steps = list(pairwise(self.steps(path)))
        for k, k_next in counted(steps, n / len(steps)):
            now, then = Level(*path.levels(k)), Level(*path.levels(k_next))
            parts = flow.parts(x.new_tensor(1 - k / path.n_timesteps), x)
            noise = standard_normal(n, x, generator)
            step = Step(x, parts, now, then, noise, before, self.variance)
            x, before = DIFFUSION_SAMPLERS[self.kind].step(step), (now, parts)
            yield 1 - k_next / path.n_timesteps, x
