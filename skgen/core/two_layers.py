"""Two hidden layers and their gradient, written out, in memory that is kept."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .activations import Activation
from .products import product
from .workspace import Workspace


class Layers(NamedTuple):
    """What `two_layers` leaves for `two_layers_gradient`."""

    turn: int
    inputs: Tensor
    before: Tensor  # (u, s), memory that (u, p) or their gradients may share
    u: Tensor
    act_u: Tensor
    p: Tensor
    act_p: Tensor


def two_layers(
    inputs: Tensor,
    weight_in: Tensor,
    hidden: Tensor,
    out: Tensor,
    bias_out: Tensor,
    activation: Activation,
    space: Workspace,
) -> tuple[Tensor, Layers]:
    """``act(p) W_out^T + b_out`` of ``p = s + act(u) B^T`` and ``(u, s) = input W_in``.

    For training: autograd would record about twice as many operations and allocate each result; on
    a small network that, not the matrix products, would set the pace.
    """
    (width_p, width_u), n = hidden.shape, len(inputs)
    before = product(inputs, weight_in, out=space("before", inputs, n, width_u + width_p))
    u, skip = before.split([width_u, width_p], dim=1)
    act_u = activation.function(u, out=space("act_u", inputs, n, width_u))
    p = product(act_u, hidden.T, plus=skip, out=skip)
    act_p = activation.function(p, out=space("act_p", inputs, n, width_p))
    layers = Layers(space.take_turn(), inputs, before, u, act_u, p, act_p)
    return product(act_p, out.T, bias_out), layers


def two_layers_gradient(
    layers: Layers,
    grad: Tensor,
    hidden: Tensor,
    out: Tensor,
    activation: Activation,
    space: Workspace,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``W_in``, ``B``, ``W_out`` and ``b_out`` from that of the output.

    It overwrites what the forward pass left, so that all of it stays in the cache.
    """
    turn, inputs, before, u, act_u, p, act_p = layers
    space.check(turn)
    grad_out = product(grad.T, act_p)
    grad_p = activation.gradient(product(grad, out, out=act_p), p, out=p)
    grad_hidden = product(grad_p.T, act_u)
    activation.gradient(product(grad_p, hidden, out=act_u), u, out=u)
    skip = before[:, u.shape[1] :]
    if p.data_ptr() != skip.data_ptr():
        skip.copy_(grad_p)
    return product(inputs.T, before), grad_hidden, grad_out, grad.sum(0)
