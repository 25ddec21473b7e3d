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


every_path = pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
times = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]


@every_path
def test_path_leads_from_noise_to_data(path):
    data, noise = torch.randn(2, 11, 3, dtype=torch.float64)
    assert_close(path.interpolate(data, noise, torch.zeros_like(times)), noise)
    assert_close(path.interpolate(data, noise, torch.ones_like(times)), data)


@every_path
def test_velocity_is_the_time_derivative(path):
    data, noise = torch.randn(2, 11, 3, dtype=torch.float64)
    _, derivative = torch.func.jvp(
        lambda t: path.interpolate(data, noise, t), (times,), (torch.ones_like(times),)
    )
    assert_close(path.velocity(data, noise, times), derivative)


@every_path
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_gaussian_gain_is_the_regression_of_velocity_on_position(path, t):
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 200_000, dtype=torch.float64, generator=generator)
    t = torch.tensor(t, dtype=torch.float64)
    x, velocity = path.interpolate(data, noise, t), path.velocity(data, noise, t)
    assert_close(path.gaussian_gain(t), (x @ velocity) / (x @ x), atol=0.01, rtol=0)
