"""Flows that start from other densities than standard normal noise, or from rows."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from .base import draw_rows, lent
from .conditions import ConditionalFlow
from .core.flow import Flow
from .core.gaussian import StandardNormal
from .core.interfaces import Bijection, Density
from .core.models import Preconditioned
from .core.objectives import Noise
from .gaussian_mixtures import fit_gaussian_mixture, mixture_size
from .rows import check_more_rows
from .supports import check_supported


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
        log_density = self.estimator.score_samples(rows.cpu().double().numpy())
        return torch.as_tensor(log_density).to(x) - self.bijection(rows)[1]

    def sample(
        self, n: int, generator: torch.Generator, conditions: Tensor | None = None
    ) -> Tensor:
        """Draw preconditioned rows (n, d), float64."""
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        rows = np.array(draw_rows(self.estimator, n, seed), dtype=np.float64)
        return self.bijection(torch.from_numpy(rows).to(next(self.bijection.buffers())))[0]


class Normal:
    """Normal density of given mean (d,) and covariance (d, d), as a fitted estimator."""

    def __init__(self, mean: Any, covariance: Any) -> None:
        self.density = multivariate_normal(mean, covariance)

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Log-density of rows (n, d)."""
        return np.atleast_1d(self.density.logpdf(X))

    def sample(self, n_samples: int, random_state: Any = None) -> np.ndarray:
        """Draw rows (n, d)."""
        rows = self.density.rvs(n_samples, random_state=random_state)
        return np.reshape(rows, (n_samples, self.density.dim))


def check_moments(base: tuple, d: int) -> None:
    """Raise ValueError unless a pair is a finite mean (d,) and covariance (d, d)."""
    shapes = [np.shape(part) for part in base]
    if shapes != [(d,), (d, d)]:
        raise ValueError(
            f"base must be a mean of shape ({d},) and a covariance of shape ({d}, {d}), got shapes "
            f"{shapes}."
        )
    if not all(np.isfinite(part).all() for part in base):
        raise ValueError(f"base must be a mean and a covariance of finite numbers, got {base!r}.")


class BasedFlow(ConditionalFlow):
    """Base of the densities whose model is a `Flow` from noise of any density, or from rows."""

    base: Any = "normal"
    coupling: Any = "independent"
    _X_base: Any = None

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        X_base: Any = None,
    ) -> Self:
        """Fit the density to data, given conditions if ``conditional=True``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows: an array, a frame, a list or a torch tensor of finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            Conditions of the rows; ignored unless ``conditional=True``. Columns that are not
            numbers, or whole numbers of at most 20 values, are categories.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. An integer weight k is the same as k copies of the row.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Rows to hold out in place of a random ``validation_fraction`` of X: later times or other
            groups than those of X. Of more than 2,000, as many spread among them.
        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_conditions), default=None
            Conditions of the rows of X_val; ignored unless ``conditional=True``.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the rows of X_val.
        X_base : array-like of shape (n_base_samples, n_features), default=None
            Rows, of the columns of X, that the flow is to carry to those of X, see `transport`, in
            place of noise. Their density, which that of X follows from, is ``base`` fitted to
            them, or a Gaussian mixture if that is "normal".

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If an array or a parameter is invalid, or X_val is given without early stopping. The
            estimator then keeps its former state.
        """
        val = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        with lent(self, _X_base=X_base):
            super().fit(X, y, sample_weight, **val)
        return self

    def _candidates(self, x: Tensor, generator: torch.Generator) -> dict[str, Preconditioned]:
        if self._X_base is not None:
            X_base = check_more_rows(self, self._X_base, "X_base", ensure_min_samples=2)
            self._X_base = X_base.astype(np.float64)
        candidates = super()._candidates(x, generator)
        for density in candidates.values():
            cast(Flow, density.model).straightened = False  # what goes on unlearns it
        if self._X_base is not None:
            if self.periodic or self.discrete is not None:
                raise ValueError("X_base cannot go with periodic or discrete columns.")
            rows = torch.tensor(self._X_base, device=x.device)
            check_supported(self, self._supports, rows)
            for density in candidates.values():
                flow = cast(Flow, density.model)
                if isinstance(flow.base, StandardNormal):
                    raise ValueError(
                        "warm_start=True continues a fit from noise, got X_base to start from. Set "
                        "warm_start=False to fit anew."
                    )
                flow.noise = Noise(density.bijection(rows)[0])
        return candidates

    def _candidate(self, kind: str, x: Tensor, seed: int) -> Preconditioned:
        density = super()._candidate(kind, x, seed)
        if isinstance(self.base, str) and self._X_base is None:
            return density
        self._check_base()
        flow = cast(Flow, density.model)
        ends = flow.path.coefficients(torch.tensor(0.0, dtype=torch.float64))
        if [float(end) for end in ends] != [0.0, 1.0]:
            raise ValueError(
                f"{type(flow.path).__name__} does not start as the noise alone, as a base and "
                "X_base need."
            )
        rows = x[:, : self.n_features_in_].cpu().numpy() if self._X_base is None else self._X_base
        if isinstance(self.base, str):
            z = density.bijection(torch.tensor(rows, device=x.device))[0]
            flow.base = fit_gaussian_mixture(seed, mixture_size(*z.shape), z)
        elif isinstance(self.base, tuple):
            check_moments(self.base, self.n_features_in_)
            flow.base = FittedBase(Normal(*self.base), density.bijection)
        else:
            flow.base = FittedBase(clone(self.base).fit(rows, None), density.bijection)
        return density

    def transport(self, X_base: Any, y: Any = None, *, inverse: bool = False) -> np.ndarray:
        """Carry rows of the base to data along the flow, or back.

        Parameters
        ----------
        X_base : array-like of shape (n_samples, n_features)
            Rows of the base in the units of X, such as the ``X_base`` of the fit.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.
        inverse : bool, default=False
            Whether to carry rows of the data to the base instead.

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features)
            The rows that they become, in the units of X.
        """
        check_is_fitted(self)
        density, flow = self._density, self._model

        def carry(rows: Tensor) -> Tensor:
            z = density.precondition(self._unfold(rows))[0]
            return self._fold(density.bijection.inverse(flow.transport(z, to_data=not inverse)))

        return self._by_chunks(X_base, carry, y)

    def _check_base(self) -> None:
        """Raise ValueError unless all mass of the base is within the bounds of X."""
        fitted = self.base.estimator if isinstance(self.base, FrozenEstimator) else self.base
        ours = isinstance(self.base, str)  # a mixture behind the bounds
        if self._supports.bounds and not ours and getattr(fitted, "bounds", None) != self.bounds:
            raise ValueError(
                f"With bounds={self.bounds!r} the base must have the same bounds, got {fitted!r}."
            )

    @property
    def _model(self) -> Flow:
        """The flow without its preconditioner and defence."""
        return cast(Flow, self._density.model)
