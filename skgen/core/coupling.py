"""Coupling layer: some columns kept, the others mapped by functions of those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

from .bijections import Layer, Maps
from .conditioner import Conditioner
from .transformers import Transformer

LONGEST_PATTERN = 12  # couplings after which columns take their turns again

T = TypeVar("T")  # what there is one of for each half: its columns, or their number


def column_orders(n_features: int, n_couplings: int, generator: torch.Generator) -> list[Tensor]:
    """Orders of the columns whose halves the couplings of a chain keep and map in turn.

    The first and each other one after it keep the first half, the others the second. An even number
    of couplings, up to 12, maps each column in half of them, and up to 20 columns by six, all in
    different ones: so each is mapped at least once given each other. Neighbours, paired from the
    last column on, are never in the same half.

    Parameters
    ----------
    n_features, n_couplings : int
    generator : torch.Generator
        Source of the choices, on the CPU.

    Returns
    -------
    orders : list of tensors of int, shape (n_features,)

    References
    ----------
    Gao, Isaacson and Krause, "i-flow: High-dimensional integration and sampling with normalizing
    flows", 2020, for halves that separate any two columns.
    """
    period = min(n_couplings, LONGEST_PATTERN)
    # Couplings that keep the first of two neighbours; all others keep the second.
    keeping = list(combinations(range(period), (period + 1) // 2))
    if period % 2 == 0:
        keeping = keeping[: len(keeping) // 2]  # the others of these make up the second half
    patterns = torch.zeros(len(keeping), period, dtype=torch.bool)
    patterns.scatter_(1, torch.tensor(keeping), True)
    n_turns = (patterns[:, 1:] != patterns[:, :-1]).sum(1)
    ties = torch.rand(len(patterns), generator=generator)
    patterns = patterns[(n_turns + ties).argsort(descending=True)]
    n_pairs = (n_features + 1) // 2
    first = patterns[torch.arange(n_pairs) % len(patterns)]
    kept = torch.stack((first, ~first), 1).flatten(0, 1)[n_features % 2 :].T
    return [
        kept[k % period].int().argsort(stable=True, descending=k % 2 == 0)
        for k in range(n_couplings)
    ]


class Coupling(Layer):
    """Some columns kept, the others mapped by a transformer whose parameters depend on those kept.

    It starts as the identity.

    Parameters
    ----------
    n_features : int
    transformer : Transformer
    hidden_layer_sizes : sequence of int
    activation : str
        Key of `ACTIVATIONS`.
    keep_first : bool
        Whether the first half of the columns is kept, or the second. A single column is always
        mapped.
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
        keep_first: bool,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.keep_first = keep_first or n_features == 1
        self.sizes = (n_features // 2, n_features - n_features // 2)
        n_kept, n_mapped = self._roles(self.sizes)
        n_out = transformer.n_parameters * n_mapped
        self.conditioner = Conditioner(
            n_kept, hidden_layer_sizes, n_out, activation, dropout, generator
        )

    def _roles(self, halves: tuple[T, ...]) -> tuple[T, ...]:
        """From (first, second) to (kept, mapped) and back, as both are the same swap or none."""
        return halves if self.keep_first else halves[::-1]

    def maps(self, dtype: torch.dtype) -> Maps:
        """See `Layer.maps`; the inverse is as dear as the image."""
        sizes, roles, parameters_of = self.sizes, self._roles, self.conditioner.function(dtype)
        transform, transform_back = self.transformer.forward, self.transformer.inverse

        def forward(x: Tensor, log_slopes: list[Tensor]) -> Tensor:
            kept, mapped = roles(x.split_with_sizes(sizes))
            mapped, log_slope, _ = transform(mapped, parameters_of(kept))
            log_slopes.append(log_slope)
            return torch.cat(roles((kept, mapped)))

        def inverse(z: Tensor) -> Tensor:
            kept, mapped = roles(z.split_with_sizes(sizes))
            return torch.cat(roles((kept, transform_back(mapped, parameters_of(kept)))))

        return Maps(forward, inverse)

    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, tuple]:
        """See `Layer.training_forward`."""
        kept, mapped = self._roles(x.split_with_sizes(self.sizes))
        parameters, conditioned = self.conditioner.training_forward(kept, generator)
        mapped, log_slope, transformed = self.transformer.forward(mapped, parameters)
        log_slopes.append(log_slope)
        return torch.cat(self._roles((kept, mapped))), (conditioned, transformed)

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        conditioned, transformed = kept
        to_kept, to_mapped = self._roles(grad.split_with_sizes(self.sizes))
        grad_log_slope = grad_log_det.expand_as(to_mapped)
        to_mapped, parameters = self.transformer.gradient(transformed, to_mapped, grad_log_slope)
        to_kept = to_kept + self.conditioner.training_backward(conditioned, parameters)
        return torch.cat(self._roles((to_kept, to_mapped)))
