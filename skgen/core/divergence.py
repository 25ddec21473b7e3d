"""Divergence of a vector field without a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def exact_divergence(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and exact divergence of a row-wise field by one Jacobian product a feature.

    Parameters
    ----------
    function : callable
        Maps rows (n, d) to rows (n, d), each row alone.
    x : tensor of shape (n, d)

    Returns
    -------
    value : tensor of shape (n, d)
    divergence : tensor of shape (n,)
    """
    divergence = x.new_zeros(len(x))
    for i in range(x.shape[1]):
        direction = torch.zeros_like(x)
        direction[:, i] = 1
        value, product = torch.func.jvp(function, (x,), (direction,))  # type: ignore[misc]
        divergence = divergence + product[:, i]
    return value.detach(), divergence.detach()
