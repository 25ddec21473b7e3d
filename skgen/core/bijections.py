"""Bijections: linear maps with learnt parameters, permutations, composition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .interfaces import Bijection, gradient_of


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

    @torch.no_grad()
    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """As `forward` of `Layer` s, with dropout if any, and a function for the gradient.

        That takes the gradients of image (n, d) and log-determinant (n,), adds to those of the
        parameters, and returns that of x. Autograd would record each of many small operations,
        which cost more than their arithmetic.
        """
        log_det, passes = x.new_zeros(len(x)), []
        for layer in cast(Iterable[Layer], self.bijections):
            x, part, kept = layer.training_forward(x, generator)
            log_det += part
            passes.append((layer, kept))

        def add_gradient(grad: Tensor, grad_log_det: Tensor) -> Tensor:
            with torch.no_grad():
                for layer, kept in reversed(passes):
                    grad = layer.training_backward(kept, grad, grad_log_det)
            return grad

        return x, log_det, add_gradient


class Layer(Bijection):
    """A bijection that knows the gradient of its training pass."""

    @abstractmethod
    def training_forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Any]:
        """Image, log-determinant, and what `training_backward` needs."""

    @abstractmethod
    def training_backward(self, kept: Any, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """Gradient of x; adds to those of the parameters, and may overwrite what was kept."""


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
        return x.index_select(-1, self.order), x.new_zeros(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Rows in the original order."""
        return z.index_select(-1, self.back)

    def training_forward(
        self, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, None]:
        """See `Layer.training_forward`."""
        return *self.forward(x), None

    def training_backward(self, kept: None, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        return self.inverse(grad)


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

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        x, lower, upper, matrix = kept
        grad_matrix = grad.T @ x
        grad_upper = lower.T @ grad_matrix
        packed = (grad_matrix @ upper.T).tril_(-1).add_(grad_upper.triu(1))
        diagonal = torch.addcmul(grad_log_det.sum(), grad_upper.diagonal(), upper.diagonal())
        packed.diagonal().copy_(diagonal)
        gradient_of(self.packed).add_(packed)
        gradient_of(self.bias).add_(grad.sum(0))
        return grad @ matrix
