"""Progress bar of what is drawn or evaluated, which the loops inside may advance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
DELAY = 1.0  # seconds before a bar is shown: most calls are done by then


class RowBar:
    """Progress bar of rows on standard error, as a context in which `advance` moves it.

    Parameters
    ----------
    n_rows : int
    verbose : int
        0 shows nothing.
    unit : str
        What it calls the rows.
    """

    def __init__(self, n_rows: int, verbose: int, unit: str = "rows") -> None:
        self._bar = tqdm(
            total=n_rows, unit=f" {unit}", unit_scale=True, delay=DELAY, disable=not verbose
        )
        self._n_rows, self._end = n_rows, n_rows

    def __enter__(self) -> RowBar:
        self._token = _current.set(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        _current.reset(self._token)
        self._bar.close()

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield where each chunk of so many rows starts and ends."""
        for start in range(0, self._n_rows, size):
            self._end = min(start + size, self._n_rows)
            yield start, self._end
            self.add(self._end - start)

    def add(self, rows: float) -> None:
        """Add rows that are done, up to the end of the chunk."""
        self._bar.update(min(rows, self._end - self._bar.n))


_current: ContextVar[RowBar | None] = ContextVar("bar", default=None)


def advance(rows: float) -> None:
    """Tell the bar, if there is one, of a part of the work on a chunk, in rows."""
    bar = _current.get()
    if bar is not None:
        bar.add(rows)


def counted(steps: Iterable[T], rows: float) -> Iterator[T]:
    """Yield the steps of a loop, each of which is a part of the work on a chunk, in rows."""
    for step in steps:
        yield step
        advance(rows)
