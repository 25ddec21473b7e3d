import pytest
import torch
from torch.testing import assert_close

from skgen.core.activations import ACTIVATIONS
from skgen.core.networks import (
    DeepVelocityNetwork,
    VelocityNetwork,
    velocity_network,
)
from skgen.core.paths import LinearPath
from skgen.core.times import TimeFeatures

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_shape = pytest.mark.parametrize(
    "d, sizes", [(1, (8, 8)), (2, (5, 9)), (3, (16, 4)), (7, (6, 6)), (2, (8,)), (3, (4, 5, 6))]
)


def random_network(d, sizes, activation="silu", seed=0):
    """A network whose weights are all random, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    network = velocity_network(d, sizes, activation, LinearPath(), generator)
    for p in network.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return network


def call(network, x, t):
    """Excess velocity at positions (n, d) and times (n, 1)."""
    return network(x, *network.time_features(t))


@every_activation
def test_activation_gradients(activation):
    function, gradient, in_place, with_slope = ACTIVATIONS[activation]
    x = torch.linspace(-30, 30, 241, dtype=torch.float64) + 1e-3
    factor = torch.linspace(1, 2, 241, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf, factor)
    assert_close(gradient(factor, x), expected, rtol=1e-12, atol=1e-12)
    assert_close(in_place(x.clone()), function(x))
    assert_close(with_slope(x), (function(x), expected / factor), rtol=1e-12, atol=1e-12)


@every_activation
@pytest.mark.parametrize(
    "n, sizes, dtype", [(6, (5, 3), torch.float64), (512, (64, 48), torch.float32)]
)
def test_training_gradient_equals_that_of_autograd(activation, n, sizes, dtype):
    generator = torch.Generator().manual_seed(1)
    network = random_network(2, sizes, activation).to(dtype)
    x, t = torch.randn(n, 2, generator=generator, dtype=dtype), torch.rand(n, 1, dtype=dtype)
    slope = torch.randn(n, 2, generator=generator, dtype=dtype)
    inputs = (x, *network.time_features(t))
    expected = network(*inputs)
    expected_gradients = torch.autograd.grad(expected, list(network.parameters()), slope)
    found, add_gradient = network.training_forward(*inputs)
    assert_close(found, expected.detach())
    add_gradient(slope)
    _, add_gradient = network.training_forward(*inputs)
    add_gradient(slope)
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-2}
    for parameter, gradient in zip(network.parameters(), expected_gradients, strict=True):
        assert_close(parameter.grad, 2 * gradient, **tolerance)


def test_stale_gradient_is_refused():
    network = VelocityNetwork(2, (4, 4), "silu", LinearPath(), torch.Generator().manual_seed(0))
    x, t, slope = torch.zeros(3, 2), torch.full((3, 1), 0.5), torch.ones(3, 2)
    _, first = network.training_forward(x, *network.time_features(t))
    _, second = network.training_forward(x, *network.time_features(t))
    with pytest.raises(RuntimeError, match="evaluated again"):
        first(slope)
    second(slope)
    with pytest.raises(RuntimeError, match="gradient was taken"):
        second(slope)  # the first time overwrote what it needs


@every_activation
@every_shape
@pytest.mark.parametrize("t", [0.0, 0.4, 0.97, 1.0])
def test_divergence_is_the_trace_of_the_jacobian(activation, d, sizes, t):
    network = random_network(d, sizes, activation).double()
    x = torch.randn(6, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = network.field(torch.float64, divergence=True)(t, x)
    velocity, divergence = found[:, :d], found[:, d]

    expected = torch.zeros(6, dtype=torch.float64)
    for j in range(d):
        leaf = x.clone().requires_grad_()
        outputs = call(network, leaf, x.new_full((6, 1), t))[:, j].sum()
        expected += torch.autograd.grad(outputs, leaf)[0][:, j]
    assert (divergence - expected).abs().max() <= 1e-10 * (1 + expected.abs().max())
    assert_close(velocity, call(network, x, x.new_full((6, 1), t)), rtol=1e-10, atol=1e-10)


@every_shape
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-4)])
def test_field_equals_forward(d, sizes, dtype, tolerance):
    network = random_network(d, sizes)
    x = torch.randn(9, d, generator=torch.Generator().manual_seed(1))
    for t in (0.0, 0.5, 1.0):
        velocity = network.field(dtype)(t, x.to(dtype))
        assert velocity.dtype == dtype and not velocity.requires_grad
        expected = call(network, x, torch.full((9, 1), t)).to(dtype)
        assert_close(velocity, expected, rtol=tolerance, atol=tolerance)


def test_field_of_many_rows_is_that_of_each():
    network = random_network(3, (6, 5))
    x = torch.randn(2 * 4000 + 3, 3, dtype=torch.float64)
    field = network.field(torch.float64, divergence=True)
    assert_close(field(0.4, x), torch.cat([field(0.4, rows) for rows in x.split(300)]))


@every_shape
def test_times_known_in_advance_change_nothing(d, sizes):
    network, x = random_network(d, sizes), torch.randn(9, d)
    times = [0.0, 0.3, 0.9]
    field = network.field(torch.float32, divergence=True, times=times)
    plain = network.field(torch.float32, divergence=True)
    for t in (*times, 0.5):
        assert_close(field(t, x), plain(t, x))


@every_shape
def test_untrained_excess_velocity_is_zero(d, sizes):
    network = velocity_network(d, sizes, "silu", LinearPath(), torch.Generator().manual_seed(0))
    x, t = torch.randn(5, d), torch.linspace(0, 1, 5)[:, None]
    assert torch.equal(call(network, x, t), torch.zeros(5, d))


def test_depth_chooses_the_network():
    kinds = {sizes: type(random_network(2, sizes)) for sizes in [(4,), (4, 4), (4, 4, 4)]}
    assert kinds == {
        (4,): DeepVelocityNetwork,
        (4, 4): VelocityNetwork,
        (4, 4, 4): DeepVelocityNetwork,
    }


def test_initial_weights_come_from_the_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (random_network(2, (4, 4), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.weight_in, same.weight_in)
    assert not torch.equal(one.weight_in, other.weight_in)


def test_time_features_follow_dtype_and_separate_times():
    features = TimeFeatures(LinearPath())
    t = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    values, zoom = features(t)
    assert values.shape == (101, features.n_features) and values.dtype == torch.float64
    assert (values[:, -1] == 1).all()
    assert (values.diff(dim=0).abs().amax(dim=1) > 0.1).all()
    assert (zoom.diff(dim=0) > 0).all() and zoom[-1] <= 1 / features.resolution + 1e-9
    assert_close(features(t.float())[0].double(), values, atol=1e-4, rtol=1e-4)
