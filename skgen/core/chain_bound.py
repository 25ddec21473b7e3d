"""Variational bound of a diffusion chain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .diffusion_samplers import Level, posterior
from .gaussian import standard_normal
from .progress import counted
from .samplers import PathFlow
from .schedules import SchedulePath


def normal_divergence(squares: Tensor, ratio: float, d: int) -> Tensor:
    """KL of two isotropic normal densities, nats.

    ``(d (ratio - 1 - log ratio) + squares) / 2`` with the ratio of the variances and the squared
    distance of the means, both over the variance of the second.
    """
    return 0.5 * (d * (ratio - 1 - math.log(ratio)) + squares)


@torch.no_grad()
def chain_bound(
    flow: PathFlow, x: Tensor, variance: str, generator: torch.Generator, share: float = 1.0
) -> Tensor:
    """Lower bound of the log-density of rows x (n, d) under a chain, by one draw a step.

    ``log p(x_0) >= E[log p(x_0 | x_1) - sum_k KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k))]
    - KL(q(x_T | x_0) || N(0, I))``. The first term is a normal log-density, as the data are
    continuous. With "beta_tilde" the variance of the first step, which would be 0, is that of the
    second. To a progress bar it is a share of the work on the rows.

    References
    ----------
    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020.
    """
    path = flow.path
    assert isinstance(path, SchedulePath)
    d, levels = x.shape[1], [Level(*path.levels(k)) for k in range(path.n_timesteps + 1)]
    last = levels[-1]
    away = (last.alpha * x).square().sum(1)
    bound = -normal_divergence(away, last.sigma**2, d)
    steps = range(path.n_timesteps, 0, -1)
    for k in counted(steps, share * len(x) / len(steps)):
        now, then = levels[k], levels[k - 1]
        x_k = now.alpha * x + now.sigma * standard_normal(len(x), x, generator)
        data = flow.parts(x.new_tensor(1 - k / path.n_timesteps), x_k).data
        weight, _, given = posterior(now, then, variance)
        if k == 1:
            given = given or posterior(levels[2], levels[1], variance)[2]
            squares = (x - data).square().sum(1) / given
            bound -= 0.5 * (squares + d * math.log(2 * math.pi * given))
            continue
        exact = posterior(now, then, "beta_tilde")[2]
        squares = weight**2 * (x - data).square().sum(1) / given
        bound -= normal_divergence(squares, exact / given, d)
    return bound
