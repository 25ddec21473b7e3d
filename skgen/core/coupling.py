"""Coupling layer: some columns kept, the others mapped by functions of those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bijections import Layer, Maps
from .conditioner import Conditioner
from .transformers import Transformer

N_GROUPS = 3  # of columns; a coupling maps one given the others


def mapped_columns(n_features: int, n_couplings: int, generator: torch.Generator) -> Tensor:
    """Which columns the couplings of a chain map, given all others.

    Three couplings in turn map three groups of columns, and the next three other groups. Columns
    are numbered at random. The digits of such a number, to the base 3, are the coefficients of a
    polynomial; its value at r, modulo 3, is the group in the r-th round. As two polynomials of
    degree k agree at k points at most, nine couplings map each of up to 9 columns twice or more
    given each other, and each of up to 27 once or more. Two columns are two groups.

    Parameters
    ----------
    n_features, n_couplings : int
    generator : torch.Generator
        Source of the numbers, on the CPU.

    Returns
    -------
    mapped : tensor of bool, shape (n_couplings, n_features)

    References
    ----------
    Reed and Solomon, "Polynomial codes over certain finite fields", 1960.
    """
    base = min(N_GROUPS, n_features)
    number, coupling = torch.arange(n_features), torch.arange(n_couplings)
    if n_features > N_GROUPS:  # else each column is a group
        number = torch.randperm(n_features, generator=generator)
    exponent = torch.arange(n_features.bit_length())[:, None]
    digits = number // base**exponent % base
    powers = (coupling // base % base) ** exponent
    return powers.T @ digits % base == (coupling % base)[:, None]


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
