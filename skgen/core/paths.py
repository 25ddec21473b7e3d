"""Gaussian probability paths from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class GaussianPath(ABC):
    """A path ``x_t = alpha(t) * data + sigma(t) * noise`` with standard normal noise.

    A path gives the two coefficients and their time derivatives; the rest follows.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants: a unifying framework for
    flows and diffusions", 2023. Lipman et al., "Flow matching for generative modeling", 2023.
    """

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


class LinearPath(GaussianPath):
    """The straight path ``x_t = t * data + (1 - t) * noise``."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return one, -one
