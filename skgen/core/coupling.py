"""Coupling layer: some columns kept, the others mapped by functions of those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bijections import Layer
from .conditioner import Conditioner
from .transformers import Transformer


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
        self.sizes = n_features // 2, n_features - n_features // 2
        n_kept, n_mapped = self.sizes if self.keep_first else self.sizes[::-1]
        n_out = transformer.n_parameters * n_mapped
        self.conditioner = Conditioner(
            n_kept, hidden_layer_sizes, n_out, activation, dropout, generator
        )

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        first, second = columns.split_with_sizes(self.sizes)
        return (first, second) if self.keep_first else (second, first)

    def _join(self, kept: Tensor, mapped: Tensor) -> Tensor:
        return torch.cat((kept, mapped) if self.keep_first else (mapped, kept))

    def map_columns(self, x: Tensor, log_slopes: list[Tensor]) -> Tensor:
        """See `Layer.map_columns`."""
        kept, mapped = self._split(x)
        mapped, log_slope, _ = self.transformer.forward(mapped, self.conditioner.forward(kept))
        log_slopes.append(log_slope)
        return self._join(kept, mapped)

    def map_columns_back(self, z: Tensor) -> Tensor:
        """See `Layer.map_columns_back`; as dear as the image."""
        kept, mapped = self._split(z)
        return self._join(kept, self.transformer.inverse(mapped, self.conditioner.forward(kept)))

    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, tuple]:
        """See `Layer.training_forward`."""
        kept, mapped = self._split(x)
        parameters, conditioned = self.conditioner.training_forward(kept, generator)
        mapped, log_slope, transformed = self.transformer.forward(mapped, parameters)
        log_slopes.append(log_slope)
        return self._join(kept, mapped), (conditioned, transformed)

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        conditioned, transformed = kept
        to_kept, to_mapped = self._split(grad)
        grad_log_slope = grad_log_det.expand_as(to_mapped)
        to_mapped, parameters = self.transformer.gradient(transformed, to_mapped, grad_log_slope)
        to_kept = to_kept + self.conditioner.training_backward(conditioned, parameters)
        return self._join(to_kept, to_mapped)
