"""Probability flow of a Gaussian path."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .diffusion_samplers import DiffusionSampler
from .divergence import hutchinson_divergence
from .gaussian import StandardNormal
from .interfaces import Density, Transport, join
from .networks import DeepVelocityNetwork, Field, VelocityNetwork
from .objectives import Noise, Objective
from .paths import GaussianPath, LinearPath, Parts
from .products import product
from .refinement import refined
from .samplers import OdeSampler, Sampler
from .solvers import SOLVERS
from .times import TimeColumns, TrainingTimes
from .two_layers import Workspace
from .unet import UNetVelocity


class Regression(NamedTuple):
    """What the network is to learn from a batch."""

    rows: Tensor  # positions with their conditions (n, d + k)
    target: Tensor  # straight excess velocities wanted there (n, d)
    times: TimeColumns


class Flow(Transport):
    """Probability flow of a Gaussian path with a learnt velocity.

    The density is that of N(0, I) carried along ``dx/dt = v(x, t)`` from t = 0 to 1::

        log p(x(1)) = log N(x(0)) - integral_0^1 div v(x(t), t) dt

    The network gives the velocity of the straight path, which any other follows but for its pace
    and scale (see `GaussianPath`).

    Parameters
    ----------
    network : nn.Module
        Excess velocity of the straight path with ``time_features(r)``,
        ``forward(x, features, zoom)`` and ``field(dtype, divergence)``.
    path : GaussianPath
    n_features : int
    solver : str
        Key of `SOLVERS`.
    n_steps : int
        Steps of the solver from noise to data.
    tolerance : float
        Rows whose estimated error, in nats or standard deviations, exceeds it are solved again
        with twice the steps; 0 switches that off.
    objective : Objective, optional
        What training minimises.
    probes : tensor of shape (M, d), optional
        The divergence is estimated with them (Hutchinson); None computes it exactly.

    References
    ----------
    Lipman et al., "Flow matching for generative modeling", 2023. Chen et al., "Neural ordinary
    differential equations", 2018.
    """

    # Training times are t = 1 - (1-u)^time_power, u uniform: more of them near the data, where the
    # velocity changes fastest.
    time_power = 1.5
    differentiable = False
    # Share of the rows that training shows without their conditions, for guidance.
    condition_dropout = 0.1
    # Of the squared distance of conditions in the log-weight of a row as origin of another: rows
    # with other conditions are none.
    condition_sharpness = 1e4
    # In which the network computes for samples; positions keep theirs. Steps err far more.
    sampling_dtype = torch.float32
    base: Density
    probes: Tensor | None
    sampler: Sampler | DiffusionSampler | None = None  # in place of the accurate solution
    guidance = 0.0  # of samples
    straightened = False  # by `Reflow`

    def __init__(
        self,
        network: VelocityNetwork | DeepVelocityNetwork | UNetVelocity,
        path: GaussianPath,
        n_features: int,
        solver: str,
        n_steps: int,
        tolerance: float,
        objective: Objective | None = None,
        probes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("probes", probes)
        self.network, self.path, self.straight = network, path, LinearPath()
        self.n_features = n_features
        self.solver, self.n_steps, self.tolerance = solver, n_steps, tolerance
        self.objective = objective = Objective() if objective is None else objective
        # Of the rows that the loss averages over; with few features more of them are near.
        self.group_size = 512 if n_features <= 3 else 64
        self.base = StandardNormal(n_features)
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

    @torch.no_grad()
    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density in nats of rows, refined until its error is small."""
        return self._refined(self._solve_density, rows, "log-density", "nats")

    def log_prob_fast(self, rows: Tensor) -> Tensor:
        """Log-density without refinement, good enough to watch the training by."""
        return self._solve_density(rows, self.n_steps)

    @torch.no_grad()
    def transport(
        self,
        rows: Tensor,
        to_data: bool,
        guidance: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Carry rows from noise to data or back, refined until their error is small.

        The network computes in the dtype of the rows, or in another.
        """
        dtype = dtype or rows.dtype
        return self._refined(
            lambda rows, n_steps: self._solve_position(rows, n_steps, to_data, guidance, dtype),
            rows,
            "position",
            "standard deviations",
        )

    @torch.no_grad()
    def parts(self, t: Tensor, rows: Tensor) -> Parts:
        """Mean data and noise (n, d) at rows and a time t of the path, in the dtype of the rows."""
        x, conditions = self._split(rows)
        return self._parts(self._excess(x.dtype, False, conditions), t, x)

    def _parts(self, excess: Field, t: Tensor, x: Tensor) -> Parts:
        alpha, sigma = self.path.coefficients(t)
        scale = alpha + sigma
        r, y = alpha / scale, x / scale
        (velocity,) = excess(float(r), y)
        velocity = velocity + self.straight.gaussian_gain(r) * y
        return Parts(y + (1 - r) * velocity, y - r * velocity)

    @torch.no_grad()
    def straightness(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> float:
        """Mean of ``|dy/dr - (y(1) - y(0))|^2`` along the flow of the straight path, per feature.

        0 if all rows move straight at constant speed, so that one step of Euler's method is exact.

        References
        ----------
        Liu, Gong and Liu, "Flow straight and fast", 2023.
        """
        steps = 64
        grid = OdeSampler(steps, "uniform", 0, "rk4")
        straight = copy.copy(self)
        straight.path = self.straight
        walk = grid.positions(straight.given(conditions), n, generator)
        positions = torch.stack([x for _, x in walk])
        speeds = positions.diff(dim=0) * steps
        return float((speeds - (positions[-1] - positions[0])).square().mean())

    def _refined(
        self, solve: Callable[[Tensor, int], Tensor], x: Tensor, what: str, unit: str
    ) -> Tensor:
        """Solve, with more steps for the rows that need them."""
        if not self.tolerance:
            return solve(x, self.n_steps)
        return refined(solve, x, self.n_steps, self.solver, self.tolerance, what, unit)

    @torch.no_grad()
    def _solve_density(self, rows: Tensor, n_steps: int) -> Tensor:
        noise, integral = _last(self._solve_from_data(rows, n_steps, divergence=True))
        if self.probes is not None:
            integral = integral.mean(1)
        scale = self._end_scale(noise)
        return self.base.log_prob(noise) + integral - noise.shape[1] * scale.log()

    def log_prob_error(self, rows: Tensor) -> Tensor:
        """Standard error of log-densities (n,) that comes from the probes."""
        if self.probes is None:
            return rows.new_zeros(len(rows))
        _, integral = _last(self._solve_from_data(rows, self.n_steps, divergence=True))
        return integral.std(1) / len(self.probes) ** 0.5

    @torch.no_grad()
    def _solve_position(
        self, rows: Tensor, n_steps: int, to_data: bool, guidance: float, dtype: torch.dtype
    ) -> Tensor:
        if not to_data:
            return _last(self._solve_from_data(rows, n_steps, divergence=False))[0]
        x, conditions = self._split(rows)
        excess = self._excess(dtype, False, conditions, guidance)
        return self._end_scale(x) * _last(self._solve(excess, x, n_steps, True))[0]

    def _solve_from_data(
        self, rows: Tensor, n_steps: int, divergence: bool
    ) -> Iterator[tuple[Tensor, ...]]:
        x, conditions = self._split(rows)
        excess = self._excess(x.dtype, divergence, conditions)
        return self._solve(excess, x / self._end_scale(x), n_steps, False, divergence)

    def _end_scale(self, like: Tensor) -> Tensor:
        """Standard deviation of ``x_1`` for normal data: 1 but for paths that leave some noise."""
        return self.path.gaussian_scale(like.new_ones(()))

    def _excess(
        self, dtype: torch.dtype, divergence: bool, conditions: Tensor | None, guidance: float = 0.0
    ) -> Field:
        """Excess velocity of the network, and its divergence, as a function of time and positions.

        The network computes in ``dtype``; the results have that of the positions.

        Guidance g makes it ``v + g (v - v_0)`` with the velocity v_0 for unknown conditions.

        References
        ----------
        Ho and Salimans, "Classifier-free diffusion guidance", 2022.
        """
        probes = self.probes if divergence else None
        field = self.network.field(dtype, divergence and probes is None)
        conditions = conditions if conditions is None else conditions.to(dtype)
        unknown = conditions if conditions is None else torch.zeros_like(conditions)

        def excess(r: float, x: Tensor) -> tuple[Tensor, ...]:
            y = x.to(dtype)
            velocity, *traces = field(r, join(y, conditions))
            if guidance:
                velocity = torch.lerp(field(r, join(y, unknown))[0], velocity, 1 + guidance)
            return tuple(found.to(x.dtype) for found in (velocity, *traces))

        if probes is None:
            return excess
        return lambda r, x: hutchinson_divergence(lambda x: excess(r, x)[0], x, probes)

    def _solve(
        self, excess: Field, x: Tensor, n_steps: int, to_data: bool, divergence: bool = False
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield positions and, if asked for, integrals of the divergence after each step.

        Positions are in units of what they would be for normal data, ``x / a(r)`` with the scale a
        of the straight path: ``d(x/a)/dr = e / a`` with the excess velocity e, and the divergence
        is that of e. So the solver has to follow only how the velocity differs from that of a
        Gaussian, which is known exactly. The steps are equal in s with ``r = 1 - (1-s)^2``, hence
        shorter near the data.
        """
        ends = self.path.straight_time(torch.tensor([0.0, 1.0], dtype=torch.float64))
        start, end = (1 - (1 - ends).sqrt()).tolist()

        def field(s: float, y: Tensor) -> tuple[Tensor, ...]:
            r, rate = s * (2 - s), 2 * (1 - s)
            size = self.straight.gaussian_scale(y.new_tensor(r))
            velocity, *traces = excess(r, size * y)
            return (velocity * (rate / size), *(rate * trace for trace in traces))

        shape = (len(x),) if self.probes is None else (len(x), len(self.probes))
        state = (x, x.new_zeros(shape)) if divergence else (x,)
        start, end = (start, end) if to_data else (end, start)
        yield from SOLVERS[self.solver].steps(field, state, start, end, n_steps)

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw rows (n, d) given conditions (n, k), by the sampler if one is set."""
        if self.sampler is not None:
            return _last(self.sampler.positions(self.given(conditions), n, generator))[1]
        noise = self.base.sample(n, generator)
        return self.transport(
            join(noise, conditions), True, guidance=self.guidance, dtype=self.sampling_dtype
        )

    def given(self, conditions: Tensor | None) -> GivenFlow:
        """What samplers ask of a flow, for rows with these conditions (n, k)."""
        return GivenFlow(self, conditions)


class GivenFlow:
    """A flow for rows whose conditions (n, k) are given, with its guidance."""

    def __init__(self, flow: Flow, conditions: Tensor | None) -> None:
        self.flow, self.path, self.base = flow, flow.path, flow.base
        self._excess = flow._excess(flow.sampling_dtype, False, conditions, flow.guidance)

    def parts(self, t: Tensor, x: Tensor) -> Parts:
        """Mean data and noise at positions x (n, d) and a time t of the path, in the dtype of x."""
        return self.flow._parts(self._excess, t, x)


def _last(states: Iterator[Any]) -> Any:
    return deque(states, maxlen=1).pop()
