"""What RealNVPDensity promises beyond the contract."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import trapezoid
from sklearn.base import clone

from skgen import FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.core.bijections import Permutation
from skgen.core.coupling import Coupling
from skgen.datasets import TwoMoons

from .estimators import cheap_coupling, cheap_flow, two_clusters

KINDS = [
    {"transformer": transformer, "linear": linear}
    for transformer in ("affine", "spline")
    for linear in ("lu", "permutation")
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))


@pytest.fixture(scope="module")
def moons():
    X = TwoMoons().sample(3000, random_state=0)
    return RealNVPDensity(max_iter=800, n_blocks=4, random_state=0).fit(X)


@every_kind
@pytest.mark.parametrize("d", [1, 2, 5])
def test_starts_as_the_fitted_gaussian(kind, d):
    X = two_clusters(90, d)  # enough that correlations are not shrunk
    density = cheap_coupling(
        **kind, preconditioning="standardize", defensive_weight=0, max_iter=1,
        learning_rate_init=1e-12, early_stopping=False, reg_covar=0,
    ).fit(X)  # fmt: skip
    expected = GaussianMLE(reg_covar=0).fit(X).score_samples(X)
    assert_allclose(density.score_samples(X), expected, atol=1e-6)


def test_learns_two_moons(moons):
    truth = TwoMoons()
    fresh = truth.sample(5000, random_state=1)
    assert truth.score(fresh) - moons.score(fresh) < 0.1
    drawn = moons.sample(5000, random_state=0)
    assert abs(moons.score(drawn) - moons.score(fresh)) < 0.1


def test_transform_there_and_back(moons):
    X = TwoMoons().sample(2000, random_state=2)
    Z = moons.transform(X)
    assert_allclose(moons.inverse_transform(Z), X, atol=1e-7)
    assert_allclose(Z.mean(axis=0), 0, atol=0.15)
    assert_allclose(np.cov(Z.T), np.eye(2), atol=0.2)


@every_kind
def test_training_improves_on_the_start(kind):
    X = np.random.RandomState(0).normal(size=(600, 3))
    X[:, 1:] += 2 * X[:, :1] ** 2
    options = {"n_blocks": 4, "preconditioning": "standardize", "defensive_weight": 0}
    density = cheap_coupling(**kind, **options)
    before, after = (clone(density).set_params(max_iter=n).fit(X).score(X) for n in (1, 150))
    assert after > before + 0.5


@pytest.mark.parametrize("n_groups, n_blocks", [(2, 4), (3, 6)])
@pytest.mark.parametrize("linear", ["lu", "permutation"])
def test_relations_are_learnt_whatever_the_order_of_the_columns(linear, n_groups, n_blocks):
    X = np.random.RandomState(0).normal(size=(600, 4))
    X[:, [1, 3]] += 2 * X[:, [0, 2]] ** 2
    options = {"linear": linear, "n_groups": n_groups, "n_blocks": n_blocks}
    options["preconditioning"] = "standardize"
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        rows = X[:, order]
        before, after = (
            cheap_coupling(**options, max_iter=n).fit(rows).score(rows) for n in (1, 150)
        )
        assert after > before + 1.0


@every_kind
def test_columns_of_the_noise_are_in_the_order_of_the_rows(kind):
    X = np.random.RandomState(0).normal(size=(300, 7))
    density = cheap_coupling(
        **kind, preconditioning="standardize", early_stopping=False, max_iter=1,
        learning_rate_init=1e-12,
    ).fit(X)  # fmt: skip
    correlations = np.corrcoef(density.transform(X).T, X.T)[:7, 7:]
    assert (correlations.argmax(axis=1) == np.arange(7)).all()


@pytest.mark.parametrize(
    "base", ["student", "mixture", GaussianMLE(), cheap_coupling(transformer="affine")]
)
def test_any_base_gives_a_density_and_its_samples(base):
    X = two_clusters(300, 1)
    density = cheap_coupling(base=base, max_iter=60).fit(X)
    grid = np.linspace(-40, 40, 80_001)[:, None]
    mass = trapezoid(np.exp(density.score_samples(grid)), grid[:, 0])
    assert mass == pytest.approx(1, abs=2e-3)
    drawn = density.sample(4000, random_state=0)
    assert abs(density.score(drawn) - density.score(X)) < 0.25


def test_a_base_is_copied_and_must_be_differentiable():
    base = GaussianMLE()
    cheap_coupling(base=base).fit(two_clusters())
    assert not hasattr(base, "module_")
    with pytest.raises(ValueError, match="that of FlowMatchingDensity cannot"):
        cheap_coupling(base=cheap_flow()).fit(two_clusters())
    assert isinstance(cheap_flow(), FlowMatchingDensity)


def test_bad_hidden_layer_sizes():
    with pytest.raises(ValueError, match="hidden_layer_sizes must hold positive ints"):
        cheap_coupling(hidden_layer_sizes=(8, -1)).fit(two_clusters())


@pytest.mark.parametrize(
    "parameter, value",
    [("transformer", "cubic"), ("linear", "qr"), ("n_bins", 1), ("n_groups", 1), ("dropout", 1.0)],
)
def test_bad_parameters_are_named(parameter, value):
    with pytest.raises(ValueError, match=parameter):
        cheap_coupling(**{parameter: value}).fit(two_clusters())


@pytest.mark.parametrize("transformer", ["affine", "spline"])
def test_ten_trained_layers_are_inverted(transformer):
    X = np.random.RandomState(0).normal(size=(600, 4))
    X[:, 1:] += 2 * X[:, :1] ** 2
    density = cheap_coupling(transformer=transformer, n_blocks=5, max_iter=200).fit(X)
    chain = density.module_.components[0].model.chain.requires_grad_(False)
    trained = [layer for layer in chain.layers if not isinstance(layer, Permutation)]
    assert len(trained) == 10
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    x *= torch.logspace(-2, 6, 400, dtype=torch.float64)[:, None]
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 1e-4)]:
        z, log_det = chain(x.to(dtype))
        # What the rounding of a row's image costs, no inverse can undo.
        rounding = (chain.inverse(chain(x)[0].to(dtype).double()) - x).norm(dim=1)
        error = (chain.inverse(z) - x.to(dtype)).norm(dim=1)
        assert (error < tolerance * (1 + x.norm(dim=1)) + rounding).all()
        assert z.dtype == dtype and log_det.isfinite().all()
        assert (error > tolerance * (1 + x.norm(dim=1))).sum() <= 1
    x = x[::40]
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda row: chain(row[None])[0][0], row) for row in x]
    )
    assert_allclose(chain(x)[1], torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("d, n_groups, sizes", [(1, 2, {1}), (5, 2, {2, 3}), (5, 3, {1, 2})])
def test_three_couplings_for_each_group(d, n_groups, sizes):
    density = cheap_coupling(n_groups=n_groups, n_blocks="auto", max_iter=1)
    layers = density.fit(two_clusters(n_features=d)).module_.components[0].model.chain.layers
    couplings = [layer for layer in layers if isinstance(layer, Coupling)]
    assert len(couplings) == 3 * n_groups
    assert {coupling.sizes[1] for coupling in couplings} == sizes


@pytest.mark.parametrize(
    "n_rows, whitened, gaussianized", [(500, 0.5, 0.5), (501, 0.1, 0.3), (2001, 0.05, 0.05)]
)
def test_few_rows_leave_out_more_units(n_rows, whitened, gaussianized):
    density = RealNVPDensity()
    z = torch.randn(n_rows, 2, dtype=torch.float64)
    for kind, share in {"standardize": whitened, "gaussianize": gaussianized}.items():
        model = density._build_model(z, torch.Generator().manual_seed(0), kind)
        couplings = [layer for layer in model.chain.layers if isinstance(layer, Coupling)]
        assert {coupling.conditioner.dropout for coupling in couplings} == {share}


@pytest.mark.parametrize("early_lead, winner", [(-1e9, "gaussianize"), (1e9, "standardize")])
def test_an_early_lead_of_gaussianised_columns_does_not_count(monkeypatch, early_lead, winner):
    monkeypatch.setattr(RealNVPDensity, "_early_lead", early_lead)
    assert cheap_coupling().fit(two_clusters()).preconditioning_ == "standardize"
    monkeypatch.setattr("skgen.trained.FEW_ROWS", 50)
    assert cheap_coupling().fit(two_clusters()).preconditioning_ == winner
