"""Fitted densities that are defended: behind their supports, mixed with simple ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .base import BaseDensity
from .core.bijections import Chain
from .core.conditional import fit_categories, fit_residual
from .core.gaussian import NormalMixture, StandardNormal, column_moments, fit_gaussian
from .core.interfaces import Bijection, Density
from .core.marginals import PRECONDITIONERS, fit_preconditioner
from .core.models import Mixture, Preconditioned
from .core.supports import Bounded, Folded, Folding
from .core.training import TrainingWarning
from .gaussian_mixtures import (
    FEW_ROWS,
    fit_gaussian_mixture,
    fit_sized_mixtures,
    fit_stacked_mixtures,
)
from .mixing import mixture_weights
from .rows import refuse_constant_columns
from .supports import Supports, check_supported, declared_supports
from .weights import as_frequencies, n_distinct

# Components of the mixture before those that were trained beside the first.
N_DEFENDED = 4
MAX_MIXTURE_ROWS = 20_000  # for the Gaussian mixture, which no longer gains from more
# Parameters that a fit may change and yet go on with the model of the former one; the supports are
# compared by themselves, as columns.
CHANGEABLE = {
    "batch_size", "bounds", "defensive_weight", "device", "discrete", "early_stopping",
    "gradient_accumulation_steps", "learning_rate_init", "max_iter", "n_iter_no_change",
    "n_sampling_steps", "n_splits", "periodic", "posterior_variance", "random_state", "reg_covar",
    "sampler", "tol", "validation_fraction", "verbose", "warm_start", "weight_decay",
}  # fmt: skip


class DefendedDensity(BaseDensity):
    """Base of the densities that are fitted behind a preconditioner and defended.

    The fitted density is a mixture: the model behind its preconditioner; behind the same, the
    Gaussian that the model started as and, with many rows, a Gaussian mixture, which is whitened
    with few; a Gaussian fitted to all rows in their own units; and perhaps models behind other
    preconditioners, without any of this. All are on the declared supports of the columns.
    """

    _parameter_constraints: dict = {
        **BaseDensity._parameter_constraints,
        "preconditioning": [StrOptions({"auto", *PRECONDITIONERS})],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "defensive_weight": [Interval(Real, 0, 0.25, closed="left")],
        "bounds": [Mapping, None],
        "periodic": [Mapping, None],
        "discrete": ["array-like", None],
    }

    _supports: Supports  # read in `fit`

    @property
    def _continues(self) -> bool:
        """Whether the fit begins with what a former one has left."""
        return self.warm_start and hasattr(self, "module_")

    def _check_continued(self) -> None:
        """Raise ValueError if parameters have changed that a model cannot go on with."""
        if not self._continues:
            return
        now = self._model_params()
        for name, before in sorted(self._fitted_params.items()):  # a base before its own
            if now[name] is not before and not np.array_equal(now[name], before):
                raise ValueError(
                    f"warm_start=True continues the fit with {name}={before!r}, got "
                    f"{name}={now[name]!r}. Set it back, or warm_start=False to fit anew."
                )

    def _model_params(self) -> dict[str, Any]:
        """Parameters that a model is built by."""
        return {k: v for k, v in self.get_params().items() if k not in CHANGEABLE}

    def _checked(self, x: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Rows in order and as often as they weigh, if they vary and are as declared."""
        d = self.n_features_in_
        weight = None if sample_weight is None else sample_weight.cpu().numpy()
        copies = x[as_frequencies(x.cpu().numpy(), weight)]
        self._check_columns(copies[:, :d])
        supports = declared_supports(self)
        if self._continues:
            if self._density.n_features != d:
                raise ValueError(
                    f"warm_start=True continues the fit on {self._density.n_features} feature(s), "
                    f"but X has {d}."
                )
            if self._supports != supports:
                raise ValueError(
                    "warm_start=True continues with the bounds, periodic and discrete of the "
                    f"former fit, {self._supports}, got {supports}."
                )
        check_supported(self, supports, x)
        self._supports = supports
        return copies

    def _check_columns(self, x: Tensor) -> None:
        """Raise ValueError if there are columns that do not vary."""
        _, variance = column_moments(x)
        refuse_constant_columns(self, (variance <= 0).nonzero()[:, 0].tolist())

    @property
    def _floor(self) -> float:
        """Least weight of the simple densities."""
        return self.defensive_weight

    def _folding(self, x: Tensor, seed: int) -> Folding | None:
        """How rows come to lie on the line, or None where they do."""
        if not self._supports.circles and not self._supports.discrete:
            return None
        if self._continues:
            return copy.deepcopy(cast(Folded, self.module_).folding).to(x.device)
        x = x[:, : self.n_features_in_]
        return Folding(x, self._supports.circles, self._supports.discrete, seed)

    def _gaussian(self, x: Tensor) -> Density:
        """Gaussian fitted to all rows, behind their bounds if there are any."""
        variance, d = max(self.reg_covar, 1e-9), self.n_features_in_
        x, conditions = x[:, :d], x[:, d:]
        bounded = Bounded(x, self._supports.bounds) if self._supports.bounds else None
        x = x if bounded is None else bounded(x)[0]
        gaussian = fit_categories(x, conditions, fit_gaussian(x, None, "full", variance), variance)
        return gaussian if bounded is None else Preconditioned(bounded, gaussian, d)

    def _preconditioner(self, kind: str, x: Tensor) -> Chain:
        """Bijection fitted to rows, which begins with their bounds if there are any."""
        if not self._supports.bounds:
            return fit_preconditioner(x, kind, self.reg_covar)
        bounded = Bounded(x, self._supports.bounds)
        rest = fit_preconditioner(bounded(x)[0], kind, self.reg_covar).bijections
        return Chain(bounded, *cast(Iterable[Bijection], rest))

    def _defended(
        self,
        densities: Sequence[Preconditioned],
        gaussian: Density,
        split: tuple[Tensor, Tensor | None],
        seed: int,
    ) -> Mixture:
        """Mix the first of the densities with simple ones, and with those trained beside it.

        The weights are found by EM on the held-out rows. Before any row is seen, one counts for
        each density but the two Gaussians.
        """
        (density, *others), (x_train, x_held), floor = densities, split, self._floor
        if not floor:
            return Mixture([density], [1.0])
        d = density.n_features
        normal = StandardNormal(d).to(x_train.device)
        some = x_train[:: -(-len(x_train) // MAX_MIXTURE_ROWS)]  # spread: the rows may be sorted
        z, conditions = density.precondition(some)[0].split([d, x_train.shape[1] - d], dim=1)
        start = fit_categories(z, conditions, normal, max(self.reg_covar, 1e-9))
        bijection, fit = density.bijection, fit_sized_mixtures
        if n_distinct(z) <= FEW_ROWS and x_held is not None:
            # Not behind Gaussianised columns: they would carry its tails far beyond all rows.
            bijection, fit = self._preconditioner("standardize", some[:, :d]), fit_stacked_mixtures
            z = bijection(some[:, :d])[0]
        fit_or_less = partial(self._fit_mixture, fit, seed)
        mixture = Preconditioned(bijection, fit_residual(z, conditions, fit_or_less), d)
        start = Preconditioned(density.bijection, start, d)
        components, weights = [density, mixture, start, gaussian, *others], [floor] * N_DEFENDED
        weights[0] = 1 - 3 * floor
        if x_held is not None:
            prior = np.ones(len(components))
            prior[2:4] = 0.0
            weights = _weights(components, x_held, floor, prior).tolist()
        return Mixture(components, weights)

    def _fit_mixture(
        self, fit: Callable[[int, Tensor], NormalMixture], seed: int, z: Tensor
    ) -> NormalMixture:
        """Gaussian mixture of rows, or after Ctrl-C one Gaussian, so that the training is kept."""
        try:
            return fit(seed, z)
        except KeyboardInterrupt:
            self.interrupted_ = True
            warnings.warn(
                "The fit was interrupted after the training; one Gaussian takes the place of the "
                "Gaussian mixtures beside the model.",
                TrainingWarning,
                stacklevel=2,
            )
            return fit_gaussian_mixture(seed, 1, z)

    @property
    def _mixture(self) -> Mixture:
        """The trained density with its defence, of rows on the line."""
        module = self.module_
        return cast(Mixture, module.model if isinstance(module, Folded) else module)

    @property
    def _density(self) -> Preconditioned:
        """The trained density without its defence."""
        return cast(Preconditioned, self._mixture.components[0])

    @property
    def _others(self) -> list[Preconditioned]:
        """Densities trained beside it, behind other preconditioners."""
        return cast(list[Preconditioned], list(self._mixture.components[N_DEFENDED:]))

    def _leave_others(self) -> None:
        """Give their weights to the trained density."""
        weights = self._mixture.weights.tolist()
        weights[0] += sum(weights[N_DEFENDED:])
        components = cast(list[Density], list(self._mixture.components))
        mixture = Mixture(components[:N_DEFENDED], weights[:N_DEFENDED])
        if isinstance(self.module_, Folded):
            self.module_.model = mixture
        else:
            self.module_ = mixture

    def _of_rows(self, density: Density) -> Density:
        """A density of rows on the line as one of rows as they are."""
        module = self.module_
        return Folded(module.folding, density) if isinstance(module, Folded) else density

    def _unfold(self, x: Tensor) -> Tensor:
        """Rows on the line."""
        return self.module_.folding.unfold(x) if isinstance(self.module_, Folded) else x

    def _turned(self, x: Tensor) -> Tensor:
        """Positions on the line, those on circles turned to where the rows were on it."""
        if not isinstance(self.module_, Folded):
            return x
        folding = self.module_.folding
        return folding.unfold(x, torch.zeros_like(folding.discrete))

    def _fold(self, x: Tensor) -> Tensor:
        """Rows from the line."""
        return self.module_.folding.fold(x) if isinstance(self.module_, Folded) else x


def with_more(
    mixture: Mixture, more: Sequence[tuple[Sequence[Preconditioned], Tensor]], floor: float
) -> Mixture:
    """Share the weight of what was trained with what was on other splits, each as much.

    That of each further split is shared among its densities by EM on the rows it held out. Before
    any is seen, one counts for each density.
    """
    weights, n = mixture.weights.cpu().numpy(), 1 + len(more)
    trained = np.ones(len(weights), dtype=bool)
    trained[1:N_DEFENDED] = False
    components = list(cast(Iterable[Density], mixture.components))
    parts = [np.where(trained, weights / n, weights)]
    for densities, x_held in more:
        components += densities
        parts.append(weights[trained].sum() / n * _weights(densities, x_held, floor, 1.0))
    return Mixture(components, np.concatenate(parts).tolist())


def _weights(
    components: Sequence[Density], x_held: Tensor, floor: float, prior: np.ndarray | float
) -> np.ndarray:
    """Most likely weights of densities on held-out rows."""
    with torch.no_grad():
        every = Mixture(components, [1.0] * len(components)).component_log_probs(x_held)
    return mixture_weights(every.cpu().numpy(), None, floor, prior)
