"""Memory that networks write their layers to, and views of it, kept from one call to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Workspace:
    """Tensors that a network writes its layers to, kept from one training step to the next.

    Memory fresh from the system costs a page fault every 4 kB, more than the arithmetic on it; and
    a view costs as much as the arithmetic of a small layer.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[Hashable, Any]] = {}
        self.turn = 0  # of the forward pass that wrote to them last

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Tensor of a name and a shape, of the kind of ``like``; ones at first."""
        key = (*shape, like.dtype, like.device)
        return self.kept(name, key, lambda: like.new_ones(shape))

    def kept(self, name: str, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under a name, or made anew if it was for another key."""
        known, value = self.found.get(name, (None, None))
        if known != key:
            value = make()
            self.found[name] = key, value
        return value

    def views(self, name: str, of: Sequence[Tensor], key: Hashable, make: Callable[[], T]) -> T:
        """What was made under a name of tensors, or made anew if these lie elsewhere now.

        It must hold on to their memory, so that no other tensor can come to lie there.
        """
        return self.kept(name, (key, of[0].device, *[tensor.data_ptr() for tensor in of]), make)

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
        return {"found": {}, "turn": 0}


def is_tracked() -> bool:
    """Whether autograd, `torch.func` or the compiler may track what is done to tensors."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    )
