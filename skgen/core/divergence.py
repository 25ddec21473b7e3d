"""Divergence of a vector field without a closed form."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

_forward_lock = threading.RLock()  # PyTorch counts the levels of all threads together


def jacobian_product(
    function: Callable[[Tensor], Any], x: Tensor, direction: Tensor
) -> tuple[Any, Any]:
    """Value of a function and the product of its Jacobian with a direction, in forward mode."""
    with _forward_lock, _outside_inference_mode():
        _load_forward_mode()
        return torch.func.jvp(function, (_normal(x),), (_normal(direction),))  # type: ignore[return-value]


def transposed_jacobian_product(
    function: Callable[[Tensor], Any], x: Tensor, directions: tuple[Tensor, ...]
) -> Tensor:
    """Product of the transposed Jacobian of a function of several values with a direction each."""
    with _outside_inference_mode():
        _, pull = torch.func.vjp(function, _normal(x))  # type: ignore[misc]
        return pull(tuple(_normal(direction) for direction in directions))[0]


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Leave inference mode, where older versions of PyTorch say that all derivatives are 0."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


def _normal(x: Tensor) -> Tensor:
    """The tensor, or a copy that is not an inference tensor, which has no derivatives."""
    return x.clone() if x.is_inference() else x


@cache
def _load_forward_mode() -> None:
    """At its first use torch loads functions by ``torch.jit.script``, and warns that it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
        torch.func.jvp(torch.neg, (torch.zeros(1),), (torch.ones(1),))


def exact_divergence(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Value and exact divergence of a row-wise field by one Jacobian product a feature.

    Parameters
    ----------
    function : callable
        Maps rows (n, d) to rows (n, d), each row alone.
    x : tensor of shape (n, d)

    Returns
    -------
    tensor of shape (n, d + 1)
        Value, and divergence in the last column.
    """
    divergence = x.new_zeros(len(x), 1)
    for i in range(x.shape[1]):
        direction = torch.zeros_like(x)
        direction[:, i] = 1
        value, product = jacobian_product(function, x, direction)
        divergence = divergence + product[:, i : i + 1]
    return torch.cat([value, divergence], dim=1).detach()


def hutchinson_divergence(
    function: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor
) -> Tensor:
    """Value of a row-wise field and estimates of its divergence, one for each probe.

    ``e^T J e`` with the Jacobian J has the divergence as its mean if the entries of the probe e are
    independent, of mean 0 and variance 1. The probes are the same for all rows, so that a row's
    estimate does not depend on its neighbours.

    Parameters
    ----------
    function : callable
        Maps rows (n, d) to rows (n, d), each row alone.
    x : tensor of shape (n, d)
    probes : tensor of shape (M, d)

    Returns
    -------
    tensor of shape (n, d + M)
        Value, and estimates in the last columns.

    References
    ----------
    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines", 1989. Grathwohl et al., "FFJORD", 2019.
    """
    divergences = []
    for probe in probes.to(x):
        direction = probe.expand_as(x)
        value, product = jacobian_product(function, x, direction)
        divergences.append((product * direction).sum(1, keepdim=True))
    return torch.cat([value, *divergences], dim=1).detach()


def draw_probes(kind: str, n_probes: int, n_features: int, generator: torch.Generator) -> Tensor:
    """Probes (n_probes, n_features), "rademacher" (signs) or "gaussian", float64 on the CPU."""
    if kind == "gaussian":
        return torch.randn(n_probes, n_features, dtype=torch.float64, generator=generator)
    signs = torch.randint(2, (n_probes, n_features), generator=generator)
    return 2.0 * signs.double() - 1.0
