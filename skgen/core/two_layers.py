"""Two hidden layers as one differentiable operation that allocates nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .activations import Activation


class Workspace:
    """Tensors that a network writes its layers to, kept from one training step to the next.

    Memory fresh from the system costs a page fault every 4 kB, more than the arithmetic on it.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.turn = 0  # of the forward pass that wrote to them last

    def __call__(self, name: str, like: Tensor, width: int) -> Tensor:
        """Tensor of a name, as many rows as ``like`` and a width."""
        key = (len(like), width, like.dtype, like.device)
        found = self.tensors.get(name)
        if found is None or (*found.shape, found.dtype, found.device) != key:
            found = self.tensors[name] = like.new_empty(len(like), width)
        return found

    def take_turn(self) -> int:
        """Number of a forward pass, to hand to `check` when its gradient is taken."""
        self.turn += 1
        return self.turn

    def check(self, turn: int) -> None:
        """Refuse a gradient whose tensors have been overwritten; once taken, they are."""
        if turn != self.turn:
            raise RuntimeError(
                "The network was evaluated again, or its gradient was taken, before this gradient."
            )
        self.turn += 1

    def __getstate__(self) -> dict:
        return {"tensors": {}, "turn": 0}


class TwoLayers(torch.autograd.Function):
    """``act(s + B act(u)) W_out^T + b_out`` of ``(u, s) = input W_in``.

    Autograd would record about twice as many operations and allocate each result; on a small
    network that, not the matrix products, would set the pace of training. The gradient overwrites
    what the forward pass left, so that all of it stays in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight_in: Tensor,
        hidden: Tensor,
        out: Tensor,
        bias_out: Tensor,
        activation: Activation,
        space: Workspace,
    ) -> Tensor:
        width_p, width_u = hidden.shape
        pre = torch.mm(inputs, weight_in, out=space("pre", inputs, width_u + width_p))
        u, p = pre.split([width_u, width_p], dim=1)
        act_u = activation.function(u, out=space("act_u", inputs, width_u))
        torch.addmm(p, act_u, hidden.T, out=p)
        act_p = activation.function(p, out=space("act_p", inputs, width_p))
        ctx.turn, ctx.space, ctx.activation = space.take_turn(), space, activation
        ctx.save_for_backward(inputs, weight_in, hidden, out)
        return torch.addmm(bias_out, act_p, out.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight_in, hidden, out = ctx.saved_tensors
        space, gradient = ctx.space, ctx.activation.gradient
        space.check(ctx.turn)
        pre, act_u, act_p = (space.tensors[name] for name in ("pre", "act_u", "act_p"))
        u, p = pre.split([act_u.shape[1], act_p.shape[1]], dim=1)
        grad_out = grad.T @ act_p
        grad_p = gradient(torch.mm(grad, out, out=act_p), p, out=p)
        grad_hidden = grad_p.T @ act_u
        gradient(torch.mm(grad_p, hidden, out=act_u), u, out=u)
        grad_inputs = pre @ weight_in.T if ctx.needs_input_grad[0] else None
        return grad_inputs, inputs.T @ pre, grad_hidden, grad_out, grad.sum(0), None, None
