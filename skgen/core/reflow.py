"""Straightening of a fitted flow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch
from torch import Tensor

from .draws import Independent, stratified
from .flow import Flow
from .interfaces import Trainable, join
from .matching import Regression
from .times import TimeColumns


class Reflow(Trainable):
    """Trains a flow on pairs of noise and what the flow itself carried it to.

    The ways between such pairs do not cross much, so the flow that follows them is straighter, with
    the same samples. Rows are (n, d + d + k): the noise, then the data, then their conditions.

    Parameters
    ----------
    flow : Flow
        Changed by the training.

    References
    ----------
    Liu, Gong and Liu, "Flow straight and fast", 2023.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def pairs(self, n: int, generator: torch.Generator, conditions: Tensor | None) -> Tensor:
        """Draw noise and carry it to data by the flow, given conditions (n, k) if any."""
        noise = self.flow.base.sample(n, generator)
        data = self.flow.transport(join(noise, conditions), to_data=True)
        return torch.cat([noise, join(data, conditions)], dim=1)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Flow-matching loss of pairs."""
        times = self.flow.times(stratified(len(x), 1, x, generator))
        return self.flow.loss_of(self._regression(x, times, generator))

    def batches(self, x: Tensor, size: int, generator: torch.Generator) -> Iterator[Regression]:
        """See `Trainable.batches`."""
        draws = Independent(x, size, size, generator)
        times = self.flow.times(draws.times).split(size)
        for some, (index, _) in zip(cycle(times), draws, strict=False):
            yield self._regression(x.index_select(0, index), some, generator)

    def add_gradient(
        self, batch: Regression, generator: torch.Generator, share: float = 1.0
    ) -> Tensor:
        """See `Trainable.add_gradient`."""
        return self.flow.add_gradient(batch, generator, share)

    @torch.no_grad()
    def _regression(self, x: Tensor, times: TimeColumns, generator: torch.Generator) -> Regression:
        d = self.flow.n_features
        return self.flow.regression_of_pairs(x[:, d:], x[:, :d], times, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of the data of pairs."""
        return self.flow.log_prob(x[:, self.flow.n_features :])

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw data (n, d)."""
        return self.flow.sample(n, generator, conditions)
