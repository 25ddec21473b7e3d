import math

import pytest
import torch
from scipy.stats import norm
from torch.func import jvp, vjp
from torch.testing import assert_close

from skgen.core.gaussian import Gaussian
from skgen.core.models import Preconditioned
from skgen.core.supports import N_POINTS, Bounded, Folded, Folding

INF = math.inf
BOUNDS = {0: (2.0, INF), 1: (-INF, 3.0), 2: (-1.0, 1.0)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inside(n=500):
    """Rows from very near the bounds to far from them, and a column without any."""
    u = torch.rand(n, 4, generator=generator(), dtype=torch.float64)
    away = 10 ** (12 * u[:, :2] - 6)
    return torch.stack([2 + away[:, 0], 3 - away[:, 1], 2 * u[:, 2] - 1, 9 * u[:, 3]], 1)


def bounded():
    x = torch.tensor([[3.0, 1.5, 0.1, 0.0], [4.0, 2.5, 0.2, 7.0]], dtype=torch.float64)
    return Bounded(x, BOUNDS)


def test_inverse_and_log_determinant():
    x, bijection = inside(), bounded()
    z, log_det = bijection(x)
    assert_close(bijection.inverse(z), x, rtol=1e-9, atol=1e-9)
    slopes = jvp(lambda x: bijection(x)[0], (x,), (torch.ones_like(x),))[1]  # column by column
    assert_close(log_det, slopes.log().sum(1), rtol=1e-6, atol=1e-6)


def test_the_law_of_greatest_entropy_becomes_normal():
    z = bounded()(inside())[0]
    for column, (rate, x) in {0: (1 / 1.5, inside()[:, 0] - 2), 1: (1, 3 - inside()[:, 1])}.items():
        near = x * rate < 30
        expected = norm.isf((-rate * x[near]).exp()) * (1 if column == 0 else -1)
        assert_close(z[near, column], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert_close(z[:, 2], torch.tensor(norm.ppf((inside()[:, 2] + 1) / 2)), rtol=1e-7, atol=1e-7)
    assert_close(z[:, 3], inside()[:, 3])


@pytest.mark.parametrize("y", [1.0, 50.0, 700.0, 1e6])
def test_pieces_of_the_curve_join(y):
    bijection = Bounded(torch.ones(1, 1, dtype=torch.float64), {0: (0.0, INF)})
    x = torch.tensor([[y * (1 - 1e-9)], [y * (1 + 1e-9)]], dtype=torch.float64)
    z, log_det = bijection(x)
    assert_close(z[0], z[1], rtol=1e-7, atol=1e-9)
    assert_close(log_det[0], log_det[1], rtol=1e-7, atol=1e-7)


def test_edges_and_beyond():
    bijection = bounded()
    x = torch.tensor([[2, 3, -1, 0], [2, 3, 1, 0], [1.9, 0, 0, 0], [3, 3.1, 0, 0], [3, 0, 1.1, 0]])
    for dtype in (torch.float32, torch.float64):
        z, log_det = bijection(x.to(dtype))
        assert z.dtype == log_det.dtype == dtype and z.isfinite().all()
        assert log_det.isfinite().tolist() == [True, True, False, False, False]
    ends = bijection.inverse(torch.full((1, 4), 50.0, dtype=torch.float64))
    assert (ends[0, 1:3] < torch.tensor([3.0, 1.0])).all()
    starts = bijection.inverse(torch.full((1, 4), -50.0, dtype=torch.float64))
    assert_close(starts[0, [0, 2]], torch.tensor([2.0, -1.0], dtype=torch.float64))


def test_derivatives_are_numbers_and_further_columns_pass():
    x, bijection = inside(), bounded()
    rows = torch.cat([x, x[:, :2]], 1)
    z, log_det = bijection(rows)
    assert_close(z[:, 4:], x[:, :2])
    assert_close(log_det, bijection(x)[1])
    (image, log_det), pull = vjp(bijection, x)
    assert pull((torch.ones_like(image), torch.ones_like(log_det)))[0].isfinite().all()
    assert jvp(bijection.inverse, (image,), (torch.ones_like(image),))[1].isfinite().all()


def test_folding():
    x = torch.rand(400, 3, generator=generator(), dtype=torch.float64) * 6
    x[:, 0] /= 3  # nothing in [2, 4) of the circle [0, 4)
    x[:, 1] = x[:, 1].floor()
    folding = Folding(x, {0: (0.0, 4.0)}, [1], seed=0)
    cut = float(folding.cut[0])
    assert abs(cut) == pytest.approx(1, abs=0.1)  # the middle of [2, 4), less a period
    spread = folding.spread(x, 1000, generator())
    assert spread.shape == (800, 3)
    assert ((spread[:, 0] >= cut) & (spread[:, 0] < cut + 4)).all()
    wider = folding.spread(torch.cat([x, x[:, 2:]], 1), 1000, generator())
    assert wider[:, :3].equal(spread) and wider[:, 3].equal(x[:, 2].repeat(2))
    for copy in spread.split(400):
        assert_close(folding.fold(copy), x)
    assert (spread[:400, 1] != spread[400:, 1]).all()
    assert_close(folding.fold(folding.unfold(x)), x)
    turned = folding.fold(torch.tensor([[-1e-20, 1.5, -3.0]], dtype=torch.float64))
    assert 0 <= float(turned[0, 0]) < 4 and turned[0, 1:].tolist() == [1, -3]


def normal(*mean):
    mean = torch.tensor(mean, dtype=torch.float64)
    return Gaussian(mean, torch.eye(len(mean), dtype=torch.float64))


def test_folded_density_sums_over_turns_and_points():
    x = torch.tensor([[0.5, 3.0], [3.9, 2.0]], dtype=torch.float64)
    folding = Folding(x, {0: (0.0, 4.0)}, [1], seed=0)
    model, points = normal(1.0, 2.5), folding.points[:, 1]
    assert ((points * N_POINTS).floor().sort().values == torch.arange(N_POINTS)).all()
    density = Folded(folding, model)
    angles = sum(torch.tensor(norm.pdf(x[:, 0], 1 + 4 * k)) for k in range(-3, 4))
    counts = torch.tensor(norm.pdf(x[:, 1:] + points, 2.5)).mean(1)
    # A turn more would add less than this.
    assert_close(density.log_prob(x), (angles * counts).log(), rtol=0, atol=1e-4)
    further = torch.cat([x, x[:, :1]], 1)
    assert folding.unfold(further, folding.points[0], folding.turns[0])[:, 2].equal(x[:, 0])
    assert density.log_prob(x + 0.5).isinf().all()
    drawn = density.sample(1000, generator())
    assert (drawn[:, 1] == drawn[:, 1].floor()).all()
    assert ((drawn[:, 0] >= 0) & (drawn[:, 0] < 4)).all()


def test_bounds_of_a_folded_column():
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    model = Preconditioned(Bounded(x, {0: (0.0, 3.0)}), normal(0.0), 1)
    density = Folded(Folding(x, {}, [0], seed=0), model)
    rows = torch.arange(-2, 6, dtype=torch.float64)[:, None]
    third = -math.log(3)  # normal behind the bounds is uniform
    expected = torch.tensor([-INF, -INF, third, third, third, -INF, -INF, -INF])
    assert_close(density.log_prob(rows), expected.double())
    assert density.sample(500, generator()).unique().tolist() == [0, 1, 2]
