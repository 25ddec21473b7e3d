"""What densities carried along a Gaussian path can do beyond density and samples."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.func import jvp, vjp

from .base import check_n_samples, draw_rows
from .core.flow import Flow
from .core.interfaces import Bijection, Density
from .core.models import Preconditioned
from .core.samplers import (
    LAST_TIME,
    TIME_GRIDS,
    OdeSampler,
    Sampler,
    StochasticSampler,
    langevin_step,
)
from .core.solvers import SOLVERS
from .trained import TrainedFlow

STOCHASTIC = ("euler_maruyama", "stochastic_heun")


class FittedBase(Density):
    """A fitted estimator, in units of X, as the density of noise behind a preconditioner."""

    differentiable = False
    bijection: Bijection

    def __init__(self, estimator: Any, bijection: Bijection) -> None:
        super().__init__()
        self.estimator, self.bijection = estimator, bijection

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of preconditioned rows (n, d)."""
        rows = self.bijection.inverse(x)
        log_density = self.estimator.score_samples(rows.double().cpu().numpy())
        return torch.as_tensor(log_density).to(x) - self.bijection(rows)[1]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw preconditioned rows (n, d), float64."""
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        rows = np.array(draw_rows(self.estimator, n, seed), dtype=np.float64)
        return self.bijection(torch.from_numpy(rows).to(generator.device))[0]


class PathDensity(TrainedFlow):
    """Base of the densities whose model is a `Flow`: samplers, velocity and score function."""

    base: Any = "normal"

    def _candidate(self, kind: str, x: Tensor, seed: int) -> Preconditioned:
        density = super()._candidate(kind, x, seed)
        if not isinstance(self.base, str):
            self._check_base()
            flow = cast(Flow, density.model)
            ends = flow.path.coefficients(torch.tensor(0.0, dtype=torch.float64))
            if [float(end) for end in ends] != [0.0, 1.0]:
                raise ValueError(
                    f"path={self.path!r} does not start as the noise alone, as a base needs."
                )
            estimator = clone(self.base).fit(x.cpu().numpy(), None)
            flow.base = FittedBase(estimator, density.bijection)
        return density

    def _check_base(self) -> None:
        """Raise ValueError unless all mass of the base is within the bounds of X."""
        fitted = self.base.estimator if isinstance(self.base, FrozenEstimator) else self.base
        if self._supports.bounds and getattr(fitted, "bounds", None) != self.bounds:
            raise ValueError(
                f"With bounds={self.bounds!r} the base must have the same bounds, got {fitted!r}."
            )

    @property
    def _model(self) -> Flow:
        """The flow without its preconditioner and defence."""
        return cast(Flow, self._density.model)

    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        sampler: str | None = None,
        n_steps: int = 50,
        time_grid: str = "uniform",
        diffusion: Any = None,
        n_corrections: int = 0,
    ) -> np.ndarray:
        """Draw new rows.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draw. None uses the estimator's ``random_state``: if that is an int,
            every call returns the same rows.
        sampler : str, default=None
            How noise becomes data, whatever the training. None solves the ODE as exactly as
            ``solver_tol`` asks for, as log-densities do. A solver (see ``solver``) takes
            ``n_steps`` of it. "euler_maruyama" and "stochastic_heun" solve instead
            ``dx = (v + eps s) dt + sqrt(2 eps) dW`` with the score function s, which has the same
            distribution at all times and corrects errors of the velocity on the way.
        n_steps : int, default=50
            Steps of ``sampler``.
        time_grid : {"uniform", "quadratic", "cosine"}, default="uniform"
            Times of the steps: equal; shorter near the data; shorter at both ends.
        diffusion : float or callable, default=None
            ``eps`` of the random samplers, constant or a function of t; None is the standard
            deviation of the path's noise, with which nothing is singular at the data.
        n_corrections : int, default=0
            Steps of Langevin dynamics after each step of ``sampler``.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data, float64. A frame with the names of the
            training columns if ``set_output(transform="pandas")`` or ``"polars"`` is in force.
        """
        check_is_fitted(self)
        if sampler is not None:
            chosen = self._sampler(sampler, n_steps, time_grid, diffusion, n_corrections)
            self._model.sampler = chosen
        try:
            return super().sample(n_samples, random_state)
        finally:
            self._model.sampler = None

    def _sampler(
        self, sampler: str, n_steps: int, time_grid: str, diffusion: Any, n_corrections: int
    ) -> Sampler:
        check_option("sampler", sampler, [*SOLVERS, *STOCHASTIC])
        check_option("time_grid", time_grid, TIME_GRIDS)
        check_scalar(n_steps, "n_steps", Integral, min_val=1)
        check_scalar(n_corrections, "n_corrections", Integral, min_val=0)
        if n_corrections or sampler in STOCHASTIC:
            self._check_score("Random samplers and corrections need")
        if sampler in SOLVERS:
            if diffusion is not None:
                raise ValueError(
                    f"diffusion is for random samplers, {sorted(STOCHASTIC)}; sampler={sampler!r} "
                    "solves an ODE."
                )
            return OdeSampler(n_steps, time_grid, n_corrections, sampler)
        heun = sampler == "stochastic_heun"
        return StochasticSampler(n_steps, time_grid, n_corrections, heun, diffusion)

    def _check_score(self, what: str) -> None:
        if not self._model.has_score:
            raise ValueError(
                f"{what} the score function, which follows from the velocity only if the noise is "
                f"normal and drawn independently of the data; this flow was fitted with "
                f"coupling={self.coupling!r} and base={self.base!r}."
            )

    def velocity(self, X: Any, t: float) -> np.ndarray:
        """Velocity of the flow, without its defence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Positions in the units of the training data.
        t : float
            Time from 0, noise, to 1, data.

        Returns
        -------
        velocity : ndarray of shape (n_samples, n_features)
            ``dx/dt`` in the units of X.
        """
        check_is_fitted(self)
        check_scalar(t, "t", Real, min_val=0, max_val=self._model.path.interval[1])
        bijection, flow = self._density.bijection, self._model

        def at(x: Tensor) -> Tensor:
            z, time = bijection(x)[0], x.new_tensor(float(t))
            velocity = flow.path.velocity(time, flow.parts(time, z))
            return jvp(bijection.inverse, (z,), (velocity,))[1]

        return self._by_chunks(X, at)

    def score_function(self, X: Any, t: float) -> np.ndarray:
        """Gradient of the log-density of the flow at a time, without its defence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Positions in the units of the training data.
        t : float
            Time from 0, noise, to 1, data, where a path without noise has no score function that
            the velocity could tell.

        Returns
        -------
        score : ndarray of shape (n_samples, n_features)
            Gradient of ``log p_t``, nats by the units of X.

        Raises
        ------
        ValueError
            If the path has no noise at t, or the coupling is not independent.
        """
        check_is_fitted(self)
        check_scalar(t, "t", Real, min_val=0, max_val=1)
        self._check_score("score_function needs")
        bijection, flow = self._density.bijection, self._model
        if not flow.path.coefficients(torch.tensor(float(t)))[1] > 0:
            raise ValueError(f"The path has no noise at t={t}, so velocity gives no score there.")

        def at(x: Tensor) -> Tensor:
            (z, log_det), pull = cast(Any, vjp(bijection, x))
            time = x.new_tensor(float(t))
            score = flow.path.score(time, flow.parts(time, z))
            return pull((score, torch.ones_like(log_det)))[0]

        return self._by_chunks(X, at)

    def langevin_dynamics(
        self,
        X: Any,
        t: float = 0.99,
        n_steps: int = 100,
        step_size: float = 0.1,
        random_state: Any = None,
    ) -> np.ndarray:
        """Move rows at random so that they come to follow the flow's density at a time.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Positions in the units of the training data.
        t : float, default=0.99
            Time from 0, noise, to 1, data.
        n_steps : int, default=100
            Number of steps.
        step_size : float, default=0.1
            In units of the variance of the path's noise at t.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features)
            Positions in the units of the training data.
        """
        check_is_fitted(self)
        check_scalar(t, "t", Real, min_val=0, max_val=LAST_TIME)
        check_scalar(n_steps, "n_steps", Integral, min_val=0)
        check_scalar(step_size, "step_size", Real, min_val=0, include_boundaries="neither")
        self._check_score("Langevin dynamics need")
        generator = self._generator(random_state, self._place_module())
        bijection, flow = self._density.bijection, self._model

        def move(x: Tensor) -> Tensor:
            z, time = bijection(self._unfold(x))[0], x.new_tensor(float(t))
            for _ in range(n_steps):
                z = langevin_step(flow, z, time, step_size, generator)
            return self._fold(bijection.inverse(z))

        return self._by_chunks(X, move)

    def log_density_error(self, X: Any) -> np.ndarray:
        """Standard error of the flow's log-density that comes from an estimated divergence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        error : ndarray of shape (n_samples,)
            Nats, from the spread over the probes; 0 if the divergence is exact.
        """
        check_is_fitted(self)
        bijection, flow = self._density.bijection, self._model
        return self._by_chunks(X, lambda x: flow.log_prob_error(bijection(self._unfold(x))[0]))

    def straightness(self, n_samples: int = 1000, random_state: Any = None) -> float:
        """How much the ways of the flow deviate from straight lines at constant speed.

        Parameters
        ----------
        n_samples : int, default=1000
            Number of rows drawn.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.

        Returns
        -------
        straightness : float
            Mean over rows, times and features of ``|dx/dt - (x_1 - x_0)|^2`` for the whitened rows,
            at the times of the straight path; 0 if one step of Euler's method is exact.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        generator = self._generator(random_state, self._place_module())
        return self._model.straightness(n_samples, generator)

    def sample_trajectory(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        sampler: str | None = None,
        n_steps: int | None = None,
        time_grid: str = "quadratic",
        diffusion: Any = None,
        n_corrections: int = 0,
        return_times: bool = False,
    ) -> Any:
        """Draw rows from the flow, without its defence, and show how they came about.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.
        sampler : str, default=None
            As in `sample`; None is ``solver``.
        n_steps : int, default=None
            Steps of the sampler; None is the ``n_steps`` of the estimator.
        time_grid : {"quadratic", "uniform", "cosine"}, default="quadratic"
            As in `sample`.
        diffusion : float or callable, default=None
            As in `sample`.
        n_corrections : int, default=0
            As in `sample`.
        return_times : bool, default=False
            Whether to return the times too.

        Returns
        -------
        trajectory : ndarray of shape (n_steps + 1, n_samples, n_features)
            Positions in the units of X at the start and after each step of the sampler, the noise
            first (mapped to these units like everything else) and the samples last.
        times : ndarray of shape (n_steps + 1,)
            Their times, if asked for.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        sampler, n_steps = sampler or self.solver, n_steps or self.n_steps
        chosen = self._sampler(sampler, n_steps, time_grid, diffusion, n_corrections)
        generator = self._generator(random_state, self._place_module())
        bijection, flow = self._density.bijection, self._model
        with torch.no_grad():
            states = [
                (t, bijection.inverse(z).cpu().numpy())
                for t, z in chosen.positions(flow, n_samples, generator)
            ]
        times, trajectory = (np.stack(part) for part in zip(*states, strict=True))
        return (trajectory, times) if return_times else trajectory


def check_option(name: str, value: Any, options: Iterable[str]) -> None:
    """Raise ValueError unless the value is one of the options."""
    if value not in set(options):
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}.")
