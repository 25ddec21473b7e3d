import math
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skgen.core import matching
from skgen.core.draws import stratified
from skgen.core.flow import Flow
from skgen.core.gaussian import Gaussian
from skgen.core.interfaces import Bijection
from skgen.core.marginals import Whitening
from skgen.core.models import Mixture, Preconditioned
from skgen.core.objectives import Objective
from skgen.core.paths import PATHS, LinearPath, Parts
from skgen.core.refinement import SolverAccuracyWarning, refined
from skgen.core.solvers import SOLVERS
from skgen.core.times import TrainingTimes

MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
SCALE = torch.tensor([0.3, 1.6], dtype=torch.float64)


class ExactVelocity(nn.Module):
    """Excess velocity whose flow carries N(0, I) to N(MEAN, diag(SCALE^2)) along the linear path.

    Independent noise and data: ``E[data - noise | x_t]`` in closed form.
    """

    def time_features(self, t):
        return t, LinearPath().gaussian_gain(t)

    def forward(self, x, t, gain):
        spread = t**2 * SCALE**2 + (1 - t) ** 2
        return MEAN + (t * SCALE**2 - (1 - t)) / spread * (x - t * MEAN) - gain * x

    def field(self, dtype, divergence=False, times=()):
        def excess(t, x):
            times = self.time_features(torch.full((1, 1), t, dtype=x.dtype))
            spread = t**2 * SCALE**2 + (1 - t) ** 2
            trace = ((t * SCALE**2 - (1 - t)) / spread - times[1]).sum().expand(len(x), 1)
            return torch.cat([self(x, *times), trace], 1) if divergence else self(x, *times)

        return excess


def exact_flow(solver="adams", n_steps=32, tolerance=0.0):
    return Flow(ExactVelocity(), LinearPath(), 2, solver, n_steps, tolerance)


def rows(n=50, spread=2.0):
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MEAN + spread * SCALE * z


TRUTH = Gaussian(MEAN, SCALE.diag())


@pytest.mark.parametrize("solver", SOLVERS)
def test_log_density_converges_to_the_closed_form_at_the_order_of_the_solver(solver):
    x, order = rows(), SOLVERS[solver].order
    # Few enough steps for dopri5 to stay above rounding.
    errors = [
        (exact_flow(solver, n).log_prob(x) - TRUTH.log_prob(x)).abs().max().item() for n in (32, 64)
    ]
    assert math.log2(errors[0] / errors[1]) > order - 0.5
    n, tolerance = {1: (2000, 5e-2), 2: (1800, 2.5e-5)}.get(order, (200, 1e-6))
    fine = exact_flow(solver, n)
    assert_close(fine.log_prob(x), TRUTH.log_prob(x), rtol=0, atol=tolerance)


def test_samples_are_those_of_the_gaussian():
    drawn = exact_flow().sample(50_000, torch.Generator().manual_seed(0))
    assert_close(drawn.mean(0) / SCALE, MEAN / SCALE, atol=0.02, rtol=0)
    assert_close(drawn.std(0) / SCALE, torch.ones_like(MEAN), atol=0.01, rtol=0)


def test_transport_there_and_back():
    flow, x = exact_flow("dopri5", 64), rows()
    noise = flow.transport(x, to_data=False)
    assert_close(noise, (x - MEAN) / SCALE, atol=1e-6, rtol=0)
    assert_close(flow.transport(noise, to_data=True), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "solver, n_steps",
    [
        ("midpoint", 1),
        ("midpoint", 2),
        ("heun", 1),
        ("rk4", 1),
        ("rk4", 2),
        ("dopri5", 1),
        ("adams", 4),
    ],
)
def test_refinement_reaches_the_tolerance(solver, n_steps):
    x, tolerance = rows(), 1e-2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverAccuracyWarning)
        plain = exact_flow(solver, n_steps).log_prob(x)
        refined = exact_flow(solver, n_steps, tolerance).log_prob(x)
    before, after = [(log_prob - TRUTH.log_prob(x)).abs() for log_prob in (plain, refined)]
    assert before.mean() > 3 * tolerance
    assert after.mean() < min(before.mean() / 5, 3 * tolerance)


@pytest.mark.parametrize("solver, n_steps", [("euler", 1), ("euler", 4), ("midpoint", 2)])
def test_warns_where_the_tolerance_is_not_reached(solver, n_steps):
    with pytest.warns(
        SolverAccuracyWarning, match=rf"steps of solver '{solver}'\. Increase n_steps"
    ):
        exact_flow(solver, n_steps, 1e-5).log_prob(rows())


def test_no_warning_where_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_prob = exact_flow("adams", 32, 1e-3).log_prob(rows())
    assert_close(log_prob, TRUTH.log_prob(rows()), rtol=0, atol=1e-3)


def test_refinement_of_a_row_does_not_depend_on_the_others():
    x, flow = rows(spread=6.0), exact_flow("rk4", 4, 1e-3)
    together = flow.log_prob(x)
    assert (together - exact_flow("rk4", 4).log_prob(x)).abs().max() > 1e-3  # some are refined
    alone = torch.cat([flow.log_prob(row[None]) for row in x])
    assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_steps_are_doubled_as_often_as_the_order_says():
    calls = []

    def solve(x, n_steps):
        calls.append((n_steps, x[:, 0].tolist()))
        return x[:, 0] / n_steps**3

    x = torch.tensor([1.0, 5.0, 50.0, 400.0, 5000.0], dtype=torch.float64)[:, None]
    tolerance = 0.9 / 16**3  # of a change, 7/8 / 16^3 where x is 1
    found = refined(solve, x, 32, "adams", tolerance, "log-density", "nats")
    assert (found < 1.2 * tolerance).all()
    assert calls[3:] == [(32, [5.0]), (64, [50.0]), (128, [400.0, 5000.0]), (512, [5000.0])]


def test_rows_are_refined_as_far_as_a_sum_with_others_lets_it_be_seen():
    calls = []

    def solve(x, n_steps):
        calls.append((n_steps, len(x)))
        return x[:, 0] * (16 / n_steps) ** 3

    x = torch.full((6, 1), 1000.0, dtype=torch.float64)
    others = [-math.inf, 0.0, 1000.0, 7000.0, 7990.0, torch.finfo(x.dtype).max]
    found = refined(solve, x, 32, "adams", 10.0, "log-density", "nats", x.new_tensor(others))
    # After 16 steps errors are 875; eight times as much would make the log-densities 8000.
    assert calls[3:] == [(64, 1), (128, 3)]
    assert_close(found, 1000 / torch.tensor([8, 8, 8, 4, 1, 1]).to(x) ** 3)


def test_a_flow_in_a_mixture_takes_few_steps_where_others_are_larger(monkeypatch):
    steps, solve = [], Flow._solve_density

    def counted(self, rows, n_steps):
        steps.append(len(rows) * n_steps)
        return solve(self, rows, n_steps)

    monkeypatch.setattr(Flow, "_solve_density", counted)
    flow, x = exact_flow("rk4", 8, 1e-3), torch.cat([rows(), rows(spread=20.0)])
    broad = Gaussian(MEAN, 10 * SCALE.diag())
    mixture = Mixture([flow, broad], [0.75, 0.25])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together, n_together = mixture.log_prob(x), sum(steps)
    alone = mixture.component_log_probs(x)
    assert n_together < 0.5 * (sum(steps) - n_together)
    expected = torch.stack([TRUTH.log_prob(x), broad.log_prob(x)], 1)
    expected = (expected + mixture.weights.log()).logsumexp(1)
    assert_close(together, expected, rtol=0, atol=2e-3)
    assert_close((alone + mixture.weights.log()).logsumexp(1), expected, rtol=0, atol=2e-3)


def test_rows_without_density_are_not_refined(monkeypatch):
    class Beyond(Bijection):
        """A map that no row with a positive first column has come from."""

        def forward(self, x):
            return x, torch.where(x[:, 0] > 0, -math.inf, 0.0).to(x)

        def inverse(self, z):
            return z

    def fail(self, rows, n_steps):
        raise AssertionError(f"{len(rows)} rows are refined")

    flow, x = exact_flow("rk4", 8, 1e-9), rows()
    solve = Flow._solve_density
    monkeypatch.setattr(Flow, "_solve_density", lambda *a: solve(*a) if a[2] <= 4 else fail(*a))
    mixture = Mixture([Preconditioned(Beyond(), flow, 2)], [1.0])
    assert (mixture.log_prob(x[x[:, 0] > 0]) == -math.inf).all()
    with pytest.raises(AssertionError, match="rows are refined"):
        mixture.log_prob(x[x[:, 0] <= 0])


def test_loss_is_least_for_the_exact_velocity():
    data = rows(4000, spread=1.0)

    def loss(shift):
        flow = exact_flow()
        flow.network.forward = lambda *inputs: ExactVelocity.forward(flow.network, *inputs) + shift
        return float(flow.loss(data, torch.Generator().manual_seed(0)))

    assert loss(0.0) < min(loss(0.1), loss(-0.1))
    assert loss(0.1) + loss(-0.1) - 2 * loss(0.0) == pytest.approx(2 * 0.1**2, rel=1e-6)


@pytest.mark.parametrize("few_features", [0, 3])
@pytest.mark.parametrize("n, group_size, n_groups", [(12, 64, 1), (12, 4, 3), (14, 4, 3)])
def test_loss_averages_over_the_rows_that_a_position_may_come_from(
    n, group_size, n_groups, few_features, monkeypatch
):
    monkeypatch.setattr(matching, "FEW_FEATURES", few_features)  # two ways to the same weights
    flow, x = exact_flow(), rows(n)
    flow.group_size = group_size
    seen = {}

    def forward(x_t, features, zoom):
        seen.update(x_t=x_t, t=features)
        return torch.zeros_like(x_t)

    flow.network.forward = forward
    loss = flow.loss(x, torch.Generator().manual_seed(0))
    x_t, t = seen["x_t"], seen["t"]
    n = n - n % n_groups
    total, (a, b) = 0.0, LinearPath().excess_coefficients(t)
    for i in range(n):
        size = n // n_groups
        if few_features and n_groups == 1 and i < size // 2:  # early
            size //= 4
        first = i // size * size
        group = x[first : first + size]
        noise = (x_t[i] - t[i] * group) / (1 - t[i])
        if 1 - t[i] < 0.02:
            noise = noise[i - first][None]
            group = x[i][None]
        weights = torch.softmax(-0.5 * noise.square().sum(1), 0)
        target = weights @ (a[i] * group + b[i] * noise)
        total += float(target.square().sum())
    assert len(x_t) == n
    assert float(loss) == pytest.approx(total / (2 * n), rel=1e-9)


def test_averaged_targets_of_rows_far_away_are_finite():
    flow, x = exact_flow(), rows(64).float()
    x[:5] *= 10.0 ** torch.arange(1, 6)[:, None]
    expected = flow.loss(x.double(), torch.Generator().manual_seed(0))
    assert expected.isfinite() and flow.loss(x, torch.Generator().manual_seed(0)).isfinite()
    batches = flow.batches(x, len(x), torch.Generator().manual_seed(0))
    assert all(next(batches).target.isfinite().all() for _ in range(64))


def test_average_keeps_the_mean_of_the_gradient_and_reduces_its_variance():
    generator, flow = torch.Generator().manual_seed(0), exact_flow()
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)  # of a linear network
    flow.network.forward = lambda x_t, features, zoom: slope * x_t
    found = []
    for flow.group_size in (1, 64):
        gradients = []
        for _ in range(200):
            x = 0.5 * torch.randn(256, 2, generator=generator, dtype=torch.float64)
            gradients += torch.autograd.grad(flow.loss(x, generator), slope)
        gradients = torch.stack(gradients)
        found.append((float(gradients.mean()), float(gradients.std())))
    (plain, spread), (averaged, less) = found
    assert less < 0.8 * spread
    assert abs(plain - averaged) < 4 * math.hypot(spread, less) / math.sqrt(200)
    assert abs(plain) > 10 * spread / math.sqrt(200)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_coefficients_of_the_loss_are_those_of_the_path(t):
    path = LinearPath()
    data, noise = torch.randn(2, 50, dtype=torch.float64)
    t = torch.tensor(t, dtype=torch.float64)
    (alpha, sigma), (a, b) = path.coefficients(t), path.excess_coefficients(t)
    position = alpha * data + sigma * noise
    assert_close(a * data + b * noise + path.gaussian_gain(t) * position, data - noise)


def test_preconditioned_density_and_samples():
    x = rows(500)
    model = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    density = Preconditioned(Whitening(x, 0.0), model, 2)
    covariance = torch.cov(x.T, correction=0)
    expected = Gaussian(x.mean(0), torch.linalg.cholesky(covariance))
    assert_close(density.log_prob(x), expected.log_prob(x))
    drawn = density.sample(50_000, torch.Generator().manual_seed(0))
    z = torch.linalg.solve_triangular(expected.scale_tril, (drawn - x.mean(0)).T, upper=False)
    assert_close(torch.cov(z), torch.eye(2).double(), atol=0.02, rtol=0)


def two_components(weights=(0.2, 0.8)):
    one = torch.eye(1, dtype=torch.float64)
    return Mixture([Gaussian(one[0] * -5, one), Gaussian(one[0] * 5, one / 2)], weights)


def test_mixture_has_mass_one_and_draws_in_proportion():
    mixture = two_components()
    grid = torch.linspace(-15, 15, 3001, dtype=torch.float64)[:, None]
    assert float(mixture.log_prob(grid).exp().sum() * 0.01) == pytest.approx(1, abs=1e-9)
    drawn = mixture.sample(20_000, torch.Generator().manual_seed(0))[:, 0]
    assert float((drawn > 0).double().mean()) == pytest.approx(0.8, abs=0.012)
    assert float(drawn[drawn > 0].std()) == pytest.approx(0.5, rel=0.03)
    assert float(drawn[drawn < 0].std()) == pytest.approx(1.0, rel=0.05)
    swaps = ((drawn[1:] > 0) != (drawn[:-1] > 0)).double().mean()  # rows are not sorted
    assert float(swaps) == pytest.approx(2 * 0.2 * 0.8, abs=0.02)


def test_mixture_of_mixtures_is_sampled_though_some_get_no_row():
    nested = Mixture([two_components(), two_components((0.9, 0.1))], [1e-9, 1 - 1e-9])
    drawn = nested.sample(2000, torch.Generator().manual_seed(0))
    assert float((drawn < 0).double().mean()) == pytest.approx(0.9, abs=0.03)


def test_component_that_fails_counts_as_nothing():
    class Broken(Gaussian):
        def log_prob(self, x):
            return x[:, 0].new_tensor([math.nan, math.inf, -math.inf])

    gaussian = two_components().components[0]
    x = torch.tensor([[-5.0], [0.0], [1.0]], dtype=torch.float64)
    mixture = Mixture([Broken(MEAN, SCALE.diag()), gaussian], [0.75, 0.25])
    assert_close(mixture.log_prob(x), gaussian.log_prob(x) + math.log(0.25))


@pytest.mark.parametrize("path", [path() for path in PATHS.values()], ids=PATHS)
def test_interpolant_loss_is_half_the_regression_less_a_constant(path):
    """``|b|^2 / 2 - b . dx_t/dt`` with the velocity b of the path."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=source, dtype=torch.float64)
    times = TrainingTimes(path, "velocity", lambda t: (t, t), 1.5)(stratified(8, 1, x, source))
    x_t, found, target = torch.randn(3, 8, 2, generator=source, dtype=torch.float64)

    def velocity(excess):
        return times.growth * x_t + times.rate * excess

    b, rate = velocity(found), velocity(target)
    expected = (0.5 * b.square() - b * rate).sum(1).mean()
    assert_close(Objective(form="interpolant")(found, target, x_t, times)[0], expected)
    regression = (times.rate * (found - target)).square().sum(1).mean()
    constant = rate.square().sum(1).mean()
    assert_close(expected, 0.5 * (regression - constant))


@pytest.mark.parametrize("form", ["regression", "interpolant"])
@pytest.mark.parametrize("target", ["velocity", "noise"])
def test_gradient_of_the_loss(form, target):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=source, dtype=torch.float64)
    path = PATHS["variance_preserving"]()
    times = TrainingTimes(path, target, lambda t: (t, t), 1.5)(stratified(8, 1, x, source))
    x_t, found, wanted = torch.randn(3, 8, 2, generator=source, dtype=torch.float64)
    found.requires_grad_()
    loss, slope = Objective(target, form)(found, wanted, x_t, times)
    assert_close(slope.detach(), torch.autograd.grad(loss, found)[0])


@pytest.mark.parametrize("path", [path() for path in PATHS.values()], ids=PATHS)
def test_growth_and_rate_make_the_velocity_of_the_path(path):
    source = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 64, 2, generator=source, dtype=torch.float64)
    times = TrainingTimes(path, "velocity", lambda t: (t, t), 1.0)
    columns = times(stratified(len(data), 1, data, source))
    # The features here are the straight times; find those of the path.
    first, last = path.interval
    t = torch.linspace(first, last, 200_001, dtype=torch.float64)
    t = t[torch.searchsorted(path.straight_time(t), columns.features[:, 0])][:, None]
    excess = columns.data_rate * data + columns.noise_rate * noise
    position = columns.alpha * data + columns.sigma * noise
    found = columns.growth * position + columns.rate * excess
    expected = path.velocity(t, Parts(data, noise))
    assert_close(found, expected, rtol=0.02, atol=0.02)
