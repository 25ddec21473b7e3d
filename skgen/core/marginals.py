"""Preconditioners: bijections with a log-determinant, fitted from data in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .bijections import Chain
from .gaussian import is_singular
from .interfaces import Bijection, runs
from .splines import monotone_slopes, rational_quadratic

FEW_ROWS_A_COLUMN = 15  # tell little of the correlations, of which there are many more
N_FOLDS = 5


class Whitening(Bijection):
    """``z = C^(-1/2) (x - mean) / scale``, of identity covariance, with C the correlation matrix.

    The symmetric root changes the axes least of all whitening matrices. Correlations from few rows
    are shrunk towards 0 (see `shrinkage`).

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows, float64.
    regularisation : float
        Variance added to each standardised column before the root is taken; bounds how far
        nearly dependent columns are stretched.

    Raises
    ------
    ValueError
        If it is 0, or nearly, and columns are linearly dependent.
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
        variances = variances.clamp(min=0)
        share = shrinkage(standard)
        variances = (1 - share) * variances + share + regularisation
        if is_singular(variances):
            raise ValueError(
                "The columns of X are linearly dependent, so the covariance is singular. Use a "
                f"larger reg_covar than {regularisation}, or drop columns."
            )
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


def shrinkage(z: Tensor) -> float:
    """Share s with which ``(1 - s) C + s I`` is the best covariance of rows left out.

    C is that of the other rows; what is best is the mean normal log-density of each fifth of the
    rows given the others. 0 where there are many rows.

    Parameters
    ----------
    z : tensor of shape (n, d)
        Standardised rows, the copies of one after one another: they are left out together.

    Returns
    -------
    float
    """
    groups = runs(z)
    n_groups = int(groups[-1]) + 1
    if n_groups >= FEW_ROWS_A_COLUMN * z.shape[1]:
        return 0.0
    shares = torch.logspace(-6, 0, 25, dtype=z.dtype, device=z.device)
    total = torch.zeros_like(shares)
    for fold in range(min(N_FOLDS, n_groups)):
        out = groups % N_FOLDS == fold
        mean = z[~out].mean(0)
        some, others = z[~out] - mean, z[out] - mean
        variances, axes = torch.linalg.eigh(some.T @ some / len(some))
        shrunk = (1 - shares[:, None]) * variances.clamp(min=0) + shares[:, None]
        squares = (others @ axes).square().sum(0)
        total += (squares / shrunk + len(others) * shrunk.log()).sum(1)
    return float(shares[total.argmin()])


class Scaling(Bijection):
    """``z = (x - middle) / radius`` from the range of all columns together to [-1, 1].

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows, float64.
    """

    middle: Tensor
    radius: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("middle", (x.max() + x.min()) / 2)
        self.register_buffer("radius", (x.max() - x.min()) / 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled rows and the log-determinant of each."""
        log_det = -x.shape[1] * self.radius.log().to(x.dtype)
        return (x - self.middle.to(x.dtype)) / self.radius.to(x.dtype), log_det.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original units."""
        return z * self.radius.to(z.dtype) + self.middle.to(z.dtype)


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
        n = len(x)
        share = torch.tensor(1.0 / max(n, 3), dtype=torch.float32)
        reach = min(max_score, -float(torch.special.ndtri(share)))
        scores = torch.linspace(-reach, reach, n_knots, dtype=x.dtype, device=x.device)
        quantiles = torch.stack(
            [_quantile(column, torch.special.ndtr(scores)) for column in x.T.contiguous()]
        )
        knots_x, knots_z, slopes = [], [], []
        for j, column in enumerate(quantiles):
            gap = 1e-9 * (column[-1] - column[0])
            keep = torch.cat([gap.new_ones(1, dtype=torch.bool), column.diff() > gap])
            if keep.sum() < 2:  # one value holds nearly all rows: a straight line
                kept_x = x[:, j].mean() + _spread(x)[j] * scores[[0, -1]]
                kept_z = scores[[0, -1]]
            else:
                kept_x, kept_z = column[keep], scores[keep]
            index = torch.arange(n_knots, device=x.device).clamp(max=len(kept_x) - 1)
            knots_x.append(kept_x[index])
            knots_z.append(kept_z[index])
            slopes.append(monotone_slopes(kept_x, kept_z)[index])
        self.register_buffer("knots_x", torch.stack(knots_x))
        self.register_buffer("knots_z", torch.stack(knots_z))
        self.register_buffer("slopes", torch.stack(slopes))

    def _ends(self, x: Tensor, knots: Tensor) -> tuple[Tensor, ...]:
        """Distances beyond the outermost knots, below and above, and the slopes there."""
        low, high = self.slopes[:, 0].to(x.dtype), self.slopes[:, -1].to(x.dtype)
        return knots[:, 0] - x, x - knots[:, -1], low, high

    def _curve(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return self.knots_x.to(dtype), self.knots_z.to(dtype), self.slopes.to(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores and the log-determinant of each row."""
        curve = self._curve(x.dtype)
        z, log_slope = rational_quadratic(x, *curve)
        below, above, low, high = self._ends(x, curve[0])
        lower, upper = (low * below).clamp(min=0).log1p(), (high * above).clamp(min=0).log1p()
        tail = torch.where(below > 0, low, high).log() - lower - upper
        log_slope = torch.where((below > 0) | (above > 0), tail, log_slope)
        return z - lower + upper, log_slope.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original units."""
        curve = self._curve(z.dtype)
        x, _ = rational_quadratic(z, *curve, inverse=True)
        below, above, low, high = self._ends(z, curve[1])
        return x - below.clamp(min=0).expm1() / low + above.clamp(min=0).expm1() / high


PRECONDITIONERS = ["standardize", "gaussianize"]  # to choose from, each followed by whitening


def fit_preconditioner(x: Tensor, kind: str, regularisation: float) -> Chain:
    """Fit one of `PRECONDITIONERS`, or ``"scale"``."""
    if kind == "scale":
        return Chain(Scaling(x))
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
