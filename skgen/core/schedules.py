"""Noise schedules of diffusion chains, and the path and the steps that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .paths import GaussianPath
from .splines import Bins, monotone_slopes
from .workspace import is_tracked


def linear_betas(n: int) -> Tensor:
    """Variances that grow evenly from 1e-4 to 0.02 for 1000 steps, in proportion for others."""
    return torch.linspace(1e-4, 0.02, n, dtype=torch.float64) * (1000 / n)


def cosine_betas(n: int) -> Tensor:
    """Variances with which ``alpha_bar(k) = cos^2((k/n + 0.008) / 1.008 * pi/2)``.

    References
    ----------
    Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021.
    """
    k = torch.arange(n + 1, dtype=torch.float64) / n
    level = ((k + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return 1 - level[1:] / level[:-1]


BETA_SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
}
MAX_BETA = 0.999


class SchedulePath(GaussianPath):
    """The path on which a diffusion chain lies: step k of T at time ``t = 1 - k / T``.

    ``x_k = sqrt(alpha_bar_k) data + sqrt(1 - alpha_bar_k) noise`` with
    ``alpha_bar_k = prod_j (1 - beta_j)``. Between the steps ``log alpha_bar`` is a smooth monotone
    curve. A trace of the data may remain at t = 0.

    Parameters
    ----------
    betas : tensor of shape (T,)
        Variances of the noise of each step, each in (0, 1).

    References
    ----------
    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020.
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = betas.double().clamp(max=MAX_BETA)
        log_levels = torch.log1p(-self.betas).cumsum(0)
        self.n_timesteps = n = len(betas)
        self.steps = torch.arange(n + 1, dtype=torch.float64)
        self.loss = torch.cat([log_levels.new_zeros(1), -log_levels])  # -log alpha_bar
        self.slopes = monotone_slopes(self.steps, self.loss)
        self.step_coefficients = torch.stack(_coefficients(self.loss), dim=1).tolist()
        self.interval = (0.0, 1 - 1 / n)  # of training: from the last step to the first

    def _loss(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``-log alpha_bar`` and its derivative by the step."""
        step = (self.n_timesteps * (1 - t)).clamp(0, self.n_timesteps)
        steps, loss, slopes = (part.to(t) for part in (self.steps, self.loss, self.slopes))
        value, point = Bins.holding(step, steps, loss, slopes, inverse=False).evaluate()
        return value, point.log_slope.exp()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # A step of a small network costs less than the curve.
        if t.dim() == 0 and not is_tracked():
            step = self.n_timesteps * (1 - float(t))
            k = round(step)
            if 0 <= k <= self.n_timesteps and abs(step - k) < 1e-9:
                alpha, sigma = self.step_coefficients[k]
                return t.new_tensor(alpha), t.new_tensor(sigma)
        return _coefficients(self._loss(t)[0])

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        loss, slope = self._loss(t)
        alpha, sigma = _coefficients(loss)
        rate = 0.5 * self.n_timesteps * slope
        return rate * alpha, -rate * alpha**2 / sigma

    def step_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Step, a real number, at which data and noise have this ratio; the last if none has."""
        loss = torch.log1p((sigma / alpha).square())
        steps, losses, slopes = (part.to(loss) for part in (self.steps, self.loss, self.slopes))
        return Bins.holding(loss, steps, losses, slopes, inverse=True).invert()[0]

    def levels(self, step: float) -> tuple[float, float]:
        """Coefficients of data and noise at a step of the chain, float64."""
        t = torch.tensor(1 - step / self.n_timesteps, dtype=torch.float64)
        alpha, sigma = self.coefficients(t)
        return float(alpha), float(sigma)


def _coefficients(loss: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of data and noise where ``-log alpha_bar`` is this."""
    return (-0.5 * loss).exp(), (-torch.expm1(-loss)).sqrt()
