"""What models and bijections look like.

A row (n, d + k) is the d features, and then, for densities given conditions, the k columns of
encoded conditions. The last of these is 1 where the conditions are known; else all are 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .draws import rows_at_once, shuffled


class Density(nn.Module, ABC):
    """A normalised density on rows of a fixed number of features."""

    differentiable = True  # whether autograd goes through `log_prob` to the rows
    iterative = False  # whether `log_prob_beside` can take less time than `log_prob`

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats (n,) of the features of rows, given their conditions."""

    @abstractmethod
    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw the features (n, d) of n rows, float64, given their conditions (n, k) if any."""

    def log_prob_beside(self, x: Tensor, others: Tensor) -> Tensor:
        """Log-density (n,) for a sum with densities whose logarithm is ``others`` (n,).

        It may be inexact where the sum hardly changes by that.
        """
        return self.log_prob(x)

    def log_prob_terms(self, columns: Tensor) -> Tensor:
        """Numbers (k, n) that add up to the log-densities of columns (d, n)."""
        return self.log_prob(columns.T).unsqueeze(0)


class Trainable(Density):
    """A density whose parameters are found by gradient steps."""

    @abstractmethod
    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Scalar to minimise on average over batches (n, d)."""

    def batches(self, x: Tensor, size: int, generator: torch.Generator) -> Iterator[Any]:
        """Yield what `add_gradient` takes, of about ``size`` of the rows each, without end."""
        for index in shuffled(x, rows_at_once(x, size), generator):
            yield from x.index_select(0, index).split(size)

    def add_gradient(self, batch: Any, generator: torch.Generator, share: float = 1.0) -> Tensor:
        """Add the gradient of `loss`, times ``share``, to those of the parameters.

        Returns the loss.
        """
        loss = self.loss(batch, generator)
        loss.backward(loss.new_tensor(share))
        return loss.detach()

    def matrices(self) -> list[nn.Parameter]:
        """Weights between hidden units, to be trained as matrices."""
        return []

    def log_prob_fast(self, x: Tensor) -> Tensor:
        """Log-density (n,), perhaps less accurate, to watch the training by."""
        return self.log_prob(x)


class Transport(Trainable):
    """A density that is noise carried to data by an invertible map."""

    @abstractmethod
    def transport(self, x: Tensor, to_data: bool) -> Tensor:
        """Carry rows (n, d) from noise to data or back."""


class Bijection(nn.Module, ABC):
    """A smooth invertible map of rows."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image (n, d) and log-determinant of the Jacobian (n,) of rows (n, d)."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """Preimage (n, d) of rows (n, d)."""


def join(x: Tensor, conditions: Tensor | None) -> Tensor:
    """Rows of features (n, d) and conditions (n, k), if there are any."""
    return x if conditions is None or not conditions.shape[1] else torch.cat([x, conditions], dim=1)


def by_columns(x: Tensor) -> Tensor:
    """The same rows (n, d) with each column a run of memory.

    So the networks of flows leave their velocities, and sums of like with like are faster.
    """
    return x.T.contiguous().T


def cache_parts(x: Tensor, dtype: torch.dtype, run: int = 3200) -> tuple[Tensor, ...]:
    """Split rows (n, d) into even parts whose hidden layers stay in the cache of a CPU.

    A unit of a part is a run of up to so many bytes; runs of 4096 would share lines of the cache.
    """
    n_parts = -(-len(x) * dtype.itemsize // run) if x.is_cpu else 1
    return (x,) if n_parts <= 1 else x.split(16 * -(-len(x) // (16 * n_parts)))


def has_double(device: torch.device) -> bool:
    """Whether a device has double precision; Apple's GPUs have none."""
    return device.type != "mps"


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Gradient of a parameter, zero if it has none yet."""
    if parameter.grad is None:
        with torch.inference_mode(False):
            parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def runs(rows: Tensor) -> Tensor:
    """Number (n,) of the run of equal rows that each belongs to: copies follow one another."""
    # `unique_consecutive` tells the same, of a million rows in ten times the time.
    changed = (rows[1:] != rows[:-1]).any(1)
    return torch.cat([changed.new_zeros(1, dtype=torch.int64), changed.cumsum(0)])
