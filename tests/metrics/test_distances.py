"""Distances of features against closed forms, matrix roots and brute force."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm

from skgen.metrics import frechet_distance, kernel_distance, score_floor


def rows(n, k, seed=0, shift=0.0):
    rng = np.random.RandomState(seed)
    return rng.standard_normal((n, k)) @ rng.standard_normal((k, k)) + shift


def with_moments(mean, cov, n=40):
    """Rows whose mean and unbiased covariance are exactly these."""
    white = np.random.RandomState(0).standard_normal((n, len(mean)))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(cov).T


def by_matrix_root(real, fake):
    S, T = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    gap = real.mean(axis=0) - fake.mean(axis=0)
    return gap @ gap + np.trace(S + T - 2 * sqrtm(S @ T).real)


def test_frechet_of_diagonal_gaussians():
    mean, std = np.array([[1.0, 2.0, 3.0], [0.0, 5.0, 3.5]]), np.array([[1, 2, 3.0], [4, 1, 0.5]])
    real, fake = (with_moments(m, np.diag(s**2)) for m, s in zip(mean, std, strict=True))
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.sum((std[0] - std[1]) ** 2)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_frechet_against_matrix_root(k):
    real, fake = rows(200, k), rows(150, k, seed=1, shift=0.5)
    if k == 1:
        gap, spread = real.mean() - fake.mean(), real.std(ddof=1) - fake.std(ddof=1)
        expected = gap**2 + spread**2
    else:
        expected = by_matrix_root(real, fake)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n_real", "n_fake"), [(5, 8), (5, 100), (100, 5), (2, 2)])
def test_frechet_of_fewer_rows_than_features(n_real, n_fake):
    real, fake = rows(n_real, 20), rows(n_fake, 20, seed=1)
    # A root that exists: of the covariances with a little more on the diagonal.
    S, T = (np.cov(F, rowvar=False) + 1e-12 * np.eye(20) for F in (real, fake))
    values, vectors = np.linalg.eigh(S)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ T @ root).clip(0)).sum()
    gap = real.mean(axis=0) - fake.mean(axis=0)
    expected = gap @ gap + np.trace(S) + np.trace(T) - 2 * cross
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [10, 200])
def test_frechet_of_equal_tables_is_zero(n):
    X = 100 * rows(n, 30)
    scale = np.trace(np.cov(X, rowvar=False))
    assert 0 <= frechet_distance(X, X) < 1e-12 * scale
    assert 0 <= frechet_distance(X, X[::-1]) < 1e-12 * scale
    assert frechet_distance(X, X + 1) == pytest.approx(30, rel=1e-9)


def test_frechet_of_constant_features():
    assert frechet_distance(np.zeros((3, 2)), np.ones((4, 2))) == 2.0


def brute_force_mmd(x, y):
    def mean(a, b, skip):
        values = [
            (a[i] @ b[j] / a.shape[1] + 1) ** 3
            for i in range(len(a))
            for j in range(len(b))
            if not (skip and i == j)
        ]
        return np.mean(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_kernel_distance_of_all_rows():
    x, y = rows(12, 3), rows(12, 3, seed=1)
    assert kernel_distance(x, y) == pytest.approx(brute_force_mmd(x, y), rel=1e-12)


def test_kernel_distance_is_the_mean_over_subsets():
    x, y = rows(15, 3), rows(20, 3, seed=1)
    rng, several = np.random.RandomState(3), []
    for _ in range(4):
        i, j = rng.choice(15, 9, replace=False), rng.choice(20, 9, replace=False)
        several.append(brute_force_mmd(x[i], y[j]))
    result = kernel_distance(x, y, n_subsets=4, subset_size=9, random_state=3)
    assert result == pytest.approx(np.mean(several), rel=1e-12)


def test_kernel_distance_is_unbiased():
    rng = np.random.RandomState(0)
    pairs = rng.standard_normal((2000, 2, 20, 2))
    values = [kernel_distance(x, y) for x, y in pairs]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


@pytest.mark.parametrize(("n_subsets", "subset_size"), [(1, 1000), (1, 40), (30, 40)])
def test_standard_error_of_kernel_distance(n_subsets, subset_size):
    rng = np.random.RandomState(0)
    results = [
        kernel_distance(
            rng.standard_normal((200, 2)),
            rng.standard_normal((150, 2)) + 0.8,
            n_subsets,
            subset_size,
            rng,
            return_error=True,
        )
        for _ in range(300)
    ]
    distances, errors = np.transpose(results)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(distances.std(), rel=0.2)


def test_kernel_distance_is_reproducible():
    x, y = rows(50, 3), rows(50, 3, seed=1)
    first, second = (kernel_distance(x, y, 3, 10, random_state=5) for _ in range(2))
    assert first == second != kernel_distance(x, y, 3, 10, random_state=6)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_types_of_input(distance):
    x, y = rows(30, 3).astype(np.float32), rows(30, 3, seed=1).astype(np.float32)
    expected = distance(x.astype(float), y.astype(float))
    assert isinstance(expected, float)
    for kind in (np.asarray, np.ndarray.tolist, torch.tensor):
        assert distance(kind(x), kind(y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_features(distance):
    good = rows(10, 3)
    with pytest.raises(ValueError, match=r"3 column\(s\), features_fake 2"):
        distance(good, good[:, :2])
    with pytest.raises(ValueError, match="minimum of 2"):
        distance(good, good[:1])
    with pytest.raises(ValueError, match="features_fake contains NaN"):
        distance(good, np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="1D array"):
        distance(good[0], good)


def test_bad_subsets():
    with pytest.raises(ValueError, match="n_subsets"):
        kernel_distance(rows(10, 3), rows(10, 3), n_subsets=0)
    with pytest.raises(ValueError, match="subset_size"):
        kernel_distance(rows(10, 3), rows(10, 3), subset_size=1)
    with pytest.raises(TypeError, match="subset_size"):
        kernel_distance(rows(10, 3), rows(10, 3), subset_size=2.5)


def test_floor_is_of_disjoint_halves():
    X, seen = np.arange(21).reshape(-1, 1), []

    def metric(a, b):
        seen.append((a.ravel(), b.ravel()))
        return 7

    assert score_floor(X, metric, random_state=0) == 7.0
    assert score_floor(X, metric, n_samples=4, random_state=0) == 7.0
    assert [(len(a), len(b)) for a, b in seen] == [(10, 10), (4, 4)]
    for a, b in seen:
        assert len(np.unique(np.append(a, b))) == len(a) + len(b)
    assert_allclose(seen[0][0][:4], seen[1][0])
    assert seen[0][0].dtype == X.dtype


def test_floor_is_that_of_fresh_samples():
    X = rows(4000, 5)
    floor = score_floor(X, frechet_distance, n_samples=1000, random_state=0)
    fresh = [frechet_distance(X[:1000], X[i * 1000 :][:1000]) for i in (1, 2, 3)]
    assert min(fresh) / 3 < floor < max(fresh) * 3


@pytest.mark.parametrize("n_samples", [1, 6, 2.5])
def test_floor_of_bad_numbers(n_samples):
    with pytest.raises((ValueError, TypeError), match="n_samples"):
        score_floor(rows(10, 2), frechet_distance, n_samples=n_samples)
