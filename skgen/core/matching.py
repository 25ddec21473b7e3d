"""Flow matching: what the network of a flow learns, and how."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import StandardNormal
from .interfaces import Density, Transport, join
from .networks import Network
from .objectives import Noise, Objective
from .paths import GaussianPath
from .products import product
from .times import TimeColumns, TrainingTimes
from .two_layers import Workspace


class Regression(NamedTuple):
    """What the network is to learn from a batch."""

    rows: Tensor  # positions with their conditions (n, d + k)
    target: Tensor  # straight excess velocities wanted there (n, d)
    times: TimeColumns


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
        # Of the rows that the loss averages over; with few features more of them are near.
        self.group_size = 512 if n_features <= 3 else 64
        self._times = TrainingTimes(path, objective.target, network.time_features, self.time_power)
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
        return self.loss_of(self._regression(rows, generator))

    def add_gradient(self, rows: Tensor, generator: torch.Generator, share: float = 1.0) -> Tensor:
        """See `Trainable.add_gradient`."""
        return self.add_gradient_of(self._regression(rows, generator), share)

    def loss_of(self, batch: Regression) -> Tensor:
        """Flow-matching loss of a batch."""
        found = self.network(batch.rows, batch.times.features, batch.times.zoom)
        return self._loss_and_slope(found, batch)[0]

    def add_gradient_of(self, batch: Regression, share: float) -> Tensor:
        """Add the gradient of `loss_of`, times ``share``, to those of the network; the loss."""
        inputs = batch.rows, batch.times.features, batch.times.zoom
        found, add_gradient = self.network.training_forward(*inputs)
        loss, slope = self._loss_and_slope(found, batch)
        add_gradient(share * slope)
        return loss

    def _loss_and_slope(self, found: Tensor, batch: Regression) -> tuple[Tensor, Tensor]:
        return self.objective(found, batch.target, self._split(batch.rows)[0], batch.times)

    @torch.no_grad()
    def _regression(self, rows: Tensor, generator: torch.Generator) -> Regression:
        n_groups = max(1, len(rows) // self.group_size)
        x, true = self._split(rows[: len(rows) - len(rows) % n_groups])  # the rest sits this out
        shown = self._hide(true, generator)
        noise = self.noise.draw(self.base, x, generator)
        if self.objective.pairing is not None:
            noise = noise[self.objective.pairing(noise, x)]
        times, x_t, target = self._on_the_way(x, noise, generator)
        if self.has_score:
            origin = self._expected_origin(x, x_t, true, shown, times, n_groups)
            target.addcmul_(times.origin_rate, origin - x)
        return Regression(join(x_t, shown), target, times)

    @torch.no_grad()
    def frozen_loss(self, rows: Tensor, seed: int) -> float:
        """Mean loss of rows, at times and with noise that the seed decides."""
        frozen, size = copy.copy(self), min(64, len(rows))
        features, target = self.network.time_features, self.objective.target
        frozen._times = TrainingTimes(self.path, target, features, self.time_power)
        generator = torch.Generator(rows.device).manual_seed(seed)
        parts = rows[: len(rows) - len(rows) % size].split(size)
        return float(torch.stack([frozen.loss(part, generator) for part in parts]).mean())

    def regression_of_pairs(
        self, rows: Tensor, noise: Tensor, generator: torch.Generator
    ) -> Regression:
        """What the network is to learn from rows each of which belongs to its noise (n, d)."""
        x, conditions = self._split(rows)
        shown = self._hide(conditions, generator)
        times, x_t, target = self._on_the_way(x, noise, generator)
        return Regression(join(x_t, shown), target, times)

    def _on_the_way(
        self, x: Tensor, noise: Tensor, generator: torch.Generator
    ) -> tuple[TimeColumns, Tensor, Tensor]:
        """Times, and the positions and excess velocities then."""
        times = self._times.next_batch(x, generator)
        x_t = torch.addcmul(times.alpha * x, times.sigma, noise)
        return times, x_t, torch.addcmul(times.data_rate * x, times.noise_rate, noise)

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (n, d) and conditions (n, k)."""
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
        n_groups: int,
    ) -> Tensor:
        """Mean of the rows of a group, weighted by how likely each ``x_t`` came from them."""

        def grouped(columns: Tensor) -> Tensor:
            return columns.view(n_groups, -1, columns.shape[1])

        # log N(x_t; alpha x_j, sigma^2 I) as one product, less what is the same for all j.
        lefts, rights = [times.precision * x_t, times.penalty], [x, x.square().sum(1, keepdim=True)]
        if true.shape[1]:
            # Rows with other conditions, where these are shown, are no origin.
            sharpness = self.condition_sharpness
            lefts += [sharpness * shown, -0.5 * sharpness * shown[:, -1:]]
            rights += [true, true.square().sum(1, keepdim=True)]
        left, right = grouped(torch.cat(lefts, dim=1)), grouped(torch.cat(rights, dim=1))
        weights = grouped(self._space("weights", x, right.shape[1]))
        if n_groups == 1:
            weights = product(left[0], right[0].T, out=weights[0])[None]
        else:
            torch.bmm(left, right.mT, out=weights)
        torch.softmax(weights, 2, out=weights)
        # Column by column: five times as fast as row by row with few columns.
        return torch.bmm(weights, grouped(x).mT.contiguous().mT).view_as(x)
