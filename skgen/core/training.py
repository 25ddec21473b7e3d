"""The training loop every model shares: averaging, early stopping, rollback, interruption."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from .interfaces import Trainable
from .optimiser import FlatParameters, Optimiser


class TrainingWarning(UserWarning):
    """Training met a numerical problem, or was interrupted, and recovered."""


@dataclass(frozen=True)
class Plan:
    """Settings of a training run.

    Parameters
    ----------
    max_iter : int
        Gradient steps of the whole one-cycle schedule.
    batch_size : int
        Rows a step.
    learning_rate : float
        Peak of the schedule.
    weight_decay : float
        Decoupled weight decay.
    tol : float
        Least gain of the held-out score (nats) that counts as progress.
    patience : int
        Rounds without progress after which training stops.
    round_length : int
        Gradient steps between two evaluations.
    accumulation : int
        Batches whose mean gradient a step takes.
    """

    max_iter: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    tol: float
    patience: int
    round_length: int
    accumulation: int = 1

    n_rounds: ClassVar[int] = 40  # of a training with many rows
    warm_up: ClassVar[float] = 0.06
    # Of a cosine from the peak to 0. Steps of less than a twentieth of the peak learn little; the
    # noise of larger ones averages out of the weights.
    share_of_cosine: ClassVar[float] = 0.85
    ema_decay: ClassVar[float] = 0.999
    max_rollbacks: ClassVar[int] = 3


@dataclass
class History:
    """What a run leaves behind: mean loss and held-out score (nats) of each round."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    n_iter: int = 0
    best_score: float = -math.inf
    stopped: bool = False
    ended: bool = False  # from outside: by Ctrl-C or a callback
    interrupted: bool = False  # by Ctrl-C


class Trainer:
    """Trains a model with a one-cycle learning rate and averaged weights.

    It can be run in parts; `finish` leaves the best weights in the model.

    Parameters
    ----------
    model : Trainable
    rows : tensor of shape (n, d)
        Training rows.
    validate : callable or None
        Returns the held-out score (higher is better) of the model as it stands; None trains
        to the end of the schedule.
    plan : Plan
    generator : torch.Generator
        On the device of the rows.
    bar : tqdm
        Progress bar to advance.
    label : str
        What the bar calls the run.
    log : bool
        Whether to print a line above the bar after each round.
    on_round : callable, optional
        Called after each round; a true result stops the training.
    """

    def __init__(
        self,
        model: Trainable,
        rows: Tensor,
        validate: Callable[[], float] | None,
        plan: Plan,
        generator: torch.Generator,
        bar: tqdm,
        label: str = "fit",
        log: bool = False,
        on_round: Callable[[], bool] | None = None,
    ) -> None:
        self.model, self.rows, self.validate, self.plan = model, rows, validate, plan
        self.generator, self.on_round = generator, on_round
        self.bar, self.label, self.log = bar, label, log
        self.history = History()
        self.flat = FlatParameters(model, model.matrices())
        self.average = self.flat.values.clone()
        self.best, self.good = self.average.clone(), self.average.clone()
        self._rate, self._rollbacks, self._waited, self._good_step = plan.learning_rate, 0, 0, 0
        size = min(plan.batch_size, len(rows))
        self._batches = iter(model.batches(rows, size, generator))
        self._optimiser = Optimiser(self.flat, plan.weight_decay)

    def run(self, until: int | None = None) -> None:
        """Train up to step ``until`` of the schedule, or to its end, or until stopped."""
        until = self.plan.max_iter if until is None else min(until, self.plan.max_iter)
        history = self.history
        self.bar.set_description(self.label)
        try:
            while history.n_iter < until and not history.stopped:
                loss = self._round(min(self.plan.round_length, until - history.n_iter))
                if math.isfinite(loss):
                    self._end_round(loss)
                else:
                    self._roll_back()
        except KeyboardInterrupt:
            history.interrupted = history.ended = history.stopped = True
            warnings.warn(
                f"Training was interrupted after {history.n_iter} of {self.plan.max_iter} steps; "
                "the model holds the best weights so far.",
                TrainingWarning,
                stacklevel=2,
            )

    def finish(self) -> History:
        """Leave the best weights in the model and return the history."""
        self.flat.values.copy_(self.best)
        for p in self.model.parameters():
            p.grad = None
            p.data = p.data.clone()  # a view would be pickled with the whole vector
        return self.history

    def _learning_rate(self, step: int) -> float:
        progress = step / self.plan.max_iter
        if progress < self.plan.warm_up:
            return self._rate * (0.04 + 0.96 * progress / self.plan.warm_up)
        progress = (progress - self.plan.warm_up) / (1 - self.plan.warm_up)
        return self._rate * 0.5 * (1 + math.cos(math.pi * self.plan.share_of_cosine * progress))

    def _step(self) -> Tensor:
        step, n = self.history.n_iter, self.plan.accumulation
        self.flat.gradient.zero_()
        batches = itertools.islice(self._batches, n)
        losses = [self.model.add_gradient(b, self.generator, 1 / n) for b in batches]
        self._optimiser.step(self._learning_rate(step))
        decay = min(self.plan.ema_decay, (1 + step) / (10 + step))
        self.average.lerp_(self.flat.values, 1 - decay)
        self.history.n_iter += 1
        return losses[0] if n == 1 else torch.stack(losses).mean()

    def _round(self, n_steps: int) -> float:
        total = self.flat.values.new_zeros(())
        for _ in range(n_steps):
            total += self._step()
            self.bar.update()
        return float(total) / n_steps

    def _end_round(self, loss: float) -> None:
        history = self.history
        history.losses.append(loss)
        self.good.copy_(self.average)
        self._good_step = history.n_iter
        message = {"loss": f"{loss:.4f}"}
        if self.validate is None:
            self.best.copy_(self.average)
        else:
            score = self._validate()
            message["held-out nats"] = f"{score:.4f}"
            progress = score > history.best_score + self.plan.tol
            self._waited = 0 if progress else self._waited + 1
            if score > history.best_score:
                history.best_score = score
                self.best.copy_(self.average)
            history.scores.append(score)
            history.stopped = self._waited >= self.plan.patience
        self.bar.set_postfix(message)
        if self.log:
            text = ", ".join(f"{name} {value}" for name, value in message.items())
            self.bar.write(f"{self.label}: step {history.n_iter}, {text}", file=sys.stderr)
        if self.on_round is not None and self.on_round():
            history.ended = history.stopped = True

    def _validate(self) -> float:
        assert self.validate is not None
        current = self.flat.values.clone()
        self.flat.values.copy_(self.average)
        score = self.validate()
        self.flat.values.copy_(current)
        return score

    def _roll_back(self) -> None:
        """Return to the end of the last good round with half the learning rate."""
        self._rollbacks += 1
        if self._rollbacks > self.plan.max_rollbacks:
            raise FloatingPointError(
                f"The training loss became infinite or NaN {self._rollbacks} times, the last time "
                f"at a learning rate of {self._rate:g}. Reduce learning_rate_init, or look for "
                "extreme values in X."
            )
        self.bar.update(self._good_step - self.history.n_iter)
        self.history.n_iter = self._good_step
        self.flat.values.copy_(self.good)
        self.average.copy_(self.good)
        self._rate /= 2
        self._optimiser = Optimiser(self.flat, self.plan.weight_decay)
        warnings.warn(
            f"The training loss became infinite or NaN; going back to step {self.history.n_iter} "
            f"with the learning rate halved to {self._rate:g}.",
            TrainingWarning,
            stacklevel=3,
        )
