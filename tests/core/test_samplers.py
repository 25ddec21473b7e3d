import itertools
import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from skgen.core.pairing import optimal_transport
from skgen.core.paths import PATHS, LinearPath
from skgen.core.samplers import TIME_GRIDS, OdeSampler, StochasticSampler, langevin_step
from skgen.core.solvers import SOLVERS

from .gaussian_mixture import exact_flow, sample

N = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same_distribution(found, expected):
    """In a few directions, by the test of Kolmogorov and Smirnov."""
    for angle in (0.0, 1.0, 2.0):
        direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        result = stats.ks_2samp((found @ direction).numpy(), (expected @ direction).numpy())
        assert result.pvalue > 1e-3


def final(sampler, path, n=N, bias=0.0, seed=0):
    *_, (t, x) = sampler.positions(exact_flow(path, bias=bias), n, generator(seed))
    assert t == 1.0
    return x


def truth(path, t=1.0):
    ends = path.coefficients(torch.tensor(t, dtype=torch.float64))
    return sample(*ends, N, generator(9))


every_path = pytest.mark.parametrize("path", [path() for path in PATHS.values()], ids=PATHS)


@every_path
def test_ode_sampler_reaches_the_data(path):
    assert_same_distribution(final(OdeSampler(40, "cosine", 0, "rk4"), path), truth(path))


@every_path
@pytest.mark.parametrize("heun", [False, True])
def test_random_samplers_leave_the_marginals_unchanged(path, heun):
    grid = "uniform" if path.interval[1] == 1 else "quadratic"
    sampler = StochasticSampler(150, grid, 0, heun)
    states = list(sampler.positions(exact_flow(path), N, generator()))
    for t, x in (states[75], states[-1]):
        assert_same_distribution(x, truth(path, t))


@pytest.mark.parametrize("diffusion", [0.0, 0.3, lambda t: 0.5 * t * (1 - t), lambda t: 1 - t])
def test_any_diffusion_leaves_the_marginals_unchanged(diffusion):
    path = LinearPath()
    sampler = StochasticSampler(200, "cosine", 0, True, diffusion)
    assert_same_distribution(final(sampler, path), truth(path))


def test_a_negative_diffusion_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        final(StochasticSampler(5, "uniform", 0, True, -1.0), LinearPath())


def test_without_diffusion_the_random_samplers_are_the_ode():
    path = LinearPath()
    found = final(StochasticSampler(400, "cosine", 0, True, 0.0), path, 50)
    assert_close(found, final(OdeSampler(400, "cosine", 0, "rk4"), path, 50), rtol=0, atol=2e-2)


@pytest.fixture(scope="module")
def exact_ends():
    return final(OdeSampler(300, "quadratic", 0, "dopri5"), PATHS["trigonometric"](), 30)


@pytest.mark.parametrize(
    "solver, grid",
    [*((solver, "uniform") for solver in SOLVERS), *(("heun", g) for g in TIME_GRIDS)],
)
def test_observed_order_is_that_of_theory(solver, grid, exact_ends):
    path, order = PATHS["trigonometric"](), SOLVERS[solver].order
    if grid == "three_halves":  # the slopes have no derivative at the end
        order = 1.5
    n = 60 if order > 2 else 150
    errors = [
        float((final(OdeSampler(k, grid, 0, solver), path, 30) - exact_ends).norm())
        for k in (n, 2 * n)
    ]
    assert math.log2(errors[0] / errors[1]) > order - 0.4 - (solver == "adams")


@pytest.mark.parametrize(
    "sampler, times",
    [
        (OdeSampler(49, "uniform", 0, "adams"), 50),
        (OdeSampler(49, "quadratic", 0, "adams"), 49),
        (OdeSampler(8, "three_halves", 0, "adams"), 8),
        (OdeSampler(49, "quadratic", 0, "heun"), 97),
        (None, 64),
    ],
)
def test_the_network_is_not_asked_where_slopes_vanish(sampler, times, monkeypatch):
    flow, seen = exact_flow(LinearPath()), []
    flow.sampler, field = sampler, flow.network.field

    def watched(*settings):
        call = field(*settings)
        return lambda r, x: seen.append(r) or call(r, x)

    monkeypatch.setattr(flow.network, "field", watched)
    flow.sample(3, generator())
    assert len(seen) == times
    if sampler is None:
        seen.clear()
        flow.log_prob(torch.zeros(3, 2, dtype=torch.float64))
        assert len(seen) == times


class GaussianNetwork(torch.nn.Module):
    """Excess velocity of the straight path to N(0, 4 I), linear in x."""

    def field(self, dtype, divergence=False, times=()):
        def call(r, x):
            gain = (4 * r - (1 - r)) / (4 * r**2 + (1 - r) ** 2)
            return (gain - (2 * r - 1) / (r**2 + (1 - r) ** 2)) * x

        return call


@pytest.mark.parametrize("heun, order", [(False, 1), (True, 2)])
def test_observed_weak_order_of_random_samplers(heun, order, monkeypatch):
    """On a linear field the end is linear in all random numbers, and its variance known exactly."""

    def variance(n_steps):
        # Row k is the response to the k-th random number alone.
        rows = iter(torch.eye(n_steps + 1, dtype=torch.float64)[..., None].expand(-1, -1, 2))
        flow = exact_flow(LinearPath())
        flow.network = GaussianNetwork()
        monkeypatch.setattr("skgen.core.samplers.standard_normal", lambda *_: next(rows))
        x, sampler = next(rows), StochasticSampler(n_steps, heun=heun, diffusion=0.4)
        times = torch.linspace(0, 0.5, n_steps + 1, dtype=torch.float64)
        for t, t_next in itertools.pairwise(times):
            x = sampler._step(flow, x, t, t_next, generator())
        return float(x[:, 0].square().sum())

    truth = 4 * 0.25 + 0.25
    errors = [abs(variance(n) - truth) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_corrections_leave_the_marginals_unchanged(sampler):
    path = LinearPath()
    kinds = {"ode": OdeSampler(60, "cosine", 2, "heun"), "sde": StochasticSampler(100, "cosine", 1)}
    assert_same_distribution(final(kinds[sampler], path), truth(path))


def test_langevin_dynamics_leave_their_density_unchanged_and_lead_to_it():
    path, t = LinearPath(), torch.tensor(0.6, dtype=torch.float64)
    flow, source = exact_flow(path), generator()
    same, other = truth(path, 0.6), 0.3 * truth(path, 0.6) + 1
    for _ in range(300):
        same = langevin_step(flow, same, t, 0.1, source)
        other = langevin_step(flow, other, t, 0.1, source)
    assert_same_distribution(same, truth(path, 0.6))
    assert_same_distribution(other, truth(path, 0.6))


@pytest.mark.parametrize("n_steps", [50, 250])
def test_default_diffusion_bears_a_biased_velocity(n_steps):
    """The spread within a mode stays right, where a constant diffusion makes it too large."""
    path = LinearPath()

    def spread(diffusion):
        sampler = StochasticSampler(n_steps, "uniform", 0, False, diffusion)
        found, true = final(sampler, path, bias=0.15), truth(path)
        inner = [x[x[:, 0] > 0.6] for x in (found, true)]
        return float(inner[0].std(0).mean() / inner[1].std(0).mean())

    assert 1 / 1.15 < spread(None) < 1.15 < spread(1.0)


def test_optimal_transport_is_the_best_permutation_of_each_block():
    noise, x = torch.randn(2, 7, 3, generator=generator())
    order = optimal_transport(noise, x, block_size=4)
    assert sorted(order.tolist()) == list(range(7)) and sorted(order[:4].tolist()) == [0, 1, 2, 3]
    best = min(
        sum(float((x[i] - noise[j]).square().sum()) for i, j in enumerate(p))
        for p in itertools.permutations(range(4))
    )
    assert float((x[:4] - noise[order[:4]]).square().sum()) == pytest.approx(best, rel=1e-5)


def test_straightness_of_a_gaussian():
    """For N(0, I) the straight path moves as ``sqrt(t^2 + (1-t)^2)``; the rest is arithmetic."""
    flow = exact_flow(LinearPath())

    class Nothing(type(flow.network)):
        def field(self, dtype, divergence=False, times=()):
            return lambda t, x: torch.zeros_like(x)

    flow.network = Nothing()
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    expected = ((t**2 + (1 - t) ** 2).sqrt().diff() * 64).square().mean()
    assert flow.straightness(4000, generator()) == pytest.approx(float(expected), rel=0.1)
