import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from skgen import GaussianMLE

rng = np.random.RandomState(0)
X = rng.normal(size=(400, 3)) @ np.array([[2.0, 0, 0], [0.5, 1, 0], [-0.3, 0.2, 0.1]]) + [5, -1, 0]


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_against_a_mixture_of_one(covariance_type):
    peer = GaussianMixture(1, covariance_type=covariance_type, reg_covar=0).fit(X)
    fitted = GaussianMLE(covariance_type=covariance_type, reg_covar=0).fit(X)
    assert_allclose(fitted.mean_, peer.means_[0])
    assert_allclose(fitted.score_samples(X), peer.score_samples(X), rtol=1e-8)


def test_white_fits_the_mean_only():
    fitted = GaussianMLE(covariance_type="white").fit(X)
    assert_allclose(fitted.covariance_, np.eye(3))
    expected = multivariate_normal(X.mean(0), np.eye(3)).logpdf(X)
    assert_allclose(fitted.score_samples(X), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical", "white"])
def test_descent_agrees_with_the_formula(covariance_type, weighted):
    weight = np.arange(400) % 3 if weighted else None
    closed = GaussianMLE(covariance_type=covariance_type)
    descended = clone(closed).set_params(solver="sgd", batch_size=400, random_state=0)
    for density in (closed, descended):
        density.fit(X, sample_weight=weight)
    scale = np.sqrt(closed.covariance_.diagonal())
    assert (abs(descended.mean_ - closed.mean_) <= 1e-2 * scale).all()
    difference = abs(descended.covariance_ - closed.covariance_)
    assert (difference <= 1e-2 * np.outer(scale, scale)).all()
    assert descended.score(X, sample_weight=weight) <= closed.score(X, sample_weight=weight) + 1e-9
    assert descended.score(X, sample_weight=weight) > closed.score(X, sample_weight=weight) - 1e-3


def test_dependent_columns_are_named_as_the_cause():
    dependent = np.column_stack([X[:, 0], 2 * X[:, 0]])
    with pytest.raises(ValueError, match=r"linearly dependent.*larger reg_covar than 0"):
        GaussianMLE(reg_covar=0).fit(dependent)
    assert np.isfinite(GaussianMLE().fit(dependent).score(dependent))


def test_more_columns_than_rows():
    wide = np.random.RandomState(0).normal(size=(5, 20))
    assert np.isfinite(GaussianMLE().fit(wide).score(wide))
