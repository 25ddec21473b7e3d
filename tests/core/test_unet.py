import copy
import pickle
import sys

import pytest
import torch
from torch.testing import assert_close
from tqdm import tqdm

from skgen.core.divergence import draw_probes, hutchinson_divergence
from skgen.core.flow import Flow
from skgen.core.paths import LinearPath
from skgen.core.samplers import OdeSampler
from skgen.core.schedules import SchedulePath, linear_betas
from skgen.core.training import Plan, Trainer
from skgen.core.unet import UNetVelocity, unet_settings

pytest.importorskip("diffusers")

CHAIN = SchedulePath(linear_betas(1000))
TINY = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
THREE = {
    **TINY,
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
}


def untrained(image_shape=(1, 4, 4), seed=0, n_conditions=0, settings=TINY, **options):
    generator = torch.Generator().manual_seed(seed)
    return UNetVelocity(image_shape, CHAIN, generator, n_conditions, settings, **options)


def random_network(*args, **options):
    """A network whose weights are all random, those that start at zero too."""
    network, generator = untrained(*args, **options), torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return network


def rows(n, d, seed=2, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def call(network, x, t):
    """Excess velocity at positions (n, d) and one time."""
    return network(x, *network.time_features(x.new_full((len(x), 1), t)))


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 8, 6), (1, 7, 7), (2, 5, 9)])
def test_untrained_excess_velocity_is_zero(image_shape):
    network = untrained(image_shape)
    d = image_shape[0] * image_shape[1] * image_shape[2]
    assert network.n_features == d
    found = call(network, rows(3, d), 0.4)
    assert torch.equal(found, torch.zeros(3, d))


def test_initial_weights_come_from_the_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (untrained(n_conditions=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("image_shape", [(1, 7, 7), (1, 28, 28), (1, 6, 9)])
def test_sides_are_padded_in_the_middle_and_cropped(image_shape):
    network = random_network(image_shape, settings=THREE)
    shapes = []
    network.unet.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape[1:]))
    x = rows(2, network.n_features)
    found = call(network, x, 0.4)
    assert found.shape == x.shape and found.std() > 0
    assert all(side % 4 == 0 for side in shapes[0][1:])
    left, right, top, bottom = network.margins
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1
    assert shapes[0][1:] == (image_shape[1] + top + bottom, image_shape[2] + left + right)


def test_time_tells_the_ends_apart():
    network = untrained()
    t = torch.tensor([0.0, 0.01, 0.5, 0.97, 0.98, 0.99, 1.0], dtype=torch.float64)[:, None]
    features, zoom = network.time_features(t)
    assert features.dtype == zoom.dtype == torch.float64 and zoom.shape == t.shape
    step, alpha, sigma = features.T
    assert (step.diff() < -1).all() and step[0] == 999 and step[-1] == -1
    assert_close(zoom, (t**2 + (1 - t) ** 2).rsqrt())
    assert_close(alpha.square() + sigma.square(), torch.ones(7).double(), atol=2e-4, rtol=0)


def test_the_step_is_that_of_the_chain():
    network = untrained()
    steps = torch.tensor([1, 2, 10, 500, 999, 1000], dtype=torch.float64)
    r = CHAIN.straight_time(1 - steps[:, None] / 1000)
    features, _ = network.time_features(r)
    assert_close(features[:, 0], steps - 1, atol=1e-6, rtol=0)
    levels = torch.tensor([CHAIN.levels(step) for step in steps.tolist()], dtype=torch.float64)
    assert_close(features[:, 1:], levels)
    single, _ = network.time_features(r.float())
    assert_close(single[:, 0].double(), steps - 1, atol=0.02, rtol=1e-4)


def test_conditions_change_the_output_and_zeros_do_not():
    network = random_network(n_conditions=3)
    x = rows(4, 16)
    known = torch.cat([x, torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3)], dim=1)
    unknown = torch.cat([x, torch.zeros(4, 3)], dim=1)
    blank = copy.deepcopy(network)
    blank.embedding.weight.data.zero_()
    assert (call(network, known, 0.4) - call(network, unknown, 0.4)).abs().max() > 1e-3
    assert torch.equal(call(network, unknown, 0.4), call(blank, known, 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_field_equals_forward(dtype):
    network = random_network(n_conditions=2)
    x = rows(5, 18)
    for t in (0.0, 0.5, 1.0):
        velocity = network.field(dtype)(t, x.to(dtype))
        assert velocity.dtype == dtype and not velocity.requires_grad
        assert_close(velocity, call(network, x, t).to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [TINY, THREE])
def test_divergence_is_the_trace_of_the_jacobian(settings):
    network = random_network(n_conditions=2, settings=settings)
    x = rows(3, 18)
    found = network.field(torch.float32, divergence=True)(0.4, x)
    velocity, divergence = found[:, :16], found[:, 16]
    expected = torch.zeros(3)
    for j in range(16):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(call(network, leaf, 0.4)[:, j].sum(), leaf)
        expected += gradient[:, j]
    assert expected.abs().min() > 0.01
    assert_close(divergence, expected, rtol=1e-4, atol=1e-4)
    assert_close(velocity, call(network, x, 0.4), rtol=1e-5, atol=1e-5)


def test_estimated_divergence_is_unbiased():
    network = random_network()
    x, probes = rows(3, 16), torch.ones(1, 1)
    for _ in range(4):  # 16 orthogonal vectors of signs, for which the mean is exact
        probes = torch.cat([torch.cat([probes, probes], 1), torch.cat([probes, -probes], 1)])
    field = network.field(torch.float32)
    found = hutchinson_divergence(lambda moved: field(0.4, moved), x, probes)
    velocity, estimates = found[:, :16], found[:, 16:]
    expected = network.field(torch.float32, divergence=True)(0.4, x)
    assert estimates.std(1).min() > 0.01
    found = torch.cat([velocity, estimates.mean(1, keepdim=True)], dim=1)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_mixed_precision_is_close_and_keeps_the_dtype():
    network, mixed = random_network(), random_network(autocast=torch.bfloat16)
    x = rows(4, 16)
    exact, rough = call(network, x, 0.4), call(mixed, x, 0.4)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.05 * exact.norm()
    rough.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in mixed.parameters())
    # Divergences are computed without it.
    one, other = (
        net.field(torch.float64, divergence=True)(0.4, x.double()) for net in (network, mixed)
    )
    assert one.dtype == torch.float64
    assert_close(one[:, :16], other[:, :16])


def striped(n):
    """Images 4 x 4 with one bright row or column."""
    images = torch.full((n, 4, 4), -0.6)
    place = torch.arange(n)
    images[place[::2], place[::2] // 2 % 4] = 1.7
    images[place[1::2], :, place[1::2] // 2 % 4] = 1.7
    return images.flatten(1)


def test_flow_trains_and_samples():
    network = untrained()
    flow = Flow(network, LinearPath(), 16, "rk4", 4, 0.0)
    plan = Plan(
        max_iter=60, batch_size=32, learning_rate=5e-3, weight_decay=0.0,
        tol=0.0, patience=10**6, round_length=20,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    run = Trainer(flow, striped(64), None, plan, generator, tqdm(disable=True))
    run.run()
    losses = run.finish().losses
    assert losses[-1] < 0.8 * losses[0]
    flow.sampler = OdeSampler(4)
    sample = flow.sample(5, torch.Generator().manual_seed(1))
    assert sample.shape == (5, 16) and sample.dtype == torch.float64 and sample.isfinite().all()
    # An estimated log-density goes through forward derivatives of the trained network.
    flow.sampler, flow.probes = None, draw_probes("rademacher", 2, 16, generator)
    assert flow.log_prob(sample).isfinite().all()


def test_copies_compute_the_same():
    network = random_network(n_conditions=2)
    x = rows(3, 18)
    expected = call(network, x, 0.4)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(call(other, x, 0.4), expected)
        assert other.unet is not network.unet
    flow = Flow(network, LinearPath(), 16, "rk4", 4, 0.0)
    copied = pickle.loads(pickle.dumps(flow))
    assert torch.equal(call(copied.network, x, 0.4), expected)


@pytest.mark.parametrize(
    "image_shape, n_levels", [((1, 8, 8), 2), ((1, 28, 28), 3), ((3, 32, 32), 3), ((3, 64, 64), 4)]
)
def test_defaults_suit_the_size(image_shape, n_levels):
    settings = unet_settings(image_shape)
    sizes = settings["block_out_channels"]
    assert len(sizes) == len(settings["down_block_types"]) == n_levels
    assert all(size % settings["norm_num_groups"] == 0 for size in sizes)
    assert settings["in_channels"] == settings["out_channels"] == image_shape[0]
    attends = [kind.startswith("Attn") for kind in settings["down_block_types"]]
    assert attends == [n_levels == 4 and k >= 2 for k in range(n_levels)]


def test_block_types_follow_the_levels():
    settings = {**TINY, "block_out_channels": [8, 8, 16, 16]}
    network = untrained((1, 8, 8), settings=settings)
    assert len(network.unet.down_blocks) == 4
    assert call(network, rows(2, 64), 0.4).shape == (2, 64)


def test_missing_diffusers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"scikit-generative\[images\]"):
        untrained()
