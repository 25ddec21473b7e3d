"""Columns that do not live on the whole real line: with bounds, on circles, of whole numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .gaussian import standard_normal_terms
from .interfaces import Bijection, Density

EDGE = 1e-9  # share of the scale within which rows count as this far from a bound
N_POINTS = 16  # at which a density of whole numbers is averaged over the unit interval
ROWS_AT_ONCE = 4096  # of unfolded copies; a solve of a few takes as many calls as one of hundreds


class Bounded(Bijection):
    """Columns with bounds mapped to the real line; columns without pass through.

    The law of greatest entropy becomes standard normal: between two bounds the uniform one,
    beyond one bound the exponential one of the same mean. Any power of the distance to a bound
    gives normal tails there.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows inside the bounds, float64.
    bounds : mapping from int to (float, float)
        Columns and their bounds; an infinite one is open.
    """

    def __init__(self, x: Tensor, bounds: Mapping[int, tuple[float, float]]) -> None:
        super().__init__()
        self.intervals = {
            j: (low, high, _scale(x[:, j], low, high)) for j, (low, high) in bounds.items()
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped rows and the log-determinant of each, -infinity outside the bounds."""
        columns, log_det = list(x.unbind(-1)), x.new_zeros(x.shape[:-1])
        for j, (low, high, scale) in self.intervals.items():
            above, below = (columns[j] - low) / scale, (high - columns[j]) / scale
            if math.isinf(high):
                z, log_slope = _exponential_score(above)
            elif math.isinf(low):
                z, log_slope = _exponential_score(below)
                z = -z
            else:
                z, log_slope = _uniform_score(above, below)
            log_slope = log_slope.masked_fill(outside(columns[j], low, high), -math.inf)
            columns[j], log_det = z, log_det + log_slope - math.log(scale)
        return torch.stack(columns, -1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Rows inside the bounds, below the upper one."""
        columns = list(z.unbind(-1))
        for j, (low, high, scale) in self.intervals.items():
            score = columns[j]
            if math.isinf(high):
                columns[j] = low - scale * torch.special.log_ndtr(-score)
                continue
            if math.isinf(low):
                column = high + scale * torch.special.log_ndtr(score)
            else:
                from_low = low + scale * torch.special.ndtr(score)
                from_high = high - scale * torch.special.ndtr(-score)
                column = torch.where(score < 0, from_low, from_high)
            # A whole number in its unit interval must not be rounded to the next.
            columns[j] = column.clamp(max=math.nextafter(high, -math.inf))
        return torch.stack(columns, -1)


def outside(column: Tensor, low: float, high: float) -> Tensor:
    """Which values are beyond the bounds by more than the rounding of float32."""
    column = column.float()
    return (column < low) | (column > high)


def _scale(column: Tensor, low: float, high: float) -> float:
    """Width of an interval, or mean distance from its only bound."""
    if math.isinf(high):
        return float((column - low).mean())
    return float((high - column).mean()) if math.isinf(low) else high - low


def _uniform_score(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Normal score and log-slope of distances from two bounds that add up to 1."""
    above, below = above.clamp(EDGE, 1 - EDGE), below.clamp(EDGE, 1 - EDGE)
    z = torch.where(above < below, torch.special.ndtri(above), -torch.special.ndtri(below))
    return z, _minus_log_normal(z)


def _exponential_score(y: Tensor) -> tuple[Tensor, Tensor]:
    """Normal score z, with ``log Phi(-z) = -y``, and log-slope of distances from one bound."""
    y = y.clamp(min=EDGE)
    near = torch.special.ndtri(-torch.expm1(-y.clamp(max=1)))
    middle = -torch.special.ndtri(torch.exp(-y.clamp(1, 50)))
    far = (2 * y.clamp(min=50)).sqrt()
    for _ in range(3):  # Newton's method
        log_tail = torch.special.log_ndtr(-far)
        far = far + (log_tail + y.clamp(min=50)) * (log_tail + _minus_log_normal(far)).exp()
    z = torch.where(y < 1, near, torch.where(y < 50, middle, far))
    return z, _minus_log_normal(z) - y


def _minus_log_normal(z: Tensor) -> Tensor:
    return -standard_normal_terms(z)


class Folding(nn.Module):
    """Circles cut open and whole numbers spread over unit intervals, on the real line, and back.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Training rows, float64.
    circles : mapping from int to (float, float)
        Columns with their lowest value and the next that is the same.
    discrete : sequence of int
        Columns of whole numbers.
    seed : int
        Of the points in the unit intervals.
    """

    low: Tensor
    high: Tensor
    cut: Tensor
    period: Tensor
    turns: Tensor
    points: Tensor
    discrete: Tensor

    def __init__(
        self,
        x: Tensor,
        circles: Mapping[int, tuple[float, float]],
        discrete: Sequence[int],
        seed: int,
    ) -> None:
        super().__init__()
        d = x.shape[1]
        low, high, cut, period = (x.new_full((d,), v) for v in (-math.inf, math.inf, 0, 0))
        for j, (start, end) in circles.items():
            low[j], high[j], period[j] = start, end, end - start
            cut[j] = _emptiest(x[:, j], start, end)
        turns = itertools.product(*([-1.0, 0.0, 1.0] if j in circles else [0.0] for j in range(d)))
        points = x.new_zeros(N_POINTS if discrete else 1, d)
        if discrete:
            sobol = torch.quasirandom.SobolEngine(len(discrete), scramble=True, seed=seed)
            points[:, discrete] = sobol.draw(N_POINTS, dtype=torch.float64).to(x)
        whole = [j in discrete for j in range(d)]
        for name, value in zip(
            ("low", "high", "cut", "period", "turns", "points", "discrete"),
            (low, high, cut, period, x.new_tensor([*turns]), points, torch.tensor(whole)),
            strict=True,
        ):
            self.register_buffer(name, value.to(x.device))

    def spread(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """Rows on the line; those with whole numbers up to 16 times, each with its own noise."""
        if self.discrete.any():
            x = x.repeat(max(1, min(16, most // len(x))), 1)
        shape = (len(x), len(self.discrete))
        noise = torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.unfold(x, noise * self.discrete)

    def unfold(self, x: Tensor, noise: Tensor | None = None, turns: Tensor | None = None) -> Tensor:
        """Rows on the line: noise added, 1/2 by default, then turned to the cut and beyond."""
        noise = 0.5 * self.discrete if noise is None else noise
        head, rest = x.split([len(self.cut), x.shape[1] - len(self.cut)], 1)
        head = self._turned(head + noise.to(x.dtype), self.cut)
        if turns is not None:
            head = head + (turns * self.period).to(x.dtype)
        return torch.cat([head, rest], 1)

    def fold(self, x: Tensor) -> Tensor:
        """Rows (n, d) from the line."""
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        x = self._turned(x, self.low.nan_to_num(neginf=0.0))
        x = x.clamp(low, torch.nextafter(high, low))  # against rounding
        return torch.where(self.discrete, x.floor(), x)

    def _turned(self, x: Tensor, start: Tensor) -> Tensor:
        """Circles turned to the period that begins at a start."""
        start, period = start.to(x.dtype), self.period.to(x.dtype)
        turns = ((x - start) / torch.where(period > 0, period, math.inf)).floor()
        return torch.where(period > 0, x - turns * period, x)


class Folded(Density):
    """Density of rows whose unfolded copies on the line have the density ``model``.

    ``log p(x) = log (1/M) sum_j sum_k p_model(x + u_j + k L)`` with M points u_j of the unit
    interval for whole numbers, whose log-probability is then at least this on average over the
    points (Jensen), and k = -1, 0, 1 turns of period L.

    Parameters
    ----------
    folding : Folding
    model : Density

    References
    ----------
    Theis, van den Oord and Bethge, "A note on the evaluation of generative models", 2016. Burda,
    Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """

    folding: Folding
    model: Density

    def __init__(self, folding: Folding, model: Density) -> None:
        super().__init__()
        self.folding, self.model = folding, model

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d); -infinity where a whole number is not one."""
        folding = self.folding
        places = list(itertools.product(folding.points, folding.turns))
        at_once = max(1, ROWS_AT_ONCE // max(1, len(x)))
        log_probs = []
        for start in range(0, len(places), at_once):
            copies = [folding.unfold(x, *place) for place in places[start : start + at_once]]
            log_probs.append(self.model.log_prob(torch.cat(copies)).view(len(copies), len(x)))
        log_prob = torch.cat(log_probs).logsumexp(0) - math.log(len(folding.points))
        head = x[:, : len(folding.cut)]
        broken = ((head != head.floor()) & folding.discrete).any(1)
        return log_prob.masked_fill(broken, -math.inf)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw the features (n, d) of rows."""
        return self.folding.fold(self.model.sample(n, generator, conditions))


def _emptiest(column: Tensor, low: float, high: float) -> float:
    """Middle of the widest arc that holds a fiftieth of the values on a circle, nearest to low."""
    ordered = (low + torch.remainder(column - low, high - low)).sort().values
    n = max(1, len(ordered) // 50)
    ends = torch.cat([ordered, ordered[:n] + (high - low)])[n:]
    widest = (ends - ordered).argmax()
    middle = float(ordered[widest] + ends[widest]) / 2
    # Values that stay where they are lose no digits.
    return middle - (high - low) * round((middle - low) / (high - low))
