import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from skgen.mixing import mixture_weights

LOG_DENSITIES = np.random.RandomState(0).normal([0.2, 0.0, 0.1, -0.1], size=(200, 4))
LOG_DENSITIES[:60, 2] += 3


def loss(weights, sample_weight=None):
    return -np.average(logsumexp(LOG_DENSITIES + np.log(weights), axis=1), weights=sample_weight)


@pytest.mark.parametrize(
    "sample_weight", [None, np.random.RandomState(1).randint(0, 4, 200).astype(float)]
)
def test_against_a_general_optimiser(sample_weight):
    weights = mixture_weights(LOG_DENSITIES, sample_weight, floor=0.0, max_iter=100_000, tol=1e-12)
    best = minimize(lambda a: loss(softmax(a), sample_weight), np.zeros(4), tol=1e-12)
    assert weights.sum() == pytest.approx(1)
    assert loss(np.maximum(weights, 1e-300), sample_weight) <= best.fun + 1e-8
    assert_allclose(weights, softmax(best.x), atol=1e-3)


def test_weight_k_is_k_copies():
    weight = np.arange(200) % 3
    copied = mixture_weights(LOG_DENSITIES.repeat(weight, axis=0))
    assert_allclose(mixture_weights(LOG_DENSITIES, weight.astype(float)), copied, atol=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.001, 0.1, 0.25])
def test_floor(floor):
    hopeless = LOG_DENSITIES - [0, 50, 0, 50]
    weights = mixture_weights(hopeless, floor=floor)
    assert weights.sum() == pytest.approx(1) and (weights >= floor - 1e-12).all()
    assert_allclose(weights[[1, 3]], floor, atol=1e-12)


def test_prior_counts_as_rows():
    apart = np.repeat([[0.0, -99], [-99, 0]], [3, 7], axis=0)
    assert_allclose(mixture_weights(apart, prior=np.array([1.0, 0.0])), [4 / 11, 7 / 11], atol=1e-6)
    weights = mixture_weights(apart, sample_weight=np.full(10, 2.0), prior=1.0)
    assert_allclose(weights, [7 / 22, 15 / 22], atol=1e-6)


def test_first_of_the_best_components_is_a_row_ahead():
    def check(columns, k, weight=None):
        ahead = mixture_weights(columns, weight, prior=np.eye(3)[k])
        assert_allclose(mixture_weights(columns, weight, prior="first"), ahead)
        assert ahead[k] >= mixture_weights(columns, weight)[k]

    noise = np.random.RandomState(0).normal(size=(400, 3))
    noise -= noise.mean(0)
    close, apart = np.array([0, -1, 0.02]), np.array([0, -1, 0.2])
    check(noise + close, 0)  # the standard error of a difference is 0.07
    check(noise + close, 0, np.full(400, 9.0))
    check(noise + apart, 2)
    check(noise[:, :1] + close, 2)  # by as much in each row, so that there is no doubt
    check(np.vstack([[[-np.inf, 0, -np.inf]], noise + np.array([1, 0, 1])]), 1)
    check(noise * [1e200, 1, 1] - [1e200, 0, 0.02], 1)  # the square of a difference is not finite


def test_impossible_rows_are_ignored():
    impossible = np.full((5, 4), -np.inf)
    expected = mixture_weights(LOG_DENSITIES)
    assert_allclose(mixture_weights(np.vstack([LOG_DENSITIES, impossible])), expected)
    assert_allclose(mixture_weights(impossible), 0.25)


def test_density_that_excludes_a_row_is_handled():
    log_densities = np.array([[0.0, -np.inf], [-np.inf, 0.0], [-np.inf, 0.0], [-np.inf, 0.0]])
    assert_allclose(mixture_weights(log_densities), [0.25, 0.75])


def test_what_a_row_adds_to_all_components_is_ignored():
    rng = np.random.RandomState(0)
    log_densities = LOG_DENSITIES - [0, 0, 0, 2000]
    moved = log_densities + rng.uniform(-5000, 5000, size=(200, 1))
    assert_allclose(mixture_weights(moved), mixture_weights(log_densities), atol=1e-9)


def test_rows_of_no_weight_tell_nothing():
    weight = np.zeros(200)
    assert_allclose(mixture_weights(LOG_DENSITIES, weight), 0.25)
    weight[:60] = 1
    expected = mixture_weights(LOG_DENSITIES[:60])
    assert_allclose(mixture_weights(LOG_DENSITIES, weight), expected)
