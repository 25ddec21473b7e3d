import pytest
import torch
from torch.testing import assert_close

from skgen.core.paths import PATHS, GaussianPath, IndependentPath, Parts

from .gaussian_mixture import exact_flow, log_prob, parts, sample


class CubicPath(GaussianPath):
    """A user's own."""

    def coefficients(self, t):
        return t**3, (1 - t) ** 2

    def derivatives(self, t):
        return 3 * t**2, 2 * (t - 1)


EVERY = {**{name: path() for name, path in PATHS.items()}, "own": CubicPath()}
every_path = pytest.mark.parametrize("path", EVERY.values(), ids=EVERY)
every_time = pytest.mark.parametrize("t", [0.05, 0.3, 0.5, 0.9, 0.999])


def grid(path, n=11):
    return torch.linspace(*path.interval, n, dtype=torch.float64)[:, None]


def at(t):
    return torch.tensor(t, dtype=torch.float64)


def rows(n=20):
    return 1.5 * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@every_path
def test_path_leads_from_noise_to_data(path):
    (alpha, sigma), (last_alpha, last_sigma) = (path.coefficients(at(t)) for t in (0.0, 1.0))
    assert alpha < 0.06 * sigma and last_sigma < 0.11 * last_alpha
    assert (path.straight_time(grid(path)).diff(dim=0) > 0).all()


def test_the_constant_noise_is_accounted_for_in_the_base():
    scale = IndependentPath(0.5).gaussian_scale(at(0.0))
    assert float(scale) ** 2 == pytest.approx(1 + 0.5**2)


@every_path
def test_derivatives_are_those_of_the_coefficients(path):
    t = grid(path)
    _, expected = torch.func.jvp(path.coefficients, (t,), (torch.ones_like(t),))
    for found, wanted in zip(path.derivatives(t), expected, strict=True):
        assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@every_path
def test_excess_velocity_is_the_time_derivative_less_that_of_a_gaussian(path):
    t = grid(path)
    hub = Parts(*torch.randn(2, 11, 3, dtype=torch.float64))
    position, derivative = torch.func.jvp(
        lambda t: path.position(t, hub), (t,), (torch.ones_like(t),)
    )
    a, b = path.excess_coefficients(t)
    expected = derivative - path.gaussian_gain(t) * position
    assert_close(a * hub.data + b * hub.noise, expected)
    assert_close(path.velocity(t, hub), derivative)


@every_path
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9])
def test_gaussian_gain_is_the_regression_of_velocity_on_position(path, t):
    generator = torch.Generator().manual_seed(0)
    hub = Parts(*torch.randn(2, 200_000, dtype=torch.float64, generator=generator))
    t = at(t)
    x, velocity = path.position(t, hub), path.velocity(t, hub)
    expected = (x @ velocity) / (x @ x)
    assert_close(path.gaussian_gain(t), expected, atol=0.02, rtol=0.02)


@every_path
@every_time
def test_score_and_velocity_are_those_of_a_gaussian_mixture(path, t):
    t, x = at(t), rows()

    def log_density(t, x):
        return log_prob(*path.coefficients(t), x)

    hub = parts(*path.coefficients(t), x)
    score = torch.func.grad(lambda x: log_density(t, x).sum())(x)
    assert_close(path.score(t, hub), score, rtol=1e-8, atol=1e-8)

    # The velocity moves the density: d log p / dt + v . grad log p + div v = 0.
    def velocity(x):
        return path.velocity(t, parts(*path.coefficients(t), x))

    _, change = torch.func.jvp(lambda t: log_density(t, x), (t,), (torch.ones_like(t),))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: velocity(row[None])[0]))(x)
    divergence = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    transported = (velocity(x) * score).sum(1) + divergence
    scale = 1 + transported.abs()
    assert_close(change / scale, -transported / scale, rtol=0, atol=1e-8)


@every_path
@every_time
def test_conversions_go_there_and_back(path, t):
    t, x = at(t), rows()
    hub = parts(*path.coefficients(t), x)
    found = {
        "velocity": path.from_velocity(t, x, path.velocity(t, hub)),
        "noise": path.from_noise(t, x, hub.noise),
        "data": path.from_data(t, x, hub.data),
        "score": path.from_score(t, x, path.score(t, hub)),
    }
    for converted in found.values():
        assert_close(converted, hub, rtol=1e-8, atol=1e-8)


@every_path
@every_time
def test_a_flow_of_the_straight_path_serves_every_path(path, t):
    t, x = at(t), rows()
    x = x * path.gaussian_scale(t)
    found, expected = exact_flow(path).parts(t, x), parts(*path.coefficients(t), x)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)


@every_path
def test_log_density_with_the_exact_velocity(path):
    ends, flow = path.coefficients(at(1.0)), exact_flow(path, n_steps=128)
    x = sample(*ends, 100, torch.Generator().manual_seed(0))
    assert (flow.log_prob(x) - log_prob(*ends, x)).abs().mean() < 1e-4
    assert_close(flow.transport(flow.transport(x, False), True), x, rtol=1e-4, atol=1e-4)
