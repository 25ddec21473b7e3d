"""Densities made of densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .interfaces import Bijection, Density, join


class Preconditioned(Density):
    """Density of x when ``model`` is the density of ``z = bijection(x)``.

    ``log p(x) = log p_model(z) + log |det dz/dx|``. Conditions pass unchanged.
    """

    bijection: Bijection
    model: Density

    def __init__(self, bijection: Bijection, model: Density, n_features: int) -> None:
        super().__init__()
        self.bijection, self.model, self.n_features = bijection, model, n_features

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows, in the units of x."""
        z, log_det = self.precondition(x)
        return self.model.log_prob(z) + log_det

    def log_prob_beside(self, x: Tensor, others: Tensor) -> Tensor:
        """Log-density in the units of x, for a sum with others."""
        z, log_det = self.precondition(x)
        hidden = torch.finfo(x.dtype).max  # where the density is 0, as beyond bounds
        others = (others - log_det).nan_to_num(hidden, hidden, -math.inf)
        return self.model.log_prob_beside(z, others) + log_det

    @property
    def iterative(self) -> bool:  # type: ignore[override]
        """Whether the model is."""
        return self.model.iterative

    def precondition(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as the model takes them, and the log-determinant of each."""
        z, log_det = self.bijection(x[:, : self.n_features])
        return join(z, x[:, self.n_features :]), log_det

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d) in the units of x."""
        return self.bijection.inverse(self.model.sample(n, generator, conditions))


class Mixture(Density):
    """Mixture ``sum_k w_k p_k(x)`` of densities, exact and normalised.

    Parameters
    ----------
    components : sequence of Density
    weights : sequence of float
        Positive, summing to 1.
    """

    weights: Tensor

    def __init__(self, components: Sequence[Density], weights: Sequence[float]) -> None:
        super().__init__()
        self.components = nn.ModuleList(components)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        # Iterative ones last: the larger the others are, the less exact they have to be.
        weighted = zip(
            cast(Sequence[Density], self.components), self.weights.log().tolist(), strict=True
        )
        total = x.new_full((len(x),), -math.inf)
        for component, log_weight in sorted(weighted, key=lambda pair: pair[0].iterative):
            log_prob = component.log_prob_beside(x, total - log_weight)
            total = torch.logaddexp(total, _finite_or_none(log_prob) + log_weight)
        return total

    def component_log_probs(self, x: Tensor) -> Tensor:
        """Log-density of rows under each component (n, K); not a number counts as -infinity."""
        columns = [cast(Density, component).log_prob(x) for component in self.components]
        return _finite_or_none(torch.stack(columns, dim=1))

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d): first the component of each, then its position."""
        choice = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        counts = choice.bincount(minlength=len(self.components)).tolist()
        parts = [
            cast(Density, component).sample(
                count, generator, None if conditions is None else conditions[choice == k]
            )
            for k, (component, count) in enumerate(zip(self.components, counts, strict=True))
            if count
        ]
        order = torch.argsort(choice, stable=True)
        rows = torch.cat(parts)
        out = torch.empty_like(rows)
        out[order] = rows
        return out


def _finite_or_none(log_prob: Tensor) -> Tensor:
    """Log-densities, with the logarithm of no density, -infinity, where they are no number."""
    return log_prob.nan_to_num(-math.inf, -math.inf, -math.inf)
