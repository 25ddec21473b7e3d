"""Explicit solvers of ordinary differential equations: two kinds of method, each a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Slopes = Callable[[float, Tensor], Tensor]


class Method(ABC):
    """A method that advances a state by steps of equal length."""

    order: int

    @abstractmethod
    def times(self, start: float, end: float, n: int) -> list[float]:
        """Times at which `steps` asks for slopes, in this order."""

    @abstractmethod
    def steps(
        self, field: Slopes, state: Tensor, start: float, end: float, n: int
    ) -> Iterator[Tensor]:
        """Yield the solution of ``d state / ds = field(s, state)`` after each of n steps.

        Parameters
        ----------
        field : callable
            Maps a time and a state to its slope, whose dtype may be of less precision.
        state : tensor
            Value at ``start``; not modified.
        start, end : float
            The interval; ``end`` may be less than ``start``.
        n : int
            Number of steps.
        """


@dataclass(frozen=True)
class RungeKutta(Method):
    """Butcher tableau of an explicit Runge-Kutta method.

    Parameters
    ----------
    order : int
        Order of convergence.
    stages : tuple of tuple of float
        Row i holds the weights of the earlier slopes in stage i; the first row is empty.
    weights : tuple of float
        Weights of the slopes in the step.
    """

    order: int
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def times(self, start: float, end: float, n: int) -> list[float]:
        """See `Method.times`."""
        nodes = [sum(row) for row in self.stages]
        return [start + (end - start) * ((k + node) / n) for k in range(n) for node in nodes]

    def steps(
        self, field: Slopes, state: Tensor, start: float, end: float, n: int
    ) -> Iterator[Tensor]:
        """See `Method.steps`."""
        step, times = (end - start) / n, iter(self.times(start, end, n))
        for _ in range(n):
            slopes: list[Tensor] = []
            for row in self.stages:
                position = _advance(state, zip(row, slopes, strict=True), step)
                slopes.append(field(next(times), position))
            state = _advance(state, zip(self.weights, slopes, strict=True), step)
            yield state


@dataclass(frozen=True)
class Adams(Method):
    """Adams-Bashforth prediction and Adams-Moulton correction, one slope a step.

    With backward differences ``D^j f`` of the slopes and the weights ``g_j`` (1, 1/2, 5/12, ...)
    the prediction from k slopes is ``y + h sum_{j<k} g_j D^j f(s)``. The correction, of one order
    more, adds ``h g_k D^k f(s+h)``, where the newest slope is taken at the prediction and kept
    ("PEC"). The first steps have fewer slopes to go by, and a lower order; their error is
    of order 3, or 4 where the field vanishes at the start.

    Parameters
    ----------
    order : int
        Order of the prediction, and number of slopes kept.
    weights : tuple of float
        ``g_0`` to ``g_order``.

    References
    ----------
    Hairer, Norsett and Wanner, "Solving ordinary differential equations I", section III.1.
    """

    order: int
    weights: tuple[float, ...]

    def times(self, start: float, end: float, n: int) -> list[float]:
        """See `Method.times`."""
        return [start + (end - start) * (k / n) for k in range(n + 1)]  # the last at the very end

    def steps(
        self, field: Slopes, state: Tensor, start: float, end: float, n: int
    ) -> Iterator[Tensor]:
        """See `Method.steps`."""
        step, (first, *others) = (end - start) / n, self.times(start, end, n)
        differences = [field(first, state)]
        for time in others:
            state = _advance(state, zip(self.weights, differences, strict=False), step)
            newest = [field(time, state)]
            for j, older in enumerate(differences):
                # In the memory of the older one, unless that is the field's.
                newest.append(torch.sub(newest[-1], older, out=older if j else None))
            state = _advance(state, [(self.weights[len(differences)], newest[-1])], step)
            differences = newest[: self.order]
            yield state


SOLVERS: dict[str, Method] = {
    "euler": RungeKutta(1, ((),), (1,)),
    "midpoint": RungeKutta(2, ((), (1 / 2,)), (0, 1)),
    "heun": RungeKutta(2, ((), (1,)), (1 / 2, 1 / 2)),
    "rk4": RungeKutta(4, ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    # Dormand and Prince (1980), the fifth-order weights; its seventh stage serves only the
    # error estimate of adaptive steps and is left out.
    "dopri5": RungeKutta(
        5,
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    "adams": Adams(4, (1, 1 / 2, 5 / 12, 3 / 8, 251 / 720)),
}


def _advance(state: Tensor, terms: Iterable[tuple[float, Tensor]], step: float) -> Tensor:
    """Add ``step * sum of weight * slope`` to a state.

    The sum has the dtype of the slopes, so that they may be of a lower precision than the state.
    """
    terms = [(weight, slope) for weight, slope in terms if weight]
    if not terms:
        return state
    (first, total), *others = terms
    for k, (weight, slope) in enumerate(others):
        add = total.add_ if k else total.add
        total = add(slope, alpha=weight / first)
    return state.add(total, alpha=first * step)
