"""Completion of rows: draws of the unknown values given the known ones."""

import numpy as np
import pandas
import polars
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest
from sklearn.exceptions import NotFittedError

from skgen import RealNVPDensity
from skgen.completion import CompletingDensity
from skgen.core.flow import Flow
from skgen.datasets import TwoMoons

from .estimators import ESTIMATORS, TRAINED, cheap_coupling, cheap_flow, fit_once, two_clusters

FACTOR = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.5, 0.3]])
X = np.random.RandomState(0).normal(size=(400, 3)) @ FACTOR.T + [3.0, -1.0, 0.0]
UNTRAINED = {"defensive_weight": 0, "max_iter": 1, "learning_rate_init": 1e-12,
             "early_stopping": False, "reg_covar": 0}  # fmt: skip
PARTIAL = two_clusters(12)
PARTIAL[:4, 0] = PARTIAL[3:8, 1] = np.nan  # row 3 is empty, the last four are complete


def gaussian_given(mean, covariance, known, values):
    """Mean and covariance of the other columns of a Gaussian."""
    gain = covariance[np.ix_(~known, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
    rest = covariance[np.ix_(~known, ~known)] - gain @ covariance[np.ix_(known, ~known)]
    return mean[~known] + gain @ (values - mean[known]), rest


@pytest.mark.parametrize("known", [[True, False, False], [False, True, True]])
@pytest.mark.parametrize("cheap", [cheap_flow, cheap_coupling])
@pytest.mark.parametrize("preconditioning", ["standardize", "gaussianize"])
def test_conditionals_of_an_untrained_model_are_those_of_a_gaussian(cheap, preconditioning, known):
    """Of X, or of the normal scores of its columns."""
    density = cheap(**UNTRAINED, preconditioning=preconditioning).fit(X)
    *columns, _ = density._density.bijection.bijections

    def scores(rows):
        return columns[0](torch.tensor(rows))[0].numpy() if columns else rows

    known = np.array(known)
    row = np.where(known, [4.0, -0.5, -0.8], np.nan)
    draws = density.sample_given(np.tile(row, (1500, 1)), random_state=0, n_proposals=10)
    assert (draws[:, known] == row[known]).all()
    whole, found = scores(X), scores(draws)
    mean, covariance = gaussian_given(
        whole.mean(0), np.cov(whole.T, bias=True), known, found[0, known]
    )
    z = np.linalg.solve(np.linalg.cholesky(covariance), (found[:, ~known] - mean).T)
    assert_allclose(z.mean(1), 0, atol=0.1)
    assert_allclose(np.atleast_2d(np.cov(z)), np.eye(len(z)), atol=0.15)
    assert min(kstest(column, "norm").pvalue for column in z) > 1e-3


@pytest.fixture(scope="module", params=["standardize", "gaussianize"])
def moons(request):
    """A flow of moons without defence, so that proposals are those of one Gaussian."""
    rows = TwoMoons().sample(2000, random_state=0)
    settings = {"max_iter": 300, "n_blocks": 4, "hidden_layer_sizes": (32, 32)}
    settings |= {"preconditioning": request.param, "defensive_weight": 0}
    return RealNVPDensity(**settings, random_state=0).fit(rows)


@pytest.fixture(scope="module")
def defended():
    rows = TwoMoons().sample(500, random_state=0)
    return cheap_flow(max_iter=200, hidden_layer_sizes=(32, 32), defensive_weight=0.1).fit(rows)


def conditional(density, column, value):
    """Distribution function of the other column of a density of two."""
    grid = np.linspace(-6, 6, 6001)
    line = np.full((len(grid), 2), value)
    line[:, 1 - column] = grid
    mass = np.cumsum(np.exp(density.score_samples(line)))
    return lambda x: np.interp(x, grid, mass / mass[-1])


@pytest.mark.parametrize("column, value", [(0, 0.5), (1, 0.0)])
def test_completions_follow_the_fitted_density(moons, column, value):
    rows = np.full((1500, 2), np.nan)
    rows[:, column] = value
    expected = conditional(moons, column, value)
    completed = moons.sample_given(rows, random_state=0)
    assert kstest(completed[:, 1 - column], expected).pvalue > 1e-3
    proposed = moons.sample_given(rows, random_state=0, n_proposals=1)
    assert kstest(proposed[:, 1 - column], expected).pvalue < 1e-6


def test_completions_follow_the_whole_mixture(defended):
    rows = np.tile([0.5, np.nan], (600, 1))
    completed = defended.sample_given(rows, random_state=0, n_proposals=32)
    assert kstest(completed[:, 1], conditional(defended, 0, 0.5)).pvalue > 1e-3


def test_proposals_are_weighed_in_fewer_steps_than_rows_are_scored_in(defended, monkeypatch):
    solved, solve = [], Flow._solve_density

    def counted(self, rows, n_steps):
        solved.append(len(rows) * n_steps)
        return solve(self, rows, n_steps)

    monkeypatch.setattr(Flow, "_solve_density", counted)
    monkeypatch.setattr(defended._model, "tolerance", 1e-3)
    rows = np.where([True, False], TwoMoons().sample(100, random_state=1), np.nan)
    roughly, n_roughly = defended.sample_given(rows, random_state=0), sum(solved)
    monkeypatch.setattr("skgen.path_density.PROPOSAL_TOLERANCE", 1.0)
    exactly = defended.sample_given(rows, random_state=0)
    assert n_roughly < 0.8 * (sum(solved) - n_roughly)
    assert (roughly == exactly).all(1).mean() > 0.9
    assert defended._model.tolerance == 1e-3


@pytest.mark.parametrize("name", TRAINED)
def test_known_values_stay(name):
    density = fit_once(name)
    completed = density.sample_given(PARTIAL, random_state=0, n_proposals=4)
    known = ~np.isnan(PARTIAL)
    assert completed.dtype == np.float64 and np.isfinite(completed).all()
    assert_array_equal(completed[known], PARTIAL[known])
    assert np.isnan(PARTIAL).sum() == 9  # the rows given are left alone


def test_seeds():
    density = fit_once("coupling")
    first = density.sample_given(PARTIAL, random_state=1)
    assert_array_equal(first, density.sample_given(PARTIAL, random_state=1))
    assert (first != density.sample_given(PARTIAL, random_state=2))[np.isnan(PARTIAL)].all()
    assert_array_equal(density.sample_given(PARTIAL), density.sample_given(PARTIAL, 0))


def test_a_row_does_not_depend_on_the_values_of_others():
    density = fit_once("coupling-mixture")
    completed = density.sample_given(PARTIAL, random_state=0)
    others = PARTIAL.copy()
    others[0], others[2] = [1.0, np.nan], [np.nan, 0.0]
    again = density.sample_given(others[:7], random_state=0)
    assert_allclose(again[[1, 3, 4, 5, 6]], completed[[1, 3, 4, 5, 6]], rtol=1e-9)


def test_rows_without_gaps_and_rows_of_gaps(moons):
    rows = TwoMoons().sample(5, random_state=3)
    assert_array_equal(moons.sample_given(rows), rows)
    drawn = moons.sample_given(np.full((1500, 2), np.nan), random_state=0)
    expected = moons.sample(1500, random_state=0)
    assert_array_equal(drawn, expected)


def test_many_batches(monkeypatch):
    monkeypatch.setattr("skgen.completion.MAX_NUMBERS", 5 * 4 * 2)
    density = fit_once("coupling")
    rows = np.repeat(PARTIAL[:3], 5, axis=0)
    completed = density.sample_given(rows, random_state=0, n_proposals=4)
    assert len(np.unique(completed[:, 0])) == 15


def test_containers_and_dtypes():
    density = cheap_coupling().fit(pandas.DataFrame(two_clusters(), columns=["a", "b"]))
    frame = pandas.DataFrame(PARTIAL, columns=["a", "b"])
    plain = density.sample_given(frame, random_state=0)
    assert isinstance(plain, np.ndarray)
    completed = density.set_output(transform="pandas").sample_given(frame, random_state=0)
    assert list(completed.columns) == ["a", "b"]
    assert_array_equal(completed.to_numpy(), plain)
    dated = frame.set_axis(pandas.date_range("2026-01-01", periods=len(frame)))
    assert_array_equal(density.sample_given(dated).index, dated.index)
    drawn = density.set_output(transform="polars").sample_given(frame, random_state=0)
    assert isinstance(drawn, polars.DataFrame) and drawn.columns == ["a", "b"]
    density = fit_once("flow")
    for rows in (PARTIAL.astype(np.float32), torch.tensor(PARTIAL, dtype=torch.float32)):
        assert density.sample_given(rows, random_state=0, n_proposals=2).dtype == np.float32
        assert_array_equal(
            density.sample_given(
                np.ma.masked_invalid(np.asarray(rows)), random_state=0, n_proposals=2
            ),
            density.sample_given(rows, random_state=0, n_proposals=2),
        )
    lists = density.sample_given(PARTIAL.tolist(), random_state=0, n_proposals=2)
    assert_array_equal(lists, density.sample_given(PARTIAL, random_state=0, n_proposals=2))


@pytest.mark.parametrize(
    "rows, settings, message",
    [
        ([[np.inf, np.nan]], {}, "contains infinity"),
        ([[np.nan] * 3], {}, "X has 3 features, but .* is expecting 2 features"),
        ([np.nan, 0.0], {}, "Expected 2D array"),
        (PARTIAL[:0], {}, r"0 sample\(s\)"),
        (PARTIAL, {"n_proposals": 0}, "n_proposals == 0"),
    ],
)
def test_bad_input(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        fit_once("coupling").sample_given(rows, **settings)


def test_not_fitted():
    with pytest.raises(NotFittedError):
        cheap_coupling().sample_given(PARTIAL)


def test_all_trained_densities_complete():
    assert {n for n, e in ESTIMATORS.items() if isinstance(e, CompletingDensity)} == set(TRAINED)
