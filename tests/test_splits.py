"""Densities of several splits of the rows, each with other rows held out."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skgen import trained
from skgen.core.gaussian import Gaussian
from skgen.core.models import Mixture
from skgen.core.training import Trainer
from skgen.defended import with_more
from skgen.mixing import mixture_weights

from .conftest import N_SPLITS
from .estimators import (
    ESTIMATORS,
    cheap_coupling,
    cheap_diffusion,
    cheap_flow,
    two_clusters,
)

X, V = two_clusters(100), two_clusters(40, seed=1)


@pytest.fixture
def auto(monkeypatch):
    """What "auto" is by default, and not as for other tests."""
    monkeypatch.setattr(trained, "N_SPLITS", N_SPLITS)


def rows_of(part):
    return {tuple(row) for row in part.tolist()}


def test_each_split_holds_out_other_rows():
    density, generator = cheap_coupling().fit(X), torch.Generator().manual_seed(0)
    splits = density._hold_out(torch.tensor(X), False, generator, 4)
    held = [rows_of(split.held) for split in splits]
    assert [len(part) for part in held] == [10] * 4 and len(set.union(*held)) == 40
    for split in splits:
        assert len(split.kept) == 90
        assert rows_of(split.kept) | rows_of(split.held) == rows_of(X)
    density.set_params(validation_fraction=0.4)  # there is no third 0.4
    assert len(density._hold_out(torch.tensor(X), False, generator, 4)) == 2


def test_copies_of_a_row_stay_together_in_each_split():
    copies, generator = torch.tensor(X.repeat(3, axis=0)), torch.Generator().manual_seed(0)
    for split in cheap_coupling().fit(X)._hold_out(copies, True, generator, 4):
        assert len(split.held) == 30 and len(rows_of(split.held)) == 10
        assert not rows_of(split.kept) & rows_of(split.held)


def test_weights_of_further_splits():
    parts = [Gaussian(torch.full((2,), m).double(), torch.eye(2).double()) for m in range(8)]
    held = torch.tensor(V)
    own = mixture_weights(
        torch.stack([part.log_prob(held) for part in parts[5:7]], 1).numpy(), prior=1.0
    )
    first = Mixture(parts[:5], [0.4, 0.2, 0.1, 0.1, 0.2])
    whole = with_more(first, [(parts[5:7], held), (parts[7:], held)], 1e-3)
    assert_allclose(whole.weights[:5], [0.4 / 3, 0.2, 0.1, 0.1, 0.2 / 3])
    assert_allclose(whole.weights[5:], [*(0.2 * own), 0.2])
    density = sum(
        w * part.log_prob(held).exp() for w, part in zip(whole.weights, parts, strict=True)
    )
    assert_allclose(whole.log_prob(held).exp(), density)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("make", [cheap_flow, cheap_coupling, cheap_diffusion])
def test_densities_of_all_splits_are_kept(make):
    density = make(max_iter=20, preconditioning="auto").fit(X)
    weights, n_trained = density.mixture_weights_, 2 * N_SPLITS
    assert len(weights) == 3 + n_trained and weights.sum() == pytest.approx(1)
    assert (weights[1:4] >= 0.00099).all()
    each = [density._density, *density._others]
    with torch.no_grad():
        assert len({float(part.log_prob(torch.tensor(X)).sum()) for part in each}) == n_trained


def test_density_integrates_to_one_and_samples_agree():
    density = cheap_coupling(max_iter=300, n_splits=3).fit(X[:, :1])
    grid = np.linspace(-30, 30, 20_001)
    p = np.exp(density.score_samples(grid[:, None]))
    assert np.trapezoid(p, grid) == pytest.approx(1, abs=1e-4)
    drawn = density.sample(20_000, random_state=0)[:, 0]
    below = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(grid))])
    expected = np.interp(np.quantile(drawn, [0.1, 0.3, 0.5, 0.7, 0.9]), grid, below)
    assert_allclose(expected, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.015)


def curved(n_rows, seed):
    """Rows of five columns, each about a sine of the one before."""
    z = np.random.RandomState(seed).normal(size=(n_rows, 5))
    z[:, 1:] = 0.5 * z[:, 1:] + np.sin(2 * z[:, :-1])
    return z


def test_more_splits_are_better_on_new_rows():
    one, four = (
        cheap_coupling(max_iter=200, n_splits=n).fit(curved(80, 0)).score(curved(1000, 1))
        for n in (1, 4)
    )
    assert four > one + 0.05


@pytest.mark.usefixtures("auto")
def test_auto_is_by_the_rows(monkeypatch):
    make = cheap_coupling(preconditioning="standardize", max_iter=2)
    rows = two_clusters(501)
    assert len(clone(make).fit(rows[:500]).mixture_weights_) == 3 + N_SPLITS
    assert len(clone(make).fit(rows).mixture_weights_) == 4
    assert len(clone(make).set_params(n_splits=2).fit(rows).mixture_weights_) == 5
    copies = clone(make).fit(rows[:500], sample_weight=np.full(500, 2))
    assert len(copies.mixture_weights_) == 3 + N_SPLITS


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize(
    "parameters, arguments, n",
    [
        ({"warm_start": True}, {}, 4),
        ({"warm_start": True, "n_splits": 1}, {}, 4),
        ({"defensive_weight": 0}, {}, 1),
        ({"defensive_weight": 0, "n_splits": 2}, {}, 1),
        ({"early_stopping": False}, {}, 4),
        ({"early_stopping": False, "n_splits": 2}, {}, 4),
        ({}, {"X_val": V}, 4),
    ],
)
def test_where_there_is_one(parameters, arguments, n):
    density = cheap_coupling(preconditioning="standardize", max_iter=2, **parameters)
    assert len(density.fit(X, **arguments).mixture_weights_) == n


def test_attributes_and_the_transform_are_those_of_the_first():
    several, single = (cheap_flow(max_iter=30, n_splits=n).fit(X) for n in (3, 1))
    for name in ("n_iter_", "preconditioning_", "loss_curve_", "validation_scores_"):
        assert getattr(several, name) == getattr(single, name)
    assert_array_equal(several.transform(X), single.transform(X))
    assert_array_equal(several.mixture_weights_[1:4], single.mixture_weights_[1:4])


def test_a_fit_of_several_splits_is_gone_on_with_by_one():
    density = cheap_coupling(n_splits=2).fit(X)
    before = density.n_iter_
    density.set_params(warm_start=True, n_splits="auto").fit(X)
    assert len(density.mixture_weights_) == 5 and before and np.isfinite(density.score(V))


def test_conditions_and_whole_numbers():
    kind = np.arange(100) % 2
    density = cheap_flow(conditional=True, n_splits=2, max_iter=100).fit(
        X + 3 * kind[:, None], kind
    )
    assert len(density.mixture_weights_) == 7
    assert density.score(X, np.zeros(100)) > density.score(X, np.ones(100))
    counts = np.random.RandomState(0).poisson(3, size=(100, 1))
    density = cheap_coupling(discrete=[0], n_splits=2, preconditioning="standardize").fit(counts)
    assert len(density.mixture_weights_) == 5
    assert np.exp(density.score_samples(np.arange(60)[:, None])).sum() == pytest.approx(1, abs=0.05)


@pytest.fixture
def failing(monkeypatch):
    """Function that makes the rounds of a split fail."""

    def set_failing(split, fail):
        original = Trainer._round

        def failing_round(self, n_steps):
            return fail() if self.label.startswith(f"split {split}") else original(self, n_steps)

        monkeypatch.setattr(Trainer, "_round", failing_round)

    return set_failing


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_leaves_the_splits_before(failing):
    failing(3, interrupt)
    density = cheap_coupling(preconditioning="standardize", n_splits=4)
    with pytest.warns(UserWarning, match="interrupted"):
        density.fit(X)
    assert density.interrupted_ and len(density.mixture_weights_) == 3 + 2
    assert np.isfinite(density.score(X))


def test_ctrl_c_in_the_first_split_leaves_it(failing):
    failing(1, interrupt)
    density = cheap_coupling(preconditioning="standardize", n_splits=4)
    with pytest.warns(UserWarning, match="interrupted"):
        density.fit(X)
    assert density.interrupted_ and len(density.mixture_weights_) == 4


def test_a_further_split_that_diverges_is_left_out(failing):
    failing(2, lambda: np.nan)
    density = cheap_coupling(preconditioning="standardize", n_splits=3)
    with pytest.warns(UserWarning, match="infinite or NaN"):
        density.fit(X)
    assert not density.interrupted_ and len(density.mixture_weights_) == 3 + 2
    failing(1, lambda: np.nan)
    with pytest.raises(FloatingPointError), pytest.warns(UserWarning, match="infinite or NaN"):
        density.fit(X)


def test_the_bar_tells_of_the_split(capsys):
    cheap_coupling(preconditioning="standardize", n_splits=2, verbose=2).fit(X)
    told = capsys.readouterr().err
    assert "split 1, standardize: step" in told and "split 2, standardize: step" in told


@pytest.mark.parametrize("name", ["flow", "diffusion", "coupling", "coupling-circle"])
def test_five_rows(name):
    density = clone(ESTIMATORS[name]).set_params(n_splits=4)
    assert np.isfinite(density.fit(X[:5]).score(V))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"n_splits": 0}, "n_splits"),
        ({"n_splits": "four"}, "n_splits"),
        ({"n_splits": 3, "warm_start": True}, "warm_start=True goes on .* got n_splits=3"),
    ],
)
def test_bad_input(parameters, message):
    density = cheap_coupling().fit(X)
    before = density.score_samples(V)
    with pytest.raises(ValueError, match=message):
        density.set_params(**parameters).fit(X)
    assert_array_equal(density.score_samples(V), before)
