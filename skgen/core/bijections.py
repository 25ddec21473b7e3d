"""Bijections with learnt parameters: couplings, linear maps, permutations, composition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .activations import ACTIVATIONS
from .interfaces import Bijection
from .transformers import Transformer, bounded, bounded_slope
from .two_layers import Workspace


class Chain(Bijection):
    """Bijections applied one after the other; their log-determinants add up."""

    def __init__(self, *bijections: Bijection) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image and log-determinant of each row."""
        log_det = x.new_zeros(x.shape[:-1])
        for bijection in self.bijections:
            x, part = bijection(x)
            log_det = log_det + part
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Preimage of each row."""
        for bijection in reversed(list(self.bijections)):
            z = cast(Bijection, bijection).inverse(z)
        return z


class Layer(Bijection):
    """A bijection with parameters to train."""

    @abstractmethod
    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `forward`, with dropout if any, and a gradient that takes one operation.

        Autograd would record each of the many small ones.
        """


class Permutation(Bijection):
    """The columns in another order.

    Parameters
    ----------
    order : tensor of int, shape (d,)
        Column j of the image is column ``order[j]``.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Permuted rows and zeros."""
        return x[..., self.order], x.new_zeros(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original order."""
        return z[..., self.back]


class LULinear(Layer):
    """``z = L U x + b`` with L unit lower and U upper triangular, at the start the identity.

    The diagonal of U is positive, stored by its logarithm, whose sum is the log-determinant.
    After a permutation it is a learnt one, softened: every invertible matrix is a permutation
    times such a product, up to signs.

    Parameters
    ----------
    n_features : int
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(n_features, n_features))
        self.upper = nn.Parameter(torch.zeros(n_features, n_features))
        self.log_diagonal = nn.Parameter(torch.zeros(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        stored = (self.lower, self.upper, self.log_diagonal)
        return triangular_factors(*(part.to(dtype) for part in stored))

    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Layer.training_forward`."""
        return LUMap.apply(x, self.lower, self.upper, self.log_diagonal, self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped rows and their log-determinant."""
        lower, upper = self._factors(x.dtype)
        log_det = self.log_diagonal.to(x.dtype).sum()
        return x @ (lower @ upper).T + self.bias.to(x.dtype), log_det.expand(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Rows from their images, by substitution."""
        lower, upper = self._factors(z.dtype)
        shifted = (z - self.bias.to(z.dtype))[..., None, :]
        half = torch.linalg.solve_triangular(lower.T, shifted, upper=True, left=False)
        return torch.linalg.solve_triangular(upper.T, half, upper=False, left=False)[..., 0, :]


def triangular_factors(lower: Tensor, upper: Tensor, log_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Unit lower and positive upper triangular matrices from what `LULinear` stores."""
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return lower.tril(-1) + identity, upper.triu(1) + log_diagonal.exp().diag()


class LUMap(torch.autograd.Function):
    """`LULinear.forward` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, log_diagonal: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        lower, upper = triangular_factors(lower, upper, log_diagonal)
        matrix = lower @ upper
        ctx.save_for_backward(x, lower, upper, matrix)
        return torch.addmm(bias, x, matrix.T), log_diagonal.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor, ...]:
        x, lower, upper, matrix = ctx.saved_tensors
        grad_matrix = grad.T @ x
        grad_upper = lower.T @ grad_matrix
        return (
            grad @ matrix,
            (grad_matrix @ upper.T).tril_(-1),
            grad_upper.triu(1),
            torch.addcmul(grad_log_det, grad_upper.diagonal(), upper.diagonal()),
            grad.sum(0),
        )


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
        n_first = n_features // 2
        self.keep_first = keep_first or n_features == 1
        self.sizes = (n_first, n_features - n_first)
        n_kept, n_mapped = self.sizes if self.keep_first else self.sizes[::-1]
        widths = [n_kept, *hidden_layer_sizes]
        self.dropout, self.space = dropout, Workspace()
        # The last row of each matrix of weights is the bias.
        self.weights = nn.ParameterList()
        for n_in, n_out in pairwise(widths):
            uniform = 2 * torch.rand(n_in + 1, n_out, generator=generator) - 1
            self.weights.append(nn.Parameter(uniform / (n_in + 1) ** 0.5))
        n_out = n_mapped * transformer.n_parameters
        self.weights.append(nn.Parameter(torch.zeros(widths[-1] + 1, n_out)))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=-1)
        return (first, second) if self.keep_first else (second, first)

    def _join(self, kept: Tensor, mapped: Tensor) -> Tensor:
        return torch.cat((kept, mapped) if self.keep_first else (mapped, kept), dim=-1)

    def _condition(self, kept: Tensor) -> Tensor:
        """Parameters of the transformer for the mapped columns."""
        *weights, last = (weight.to(kept.dtype) for weight in self.weights)
        hidden = bounded(kept / self.input_limit, self.input_limit)
        for weight in weights:
            hidden = ACTIVATIONS[self.activation].function(hidden @ weight[:-1] + weight[-1])
        return self._shaped(hidden @ last[:-1] + last[-1])

    def _shaped(self, parameters: Tensor) -> Tensor:
        return parameters.unflatten(-1, (-1, self.transformer.n_parameters))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped rows and their log-determinants."""
        kept, mapped = self._split(x)
        mapped, log_slope, _ = self.transformer.forward(mapped, self._condition(kept))
        return self._join(kept, mapped), log_slope.sum(-1)

    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Layer.training_forward`."""
        kept, mapped = self._split(x)
        masks = []
        if self.dropout:
            share = 1 - self.dropout
            masks = [
                torch.rand(len(x), w.shape[1], generator=generator, dtype=x.dtype, device=x.device)
                .lt_(share)
                .div_(share)
                for w in list(self.weights)[:-1]
            ]
        mapped, log_det = CouplingMap.apply(kept, mapped, self, masks, *self.weights)
        return self._join(kept, mapped), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Rows from their images, as dear as the image."""
        kept, mapped = self._split(z)
        return self._join(kept, self.transformer.inverse(mapped, self._condition(kept)))


class CouplingMap(torch.autograd.Function):
    """Mapped columns and log-determinant of a `Coupling`, with their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        kept: Tensor,
        mapped: Tensor,
        coupling: Coupling,
        masks: list[Tensor],
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        function, space = ACTIVATIONS[coupling.activation].function, coupling.space
        inputs, befores = [bounded(kept / coupling.input_limit, coupling.input_limit)], []
        for k, weight in enumerate(weights):
            before = space(f"before {k}", kept, weight.shape[1])
            torch.addmm(weight[-1], inputs[k], weight[:-1], out=before)
            befores.append(before)
            if k < len(weights) - 1:
                inputs.append(function(before, out=space(f"after {k}", kept, weight.shape[1])))
                if masks:
                    inputs[-1].mul_(masks[k])
        y, log_slope, ctx.map = coupling.transformer.forward(mapped, coupling._shaped(befores[-1]))
        ctx.coupling, ctx.masks, ctx.inputs, ctx.befores = coupling, masks, inputs, befores
        ctx.turn = space.take_turn()
        ctx.save_for_backward(*weights)
        return y, log_slope.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        ctx.coupling.space.check(ctx.turn)
        gradient = ACTIVATIONS[ctx.coupling.activation].gradient
        grad_log_slope = grad_log_det[:, None].expand_as(grad_y)
        to_mapped, parameters = ctx.coupling.transformer.gradient(ctx.map, grad_y, grad_log_slope)
        grad, grads = parameters.flatten(-2), []
        for k in reversed(range(len(weights))):
            to_weight = torch.empty_like(weights[k])
            torch.mm(ctx.inputs[k].T, grad, out=to_weight[:-1])
            torch.sum(grad, 0, out=to_weight[-1])
            grads.append(to_weight)
            if k:
                to_input = torch.mm(grad, weights[k][:-1].T, out=ctx.inputs[k])
                if ctx.masks:
                    to_input.mul_(ctx.masks[k - 1])
                before = ctx.befores[k - 1]
                grad = gradient(to_input, before, out=before)
        grad = grad @ weights[0][:-1].T
        limit = ctx.coupling.input_limit
        grad = grad * (bounded_slope(ctx.inputs[0], limit) / limit)
        return grad, to_mapped, None, None, *reversed(grads)
