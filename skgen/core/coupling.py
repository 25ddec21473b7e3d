"""Coupling layer: some columns kept, the others mapped by functions of those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .bijections import Layer, Maps
from .conditioner import Conditioner
from .transformers import Transformer

LONGEST_PATTERN = 12  # couplings after which the halves take their turns again


def mapped_columns(
    n_features: int, n_couplings: int, n_groups: int, generator: torch.Generator
) -> Tensor:
    """Which columns the couplings of a chain map, given all others: one of some groups of them.

    Of two groups, up to 12 couplings of an even number map each column in half of them, and up to
    20 columns by six, all in different ones: so each is mapped at least once given each other.
    Neighbours, paired from the last column on, are never in the same half. More groups are drawn
    at random, and mapped in turn before others are drawn. There are at most as many as columns.

    Parameters
    ----------
    n_features, n_couplings, n_groups : int
    generator : torch.Generator
        Source of the choices, on the CPU.

    Returns
    -------
    mapped : tensor of bool, shape (n_couplings, n_features)

    References
    ----------
    Gao, Isaacson and Krause, "i-flow: High-dimensional integration and sampling with normalizing
    flows", 2020, for halves that separate any two columns.
    """
    n_groups = min(n_groups, n_features)
    if n_groups == 2:
        return _mapped_halves(n_features, n_couplings, generator)
    groups = torch.arange(n_features) % n_groups
    rounds = [
        groups[torch.randperm(n_features, generator=generator)]
        for _ in range(0, n_couplings, n_groups)
    ]
    return torch.cat([group == torch.arange(n_groups)[:, None] for group in rounds])[:n_couplings]


def _mapped_halves(n_features: int, n_couplings: int, generator: torch.Generator) -> Tensor:
    period = min(n_couplings, LONGEST_PATTERN)
    # Couplings that keep the first of two neighbours; all others keep the second.
    keeping = list(combinations(range(period), (period + 1) // 2))
    if period % 2 == 0:
        keeping = keeping[: len(keeping) // 2]  # the others of these make up the second half
    patterns = torch.zeros(len(keeping), period, dtype=torch.bool)
    patterns.scatter_(1, torch.tensor(keeping), True)
    n_turns = (patterns[:, 1:] != patterns[:, :-1]).sum(1)
    ties = torch.rand(len(patterns), generator=generator, dtype=torch.float32)
    patterns = patterns[(n_turns + ties).argsort(descending=True)]
    n_pairs = (n_features + 1) // 2
    first = patterns[torch.arange(n_pairs) % len(patterns)]
    mapped = torch.stack((~first, first), 1).flatten(0, 1)[n_features % 2 :].T
    return mapped[torch.arange(n_couplings) % period]


class Coupling(Layer):
    """The last columns mapped by a transformer whose parameters depend on the others.

    It starts as the identity.

    Parameters
    ----------
    n_features : int
    transformer : Transformer
    hidden_layer_sizes : sequence of int
    activation : str
        Key of `ACTIVATIONS`.
    n_mapped : int
        How many columns are mapped.
    dropout : float
        Share of the hidden units set to zero while training.
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    """

    def __init__(
        self,
        n_features: int,
        transformer: Transformer,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        n_mapped: int,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.sizes = [n_features - n_mapped, n_mapped]
        n_out = transformer.n_parameters * n_mapped
        self.conditioner = Conditioner(
            n_features - n_mapped, hidden_layer_sizes, n_out, activation, dropout, generator
        )

    def maps(self, dtype: torch.dtype) -> Maps:
        """See `Layer.maps`; the inverse is as dear as the image."""
        sizes, parameters_of = self.sizes, self.conditioner.function(dtype)
        transform, transform_back = self.transformer.forward, self.transformer.inverse

        def forward(x: Tensor, log_slopes: list[Tensor]) -> Tensor:
            kept, mapped = x.split_with_sizes(sizes)
            mapped, log_slope, _ = transform(mapped, parameters_of(kept))
            log_slopes.append(log_slope)
            return torch.cat((kept, mapped))

        def inverse(z: Tensor) -> Tensor:
            kept, mapped = z.split_with_sizes(sizes)
            return torch.cat((kept, transform_back(mapped, parameters_of(kept))))

        return Maps(forward, inverse)

    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, tuple]:
        """See `Layer.training_forward`."""
        kept, mapped = x.split_with_sizes(self.sizes)
        parameters, conditioned = self.conditioner.training_forward(kept, generator)
        mapped, log_slope, transformed = self.transformer.forward(mapped, parameters)
        log_slopes.append(log_slope)
        return torch.cat((kept, mapped)), (conditioned, transformed)

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        conditioned, transformed = kept
        to_kept, to_mapped = grad.split_with_sizes(self.sizes)
        grad_log_slope = grad_log_det.expand_as(to_mapped)
        to_mapped, parameters = self.transformer.gradient(transformed, to_mapped, grad_log_slope)
        to_kept = to_kept + self.conditioner.training_backward(conditioned, parameters)
        return torch.cat((to_kept, to_mapped))
