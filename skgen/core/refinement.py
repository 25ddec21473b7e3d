"""Refinement of the solutions of an ODE, row by row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .solvers import SOLVERS

Solve = Callable[[Tensor, int], Tensor]  # rows and a number of steps to results, one a row
MAX_DOUBLINGS = 5
MAX_JUMP = 3  # doublings at once: far from convergence errors fall faster than the order says


class SolverAccuracyWarning(UserWarning):
    """The numerical error of log-densities, samples or transforms may exceed its tolerance."""


def refined(
    solve: Solve,
    x: Tensor,
    n_steps: int,
    solver: str,
    tolerance: float,
    what: str,
    unit: str,
    others: Tensor | None = None,
) -> Tensor:
    """Solve with more and more steps those rows whose result still changes.

    The error after n steps is estimated by the change from n/2 steps, divided by
    ``D = 2^(order-1)``, and by the change before that, divided by ``D^2``, whichever is larger:
    a single change can be small by chance. (In theory D is ``2^order - 1``; velocities as sharp
    as these are not there yet.) An error of ``D^j`` times the tolerance needs j doublings of the
    steps, made at once. It depends on the row alone, so neighbours do not matter.

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
    others : tensor of shape (n,), optional
        Where the results are log-densities of one term of a sum, the logarithm of all the other
        terms. The errors are then those of the logarithm of the sum.
    """
    n_steps = max(4, n_steps // 2)  # fewer leave nothing coarser to compare with
    divisor = 2.0 ** (SOLVERS[solver].order - 1)
    result, before, earlier = (solve(x, n_steps // k) for k in (1, 2, 4))
    change = (result - before).abs() / divisor
    error = _largest(torch.maximum(change, (before - earlier).abs() / divisor**2))
    error = _seen(error, result, others, divisor)
    # Doublings of a row so far, and as they should be.
    made = torch.zeros(len(x), dtype=torch.float32, device=x.device)
    wanted = made + _needed(error / tolerance, divisor)
    for doublings in range(1, MAX_DOUBLINGS + 1):
        rows = (wanted.clamp(max=MAX_DOUBLINGS) == doublings).nonzero().squeeze(1)
        if not len(rows):
            continue
        found = solve(x[rows], 2**doublings * n_steps)
        factor = (divisor ** (doublings - made[rows])).to(found)
        factor = factor.view(-1, *[1] * (found.dim() - 1))
        latest = (found - result[rows]).abs()
        error[rows] = _largest(torch.maximum(latest, change[rows]) / factor)
        beside = None if others is None else others[rows]
        error[rows] = _seen(error[rows], found, beside, divisor)
        result[rows], change[rows], made[rows] = found, latest / factor, doublings
        wanted[rows] = doublings + _needed(error[rows] / tolerance, divisor)
    n_inaccurate = int((~(error <= tolerance)).sum())
    if n_inaccurate:
        warnings.warn(
            f"The {what} of {n_inaccurate} of {len(x)} rows may be off by more than "
            f"{tolerance:g} {unit} (estimate: up to {float(error.max()):.2g}) even with "
            f"{2**MAX_DOUBLINGS * n_steps} steps of solver {solver!r}. Increase n_steps or use a "
            "solver of higher order.",
            SolverAccuracyWarning,
            stacklevel=3,
        )
    return result


def _largest(errors: Tensor) -> Tensor:
    """Largest error of each row."""
    return errors if errors.dim() == 1 else errors.amax(1)


def _needed(excess: Tensor, divisor: float) -> Tensor:
    """Doublings that errors need, by how many times the tolerance they are.

    A doubling halves an error at least, as Euler's method does, whose divisor is 1.
    """
    jumps = (excess.log() / math.log(max(2.0, divisor))).ceil().clamp(1, MAX_JUMP)
    return torch.where(excess <= 1, 0.0, jumps.nan_to_num(MAX_JUMP)).to(torch.float32)


def _seen(error: Tensor, log_term: Tensor, others: Tensor | None, safety: float) -> Tensor:
    """Errors of the logarithms of terms as they are seen in the logarithm of the sum.

    Those that are hidden may be this many times as large as estimated.
    """
    if others is None:
        return error
    total = torch.logaddexp(log_term, others)
    return (torch.logaddexp(log_term + safety * error, others) - total) / safety
