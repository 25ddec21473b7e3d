"""Explicit Runge-Kutta solvers: one loop, each method a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method.

    Parameters
    ----------
    stages : tuple of tuple of float
        Row i holds the weights of the earlier slopes in stage i; the first row is empty.
    weights : tuple of float
        Weights of the slopes in the step.
    order : int
        Order of convergence.
    """

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int


SOLVERS = {
    "euler": Tableau(((),), (1,), 1),
    "midpoint": Tableau(((), (1 / 2,)), (0, 1), 2),
    "heun": Tableau(((), (1,)), (1 / 2, 1 / 2), 2),
    "rk4": Tableau(((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4),
    # Dormand and Prince (1980), the fifth-order weights; its seventh stage serves only the
    # error estimate of adaptive steps and is left out.
    "dopri5": Tableau(
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        5,
    ),
}


def time_grid(n_steps: int, power: float = 1.0) -> list[float]:
    """Times from 0 to 1, denser towards 1 (the data) for ``power > 1``."""
    return [1 - (1 - k / n_steps) ** power for k in range(n_steps + 1)]


def integrate(
    field: Callable[[float, Tensor], tuple[Tensor, ...]],
    state: tuple[Tensor, ...],
    times: Sequence[float],
    tableau: Tableau,
    observe: Callable[[tuple[Tensor, ...]], None] | None = None,
) -> tuple[Tensor, ...]:
    """Integrate ``d state / dt = field(t, state[0])`` over a fixed grid of times.

    Parameters
    ----------
    field : callable
        Maps a time and the first tensor of the state to the slopes of all its tensors.
        (The others, such as a running integral, do not drive the motion.)
    state : tuple of tensors
        Value at ``times[0]``; not modified.
    times : sequence of float
        The grid, increasing or decreasing.
    tableau : Tableau
        The method.
    observe : callable, optional
        Called with the state after every step.

    Returns
    -------
    tuple of tensors
        Value at ``times[-1]``.
    """
    offsets = [sum(row) for row in tableau.stages]
    for start, end in pairwise(times):
        step = end - start
        slopes: list[tuple[Tensor, ...]] = []
        for offset, row in zip(offsets, tableau.stages, strict=True):
            x = _advance(state[0], [slope[0] for slope in slopes], row, step)
            slopes.append(field(start + offset * step, x))
        state = tuple(
            _advance(value, parts, tableau.weights, step)
            for value, parts in zip(state, zip(*slopes, strict=True), strict=True)
        )
        if observe is not None:
            observe(state)
    return state


def _advance(
    value: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], step: float
) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            value = value.add(slope, alpha=weight * step)
    return value
