"""Bijections with learnt parameters: couplings, linear maps, permutations, composition."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

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

    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `forward` of `Layer` s, with dropout if any, and a gradient written by hand.

        Autograd would record each of many small operations, which cost more than their arithmetic.
        """
        return ChainMap.apply(x, self, generator, *self.parameters())


class ChainMap(torch.autograd.Function):
    """`Chain.training_forward` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chain: Chain, generator: torch.Generator, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_det, ctx.passes = x.new_zeros(len(x)), []
        for layer in cast(Iterable[Layer], chain.bijections):
            x, part, kept = layer.training_forward(x, generator)
            log_det += part
            ctx.passes.append((layer, kept))
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor] = []
        for layer, kept in reversed(ctx.passes):
            grad, own = layer.training_backward(kept, grad, grad_log_det)
            grads[:0] = own
        return grad, None, None, *grads


class Layer(Bijection):
    """A bijection that knows the gradient of its training pass."""

    @abstractmethod
    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Any]:
        """Image, log-determinant, and what `training_backward` needs."""

    @abstractmethod
    def training_backward(
        self, kept: Any, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients of x and of the parameters, in their order; it may overwrite what was kept."""


class Permutation(Layer):
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

    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, None]:
        """See `Layer.training_forward`."""
        return *self.forward(x), None

    def training_backward(
        self, kept: None, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Layer.training_backward`."""
        return self.inverse(grad), []


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
        # Below the diagonal L, above it U, on it the logarithm of the diagonal of U.
        self.packed = nn.Parameter(torch.zeros(n_features, n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices L and U, and the log-determinant."""
        packed = self.packed.to(dtype)
        log_diagonal = packed.diagonal()
        identity = torch.eye(len(packed), dtype=dtype, device=packed.device)
        upper = packed.triu(1) + log_diagonal.exp().diag()
        return packed.tril(-1) + identity, upper, log_diagonal.sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped rows and their log-determinant."""
        lower, upper, log_det = self._factors(x.dtype)
        return x @ (lower @ upper).T + self.bias.to(x.dtype), log_det.expand(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Rows from their images, by substitution."""
        lower, upper, _ = self._factors(z.dtype)
        shifted = (z - self.bias.to(z.dtype))[..., None, :]
        half = torch.linalg.solve_triangular(lower.T, shifted, upper=True, left=False)
        return torch.linalg.solve_triangular(upper.T, half, upper=False, left=False)[..., 0, :]

    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple]:
        """See `Layer.training_forward`."""
        lower, upper, log_det = self._factors(x.dtype)
        matrix = lower @ upper
        return torch.addmm(self.bias, x, matrix.T), log_det, (x, lower, upper, matrix)

    def training_backward(
        self, kept: tuple, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Layer.training_backward`."""
        x, lower, upper, matrix = kept
        grad_matrix = grad.T @ x
        grad_upper = lower.T @ grad_matrix
        packed = (grad_matrix @ upper.T).tril_(-1).add_(grad_upper.triu(1))
        diagonal = torch.addcmul(grad_log_det.sum(), grad_upper.diagonal(), upper.diagonal())
        packed.diagonal().copy_(diagonal)
        return grad @ matrix, [packed, grad.sum(0)]


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
        for k, (n_in, n_out) in enumerate(pairwise(widths)):
            uniform = 2 * torch.rand(n_in + 1, n_out, generator=generator) - 1
            self.register_parameter(f"weight_{k}", nn.Parameter(uniform / (n_in + 1) ** 0.5))
        last = torch.zeros(widths[-1] + 1, n_mapped * transformer.n_parameters)
        self.register_parameter(f"weight_{len(hidden_layer_sizes)}", nn.Parameter(last))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=-1)
        return (first, second) if self.keep_first else (second, first)

    def _join(self, kept: Tensor, mapped: Tensor) -> Tensor:
        return torch.cat((kept, mapped) if self.keep_first else (mapped, kept), dim=-1)

    def _condition(self, kept: Tensor) -> Tensor:
        """Parameters of the transformer for the mapped columns."""
        *weights, last = (weight.to(kept.dtype) for weight in self.parameters(recurse=False))
        hidden, _ = bounded(kept, self.input_limit, 1)
        for weight in weights:
            hidden = ACTIVATIONS[self.activation].function(affine(hidden, weight))
        return self._shaped(affine(hidden, last))

    def _shaped(self, parameters: Tensor) -> Tensor:
        return parameters.unflatten(-1, (-1, self.transformer.n_parameters))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped rows and their log-determinants."""
        kept, mapped = self._split(x)
        mapped, log_slope, _ = self.transformer.forward(mapped, self._condition(kept))
        return self._join(kept, mapped), log_slope.sum(-1)

    def inverse(self, z: Tensor) -> Tensor:
        """Rows from their images, as dear as the image."""
        kept, mapped = self._split(z)
        return self._join(kept, self.transformer.inverse(mapped, self._condition(kept)))

    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple]:
        """See `Layer.training_forward`."""
        function, space = ACTIVATIONS[self.activation].function, self.space
        kept, mapped = self._split(x)
        kept_bounded, ratio = bounded(kept, self.input_limit, 1)
        inputs, befores, drops = [kept_bounded], [], []
        weights = list(self.parameters(recurse=False))
        for k, weight in enumerate(weights):
            before = space(f"before {k}", kept, weight.shape[1])
            torch.addmm(weight[-1], inputs[k], weight[:-1], out=before)
            befores.append(before)
            if k < len(weights) - 1:
                after = function(before, out=space(f"after {k}", kept, weight.shape[1]))
                if self.dropout:
                    drops.append(self._drawn(after, generator))
                    self._drop(after, drops[k])
                inputs.append(after)
        y, log_slope, transformed = self.transformer.forward(mapped, self._shaped(befores[-1]))
        passed = space.take_turn(), inputs, befores, drops, ratio, transformed
        return self._join(kept, y), log_slope.sum(-1), passed

    def training_backward(
        self, kept: tuple, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Layer.training_backward`."""
        turn, inputs, befores, drops, ratio, transformed = kept
        self.space.check(turn)
        gradient = ACTIVATIONS[self.activation].gradient
        to_kept, grad_y = self._split(grad)
        grad_log_slope = grad_log_det[:, None].expand_as(grad_y)
        to_mapped, parameters = self.transformer.gradient(transformed, grad_y, grad_log_slope)
        grad = parameters.flatten(-2)
        grads: list[Tensor] = []
        weights = list(self.parameters(recurse=False))
        for k, weight in reversed(list(enumerate(weights))):
            to_weight = torch.empty_like(weight)
            torch.mm(inputs[k].T, grad, out=to_weight[:-1])
            torch.sum(grad, 0, out=to_weight[-1])
            grads.insert(0, to_weight)
            if k:
                to_input = torch.mm(grad, weight[:-1].T, out=inputs[k])
                if self.dropout:
                    self._drop(to_input, drops[k - 1])
                grad = gradient(to_input, befores[k - 1], out=befores[k - 1])
        to_input = grad @ weights[0][:-1].T
        to_kept = torch.addcmul(to_kept, to_input, bounded_slope(ratio, 1))
        return self._join(to_kept, to_mapped), grads

    def _drawn(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Positions to set to zero, so many draws that each unit is among them by ``dropout``.

        Ten times as fast as a number for each unit.
        """
        size = hidden.numel()
        count = round(math.log(1 - self.dropout) / math.log1p(-1 / max(size, 2)))
        return torch.randint(size, (count,), generator=generator, device=hidden.device)

    def _drop(self, hidden: Tensor, positions: Tensor) -> None:
        hidden.view(-1).index_fill_(0, positions, 0.0)
        hidden.div_(1 - self.dropout)


def affine(x: Tensor, weight: Tensor) -> Tensor:
    """Image of x under a matrix whose last row is the bias."""
    return linear(x, weight[:-1].T, weight[-1])
