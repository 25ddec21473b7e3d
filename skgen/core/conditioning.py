"""A Gaussian mixture given some of its columns, and a Markov chain that corrects its draws."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class GaussianMixture(NamedTuple):
    """Mixture ``sum_m w_m N(mean_m, F_m F_m^T)`` on rows of d features."""

    log_weights: Tensor  # (M,)
    means: Tensor  # (M, d)
    factors: Tensor  # (M, d, d), any square roots of the covariances

    def mapped(self, matrix: Tensor, shift: Tensor) -> GaussianMixture:
        """Mixture that the rows ``matrix x + shift`` follow."""
        means = self.means @ matrix.T + shift
        return GaussianMixture(self.log_weights, means, matrix @ self.factors)


class ConditionalMixture:
    """Density of the unknown columns of a Gaussian mixture given the others, in closed form.

    With the known columns first and ``[[A, 0], [B, C]]`` the Cholesky factor of its covariance, a
    component gives the unknown columns the mean ``mean_u + B A^-1 (x_k - mean_k)`` and the
    covariance ``C C^T``; its weight is multiplied by its density of the known columns.

    Parameters
    ----------
    mixture : GaussianMixture
    known : tensor of bool, shape (d,)
        Which columns are known.
    inflation : float, default=1.0
        Multiplies the conditional standard deviations, for a wider density.
    """

    def __init__(self, mixture: GaussianMixture, known: Tensor, inflation: float = 1.0) -> None:
        self.mixture, self.known = mixture, known
        k = int(known.sum())
        order = torch.argsort((~known).int(), stable=True)
        # F = R^T Q^T, so R^T is the Cholesky factor but for signs. No covariance is formed, which
        # would square the condition of F.
        scale = torch.linalg.qr(mixture.factors[:, order].mT).R.mT
        self.inner, self.cross = scale[:, :k, :k], scale[:, k:, :k]
        self.scale = inflation * scale[:, k:, k:]

    def sample(self, x: Tensor, uniforms: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the unknown columns of each row K times.

        Parameters
        ----------
        x : tensor of shape (n, d)
            Rows; what stands in their unknown columns has no influence.
        uniforms : tensor of shape (n, K)
            Uniform numbers, which choose the components.
        noise : tensor of shape (n, K, d_unknown)
            Standard normal numbers.

        Returns
        -------
        draws : tensor of shape (n, K, d_unknown)
        log_prob : tensor of shape (n, K)
            Their conditional log-densities in nats.
        """
        log_weights, means = self._given(x)
        ends = log_weights.exp().cumsum(1)
        label = torch.searchsorted(ends, uniforms).clamp(max=ends.shape[1] - 1)
        spread = (noise.flatten(0, 1) @ self.scale.mT).view(
            -1, *noise.shape
        )  # (M, n, K, d_unknown)
        draws = (means[:, :, None] + spread).gather(
            0, label[None, ..., None].expand(1, *noise.shape)
        )
        away = draws - means[:, :, None]
        z = _solve(self.scale, away.flatten(1, 2)).view_as(away)
        log_probs = _log_normal(z, self.scale).permute(1, 2, 0)
        return draws[0], (log_weights[:, None] + log_probs).logsumexp(2)

    def _given(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights (n, M) and means (M, n, d_unknown) given the known columns of rows."""
        away = (x[:, None, self.known] - self.mixture.means[:, self.known]).transpose(0, 1)
        z = _solve(self.inner, away)
        log_weights = self.mixture.log_weights + _log_normal(z, self.inner).T
        means = self.mixture.means[:, None, ~self.known] + z @ self.cross.mT
        return log_weights.log_softmax(1), means


def last_of_chain(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Where chains of the independence sampler end that are offered proposals in turn.

    A chain starts at the first proposal and moves to the next with probability
    ``min(1, w_next / w_now)``, with weights w of target over proposal density.

    Parameters
    ----------
    log_weights : tensor of shape (n, K)
        Logarithms of the weights of the proposals of n chains; -infinity is allowed.
    uniforms : tensor of shape (n, K)
        Uniform numbers, which decide the moves.

    Returns
    -------
    index : tensor of shape (n,)
        The proposal at which each chain ends.

    References
    ----------
    Tierney, "Markov chains for exploring posterior distributions", 1994.
    """
    now, index = log_weights[:, 0], torch.zeros_like(log_weights[:, 0], dtype=torch.long)
    log_uniforms = uniforms.log()
    for step in range(1, log_weights.shape[1]):
        offered = log_weights[:, step]
        moves = log_uniforms[:, step] < offered - now  # false for two impossible ones
        now, index = torch.where(moves, offered, now), torch.where(moves, step, index)
    return index


def _solve(scales: Tensor, rows: Tensor) -> Tensor:
    """``scale^-1 row`` of rows (M, n, d) for lower triangular scales (M, d, d)."""
    return torch.linalg.solve_triangular(scales, rows.mT, upper=False).mT


def _log_normal(z: Tensor, scales: Tensor) -> Tensor:
    """Log-density (M, ...) of ``mean + scale z`` for z (M, ..., d) and scales (M, d, d)."""
    log_dets = scales.diagonal(dim1=1, dim2=2).abs().log().sum(1)
    constant = log_dets + 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return -0.5 * z.square().sum(-1) - constant.view(-1, *[1] * (z.dim() - 2))
