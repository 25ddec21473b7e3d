"""Normal density and its maximum-likelihood fits, by formula and by gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .interfaces import Density

LOG_PEAK = -0.5 * math.log(2 * math.pi)  # log-density of N(0, 1) at 0


class StandardNormal(Density):
    """Normal density of mean 0 and identity covariance.

    Parameters
    ----------
    n_features : int
    """

    origin: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(n_features, dtype=torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        return standard_normal_log_prob(x)

    def log_prob_terms(self, columns: Tensor) -> Tensor:
        """See `Density.log_prob_terms`."""
        return standard_normal_terms(columns)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d), float64."""
        return standard_normal(n, self.origin, generator)


class Gaussian(Density):
    """Multivariate normal density.

    Parameters
    ----------
    mean : tensor of shape (d,)
    scale_tril : tensor of shape (d, d)
        Lower triangular ``L`` of the covariance ``L L^T``.
    """

    mean: Tensor
    scale_tril: Tensor

    def __init__(self, mean: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale_tril", scale_tril)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        scale = self.scale_tril.to(x.dtype)
        z = torch.linalg.solve_triangular(scale, (x - self.mean.to(x.dtype)).T, upper=False).T
        return standard_normal_log_prob(z) - scale.diagonal().log().sum()

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d) in the dtype of the mean."""
        return standard_normal(n, self.mean, generator) @ self.scale_tril.T + self.mean


class NormalMixture(Density):
    """Mixture ``sum_k w_k N(m_k, L_k L_k^T)`` of multivariate normal densities.

    Parameters
    ----------
    weights : tensor of shape (K,)
        Positive, summing to 1.
    means : tensor of shape (K, d)
    scale_trils : tensor of shape (K, d, d)
        Lower triangular.
    """

    max_numbers = 2**22  # of differences at a time
    weights: Tensor
    means: Tensor
    scale_trils: Tensor

    def __init__(self, weights: Tensor, means: Tensor, scale_trils: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("scale_trils", scale_trils)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        d = x.shape[1]
        means, scales = self.means.to(x.dtype), self.scale_trils.to(x.dtype)
        constants = self.weights.to(x.dtype).log() - scales.diagonal(dim1=1, dim2=2).log().sum(1)
        whitening = torch.linalg.solve_triangular(scales, torch.eye(d).to(x), upper=False)
        size = max(1, self.max_numbers // (d * max(1, len(x))))
        parts = []
        for some in torch.arange(len(means), device=x.device).split(size):
            matrices = whitening[some]
            offsets = (matrices @ means[some, :, None]).flatten()
            z = torch.addmm(-offsets, x, matrices.flatten(0, 1).T)
            parts.append(standard_normal_log_prob(z.view(len(x), len(some), d)))
        return (torch.cat(parts, dim=1) + constants).logsumexp(1)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d) in the dtype of the means: first the component, then the position."""
        choice = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        rows = standard_normal(n, self.means, generator)
        for k in choice.unique():
            chosen = choice == k
            rows[chosen] = rows[chosen] @ self.scale_trils[k].T + self.means[k]
        return rows


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of N(0, I) in nats at rows (..., d)."""
    return standard_normal_terms(z).sum(-1)


def standard_normal_terms(z: Tensor) -> Tensor:
    """Log-density of N(0, 1) in nats at numbers."""
    return torch.addcmul(z.new_full((), LOG_PEAK), z, z, value=-0.5)


def standard_normal(n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw n rows of N(0, I) with the last dimension, dtype and device of ``like``."""
    shape = (n, like.shape[-1])
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def fit_gaussian(x: Tensor, weight: Tensor | None, kind: str, ridge: float) -> Gaussian:
    """Weighted maximum likelihood in closed form.

    Parameters
    ----------
    x : tensor of shape (n, d)
    weight : tensor of shape (n,) or None
    kind : {"full", "diag", "spherical", "white"}
        Form of the covariance; all but ``"white"`` need columns that vary.
    ridge : float
        Added to the diagonal, in units of each column's variance.

    Returns
    -------
    Gaussian

    Raises
    ------
    torch.linalg.LinAlgError
        If the covariance is singular.
    """
    mean, variance = column_moments(x, weight)
    if kind == "white":
        return Gaussian(mean, torch.ones_like(mean).diag())
    if kind == "spherical":
        variance = variance.mean().expand_as(mean)
    if kind != "full":
        return Gaussian(mean, ((1 + ridge) * variance).sqrt().diag())
    scale = variance.sqrt()
    z = (x - mean) / scale
    share = z.new_tensor(1 / len(z)) if weight is None else (weight / weight.sum())[:, None]
    correlation = (share * z).T @ z
    correlation.diagonal().add_(ridge)
    if is_singular(torch.linalg.eigvalsh(correlation)):  # where cholesky may not notice
        raise torch.linalg.LinAlgError("The covariance is singular.")
    return Gaussian(mean, scale[:, None] * torch.linalg.cholesky(correlation))


def is_singular(variances: Tensor) -> bool:
    """Whether some variances (d,) along the axes of a correlation matrix are rounding errors.

    So they are where columns are linearly dependent.
    """
    return not bool(variances.min() > 10 * len(variances) * torch.finfo(variances.dtype).eps)


def column_moments(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted mean and variance of each column; the variance of a constant one is exactly 0."""
    share = x.new_tensor(1 / len(x)) if weight is None else (weight / weight.sum())[:, None]
    mean = (share * x).sum(0)
    variance = (share * (x - mean).square()).sum(0)
    return mean, torch.where((x == x[0]).all(0), torch.zeros_like(variance), variance)


def descend_gaussian(
    x: Tensor,
    weight: Tensor | None,
    kind: str,
    ridge: float,
    learning_rate: float,
    batch_size: int,
    n_epochs: int,
    generator: torch.Generator,
) -> Gaussian:
    """Maximum likelihood by stochastic gradient descent from the first row and the identity.

    The variables are the mean m and a whitening matrix P, lower triangular, of the rows z in
    units of the standard deviation: ``-log p(z) = |P (z - m)|^2 / 2 - log det P + const``.
    """
    d = x.shape[1]
    _, variance = column_moments(x, weight)
    if kind == "white":
        variance = torch.ones_like(variance)
    elif kind == "spherical":
        variance = variance.mean().expand(d)
    scale = variance.sqrt()
    z = x / scale
    mean = z[0].clone().requires_grad_()
    log_diagonal = z.new_zeros(1 if kind == "spherical" else d)
    log_diagonal.requires_grad_(kind != "white")
    below = z.new_zeros(d, d).requires_grad_(kind == "full")
    variables = [v for v in (mean, log_diagonal, below) if v.requires_grad]
    optimiser = torch.optim.SGD(variables, lr=learning_rate)
    weight = torch.ones_like(z[:, 0]) if weight is None else weight / weight.mean()
    for epoch in range(n_epochs):
        # Constant for half of the run, then down to 0, to average the noise of the batches out.
        optimiser.param_groups[0]["lr"] = learning_rate * min(1.0, 2 * (1 - epoch / n_epochs))
        order = torch.randperm(len(z), generator=generator, device=z.device)
        for rows in order.split(batch_size):
            whitening = log_diagonal.exp().expand(d).diag() + below.tril(-1)
            squares = ((z[rows] - mean) @ whitening.T).square().sum(1)
            loss = 0.5 * (weight[rows] * squares).mean() - log_diagonal.expand(d).sum()
            if kind != "white":
                loss = loss + 0.5 * ridge * whitening.square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        whitening = log_diagonal.exp().expand(d).diag() + below.tril(-1)
        root = torch.linalg.solve_triangular(whitening, torch.eye(d).to(z), upper=False)
        # The covariance is P^-1 P^-T, and P^-1 is lower triangular: its Cholesky factor.
        return Gaussian(scale * mean, scale[:, None] * root)
