"""What the estimators trained by gradient steps share: hold-out, preconditioning, defence."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from tqdm import tqdm

from .base import BaseDensity, as_frequencies, refuse_constant_columns
from .completion import CompletingDensity
from .core.activations import ACTIVATIONS
from .core.bijections import Chain
from .core.conditional import fit_categories, fit_residual
from .core.gaussian import (
    Gaussian,
    StandardNormal,
    column_moments,
    fit_gaussian,
    standard_normal_log_prob,
)
from .core.interfaces import Bijection, Density, Trainable, Transport
from .core.marginals import fit_preconditioner
from .core.models import Mixture, Preconditioned
from .core.supports import Bounded, Folded, Folding
from .core.training import History, Plan, Trainer
from .mixing import mixture_weights
from .supports import Supports, check_supported, declared_supports

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""


MAX_HELD_OUT = 2000  # rows; more would cost time and training rows, and choose no better
MAX_SPREAD = 100_000  # rows that copies of rows with whole numbers may add up to
MAX_MIXTURE_ROWS = 20_000  # for the Gaussian mixture, which no longer gains from more


class TrainedDensity(CallbackSupportMixin, CompletingDensity):
    """Base of the densities trained by gradient steps.

    A subclass builds its model in `_build_model`. The fitted density is a defensive mixture: the
    model behind its preconditioner; behind the same, a Gaussian mixture and the Gaussian that the
    model started as; and a Gaussian fitted to all rows in their own units.
    """

    _parameter_constraints: dict = {
        **BaseDensity._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "preconditioning": [StrOptions({"auto", "standardize", "gaussianize"})],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "defensive_weight": [Interval(Real, 0, 0.25, closed="left")],
        "bounds": [Mapping, None],
        "periodic": [Mapping, None],
        "discrete": ["array-like", None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _build_model(self, z: Tensor, generator: torch.Generator) -> Trainable:
        """Make an untrained model of whitened rows; weights from a generator on the CPU."""

    _supports: Supports  # read in `fit`
    _auto_max_iter: tuple[int, int]  # for up to three features, for more
    _probe_steps: int  # after which "auto" keeps the better preconditioning, or a third of all

    def _hidden_layer_sizes(self) -> tuple[int, ...]:
        sizes = tuple(self.hidden_layer_sizes)
        if not sizes or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
            raise ValueError(
                f"hidden_layer_sizes must hold positive ints, got {self.hidden_layer_sizes!r}."
            )
        return tuple(int(size) for size in sizes)

    def _fit_model(
        self, x: Tensor, sample_weight: Tensor | None, generator: torch.Generator
    ) -> Density:
        x = self._checked(x, sample_weight)
        folding = self._folding(x, generator.initial_seed())
        x_train, x_held = self._hold_out(x, generator)
        if folding is not None:
            x_train = folding.spread(x_train, MAX_SPREAD, generator)
            x_held = x_held if x_held is None else folding.spread(x_held, MAX_HELD_OUT, generator)
            x = x_train if x_held is None else torch.cat([x_train, x_held])
        gaussian = self._gaussian(x)
        candidates = self._candidates(x_train, generator)
        plan = self._plan(self.n_features_in_)
        n_rounds = math.ceil(min(self._probe_steps, plan.max_iter / 3) / plan.round_length)
        probe = n_rounds * plan.round_length if len(candidates) > 1 else 0
        bar = tqdm(total=plan.max_iter + probe, disable=not self.verbose)
        with bar, _callbacks(self) as on_round:
            trainers = {
                kind: self._trainer(
                    kind, density, gaussian, x_train, x_held, plan, generator, bar, on_round
                )
                for kind, density in candidates.items()
            }
            for trainer in trainers.values():
                trainer.run(until=probe)
                if trainer.history.interrupted:
                    break
            kind = max(trainers, key=lambda kind: trainers[kind].history.best_score)
            if not any(trainer.history.interrupted for trainer in trainers.values()):
                trainers[kind].run()
        history = trainers[kind].finish()
        self.preconditioning_ = kind
        self.n_iter_, self.loss_curve_ = history.n_iter, history.losses
        self.validation_scores_ = history.scores if self.early_stopping else None
        self.best_validation_score_ = history.best_score if self.early_stopping else None
        self._warn_unless_converged(history)
        seed = generator.initial_seed()
        mixture = self._defended(candidates[kind], gaussian, x_train, x_held, seed)
        return mixture if folding is None else Folded(folding, mixture)

    def _checked(self, x: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Rows in order and as often as they weigh, if they vary and are as declared."""
        d = self.n_features_in_
        _, variance = column_moments(x[:, :d])
        refuse_constant_columns(self, (variance <= 0).nonzero()[:, 0].tolist())
        supports = declared_supports(self)
        if self.warm_start and hasattr(self, "module_"):
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
        weight = None if sample_weight is None else sample_weight.cpu().numpy()
        return x[as_frequencies(x.cpu().numpy(), weight)]

    def _folding(self, x: Tensor, seed: int) -> Folding | None:
        """How rows come to lie on the line, or None where they do."""
        if not self._supports.circles and not self._supports.discrete:
            return None
        if self.warm_start and hasattr(self, "module_"):
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

    def _plan(self, n_features: int) -> Plan:
        """Settings of the training.

        With few features the data tell the density more exactly than the gradients that suffice
        for more can follow.
        """
        few, more = self._auto_max_iter
        max_iter = (few if n_features <= 3 else more) if self.max_iter == "auto" else self.max_iter
        return Plan(
            max_iter=max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_init,
            weight_decay=self.weight_decay,
            tol=self.tol,
            patience=self.n_iter_no_change,
            round_length=max(1, max_iter // 40),
        )

    def _hold_out(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Split the rows, in random order, into those trained on and those held out."""
        if not self.early_stopping:
            return x, None
        n_held = min(max(1, round(len(x) * self.validation_fraction)), MAX_HELD_OUT)
        if len(x) - n_held < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(x)} rows leaves "
                f"{len(x) - n_held} to train on; 2 are needed. Reduce it or set "
                "early_stopping=False."
            )
        order = torch.randperm(len(x), generator=generator, device=x.device)
        return x[order[n_held:]], x[order[:n_held]]

    def _candidates(self, x: Tensor, generator: torch.Generator) -> dict[str, Preconditioned]:
        """Untrained models behind their fitted preconditioners, or the fitted one to continue."""
        if self.warm_start and hasattr(self, "module_"):
            return {self.preconditioning_: copy.deepcopy(self._density).to(x.device)}
        kinds = [self.preconditioning]
        if self.preconditioning == "auto":
            # Without held-out rows there is nothing to choose by.
            kinds = ["standardize", "gaussianize"] if self.early_stopping else ["gaussianize"]
        return {kind: self._candidate(kind, x, generator.initial_seed()) for kind in kinds}

    def _candidate(self, kind: str, x: Tensor, seed: int) -> Preconditioned:
        # Its own generator: "auto" gives the same model as the kind it chooses does by itself.
        x = x[:, : self.n_features_in_]
        bijection = self._preconditioner(kind, x)
        model = self._build_model(bijection(x)[0], torch.Generator().manual_seed(seed))
        return Preconditioned(bijection, model.to(x.device), x.shape[1])

    def _trainer(
        self,
        kind: str,
        density: Preconditioned,
        gaussian: Density,
        x_train: Tensor,
        x_held: Tensor | None,
        plan: Plan,
        generator: torch.Generator,
        bar: tqdm,
        on_round: Callable[[], bool] | None,
    ) -> Trainer:
        """Set up the training of one candidate on preconditioned float32 rows."""
        device, model = torch.device(self.device_), cast(Trainable, density.model).to(self.device_)
        z_train = density.precondition(x_train)[0].to(device, torch.float32)
        validate = None
        if x_held is not None:
            z, log_det = density.precondition(x_held)
            start = standard_normal_log_prob(z[:, : density.n_features]) + log_det
            defence = torch.stack([start, gaussian.log_prob(x_held)])
            defence = defence + math.log(max(self.defensive_weight, 1e-6))
            z = z.to(device, torch.float32)

            def validate() -> float:
                log_prob = model.log_prob_fast(z).to(log_det) + log_det
                log_prob = log_prob.nan_to_num(nan=-math.inf)
                return float(torch.cat([log_prob[None], defence]).logsumexp(0).mean())

        own = torch.Generator(device).manual_seed(generator.initial_seed())
        return Trainer(
            model, z_train, validate, plan, own, bar, kind, int(self.verbose) >= 2, on_round
        )

    def _warn_unless_converged(self, history: History) -> None:
        """Warn if the limit came while the held-out score was still rising."""
        if not self.early_stopping or history.stopped:
            return
        scores = np.maximum.accumulate(history.scores)
        late = len(scores) // 10 + 1
        if len(scores) <= late or scores[-1] - scores[-1 - late] > 0.1:
            warnings.warn(
                f"The held-out log-likelihood was still rising after {history.n_iter} gradient "
                "steps. Increase max_iter.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _defended(
        self,
        density: Preconditioned,
        gaussian: Density,
        x_train: Tensor,
        x_held: Tensor | None,
        seed: int,
    ) -> Mixture:
        """Mix the trained density with simple ones; weights by EM on the held-out rows."""
        density = density.to(x_train.device)
        floor = self.defensive_weight
        if not floor:
            return Mixture([density], [1.0])
        bijection, d = density.bijection, density.n_features
        normal = StandardNormal(d).to(x_train.device)
        some = x_train[:: -(-len(x_train) // MAX_MIXTURE_ROWS)]  # spread: the rows may be sorted
        z, conditions = density.precondition(some)[0].split([d, x_train.shape[1] - d], dim=1)
        simple = [
            fit_residual(z, conditions, lambda z: fit_gaussian_mixture(z, seed)),
            fit_categories(z, conditions, normal, max(self.reg_covar, 1e-9)),
        ]
        defence = [Preconditioned(bijection, model, d) for model in simple]
        mixture = Mixture([density, *defence, gaussian], [1 - 3 * floor, floor, floor, floor])
        if x_held is not None:
            with torch.no_grad():
                log_probs = mixture.component_log_probs(x_held).cpu().numpy()
            mixture.weights.copy_(torch.from_numpy(mixture_weights(log_probs, floor=floor)))
        return mixture

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
    def _undefended(self) -> Density:
        """The trained density without its defence, of rows as they are."""
        module = self.module_
        return (
            Folded(module.folding, self._density) if isinstance(module, Folded) else self._density
        )

    def _unfold(self, x: Tensor) -> Tensor:
        """Rows on the line."""
        return self.module_.folding.unfold(x) if isinstance(self.module_, Folded) else x

    def _fold(self, x: Tensor) -> Tensor:
        """Rows from the line."""
        return self.module_.folding.fold(x) if isinstance(self.module_, Folded) else x


class TrainedFlow(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedDensity):
    """Base of the densities that carry noise to data by an invertible map."""

    def transform(self, X: Any) -> np.ndarray:
        """Carry rows back along the flow to noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Distributed like the base, standard normal by default, if X follows the flow; in the
            dtype of X.
        """
        return self._transform(X)

    def _transform(self, X: Any, y: Any = None) -> np.ndarray:
        check_is_fitted(self)
        density, flow = self._density, self._flow[1]
        return self._by_chunks(
            X,
            lambda rows: flow.transport(density.precondition(self._unfold(rows))[0], to_data=False),
            y,
        )

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Carry noise along the flow to data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Noise, standard normal by default, to sample from the flow.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data.
        """
        return self._inverse_transform(X)

    def _inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        check_is_fitted(self)
        bijection, flow = self._flow
        return self._by_chunks(
            X, lambda rows: self._fold(bijection.inverse(flow.transport(rows, to_data=True))), y
        )

    @property
    def _flow(self) -> tuple[Bijection, Transport]:
        """The preconditioner and the flow, without the defence."""
        return self._density.bijection, cast(Transport, self._density.model)

    @property
    def mixture_weights_(self) -> np.ndarray:
        """Weights of the flow, a Gaussian mixture, the flow's start and a Gaussian."""
        return self._mixture.weights.cpu().numpy()

    @property
    def _n_features_out(self) -> int:
        return self.n_features_in_


def fit_gaussian_mixture(z: Tensor, seed: int) -> Mixture:
    """Gaussian mixture of preconditioned rows by EM: 16 components, or one for 20 rows."""
    n_components = max(1, min(16, len(z) // 20))
    fitted = GaussianMixture(
        n_components, reg_covar=1e-4, init_params="k-means++", random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any state of EM is a density
        fitted.fit(z.cpu().numpy())
    means = torch.from_numpy(fitted.means_).to(z)
    scales = torch.linalg.cholesky(torch.from_numpy(fitted.covariances_).to(z))
    components = [Gaussian(mean, scale) for mean, scale in zip(means, scales, strict=True)]
    return Mixture(components, fitted.weights_).to(z.device)


@contextmanager
def _callbacks(estimator: TrainedDensity) -> Iterator[Callable[[], bool] | None]:
    """Tell scikit-learn's callbacks, where there are any, of the fit and of each round."""
    if not hasattr(estimator, "_init_callback_context"):
        yield None
        return
    context = estimator._init_callback_context(max_subtasks=None)
    context.call_on_fit_task_begin(estimator=estimator)

    def on_round() -> bool:
        round_context = context.subcontext(task_name="round")
        round_context.call_on_fit_task_begin(estimator=estimator)
        return bool(round_context.call_on_fit_task_end(estimator=estimator))

    yield on_round
    context.call_on_fit_task_end(estimator=estimator)
