"""What the estimators trained by gradient steps share: trials and training."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
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
from .core.interfaces import Density, Trainable, has_double
from .core.marginals import PRECONDITIONERS
from .core.models import Preconditioned
from .core.supports import Folded
from .core.training import History, Plan, Trainer
from .gaussian_mixtures import FEW_ROWS
from .held_out import MAX_HELD_OUT, HeldOutDensity
from .rows import are_positive_ints
from .weights import n_distinct

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""


SHORTEST_ROUND = 25  # steps between two looks at the held-out rows
MAX_SPREAD = 100_000  # rows that copies of rows with whole numbers may add up to


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
        x = self._checked(x, sample_weight)
        folding = self._folding(x, generator.initial_seed())
        x_train, x_held = self._hold_out(x, sample_weight is not None, generator)
        n_rows = n_distinct(x_train)
        few = n_rows <= FEW_ROWS  # to tell the better preconditioning: both are kept
        if folding is not None:
            x_train = folding.spread(x_train, MAX_SPREAD, generator)
            x_held = x_held if x_held is None else folding.spread(x_held, MAX_HELD_OUT, generator)
            x = x_train if x_held is None else torch.cat([x_train, x_held])
        gaussian = self._gaussian(x)
        candidates = self._candidates(x_train, generator)
        placed = {kind: _placed(each, self.device_) for kind, each in candidates.items()}
        plan = self._plan(n_rows)
        probe_steps = min(self._by_features(self._probe_steps), plan.max_iter / 3)
        n_rounds = math.ceil(probe_steps / plan.round_length)
        probe = n_rounds * plan.round_length if len(candidates) > 1 else 0
        first = plan.max_iter if few else probe
        n_steps = len(candidates) * plan.max_iter if few else probe + plan.max_iter
        bar = tqdm(total=n_steps, disable=not self.verbose)
        with bar, _callbacks(self) as on_round:
            trainers = {
                kind: self._trainer(
                    kind, density, gaussian, x_train, x_held, plan, generator, bar, on_round
                )
                for kind, density in placed.items()
            }
            handicaps = {} if few else {"gaussianize": self._early_lead}
            kind, *rest = _race(trainers, first, handicaps)
        history = trainers[kind].finish()
        self.preconditioning_, self._fitted_params = kind, self._model_params()
        others = [other for other in rest if few and trainers[other].finish().scores]
        for name in (kind, *others):
            _take_parameters(candidates[name].model, placed[name].model)
        self.interrupted_ = any(trainer.history.interrupted for trainer in trainers.values())
        self.n_iter_, self.loss_curve_ = history.n_iter, history.losses
        self.validation_scores_ = history.scores if self.early_stopping else None
        self.best_validation_score_ = history.best_score if self.early_stopping else None
        self._warn_unless_converged(history)
        seed = generator.initial_seed()
        mixture = self._defended(
            candidates[kind], gaussian, x_train, x_held, seed, [candidates[k] for k in others]
        )
        return mixture if folding is None else Folded(folding, mixture)

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
            kinds = sorted(PRECONDITIONERS, key=lambda kind: kind != self.preconditioning_)
            fitted = [self._density, *self._others]
            return {k: copy.deepcopy(d).to(x.device) for k, d in zip(kinds, fitted, strict=False)}
        seed = generator.initial_seed()
        return {kind: self._candidate(kind, x, seed) for kind in self._kinds()}

    def _kinds(self) -> list[str]:
        """Preconditionings to try."""
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
        device, model = torch.device(self.device_), cast(Trainable, density.model)
        z_train = density.precondition(x_train)[0].to(device, torch.float32)
        seed, validate = generator.initial_seed(), None
        if x_held is not None:
            validate = self._validation(density, gaussian, x_held, seed)
        own = torch.Generator(device).manual_seed(seed)
        return Trainer(
            model, z_train, validate, plan, own, bar, kind, int(self.verbose) >= 2, on_round
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


def _placed(density: Preconditioned, device: str) -> Preconditioned:
    """The density with its model on a device: a copy of it where there is no double precision."""
    if has_double(torch.device(device)):
        density.model.to(device)
        return density
    model = copy.deepcopy(density.model).to(device, torch.float32)
    return Preconditioned(density.bijection, model, density.n_features)


@torch.no_grad()
def _take_parameters(model: Density, trained: Density) -> None:
    """Give a model the parameters of another, which may be itself."""
    for mine, found in zip(model.parameters(), trained.parameters(), strict=True):
        mine.copy_(found)


def _race(trainers: dict[str, Trainer], first: int, handicaps: dict[str, float]) -> list[str]:
    """Train all up to step ``first``, and then the best to its end; their names, best first.

    Handicaps, in nats, are taken off the scores. One that diverges for good is left out if there
    are others.
    """

    def score(name: str) -> float:
        return trainers[name].history.best_score - handicaps.get(name, 0.0)

    for name, trainer in list(trainers.items()):
        try:
            trainer.run(until=first)
        except FloatingPointError:
            if len(trainers) == 1:
                raise
            del trainers[name]
        if trainer.history.ended:
            break
    names = sorted(trainers, key=score, reverse=True)
    if not any(trainer.history.ended for trainer in trainers.values()):
        trainers[names[0]].run()
    return names


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
