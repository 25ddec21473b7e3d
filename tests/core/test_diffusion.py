"""Diffusion chains against diffusers, and against a Gaussian mixture known in closed form."""

import math

import pytest
import torch

from skgen.core.chain_bound import chain_bound
from skgen.core.diffusion_samplers import (
    DIFFUSION_SAMPLERS,
    DiffusionSampler,
    Level,
    Step,
    posterior,
)
from skgen.core.paths import Parts
from skgen.core.schedules import BETA_SCHEDULES, SchedulePath

from . import gaussian_mixture as gm

T = 1000
BETAS = BETA_SCHEDULES["linear"](T)
PATH = SchedulePath(BETAS)


def level(step):
    return Level(*PATH.levels(step))


@pytest.mark.parametrize("name", BETA_SCHEDULES)
@pytest.mark.parametrize("n", [50, 1000])
def test_path_goes_through_the_steps_of_the_chain(name, n):
    betas = BETA_SCHEDULES[name](n).clamp(max=0.999)
    path = SchedulePath(betas)
    product = torch.cumprod(1 - betas, 0)
    for k in (1, 2, n // 2, n):
        alpha, sigma = path.levels(k)
        assert alpha**2 == pytest.approx(float(product[k - 1]), rel=1e-9)
        assert alpha**2 + sigma**2 == pytest.approx(1)
    assert path.levels(0) == (1.0, 0.0)
    assert path.levels(n)[0] < 0.1
    t = torch.linspace(0.01, 1 - 2 / n, 57, dtype=torch.float64)
    for value, rate in zip(
        torch.func.jvp(path.coefficients, (t,), (torch.ones_like(t),))[1],
        path.derivatives(t),
        strict=True,
    ):
        assert torch.allclose(value, rate, rtol=1e-6)
    on_steps = torch.arange(n, -1, -1, dtype=torch.float64) / n
    with torch.no_grad():  # then those of the steps are looked up
        for t in (*on_steps, on_steps[7] + 1e-4 / n):
            expected = path.coefficients(t[None])
            for found, value in zip(path.coefficients(t), expected, strict=True):
                assert found == pytest.approx(float(value), rel=1e-11, abs=1e-15)


def test_schedules_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for ours, theirs in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        scheduler = diffusers.DDPMScheduler(T, beta_schedule=theirs)
        betas = BETA_SCHEDULES[ours](T).clamp(max=0.999).float()
        assert torch.allclose(betas, scheduler.betas, atol=1e-6)


def in_double(scheduler):
    """The scheduler without the rounding of its float32 tables."""
    scheduler.betas = BETAS
    scheduler.alphas = 1 - BETAS
    scheduler.alphas_cumprod = torch.cumprod(1 - BETAS, 0)
    return scheduler


def position_and_parts(step, n=50):
    rng = torch.Generator().manual_seed(step)
    now = level(step)
    x = gm.sample(now.alpha, now.sigma, n, rng)
    return x, gm.parts(now.alpha, now.sigma, x)


@pytest.mark.parametrize(
    "variance, theirs", [("beta", "fixed_large"), ("beta_tilde", "fixed_small")]
)
@pytest.mark.parametrize("timesteps", [[999, 998], [500, 300], [400, 399], [20, 3], [1, 0], [0]])
def test_ancestral_step_is_that_of_diffusers(variance, theirs, timesteps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        T, trained_betas=BETAS.numpy(), variance_type=theirs, clip_sample=False
    )
    in_double(scheduler).set_timesteps(timesteps=timesteps)
    start, end = timesteps[0] + 1, timesteps[1] + 1 if len(timesteps) > 1 else 0
    x, parts = position_and_parts(start)
    expected = scheduler.step(
        parts.noise, timesteps[0], x, generator=torch.Generator().manual_seed(7)
    ).prev_sample
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(7))
    step = Step(x, parts, level(start), level(end), noise, None, variance)
    assert torch.allclose(DIFFUSION_SAMPLERS["ancestral"].step(step), expected, atol=1e-7)


@pytest.mark.parametrize("n_steps", [20, 50, 1000])
def test_ddim_step_is_that_of_diffusers(n_steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(T, trained_betas=BETAS.numpy(), clip_sample=False)
    in_double(scheduler).set_timesteps(n_steps)
    for t in scheduler.timesteps.tolist()[:: n_steps // 10]:
        start, end = t + 1, max(0, t + 1 - T // n_steps)
        x, parts = position_and_parts(start)
        expected = scheduler.step(parts.noise, t, x).prev_sample
        step = Step(x, parts, level(start), level(end), x, None, "beta")
        assert torch.allclose(DIFFUSION_SAMPLERS["ddim"].step(step), expected, atol=1e-7)


@pytest.mark.parametrize(
    "kind, theirs", [("dpm_solver++", "dpmsolver++"), ("dpm_solver++_sde", "sde-dpmsolver++")]
)
@pytest.mark.parametrize("n_steps", [10, 25])
def test_dpm_solver_is_that_of_diffusers(kind, theirs, n_steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        T, trained_betas=BETAS.numpy(), algorithm_type=theirs, timestep_spacing="linspace"
    )
    in_double(scheduler).set_timesteps(n_steps)
    steps = [*(t + 1 for t in scheduler.timesteps.tolist()), 0]
    x, before = position_and_parts(steps[0])[0], None
    ours, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for i in range(n_steps):
        now = level(steps[i])
        noise = torch.randn(x.shape, dtype=torch.float32, generator=ours).double()
        parts = gm.parts(now.alpha, now.sigma, x)
        expected = scheduler.step(parts.noise, scheduler.timesteps[i], x, generator=other)
        step = Step(x, parts, now, level(steps[i + 1]), noise, before, "beta")
        x, before = DIFFUSION_SAMPLERS[kind].step(step), (now, parts)
        assert torch.allclose(x, expected.prev_sample.double(), atol=1e-6)


def test_posterior_given_the_data_against_bayes_rule():
    now, then = level(300), level(240)
    beta = 1 - (now.alpha / then.alpha) ** 2
    data, position, variance = posterior(now, then, "beta_tilde")
    precision = 1 / then.sigma**2 + (now.alpha / then.alpha) ** 2 / beta
    assert variance == pytest.approx(1 / precision)
    assert data == pytest.approx(then.alpha / then.sigma**2 / precision)
    assert position == pytest.approx(now.alpha / then.alpha / beta / precision)
    assert posterior(now, then, "beta")[2] == pytest.approx(beta)


@pytest.mark.parametrize("kind", DIFFUSION_SAMPLERS)
@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_default_steps_keep_the_spread_within_modes(kind, name):
    n = 300 if kind == "ancestral" else DIFFUSION_SAMPLERS[kind].n_steps
    flow = gm.exact_flow(SchedulePath(BETA_SCHEDULES[name](T)))
    sampler, rng = DiffusionSampler(kind, n), torch.Generator().manual_seed(0)
    *_, (t, x) = sampler.positions(flow.given(None), 3000, rng)
    assert t == 1
    label = gm.log_joint(1.0, 0.0, x).argmax(1)
    root = torch.linalg.cholesky(torch.linalg.inv(gm.COVARIANCE))
    residual = torch.cat([(x[label == k] - gm.CENTRES[k]) @ root for k in range(3)])
    assert float(residual.std()) == pytest.approx(1, abs=0.03)
    assert torch.allclose(torch.bincount(label) / 3000, gm.WEIGHTS.float(), atol=0.04)


def test_steps_visited():
    assert DiffusionSampler("ddim", 1000).steps(PATH) == list(range(1000, -1, -1))
    for n in (1, 2, 7, 20, 300):
        steps = DiffusionSampler("ddim", n).steps(PATH)
        assert steps[-1] == 0 and steps == sorted(set(steps), reverse=True)
        assert len(steps) <= n + 1
        assert n == 1 or (steps[0] == 1000 and steps[-2] == 1)


def test_bound_of_a_gaussian_chain_in_closed_form():
    """With normal data and two steps every term is known."""
    path = SchedulePath(torch.tensor([0.3, 0.6], dtype=torch.float64))
    one, two = Level(*path.levels(1)), Level(*path.levels(2))

    class Normal:
        base = None

        def __init__(self):
            self.path = path

        def parts(self, t, x):
            alpha, sigma = path.coefficients(t)
            return Parts(alpha * x, sigma * x)  # of independent standard normal data and noise

    x = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = chain_bound(Normal(), x, "beta", torch.Generator().manual_seed(1)).mean()
    last = 0.5 * (two.sigma**2 - 1 - math.log(two.sigma**2)) + 0.5 * two.alpha**2
    data, _, variance = posterior(two, one, "beta")
    ratio = posterior(two, one, "beta_tilde")[2] / variance
    middle = 0.5 * (ratio - 1 - math.log(ratio) + data**2 * two.sigma**2 / variance)
    first = 0.5 * (one.sigma**2 / 0.3 + math.log(2 * math.pi * 0.3))
    assert float(found) == pytest.approx(-(last + middle + first), abs=0.05)


@pytest.mark.parametrize("variance, gap", [("beta", 0.0), ("beta_tilde", 1.07)])
def test_bound_is_below_the_log_density(variance, gap):
    flow = gm.exact_flow(PATH)
    x = gm.sample(1.0, 0.0, 2000, torch.Generator().manual_seed(0))
    bound = chain_bound(flow.given(None), x, variance, torch.Generator().manual_seed(1))
    difference = float((gm.log_prob(1.0, 0.0, x) - bound).mean())
    assert difference == pytest.approx(gap, abs=4 * float(bound.std()) / 2000**0.5)
