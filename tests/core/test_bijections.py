import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.testing import assert_close

from skgen.core.bijections import (
    LayerChain,
    LULinear,
    Permutation,
    columns_of,
    log_det_of,
)
from skgen.core.coupling import Coupling
from skgen.core.transformers import Affine, RationalQuadratic

TRANSFORMERS = {"affine": Affine(), "spline": RationalQuadratic(6)}
every_transformer = pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)
every_width = pytest.mark.parametrize("d", [1, 2, 5])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coupling(d, transformer, n_mapped=None, sizes=(6, 7), activation="silu", dropout=0.0):
    n_mapped = n_mapped or (d + 1) // 2
    return Coupling(d, transformer, sizes, activation, n_mapped, dropout, generator())


def randomised(bijection, scale=0.4):
    """The bijection in float64 with random weights, those that start at zero too."""
    source = generator(1)
    for p in bijection.double().parameters():
        noise = torch.randn(p.shape, generator=source, dtype=torch.float64)
        p.data += scale * noise / p.shape[1] ** 0.5
    return bijection


def chain(d, transformer, n_layers=10):
    layers = []
    for k in range(n_layers):
        layers.append(LULinear(torch.randperm(d, generator=generator(k))))
        layers.append(coupling(d, transformer, sizes=(16, 16)))
    return randomised(LayerChain(*layers), scale=0.2)


def training_forward(layer, x, source):
    """Image, log-determinants and a function for the gradient, all by rows."""
    layers = LayerChain(layer)
    log_slopes = []
    z, kept = layers.training_forward(columns_of(x), log_slopes, source)

    def add_gradient(grad, grad_log_det):
        return layers.training_backward(kept, grad.T, grad_log_det).T

    return z.T, log_det_of(log_slopes, z), add_gradient


def gradients_of(layer):
    return [p.grad for p in layer.parameters()]


def single(d):
    return {
        "lu": LULinear(torch.arange(d).roll(1)),
        "permutation": Permutation(torch.arange(d).flip(0)),
        "affine": coupling(d, Affine(), 1),
        "spline": coupling(d, RationalQuadratic(6)),
        "one-layer": coupling(d, RationalQuadratic(3), d, (5,), "tanh"),
    }


every_bijection = pytest.mark.parametrize("name", single(1))


def rows(d, n=300, largest=0.0):
    """Rows of sizes from 0.01 to 10^largest."""
    x = torch.randn(n, d, generator=generator(2), dtype=torch.float64)
    return x * torch.logspace(-2, largest, n, dtype=torch.float64)[:, None]


@every_transformer
@every_width
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_inverse_of_ten_layers_with_extreme_rows(transformer, d, dtype, tolerance):
    bijection, x = chain(d, transformer), rows(d, largest=6.0).to(dtype)
    z, log_det = bijection(x)
    assert z.dtype == log_det.dtype == dtype and log_det.isfinite().all()
    error = (bijection.inverse(z) - x).norm(dim=1) / (1 + x.norm(dim=1))
    assert error.max() < tolerance


@every_bijection
@every_width
def test_log_determinant_is_that_of_autodiff(name, d):
    bijection = randomised(single(d)[name])
    x = rows(d, 12, largest=1.0)

    def image(row):
        return bijection(row[None])[0][0]

    jacobians = torch.stack([torch.autograd.functional.jacobian(image, row) for row in x])
    sign, expected = torch.linalg.slogdet(jacobians)
    parity = {"lu": (-1) ** (d - 1), "permutation": (-1) ** (d * (d - 1) // 2)}
    assert (sign == parity.get(name, 1)).all()
    assert_close(bijection(x)[1], expected, rtol=0, atol=1e-8)
    assert_close(bijection.inverse(bijection(x)[0]), x, rtol=1e-12, atol=1e-10)


@every_width
def test_a_spline_is_inverted_exactly_on_its_knots(d):
    spline = RationalQuadratic(6)
    parameters = torch.randn(spline.n_parameters, d, generator=generator(), dtype=torch.float64)
    sizes, slopes = parameters.T.split([12, 5], dim=-1)
    sizes = (2.5 * sizes / (1 + sizes**2).sqrt()).exp().unflatten(-1, (2, 6))
    knots = torch.nn.functional.pad(8 * sizes.cumsum(-1) / sizes.sum(-1, keepdim=True), (1, 0)) - 4
    slopes = torch.nn.functional.pad((2.5 * slopes / (1 + slopes**2).sqrt()).exp(), (1, 1), value=1)
    x, y = knots[:, 0].T, knots[:, 1].T
    parameters = parameters[:, None].expand(-1, *x.shape).flatten(0, 1)
    found, log_slope, _ = spline.forward(x, parameters)
    assert_close(found, y, rtol=0, atol=1e-12)
    assert_close(log_slope.exp(), slopes.T, rtol=1e-9, atol=1e-9)
    assert_close(spline.inverse(y, parameters), x, rtol=0, atol=1e-12)


@every_transformer
def test_transformers_start_as_the_identity(transformer):
    x = rows(3, largest=2.0)
    y, log_slope, _ = transformer.forward(
        x, x.new_zeros(transformer.n_parameters * len(x), *x.shape[1:])
    )
    assert_close(y, x, rtol=1e-12, atol=1e-12)
    assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


@every_transformer
@every_width
def test_couplings_map_the_last_columns(transformer, d):
    for n_mapped in range(1, d + 1):
        layer, x = randomised(coupling(d, transformer, n_mapped)), rows(d, largest=0.5)
        changed = (layer(x)[0] != x).any(0).tolist()
        assert changed == [False] * (d - n_mapped) + [True] * n_mapped


@every_bijection
@every_width
def test_training_forward_has_value_and_gradient_of_forward(name, d):
    layer = randomised(single(d)[name])
    x = rows(d, 40, largest=1.0).requires_grad_()
    grads = torch.randn(40, d + 1, generator=generator(3), dtype=torch.float64)
    z, log_det = layer(x)
    total = (z * grads[:, :d]).sum() + (log_det * grads[:, d]).sum()
    expected = torch.autograd.grad(total, [x, *layer.parameters()])
    found, found_log_det, add_gradient = training_forward(layer, x.detach(), generator())
    assert_close((found, found_log_det), (z.detach(), log_det.detach().expand(40)))
    to_x = add_gradient(grads[:, :d], grads[:, d])
    assert_close((to_x, *gradients_of(layer)), expected)
    assert all(gradient.isfinite().all() for gradient in expected)


@every_transformer
def test_gradients_are_finite_everywhere(transformer):
    layer = randomised(coupling(3, transformer), scale=5.0)
    x = torch.cat([rows(3, largest=6.0), torch.tensor([[0.0, 4, -4], [4, 4, 4]])]).double()
    _, log_det, add_gradient = training_forward(layer, x, generator())
    to_x = add_gradient(torch.ones_like(x), torch.full_like(log_det, 3.0))
    assert all(gradient.isfinite().all() for gradient in (to_x, *gradients_of(layer)))


def test_dropout_is_for_training_and_follows_the_generator():
    layer, x = randomised(coupling(4, Affine(), dropout=0.5)), rows(4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (training_forward(layer, x, generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(one, again)
    assert not torch.allclose(one, other)
    assert_close(layer(x)[0], layer(x)[0])
    # The average over masks is near the map without.
    draws = torch.stack([training_forward(layer, x, generator(s))[0] for s in range(400)])
    assert (draws.mean(0) - layer(x)[0]).abs().mean() < 0.2 * draws.std(0).mean()


def test_gradient_is_that_of_the_units_left_by_dropout():
    layer, x = randomised(coupling(4, Affine(), dropout=0.5)), rows(4, 40, largest=1.0)
    _, log_det, add_gradient = training_forward(layer, x, generator())
    add_gradient(torch.zeros_like(x), torch.ones_like(log_det))
    found = torch.cat([gradient.flatten() for gradient in gradients_of(layer)])

    parameters = list(layer.parameters())
    start = parameters_to_vector(parameters).detach()
    direction = torch.randn(len(start), generator=generator(5), dtype=start.dtype)
    ends = []
    for step in (1e-6, -1e-6):
        vector_to_parameters(start + step * direction, parameters)
        ends.append(training_forward(layer, x, generator())[1].sum())
    assert_close(found @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-6)


def test_a_gradient_is_taken_once():
    layer, x = coupling(2, Affine()), torch.zeros(3, 2)
    z, log_det, add_gradient = training_forward(layer, x, generator())
    training_forward(layer, x, generator())
    with pytest.raises(RuntimeError, match="evaluated again"):
        add_gradient(z, log_det)


@every_bijection
def test_vmap(name):
    bijection, x = randomised(single(3)[name]), rows(3, 20, largest=1.0)
    z, log_det = torch.func.vmap(bijection)(x)
    assert_close((z, log_det), bijection(x))
    assert_close(torch.func.vmap(bijection.inverse)(z), x, rtol=1e-10, atol=1e-10)


@every_bijection
def test_compiles_without_graph_breaks(name):
    bijection, x = randomised(single(3)[name]), rows(3, 20, largest=1.0)
    compiled = torch.compile(bijection, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), bijection(x))
    inverse = torch.compile(bijection.inverse, fullgraph=True, backend="aot_eager")
    assert_close(inverse(x), bijection.inverse(x))


@every_transformer
def test_a_chain_is_a_density(transformer):
    bijection = randomised(
        LayerChain(LULinear(torch.arange(1)), coupling(1, transformer), coupling(1, transformer))
    )
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)[:, None]
    z, log_det = bijection(grid)
    log_normal = -0.5 * z[:, 0] ** 2 - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    mass = torch.trapezoid((log_normal + log_det).exp(), grid[:, 0])
    assert float(mass.detach()) == pytest.approx(1, abs=1e-6)
