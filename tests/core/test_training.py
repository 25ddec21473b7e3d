import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from tqdm import tqdm

from skgen.core.interfaces import Trainable
from skgen.core.training import Plan, Trainer, TrainingWarning


class Quadratic(Trainable):
    """``loss = |w - mean of the batch|^2``, so the best w is the mean of the rows."""

    log_prob = sample = None  # not needed to train

    def __init__(self, start=(0.0, 0.0)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))
        self.sizes = []

    def loss(self, x, generator):
        self.sizes.append(len(x))
        return (self.w - x.mean(0)).square().sum()


ROWS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -2.0])


def trainer(model, validate=None, rows=ROWS, **changes):
    settings = {
        "max_iter": 600, "batch_size": 64, "learning_rate": 0.05, "weight_decay": 0.0,
        "tol": 0.0, "patience": 10**6, "round_length": 10,
    }  # fmt: skip
    on_round = changes.pop("on_round", None)
    plan = Plan(**{**settings, **changes})
    generator = torch.Generator().manual_seed(0)
    bar = tqdm(disable=True)
    return Trainer(model, rows, validate, plan, generator, bar, on_round=on_round)


def test_finds_the_minimum():
    model = Quadratic()
    run = trainer(model)
    run.run()
    history = run.finish()
    assert_close(model.w.detach(), ROWS.mean(0), atol=1e-3, rtol=0)
    assert history.n_iter == 600 and len(history.losses) == 60 and history.scores == []
    assert history.losses[-1] < 1e-4 < history.losses[0]
    assert model.w.grad is None


def test_best_weights_are_restored():
    model, seen = Quadratic(), []

    def validate():  # best half-way
        seen.append(model.w.detach().clone())
        return -float((model.w - torch.tensor([0.5, -1.0])).square().sum())

    run = trainer(model, validate)
    run.run()
    history = run.finish()
    best = max(range(60), key=lambda k: history.scores[k])
    assert 0 < best < 59
    assert torch.equal(model.w.detach(), seen[best])
    assert history.best_score == history.scores[best] == pytest.approx(validate())


def test_stops_after_rounds_without_progress():
    scores = iter([0.0, 1.0, 1.05, 1.1, 1.15, 9.0])
    run = trainer(Quadratic(), lambda: next(scores), tol=0.2, patience=3)
    run.run()
    assert run.history.scores == [0.0, 1.0, 1.05, 1.1, 1.15]
    assert run.history.stopped and run.history.best_score == 1.15


def test_running_in_parts_equals_running_at_once():
    models = [Quadratic(), Quadratic()]
    whole, parts = [trainer(model, batch_size=16) for model in models]
    whole.run()
    for until in (100, 350, 600):
        parts.run(until)
        assert parts.history.n_iter == until
    assert whole.finish().losses == parts.finish().losses
    assert torch.equal(models[0].w, models[1].w)


@pytest.mark.parametrize(
    "n_rows, batch_size, sizes", [(64, 16, {16}), (50, 16, {16}), (5, 16, {5})]
)
def test_batches_cover_the_rows(n_rows, batch_size, sizes):
    rows = torch.arange(2.0 * n_rows).view(n_rows, 2)
    run = trainer(Quadratic(), rows=rows, batch_size=batch_size)
    batches = [next(run._batches) for _ in range(n_rows // min(batch_size, n_rows))]
    assert {len(batch) for batch in batches} == sizes
    assert len(torch.cat(batches).unique(dim=0)) == len(batches) * sizes.pop()  # none twice


def test_average_starts_fast_and_lags():
    model = Quadratic()
    run = trainer(model, round_length=1)
    averages, current = [], torch.zeros(2)
    for step in range(5):
        run.run(step + 1)
        decay = (1 + step) / (10 + step)
        current = decay * current + (1 - decay) * run.flat.values
        averages.append(current.clone())
        assert_close(run.average, averages[-1])


def test_learning_rate_warms_up_and_falls_to_a_twentieth():
    run = trainer(Quadratic())
    rates = [run._learning_rate(step) for step in range(600)]
    peak = rates.index(max(rates))
    assert peak == 36 and rates[peak] == pytest.approx(0.05) and rates[0] < 0.05 / 20
    assert sorted(rates[:37]) == rates[:37] and sorted(rates[36:])[::-1] == rates[36:]
    assert rates[-1] == pytest.approx(0.05 / 20, rel=0.15)


def test_gradient_is_clipped():
    model = Quadratic(start=(1e6, -1e6))
    run = trainer(model)
    run._step()
    assert float(torch.linalg.vector_norm(run.flat.gradient)) == pytest.approx(1, abs=1e-4)


def test_accumulated_batches_are_one_larger_batch():
    class Mean(Quadratic):
        """``loss = mean |w - x|^2``."""

        def loss(self, x, generator):
            self.sizes.append(len(x))
            return (self.w - x).square().sum(1).mean()

    rows = torch.cat([ROWS, 2 * ROWS])
    found = {}
    for size, accumulation in ((32, 1), (32, 2), (64, 1)):
        model = Mean()
        run = trainer(model, rows=rows, batch_size=size, accumulation=accumulation, max_iter=40)
        run.run()
        history = run.finish()
        assert history.n_iter == 40 and model.sizes == [size] * (40 * accumulation)
        found[size, accumulation] = model.w.detach(), torch.tensor(history.losses)
    assert_close(found[32, 2], found[64, 1])
    assert not torch.allclose(found[32, 1][0], found[64, 1][0])


def test_rollback_returns_to_the_last_good_round():
    class Fragile(Quadratic):
        def loss(self, x, generator):
            loss = super().loss(x, generator)
            return loss * math.nan if len(self.sizes) == 25 else loss

    model = Fragile()
    run = trainer(model)
    with pytest.warns(TrainingWarning, match="going back to step 20 .* halved to 0.025"):
        run.run()
    assert run.finish().n_iter == 600 and len(model.sizes) == 610
    assert_close(model.w.detach(), ROWS.mean(0), atol=1e-3, rtol=0)


def test_on_round_can_stop():
    calls = []
    run = trainer(Quadratic(), on_round=lambda *_: calls.append(1) or len(calls) == 3)
    run.run()
    run.run()
    assert run.history.n_iter == 30 and len(calls) == 3
