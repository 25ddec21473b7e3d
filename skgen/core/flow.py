"""Probability flow of a Gaussian path."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .diffusion_samplers import DiffusionSampler
from .divergence import hutchinson_divergence
from .interfaces import by_columns, cache_parts, join
from .matching import FlowMatching
from .networks import Network
from .objectives import Objective
from .paths import GaussianPath, LinearPath, Parts
from .progress import counted
from .refinement import Solve, refined
from .samplers import TIME_GRIDS, OdeSampler, Sampler
from .solvers import SOLVERS

Excess = Callable[[float, Tensor, Tensor | None], Tensor]


class Flow(FlowMatching):
    """Probability flow of a Gaussian path with a learnt velocity.

    The density is that of N(0, I) carried along ``dx/dt = v(x, t)`` from t = 0 to 1::

        log p(x(1)) = log N(x(0)) - integral_0^1 div v(x(t), t) dt

    The network gives the velocity of the straight path, which any other follows but for its pace
    and scale (see `GaussianPath`).

    Parameters
    ----------
    network : Network
        Excess velocity of the straight path.
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

    differentiable = False
    iterative = True
    # In which the network computes for samples; positions keep theirs. Steps err far more.
    sampling_dtype = torch.float32
    probes: Tensor | None
    sampler: Sampler | DiffusionSampler | None = None  # in place of the accurate solution
    guidance = 0.0  # of samples

    def __init__(
        self,
        network: Network,
        path: GaussianPath,
        n_features: int,
        solver: str,
        n_steps: int,
        tolerance: float,
        objective: Objective | None = None,
        probes: Tensor | None = None,
    ) -> None:
        super().__init__(network, path, n_features, Objective() if objective is None else objective)
        self.register_buffer("probes", probes)
        self.straight, self.solver, self.n_steps = LinearPath(), solver, n_steps
        self.tolerance = tolerance

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density in nats of rows, refined until its error is small."""
        return self.log_prob_beside(rows, None)

    @torch.no_grad()
    def log_prob_beside(self, rows: Tensor, others: Tensor | None) -> Tensor:
        """Log-density of rows, refined until the error of the sum with others is small."""
        return self._refined(self._solve_density, rows, "log-density", "nats", others)

    def log_prob_fast(self, rows: Tensor) -> Tensor:
        """Log-density without refinement, good enough to watch the training by."""
        return self._solve_density(rows, max(1, 3 * self.n_steps // 4))

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
        return self._parts(self._excess(x.dtype), t, x, conditions)

    def _parts(self, excess: Excess, t: Tensor, x: Tensor, conditions: Tensor | None) -> Parts:
        alpha, sigma = self.path.coefficients(t)
        scale = alpha + sigma
        r, y = alpha / scale, x / scale
        velocity = excess(float(r), y, conditions) + self.straight.gaussian_gain(r) * y
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
        self, solve: Solve, x: Tensor, what: str, unit: str, others: Tensor | None = None
    ) -> Tensor:
        """Solve, with more steps for the rows that need them."""
        if not self.tolerance:
            return solve(x, self.n_steps)
        return refined(solve, x, self.n_steps, self.solver, self.tolerance, what, unit, others)

    @torch.no_grad()
    def _solve_density(self, rows: Tensor, n_steps: int) -> Tensor:
        noise, integral = self._split(self._solve_from_data(rows, n_steps, divergence=True))
        scale = self._end_scale(noise)
        return self.base.log_prob(noise) + integral.mean(1) - noise.shape[1] * scale.log()

    def log_prob_error(self, rows: Tensor) -> Tensor:
        """Standard error of log-densities (n,) that comes from the probes."""
        if self.probes is None:
            return rows.new_zeros(len(rows))
        _, integral = self._split(self._solve_from_data(rows, self.n_steps, divergence=True))
        return integral.std(1) / len(self.probes) ** 0.5

    @torch.no_grad()
    def _solve_position(
        self, rows: Tensor, n_steps: int, to_data: bool, guidance: float, dtype: torch.dtype
    ) -> Tensor:
        if not to_data:
            return self._solve_from_data(rows, n_steps, divergence=False)
        ends = self._solve(rows, n_steps, True, dtype=dtype, guidance=guidance)
        return self._end_scale(rows) * ends

    def _solve_from_data(self, rows: Tensor, n_steps: int, divergence: bool) -> Tensor:
        x, conditions = self._split(rows)
        rows = join(x / self._end_scale(x), conditions)
        return self._solve(rows, n_steps, False, divergence)

    def _end_scale(self, like: Tensor) -> Tensor:
        """Standard deviation of ``x_1`` for normal data: 1 but for paths that leave some noise."""
        return self.path.gaussian_scale(like.new_ones(()))

    def _excess(
        self,
        dtype: torch.dtype,
        divergence: bool = False,
        guidance: float = 0.0,
        times: Sequence[float] = (),
    ) -> Excess:
        """Excess velocity of the network at a time, positions (n, d) and conditions (n, k) if any.

        The divergence, or its estimate by each probe, follows in further columns if it is asked
        for. The network computes in ``dtype``, which the results have.

        Guidance g makes it ``v + g (v - v_0)`` with the velocity v_0 for unknown conditions.

        References
        ----------
        Ho and Salimans, "Classifier-free diffusion guidance", 2022.
        """
        probes = self.probes if divergence else None
        field = self.network.field(dtype, divergence and probes is None, times)

        def excess(r: float, x: Tensor, conditions: Tensor | None) -> Tensor:
            y, given = x.to(dtype), None if conditions is None else conditions.to(dtype)
            velocity = field(r, join(y, given))
            if guidance and given is not None:
                unknown = field(r, join(y, torch.zeros_like(given)))
                velocity = torch.lerp(unknown, velocity, 1 + guidance)
            return velocity

        if probes is None:
            return excess
        return lambda r, x, c: hutchinson_divergence(lambda x: excess(r, x, c), x, probes)

    def _solve(
        self,
        rows: Tensor,
        n_steps: int,
        to_data: bool,
        divergence: bool = False,
        dtype: torch.dtype | None = None,
        guidance: float = 0.0,
    ) -> Tensor:
        """Positions (n, d) at the other end and, if asked for, integrals of the divergence.

        Positions are in units of what they would be for normal data, ``x / a(r)`` with the scale a
        of the straight path: ``d(x/a)/dr = e / a`` with the excess velocity e, and the divergence
        is that of e. So the solver has to follow only how the velocity differs from that of a
        Gaussian, which is known exactly. The steps are equal in s with ``r = 1 - (1-s)^2``, hence
        shorter near the data; there ``dr/ds``, and all slopes with it, vanish.
        """
        ends = self.path.straight_time(torch.tensor([0.0, 1.0], dtype=torch.float64))
        start, end = (1 - (1 - ends).sqrt()).tolist()
        start, end = (start, end) if to_data else (end, start)
        method, d = SOLVERS[self.solver], self.n_features
        n_traces = 0 if not divergence else 1 if self.probes is None else len(self.probes)

        grid, dtype = TIME_GRIDS["quadratic"], dtype or rows.dtype
        times = method.times(start, end, n_steps)
        s = torch.tensor(times, dtype=torch.float64)
        straight_times = grid.time(s)
        scales, rates = self.straight.gaussian_scale(straight_times), grid.rate(s)
        factors = torch.cat(
            [(rates / scales).expand(d, -1), rates.expand(n_traces, -1)]
        ).T  # of the slopes of positions and integrals
        of_times = straight_times.tolist(), scales.to(rows), factors.to(rows).to(dtype)
        known = dict(zip(times, zip(*of_times, strict=True), strict=True))
        excess = self._excess(dtype, divergence, guidance, of_times[0])

        def solve(rows: Tensor) -> Tensor:
            x, conditions = self._split(rows)

            def field(s: float, state: Tensor) -> Tensor:
                r, scale, factors = known[s]
                if s == 1:  # where all slopes vanish
                    return torch.zeros_like(state)
                return excess(r, scale * state[:, :d], conditions).mul_(factors)

            state = by_columns(torch.cat([x, x.new_zeros(len(x), n_traces)], dim=1))
            # Rows that are refined take nobody knows how many more.
            work = 0.0 if self.tolerance else len(x) / n_steps
            return _last(counted(method.steps(field, state, start, end, n_steps), work))

        return torch.cat([solve(part) for part in cache_parts(rows, dtype)])

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
        self.conditions = conditions
        self._excess = flow._excess(flow.sampling_dtype, guidance=flow.guidance)

    def parts(self, t: Tensor, x: Tensor) -> Parts:
        """Mean data and noise at positions x (n, d) and a time t of the path, in the dtype of x."""
        return self.flow._parts(self._excess, t, x, self.conditions)


def _last(states: Iterator[Any]) -> Any:
    return deque(states, maxlen=1).pop()
