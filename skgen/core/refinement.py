"""Refinement of the solutions of an ODE, row by row."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .solvers import SOLVERS

MAX_DOUBLINGS = 5


class SolverAccuracyWarning(UserWarning):
    """The numerical error of log-densities, samples or transforms may exceed its tolerance."""


def refined(
    solve: Callable[[Tensor, int], Tensor],
    x: Tensor,
    n_steps: int,
    solver: str,
    tolerance: float,
    what: str,
    unit: str,
) -> Tensor:
    """Solve with more and more steps those rows whose result still changes.

    The error after n steps is estimated by the change from n/2 steps, divided by
    ``D = 2^(order-1)``, and by the change before that, divided by ``D^2``, whichever is larger:
    a single change can be small by chance. (In theory D is ``2^order - 1``; velocities as sharp
    as these are not there yet.) It depends on the row alone, so neighbours do not matter.

    Parameters
    ----------
    solve : callable
        Maps rows and a number of steps to results, one a row.
    x : tensor of shape (n, d)
    n_steps : int
        Half of them are the first to be tried.
    solver : str
        Key of `SOLVERS`, which has the order.
    tolerance : float
        Largest error; where it is exceeded at last, there is a warning.
    what, unit : str
        What the results are, and their unit, for the warning.
    """
    n_steps = max(4, n_steps // 2)  # fewer leave nothing coarser to compare with
    result = solve(x, n_steps)
    rows = torch.arange(len(x), device=x.device)
    before, earlier = solve(x, n_steps // 2), solve(x, n_steps // 4)
    divisor = 2 ** (SOLVERS[solver].order - 1)

    def estimate() -> Tensor:
        change = torch.maximum(
            (result[rows] - before).abs() / divisor, (before - earlier).abs() / divisor**2
        )
        return change if change.dim() == 1 else change.amax(1)

    for _ in range(MAX_DOUBLINGS):
        inaccurate = ~(estimate() <= tolerance)
        rows, earlier = rows[inaccurate], before[inaccurate]
        if not len(rows):
            return result
        before, n_steps = result[rows], 2 * n_steps
        result[rows] = solve(x[rows], n_steps)
    error = estimate()
    n_inaccurate = int((~(error <= tolerance)).sum())
    if n_inaccurate:
        warnings.warn(
            f"The {what} of {n_inaccurate} of {len(x)} rows may be off by more than "
            f"{tolerance:g} {unit} (estimate: up to {float(error.max()):.2g}) even with "
            f"{n_steps} steps of solver {solver!r}. Increase n_steps or use a solver of "
            "higher order.",
            SolverAccuracyWarning,
            stacklevel=3,
        )
    return result
