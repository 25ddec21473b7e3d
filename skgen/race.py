"""Candidates trained on a split of the rows, of which the better ones are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from .core.interfaces import Density, has_double
from .core.models import Preconditioned
from .core.training import History, Plan, Trainer
from .held_out import Split


@dataclass(frozen=True)
class Settings:
    """What the trainings on a split share."""

    gaussian: Density
    plan: Plan
    few: bool  # rows, so that all candidates are trained to their end
    first: int  # steps of each candidate before one goes on
    generator: torch.Generator
    bar: tqdm
    label: str
    on_round: Callable[[], bool] | None


@dataclass(frozen=True)
class Training:
    """What was trained on a split, best first, and the history of every candidate."""

    split: Split
    kind: str
    densities: list[Preconditioned]
    histories: dict[str, History]

    @property
    def history(self) -> History:
        return self.histories[self.kind]

    @property
    def ended(self) -> bool:
        return any(history.ended for history in self.histories.values())

    @property
    def interrupted(self) -> bool:
        return any(history.interrupted for history in self.histories.values())


def placed(density: Preconditioned, device: str) -> Preconditioned:
    """The density with its model on a device: a copy of it where there is no double precision."""
    if has_double(torch.device(device)):
        density.model.to(device)
        return density
    model = copy.deepcopy(density.model).to(device, torch.float32)
    return Preconditioned(density.bijection, model, density.n_features)


@torch.no_grad()
def take_parameters(model: Density, trained: Density) -> None:
    """Give a model the parameters of another, which may be itself."""
    for mine, found in zip(model.parameters(), trained.parameters(), strict=True):
        mine.copy_(found)


def race(trainers: dict[str, Trainer], first: int, handicaps: dict[str, float]) -> list[str]:
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
