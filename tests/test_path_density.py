"""Paths, training targets, samplers, velocity and score function of the flows."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.stats import ks_2samp, kstest, multivariate_normal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skgen import DDPMGenerator, FlowMatchingDensity, GaussianMLE
from skgen.core.divergence import draw_probes
from skgen.core.paths import PATHS, GaussianPath
from skgen.core.solvers import SOLVERS
from skgen.datasets import TwoMoons

from .estimators import cheap_flow

X = np.random.RandomState(0).normal(size=(400, 2)) @ [[2.0, 1.0], [0.0, 0.5]] + [3.0, -1.0]


class OwnPath(GaussianPath):
    """Curved; where a test says so, wrong."""

    def __init__(self, wrong=None):
        self.wrong = wrong

    def coefficients(self, t):
        return (1 + 0 * t, 1 + t) if self.wrong == "noise" else (t**2, 1 - t)

    def derivatives(self, t):
        return (t if self.wrong == "rate" else 2 * t), -1 + 0 * t


def gaussian_flow(**parameters):
    """Untrained, hence the flow of a Gaussian, whose everything is known."""
    settings = {"preconditioning": "standardize", "defensive_weight": 0, "max_iter": 1,
                "learning_rate_init": 1e-12, "early_stopping": False, "reg_covar": 0}  # fmt: skip
    return cheap_flow(**{**settings, **parameters}).fit(X)


@pytest.fixture(scope="module")
def moons():
    settings = {"hidden_layer_sizes": (64, 64), "max_iter": 800, "defensive_weight": 0}
    return FlowMatchingDensity(**settings, random_state=0).fit(TwoMoons().sample(3000, 0))


@pytest.mark.parametrize("path", [*PATHS, OwnPath()], ids=[*PATHS, "own"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "data"])
def test_any_path_and_prediction_gives_a_density_and_its_samples(path, prediction):
    rows = np.random.RandomState(0).normal(size=(400, 1)) + 3 * np.resize([-1.0, 1.0], (400, 1))
    flow = FlowMatchingDensity(
        path=path, prediction=prediction, hidden_layer_sizes=(32, 32), max_iter=150, solver_tol=0,
        preconditioning="standardize", early_stopping=False, defensive_weight=0, random_state=0,
    ).fit(rows)  # fmt: skip
    grid = np.linspace(-40, 40, 20_001)
    density = np.exp(flow.score_samples(grid[:, None]))
    assert trapezoid(density, grid) == pytest.approx(1, abs=0.01)
    assert flow.score(rows) > GaussianMLE().fit(rows).score(rows) + 0.2
    drawn = flow.sample(2000, random_state=0)[:, 0]
    mass = cumulative_trapezoid(density, grid, initial=0)
    assert kstest(drawn, lambda x: np.interp(x, grid, mass)).pvalue > 1e-3


@pytest.mark.parametrize("wrong, message", [("noise", "must increase"), ("rate", "derivative of")])
def test_a_wrong_path_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        cheap_flow(path=OwnPath(wrong)).fit(X)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_velocity_and_score_function_of_a_gaussian_in_units_of_x(path, t):
    flow = gaussian_flow(path=path)
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    schedule = PATHS[path]()
    alpha, sigma = (float(c) for c in schedule.coefficients(_tensor(t)))
    rate = float(schedule.gaussian_gain(_tensor(t)))
    away = X - mean
    assert_allclose(flow.velocity(X, t), rate * away, rtol=1e-6, atol=1e-8)
    expected = -away @ np.linalg.inv((alpha**2 + sigma**2) * covariance)
    assert_allclose(flow.score_function(X, t), expected, rtol=1e-6, atol=1e-8)


def test_score_function_accounts_for_curved_preconditioning():
    flow = gaussian_flow(preconditioning="gaussianize")
    t, step = 0.7, 1e-5
    bijection = flow.module_.components[0].bijection

    def log_density(rows):
        z, log_det = bijection(_tensor(rows))
        return (-0.5 * z.square().sum(1) / (t**2 + (1 - t) ** 2) + log_det).numpy()

    inner = X[:50]
    expected = [
        (log_density(inner + step * e) - log_density(inner - step * e)) / (2 * step)
        for e in np.eye(2)
    ]
    assert_allclose(flow.score_function(inner, t), np.transpose(expected), rtol=1e-4, atol=1e-4)


def test_velocity_is_that_of_trajectories(moons):
    trajectory, times = moons.sample_trajectory(
        50, random_state=0, n_steps=400, time_grid="uniform", return_times=True
    )
    assert_allclose(times, np.linspace(0, 1, 401), atol=1e-7)
    for k in (40, 200, 320):
        found = (trajectory[k + 1] - trajectory[k - 1]) / (times[k + 1] - times[k - 1])
        assert_allclose(moons.velocity(trajectory[k], times[k]), found, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("sampler", [*SOLVERS, "euler_maruyama", "stochastic_heun"])
def test_samplers_give_the_same_distribution(moons, sampler):
    n_steps = 400 if sampler in ("euler", "euler_maruyama") else 100
    drawn = moons.sample(
        1500, random_state=0, sampler=sampler, n_steps=n_steps, time_grid="quadratic"
    )
    exact = moons.sample(1500, random_state=1)
    for column, other in zip(drawn.T, exact.T, strict=True):
        assert ks_2samp(column, other).pvalue > 1e-3
    again = moons.sample(
        1500, random_state=0, sampler=sampler, n_steps=n_steps, time_grid="quadratic"
    )
    assert np.array_equal(drawn, again)
    assert moons.module_.components[0].model.sampler is None


def test_threads_may_draw_by_different_samplers(moons):
    def draw(k):
        way = {"sampler": "euler", "n_steps": 1 + k} if k % 2 else {}
        return moons.sample(300, random_state=0, **way)

    alone = [draw(k) for k in range(12)]
    with ThreadPoolExecutor(4) as threads:
        for drawn, expected in zip(threads.map(draw, range(12)), alone, strict=True):
            assert np.array_equal(drawn, expected)


def test_langevin_dynamics_keep_the_density_of_their_time():
    flow = gaussian_flow()
    t = 0.8
    start = np.full((3000, 2), 3.0)
    moved = flow.langevin_dynamics(start, t=t, n_steps=2500, step_size=0.1, random_state=0)
    expected = (t**2 + (1 - t) ** 2) * np.cov(X.T, bias=True)
    assert_allclose(moved.mean(0), X.mean(0), atol=0.15)
    assert_allclose(np.cov(moved.T), expected, atol=0.3)
    assert_allclose(flow.langevin_dynamics(start, n_steps=0), start)


def test_optimal_transport_straightens():
    rows = TwoMoons().sample(1000, random_state=0)
    settings = {"max_iter": 400, "hidden_layer_sizes": (32, 32), "early_stopping": False,
                "preconditioning": "standardize", "random_state": 0}  # fmt: skip
    flow = FlowMatchingDensity(**settings).fit(rows)
    straight = clone(flow).set_params(coupling="optimal_transport").fit(rows)
    assert straight.straightness(500) < 0.7 * flow.straightness(500)
    assert straight.score(rows) > GaussianMLE().fit(rows).score(rows) + 0.3
    with pytest.raises(ValueError, match=r"score function.*coupling='optimal_transport'"):
        straight.score_function(rows, 0.5)
    with pytest.raises(ValueError, match="drawn independently"):
        straight.sample(3, sampler="euler_maruyama")
    assert straight.sample(3, sampler="euler", n_steps=2).shape == (3, 2)


@pytest.mark.parametrize("preconditioning", ["standardize", "gaussianize"])
@pytest.mark.parametrize("base", [GaussianMixture(2), KernelDensity(bandwidth=0.5)])
def test_any_density_is_a_base(base, preconditioning):
    rows = np.random.RandomState(0).normal(size=(400, 1)) + 3 * np.resize([-1.0, 1.0], (400, 1))
    other = FrozenEstimator(clone(base).fit(rows / 2 + 1))
    flow = cheap_flow(
        base=other, preconditioning=preconditioning, max_iter=200, defensive_weight=0, solver_tol=0,
        n_steps=64, hidden_layer_sizes=(32, 32),
    ).fit(rows)  # fmt: skip
    grid = np.linspace(-30, 30, 20_001)
    density = np.exp(flow.score_samples(grid[:, None]))
    assert trapezoid(density, grid) == pytest.approx(1, abs=0.01)
    drawn = flow.sample(1500, random_state=0)[:, 0]
    mass = cumulative_trapezoid(density, grid, initial=0)
    assert kstest(drawn, lambda x: np.interp(x, grid, mass)).pvalue > 1e-3
    start = flow.sample_trajectory(1500, random_state=0)[0][:, 0]
    assert ks_2samp(start, np.ravel(rows / 2 + 1)).pvalue > 1e-4 or base.__class__ is KernelDensity
    assert flow.score(rows) > other.score_samples(rows).mean() + 0.5
    with pytest.raises(ValueError, match="score function"):
        flow.score_function(rows, 0.5)
    again = pickle.loads(pickle.dumps(flow))
    assert_allclose(again.score_samples(rows), flow.score_samples(rows))
    assert np.array_equal(clone(flow).fit(rows).score_samples(rows), flow.score_samples(rows))


def test_a_normal_base_of_any_mean_and_covariance():
    mean, covariance = np.array([3.0, -2.0]), np.array([[2.0, 0.3], [0.3, 0.5]])
    flow = gaussian_flow(base=(mean, covariance))
    expected = multivariate_normal(mean, covariance).logpdf(X)
    assert_allclose(flow.score_samples(X), expected, atol=1e-6)
    start = flow.sample_trajectory(4000, random_state=0)[0]
    assert_allclose(start.mean(0), mean, atol=0.1)
    assert_allclose(np.cov(start.T), covariance, atol=0.15)


@pytest.mark.parametrize(
    "coupling, base",
    [("independent", KernelDensity(bandwidth=0.3)), ("optimal_transport", "normal")],
)
def test_rows_are_carried_to_rows(coupling, base):
    moons = TwoMoons().sample(2000, random_state=0)
    source = np.random.RandomState(1).normal(size=(1000, 2)) * [0.3, 0.6] + [4.0, 1.0]
    flow = FlowMatchingDensity(
        base=base, coupling=coupling, hidden_layer_sizes=(32, 32), max_iter=600, random_state=0,
        preconditioning="standardize", defensive_weight=0, early_stopping=False,
    ).fit(moons, X_base=source)  # fmt: skip
    moved = flow.transport(source)
    assert_allclose(moved.mean(0), moons.mean(0), atol=0.15)
    assert TwoMoons().score_samples(moved).mean() > TwoMoons().score_samples(source).mean() + 5
    assert_allclose(flow.transport(moved, inverse=True), source, atol=0.02)
    assert flow.score(moons) > GaussianMLE().fit(moons).score(moons) + 0.05
    assert not hasattr(flow, "_X_base") or flow._X_base is None
    with pytest.raises(ValueError, match="score function"):
        flow.score_function(moons, 0.5)


def test_rows_of_a_base_need_the_columns_of_X():
    with pytest.raises(ValueError, match=r"X_base is invalid. X has 1 features.* expecting 2"):
        cheap_flow().fit(X, X_base=X[:, :1])
    frame = pandas.DataFrame(X, columns=["a", "b"])
    with pytest.raises(ValueError, match=r"X_base is invalid. The feature names should match"):
        cheap_flow().fit(frame, X_base=frame[["b", "a"]])
    flow = cheap_flow(base="normal").fit(frame, X_base=frame + 1)
    assert_allclose(flow.transport(frame), flow.transport(frame.to_numpy().tolist()))


def test_warm_start_knows_the_parameters_of_the_base():
    flow = cheap_flow(warm_start=True, base=GaussianMLE()).fit(X)
    assert np.isfinite(flow.fit(X).score(X))
    flow.set_params(base__covariance_type="diag")
    with pytest.raises(ValueError, match=r"base__covariance_type='full', got .*='diag'"):
        flow.fit(X)
    with pytest.raises(ValueError, match=r"with base=GaussianMLE.*, got base='normal'"):
        flow.set_params(base="normal").fit(X)


def test_rows_of_a_base_cannot_take_the_place_of_noise():
    flow = cheap_flow(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="continues a fit from noise, got X_base"):
        flow.fit(X, X_base=X + 1)
    flow = cheap_flow(warm_start=True).fit(X, X_base=X + 1)
    assert np.isfinite(flow.fit(X, X_base=X + 1).score(X))


def test_reflow_straightens_and_keeps_the_density():
    moons = TwoMoons().sample(3000, random_state=0)
    flow = FlowMatchingDensity(
        hidden_layer_sizes=(64, 64), max_iter=800, preconditioning="standardize", random_state=0
    ).fit(moons)
    before, score = flow.straightness(500, 0), flow.score(moons)
    coarse = few_step_error(flow)
    assert flow.reflow(3000, max_iter=800, random_state=0) is flow
    assert flow.straightness(500, 0) < 0.3 * before
    assert few_step_error(flow) < 0.5 * coarse
    assert flow.score(moons) == pytest.approx(score, abs=0.2)
    with pytest.raises(ValueError, match="straightened by reflow"):
        flow.score_function(moons, 0.5)
    again = pickle.loads(pickle.dumps(flow))
    assert_allclose(again.score_samples(moons), flow.score_samples(moons))


def test_reflow_of_a_copy_leaves_the_original():
    flow = cheap_flow().fit(X)
    before, shallow = flow.score_samples(X), copy.copy(flow)
    shallow.reflow(200, max_iter=5, random_state=0)
    assert_allclose(flow.score_samples(X), before, rtol=0, atol=0)
    assert not np.array_equal(shallow.score_samples(X), before)


def test_a_warm_start_after_reflow_has_a_score_function_again():
    flow = cheap_flow(warm_start=True).fit(X).reflow(200, max_iter=5, random_state=0)
    with pytest.raises(ValueError, match="straightened by reflow"):
        flow.score_function(X, 0.5)
    assert np.isfinite(flow.fit(X).score_function(X, 0.5)).all()


def few_step_error(flow):
    exact = flow.sample_trajectory(500, random_state=0, n_steps=128)[-1]
    few = flow.sample_trajectory(
        500, random_state=0, sampler="euler", n_steps=4, time_grid="uniform"
    )[-1]
    return np.sqrt(np.mean((few - exact) ** 2))


def test_a_base_needs_a_path_that_starts_as_noise():
    with pytest.raises(ValueError, match="start as the noise alone"):
        cheap_flow(base=GaussianMLE(), path="variance_exploding").fit(X)


def test_the_untrained_flow_of_a_fitted_base():
    """With no velocity beyond that of a Gaussian, the data have the density of the base."""
    flow = gaussian_flow(base=GaussianMLE())
    assert_allclose(flow.score_samples(X), GaussianMLE().fit(X).score_samples(X), atol=1e-6)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
@pytest.mark.parametrize("sizes", [(16, 16), (16, 16, 16)])
def test_hutchinson_is_unbiased_with_the_error_it_reports(kind, sizes):
    rows = TwoMoons().sample(500, random_state=0)
    rows = np.column_stack(
        [rows, rows[:, 0] ** 2 + 0.1 * np.random.RandomState(0).normal(size=500)]
    )
    settings = {"hidden_layer_sizes": sizes, "max_iter": 60, "preconditioning": "standardize",
                "early_stopping": False, "defensive_weight": 0, "solver_tol": 0,
                "n_steps": 8}  # fmt: skip
    flow = FlowMatchingDensity(**settings, random_state=0).fit(rows)
    assert not flow.log_density_error(rows[:30]).any()
    expected = flow.score_samples(rows[:30])
    estimates, errors = [], []
    for seed in range(12):
        flow._model.probes = draw_probes(kind, 8, 3, torch.Generator().manual_seed(seed))
        estimates.append(flow.score_samples(rows[:30]))
        errors.append(flow.log_density_error(rows[:30]))
    spread = np.std(estimates, axis=0)
    off = (np.mean(estimates, axis=0) - expected) / (spread / np.sqrt(12) + 1e-9)
    assert np.abs(off).mean() < 1.5
    assert np.mean(errors) == pytest.approx(spread.mean(), rel=0.35)
    fitted = clone(flow).set_params(divergence=kind, n_probes=8).fit(rows)
    assert fitted.log_density_error(rows[:30]).mean() > 0
    # The probes are those of the row, whichever rows are beside it.
    alone, among = fitted.score_samples(rows[:5]), fitted.score_samples(rows[:30])[:5]
    assert_allclose(alone, among, rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: f.sample(2, sampler="eular"), r"sampler must be one of \['adams'.*got 'eular'"),
        (lambda f: f.sample(2, sampler="rk4", time_grid="log"), "time_grid must be one of"),
        (lambda f: f.sample(2, sampler="rk4", n_steps=0), "n_steps == 0"),
        (
            lambda f: f.sample(2, n_steps=8),
            "takes no n_steps=8. It takes the steps that solver_tol",
        ),
        (lambda f: f.sample(2, time_grid="log", n_corrections=1), "='log' and no n_corrections=1."),
        (lambda f: f.sample(2, sampler="rk4", diffusion=1.0), "sampler='rk4' solves an ODE"),
        (lambda f: f.sample(2, sampler="euler_maruyama", diffusion=-1.0), "must not be negative"),
        (lambda f: f.velocity(X, 1.5), "t == 1.5"),
        (lambda f: f.score_function(X, 1.0), "no noise at t=1.0"),
        (lambda f: f.langevin_dynamics(X, step_size=0), "step_size == 0"),
        (lambda f: f.velocity(X[:, :1], 0.5), "1 features"),
        (lambda f: f.reflow(0), "n_samples must be"),
        (
            lambda f: gaussian_flow(base=(np.zeros(3), np.eye(3))),
            r"got shapes \[\(3,\), \(3, 3\)\]",
        ),
        (lambda f: gaussian_flow(base=(np.zeros(2), -np.eye(2))), "positive semidefinite"),
        (lambda f: gaussian_flow(base=([0.0, np.nan], np.eye(2))), "finite numbers, got .* nan"),
        (lambda f: f.reflow(10, max_iter=0), "max_iter == 0"),
    ],
)
def test_bad_input(call, message):
    flow = gaussian_flow()
    with pytest.raises(ValueError, match=message):
        call(flow)


def _tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def test_exact_is_a_sampler_too():
    X = np.random.RandomState(0).normal(size=(200, 2))
    flow = FlowMatchingDensity(max_iter=20, early_stopping=False, random_state=0).fit(X)
    assert np.array_equal(flow.sample(5, sampler="exact"), flow.sample(5))
    chain = DDPMGenerator(max_iter=20, n_timesteps=9, early_stopping=False, random_state=0).fit(X)
    assert np.array_equal(
        chain.sample(5, sampler="exact"), chain.set_params(sampler="exact").sample(5)
    )
