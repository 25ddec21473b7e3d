"""Activations with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """An activation and its derivative times a factor, each one fused operation.

    Both write into a given tensor, or make one.
    """

    function: Callable[..., Tensor]  # (input, out=None) -> function(input)
    gradient: Callable[..., Tensor]  # (factor, input, out=None) -> factor * function'(input)


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


_aten = torch.ops.aten
ACTIVATIONS = {
    "silu": Activation(_function(_aten.silu), _gradient(_aten.silu_backward)),
    "gelu": Activation(_function(_aten.gelu), _gradient(_aten.gelu_backward)),
    "softplus": Activation(
        _function(_aten.softplus), _gradient(_aten.softplus_backward, 1.0, 20.0)
    ),
    "tanh": Activation(torch.tanh, _tanh_gradient),
    "relu": Activation(_relu, _gradient(_aten.threshold_backward, 0.0)),
}
