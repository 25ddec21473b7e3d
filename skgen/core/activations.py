"""Activations with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """An activation and its derivative times a factor, each one fused operation.

    Both write into a given tensor, or make one. ``in_place`` overwrites its input, which autograd
    allows (softplus, which has no such variant, makes a new tensor).
    """

    function: Callable[..., Tensor]  # (input, out=None) -> function(input)
    gradient: Callable[..., Tensor]  # (factor, input, out=None) -> factor * function'(input)
    in_place: Callable[[Tensor], Tensor]
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]]  # input -> function, function' of it


def _activation(
    function: Callable[..., Tensor],
    gradient: Callable[..., Tensor],
    in_place: Callable[[Tensor], Tensor],
) -> Activation:
    def with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
        return function(x), gradient(x.new_ones(()).expand_as(x), x)

    return Activation(function, gradient, in_place, with_slope)


def _function(forward: Any) -> Callable[..., Tensor]:
    def function(x: Tensor, out: Tensor | None = None) -> Tensor:
        return forward(x) if out is None else forward.out(x, out=out)

    return function


def _gradient(backward: Any, *constants: float) -> Callable[..., Tensor]:
    def gradient(factor: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return backward(factor, x, *constants)
        return backward.grad_input(factor, x, *constants, grad_input=out)

    return gradient


def _tanh_gradient(factor: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(factor, 1 - torch.tanh(x).square(), out=out)


def _relu(x: Tensor, out: Tensor | None = None) -> Tensor:
    # The variant of relu with ``out`` takes twice as long.
    return torch.relu(x) if out is None else torch.clamp_min(x, 0.0, out=out)


def _silu_with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    # With one exponential instead of two: s x and its slope s x + s (1 - s x).
    sigmoid = torch.sigmoid(x)
    value = sigmoid * x
    return value, torch.lerp(value, torch.ones((), dtype=x.dtype, device=x.device), sigmoid)


_aten = torch.ops.aten
ACTIVATIONS = {
    "silu": Activation(
        _function(_aten.silu), _gradient(_aten.silu_backward), _aten.silu_, _silu_with_slope
    ),
    "gelu": _activation(_function(_aten.gelu), _gradient(_aten.gelu_backward), _aten.gelu_),
    "softplus": _activation(
        _function(_aten.softplus), _gradient(_aten.softplus_backward, 1.0, 20.0), _aten.softplus
    ),
    "tanh": _activation(torch.tanh, _tanh_gradient, torch.tanh_),
    "relu": _activation(_relu, _gradient(_aten.threshold_backward, 0.0), torch.relu_),
}
