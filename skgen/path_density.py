"""Samplers of densities carried along a Gaussian path, and how their ways are straightened."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm import tqdm
from typing_extensions import Self

from .core.diffusion_samplers import DiffusionSampler
from .core.flow import Flow
from .core.interfaces import Density
from .core.models import Mixture, Preconditioned
from .core.modes import default_modes
from .core.reflow import Reflow
from .core.samplers import (
    TIME_GRIDS,
    OdeSampler,
    Sampler,
    StochasticSampler,
)
from .core.solvers import SOLVERS
from .core.training import Trainer
from .defended import N_DEFENDED
from .fields import FieldDensity
from .rows import check_n_samples

AnySampler = Sampler | DiffusionSampler
PROPOSAL_TOLERANCE = 10.0  # times that of log-densities: weights are off by a hundredth
STOCHASTIC = ("euler_maruyama", "stochastic_heun")


class PathDensity(FieldDensity):
    """Base of the densities whose model is a `Flow`: samplers, trajectories and reflow."""

    @default_modes()
    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        sampler: str | None = None,
        n_steps: int | None = None,
        time_grid: str | None = None,
        diffusion: Any = None,
        n_corrections: int = 0,
        y: Any = None,
        guidance: float = 0.0,
    ) -> np.ndarray:
        """Draw new rows, given conditions if the fit had some.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draw. None uses the estimator's ``random_state``: if that is an int,
            every call returns the same rows.
        sampler : str, default=None
            How noise becomes data, whatever the training. "exact" solves the ODE as exactly as
            ``solver_tol`` asks for, as log-densities do; None is the default of the estimator. A
            solver (see ``solver``) takes ``n_steps`` of it. "euler_maruyama" and "stochastic_heun"
            solve instead ``dx = (v + eps s) dt + sqrt(2 eps) dW`` with the score function s, which
            has the same distribution at all times and corrects errors of the velocity on the way.
        n_steps : int, default=None
            Steps of ``sampler``; None is 50. "exact" takes as many as it needs.
        time_grid : {"uniform", "quadratic", "three_halves", "cosine"}, default=None
            Times of the steps: equal, the default; shorter near the data, as ``1 - (1 - u)^2`` and
            ``1 - (1 - u)^1.5`` for equal steps of u; shorter at both ends. "three_halves" is the
            most accurate on many tables with ``sampler="adams"`` and 8 to 12 steps.
        diffusion : float or callable, default=None
            ``eps`` of the random samplers, constant or a function of t; None is the standard
            deviation of the path's noise, with which nothing is singular at the data.
        n_corrections : int, default=0
            Steps of Langevin dynamics after each step of ``sampler``.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            Conditions of the rows, or one for all, if the fit had some; None draws rows whose
            conditions are unknown.
        guidance : float, default=0.0
            Strength g of classifier-free guidance: the velocity is ``v + g (v - v_0)`` with that
            for unknown conditions, v_0, so that rows are more typical of their conditions than of
            others, and less varied. Guided rows come from the flow without its defence.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data, float64. A frame with the names of the
            training columns if ``set_output(transform="pandas")`` or ``"polars"`` is in force.

        Raises
        ------
        ValueError
            If an option is invalid, or is none of the sampler's.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        conditions = self._conditions(y, n_samples)
        sampler = sampler or self._default_sampler()
        chosen = self._sampler(sampler, n_steps, time_grid, diffusion, n_corrections, "uniform")
        mixture = self._with_flows(sampler=chosen, guidance=_checked_guidance(guidance, y))
        density = mixture.components[0] if guidance else mixture
        density = self._of_rows(cast(Density, density))
        return self._draw(n_samples, random_state, conditions, density)

    def _with_flows(self, **attributes: Any) -> Mixture:
        """The fitted mixture, but its flows have these attributes; other threads may use it."""
        components = list(self._mixture.components)
        for k in [0, *range(N_DEFENDED, len(components))]:
            density = cast(Preconditioned, components[k])
            components[k] = Preconditioned(
                density.bijection, _with(density.model, **attributes), density.n_features
            )
        weights = self._mixture.weights
        mixture = Mixture(cast(list[Density], components), weights.tolist())
        return mixture.to(weights.device)

    def _rough_log_prob(self, rows: Tensor) -> Tensor:
        tolerance = PROPOSAL_TOLERANCE * self._model.tolerance
        return self._with_flows(tolerance=tolerance).log_prob(rows)

    def _sampler(
        self,
        sampler: str,
        n_steps: int | None,
        time_grid: str | None,
        diffusion: Any,
        n_corrections: int,
        default_grid: str,
    ) -> AnySampler | None:
        """What draws rows, or None for the accurate solution."""
        options = {"time_grid": time_grid, "diffusion": diffusion}
        options["n_corrections"] = n_corrections or None
        if sampler == "exact":
            _refuse_options(
                sampler,
                {"n_steps": n_steps, **options},
                " It takes the steps that solver_tol asks for; to choose them, name a solver, such "
                "as sampler='adams'.",
            )
            return None
        n_steps = self._default_n_steps(sampler) if n_steps is None else n_steps
        own = self._own_samplers(sampler, n_steps)
        if own is not None:
            check_scalar(n_steps, "n_steps", Integral, min_val=1)
            _refuse_options(sampler, options)
            return own
        time_grid = default_grid if time_grid is None else time_grid
        check_option("sampler", sampler, ["exact", *SOLVERS, *STOCHASTIC, *self._own_names])
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

    _own_names: Iterable[str] = ()  # of samplers that only this kind of density has

    def _own_samplers(self, sampler: str, n_steps: int) -> AnySampler | None:
        """One of them, if it is."""
        return None

    def _default_sampler(self) -> str:
        """What `sample` uses unless told otherwise; "exact" is the accurate solution."""
        return "exact"

    def _default_n_steps(self, sampler: str) -> int:
        return 50

    @default_modes()
    def reflow(
        self,
        n_samples: int = 20_000,
        *,
        max_iter: int | None = None,
        random_state: Any = None,
    ) -> Self:
        """Straighten the fitted flow, so that samplers need few steps.

        The flow is trained on, with pairs of noise and what it carries that to, so it learns to
        take straight ways to the same rows. Its density stays exact, but is now that of the
        straightened flow, and there is no score function any more.

        Parameters
        ----------
        n_samples : int, default=20,000
            Number of pairs.
        max_iter : int, default=None
            Gradient steps; None is half of what the fit may take.
        random_state : int, RandomState instance or None, default=None
            Seed of the pairs and the batches; None uses the estimator's ``random_state``.

        Returns
        -------
        self : object
            The estimator with its flow straightened. Another call straightens it more.

        References
        ----------
        Liu, Gong and Liu, "Flow straight and fast", 2023.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        generator = self._generator(random_state, self._place_module())
        plan = self._plan()
        n_steps = plan.max_iter // 2 if max_iter is None else max_iter
        check_scalar(n_steps, "max_iter", Integral, min_val=1)
        plan = replace(plan, max_iter=n_steps, round_length=max(1, n_steps // plan.n_rounds))
        reflow, parts = Reflow(copy.deepcopy(self._model)), []
        for start in range(0, n_samples, self._chunk_rows):
            n, given = min(self._chunk_rows, n_samples - start), None
            if self._encoder is not None:
                rows = torch.tensor(self._encoder.rows, device=generator.device)
                kind: Any = {"generator": generator, "device": generator.device}
                given = rows[torch.randint(len(rows), (n,), **kind)]
            parts.append(reflow.pairs(n, generator, given).float())
        rows = torch.cat(parts)
        with tqdm(total=n_steps, disable=not self.verbose) as bar:
            trainer = Trainer(reflow, rows, None, plan, generator, bar, "reflow")
            trainer.run()
            trainer.finish()
        reflow.flow.straightened = True
        self.module_ = copy.deepcopy(self.module_)  # not that of a shallow copy of the estimator
        self._density.model = reflow.flow
        self._leave_others()
        return self

    @default_modes()
    def sample_trajectory(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        sampler: str | None = None,
        n_steps: int | None = None,
        time_grid: str | None = None,
        diffusion: Any = None,
        n_corrections: int = 0,
        return_times: bool = False,
        y: Any = None,
        guidance: float = 0.0,
    ) -> Any:
        """Draw rows from the flow, without its defence, and show how they came about.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.
        sampler : str, default=None
            As in `sample`, but "exact" stands for ``solver``.
        n_steps : int, default=None
            As in `sample`; with ``solver``, None is the ``n_steps`` of the estimator.
        time_grid : {"uniform", "quadratic", "three_halves", "cosine"}, default=None
            As in `sample`, but None is "quadratic".
        diffusion : float or callable, default=None
            As in `sample`.
        n_corrections : int, default=0
            As in `sample`.
        return_times : bool, default=False
            Whether to return the times too.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `sample`.
        guidance : float, default=0.0
            As in `sample`.

        Returns
        -------
        trajectory : ndarray of shape (n_steps + 1, n_samples, n_features)
            Positions in the units of X at the start and after each step of the sampler, the noise
            first (mapped to these units like everything else) and the samples last. They move on
            the line: on circles they may be a whole turn off, and whole numbers are not rounded
            down yet.
        times : ndarray of shape (n_steps + 1,)
            Their times, if asked for.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        sampler = sampler or self._default_sampler()
        if sampler == "exact":
            sampler, n_steps = self.solver, self.n_steps if n_steps is None else n_steps
        chosen = self._sampler(sampler, n_steps, time_grid, diffusion, n_corrections, "quadratic")
        device = self._place_module()
        generator, conditions = (
            self._generator(random_state, device),
            self._conditions(y, n_samples),
        )
        given = None if conditions is None else torch.tensor(conditions, device=device)
        guided = _with(self._model, guidance=_checked_guidance(guidance, y))
        bijection, flow = self._density.bijection, cast(Flow, guided).given(given)
        with torch.no_grad(), self._row_bar(n_samples):
            states = [
                (t, bijection.inverse(z).cpu().numpy())
                for t, z in cast(AnySampler, chosen).positions(flow, n_samples, generator)
            ]
        times, trajectory = (np.stack(part) for part in zip(*states, strict=True))
        return (trajectory, times) if return_times else trajectory


def _with(model: Density, **attributes: Any) -> Density:
    """A model of the same tensors, but with these attributes."""
    model = copy.copy(model)
    vars(model).update(attributes)
    return model


def _checked_guidance(guidance: Any, y: Any) -> float:
    """Strength of guidance; ValueError if there is nothing to lead to."""
    check_scalar(guidance, "guidance", Real)
    if guidance and y is None:
        raise ValueError(f"guidance={guidance!r} leads to conditions y, but y is None.")
    return float(guidance)


def _refuse_options(sampler: str, options: dict[str, Any], hint: str = "") -> None:
    """Raise ValueError if some are not None: the sampler has no use for them."""
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"sampler={sampler!r} takes no {' and no '.join(given)}.{hint}")


def check_option(name: str, value: Any, options: Iterable[str]) -> None:
    """Raise ValueError unless the value is one of the options."""
    if value not in set(options):
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}.")
