"""Columns declared to have bounds, to be periodic, to hold whole numbers."""

import pickle

import numpy as np
import pandas
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.stats import kstest, poisson
from sklearn.base import clone

from skgen import FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.compose import StackedDensity

from .estimators import cheap_coupling, cheap_flow

RNG = np.random.RandomState(0)
ROWS = {  # with their bounds, and those of a grid
    "above": (2 + RNG.exponential(3, (600, 1)), (2, None), (2, 90)),
    "below": (-RNG.gamma(2, size=(600, 1)), (None, 0), (-60, 0)),
    "between": (10 * RNG.beta(2, 0.7, (600, 1)), (0, 10), (0, 10)),
}
MAKERS = {"flow": cheap_flow, "coupling": cheap_coupling}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def follows(drawn, grid, density):
    mass = cumulative_trapezoid(density, grid, initial=0)
    assert mass[-1] == pytest.approx(1, abs=5e-3)
    assert kstest(drawn, lambda x: np.interp(x, grid, mass / mass[-1])).pvalue > 1e-3


def table(n=500, seed=0):
    """An amount, an hour of the day, a count and a temperature, all dependent."""
    rng = np.random.RandomState(seed)
    amount, hour = rng.exponential(size=n), (rng.normal(0, 3, n)) % 24
    count = rng.poisson(1 + amount)
    temperature = rng.normal(np.cos(hour * np.pi / 12), 0.3)
    return np.column_stack([amount, hour, count, temperature])


DECLARED = {"bounds": {0: (0, None), 2: (0, None)}, "periodic": {1: (0, 24)}, "discrete": [2]}


@every_maker
@pytest.mark.parametrize("kind", ROWS)
def test_density_within_bounds(make, kind):
    X, bounds, (start, end) = ROWS[kind]
    density = make(max_iter=60, bounds={0: bounds}).fit(X)
    # Finer towards both ends, where the density may have a pole.
    grid = start + (end - start) * np.sin(np.linspace(1e-6, np.pi / 2 - 1e-6, 4001)) ** 2
    drawn = density.sample(1500, random_state=0)[:, 0]
    follows(drawn, grid, np.exp(density.score_samples(grid[:, None])))
    for end, away in zip(bounds, (-0.01, 0.01), strict=True):
        if end is not None:
            assert ((drawn - end) * away <= 0).all()
            log_density = density.score_samples([[end], [end + away]])
            assert np.isfinite(log_density[0]) and log_density[1] == -np.inf
    assert_allclose(density.inverse_transform(density.transform(X)), X, atol=0.1)


def test_bounds_gain_where_the_density_has_an_edge():
    X, more = 100 * np.random.RandomState(0).uniform(size=(2, 1000, 3))
    free = cheap_coupling(max_iter=150).fit(X)
    declared = clone(free).set_params(bounds=dict.fromkeys(range(3), (0, 100))).fit(X)
    assert declared.score(more) > free.score(more) + 0.05
    assert declared.score(more) == pytest.approx(-3 * np.log(100), abs=0.05)
    assert declared.best_validation_score_ == pytest.approx(-3 * np.log(100), abs=0.05)


@every_maker
def test_density_on_a_circle(make):
    X = np.random.RandomState(0).vonmises(3, 1, (600, 1))
    X = np.append(X, X[:5] + 2 * np.pi, axis=0)
    density = make(max_iter=60, periodic={0: (-np.pi, np.pi)}).fit(X)
    grid = np.linspace(-np.pi, np.pi, 2001)
    log_density = density.score_samples(grid[:, None])
    drawn = density.sample(1500, random_state=0)[:, 0]
    follows(drawn, grid, np.exp(log_density))
    assert drawn.min() >= -np.pi and drawn.max() < np.pi
    assert_allclose(density.score_samples(grid[:, None] + 2 * np.pi), log_density, atol=1e-9)
    cut = float(density.module_.folding.cut)
    seam = density.score_samples([[cut - 1e-9], [cut + 1e-9], [np.pi - 1e-9], [np.pi + 1e-9]])
    assert_allclose(seam[::2], seam[1::2], atol=2e-3)
    assert abs(np.angle(np.exp(1j * (cut - 3 + np.pi)))) < 1  # opposite of the mode
    back = density.inverse_transform(density.transform(X))
    assert_allclose(np.exp(1j * back), np.exp(1j * X), atol=0.05)


@every_maker
def test_probabilities_of_counts(make):
    X = np.random.RandomState(0).poisson(3, (1000, 1)).astype(float)
    density = make(max_iter=100, discrete=[0], bounds={0: (0, None)}).fit(X)
    support = np.arange(15.0)[:, None]
    log_mass = density.score_samples(support)
    assert np.exp(log_mass).sum() == pytest.approx(1, abs=5e-3)
    assert_allclose(np.exp(log_mass), poisson.pmf(support[:, 0], 3), atol=0.04)
    assert (density.score_samples([[-1.0], [2.5]]) == -np.inf).all()
    model = density.module_.model
    fine = (support + (np.arange(500) + 0.5) / 500).reshape(-1, 1)
    density.module_ = model  # the density of x + u on the line
    exact = np.exp(density.score_samples(fine)).reshape(15, 500).mean(1)
    assert_allclose(np.exp(log_mass), exact, atol=3e-3)
    density.module_ = make(max_iter=1, discrete=[0], bounds={0: (0, None)}).fit(X).module_
    assert density.sample(300).min() == 0


def test_the_points_give_a_lower_bound_on_average():
    X = np.random.RandomState(0).poisson(3, (500, 1)).astype(float)
    density = cheap_coupling(discrete=[0], defensive_weight=0).fit(X)
    points = density.module_.folding.points
    support = np.arange(8.0)[:, None]
    fine = (np.arange(160) + 0.5) / 160
    means = []
    for n in (1, 16, 160):
        values = []
        for u in np.random.RandomState(0).permutation(fine).reshape(-1, n, 1):
            density.module_.folding.points = points.new_tensor(u)
            values.append(density.score_samples(support))
        means.append(np.mean(values, axis=0))
    assert (np.diff(means, axis=0) >= 0).all()  # more points, tighter bound
    assert means[2] - means[1] == pytest.approx(0, abs=0.03)


@every_maker
def test_all_of_them_together(make):
    X = table()
    frame = pandas.DataFrame(X, columns=["amount", "hour", "count", "temperature"])
    density = make(max_iter=40, **DECLARED).fit(X)
    named = clone(density).set_params(
        bounds={"amount": (0, None), "count": (0, None)},
        periodic={"hour": (0, 24)},
        discrete=["count"],
    )
    log_density = density.score_samples(X[:50])
    assert np.isfinite(log_density).all()
    assert np.array_equal(named.fit(frame).score_samples(frame[:50]), log_density)
    again = pickle.loads(pickle.dumps(density))
    assert np.array_equal(again.score_samples(X[:50]), log_density)
    assert_allclose(density.score_samples(X[:50].astype(np.float32)), log_density, atol=0.02)
    drawn = named.set_output(transform="pandas").sample(200, random_state=0)
    assert (drawn["amount"] >= 0).all() and (drawn["count"] == drawn["count"].round()).all()
    assert drawn["hour"].between(0, 24, inclusive="left").all()
    assert_allclose(density.inverse_transform(density.transform(X[:50])), X[:50], atol=0.1)
    start = density.module_
    density.set_params(warm_start=True, learning_rate_init=1e-12).fit(X)
    assert_allclose(density.module_.folding.points, start.folding.points)
    with pytest.raises(ValueError, match="bounds, periodic and discrete of the former fit"):
        density.set_params(discrete=None).fit(X)


def test_what_a_flow_can_do_keeps_to_the_bounds():
    X = np.random.RandomState(0).exponential(size=(300, 2)) * [1, 10]
    flow = cheap_flow(bounds={0: (0, None), 1: (0, 200)}, early_stopping=False).fit(X)
    trajectory, times = flow.sample_trajectory(20, random_state=0, n_steps=200, return_times=True)
    assert (trajectory >= 0).all() and (trajectory[:, :, 1] <= 200).all()
    rate = (trajectory[101] - trajectory[99]) / (times[101] - times[99])
    assert_allclose(flow.velocity(trajectory[100], times[100]), rate, rtol=0.05, atol=0.05)
    assert np.isfinite(flow.score_function(X, 0.9)).all()
    assert (flow.langevin_dynamics(X, n_steps=5, random_state=0) >= 0).all()
    assert not flow.log_density_error(X).any()
    drawn = flow.sample(50, sampler="euler_maruyama", n_steps=10)
    assert (drawn >= 0).all() and (drawn[:, 1] <= 200).all()


def test_positions_on_a_circle_are_the_same_a_turn_later():
    rng = np.random.RandomState(0)
    angle = rng.vonmises(0, 3, 400) % (2 * np.pi)  # on both sides of where the numbers begin
    X = np.column_stack([angle, np.cos(angle) + 0.2 * rng.normal(size=400)])
    declared = {"periodic": {0: (0, 2 * np.pi)}, "preconditioning": "standardize"}
    flow = cheap_flow(**declared, max_iter=40).fit(X)
    later = np.add(X, [2 * np.pi, 0])
    for found in (flow.velocity, flow.score_function):
        assert_allclose(found(X, 0.8), found(later, 0.8), rtol=1e-9, atol=1e-9)
    near = np.array([[0.001, 1.0], [2 * np.pi - 0.001, 1.0]])
    for found in (flow.velocity, flow.score_function):
        assert_allclose(*found(near, 0.8), rtol=0.02, atol=0.02)


def test_a_base_shares_the_bounds():
    X, bounds = ROWS["above"][0], {0: (2, None)}
    with pytest.raises(ValueError, match="base must have the same bounds, got GaussianMLE"):
        cheap_flow(bounds=bounds, base=GaussianMLE()).fit(X)
    density = cheap_flow(bounds=bounds, base=cheap_coupling(bounds=bounds), max_iter=30).fit(X)
    grid = 2 + np.geomspace(1e-9, 100, 4001)  # a flow may be steep at the bound
    integral = trapezoid(np.exp(density.score_samples(grid[:, None])), grid)
    assert integral == pytest.approx(1, abs=1e-3)


def test_nothing_declared_changes_nothing():
    X = table()[:, [0, 3]]
    for make in MAKERS.values():
        plain, empty = make().fit(X), make(bounds={}, periodic={}, discrete=[]).fit(X)
        open_ended = make(bounds={0: (None, None)}).fit(X)
        assert np.array_equal(plain.score_samples(X), empty.score_samples(X))
        assert np.array_equal(plain.score_samples(X), open_ended.score_samples(X))


def test_few_held_out_rows_are_not_trained_on():
    X = np.column_stack([np.arange(30.0), np.arange(30.0) % 7])
    density = cheap_coupling(discrete=[0, 1], validation_fraction=0.2)
    seen = {}
    trainer = type(density)._trainer

    def spy(self, kind, model, split, settings):
        seen[kind] = [{int(v) for v in part[:, 0]} for part in split]
        assert len(split.kept) == 16 * 24 and len(split.held) == 16 * 6
        return trainer(self, kind, model, split, settings)

    density._trainer = spy.__get__(density)
    density.fit(X)
    assert all(not train & held for train, held in seen.values())


def test_a_stack_takes_declared_members():
    X = table()
    members = [("coupling", cheap_coupling(**DECLARED)), ("gaussian", GaussianMLE())]
    stack = StackedDensity(estimators=members, random_state=0).fit(X)
    assert np.isfinite(stack.score_samples([[-1.0, 0, 0, 0]])).all()


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"bounds": {0: (0.5, None)}}, r"Column 0 of X must be .* \(0.5, inf\), got 0\.[0-4]"),
        ({"bounds": {2: (0, 3)}, "discrete": [2]}, r"Column 2 of X .* \(0.0, 3.0\), got [4-9]"),
        ({"bounds": {0: (1, 1)}}, r"bounds of column 0 must have low < high, got \(1, 1\)"),
        ({"bounds": {0: (float("nan"), 1)}}, "bounds of column 0 must have low < high"),
        ({"bounds": {0: 1}}, r"bounds of column 0 must be a pair of numbers \(low, high\), got 1"),
        ({"bounds": {0: ("a", 1)}}, "must be a pair of numbers"),
        ({"bounds": {4: (0, 1)}}, "bounds has the column 4; it must be a position from 0 to 3"),
        ({"bounds": {"hour": (0, 1)}}, "column 'hour'.* X has no column names"),
        ({"bounds": [(0, 1)]}, "'bounds' parameter of .* must be an instance"),
        ({"periodic": {1: (0, None)}}, "periodic of column 1 must have two ends"),
        ({"periodic": {1: (0, 24)}, "bounds": {1: (0, 24)}}, "Column 1 is in bounds and in peri"),
        ({"periodic": {2: (0, 2.5)}, "discrete": [2]}, r"periodic must be whole numbers, got"),
        ({"bounds": {2: (0.5, None)}, "discrete": [2]}, r"bounds must be whole numbers, got"),
        ({"discrete": [0]}, r"Column 0 is discrete, so it must hold whole numbers, got "),
        ({"discrete": [2, 2]}, "discrete has column 2 twice"),
        ({"discrete": "count"}, "'discrete' parameter of .* must be an array-like"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("estimator", [FlowMatchingDensity, RealNVPDensity])
def test_bad_declarations(estimator, parameters, message):
    with pytest.raises(ValueError, match=message):
        estimator(**parameters).fit(table())


def test_errors_name_the_column():
    frame = pandas.DataFrame(table(), columns=["amount", "hour", "count", "temperature"])
    with pytest.raises(ValueError, match=r"Column 0 \('amount'\) of X must be within"):
        cheap_coupling(bounds={"amount": (0.5, None)}).fit(frame)
    with pytest.raises(ValueError, match=r"one of the names \['amount', 'hour'"):
        cheap_coupling(discrete=["counts"]).fit(frame)
    with pytest.raises(ValueError, match=r"bounds has column 0 \('amount'\) twice"):
        cheap_coupling(bounds={"amount": (0, None), 0: (0, None)}).fit(frame)
