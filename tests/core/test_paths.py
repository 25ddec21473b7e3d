import math

import pytest
import torch
from torch.testing import assert_close

from skgen.core.paths import GaussianPath, LinearPath


class TrigonometricPath(GaussianPath):
    """A second path, so that nothing holds for the linear one alone."""

    def coefficients(self, t):
        return torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)

    def derivatives(self, t):
        alpha, sigma = self.coefficients(t)
        return math.pi / 2 * sigma, -math.pi / 2 * alpha


def interpolate(path, data, noise, t):
    alpha, sigma = path.coefficients(t)
    return alpha * data + sigma * noise


every_path = pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
times = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]


@every_path
def test_path_leads_from_noise_to_data(path):
    data, noise = torch.randn(2, 11, 3, dtype=torch.float64)
    assert_close(interpolate(path, data, noise, torch.zeros_like(times)), noise)
    assert_close(interpolate(path, data, noise, torch.ones_like(times)), data)


@every_path
def test_excess_velocity_is_the_time_derivative_less_that_of_a_gaussian(path):
    data, noise = torch.randn(2, 11, 3, dtype=torch.float64)
    position, derivative = torch.func.jvp(
        lambda t: interpolate(path, data, noise, t), (times,), (torch.ones_like(times),)
    )
    a, b = path.excess_coefficients(times)
    assert_close(a * data + b * noise, derivative - path.gaussian_gain(times) * position)


@every_path
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_gaussian_gain_is_the_regression_of_velocity_on_position(path, t):
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 200_000, dtype=torch.float64, generator=generator)
    t = torch.tensor(t, dtype=torch.float64)
    rates = path.derivatives(t)
    x, velocity = interpolate(path, data, noise, t), rates[0] * data + rates[1] * noise
    assert_close(path.gaussian_gain(t), (x @ velocity) / (x @ x), atol=0.01, rtol=0)
