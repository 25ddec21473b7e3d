"""Bijections: linear maps with learnt parameters, permutations, composition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .interfaces import Bijection, gradient_of, has_double
from .workspace import Workspace, is_tracked


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


def columns_of(x: Tensor) -> Tensor:
    """Columns (d, n) of rows (..., d), one after the other in memory."""
    d = x.shape[-1]
    return x.reshape(x.numel() // d, d).T.contiguous()


def rows_of(columns: Tensor, like: Tensor) -> Tensor:
    """Rows in the shape of others, of columns (d, n), whose memory they share."""
    return columns.reshape(len(columns), *like.shape[:-1]).movedim(0, -1)


def log_det_of(log_slopes: list[Tensor], image: Tensor) -> Tensor:
    """Log-determinants (n,), from the log-slopes that layers gave with an image (d, n)."""
    return torch.cat(log_slopes).sum(0) if log_slopes else image.new_zeros(image.shape[1])


class Maps(NamedTuple):
    """A layer as functions of columns (d, n), which have its weights at hand.

    To look these up, and their views, takes as long as the arithmetic on a few hundred rows.
    """

    # Image; appends tensors (k, n) to the list, whose rows add up to the log-determinants.
    forward: Callable[[Tensor, list[Tensor]], Tensor]
    inverse: Callable[[Tensor], Tensor]


class Layer(Bijection):
    """A bijection of columns (d, n), each a run of memory, that knows the gradient of its pass.

    So some of the columns, and all that a network says of one, are runs too: elementwise
    operations are as fast as can be, and products that give few columns up to four times as fast
    as with the rows (n, d) as runs.
    """

    @abstractmethod
    def maps(self, dtype: torch.dtype) -> Maps:
        """Functions of columns of a precision, right until weights are replaced or converted."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image of rows (..., d) and their log-determinants."""
        log_slopes: list[Tensor] = []
        image = self.image(columns_of(x), log_slopes)
        return rows_of(image, x), log_det_of(log_slopes, image).reshape(x.shape[:-1])

    def inverse(self, z: Tensor) -> Tensor:
        """Preimage of rows (..., d)."""
        return rows_of(self.maps(z.dtype).inverse(columns_of(z)), z)

    def image(self, x: Tensor, log_slopes: list[Tensor]) -> Tensor:
        """Image (d, n) of columns; appends to the list as `Maps.forward` does."""
        return self.maps(x.dtype).forward(x, log_slopes)

    @abstractmethod
    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        """Like `Maps.forward`, perhaps with noise; also returns what `training_backward` needs."""

    @abstractmethod
    def training_backward(self, kept: Any, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """Gradient of x; adds to those of the parameters, and may overwrite what was kept."""


class LayerChain(Layer):
    """Layers applied one after the other, which the columns pass without becoming rows between.

    Rows are mapped in double precision, whatever theirs: trained layers can be steep one after the
    other, and in single precision would lose more than the rounding of their image does.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.space = Workspace()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer.forward`."""
        image, log_det = super().forward(_exact(x))
        return image.to(x.dtype), log_det.to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        """See `Layer.inverse`."""
        return super().inverse(_exact(z)).to(z.dtype)

    def _in_order(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))

    def maps(self, dtype: torch.dtype) -> Maps:
        """See `Layer.maps`; kept where autograd does not need the weights themselves."""
        if not is_tracked():
            by_module = self.space.kept("by module", (), self._parameters_by_module)
            weights = [weight for parameters in by_module for weight in parameters.values()]
            if weights and weights[0].dtype == dtype:  # else the maps have copies
                return self.space.views("maps", weights, dtype, lambda: self._composed(dtype))
        return self._composed(dtype)

    def _parameters_by_module(self) -> list[dict]:
        # Kept, as to go through all modules, like `parameters`, takes longer than to run one.
        return [module._parameters for module in self.modules() if module._parameters]

    def _composed(self, dtype: torch.dtype) -> Maps:
        maps = [layer.maps(dtype) for layer in self._in_order()]
        images, preimages = [m.forward for m in maps], [m.inverse for m in reversed(maps)]

        def forward(x: Tensor, log_slopes: list[Tensor]) -> Tensor:
            for image in images:
                x = image(x, log_slopes)
            return x

        def inverse(z: Tensor) -> Tensor:
            for preimage in preimages:
                z = preimage(z)
            return z

        return Maps(forward, inverse)

    @torch.inference_mode()
    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, list]:
        """See `Layer.training_forward`.

        Autograd would record each of many small operations, which cost more than their arithmetic.
        """
        passes = []
        for layer in self._in_order():
            x, kept = layer.training_forward(x, log_slopes, generator)
            passes.append((layer, kept))
        return x, passes

    @torch.inference_mode()
    def training_backward(self, kept: list, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        for layer, passed in reversed(kept):
            grad = layer.training_backward(passed, grad, grad_log_det)
        return grad


def _exact(x: Tensor) -> Tensor:
    return x.double() if has_double(x.device) else x


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

    def maps(self, dtype: torch.dtype) -> Maps:
        """See `Layer.maps`; the log-determinant is 0."""
        order, back = self.order, self.back
        return Maps(lambda x, _: x.index_select(0, order), lambda z: z.index_select(0, back))

    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, None]:
        """See `Layer.training_forward`."""
        return x.index_select(0, self.order), None

    def training_backward(self, kept: None, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        return grad.index_select(0, self.back)


class LULinear(Layer):
    """``z = L U P x + b``: P permutes, L is unit lower and U upper triangular, both learnt.

    L and U start as the identity. The diagonal of U is positive, stored by its logarithm, whose sum
    is the log-determinant. Every invertible matrix is such a product, up to signs.

    Parameters
    ----------
    order : tensor of int, shape (d,)
        Column j of ``P x`` is column ``order[j]`` of x.

    References
    ----------
    Kingma and Dhariwal, "Glow: Generative flow with invertible 1x1 convolutions", 2018.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        n_features = len(order)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        # Below the diagonal L, above it U, on it the logarithm of the diagonal of U.
        self.packed = nn.Parameter(torch.zeros(n_features, n_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(n_features, 1, dtype=torch.float32))

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices L, without its ones, and U, and the log-determinant."""
        packed = self.packed.to(dtype)
        log_diagonal = packed.diagonal()
        return packed.tril(-1), packed.triu(1) + log_diagonal.exp().diag(), log_diagonal.sum()

    def maps(self, dtype: torch.dtype) -> Maps:
        """See `Layer.maps`; the inverse is by substitution."""

        def forward(x: Tensor, log_slopes: list[Tensor]) -> Tensor:
            return self._image(x, *self._factors(dtype), log_slopes)[0]

        def inverse(z: Tensor) -> Tensor:
            below, upper, _ = self._factors(dtype)
            x = z - self.bias.to(dtype)
            x = torch.linalg.solve_triangular(below, x, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True)
            return x.index_select(0, self.back)

        return Maps(forward, inverse)

    def training_forward(
        self, x: Tensor, log_slopes: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, tuple]:
        """See `Layer.training_forward`."""
        factors = self._factors(x.dtype)
        image, matrix = self._image(x, *factors, log_slopes)
        return image, (x, *factors[:2], matrix)

    def _image(
        self, x: Tensor, below: Tensor, upper: Tensor, log_det: Tensor, log_slopes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Image of columns, and the matrix L U P."""
        log_slopes.append(log_det.expand(1, x.shape[1]))
        matrix = torch.addmm(upper, below, upper).index_select(1, self.back)
        return torch.addmm(self.bias.to(x.dtype), matrix, x), matrix

    def training_backward(self, kept: tuple, grad: Tensor, grad_log_det: Tensor) -> Tensor:
        """See `Layer.training_backward`."""
        x, below, upper, matrix = kept
        grad_matrix = (grad @ x.T).index_select(1, self.order)  # of L U
        grad_upper = torch.addmm(grad_matrix, below.T, grad_matrix)
        packed = (grad_matrix @ upper.T).tril_(-1).add_(grad_upper.triu(1))
        diagonal = torch.addcmul(grad_log_det.sum(), grad_upper.diagonal(), upper.diagonal())
        packed.diagonal().copy_(diagonal)
        gradient_of(self.packed).add_(packed)
        gradient_of(self.bias).add_(grad.sum(1, keepdim=True))
        return matrix.T @ grad
