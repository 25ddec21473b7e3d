"""Preconditioners: bijections with a log-determinant, fitted from data in closed form."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .interfaces import Bijection
from .splines import monotone_slopes, rational_quadratic


class Whitening(Bijection):
    """``z = C^(-1/2) (x - mean) / scale``, of identity covariance, with C the correlation matrix.

    The symmetric root changes the axes least of all whitening matrices.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows, float64.
    regularisation : float
        Variance added to each standardised column before the root is taken; bounds how far
        nearly dependent columns are stretched.
    """

    mean: Tensor
    matrix: Tensor
    matrix_inverse: Tensor
    log_det: Tensor

    def __init__(self, x: Tensor, regularisation: float) -> None:
        super().__init__()
        scale = _spread(x)
        standard = (x - x.mean(0)) / scale
        covariance = standard.T @ standard / len(x)
        variances, axes = torch.linalg.eigh(covariance)
        variances = variances.clamp(min=0) + regularisation
        root = (axes * variances.rsqrt()) @ axes.T / scale
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("matrix", root)
        self.register_buffer(
            "matrix_inverse", scale[:, None] * ((axes * variances.sqrt()) @ axes.T)
        )
        self.register_buffer("log_det", -0.5 * variances.log().sum() - scale.log().sum())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened rows and the log-determinant of each."""
        z = (x - self.mean.to(x.dtype)) @ self.matrix.to(x.dtype).T
        return z, self.log_det.to(x.dtype).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original units."""
        return z @ self.matrix_inverse.to(z.dtype).T + self.mean.to(z.dtype)


class MarginalGaussianisation(Bijection):
    """Each column mapped to a standard normal by a smooth monotone curve.

    A rational-quadratic spline runs through quantiles of the column placed at equally spaced
    normal scores; beyond the outermost quantiles the tails are logarithmic,
    ``z = z_end + log1p(slope (x - x_end))``, so that heavy tails become light.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows, float64.
    n_knots : int
        Number of quantiles; tied ones are dropped.
    max_score : float
        Normal score of the outermost quantile (less where n is too small to show it).
    """

    knots_x: Tensor
    knots_z: Tensor
    slopes: Tensor

    def __init__(self, x: Tensor, n_knots: int = 16, max_score: float = 2.8) -> None:
        super().__init__()
        n, d = x.shape
        reach = min(max_score, -float(torch.special.ndtri(torch.tensor(1.0 / max(n, 3)))))
        scores = torch.linspace(-reach, reach, n_knots, dtype=x.dtype, device=x.device)
        quantiles = torch.stack(
            [_quantile(column, torch.special.ndtr(scores)) for column in x.T.contiguous()]
        )
        shape = (d, n_knots)
        for name in ("knots_x", "knots_z"):
            self.register_buffer(name, x.new_full(shape, float("inf")))
        self.register_buffer("slopes", x.new_ones(shape))
        for j, column in enumerate(quantiles):
            gap = 1e-9 * (column[-1] - column[0])
            keep = torch.cat([gap.new_ones(1, dtype=torch.bool), column.diff() > gap])
            if keep.sum() < 2:  # one value holds nearly all rows: a straight line
                kept_x = x[:, j].mean() + _spread(x)[j] * scores[[0, -1]]
                kept_z = scores[[0, -1]]
            else:
                kept_x, kept_z = column[keep], scores[keep]
            k = len(kept_x)
            self.knots_x[j, :k], self.knots_z[j, :k] = kept_x, kept_z
            self.slopes[j, :k] = monotone_slopes(kept_x, kept_z)
        last = (self.knots_x.isfinite().sum(1) - 1)[:, None]
        for name, source in (("x", self.knots_x), ("z", self.knots_z), ("slope", self.slopes)):
            ends = torch.cat([source[:, :1], source.gather(1, last)], dim=1)
            self.register_buffer(f"ends_{name}", ends)

    def _parts(self, dtype: torch.dtype) -> list[Tensor]:
        names = ("knots_x", "knots_z", "slopes", "ends_x", "ends_z", "ends_slope")
        return [getattr(self, name).to(dtype) for name in names]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores and the log-determinant of each row."""
        knots_x, knots_z, slopes, ends_x, _, ends_slope = self._parts(x.dtype)
        z, log_slope = rational_quadratic(x, knots_x, knots_z, slopes)
        below, above = ends_slope[:, 0] * (ends_x[:, 0] - x), ends_slope[:, 1] * (x - ends_x[:, 1])
        lower, upper = below.clamp(min=0).log1p(), above.clamp(min=0).log1p()
        tail_slope = torch.where(below > 0, ends_slope[:, 0], ends_slope[:, 1]).log()
        log_slope = torch.where((below > 0) | (above > 0), tail_slope - lower - upper, log_slope)
        return z - lower + upper, log_slope.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original units."""
        knots_x, knots_z, slopes, _, ends_z, ends_slope = self._parts(z.dtype)
        x, _ = rational_quadratic(z, knots_x, knots_z, slopes, inverse=True)
        below, above = (ends_z[:, 0] - z).clamp(min=0), (z - ends_z[:, 1]).clamp(min=0)
        return x - below.expm1() / ends_slope[:, 0] + above.expm1() / ends_slope[:, 1]


class Chain(Bijection):
    """Bijections applied one after the other; their log-determinants add up."""

    def __init__(self, *bijections: Bijection) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image and log-determinant of each row."""
        log_det = x.new_zeros(len(x))
        for bijection in self.bijections:
            x, part = bijection(x)
            log_det = log_det + part
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Preimage of each row."""
        for bijection in reversed(list(self.bijections)):
            z = cast(Bijection, bijection).inverse(z)
        return z


def fit_preconditioner(x: Tensor, kind: str, regularisation: float) -> Chain:
    """Fit ``"standardize"`` or ``"gaussianize"``, each followed by whitening."""
    if kind == "standardize":
        return Chain(Whitening(x, regularisation))
    marginals = MarginalGaussianisation(x)
    return Chain(marginals, Whitening(marginals(x)[0], regularisation))


def _spread(x: Tensor) -> Tensor:
    """Standard deviations; 1 for a column that varies only in rows that are held out."""
    spread = x.std(0, correction=0)
    return torch.where(spread > 0, spread, 1.0)


def _quantile(column: Tensor, probabilities: Tensor) -> Tensor:
    """Linear quantiles by sorting (``torch.quantile`` refuses more than 16 million values)."""
    ordered = column.sort().values
    position = probabilities * (len(column) - 1)
    low = position.floor().long().clamp(max=len(column) - 2)
    return torch.lerp(ordered[low], ordered[low + 1], position - low)
