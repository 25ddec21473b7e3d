"""Denoising diffusion as an estimator."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone

from skgen import DDPMGenerator, FlowMatchingDensity
from skgen.core.progress import RowBar

from .estimators import cheap_diffusion

RNG = np.random.RandomState(0)
LABELS = np.resize([-1.0, 1.0], 3000)
X = 2 * LABELS[:, None] * [1.0, 0.5] + 0.3 * RNG.normal(size=(3000, 2)) + [5.0, -3.0]


@pytest.fixture(scope="module")
def diffusion():
    settings = {"hidden_layer_sizes": (64, 64), "max_iter": 1500, "preconditioning": "standardize"}
    return DDPMGenerator(**settings, n_timesteps=300, defensive_weight=0, random_state=0).fit(X)


def spread(rows):
    """Mean standard deviation within the two modes, over the true one."""
    right = rows[:, 0] > 5
    return np.mean([rows[right].std(0), rows[~right].std(0)]) / 0.3


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"sampler": "ddim"},
        {"sampler": "dpm_solver++"},
        {"sampler": "dpm_solver++", "n_steps": 10},
        {"sampler": "dpm_solver++_sde"},
        {"sampler": "heun"},
        {"sampler": "euler_maruyama", "n_steps": 200},
    ],
)
def test_samplers_keep_the_spread_within_modes(diffusion, way):
    drawn = diffusion.sample(4000, random_state=0, **way)
    assert spread(drawn) == pytest.approx(1, abs=0.04)
    assert np.mean(drawn[:, 0] > 5) == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(drawn, diffusion.sample(4000, random_state=0, **way))


@pytest.mark.parametrize("posterior_variance, gap", [("beta", 0.5), ("beta_tilde", 2.0)])
def test_bound_is_below_the_log_density(diffusion, posterior_variance, gap):
    some = X[::6]
    chain = copy.copy(diffusion).set_params(posterior_variance=posterior_variance)
    below = chain.score_samples(some) - chain.elbo(some, random_state=0, n_draws=8)
    error = below.std() / len(below) ** 0.5
    assert -3 * error < below.mean() < gap and error < 0.05


def test_density_is_that_of_flow_matching(diffusion):
    settings = {"hidden_layer_sizes": (64, 64), "max_iter": 1500, "preconditioning": "standardize"}
    flow = FlowMatchingDensity(**settings, random_state=0).fit(X)
    assert diffusion.score(X) == pytest.approx(flow.score(X), abs=0.1)


@pytest.mark.parametrize("prediction_type", ["noise", "velocity", "data"])
@pytest.mark.parametrize("beta_schedule", ["linear", "cosine", np.linspace(0.001, 0.1, 100)])
def test_predictions_and_schedules(prediction_type, beta_schedule):
    diffusion = cheap_diffusion(
        prediction_type=prediction_type, beta_schedule=beta_schedule, max_iter=300
    ).fit(X)
    assert diffusion.betas_.shape == (100,)
    drawn = diffusion.sample(1000, random_state=0)
    assert_allclose(drawn.mean(0), [5, -3], atol=0.3)
    assert_allclose(drawn.std(0), X.std(0), rtol=0.1)


def test_bound_is_below_the_density_of_the_equation(diffusion):
    rows = X[:1500]
    bound = diffusion.elbo(rows, random_state=0)
    assert bound.shape == (1500,)
    gap = diffusion.score(rows) - bound.mean()
    assert -0.2 < gap < 0.4
    small = clone(diffusion).set_params(posterior_variance="beta_tilde", max_iter=20).fit(X)
    small.module_ = diffusion.module_
    assert diffusion.score(rows) - small.elbo(rows, random_state=0).mean() > gap + 0.5
    assert_allclose(
        diffusion.elbo(rows[:5], random_state=1), diffusion.elbo(rows[:5], random_state=1)
    )


def test_noise_is_added_as_the_schedule_says(diffusion):
    assert_allclose(diffusion.add_noise(X, 0), X, atol=1e-9)
    noisy = diffusion.add_noise(X, 100, random_state=0)
    level = np.prod(1 - diffusion.betas_[:100])
    centre = X.mean(0)
    assert_allclose(noisy.mean(0), centre, atol=0.1)
    slope = np.sum((noisy - centre) * (X - centre)) / np.sum((X - centre) ** 2)
    assert slope == pytest.approx(np.sqrt(level), abs=0.05)
    assert_allclose(np.cov(noisy.T), np.cov(X.T), rtol=0.15)  # whitened data keep their variance


def test_trajectories_end_in_samples(diffusion):
    path, times = diffusion.sample_trajectory(50, random_state=0, return_times=True)
    assert path.shape == (301, 50, 2)
    assert_allclose(times, np.linspace(0, 1, 301), atol=1e-9)
    assert_allclose(path[0].mean(0), X.mean(0), atol=1.5)
    assert spread(path[-1]) == pytest.approx(1, abs=0.2)
    few = diffusion.sample_trajectory(5, random_state=0, sampler="dpm_solver++", n_steps=8)
    assert few.shape == (9, 5, 2)


def test_conditional_and_guided():
    label = np.where(LABELS > 0, "right", "left")
    diffusion = cheap_diffusion(conditional=True, max_iter=400, n_sampling_steps=30, sampler="ddim")
    diffusion.fit(X, label)
    assert diffusion.sample(300, y="right", random_state=0)[:, 0].mean() == pytest.approx(
        7, abs=0.3
    )
    assert diffusion.sample(300, y="left", guidance=1.0, random_state=0)[:, 0].mean() < 3.5
    assert_allclose(diffusion.add_noise(X[:9], 0), X[:9], atol=1e-9)
    assert diffusion.elbo(X[:100], label[:100]).mean() > diffusion.elbo(X[:100]).mean()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda d: cheap_diffusion(beta_schedule=[0.1, 0.2]).fit(X),
            r"n_timesteps=100 numbers.*\(2,\)",
        ),
        (lambda d: cheap_diffusion(beta_schedule=np.zeros(100)).fit(X), "between 0 and 1"),
        (lambda d: cheap_diffusion(beta_schedule=[]).fit(X), r"got \[\] of shape \(0,\)"),
        (lambda d: d.sample(2, sampler="dpm"), "sampler must be one of.*'dpm_solver"),
        (lambda d: d.sample(2, sampler="ddim", n_steps=0), "n_steps == 0"),
        (lambda d: d.sample(2, sampler="ddim", diffusion=1.0), "takes no diffusion=1.0."),
        (lambda d: d.add_noise(X, 301), "step == 301"),
        (lambda d: d.elbo(X, n_draws=0), "n_draws == 0"),
    ],
)
def test_bad_input(diffusion, call, message):
    with pytest.raises(ValueError, match=message):
        call(diffusion)


@pytest.mark.parametrize(
    "call, n_steps",
    [
        *((lambda f, s=s: f.sample(6, sampler=s, n_steps=10), 10)
          for s in ("ddim", "dpm_solver++", "heun", "euler_maruyama")),
        (lambda f: f.sample_trajectory(6, sampler="ddim", n_steps=10), 10),
        (lambda f: f.langevin_dynamics(X[:6], n_steps=7), 7),
        (lambda f: f.elbo(X[:6], n_draws=2), 200),
        (lambda f: f.score_samples(X[:6]), 12),
    ],
)  # fmt: skip
def test_steps_of_long_loops_move_the_progress_bar(call, n_steps, monkeypatch):
    chain = cheap_diffusion(defensive_weight=0).fit(X[:100])  # no solver_tol: as many steps as said
    moved = []
    monkeypatch.setattr(RowBar, "add", lambda self, rows: moved.append(rows))
    call(chain)
    steps = moved[:n_steps]
    assert_allclose(steps, 6 / n_steps)
    assert moved[n_steps:] in ([6], [])  # the chunk, which a trajectory is as a whole
