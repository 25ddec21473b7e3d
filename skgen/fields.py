"""Velocity and score function of densities carried along a Gaussian path."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .bases import BasedFlow
from .core.divergence import jacobian_product, transposed_jacobian_product
from .core.interfaces import join
from .core.modes import default_modes
from .core.progress import counted
from .core.samplers import LAST_TIME, langevin_step
from .rows import check_n_samples


class FieldDensity(BasedFlow):
    """Base of the densities whose model is a `Flow`: what its velocity tells."""

    def _check_score(self, what: str) -> None:
        if self._model.has_score:
            return
        if self._model.straightened:
            reason = "was straightened by reflow"
        elif self.coupling == "independent" and self.base == "normal":
            reason = "was fitted with X_base"
        else:
            reason = f"was fitted with coupling={self.coupling!r} and base={self.base!r}"
        raise ValueError(
            f"{what} the score function, which follows from the velocity only if the noise is "
            f"standard normal and drawn independently of the data; this flow {reason}."
        )

    def velocity(self, X: Any, t: float, y: Any = None) -> np.ndarray:
        """Velocity of the flow, without its defence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Positions in the units of the training data. They need not be whole numbers in columns
            that are ``discrete``, where the flow has the number k from k to k + 1.
        t : float
            Time from 0, noise, to 1, data; on paths without a velocity there, such as chains of
            steps, to the last one with one.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

        Returns
        -------
        velocity : ndarray of shape (n_samples, n_features)
            ``dx/dt`` in the units of X.

        Raises
        ------
        ValueError
            If t is not within these.
        """
        check_is_fitted(self)
        check_scalar(t, "t", Real, min_val=0, max_val=self._model.path.interval[1])
        density, flow = self._density, self._model

        def at(rows: Tensor) -> Tensor:
            z, time = density.precondition(self._turned(rows))[0], rows.new_tensor(float(t))
            velocity = flow.path.velocity(time, flow.parts(time, z))
            z = z[:, : density.n_features]
            return jacobian_product(density.bijection.inverse, z, velocity)[1]

        return self._by_chunks(X, at, y)

    def score_function(self, X: Any, t: float, y: Any = None) -> np.ndarray:
        """Gradient of the log-density of the flow at a time, without its defence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Positions as in `velocity`.
        t : float
            Time from 0, noise, to 1, data, where a path without noise has no score function that
            the velocity could tell.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

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

        def at(rows: Tensor) -> Tensor:
            x, conditions = self._turned(rows).tensor_split([flow.n_features], dim=1)
            z, log_det = bijection(x)
            time = rows.new_tensor(float(t))
            score = flow.path.score(time, flow.parts(time, join(z, conditions)))
            directions = score, torch.ones_like(log_det)
            return transposed_jacobian_product(bijection, x, directions)

        return self._by_chunks(X, at, y)

    def langevin_dynamics(
        self,
        X: Any,
        t: float = 0.99,
        n_steps: int = 100,
        step_size: float = 0.1,
        random_state: Any = None,
        y: Any = None,
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
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

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
        density, d = self._density, self.n_features_in_

        def move(rows: Tensor) -> Tensor:
            z = density.precondition(self._unfold(rows))[0]
            flow, z, time = self._model.given(z[:, d:]), z[:, :d], z.new_tensor(float(t))
            for _ in counted(range(n_steps), len(z) / max(1, n_steps)):
                z = langevin_step(flow, z, time, step_size, generator)
            return self._fold(density.bijection.inverse(z))

        return self._by_chunks(X, move, y)

    def log_density_error(self, X: Any, y: Any = None) -> np.ndarray:
        """Standard error of the flow's log-density that comes from an estimated divergence.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.

        Returns
        -------
        error : ndarray of shape (n_samples,)
            Nats, from the spread over the probes; 0 if the divergence is exact.
        """
        check_is_fitted(self)
        density, flow = self._density, self._model
        return self._by_chunks(
            X,
            lambda rows: flow.log_prob_error(density.precondition(self._unfold(rows))[0]),
            y,
        )

    @default_modes()
    def straightness(self, n_samples: int = 1000, random_state: Any = None, y: Any = None) -> float:
        """How much the ways of the flow deviate from straight lines at constant speed.

        Parameters
        ----------
        n_samples : int, default=1000
            Number of rows drawn.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `sample`.

        Returns
        -------
        straightness : float
            Mean over rows, times and features of ``|dx/dt - (x_1 - x_0)|^2`` for the whitened rows,
            at the times of the straight path; 0 if one step of Euler's method is exact.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        device = self._place_module()
        generator, conditions = (
            self._generator(random_state, device),
            self._conditions(y, n_samples),
        )
        given = None if conditions is None else torch.tensor(conditions, device=device)
        return self._model.straightness(n_samples, generator, given)
