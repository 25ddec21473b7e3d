"""Densities on tensors: each has ``log_prob(x)`` and ``sample(n, generator)``.

One that is trained by gradient steps also has ``loss(x, generator)``.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .gaussian import StandardNormal, standard_normal
from .interfaces import Bijection, Density, Transport
from .networks import DeepVelocityNetwork, VelocityNetwork
from .paths import GaussianPath
from .solvers import SOLVERS
from .times import TimeColumns, TrainingTimes
from .two_layers import Workspace


class SolverAccuracyWarning(UserWarning):
    """The numerical error of log-densities, samples or transforms may exceed its tolerance."""


class Flow(Transport):
    """Probability flow of a Gaussian path with a learnt velocity.

    The density is that of N(0, I) carried along ``dx/dt = v(x, t)`` from t = 0 to 1::

        log p(x(1)) = log N(x(0)) - integral_0^1 div v(x(t), t) dt

    Parameters
    ----------
    network : nn.Module
        Excess velocity with ``time_features(t)``, ``forward(x, features, zoom)`` and
        ``field(dtype, divergence)``.
    path : GaussianPath
    n_features : int
    solver : str
        Key of `SOLVERS`.
    n_steps : int
        Steps of the solver from noise to data.
    tolerance : float
        Rows whose estimated error, in nats or standard deviations, exceeds it are solved again
        with twice the steps; 0 switches that off.

    References
    ----------
    Lipman et al., "Flow matching for generative modeling", 2023. Chen et al., "Neural ordinary
    differential equations", 2018.
    """

    # Training times are t = 1 - (1-u)^time_power, u uniform: more of them near the data, where the
    # velocity changes fastest.
    time_power = 1.5
    differentiable = False
    max_doublings = 5

    def __init__(
        self,
        network: VelocityNetwork | DeepVelocityNetwork,
        path: GaussianPath,
        n_features: int,
        solver: str,
        n_steps: int,
        tolerance: float,
    ) -> None:
        super().__init__()
        self.network, self.path = network, path
        self.solver, self.n_steps, self.tolerance = solver, n_steps, tolerance
        # Of the rows that the loss averages over; with few features more of them are near.
        self.group_size = 512 if n_features <= 3 else 64
        self.base = StandardNormal(n_features)
        self._times = TrainingTimes(path, network.time_features, self.time_power)
        self._space = Workspace()

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Flow-matching loss ``mean (v(x_t, t) - E[dx_t/dt | x_t])^2`` over rows and features.

        The expectation is over the rows that ``x_t`` may have come from, among a group of the
        batch. It has the same mean given ``x_t`` as ``dx_t/dt`` itself and a smaller variance
        (Rao and Blackwell), so the gradient is less noisy.

        References
        ----------
        Xu, Tong and Jaakkola, "Stable target field for reduced variance score estimation in
        diffusion models", 2023.
        """
        n_groups = max(1, len(x) // self.group_size)
        x = x[: len(x) - len(x) % n_groups]  # the few rows left over sit this step out
        noise = standard_normal(len(x), x, generator)
        times = self._times.next_batch(x, generator)
        x_t = torch.addcmul(times.alpha * x, times.sigma, noise)
        target = torch.addcmul(times.data_rate * x, times.noise_rate, noise)
        target.addcmul_(times.origin_rate, self._expected_origin(x, x_t, times, n_groups) - x)
        return nn.functional.mse_loss(self.network(x_t, times.features, times.zoom), target)

    def _expected_origin(self, x: Tensor, x_t: Tensor, times: TimeColumns, n_groups: int) -> Tensor:
        """Mean of the rows of a group, weighted by how likely each ``x_t`` came from them."""

        def grouped(columns: Tensor) -> Tensor:
            return columns.view(n_groups, -1, columns.shape[1])

        # log N(x_t; alpha x_j, sigma^2 I) as one product, less what is the same for all j.
        left = grouped(torch.cat([times.precision * x_t, times.penalty], dim=1))
        right = grouped(torch.cat([x, x.square().sum(1, keepdim=True)], dim=1))
        weights = grouped(self._space("weights", x, right.shape[1]))
        torch.bmm(left, right.mT, out=weights)
        torch.softmax(weights, 2, out=weights)
        return (weights @ grouped(x)).view_as(x)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d), refined until its error is small."""
        return self._refined(self._solve_density, x, "log-density", "nats")

    def log_prob_fast(self, x: Tensor) -> Tensor:
        """Log-density without refinement, good enough to watch the training by."""
        return self._solve_density(x, self.n_steps)

    @torch.no_grad()
    def transport(self, x: Tensor, to_data: bool) -> Tensor:
        """Carry rows from noise to data or back, refined until their error is small."""
        return self._refined(
            lambda x, n_steps: self._solve_position(x, n_steps, to_data),
            x,
            "position",
            "standard deviations",
        )

    @torch.no_grad()
    def trajectory(self, x: Tensor, n_steps: int) -> list[Tensor]:
        """Positions of rows of noise at the start and after each of ``n_steps`` steps."""
        return [x, *(position for position, *_ in self._solve(x, n_steps, True, False))]

    def _refined(
        self, solve: Callable[[Tensor, int], Tensor], x: Tensor, what: str, unit: str
    ) -> Tensor:
        """Solve with more and more steps those rows whose result still changes.

        The error after n steps is estimated by the change from n/2 steps, divided by
        ``D = 2^(order-1)``, and by the change before that, divided by ``D^2``, whichever is larger:
        a single change can be small by chance. (In theory D is ``2^order - 1``; velocities as sharp
        as these are not there yet.) It depends on the row alone, so neighbours do not matter.
        """
        if not self.tolerance:
            return solve(x, self.n_steps)
        n_steps = max(4, self.n_steps // 2)  # fewer leave nothing coarser to compare with
        result = solve(x, n_steps)
        rows = torch.arange(len(x), device=x.device)
        before, earlier = solve(x, n_steps // 2), solve(x, n_steps // 4)
        divisor = 2 ** (SOLVERS[self.solver].order - 1)

        def estimate() -> Tensor:
            change = torch.maximum(
                (result[rows] - before).abs() / divisor, (before - earlier).abs() / divisor**2
            )
            return change if change.dim() == 1 else change.amax(1)

        for _ in range(self.max_doublings):
            inaccurate = ~(estimate() <= self.tolerance)
            rows, earlier = rows[inaccurate], before[inaccurate]
            if not len(rows):
                return result
            before, n_steps = result[rows], 2 * n_steps
            result[rows] = solve(x[rows], n_steps)
        error = estimate()
        n_inaccurate = int((~(error <= self.tolerance)).sum())
        if n_inaccurate:
            warnings.warn(
                f"The {what} of {n_inaccurate} of {len(x)} rows may be off by more than "
                f"{self.tolerance:g} {unit} (estimate: up to {float(error.max()):.2g}) even with "
                f"{n_steps} steps of solver {self.solver!r}. Increase n_steps or use a solver of "
                "higher order.",
                SolverAccuracyWarning,
                stacklevel=2,
            )
        return result

    @torch.no_grad()
    def _solve_density(self, x: Tensor, n_steps: int) -> Tensor:
        noise, integral = _last(self._solve(x, n_steps, to_data=False, divergence=True))
        ends = self.path.gaussian_scale(x.new_tensor([0.0, 1.0])).log()
        return self.base.log_prob(noise) + integral - x.shape[1] * (ends[1] - ends[0])

    @torch.no_grad()
    def _solve_position(self, x: Tensor, n_steps: int, to_data: bool) -> Tensor:
        return _last(self._solve(x, n_steps, to_data, divergence=False))[0]

    def _solve(
        self, x: Tensor, n_steps: int, to_data: bool, divergence: bool
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield positions and, if asked for, integrals of the divergence after each step.

        Solved for is ``y = x / a(t)``, with a the scale of a Gaussian: ``dy/dt = e / a`` with the
        excess velocity e, and the divergence is that of e. So the solver has to follow only how the
        velocity differs from that of a Gaussian, which is known exactly. The steps are equal in s
        with ``t = 1 - (1-s)^2``, hence shorter near the data.
        """
        excess = self.network.field(x.dtype, divergence)

        def scale(s: float) -> Tensor:
            return self.path.gaussian_scale(x.new_tensor(s * (2 - s)))

        def field(s: float, y: Tensor) -> tuple[Tensor, ...]:
            rate, size = 2 * (1 - s), scale(s)
            velocity, *traces = excess(s * (2 - s), size * y)
            return (velocity * (rate / size), *(rate * trace for trace in traces))

        start, end = (0.0, 1.0) if to_data else (1.0, 0.0)
        state = (x / scale(start), x.new_zeros(len(x))) if divergence else (x / scale(start),)
        states = SOLVERS[self.solver].steps(field, state, start, end, n_steps)
        for k, (y, *integrals) in enumerate(states, start=1):
            yield scale(start + (end - start) * k / n_steps) * y, *integrals

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows (n, d)."""
        return self.transport(self.base.sample(n, generator), to_data=True)


class Preconditioned(Density):
    """Density of x when ``model`` is the density of ``z = bijection(x)``.

    ``log p(x) = log p_model(z) + log |det dz/dx|``.
    """

    bijection: Bijection
    model: Density

    def __init__(self, bijection: Bijection, model: Density, n_features: int) -> None:
        super().__init__()
        self.bijection, self.model, self.n_features = bijection, model, n_features

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d), in the units of x."""
        z, log_det = self.bijection(x)
        return self.model.log_prob(z) + log_det

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows (n, d) in the units of x."""
        return self.bijection.inverse(self.model.sample(n, generator))


class Mixture(Density):
    """Mixture ``sum_k w_k p_k(x)`` of densities, exact and normalised.

    Parameters
    ----------
    components : sequence of Density
    weights : sequence of float
        Positive, summing to 1.
    """

    weights: Tensor

    def __init__(self, components: Sequence[Density], weights: Sequence[float]) -> None:
        super().__init__()
        self.components = nn.ModuleList(components)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of rows (n, d)."""
        return torch.logsumexp(self.component_log_probs(x) + self.weights.to(x.dtype).log(), dim=1)

    def component_log_probs(self, x: Tensor) -> Tensor:
        """Log-density of rows under each component (n, K); not a number counts as -infinity."""
        columns = [cast(Density, component).log_prob(x) for component in self.components]
        return torch.stack(columns, dim=1).nan_to_num(nan=-math.inf, posinf=-math.inf)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows (n, d): first the component of each, then its position."""
        choice = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        counts = choice.bincount(minlength=len(self.components)).tolist()
        parts = [
            cast(Density, component).sample(count, generator)
            for component, count in zip(self.components, counts, strict=True)
            if count
        ]
        order = torch.argsort(choice, stable=True)
        rows = torch.cat(parts)
        out = torch.empty_like(rows)
        out[order] = rows
        return out


def _last(states: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return deque(states, maxlen=1).pop()
