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


def _activation(forward: Any, backward: Any, *constants: float) -> Activation:
    """Wrap two operators of PyTorch, which have variants with and without ``out``."""

    def function(x: Tensor, out: Tensor | None = None) -> Tensor:
        return forward(x) if out is None else forward.out(x, out=out)

    def gradient(factor: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            return backward(factor, x, *constants)
        return backward.grad_input(factor, x, *constants, grad_input=out)

    return Activation(function, gradient)


def _tanh_gradient(factor: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(factor, 1 - torch.tanh(x).square(), out=out)


_aten = torch.ops.aten
ACTIVATIONS = {
    "silu": _activation(_aten.silu, _aten.silu_backward),
    "gelu": _activation(_aten.gelu, _aten.gelu_backward),
    "softplus": _activation(_aten.softplus, _aten.softplus_backward, 1.0, 20.0),
    "tanh": Activation(torch.tanh, _tanh_gradient),
    "relu": _activation(_aten.relu, _aten.threshold_backward, 0.0),
}
