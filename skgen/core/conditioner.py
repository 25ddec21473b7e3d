"""Network that computes, from the columns a coupling keeps, what it does to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, addmm, nn

from .activations import ACTIVATIONS
from .draws import dropout_mask
from .interfaces import gradient_of
from .products import add_product, product
from .transformers import Bound
from .workspace import Workspace


class Memory(NamedTuple):
    """What a training step writes its layers to, with views of it and of the weights."""

    inputs: list[Tensor]  # their last row stays 1, whose weights are the biases
    units: list[Tensor]  # the inputs without it
    transposed: list[Tensor]  # the inputs
    before: list[Tensor]  # what the activations take
    back: list[Tensor]  # weights without biases, transposed


class Conditioner(nn.Module):
    """Fully connected network of columns, whose last layer starts at zero.

    It sees its input bounded smoothly by 8: outliers do no harm, and the rounding errors of large
    values do not reach its output.

    Parameters
    ----------
    n_in : int
    hidden_layer_sizes : sequence of int
    n_out : int
    activation : str
        Key of `ACTIVATIONS`.
    dropout : float
        Share of the hidden units set to zero while training.
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    """

    bound = Bound(limit=8.0, slope=1.0)

    def __init__(
        self,
        n_in: int,
        hidden_layer_sizes: Sequence[int],
        n_out: int,
        activation: str,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.activation, self.dropout, self.space = activation, dropout, Workspace()
        widths = [n_in, *hidden_layer_sizes]
        # The last column of each matrix of weights is the bias.
        for k, (n, m) in enumerate(pairwise(widths)):
            drawn = torch.rand(n + 1, m, generator=generator, dtype=torch.float32)
            uniform = 2 * drawn.T.contiguous() - 1
            self.register_parameter(f"weight_{k}", nn.Parameter(uniform / (n + 1) ** 0.5))
        last = torch.zeros(n_out, widths[-1] + 1, dtype=torch.float32)
        self.register_parameter(f"weight_{len(hidden_layer_sizes)}", nn.Parameter(last))

    @property
    def weights(self) -> list[nn.Parameter]:
        """Weights of the layers, from the first to the last."""
        return cast(list[nn.Parameter], list(self._parameters.values()))

    def function(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Output (n_out, n) for columns (n_in, n), by views of the weights."""
        activation, bound = ACTIVATIONS[self.activation].in_place, self.bound
        weights = [weight.to(dtype) for weight in self.weights]
        parts = [weight.split_with_sizes((weight.shape[1] - 1, 1), 1) for weight in weights]
        *layers, (last, last_bias) = parts

        def output(x: Tensor) -> Tensor:
            hidden, _ = bound(x)
            for weight, bias in layers:
                hidden = activation(addmm(bias, weight, hidden))
            return addmm(last_bias, last, hidden)

        return output

    def _memory(self, weights: list[nn.Parameter], n: int) -> Memory:
        """Memory for n columns, and views."""
        inputs = [weight.new_ones(weight.shape[1], n) for weight in weights]
        return Memory(
            inputs,
            [layer[:-1] for layer in inputs],
            [layer.T for layer in inputs],
            [weight.new_empty(len(weight), n) for weight in weights],
            [weight.detach()[:, :-1].T for weight in weights],
        )

    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple]:
        """Output with dropout, and what `training_backward` needs."""
        weights, n, function = self.weights, x.shape[1], ACTIVATIONS[self.activation].function
        memory = self.space.views("memory", weights, n, lambda: self._memory(weights, n))
        inputs, units, _, before, _ = memory
        _, ratio = self.bound(x, out=units[0])
        masks = []
        for k, weight in enumerate(weights[:-1]):
            product(weight, inputs[k], out=before[k])
            hidden = function(before[k], out=units[k + 1])
            if self.dropout:
                masks.append(dropout_mask(hidden, self.dropout, generator))
                hidden.mul_(masks[k])
        output = product(weights[-1], inputs[-1], out=before[-1])
        return output, (self.space.take_turn(), memory, weights, masks, ratio)

    def training_backward(self, kept: tuple, grad: Tensor) -> Tensor:
        """Gradient of x from that of the output; adds to those of the weights."""
        turn, memory, weights, masks, ratio = kept
        self.space.check(turn)
        _, units, transposed, before, back = memory
        gradient = ACTIVATIONS[self.activation].gradient
        for k in range(len(weights) - 1, 0, -1):
            add_product(gradient_of(weights[k]), grad, transposed[k])
            to_input = product(back[k], grad, out=units[k])
            if self.dropout:
                to_input.mul_(masks[k - 1])
            grad = gradient(to_input, before[k - 1], out=before[k - 1])
        add_product(gradient_of(weights[0]), grad, transposed[0])
        return product(back[0], grad).mul_(self.bound.derivative(ratio))
