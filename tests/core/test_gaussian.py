import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from skgen.core.gaussian import (
    Gaussian,
    NormalMixture,
    column_moments,
    descend_gaussian,
    fit_gaussian,
)

KINDS = ["full", "diag", "spherical", "white"]
rng = np.random.RandomState(0)
X = rng.normal(size=(300, 3)) @ np.array([[2.0, 0, 0], [0.5, 1, 0], [-0.3, 0.2, 0.1]]) + [5, -1, 0]
WEIGHT = rng.randint(0, 4, size=300).astype(float)


def moments(X, weight, kind):
    """Mean and covariance by NumPy."""
    mean = np.average(X, axis=0, weights=weight)
    covariance = np.cov(X.T, bias=True, aweights=weight)
    variance = covariance.diagonal()
    return mean, {
        "full": covariance,
        "diag": np.diag(variance),
        "spherical": variance.mean() * np.eye(3),
        "white": np.eye(3),
    }[kind]


def covariance_of(gaussian):
    return (gaussian.scale_tril @ gaussian.scale_tril.T).numpy()


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_against_numpy_and_scipy(kind, weight):
    mean, covariance = moments(X, weight, kind)
    fitted = fit_gaussian(
        torch.tensor(X), None if weight is None else torch.tensor(weight), kind, 0.0
    )
    assert_allclose(fitted.mean, mean, rtol=1e-12)
    assert_allclose(covariance_of(fitted), covariance, rtol=1e-10, atol=1e-12)
    expected = multivariate_normal(mean, covariance).logpdf(X)
    assert_allclose(fitted.log_prob(torch.tensor(X)), expected, rtol=1e-8)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_ridge_is_relative_to_the_variances(kind):
    _, covariance = moments(X, None, kind)
    fitted = fit_gaussian(torch.tensor(X), None, kind, 0.5)
    ridge = 0.5 * np.diag(covariance.diagonal())
    assert_allclose(covariance_of(fitted), covariance + ridge, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_closed_form_is_the_maximum(kind):
    fitted = fit_gaussian(torch.tensor(X), None, kind, 0.0)
    best = fitted.log_prob(torch.tensor(X)).mean()
    for factor in (0.98, 1.02):
        for shift in (-0.02, 0.02):
            other = Gaussian(fitted.mean + shift, factor * fitted.scale_tril)
            assert other.log_prob(torch.tensor(X)).mean() < best


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
def test_descent_agrees_with_the_closed_form(kind, weight):
    x = torch.tensor(X)
    weight = None if weight is None else torch.tensor(weight)
    closed = fit_gaussian(x, weight, kind, 1e-6)
    generator = torch.Generator().manual_seed(0)
    descended = descend_gaussian(x, weight, kind, 1e-6, 0.1, 300, 400, generator)
    scale = closed.scale_tril.diagonal()
    assert ((descended.mean - closed.mean).abs() <= 1e-2 * scale).all()
    difference = covariance_of(descended) - covariance_of(closed)
    assert (abs(difference) <= 1e-2 * np.outer(*[closed.scale_tril.norm(dim=1)] * 2)).all()


def test_samples_have_the_moments():
    fitted = fit_gaussian(torch.tensor(X), None, "full", 0.0)
    rows = fitted.sample(100_000, torch.Generator().manual_seed(0)).numpy()
    scale = np.sqrt(covariance_of(fitted).diagonal())
    assert (abs(rows.mean(0) - fitted.mean.numpy()) < 0.015 * scale).all()
    error = np.cov(rows.T) - covariance_of(fitted)
    assert (abs(error) < 0.02 * np.outer(scale, scale)).all()


def test_variance_of_a_constant_column_is_exactly_zero():
    x = torch.full((7, 2), 0.1, dtype=torch.float64)
    x[:, 1] += torch.arange(7)
    _, variance = column_moments(x)
    assert variance[0] == 0 and variance[1] == pytest.approx(4.0)


@pytest.mark.parametrize("weights", [(2.0, 0.0), (1.0, 1.0), (1e-3, 1e3), (0.3, -0.7)])
def test_singular_covariance_is_an_error_without_ridge(weights):
    x = torch.tensor(X[:, :2])
    x = torch.cat([x, x @ torch.tensor(weights, dtype=x.dtype)[:, None]], dim=1)
    with pytest.raises(torch.linalg.LinAlgError):
        fit_gaussian(x, None, "full", 0.0)
    assert torch.isfinite(fit_gaussian(x, None, "full", 1e-6).log_prob(x)).all()


def three_normals():
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    scales = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64).tril()
    scales.diagonal(dim1=1, dim2=2).abs_().add_(0.3)
    return NormalMixture(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), means, scales)


@pytest.mark.parametrize("max_numbers", [2**22, 50])
def test_mixture_against_scipy(max_numbers, monkeypatch):
    monkeypatch.setattr(NormalMixture, "max_numbers", max_numbers)
    mixture, x = three_normals(), 4 * torch.randn(20, 2, dtype=torch.float64)
    densities = [
        float(weight) * multivariate_normal(mean, scale @ scale.T).pdf(x)
        for weight, mean, scale in zip(
            mixture.weights, mixture.means.numpy(), mixture.scale_trils.numpy(), strict=True
        )
    ]
    assert_allclose(mixture.log_prob(x), np.log(np.sum(densities, axis=0)), rtol=1e-10)
    assert_allclose(mixture.log_prob(x.float()), mixture.log_prob(x), rtol=1e-4)
    assert mixture.log_prob(x[:0]).shape == (0,)


def test_samples_of_a_mixture():
    mixture = three_normals()
    x = mixture.sample(200_000, torch.Generator().manual_seed(0))
    mean = mixture.weights @ mixture.means
    away = mixture.means - mean
    parts = mixture.scale_trils @ mixture.scale_trils.mT + away[:, :, None] * away[:, None]
    assert_allclose(x.mean(0), mean, atol=0.03)
    assert_allclose(
        torch.cov(x.T), (mixture.weights[:, None, None] * parts).sum(0), rtol=0.03, atol=0.03
    )
