"""Coupling layer: some columns kept, the others mapped by functions of those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .bijections import Layer
from .draws import dropout_mask
from .interfaces import gradient_of
from .products import add_product, product
from .transformers import Transformer, bounded, bounded_slope
from .two_layers import Workspace


class Coupling(Layer):
    """Some columns kept, the others mapped by a transformer whose parameters depend on those kept.

    The conditioner is a network whose last layer starts at zero, so the coupling starts as the
    identity. It sees the kept columns bounded smoothly by 8: outliers do no harm, and the rounding
    errors of large values do not reach the others.

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

    input_limit = 8.0

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
        self.transformer, self.activation = transformer, activation
        self.n_first = n_features // 2
        self.keep_first = keep_first or n_features == 1
        sizes = self.n_first, n_features - self.n_first
        n_kept, n_mapped = sizes if self.keep_first else sizes[::-1]
        widths = [n_kept, *hidden_layer_sizes]
        self.dropout, self.space = dropout, Workspace()
        # The last column of each matrix of weights is the bias.
        for k, (n_in, n_out) in enumerate(pairwise(widths)):
            uniform = 2 * torch.rand(n_in + 1, n_out, generator=generator).T.contiguous() - 1
            self.register_parameter(f"weight_{k}", nn.Parameter(uniform / (n_in + 1) ** 0.5))
        last = torch.zeros(transformer.n_parameters * n_mapped, widths[-1] + 1)
        self.register_parameter(f"weight_{len(hidden_layer_sizes)}", nn.Parameter(last))

    @property
    def weights(self) -> list[nn.Parameter]:
        """Weights of the layers of the conditioner, from the first to the last."""
        return cast(list[nn.Parameter], list(self._parameters.values()))

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        first, second = columns[: self.n_first], columns[self.n_first :]
        return (first, second) if self.keep_first else (second, first)

    def _join(self, kept: Tensor, mapped: Tensor) -> Tensor:
        return torch.cat((kept, mapped) if self.keep_first else (mapped, kept))

    def _condition(self, kept: Tensor) -> Tensor:
        """Parameters of the transformer for the mapped columns."""
        hidden, _ = bounded(kept, self.input_limit, 1)
        *weights, last = [weight.to(kept.dtype) for weight in self.weights]
        for weight in weights:
            hidden = torch.addmm(weight[:, -1:], weight[:, :-1], hidden)
            hidden = ACTIVATIONS[self.activation].in_place(hidden)
        return self._shaped(torch.addmm(last[:, -1:], last[:, :-1], hidden))

    def _shaped(self, parameters: Tensor) -> Tensor:
        return parameters.view(self.transformer.n_parameters, -1, parameters.shape[1])

    def map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer.map_columns`."""
        kept, mapped = self._split(x)
        mapped, log_slope, _ = self.transformer.forward(mapped, self._condition(kept))
        return self._join(kept, mapped), log_slope.sum(0)

    def map_columns_back(self, z: Tensor) -> Tensor:
        """See `Layer.map_columns_back`; as dear as the image."""
        kept, mapped = self._split(z)
        return self._join(kept, self.transformer.inverse(mapped, self._condition(kept)))

    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple]:
        """See `Layer.training_forward`."""
        function, space, weights = ACTIVATIONS[self.activation].function, self.space, self.weights
        kept, mapped = self._split(x)
        # The last row stays 1, whose weights are the biases.
        n = x.shape[1]
        inputs = [space(f"input {k}", x, weight.shape[1], n) for k, weight in enumerate(weights)]
        _, ratio = bounded(kept, self.input_limit, 1, out=inputs[0][:-1])
        befores, masks = [], []
        for k, weight in enumerate(weights):
            before = space(f"before {k}", x, len(weight), n)
            befores.append(product(weight, inputs[k], out=before))
            if k + 1 < len(weights):
                hidden = function(befores[k], out=inputs[k + 1][:-1])
                if self.dropout:
                    masks.append(dropout_mask(hidden, self.dropout, generator))
                    hidden.mul_(masks[k])
        y, log_slope, transformed = self.transformer.forward(mapped, self._shaped(befores[-1]))
        passed = space.take_turn(), inputs, befores, masks, ratio, transformed
        return self._join(kept, y), log_slope.sum(0), passed

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        turn, inputs, befores, masks, ratio, transformed = kept
        self.space.check(turn)
        gradient, weights = ACTIVATIONS[self.activation].gradient, self.weights
        to_kept, grad_y = self._split(grad)
        grad_log_slope = grad_log_det.expand_as(grad_y)
        to_mapped, parameters = self.transformer.gradient(transformed, grad_y, grad_log_slope)
        grad = parameters.flatten(0, 1)
        for k, weight in reversed(list(enumerate(weights))):
            add_product(gradient_of(weight), grad, inputs[k].T)
            if k:
                to_input = product(weight[:, :-1].T, grad, out=inputs[k][:-1])
                if self.dropout:
                    to_input.mul_(masks[k - 1])
                grad = gradient(to_input, befores[k - 1], out=befores[k - 1])
        to_input = product(weights[0][:, :-1].T, grad)
        to_kept = torch.addcmul(to_kept, to_input, bounded_slope(ratio, 1))
        return self._join(to_kept, to_mapped)
