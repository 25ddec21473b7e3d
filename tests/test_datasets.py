"""The known densities against oracles that do not share their formulas."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.stats import chi2, multivariate_normal
from sklearn.datasets import make_circles, make_moons

from skgen import datasets
from skgen.datasets import Checkerboard, Circles, EightGaussians, Pinwheel, Spiral, TwoMoons

DENSITIES = [
    EightGaussians(),
    EightGaussians(radius=2.0, scale=0.9),
    Checkerboard(),
    Circles(),
    Circles(factor=0.8, noise=0.2),
    Pinwheel(),
    Pinwheel(n_arms=3, radial_scale=0.2, tangential_scale=0.1, rate=-0.4),
    TwoMoons(),
    TwoMoons(noise=0.3),
    Spiral(noise=0.2),
    Spiral(turns=0.8, noise=0.3, radius=2.0, n_arms=1),
]
CURVES = [truth for truth in DENSITIES if isinstance(truth, (TwoMoons, Spiral))]
every_density = pytest.mark.parametrize("truth", DENSITIES, ids=repr)


def fine_grid(truth, X):
    """Log-density on a 240 x 240 grid of cells that covers X, and the half width of the square."""
    half_width = 4.0 if isinstance(truth, Checkerboard) else 1.02 * np.abs(X).max()
    middle = half_width * ((np.arange(240) + 0.5) / 120 - 1)
    points = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
    return truth.score_samples(points), half_width


@every_density
def test_density_has_mass_one_and_matches_samples_and_entropy(truth):
    X = truth.sample(20_000, random_state=0)
    log_density, half_width = fine_grid(truth, X)
    mass = np.exp(log_density) * (half_width / 120) ** 2
    assert_allclose(mass.sum(), 1, atol=1e-3)
    assert_allclose(-mass[mass > 0] @ log_density[mass > 0], truth.entropy(), atol=3e-3)

    edges = np.linspace(-half_width, half_width, 21)
    count, *_ = np.histogram2d(X[:, 1], X[:, 0], bins=(edges, edges))
    expected = len(X) * mass.reshape(20, 12, 20, 12).sum(axis=(1, 3))
    likely = expected > 10
    statistic = np.sum((count - expected)[likely] ** 2 / expected[likely])
    assert chi2.sf(statistic, likely.sum()) > 1e-3
    assert count[~likely].sum() <= 1.5 * expected[~likely].sum() + 5


@every_density
def test_mean_log_density_of_samples_is_minus_entropy(truth):
    log_density = truth.score_samples(truth.sample(5000, random_state=1))
    error = log_density.std() / np.sqrt(len(log_density))
    assert abs(log_density.mean() + truth.entropy()) <= 4 * error + 1e-12


@pytest.mark.parametrize(
    "truth, X",
    [
        (TwoMoons(noise=0.2), make_moons(4000, noise=0.2, random_state=0)[0]),
        (Circles(noise=0.1), make_circles(4000, factor=0.5, noise=0.1, random_state=0)[0]),
    ],
    ids=repr,
)
def test_same_shape_as_in_scikit_learn(truth, X):
    log_density = truth.score_samples(X)
    assert abs(log_density.mean() + truth.entropy()) <= 4 * log_density.std() / np.sqrt(len(X))


def test_eight_gaussians_against_scipy():
    X = np.random.RandomState(0).uniform(-7, 7, size=(50, 2))
    centres = [(5 * np.sin(k * np.pi / 4), 5 * np.cos(k * np.pi / 4)) for k in range(8)]
    expected = np.log(np.mean([multivariate_normal(c, 0.49).pdf(X) for c in centres], axis=0))
    assert_allclose(EightGaussians().score_samples(X), expected, rtol=1e-10)


@pytest.mark.parametrize("truth", [*CURVES, TwoMoons(noise=0.02)], ids=repr)
def test_quadrature_agrees_with_ten_times_the_nodes(truth):
    X = np.vstack([truth.sample(50, 0), np.random.RandomState(0).uniform(-6, 6, size=(50, 2))])
    expected = datasets._mixture_log_density(X, *truth._nodes(order=160), truth.noise)
    assert_allclose(truth.score_samples(X), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("x", [(0.0, 1.1), (1.0, 0.2), (0.5, 0.25), (-1.3, -0.5)])
def test_two_moons_against_adaptive_quadrature(x):
    def integrand(a):
        outer = np.exp(-50 * ((x[0] - np.cos(a)) ** 2 + (x[1] - np.sin(a)) ** 2))
        inner = np.exp(-50 * ((x[0] - 1 + np.cos(a)) ** 2 + (x[1] - 0.5 + np.sin(a)) ** 2))
        return (outer + inner) / (2 * np.pi * 0.01) / (2 * np.pi)

    value, _ = quad(integrand, 0, np.pi, points=np.linspace(0.1, 3, 30), limit=200, epsabs=0)
    assert_allclose(TwoMoons().score_samples([x]), np.log(value), atol=1e-8)


@pytest.mark.parametrize("truth", [Spiral(noise=0.3), Circles(), Pinwheel()], ids=repr)
def test_far_tails_stay_finite(truth):
    log_density = truth.score_samples([[30.0, -40.0], [3e3, 4e3]])
    assert np.all(np.isfinite(log_density)) and log_density[1] < log_density[0] < -1000


def test_checkerboard_support():
    log_density = Checkerboard().score_samples([[1, 1], [-1, 1], [-1, 3], [3, -3], [5, 5], [0, -5]])
    assert_allclose(np.exp(log_density) * 32, [1, 0, 1, 0, 0, 0])


@every_density
def test_randomness(truth):
    np.random.seed(0)
    untouched = np.random.RandomState(0).uniform()
    X = truth.sample(5, random_state=3)
    assert X.shape == (5, 2) and X.dtype == np.float64
    assert_array_equal(X, truth.sample(5, random_state=3))
    rng = np.random.RandomState(3)
    assert_array_equal(truth.sample(5, rng), X)
    assert not np.array_equal(truth.sample(5, rng), X)
    assert np.random.uniform() == untouched
    assert truth.sample().shape == (1, 2)
    assert truth.score(X) == pytest.approx(truth.score_samples(X).mean())


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "3", None])
def test_n_samples_must_be_a_positive_integer(bad):
    with pytest.raises(ValueError, match=f"n_samples .* got {bad!r}"):
        TwoMoons().sample(bad)


def test_bad_data():
    with pytest.raises(ValueError, match="must have 2 columns, got 3"):
        Spiral().score_samples(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="NaN"):
        Circles().score_samples([[0.0, np.nan]])
    with pytest.raises(ValueError, match="2D array"):
        Circles().score_samples([0.0, 1.0])


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: TwoMoons(noise=0), "noise"),
        (lambda: EightGaussians(scale=-1.0), "scale"),
        (lambda: EightGaussians(radius=np.nan), "radius"),
        (lambda: Circles(factor=1.0), "factor"),
        (lambda: Pinwheel(n_arms=2.5), "n_arms"),
        (lambda: Pinwheel(rate=np.inf), "rate"),
        (lambda: Spiral(turns="2"), "turns"),
        (lambda: Spiral(n_arms=True), "n_arms"),
    ],
)
def test_bad_parameters(make, name):
    with pytest.raises(ValueError, match=f"{name} of .* must be .* got"):
        make()


def test_parameters_are_stored_and_frozen():
    truth = Spiral(turns=2, noise=0.2)
    assert repr(truth) == "Spiral(turns=2, noise=0.2, radius=3.0, n_arms=2)"
    with pytest.raises(FrozenInstanceError):
        truth.noise = 0.5
