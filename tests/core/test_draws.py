import math
from itertools import islice

import pytest
import torch
from torch.testing import assert_close

from skgen.core.draws import (
    NUMBERS_AT_ONCE,
    Independent,
    Joint,
    dropout_mask,
    nearby,
    rows_at_once,
    shuffled,
    stratified,
)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n_rows, n", [(10, 4), (10, 10), (3, 20)])
def test_shuffles_follow_each_other(n_rows, n):
    found = list(islice(shuffled(torch.zeros(n_rows, 1), n, generator()), 3 * n_rows))
    assert {len(index) for index in found} == {n}
    shuffles = torch.cat(found)[: 3 * n * n_rows].view(-1, n_rows)
    assert torch.equal(shuffles.sort(1).values, torch.arange(n_rows).expand_as(shuffles))
    assert not torch.equal(shuffles[0], shuffles[1])


def test_as_many_rows_at_once_as_pay():
    assert rows_at_once(torch.zeros(1000, 2), 100) == 800
    assert rows_at_once(torch.zeros(1000, NUMBERS_AT_ONCE // 300), 100) == 300
    assert rows_at_once(torch.zeros(1000, NUMBERS_AT_ONCE), 100) == 100


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_masks_leave_out_a_share_and_keep_the_mean(share):
    units, source = torch.zeros(32, 256, dtype=torch.float64), generator()
    masks = torch.stack([dropout_mask(units, share, source) for _ in range(200)])
    assert set(masks.unique().tolist()) == {0.0, 1 / (1 - share)}
    assert float((masks == 0).double().mean()) == pytest.approx(share, abs=0.005)
    # No unit is left out more often than others, nor together with its neighbours.
    left_out = (masks == 0).double() - share
    assert left_out.mean(0).abs().max() < 6 * (share * (1 - share) / len(masks)) ** 0.5
    pairs = left_out[:, :, 1:] * left_out[:, :, :-1], left_out[:, 1:] * left_out[:, :-1]
    assert all(float(pair.mean().abs()) < 0.01 * share for pair in pairs)
    assert torch.equal(dropout_mask(units, share, generator()), masks[0])


def test_stratified_numbers():
    u = stratified(100, 32, torch.zeros(0, dtype=torch.float64), generator())
    batches = u.view(32, 100)
    assert torch.equal((100 * batches).floor(), torch.arange(100.0).double().expand(32, 100))
    parts = (3200 * u).floor().flatten().sort().values
    assert torch.equal(parts, torch.arange(3200.0).double())


@pytest.mark.parametrize("kind", [Independent, Joint])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_uniform_and_their_noise_normal(kind, dtype):
    x = torch.randn(300, 2, generator=generator()).to(dtype)
    draws = kind(x, 100, 400, generator())
    assert draws.times.dtype == dtype and draws.times.shape[1] == 1
    assert len(draws.times) % 400 == 0 and len(draws.times) >= 2**15
    assert draws.times.min() >= 0 and draws.times.max() <= 1
    places = torch.arange(10.0) / 10
    quantiles = draws.times.flatten().quantile(places.to(dtype))
    assert_close(quantiles, places.to(dtype), atol=2e-3, rtol=0)
    n_parts = len(draws.times) // 400
    index, noise = zip(*islice(draws, 2 * n_parts), strict=True)
    counts = torch.bincount(torch.cat(index), minlength=300)
    assert (
        counts.min() > 0.9 * counts.double().mean() and counts.max() < 1.1 * counts.double().mean()
    )
    if kind is Independent:
        assert noise == (None,) * len(noise)
        return
    noise = torch.cat(noise)
    assert noise.dtype == dtype and noise.isfinite().all()
    assert_close(noise.mean(0), torch.zeros(2, dtype=dtype), atol=2e-3, rtol=0)
    assert_close(torch.cov(noise.T), torch.eye(2, dtype=dtype), atol=5e-3, rtol=0)
    assert_close(noise.pow(4).mean(0), torch.full((2,), 3.0, dtype=dtype), atol=0.05, rtol=0)
    first, second = noise.view(2, -1, 2)
    assert (first - second).abs().mean() > 0.1  # moved from one round to the next


def test_batches_of_joint_draws_vary_less():
    """Means over a batch of functions of row, time and noise, as a gradient is."""
    x = torch.randn(2000, 2, generator=generator())
    functions = {
        "row": lambda x, t, z: x[:, 0],
        "noise": lambda x, t, z: (z[:, 1] > 0.5).float(),
        "all": lambda x, t, z: torch.tanh(t * x[:, 1] + (1 - t) * z[:, 1]),
    }
    spread, source = {}, generator()
    for kind in (Independent, Joint):
        draws = kind(x, 512, 512, generator())
        found = {name: [] for name in functions}
        for t, (index, noise) in zip(draws.times.flatten().split(512), draws, strict=False):
            noise = torch.randn(512, 2, generator=source) if noise is None else noise
            for name, function in functions.items():
                found[name].append(float(function(x[index], t, noise).mean()))
        spread[kind] = {name: torch.tensor(values).std() for name, values in found.items()}
    for name in functions:
        assert spread[Joint][name] < 0.5 * spread[Independent][name]


def test_near_rows_follow_each_other():
    x = torch.rand(4096, 2, generator=generator())
    steps = x[nearby(x)].diff(dim=0).norm(dim=1)
    assert steps.median() < 3 / math.sqrt(4096) < x.diff(dim=0).norm(dim=1).median() / 5
    line = torch.rand(200, 1, generator=generator()).exp()
    assert torch.equal(x.new_tensor(nearby(line).tolist()), line[:, 0].argsort().float())
    assert sorted(nearby(torch.zeros(50, 3)).tolist()) == list(range(50))  # ties
