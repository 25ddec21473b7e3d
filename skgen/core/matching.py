"""Flow matching: what the network of a flow learns, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from .draws import FEW_FEATURES, Independent, Joint, rows_at_once, stratified
from .gaussian import StandardNormal
from .interfaces import Density, Transport, join
from .networks import Network
from .objectives import Noise, Objective
from .paths import GaussianPath
from .products import product
from .times import TimeColumns, TrainingTimes
from .workspace import Workspace


class Regression(NamedTuple):
    """What the network is to learn from a batch."""

    rows: Tensor  # positions with their conditions (n, d + k)
    target: Tensor  # straight excess velocities wanted there (n, d)
    times: TimeColumns

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the network sees."""
        return self.rows, self.times.features, self.times.zoom


class FlowMatching(Transport):
    """A flow as its training sees it.

    Parameters
    ----------
    network : Network
        Excess velocity of the straight path.
    path : GaussianPath
    n_features : int
    objective : Objective
        What training minimises.

    References
    ----------
    Lipman et al., "Flow matching for generative modeling", 2023.
    """

    # Training times are t = 1 - (1-u)^time_power, u uniform: more of them near the data, where the
    # velocity changes fastest.
    time_power = 1.5
    # Share of the rows that training shows without their conditions, for guidance.
    condition_dropout = 0.1
    # Of the squared distance of conditions in the log-weight of a row as origin of another: rows
    # with other conditions are none.
    condition_sharpness = 1e4
    base: Density
    straightened = False  # by `Reflow`

    def __init__(
        self, network: Network, path: GaussianPath, n_features: int, objective: Objective
    ) -> None:
        super().__init__()
        self.network, self.path, self.n_features = network, path, n_features
        self.objective, self.base = objective, StandardNormal(n_features)
        # Rows that the loss averages over; with few features more of them are near.
        self.group_size = 512 if n_features <= FEW_FEATURES else 64
        self.times = TrainingTimes(path, objective.target, network.time_features, self.time_power)
        self._space, self.noise = Workspace(), Noise()

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Flow-matching loss ``mean (v(x_t, t) - E[dx_t/dt | x_t])^2`` over rows and features.

        The expectation is over the rows that ``x_t`` may have come from, among a group of the
        batch. It has the same mean given ``x_t`` as ``dx_t/dt`` itself and a smaller variance
        (Rao and Blackwell), so the gradient is less noisy.

        References
        ----------
        Xu, Tong and Jaakkola, "Stable target field for reduced variance score estimation in
        diffusion models", 2023.
        """
        rows = rows[: self._even(len(rows))]
        times = self.times(stratified(len(rows), 1, rows, generator))
        return self.loss_of(self._regression(rows, None, times, len(rows), generator))

    def batches(self, rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Regression]:
        """See `Trainable.batches`."""
        size = self._even(size)
        kind = Joint if self.n_features <= FEW_FEATURES else Independent
        draws = kind(self._split(rows)[0], size, rows_at_once(rows, size), generator)
        # Once for all: in each step it would cost a small network a tenth of its training.
        times = [(t, t.split(size)) for t in self.times(draws.times).split(draws.at_once)]
        for (together, by_batch), (index, noise) in zip(cycle(times), draws, strict=False):
            chosen = rows.index_select(0, index)
            joint = self._regression(chosen, noise, together, size, generator)
            parts = joint.rows.split(size), joint.target.split(size), by_batch
            yield from map(Regression, *parts)

    def _even(self, size: int) -> int:
        """Rows of a batch, so many that all its groups have as many."""
        return size - size % max(1, size // self.group_size)

    @torch.no_grad()
    def _regression(
        self,
        rows: Tensor,
        noise: Tensor | None,
        times: TimeColumns,
        size: int,
        generator: torch.Generator,
    ) -> Regression:
        """What the network is to learn from batches of ``size``; noise is drawn if not given."""
        x, true = self._split(rows)
        shown = self._hide(true, generator)
        if noise is None or not isinstance(self.base, StandardNormal):
            noise = self.noise.draw(self.base, x, generator)
        if self.objective.pairing is not None:
            parts = zip(noise.split(size), x.split(size), strict=True)
            noise = torch.cat([z[self.objective.pairing(z, to)] for z, to in parts])
        x_t, target = self._on_the_way(x, noise, times)
        if self.has_score:
            origin = self._expected_origin(x, x_t, true, shown, times, size)
            target.addcmul_(times.origin_rate, origin - x)
        return Regression(join(x_t, shown), target, times)

    def add_gradient(
        self, batch: Regression, generator: torch.Generator, share: float = 1.0
    ) -> Tensor:
        """See `Trainable.add_gradient`."""
        found, add_gradient = self.network.training_forward(*batch.inputs)
        loss, slope = self._loss_and_slope(found, batch)
        add_gradient(slope if share == 1 else share * slope)
        return loss

    def loss_of(self, batch: Regression) -> Tensor:
        """Flow-matching loss of a batch."""
        return self._loss_and_slope(self.network(*batch.inputs), batch)[0]

    def _loss_and_slope(self, found: Tensor, batch: Regression) -> tuple[Tensor, Tensor]:
        return self.objective(found, batch.target, self._split(batch.rows)[0], batch.times)

    @torch.no_grad()
    def frozen_loss(self, rows: Tensor, seed: int) -> float:
        """Mean loss of rows, at times and with noise that the seed decides."""
        size = min(64, len(rows))
        generator = torch.Generator(rows.device).manual_seed(seed)
        parts = rows[: len(rows) - len(rows) % size].split(size)
        return float(torch.stack([self.loss(part, generator) for part in parts]).mean())

    def regression_of_pairs(
        self, rows: Tensor, noise: Tensor, times: TimeColumns, generator: torch.Generator
    ) -> Regression:
        """What the network is to learn from rows each of which belongs to its noise (n, d)."""
        x, conditions = self._split(rows)
        x_t, target = self._on_the_way(x, noise, times)
        return Regression(join(x_t, self._hide(conditions, generator)), target, times)

    def _on_the_way(self, x: Tensor, noise: Tensor, times: TimeColumns) -> tuple[Tensor, Tensor]:
        """Positions and excess velocities at times on the way from noise to data."""
        x_t = torch.addcmul(times.alpha * x, times.sigma, noise)
        return x_t, torch.addcmul(times.data_rate * x, times.noise_rate, noise)

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (n, d) and the columns that follow, such as conditions (n, k)."""
        return rows[:, : self.n_features], rows[:, self.n_features :]

    def _hide(self, conditions: Tensor, generator: torch.Generator) -> Tensor:
        """Set the conditions of a few rows to 0."""
        if not conditions.shape[1]:
            return conditions
        draw = torch.rand(
            len(conditions),
            1,
            generator=generator,
            dtype=conditions.dtype,
            device=conditions.device,
        )
        return conditions * (draw >= self.condition_dropout)

    @property
    def has_score(self) -> bool:
        """Whether the noise is normal and independent of the data, as score functions need."""
        independent = self.objective.pairing is None and not self.straightened
        return independent and isinstance(self.base, StandardNormal)

    def _expected_origin(
        self,
        x: Tensor,
        x_t: Tensor,
        true: Tensor,
        shown: Tensor,
        times: TimeColumns,
        size: int,
    ) -> Tensor:
        """Mean of the rows of a group, weighted by how likely each ``x_t`` came from them.

        Batches of ``size`` are sorted by time.
        """
        n_groups = len(x) // size * max(1, size // self.group_size)

        def grouped(columns: Tensor) -> Tensor:
            return columns.view(n_groups, -1, columns.shape[1])

        # log N(x_t; alpha x_j, sigma^2 I) as one product, less what is the same for all j.
        lefts, rights = [times.precision * x_t, times.penalty], [x, x.square().sum(1, keepdim=True)]
        if true.shape[1]:
            # Rows with other conditions, where these are shown, are no origin.
            sharpness = self.condition_sharpness
            lefts += [sharpness * shown, -0.5 * sharpness * shown[:, -1:]]
            rights += [true, true.square().sum(1, keepdim=True)]
        left, right = torch.cat(lefts, dim=1), torch.cat(rights, dim=1)
        if x.shape[1] <= FEW_FEATURES:
            whole_batches = n_groups == len(x) // size
            return self._mean_by_powers(left, right, x, n_groups, by_time=whole_batches)
        weights = grouped(self._space("weights", x, len(x), len(x) // n_groups))
        torch.bmm(grouped(left), grouped(right).mT, out=weights)
        torch.softmax(weights, 2, out=weights)
        # Column by column: up to four times as fast as row by row.
        return torch.bmm(grouped(x).mT, weights.mT).mT.reshape(x.shape)

    def _mean_by_powers(
        self, left: Tensor, right: Tensor, x: Tensor, n_groups: int, by_time: bool
    ) -> Tensor:
        """Mean of rows, weighted by the softmax of products (each row of left with all of right).

        Each weight is divided by that of the row of the same number, where it came from, instead of
        the greatest, and a power of 2: less than half the time of a softmax. It cannot overflow but
        by rounding: its logarithm is at most ``z^2/2`` with z standard normal, as the noise that
        was added does not depend on the other rows.
        """
        one = left.new_ones(len(left), 1)
        own = (left * right).sum(1, keepdim=True)
        left = torch.cat([left, -own], dim=1).mul_(math.log2(math.e))
        right, x_one = torch.cat([right, one], dim=1), torch.cat([x, one], dim=1)
        to, row, sums = left.T, x_one.T, torch.empty_like(x_one.T)
        size = len(x) // n_groups
        half, quarter = size // 2, size // 4
        some = [(0, size, 0, size)]
        if by_time and quarter:
            # Early positions may have come from many rows; the mean of a few of them will do.
            some = [(0, quarter, 0, quarter), (quarter, half, quarter, half), (half, size, 0, size)]
        for group in range(0, len(x), size):
            for begin, end, first, last in some:
                positions = slice(group + begin, group + end)
                origins = slice(group + first, group + last)
                weights = self._space(f"weights {begin}", right, last - first, end - begin)
                weights = product(right[origins], to[:, positions], out=weights)
                torch.exp2(weights, out=weights)
                sums[:, positions] = row[:, origins] @ weights
        mean = (sums[:-1] / sums[-1]).T
        return torch.where(mean.isfinite(), mean, x)
