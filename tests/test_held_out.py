"""Rows held out: which, at random, and those that `fit` is given as X_val."""

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skgen.held_out import MAX_HELD_OUT, HeldOutDensity
from skgen.mixing import mixture_weights
from skgen.weights import as_frequencies

from .estimators import cheap_coupling, cheap_diffusion, cheap_flow, two_clusters

X, V = two_clusters(100), two_clusters(40, seed=1)
KINDS = pytest.mark.parametrize("cheap", [cheap_coupling, cheap_diffusion, cheap_flow])


@KINDS
def test_scores_are_of_the_given_rows(cheap):
    density = cheap(preconditioning="standardize", max_iter=40).fit(X, X_val=V)
    with torch.no_grad():
        log_probs = density.module_.component_log_probs(torch.tensor(V))[:, [0, 2, 3]]
    floor = torch.tensor([1, 1e-3, 1e-3], dtype=torch.float64).log()
    score = float((log_probs + floor).logsumexp(1).mean())
    assert score == pytest.approx(density.best_validation_score_, abs=0.01)
    far = cheap(preconditioning="standardize", max_iter=40).fit(X, X_val=V + 50)
    assert far.best_validation_score_ < density.best_validation_score_ - 5


@KINDS
def test_all_rows_are_trained_on(cheap):
    density = cheap(validation_fraction=0.99)
    with pytest.raises(ValueError, match="leaves 1 to train on"):
        clone(density).fit(X)
    density.fit(X, X_val=V)
    assert vars(density).keys() == vars(cheap().fit(X)).keys()
    # The Gaussian of the defence is fitted to all of X and to nothing else.
    mean = density._mixture.components[3].mean
    assert_allclose(mean, X.mean(0), rtol=1e-6)


@KINDS
def test_the_weights_of_the_mixture_come_from_the_given_rows(cheap):
    density = cheap().fit(X, X_val=V)
    with torch.no_grad():
        columns = density.module_.component_log_probs(torch.tensor(V)).numpy()
    prior = np.ones(columns.shape[1])
    prior[2:4] = 0
    expected = mixture_weights(columns, None, density.defensive_weight, prior)
    assert_allclose(density.mixture_weights_, expected, atol=1e-4)


@KINDS
def test_order_and_copies_do_not_matter(cheap):
    weight = np.arange(40) % 3
    weighted = cheap().fit(X, X_val=V, sample_weight_val=weight)
    copied = cheap().fit(X, X_val=V.repeat(weight, 0)[::-1].tolist())
    assert weighted.validation_scores_ == copied.validation_scores_
    assert_array_equal(weighted.score_samples(V), copied.score_samples(V))


def test_many_rows_are_thinned():
    flow = cheap_flow(max_iter=4).fit(X, X_val=two_clusters(3 * MAX_HELD_OUT + 1))
    fewer = cheap_flow(max_iter=4).fit(X, X_val=two_clusters(MAX_HELD_OUT))
    assert flow.best_validation_score_ == pytest.approx(fewer.best_validation_score_, abs=0.1)


def test_conditions_of_the_given_rows():
    rng = np.random.RandomState(0)
    y, y_val = rng.randint(2, size=(300, 1)), rng.randint(2, size=(200, 1))
    rows, rows_val = y * 6 + rng.normal(size=(300, 1)), y_val * 6 + rng.normal(size=(200, 1))
    density = cheap_flow(conditional=True, max_iter=60)
    right = clone(density).fit(rows, y[:, 0], X_val=rows_val, y_val=y_val)
    wrong = clone(density).fit(rows, y[:, 0], X_val=rows_val, y_val=1 - y_val)
    assert right.best_validation_score_ > wrong.best_validation_score_ + 0.5
    for arguments, message in [
        ({"X_val": rows_val}, "requires y_val to be passed"),
        ({"X_val": rows_val, "y_val": y_val[:7]}, "inconsistent numbers of samples"),
        ({"X_val": rows_val, "y_val": y_val + 5}, r"has the categories \[5.0, 6.0\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            density.fit(rows, y, **arguments)


def test_discrete_rows_are_spread():
    counts = np.random.RandomState(0).poisson(3.0, size=(400, 1))
    density = cheap_coupling(discrete=[0], max_iter=60).fit(counts[:300], X_val=counts[300:])
    # An atom's logarithm, were the rows not spread, would be beyond all measure.
    assert density.best_validation_score_ == pytest.approx(density.score(counts[300:]), abs=0.3)


@pytest.mark.parametrize(
    "parameters, arguments, message",
    [
        ({"early_stopping": False}, {"X_val": V}, "X_val is to stop early by"),
        ({}, {"y_val": V[:, 0]}, "belong to X_val, which is None"),
        ({}, {"sample_weight_val": np.ones(40)}, "belong to X_val, which is None"),
        ({}, {"X_val": V[:, :1]}, "X_val is invalid. X has 1 features"),
        ({}, {"X_val": np.full((3, 2), np.nan)}, "X_val is invalid. X contains NaN, in 3"),
        ({}, {"X_val": V[:0]}, "minimum of 1 is required"),
        (
            {},
            {"X_val": V, "sample_weight_val": np.zeros(40)},
            "sample_weight_val is positive for 0|at least one non-zero",
        ),
        ({}, {"X_val": V, "sample_weight_val": -np.ones(40)}, "Negative values"),
        ({"bounds": {0: (-50, 50)}}, {"X_val": V + 60}, "must be within its bounds"),
    ],
)
def test_bad_input(parameters, arguments, message):
    density = cheap_coupling().fit(X)
    before = density.score_samples(V)
    with pytest.raises(ValueError, match=message):
        density.set_params(**parameters).fit(X, **arguments)
    assert_array_equal(density.score_samples(V), before)


@pytest.fixture
def parts(monkeypatch):
    """Function that fits a density and returns the rows trained on and those held out."""

    def fitted(density, rows, **arguments):
        kept, split = [], HeldOutDensity._hold_out

        def watched(*args):
            kept.extend(split(*args))
            return kept

        with monkeypatch.context() as patched:
            patched.setattr(HeldOutDensity, "_hold_out", watched)
            density.fit(rows, **arguments)
        return [{tuple(row) for row in part.tolist()} for part in kept[0]], map(len, kept[0])

    return fitted


@pytest.mark.parametrize("weight", [np.full(100, 3), np.random.RandomState(0).uniform(0.5, 1, 100)])
def test_copies_of_a_row_are_held_out_together(parts, weight):
    (trained, held), (n_trained, n_held) = parts(cheap_coupling(), X, sample_weight=weight)
    assert len(trained) == 90 and len(held) == 10 and not trained & held
    assert n_trained > 200 and n_held > 20
    rows = X[as_frequencies(X, weight)]
    assert parts(cheap_coupling(), rows)[0] == [trained, held]


def test_equal_rows_of_few_values_are_independent(parts):
    values = np.random.RandomState(0).randint(4, size=(600, 2)).astype(float)
    for density, arguments in [
        (cheap_coupling(), {}),  # 16 different rows
        (cheap_coupling(discrete=[0, 1]), {"sample_weight": np.arange(600) % 2 + 1}),
    ]:
        (trained, held), _ = parts(density, values, **arguments)
        assert len(trained) == 16 and held <= trained


def test_a_row_that_outweighs_all_others_is_split(parts):
    weight = np.ones(100)
    weight[0] = 200
    (trained, held), (n_trained, n_held) = parts(cheap_coupling(), X, sample_weight=weight)
    assert tuple(X[0]) in trained & held and n_held == 30 and n_trained == 269


def test_large_whole_weights_stand_for_few_copies():
    ranks = np.arange(100) % 3
    copies = np.bincount(as_frequencies(X, 30_000 * ranks), minlength=100)
    assert abs(copies.sum() - 400) <= 1 and (np.abs(copies - 4 * ranks / ranks.mean()) < 1).all()
    assert_array_equal(np.bincount(as_frequencies(X, 300 * ranks), minlength=100), 300 * ranks)


def test_weights_of_few_rows_do_not_make_a_density_learn_them_by_heart():
    rows, test = np.random.RandomState(0).normal(size=(2, 200, 8))
    weight = np.random.RandomState(1).uniform(0.5, 1.5, 200)
    for density in (cheap_coupling(max_iter=300), cheap_flow(max_iter=300)):
        without = clone(density).fit(rows).score(test)
        assert clone(density).fit(rows, sample_weight=weight).score(test) > without - 0.3


def test_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        density = cheap_coupling().set_fit_request(X_val=True)
        steps = [("scale", StandardScaler()), ("density", density)]
        pipe = Pipeline(steps, transform_input=["X_val"]).fit(X, X_val=V)
    scaler = StandardScaler().fit(X)
    alone = cheap_coupling().fit(scaler.transform(X), X_val=scaler.transform(V))
    assert pipe[-1].validation_scores_ == alone.validation_scores_
