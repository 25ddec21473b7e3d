"""What the estimators trained by gradient steps share: trials and training."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import cast

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor
from tqdm import tqdm

from .core.activations import ACTIVATIONS
from .core.draws import FEW_FEATURES
from .core.gaussian import standard_normal_log_prob
from .core.interfaces import Density, Trainable
from .core.marginals import PRECONDITIONERS
from .core.models import Preconditioned
from .core.supports import Folded
from .core.training import History, Plan, Trainer
from .defended import with_more
from .gaussian_mixtures import FEW_ROWS, VERY_FEW_ROWS
from .held_out import HeldOutDensity, Split
from .race import Settings, Training, placed, race, take_parameters
from .rows import are_positive_ints
from .weights import n_distinct

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""


N_SPLITS = 4  # of very few rows
SHORTEST_ROUND = 25  # steps between two looks at the held-out rows


class TrainedDensity(CallbackSupportMixin, HeldOutDensity):
    """Base of the densities trained by gradient steps.

    A subclass builds its model in `_build_model`.
    """

    _parameter_constraints: dict = {
        **HeldOutDensity._parameter_constraints,
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_splits": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _build_model(self, z: Tensor, generator: torch.Generator, kind: str) -> Trainable:
        """Make an untrained model of rows behind a kind of preconditioning.

        Its weights come from the generator, on the CPU.
        """

    # Each for up to `FEW_FEATURES` and for more.
    _auto_max_iter: tuple[int, int]
    _probe_steps: tuple[int, int]  # before "auto" chooses a preconditioning, or a third of all
    # Nats by which Gaussianised columns, right from the start in their marginals, may lead then and
    # yet lose in the end.
    _early_lead = 0.0

    def _hidden_layer_sizes(self) -> tuple[int, ...]:
        sizes = tuple(self.hidden_layer_sizes)
        if not sizes or not are_positive_ints(sizes):
            raise ValueError(
                f"hidden_layer_sizes must hold positive ints, got {self.hidden_layer_sizes!r}."
            )
        return tuple(int(size) for size in sizes)

    def _fit_model(
        self, x: Tensor, sample_weight: Tensor | None, generator: torch.Generator
    ) -> Density:
        x, seed = self._checked(x, sample_weight), generator.initial_seed()
        folding = self._folding(x, seed)
        splits = self._hold_out(x, sample_weight is not None, generator, self._most_splits(x))
        n_rows = n_distinct(splits[0].kept)
        if folding is not None:
            splits = [split.spread(folding, generator) for split in splits]
            x = splits[0].rows
        gaussian, plan = self._gaussian(x), self._plan(n_rows)
        first, *more = self._train_each(splits, gaussian, plan, n_rows <= FEW_ROWS, generator)
        self.preconditioning_, self._fitted_params = first.kind, self._model_params()
        self.n_iter_, self.loss_curve_ = first.history.n_iter, first.history.losses
        self.validation_scores_ = first.history.scores if self.early_stopping else None
        self.best_validation_score_ = first.history.best_score if self.early_stopping else None
        self._warn_unless_converged(first.history)
        mixture = self._defended(first.densities, gaussian, first.split, seed)
        if more:
            held_out = [(each.densities, cast(Tensor, each.split.held)) for each in more]
            mixture = with_more(mixture, held_out, self._floor)
        return mixture if folding is None else Folded(folding, mixture)

    def _most_splits(self, x: Tensor) -> int:
        """Splits to train on: one where the model goes on, or is to stay alone."""
        if self.warm_start and self.n_splits not in ("auto", 1):
            raise ValueError(
                "warm_start=True goes on with the training of one split, got "
                f"n_splits={self.n_splits}. Set it to 1 or 'auto'."
            )
        if self.warm_start or not self._floor:
            return 1
        auto = N_SPLITS if n_distinct(x) <= VERY_FEW_ROWS else 1
        return auto if self.n_splits == "auto" else self.n_splits

    def _train_each(
        self,
        splits: Sequence[Split],
        gaussian: Density,
        plan: Plan,
        few: bool,
        generator: torch.Generator,
    ) -> list[Training]:
        """Train on each split; but the first, those that diverge or are cut short are left out."""
        probe_steps = min(self._by_features(self._probe_steps), plan.max_iter / 3)
        probe = math.ceil(probe_steps / plan.round_length) * plan.round_length
        first = plan.max_iter if few else probe
        n_steps = plan.max_iter + (len(self._kinds()) - 1) * first
        trainings: list[Training] = []
        bar = tqdm(total=len(splits) * n_steps, disable=not self.verbose)
        with bar, _callbacks(self) as on_round:
            for turn, split in enumerate(splits, 1):
                label = f"split {turn}, " if len(splits) > 1 else ""
                settings = Settings(gaussian, plan, few, first, generator, bar, label, on_round)
                try:
                    training = self._train(split, settings)
                except FloatingPointError:
                    if not trainings:
                        raise
                    continue
                self.interrupted_ = training.interrupted
                if training.ended and trainings:
                    break
                trainings.append(training)
                if training.ended:
                    break
        return trainings

    def _train(self, split: Split, settings: Settings) -> Training:
        """Train on one split: all candidates with few rows, else the one that is best soon.

        Few rows cannot tell the better preconditioning: both are kept.
        """
        candidates = self._candidates(split.kept, settings.generator)
        there = {kind: placed(each, self.device_) for kind, each in candidates.items()}
        trainers = {
            kind: self._trainer(kind, density, split, settings) for kind, density in there.items()
        }
        handicaps = {} if settings.few else {"gaussianize": self._early_lead}
        kind, *rest = race(trainers, settings.first, handicaps)
        trainers[kind].finish()
        others = [other for other in rest if settings.few and trainers[other].finish().scores]
        for name in (kind, *others):
            take_parameters(candidates[name].model, there[name].model)
        densities = [candidates[name].to(split.kept.device) for name in (kind, *others)]
        histories = {name: trainer.history for name, trainer in trainers.items()}
        return Training(split, kind, densities, histories)

    def _plan(self, n_rows: int = FEW_ROWS) -> Plan:
        """Settings of the training.

        With few features the data tell the density more exactly than the gradients that suffice
        for more can follow. Few rows are learnt by heart within a few hundred steps, so that rounds
        of as many would miss the best and wait too long after it.
        """
        auto = self.max_iter == "auto"
        max_iter = self._by_features(self._auto_max_iter) if auto else self.max_iter
        longest = max(1, max_iter // Plan.n_rounds)
        round_length = max(SHORTEST_ROUND, longest * n_rows // FEW_ROWS)
        return Plan(
            max_iter=max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_init,
            weight_decay=self.weight_decay,
            tol=self.tol,
            patience=self.n_iter_no_change,
            round_length=min(longest, round_length),
        )

    def _by_features(self, settings: tuple[int, int]) -> int:
        few, more = settings
        return few if self.n_features_in_ <= FEW_FEATURES else more

    def _candidates(self, x: Tensor, generator: torch.Generator) -> dict[str, Preconditioned]:
        """Untrained models behind their fitted preconditioners, or the fitted one to continue."""
        if self._continues:
            fitted = zip(self._kinds(), [self._density, *self._others], strict=False)
            return {kind: copy.deepcopy(density).to(x.device) for kind, density in fitted}
        seed = generator.initial_seed()
        return {kind: self._candidate(kind, x, seed) for kind in self._kinds()}

    def _kinds(self) -> list[str]:
        """Preconditionings to try, or those to continue with."""
        if self._continues:
            kinds = sorted(PRECONDITIONERS, key=lambda kind: kind != self.preconditioning_)
            return kinds[: 1 + len(self._others)]
        if self.preconditioning != "auto":
            return [self.preconditioning]
        # Without held-out rows there is nothing to choose by.
        return PRECONDITIONERS if self.early_stopping else PRECONDITIONERS[1:]

    def _candidate(self, kind: str, x: Tensor, seed: int) -> Preconditioned:
        # Its own generator: "auto" gives the same model as the kind it chooses does by itself.
        x = x[:, : self.n_features_in_]
        bijection = self._preconditioner(kind, x)
        model = self._build_model(bijection(x)[0], torch.Generator().manual_seed(seed), kind)
        return Preconditioned(bijection, model.to(x.device), x.shape[1])

    def _trainer(
        self, kind: str, density: Preconditioned, split: Split, settings: Settings
    ) -> Trainer:
        """Set up the training of one candidate on preconditioned float32 rows."""
        device, model = torch.device(self.device_), cast(Trainable, density.model)
        z_train = density.precondition(split.kept)[0].to(device, torch.float32)
        seed, validate = settings.generator.initial_seed(), None
        if split.held is not None:
            validate = self._validation(density, settings.gaussian, split.held, seed)
        return Trainer(
            model,
            z_train,
            validate,
            settings.plan,
            torch.Generator(device).manual_seed(seed),
            settings.bar,
            settings.label + kind,
            int(self.verbose) >= 2,
            settings.on_round,
        )

    def _validation(
        self, density: Preconditioned, gaussian: Density, x_held: Tensor, seed: int
    ) -> Callable[[], float]:
        """Score of the model on held-out rows: their mean log-density, defended."""
        model, (z, log_det) = cast(Trainable, density.model), density.precondition(x_held)
        start = standard_normal_log_prob(z[:, : density.n_features]) + log_det
        defence = torch.stack([start, gaussian.log_prob(x_held)])
        defence = defence + math.log(max(self.defensive_weight, 1e-6))
        z = z.to(self.device_, torch.float32)

        def validate() -> float:
            log_prob = model.log_prob_fast(z).to(log_det) + log_det
            log_prob = log_prob.nan_to_num(nan=-math.inf)
            return float(torch.cat([log_prob[None], defence]).logsumexp(0).mean())

        return validate

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
