"""Densities given conditions y."""

import pickle

import numpy as np
import pandas
import polars
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.stats import kstest, norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgen import FlowMatchingDensity
from skgen.conditions import ConditionEncoder

from .estimators import cheap_flow

RNG = np.random.RandomState(0)
LABELS = np.array(["left", "right", "middle"])[np.arange(600) % 3]
MEANS = {"left": -3.0, "right": 3.0, "middle": 0.0}
X = np.array([MEANS[label] for label in LABELS])[:, None] + RNG.normal(size=(600, 1))
GRID = np.linspace(-15, 15, 6001)
TWO = pandas.DataFrame({"a": LABELS, "b": np.arange(600) % 2})


def small_flow(**parameters):
    settings = {"hidden_layer_sizes": (32, 32), "max_iter": 400, "early_stopping": False,
                "preconditioning": "standardize", "solver_tol": 0, "random_state": 0}  # fmt: skip
    return FlowMatchingDensity(**{**settings, "conditional": True, **parameters})


@pytest.fixture(scope="module")
def flow():
    return small_flow(defensive_weight=0).fit(X, LABELS)


@parametrize_with_checks([cheap_flow(conditional=True)])
def test_check_estimator(estimator, check):
    if getattr(check, "func", check).__name__ != "check_array_api_input":
        check(estimator)


@pytest.mark.parametrize("defensive_weight", [0, 0.05])
@pytest.mark.parametrize("label", [*MEANS, None])
def test_density_given_a_label_is_normalised_and_agrees_with_its_samples(label, defensive_weight):
    flow = small_flow(defensive_weight=defensive_weight).fit(X, LABELS)
    density = np.exp(flow.score_samples(GRID[:, None], label))
    assert trapezoid(density, GRID) == pytest.approx(1, abs=5e-3)
    drawn = flow.sample(2000, random_state=0, y=label)[:, 0]
    mass = cumulative_trapezoid(density, GRID, initial=0)
    assert kstest(drawn, lambda x: np.interp(x, GRID, mass)).pvalue > 1e-3
    if label is not None:
        assert_allclose([drawn.mean(), drawn.std()], [MEANS[label], 1], atol=0.25)


def test_conditions_tell_what_they_tell(flow):
    truth = norm.logpdf(X[:, 0], loc=[MEANS[label] for label in LABELS]).mean()
    assert flow.score(X, LABELS) == pytest.approx(truth, abs=0.06)
    assert flow.score(X, LABELS) > flow.score_samples(X).mean() + 0.5
    each = np.concatenate([flow.score_samples(X[k == LABELS], k) for k in MEANS])
    whole = np.concatenate([flow.score_samples(X, LABELS)[k == LABELS] for k in MEANS])
    assert_allclose(each, whole, atol=1e-8)


def test_density_given_a_number():
    y = RNG.uniform(-2, 2, size=2000)
    rows = np.column_stack([np.sin(2 * y), y**2]) + 0.2 * RNG.normal(size=(2000, 2))
    flow = small_flow(max_iter=800).fit(rows, y)
    truth = 2 * norm.logpdf(0.2 * norm.ppf(0.5), scale=0.2) - 1
    assert flow.score(rows, y) == pytest.approx(truth, abs=0.25)
    drawn = flow.sample(500, random_state=0, y=0.5)
    assert_allclose(drawn.mean(0), [np.sin(1), 0.25], atol=0.1)
    two = flow.sample(2, random_state=0, y=[-1.5, 1.5])
    assert two.shape == (2, 2)


@pytest.mark.parametrize("container", [np.asarray, pandas.DataFrame, polars.DataFrame, list])
def test_columns_of_several_kinds(container):
    number, label = RNG.normal(size=600), LABELS
    y = {"label": label, "number": number}
    if container in (np.asarray, list):
        y = [[a, b] for a, b in zip(label, number, strict=True)]
        y = np.array(y, dtype=object) if container is np.asarray else y
    else:
        y = container(y)
    flow = cheap_flow(conditional=True).fit(X, y)
    assert flow._encoder.n_columns == 3 + 1 + 1
    assert np.isfinite(flow.score(X, y))
    one = flow.sample(4, y=["left", 0.3])
    assert_allclose(one, flow.sample(4, y=[["left", 0.3]] * 4))


@pytest.mark.parametrize(
    "y, n_columns",
    [
        (np.arange(60) % 4, 5),
        (np.arange(60) % 2 == 0, 3),
        (np.arange(60), 2),
        (np.linspace(0, 1, 60), 2),
        (np.resize(["a", "b"], 60), 3),
        (np.column_stack([np.arange(60) % 3, np.linspace(0, 5, 60)]), 5),
    ],
)
def test_encoding(y, n_columns):
    encoder = ConditionEncoder(y)
    encoded = encoder(y)
    assert encoded.shape == (60, n_columns)
    assert (encoded[:, -1] == 1).all()
    assert np.abs(encoded).max() < 4
    assert not encoder.repeated(None, 5).any()


def test_guidance_makes_rows_more_typical(flow):
    overlapping = X / 3
    flow = small_flow(defensive_weight=0).fit(overlapping, LABELS)
    plain = flow.sample(1000, random_state=0, y="right")
    guided = flow.sample(1000, random_state=0, y="right", guidance=2.0)
    assert guided.mean() > plain.mean() + 0.1
    by_steps = flow.sample(1000, random_state=0, y="right", guidance=2.0, sampler="rk4")
    assert by_steps.mean() == pytest.approx(guided.mean(), abs=0.1)
    on_the_way = flow.sample_trajectory(1000, random_state=0, y="right", guidance=2.0)
    assert on_the_way[-1].mean() == pytest.approx(guided.mean(), abs=0.1)
    assert_allclose(flow.sample(1000, random_state=0, y="right"), plain)


def test_everything_else_takes_conditions(flow):
    right = np.full(len(X), "right")
    t = 0.6
    trajectory, times = flow.sample_trajectory(
        40, random_state=0, y="left", n_steps=200, time_grid="uniform", return_times=True
    )
    slope = (trajectory[121] - trajectory[119]) / (times[121] - times[119])
    assert_allclose(flow.velocity(trajectory[120], times[120], "left"), slope, atol=0.02)
    assert trajectory[-1].mean() == pytest.approx(-3, abs=0.6)
    assert not np.allclose(flow.velocity(X, t, right), flow.velocity(X, t))
    assert not np.allclose(flow.score_function(X, t, right), flow.score_function(X, t))
    moved = flow.langevin_dynamics(X, t=0.9, n_steps=300, step_size=0.5, random_state=0, y="left")
    assert moved.mean() == pytest.approx(-2.7, abs=0.8)
    noise = flow.transform(X, LABELS)
    assert_allclose(flow.inverse_transform(noise, LABELS), X, atol=0.02)
    assert abs(noise.mean()) < 0.15 and noise.std() == pytest.approx(1, abs=0.1)
    assert flow.straightness(200, 0, y="left") < flow.straightness(200, 0)
    assert not flow.log_density_error(X, LABELS).any()


def test_inside_scikit_learn():
    flow = cheap_flow(conditional=True, defensive_weight=0)
    search = GridSearchCV(flow, {"max_iter": [1, 200]}, cv=2).fit(X, LABELS)
    assert search.best_params_ == {"max_iter": 200}
    pipe = make_pipeline(StandardScaler(), cheap_flow(conditional=True)).fit(X, LABELS)
    assert pipe.score(X, LABELS) > pipe.score_samples(X).mean()
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert_allclose(again.score_samples(X, LABELS), search.best_estimator_.score_samples(X, LABELS))
    fitted = search.best_estimator_
    assert_allclose(clone(fitted).fit(X, LABELS).score(X, LABELS), fitted.score(X, LABELS))


def test_weight_k_is_k_copies():
    weight, number = np.arange(600) % 4, np.linspace(0, 1, 600)
    for y in (LABELS, number):
        flow = cheap_flow(conditional=True)
        weighted = clone(flow).fit(X, y, sample_weight=weight)
        copied = clone(flow).fit(X.repeat(weight, 0), y.repeat(weight))
        assert_allclose(weighted.score_samples(X, y), copied.score_samples(X, y), atol=1e-6)


def test_warm_start_keeps_the_encoding():
    flow = cheap_flow(conditional=True, warm_start=True).fit(X, LABELS)
    before = flow.score(X, LABELS)
    some = LABELS != "middle"
    flow.set_params(max_iter=100).fit(X[some], LABELS[some])
    assert np.isfinite(before) and np.isfinite(flow.score(X, LABELS))


def test_parameters_set_after_a_fit_wait_for_the_next():
    flow, plain = cheap_flow(conditional=True).fit(X, LABELS), cheap_flow().fit(X)
    given, alone = flow.score(X, LABELS), plain.score(X)
    assert flow.set_params(conditional=False).score(X, LABELS) == given
    assert plain.set_params(conditional=True).score(X, LABELS) == alone
    assert plain.sample(2).shape == (2, X.shape[1])
    assert flow.fit(X).score(X, LABELS) == flow.score(X)
    with pytest.raises(ValueError, match="fitted with conditional=False"):
        flow.score_samples(X, LABELS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: clone(f).fit(X), "requires y to be passed, but the target y is None"),
        (lambda f: clone(f).fit(X, LABELS[:5]), "inconsistent numbers of samples"),
        (lambda f: clone(f).fit(X, np.full(600, np.nan)), "Column 0 of y contains NaN"),
        (lambda f: clone(f).fit(X, np.zeros((600, 1, 1))), r"got \(600, 1, 1\)"),
        (lambda f: f.score_samples(X, "up"), r"Column 0 of y has the categories \['up'\]"),
        (lambda f: small_flow(max_iter=1).fit(X, X[:, 0]).sample(2, y="up"), "held numbers in fit"),
        (lambda f: f.score_samples(X, LABELS[:7]), "one condition or 600 of them.*got 7"),
        (lambda f: f.score_samples(X, [["left", 1.0]] * 600), r"y has 2 column\(s\)"),
        (lambda f: f.sample(3, guidance=1.0), "guidance=1.0 leads to conditions y"),
        (lambda f: clone(f).set_params(coupling="optimal_transport").fit(X, LABELS),
         "cannot go with conditional=True"),
        (lambda f: clone(f).fit(X, pandas.Series([pandas.NA, *LABELS[1:]], dtype="string")),
         "Column 0 of y contains NaN, infinity or None"),
        (lambda f: clone(f).fit(X, np.ma.masked_equal(LABELS, "left")),
         "Column 0 of y contains NaN, infinity or None"),
        (lambda f: clone(f).fit(X, TWO).sample(2, y=TWO[["b", "a"]][:2]),
         r"y has the columns \['b', 'a'\]; fit has seen \['a', 'b'\], in this order"),
        (lambda f: cheap_flow().fit(X).score_samples(X, LABELS), "conditional=False"),
        (lambda f: cheap_flow().fit(X).sample(3, y="left"), "conditional=False"),
    ],
)  # fmt: skip
def test_bad_input(flow, call, message):
    with pytest.raises(ValueError, match=message):
        call(flow)


def test_reflow_and_transport_given_conditions():
    source = np.random.RandomState(1).normal(size=(500, 1)) + 10
    flow = small_flow(defensive_weight=0).fit(X, LABELS, X_base=source)
    for label, mean in MEANS.items():
        moved = flow.transport(source, label)
        assert_allclose([moved.mean(), moved.std()], [mean, 1], atol=0.35)
        assert_allclose(flow.transport(moved, label, inverse=True), source, atol=0.02)
    before = flow.straightness(300, 0, y="left")
    flow.reflow(2000, max_iter=300, random_state=0)
    assert flow.straightness(300, 0, y="left") < 0.7 * before
    for label, mean in MEANS.items():
        drawn = flow.sample(500, random_state=0, y=label, sampler="euler", n_steps=2)
        assert_allclose([drawn.mean(), drawn.std()], [mean, 1], atol=0.35)


def correlated_rows(n=2000):
    label = np.arange(n) % 2
    rows = np.random.RandomState(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], n)
    return rows + 3 * label[:, None], label


@pytest.mark.parametrize("label, mean", [(0, 0.8), (1, 1.4)])
def test_rows_are_completed_given_conditions(label, mean):
    rows, labels = correlated_rows()
    flow = small_flow(max_iter=600, defensive_weight=0.01).fit(rows, labels)
    partial = np.column_stack([np.ones(1000), np.full(1000, np.nan)])
    found = flow.sample_given(partial, random_state=0, y=label)
    assert_allclose([found[:, 1].mean(), found[:, 1].std()], [mean, 0.6], atol=0.12)
    assert np.array_equal(found[:, 0], partial[:, 0])
    nothing = flow.sample_given(np.full((1000, 2), np.nan), random_state=0, y=label)
    assert_allclose(nothing.mean(0), 3 * label, atol=0.2)


@pytest.mark.parametrize(
    "supports", [{"bounds": {0: (-20, None)}}, {"discrete": [0]}, {"periodic": {1: (-10, 10)}}]
)
def test_conditions_beside_declared_supports(supports):
    rows, labels = correlated_rows(800)
    rows[:, 0] = rows[:, 0].round()
    flow = small_flow(max_iter=150, defensive_weight=0.01, **supports).fit(rows, labels)
    assert flow.score(rows, labels) > flow.score_samples(rows).mean() + 0.2
    for y, mean in ((0, 0), (1, 3)):
        for guidance in (0.0, 0.5):
            drawn = flow.sample(500, random_state=0, y=y, guidance=guidance)
            assert_allclose(drawn.mean(0), mean, atol=0.6)
        if "discrete" in supports:
            assert np.array_equal(drawn[:, 0], drawn[:, 0].round())
    partial = np.where([True, False], np.nan, rows[:50])
    found = flow.sample_given(partial, random_state=0, y=labels[:50])
    assert np.array_equal(found[:, 1], rows[:50, 1])
    assert np.corrcoef(found[:, 0], rows[:50, 0])[0, 1] > 0.6
