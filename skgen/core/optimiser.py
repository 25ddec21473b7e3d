"""Steps along a gradient: AdamW, and Muon for the matrices that a model names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Of a polynomial. Three steps carry singular values from 0.02 to 1 into 0.68 to 1.21.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
LARGEST_SIDE = 128  # the smaller one of a matrix; products of larger ones take longer than batches


class FlatParameters:
    """All parameters of a module as views of one vector, and so their gradients.

    The optimiser, clipping and averaging then cost one operation each, not one a parameter.

    Parameters
    ----------
    module : Module
    matrices : sequence of parameters
        Some of the module's, which become views of stacks (k, r, c) at the front, a stack for each
        shape; but for the largest.

    Attributes
    ----------
    values, gradient : tensors of shape (n,)
    stacks : list of tuple of tensors of shape (k, r, c)
        Values and gradients.
    rest : slice
        Of the vectors, where all else is.
    """

    def __init__(self, module: nn.Module, matrices: Sequence[nn.Parameter] = ()) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            if min(matrix.shape) <= LARGEST_SIDE:
                by_shape.setdefault(matrix.shape, []).append(matrix)
        named = [p for group in by_shape.values() for p in group]
        known = {id(p) for p in named}
        parameters = named + [p for p in module.parameters() if id(p) not in known]
        self.values = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient = torch.zeros_like(self.values)
        start = 0
        for p in parameters:
            end = start + p.numel()
            p.data = self.values[start:end].view_as(p)
            p.grad = self.gradient[start:end].view_as(p)
            start = end
        self.stacks, start = [], 0
        for shape, group in by_shape.items():
            end = start + len(group) * shape.numel()
            values, gradient = self.values[start:end], self.gradient[start:end]
            self.stacks.append((values.view(-1, *shape), gradient.view(-1, *shape)))
            start = end
        self.rest = slice(start, None)


class Optimiser:
    """AdamW, and for stacks of matrices Muon, along the gradient clipped to a norm of 1.

    Muon moves a matrix along the nearest orthogonal one to its averaged gradient: by the same
    length in all directions of its input, those too in which gradients are small. Its steps are as
    long as those of AdamW, whose rate it takes.

    Parameters
    ----------
    flat : FlatParameters
    weight_decay : float
        Decoupled weight decay.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. Jordan et al., "Muon: an
    optimizer for hidden layers in neural networks", 2024. Liu et al., "Muon is scalable for LLM
    training", 2025, for the length of steps.
    """

    momentum = 0.95

    def __init__(self, flat: FlatParameters, weight_decay: float) -> None:
        self.flat, self.weight_decay = flat, weight_decay
        self.values, self.gradient = flat.values[flat.rest], flat.gradient[flat.rest]
        self.moments = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.count = flat.values.new_zeros(())
        self.averages = [torch.zeros_like(gradient) for _, gradient in flat.stacks]

    @torch.inference_mode()
    def step(self, rate: float) -> None:
        """Move the parameters."""
        norm = torch.linalg.vector_norm(self.flat.gradient).clamp(min=1.0)
        # The function, as the object around it costs a small network a tenth of its training.
        adamw(
            [self.values],
            [self.gradient],
            [self.moments[0]],
            [self.moments[1]],
            [],
            [self.count],
            fused=True,
            grad_scale=norm,  # divides the gradient
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=self.weight_decay,
            amsgrad=False,
            maximize=False,
        )
        for (values, gradient), average in zip(self.flat.stacks, self.averages, strict=True):
            average.lerp_(gradient.div_(norm), 1 - self.momentum)
            direction = nearly_orthogonal(gradient.lerp_(average, self.momentum))
            values.mul_(1 - rate * self.weight_decay)
            values.add_(direction, alpha=-0.2 * rate * max(values.shape[1:]) ** 0.5)


def nearly_orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (k, r, c) with the same singular vectors and singular values near 1.

    By three steps of a Newton-Schulz iteration, ``X <- a X + b (X X') X + c (X X')^2 X``.
    """
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    wide = x.shape[1] <= x.shape[2]
    for _ in range(3):
        square = x @ x.mT if wide else x.mT @ x
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        left, right = (factor, x) if wide else (x, factor)
        x = torch.baddbmm(x, left, right, beta=a)
    return x
