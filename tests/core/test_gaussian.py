import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from skgen.core.gaussian import Gaussian, column_moments, descend_gaussian, fit_gaussian

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


def test_singular_covariance_is_an_error_without_ridge():
    x = torch.tensor(X)
    x = torch.stack([x[:, 0], 2 * x[:, 0]], dim=1)
    with pytest.raises(torch.linalg.LinAlgError):
        fit_gaussian(x, None, "full", 0.0)
    assert torch.isfinite(fit_gaussian(x, None, "full", 1e-6).log_prob(x)).all()
