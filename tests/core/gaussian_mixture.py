"""An oracle: all of a Gaussian path to a Gaussian mixture in closed form."""

import torch
from torch import nn

from skgen.core.flow import Flow
from skgen.core.paths import LinearPath, Parts

# Two features, mean 0 and identity covariance, as whitened rows have.
_centres = torch.tensor([[1.0, 0.2], [-0.7, 0.9], [-0.3, -1.1]], dtype=torch.float64)
_weights = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
_centres = _centres - (_weights[:, None] * _centres).sum(0)
_spread = 0.2
_total = torch.einsum("k,ki,kj->ij", _weights, _centres, _centres) + _spread**2 * torch.eye(2)
_root = torch.linalg.cholesky(torch.linalg.inv(_total))
CENTRES = _centres @ _root
COVARIANCE = _spread**2 * _root.T @ _root
WEIGHTS = _weights


def covariance(alpha, sigma):
    return alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)


def log_joint(alpha, sigma, x):
    """Log-density of each component at ``x = alpha data + sigma noise``, with its weight."""
    spread = covariance(alpha, sigma)
    away = x[:, None] - alpha * CENTRES
    squares = (away @ torch.linalg.inv(spread) * away).sum(2)
    log_det = torch.linalg.slogdet(2 * torch.pi * spread)[1]
    return WEIGHTS.log() - 0.5 * (squares + log_det)


def log_prob(alpha, sigma, x):
    return log_joint(alpha, sigma, x).logsumexp(1)


def sample(alpha, sigma, n, generator):
    label = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    return alpha * CENTRES[label] + noise @ torch.linalg.cholesky(covariance(alpha, sigma)).T


def parts(alpha, sigma, x):
    """Mean data and noise given ``x = alpha data + sigma noise``."""
    share = log_joint(alpha, sigma, x).softmax(1)
    away = x[:, None] - alpha * CENTRES
    solved = away @ torch.linalg.inv(covariance(alpha, sigma))
    data = CENTRES + alpha * solved @ COVARIANCE
    return Parts((share[..., None] * data).sum(1), (share[..., None] * sigma * solved).sum(1))


class ExactNetwork(nn.Module):
    """Excess velocity of the straight path to the mixture, with an optional error."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = bias

    def time_features(self, t):
        return t, torch.ones_like(t)

    def field(self, dtype, divergence=False, times=()):
        straight = LinearPath()

        def excess(x, r):
            found = straight.velocity(r, parts(r, 1 - r, x))
            return found - straight.gaussian_gain(r) * x + self.bias * x

        def call(r, x):
            r = torch.tensor(r, dtype=torch.float64)
            value = excess(x, r)
            if not divergence:
                return value
            jacobian = torch.func.vmap(torch.func.jacrev(lambda row: excess(row[None], r)[0]))(x)
            trace = jacobian.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            return torch.cat([value, trace], dim=1)

        return call


def exact_flow(path, n_steps=64, tolerance=0.0, bias=0.0):
    return Flow(ExactNetwork(bias), path, 2, "adams", n_steps, tolerance)
