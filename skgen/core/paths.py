"""Gaussian probability paths from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor


class Parts(NamedTuple):
    """The hub: the data and the noise that a position on a path consists of."""

    data: Tensor
    noise: Tensor


class GaussianPath(ABC):
    """A path ``x_t = alpha(t) * data + sigma(t) * noise`` with standard normal noise.

    A path gives the two coefficients and their time derivatives; the rest follows. Both are never
    negative nor zero together, and ``alpha / sigma`` grows. Divided by ``alpha + sigma``, every
    path is the straight one at another time: ``x_t = s ((1-r) noise + r data)`` with
    ``r = alpha / s`` and ``s = alpha + sigma``. So one network, one solver and one log-density
    serve all paths; they differ in how training weighs the times and in the steps of samplers.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants: a unifying framework for
    flows and diffusions", 2023. Lipman et al., "Flow matching for generative modeling", 2023.
    """

    # Where the derivatives are finite; training and random samplers stay within.
    interval: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients ``alpha`` of the data and ``sigma`` of the noise at times ``t``."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Time derivatives of the two coefficients at times ``t``."""

    def gaussian_scale(self, t: Tensor) -> Tensor:
        """Standard deviation of ``x_t`` for independent standard normal data and noise."""
        alpha, sigma = self.coefficients(t)
        return (alpha**2 + sigma**2).sqrt()

    def gaussian_gain(self, t: Tensor) -> Tensor:
        """Factor ``c(t)`` of the velocity ``c(t) * x`` that carries N(0, I) to N(0, I).

        For independent standard normal data and noise, ``E[velocity | x_t] = c(t) * x_t`` with
        ``c = (alpha alpha' + sigma sigma') / (alpha^2 + sigma^2)``, the logarithmic derivative of
        `gaussian_scale`.
        """
        alpha, sigma = self.coefficients(t)
        alpha_dot, sigma_dot = self.derivatives(t)
        return (alpha * alpha_dot + sigma * sigma_dot) / (alpha**2 + sigma**2)

    def excess_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of data and noise in the excess velocity ``dx_t/dt - c(t) x_t``."""
        gain, values, rates = self.gaussian_gain(t), self.coefficients(t), self.derivatives(t)
        data, noise = (rate - gain * value for rate, value in zip(rates, values, strict=True))
        return data, noise

    def straight_time(self, t: Tensor) -> Tensor:
        """Time r at which the straight path is this one at t, but for a factor."""
        alpha, sigma = self.coefficients(t)
        return alpha / (alpha + sigma)

    def straight_rate(self, t: Tensor) -> Tensor:
        """Velocity of this path over that of the straight one, at the same data and noise.

        ``(alpha + sigma) r'``, but for a part along x that needs no network.
        """
        (alpha, sigma), (alpha_dot, sigma_dot) = self.coefficients(t), self.derivatives(t)
        return (alpha_dot * sigma - alpha * sigma_dot) / (alpha + sigma)

    def position(self, t: Tensor, parts: Parts) -> Tensor:
        """Position ``alpha data + sigma noise``."""
        alpha, sigma = self.coefficients(t)
        return alpha * parts.data + sigma * parts.noise

    def velocity(self, t: Tensor, parts: Parts) -> Tensor:
        """Velocity ``alpha' data + sigma' noise``, also of their conditional means."""
        alpha_dot, sigma_dot = self.derivatives(t)
        return alpha_dot * parts.data + sigma_dot * parts.noise

    def score(self, t: Tensor, parts: Parts) -> Tensor:
        """Gradient ``-noise / sigma`` of the log-density of ``x_t``, from the mean noise at x."""
        return -parts.noise / self.coefficients(t)[1]

    def from_velocity(self, t: Tensor, x: Tensor, velocity: Tensor) -> Parts:
        """Mean data and noise at position x with this mean velocity."""
        (alpha, sigma), (alpha_dot, sigma_dot) = self.coefficients(t), self.derivatives(t)
        determinant = alpha_dot * sigma - alpha * sigma_dot
        data = (sigma * velocity - sigma_dot * x) / determinant
        return Parts(data, (alpha_dot * x - alpha * velocity) / determinant)

    def from_noise(self, t: Tensor, x: Tensor, noise: Tensor) -> Parts:
        """Mean data and noise at position x; not where alpha vanishes."""
        alpha, sigma = self.coefficients(t)
        return Parts((x - sigma * noise) / alpha, noise)

    def from_data(self, t: Tensor, x: Tensor, data: Tensor) -> Parts:
        """Mean data and noise at position x; not where sigma vanishes."""
        alpha, sigma = self.coefficients(t)
        return Parts(data, (x - alpha * data) / sigma)

    def from_score(self, t: Tensor, x: Tensor, score: Tensor) -> Parts:
        """Mean data and noise at position x; not where alpha vanishes."""
        return self.from_noise(t, x, -self.coefficients(t)[1] * score)


class LinearPath(GaussianPath):
    """The straight path ``x_t = t * data + (1 - t) * noise``."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return one, -one


@dataclass
class LipmanPath(GaussianPath):
    """Straight, but noise of standard deviation ``sigma_min`` remains: ``1 - (1 - sigma_min) t``.

    References
    ----------
    Lipman et al., "Flow matching for generative modeling", 2023.
    """

    sigma_min: float = 0.01

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - (1 - self.sigma_min) * t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return one, (self.sigma_min - 1) * one


@dataclass
class IndependentPath(GaussianPath):
    """Independent conditional flow matching: straight, with noise of constant size on top.

    ``(1 - t) x_0 + t x_1 + s e`` with two independent standard normal noises is
    ``t x_1 + sqrt((1-t)^2 + s^2) noise``; at t = 0 that is N(0, (1 + s^2) I).

    References
    ----------
    Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
    transport", 2024.
    """

    sigma: float = 0.1

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, ((1 - t) ** 2 + self.sigma**2).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), (t - 1) / self.coefficients(t)[1]


class TrigonometricPath(GaussianPath):
    """``sin(pi t / 2) data + cos(pi t / 2) noise``, of constant variance for whitened data."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (pi / 2 * t).sin(), (pi / 2 * (1 - t)).sin()  # exactly 0 at both ends

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return pi / 2 * (pi / 2 * t).cos(), -pi / 2 * (pi / 2 * (1 - t)).cos()


@dataclass
class VariancePreservingPath(GaussianPath):
    """The path of the variance-preserving diffusion, ``alpha^2 + sigma^2 = 1``.

    ``log alpha = -u beta_min / 2 - u^2 (beta_max - beta_min) / 4`` with ``u = 1 - t``, for any
    number of steps of a chain. A trace of the data, ``alpha = 0.007``, remains at t = 0.

    References
    ----------
    Song et al., "Score-based generative modeling through stochastic differential equations",
    2021.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    interval = (0.0, 0.999)  # the derivative of sigma is not finite at 1

    def _log_alpha(self, t: Tensor) -> Tensor:
        u = 1 - t
        return -0.5 * u * self.beta_min - 0.25 * u**2 * (self.beta_max - self.beta_min)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self._log_alpha(t)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t)
        rate = 0.5 * (self.beta_min + (1 - t) * (self.beta_max - self.beta_min))
        return rate * alpha, -rate * alpha**2 / sigma


@dataclass
class VarianceExplodingPath(GaussianPath):
    """The path of the variance-exploding diffusion: data plus noise of falling size.

    ``sigma = sigma_max (sigma_min / sigma_max)^t``, in units of the whitened data. At t = 0 the
    data are still there; the base has their variance too.

    References
    ----------
    Song et al., "Score-based generative modeling through stochastic differential equations",
    2021.
    """

    sigma_min: float = 0.01
    sigma_max: float = 20.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_max * (log(self.sigma_min / self.sigma_max) * t).exp()
        return torch.ones_like(t), sigma

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = log(self.sigma_min / self.sigma_max)
        return torch.zeros_like(t), rate * self.coefficients(t)[1]


PATHS: dict[str, type[GaussianPath]] = {
    "linear": LinearPath,
    "lipman": LipmanPath,
    "independent": IndependentPath,
    "trigonometric": TrigonometricPath,
    "variance_preserving": VariancePreservingPath,
    "variance_exploding": VarianceExplodingPath,
}
