"""What training draws, batch by batch: rows, times, noise and units to leave out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

MAX_AT_ONCE = 8  # batches that are prepared together: small ones take longer to begin than to do
NUMBERS_AT_ONCE = 2**14  # in their rows
N_POINTS = 2**15  # that are drawn together, about, whose times return in all batches after these
N_MASKED = 2**18  # numbers of the mask that dropout takes stretches of
FEW_FEATURES = 3  # with which rows are dense enough for more care to pay


def rows_at_once(rows: Tensor, size: int) -> int:
    """How many rows to prepare together, a multiple of the size of a batch."""
    return size * max(1, min(MAX_AT_ONCE, NUMBERS_AT_ONCE // rows[:size].numel()))


def shuffled(rows: Tensor, n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of rows, n at a time without end, one shuffle after the other."""
    left = torch.empty(0, dtype=torch.long, device=rows.device)
    while True:
        order = torch.randperm(len(rows), generator=generator, device=rows.device)
        *whole, left = torch.cat([left, order]).split(n)
        yield from whole


def stratified(size: int, n_batches: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers (n_batches size, 1), batch by batch one in each of equal slices of (0, 1).

    Together they are one in each of the slices' equal parts.
    """
    shape = 2, n_batches, size, 1
    place, offset = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    slices = torch.arange(size, device=like.device)[:, None]
    return ((slices + (place.argsort(0) + offset) / n_batches) / size).flatten(0, 1)


@lru_cache(maxsize=8)
def _masks(share: float, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A long mask: zeros by the share, and what keeps the mean at 1 for the rest."""
    numbers = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return (numbers >= share).to(device, dtype) / (1 - share)


def dropout_mask(units: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Factors for units (...), of which a share are zero: a random stretch of a long mask.

    A seventh of the time that a random number for each unit takes.
    """
    n = units.numel()
    mask = _masks(share, max(N_MASKED, 2 * n), units.dtype, units.device)
    start = int(torch.randint(len(mask) - n, (), generator=generator, device=units.device))
    return mask[start : start + n].view(units.shape)


def _n_points(at_once: int) -> int:
    return at_once * math.ceil(N_POINTS / at_once)


class Independent:
    """Draws of rows and times that do not depend on each other.

    Parameters
    ----------
    x : tensor of shape (n, d)
        Rows that training chooses from.
    size : int
        Of a batch.
    at_once : int
        Rows a draw, a multiple of it.
    generator : torch.Generator
        On the device of the rows.

    Attributes
    ----------
    times : tensor of shape (m, 1)
        Uniform numbers for the draws, `at_once` each, to be used in turn again and again.
    """

    def __init__(self, x: Tensor, size: int, at_once: int, generator: torch.Generator) -> None:
        self.x, self.at_once, self.generator = x, at_once, generator
        self.times = stratified(size, _n_points(at_once) // size, x, generator)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield indices of rows (n,), without noise for them, without end."""
        for index in shuffled(self.x, self.at_once, self.generator):
            yield index, None


class Joint(Independent):
    """Draws of rows, times and normal noise that are spread evenly together.

    They are points of Sobol's sequence. A coordinate is the time, one the place of the row among
    all rows, ordered so that near ones follow each other, and the others are quantiles of the
    noise. Each time the points have been gone through, all coordinates but the time are moved by
    random numbers, modulo 1. Sums over a batch, such as gradients, then vary less.

    References
    ----------
    Buchholz, Wenzel and Mandt, "Quasi-Monte Carlo variational inference", 2018.
    """

    def __init__(self, x: Tensor, size: int, at_once: int, generator: torch.Generator) -> None:
        self.x, self.at_once, self.generator = x, at_once, generator
        n = _n_points(at_once)
        seed = int(torch.randint(2**31, (), generator=generator, device=x.device))
        sobol = SobolEngine(2 + x.shape[1], scramble=True, seed=seed)
        points = sobol.draw(n, dtype=torch.float64)  # on the CPU: not all devices have float64
        # By time in each batch, as stratified ones are. It also lets weights of origins that
        # underflow, which takes a processor longer, do so together.
        points = points[(points[:, 0] + torch.arange(n) // size).argsort()]
        self.times, self.others = points[:, :1].to(x.dtype).to(x.device), points[:, 1:]
        self.order = nearby(x.cpu())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield indices of rows (n,) and noise (n, d), without end."""
        x, others = self.x, self.others
        while True:
            shift = torch.rand(
                others.shape[1], generator=self.generator, dtype=torch.float32, device=x.device
            ).to(others.device, others.dtype)
            for part in others.split(self.at_once):
                u = (part + shift).frac_()
                place = (u[:, 0] * len(x)).long()
                # Single precision can tell neither end from the number next to it.
                ends = (2 * u[:, 1:] - 1).to(torch.float32).clamp(-1 + 2**-23, 1 - 2**-23)
                noise = (math.sqrt(2) * torch.erfinv(ends)).to(x.dtype)
                yield self.order[place].to(x.device), noise.to(x.device)


def nearby(x: Tensor, n_bits: int = 8) -> Tensor:
    """Order of rows (n, d) in which most are near the next: that of Morton's curve of the ranks.

    References
    ----------
    Morton, "A computer oriented geodetic data base and a new technique in file sequencing", 1966.
    """
    n, d = x.shape
    places = x.argsort(0).argsort(0) * 2**n_bits // n
    code = torch.zeros(n, dtype=torch.long, device=x.device)
    for bit in range(n_bits):
        for column in range(d):
            code |= (places[:, column] >> bit & 1) << (bit * d + column)
    return code.argsort()
