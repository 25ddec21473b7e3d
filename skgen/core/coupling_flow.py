"""Normalizing flow of couplings, and a base density with heavy tails."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from .bijections import LayerChain
from .coupling import Coupling
from .gaussian import StandardNormal, standard_normal
from .interfaces import Density, Transport, cache_parts
from .workspace import is_tracked


class CouplingFlow(Transport):
    """A base density carried through a chain of bijections.

    ``log p(x) = log p_base(z) + log |det dz/dx|`` with ``z = chain(x)``: one pass, and one back to
    sample.

    Parameters
    ----------
    chain : LayerChain
        From data to noise.
    base : Density
        Of the noise, differentiable.
    input_noise : float
        Standard deviation of the noise added to the rows in training.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017. Durkan et al.,
    "Neural spline flows", 2019.
    """

    base: Density
    chain: LayerChain

    def __init__(self, chain: LayerChain, base: Density, input_noise: float) -> None:
        super().__init__()
        self.chain, self.base, self.input_noise = chain, base, input_noise
        # Bytes of a unit at a time. What the widest layer computes should stay in the cache, and
        # below the size from which memory comes fresh from the system, page by page.
        self.run = min(12_000, 800_000 // max((len(p) for p in chain.parameters()), default=1))

    def matrices(self) -> list[nn.Parameter]:
        """See `Trainable.matrices`."""
        couplings = [layer for layer in self.chain.layers if isinstance(layer, Coupling)]
        by_muon = [coupling for coupling in couplings if coupling.transformer.muon]
        return [weight for coupling in by_muon for weight in coupling.conditioner.weights[1:]]

    @torch.no_grad()
    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Negative mean log-density, with dropout and input noise; without a graph."""
        z, log_slopes, _ = self._training_forward(x, generator)
        return -self._log_prob(z, log_slopes).mean()

    def add_gradient(self, x: Tensor, generator: torch.Generator, share: float = 1.0) -> Tensor:
        """See `Trainable.add_gradient`."""
        z, log_slopes, kept = self._training_forward(x, generator)
        to_log_prob = x.new_full((len(x),), -share / len(x))
        if isinstance(self.base, StandardNormal):
            loss, grad = -self._log_prob(z, log_slopes).mean(), share / len(x) * z
        else:
            z = z.clone().requires_grad_()  # what inference mode leaves cannot be tracked
            log_prob = self._log_prob(z, log_slopes)
            log_prob.backward(to_log_prob)
            loss, grad = -log_prob.detach().mean(), cast(Tensor, z.grad)
        self.chain.training_backward(kept, grad, to_log_prob)
        return loss

    def _training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, list[Tensor], list]:
        if self.input_noise:
            x = x + self.input_noise * standard_normal(len(x), x, generator)
        log_slopes: list[Tensor] = []
        z, kept = self.chain.training_forward(x.T.contiguous(), log_slopes, generator)
        return z, log_slopes, kept

    def _log_prob(self, z: Tensor, log_slopes: list[Tensor]) -> Tensor:
        """Log-density (n,) from the noise (d, n) and what the layers appended."""
        return torch.cat([*log_slopes, self.base.log_prob_terms(z)]).sum(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""

        def of_part(rows: Tensor) -> Tensor:
            log_slopes: list[Tensor] = []
            return self._log_prob(self.chain.image(rows.T.contiguous(), log_slopes), log_slopes)

        return self._by_parts(of_part, x)

    def log_prob_fast(self, x: Tensor) -> Tensor:
        """Log-density to watch the training by."""
        with torch.no_grad():
            return self.log_prob(x)

    def transport(self, x: Tensor, to_data: bool) -> Tensor:
        """Carry rows from noise to data or back."""

        def of_part(rows: Tensor) -> Tensor:
            return self.chain.inverse(rows) if to_data else self.chain(rows)[0]

        return self._by_parts(of_part, x)

    def _by_parts(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Value of a function of rows, which it is given in parts that stay in the cache."""
        # Small operations take up to a sixth less where autograd will never see their results.
        with nullcontext() if is_tracked() else torch.inference_mode():
            parts = [function(part) for part in cache_parts(x, x.dtype, self.run)]
        return torch.cat(parts)  # outside, so that the result is an ordinary tensor

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d), float64."""
        return self.transport(self.base.sample(n, generator), to_data=True)


class StudentT(Density):
    """Independent Student-t columns, the degrees of freedom learnt.

    Parameters
    ----------
    n_features : int
    """

    origin: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(n_features, dtype=torch.float64))
        self.log_freedom = nn.Parameter(
            torch.full((n_features,), math.log(10.0), dtype=torch.float32)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        nu = self.log_freedom.to(x.dtype).exp()
        constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (math.pi * nu).log()
        return (constant - 0.5 * (nu + 1) * (x.square() / nu).log1p()).sum(-1)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d), float64."""
        nu = self.log_freedom.detach().to(self.origin).exp().expand(n, -1)
        chi_square = 2 * torch._standard_gamma(nu / 2, generator=generator)
        return standard_normal(n, self.origin, generator) * (nu / chi_square).sqrt()
