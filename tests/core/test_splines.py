import pytest
import torch
from numpy.testing import assert_allclose
from scipy.interpolate import PchipInterpolator
from torch.testing import assert_close

from skgen.core.splines import monotone_slopes, rational_quadratic

# Two columns of knots; the second uses only three of its five.
KNOTS_X = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 3.0], [0.0, 1.0, 4.0, 4.0, 4.0]]).double()
KNOTS_Y = torch.tensor([[-1.0, 0.0, 4.0, 4.1, 5.0], [-3.0, 0.0, 0.2, 0.2, 0.2]]).double()
SLOPES = torch.tensor([[0.5, 2.0, 1.0, 0.2, 3.0], [1.0, 0.1, 2.0, 2.0, 2.0]]).double()
INSIDE = torch.stack(
    [torch.linspace(-1.999, 2.999, 101), torch.linspace(0.001, 3.999, 101)], dim=1
).double()


def test_knots_are_met_with_their_slopes():
    x = torch.stack([KNOTS_X[0], torch.tensor([0.0, 1.0, 4.0, 4.0, 4.0]).double()], dim=1)
    y, log_slope = rational_quadratic(x, KNOTS_X, KNOTS_Y, SLOPES)
    assert_close(y[:, 0], KNOTS_Y[0])
    assert_close(log_slope[:, 0].exp(), SLOPES[0])
    assert_close(y[:3, 1], KNOTS_Y[1, :3])
    assert_close(log_slope[:3, 1].exp(), SLOPES[1, :3])


def test_slope_is_the_derivative():
    x = INSIDE.clone().requires_grad_()
    y, log_slope = rational_quadratic(x, KNOTS_X, KNOTS_Y, SLOPES)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    assert_close(log_slope.exp(), slope, rtol=1e-9, atol=1e-9)


def test_inverse():
    y, log_slope = rational_quadratic(INSIDE, KNOTS_X, KNOTS_Y, SLOPES)
    back, log_slope_back = rational_quadratic(y, KNOTS_X, KNOTS_Y, SLOPES, inverse=True)
    assert_close(back, INSIDE, rtol=0, atol=1e-9)
    assert_close(log_slope_back, -log_slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
def test_outside_values_are_clamped_with_finite_gradients(inverse):
    axis, other = (KNOTS_Y, KNOTS_X) if inverse else (KNOTS_X, KNOTS_Y)
    x = torch.tensor([[-1e6, -1e6], [1e6, 1e6]]).double().requires_grad_()
    y, log_slope = rational_quadratic(x, KNOTS_X, KNOTS_Y, SLOPES, inverse)
    expected = torch.stack([other[:, 0], torch.stack([other[0, 4], other[1, 2]])])
    assert_close(y.detach(), expected)
    (gradient,) = torch.autograd.grad((y + log_slope).sum(), x)
    assert (gradient == 0).all() and axis.shape == (2, 5)


def test_slopes_against_scipy():
    x = torch.tensor([0.0, 1.0, 1.5, 4.0, 4.2, 6.0]).double()
    y = torch.tensor([0.0, 0.1, 2.0, 3.0, 3.5, 9.0]).double()
    expected = PchipInterpolator(x.numpy(), y.numpy()).derivative()(x.numpy())
    slopes = monotone_slopes(x, y)
    assert_allclose(slopes[1:-1], expected[1:-1])
    assert_allclose(slopes[[0, -1]], [0.1, 5.5 / 1.8], rtol=1e-6)


def test_equal_slopes_give_the_line():
    knots = torch.linspace(-1, 1, 5, dtype=torch.float64)
    slopes = monotone_slopes(knots, 3 * knots)
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    y, log_slope = rational_quadratic(x, knots[None], 3 * knots[None], slopes[None])
    assert_close(y, 3 * x)
    assert_close(log_slope.exp(), torch.full_like(x, 3.0))
