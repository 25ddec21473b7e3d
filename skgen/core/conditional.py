"""Simple densities given conditions, through a linear regression on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .gaussian import Gaussian, column_moments
from .interfaces import Density


class Residual(Density):
    """Density of x given conditions c through what a linear regression on them leaves.

    ``p(x | c) = sum_l w_l(c) p_l(x - c B)``, the weights proportional to some columns of c, 0 or 1:
    those that tell categories, or the last, which is 1 wherever the conditions are known.

    Parameters
    ----------
    coefficients : tensor of shape (k, d)
        B of the regression.
    known : sequence of Density
        The densities p_l of residuals.
    columns : sequence of int
        The column of c that gives the weight of each.
    unknown : Density
        Of x where the conditions are unknown.
    """

    coefficients: Tensor
    unknown: Density

    def __init__(
        self,
        coefficients: Tensor,
        known: Sequence[Density],
        columns: Sequence[int],
        unknown: Density,
    ) -> None:
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.known, self.columns, self.unknown = nn.ModuleList(known), list(columns), unknown

    def _weights(self, conditions: Tensor) -> Tensor:
        """Weights (n, L + 1) of the densities of residuals, and of that for unknown conditions."""
        gates = torch.cat([conditions[:, self.columns], 1 - conditions[:, -1:]], dim=1)
        return gates / gates.sum(1, keepdim=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows."""
        coefficients = self.coefficients.to(x.dtype)
        x, conditions = x.split([coefficients.shape[1], len(coefficients)], dim=1)
        residual, weights = x - conditions @ coefficients, self._weights(conditions)
        joint = torch.full_like(weights, -math.inf)
        for k, density in enumerate([*self.known, self.unknown]):
            rows = (weights[:, k] > 0).nonzero()[:, 0]
            if len(rows):  # with many categories most have none
                log_prob = cast(Density, density).log_prob(residual[rows])
                joint[rows, k] = log_prob + weights[rows, k].log()
        return joint.logsumexp(1)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw the features (n, d) of rows given their conditions (n, k)."""
        assert conditions is not None
        conditions = conditions.to(self.coefficients)
        choice = torch.multinomial(self._weights(conditions), 1, generator=generator)[:, 0]
        x = conditions @ self.coefficients
        for k, density in enumerate([*self.known, self.unknown]):
            rows = (choice == k).nonzero()[:, 0]
            if len(rows):
                x[rows] += cast(Density, density).sample(len(rows), generator)
        return x


def fit_residual(x: Tensor, conditions: Tensor, fit: Callable[[Tensor], Density]) -> Density:
    """Fit a density of rows x (n, d) given conditions (n, k); without any, one of x alone."""
    if not conditions.shape[1]:
        return fit(x)
    coefficients = torch.linalg.pinv(conditions) @ x
    return Residual(coefficients, [fit(x - conditions @ coefficients)], [-1], fit(x))


def fit_categories(x: Tensor, conditions: Tensor, unknown: Density, ridge: float) -> Density:
    """Fit a Gaussian of rows x (n, d) for each category that conditions (n, k) tell.

    It has the covariance S of the residuals of its rows, shrunk towards that of all residuals, P:
    ``(n S + d P) / (n + d)`` if there are n of them. Without categories P serves all rows; without
    conditions, ``unknown`` does.

    Parameters
    ----------
    x : tensor of shape (n, d)
    conditions : tensor of shape (n, k)
    unknown : Density
        Where the conditions are unknown.
    ridge : float
        Added to the diagonal of P, in units of each column's variance.
    """
    if not conditions.shape[1]:
        return unknown
    (n, d), told = x.shape, conditions[:, :-1]
    columns = ((told == 0) | (told == 1)).all(0).nonzero()[:, 0].tolist() or [-1]
    coefficients = torch.linalg.pinv(conditions) @ x
    residual, scale = x - conditions @ coefficients, column_moments(x)[1].sqrt()
    residual = residual / scale
    pooled = residual.T @ residual / n + ridge * torch.eye(d).to(x)
    known = []
    for column in columns:
        own = residual[conditions[:, column] > 0]
        covariance = (own.T @ own + d * pooled) / (len(own) + d)
        root = scale[:, None] * torch.linalg.cholesky(covariance)
        known.append(Gaussian(torch.zeros_like(scale), root))
    return Residual(coefficients, known, columns, unknown)
