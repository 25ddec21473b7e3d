"""Measures of generated tables against closed forms, SciPy, brute force and invariances."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance as energy_on_the_line
from scipy.stats import norm, ortho_group, wasserstein_distance
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from skgen.metrics import (
    classifier_two_sample_test,
    energy_distance,
    nearest_neighbour_ratio,
    score_floor,
    sliced_wasserstein_distance,
    tables,
)


def rows(n, k=3, seed=0):
    return np.random.RandomState(seed).standard_normal((n, k))


def sliced(x, y, **options):
    return sliced_wasserstein_distance(x, y, random_state=0, **options)


def two_sample(x, y, **options):
    defaults = {"classifier": GaussianNB(), "random_state": 0}
    return classifier_two_sample_test(x, y, **{**defaults, **options})


def neighbours(x, y):
    return nearest_neighbour_ratio(x, y, rows(20, seed=2))


MEASURES = [energy_distance, sliced, two_sample, neighbours]


# Energy distance


def test_energy_of_two_points():
    assert energy_distance([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx(np.sqrt(10), rel=1e-15)


@pytest.mark.parametrize("n", [7, 40])
def test_energy_on_the_line_is_that_of_scipy(n):
    x, y = rows(40, 1), 2 * rows(n, 1, seed=1) + 0.5
    expected = energy_on_the_line(x.ravel(), y.ravel())
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_energy_of_shifted_gaussians():
    # Of N(0, 1) and N(a, 1): E|N(a, 2)| = 2 phi(a / sqrt 2) sqrt 2 + a (2 Phi(a / sqrt 2) - 1).
    a, grid = 1.5, norm.ppf((np.arange(4000) + 0.5) / 4000).reshape(-1, 1)
    across = 2 * np.sqrt(2) * norm.pdf(a / np.sqrt(2)) + a * (2 * norm.cdf(a / np.sqrt(2)) - 1)
    expected = np.sqrt(2 * across - 4 / np.sqrt(np.pi))
    assert energy_distance(grid, grid + a) == pytest.approx(expected, rel=1e-3)


def test_energy_in_parts(monkeypatch):
    x, y = rows(50), rows(30, seed=1) + 0.5
    whole = energy_distance(x, y)
    squared = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert whole == pytest.approx(np.sqrt(squared), rel=1e-12)
    shapes = []

    def small(a, b):
        shapes.append((len(a), len(b)))
        return cdist(a, b)

    monkeypatch.setattr(tables, "cdist", small)
    monkeypatch.setattr(tables, "gen_batches", lambda n, size: [slice(0, 7), slice(7, n)])
    assert energy_distance(x, y) == pytest.approx(whole, rel=1e-12)
    assert shapes == [(7, 30), (43, 30), (7, 50), (43, 50), (7, 30), (23, 30)]


def test_energy_of_large_tables_takes_little_memory(monkeypatch):
    sizes = []
    monkeypatch.setattr(tables, "cdist", lambda a, b: sizes.append(len(a) * len(b)) or np.zeros(1))
    energy_distance(rows(20_000, 1), rows(10, 1))
    assert max(sizes) == 2**23 // 20_000 * 20_000


@pytest.mark.parametrize("move", [lambda X: X @ ortho_group.rvs(3, random_state=0), np.flipud])
def test_energy_does_not_change_with(move):
    x, y = rows(60), rows(40, seed=1) + 0.5
    expected = energy_distance(x, y)
    assert energy_distance(move(x), move(y)) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(y, x) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(x + 1e6, y + 1e6) == pytest.approx(expected, rel=1e-7)
    assert energy_distance(4 * x, 4 * y) == pytest.approx(2 * expected, rel=1e-12)


# Sliced Wasserstein distance


@pytest.mark.parametrize("n", [1, 13, 25, 50])
def test_wasserstein_on_the_line_is_that_of_scipy(n):
    x, y = rows(50, 1), 2 * rows(n, 1, seed=1) + 0.5
    expected = wasserstein_distance(x.ravel(), y.ravel())
    assert sliced(x, y, n_projections=3, p=1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_wasserstein_of_unequal_sizes_is_that_of_repeated_rows(p):
    x, y = rows(6), rows(4, seed=1) + 0.5
    expected = sliced(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0), p=p)
    assert sliced(x, y, p=p) == pytest.approx(expected, rel=1e-12)


def test_wasserstein_of_a_shift():
    x, shift = rows(30, 4), np.array([3.0, 0.0, -4.0, 0.0])
    exact = sliced(x, x + shift, n_projections=20_000)
    assert exact == pytest.approx(5 / np.sqrt(4), rel=0.02)
    u = np.random.RandomState(0).standard_normal((9, 4))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    expected = np.mean(np.abs(u @ shift) ** 3) ** (1 / 3)
    assert sliced(x, x + shift, n_projections=9, p=3) == pytest.approx(expected, rel=1e-12)


def test_wasserstein_of_gaussians():
    # N(a, I) and N(0, s^2 I) in d dimensions: |a|^2 / d + (s - 1)^2, squared.
    x, y = rows(20_000, 2) + np.array([1.0, 0.0]), 2.0 * rows(15_000, 2, seed=1)
    assert sliced(x, y, n_projections=300) == pytest.approx(np.sqrt(0.5 + 1), rel=0.03)


def test_wasserstein_of_one_set_of_rows_is_zero():
    x = rows(40)
    assert sliced(x, x[::-1]) < 1e-14
    assert sliced(x, np.repeat(x, 2, axis=0)) < 1e-14


def test_wasserstein_is_reproducible():
    x, y = rows(20), rows(20, seed=1)
    assert sliced(x, y) == sliced(x, y) == pytest.approx(sliced(y, x), rel=1e-14)
    assert sliced(x, y) != sliced_wasserstein_distance(x, y, random_state=1)


@pytest.mark.parametrize("option", [{"n_projections": 0}, {"p": 0.5}])
def test_bad_options_of_wasserstein(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        sliced(rows(5), rows(5), **option)


# Classifier


def test_classifier_cannot_tell_equal_distributions():
    areas = [
        classifier_two_sample_test(rows(200, seed=i), rows(200, seed=10 + i), cv=3, random_state=0)
        for i in range(3)
    ]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_classifier_tells_what_is_far():
    assert classifier_two_sample_test(rows(60), rows(60, seed=1) + 20, random_state=0) == 1.0


def test_default_classifier_sees_what_a_linear_one_does_not():
    x, y = rows(200), 3 * rows(200, seed=1)
    assert classifier_two_sample_test(x, y, cv=3, random_state=0) > 0.85
    blind = two_sample(x, y, classifier=LogisticRegression())
    assert blind == pytest.approx(0.5, abs=0.12)


def test_classifier_is_cross_validated():
    x, y = rows(60), rows(40, seed=1) + 0.5
    X, label = np.concatenate([x, y]), np.repeat([0, 1], [60, 40])
    for cv, seed in ((StratifiedKFold(3), None), (4, 7)):
        folds = StratifiedKFold(4, shuffle=True, random_state=7) if cv == 4 else cv
        expected = cross_val_score(GaussianNB(), X, label, cv=folds, scoring="roc_auc").mean()
        assert two_sample(x, y, cv=cv, random_state=seed) == expected
    trees = HistGradientBoostingClassifier(random_state=3)
    expected = cross_val_score(trees, X, label, cv=StratifiedKFold(2), scoring="roc_auc").mean()
    area = classifier_two_sample_test(x, y, cv=StratifiedKFold(2), random_state=3)
    assert area == expected


def test_rows_in_order_do_not_mislead_the_classifier():
    x, y = np.sort(rows(300, 1), axis=0), np.sort(rows(300, 1, seed=1), axis=0)
    assert two_sample(x, y) == pytest.approx(0.5, abs=0.1)


def test_bad_folds():
    with pytest.raises(ValueError, match="cv == 1"):
        two_sample(rows(10), rows(10), cv=1)
    with pytest.raises(ValueError, match="minimum of 5"):
        two_sample(rows(10), rows(4))


# Copies


@pytest.mark.parametrize("n_test", [40, 300, 900])
def test_copies_are_found(n_test):
    train, test = rows(300), rows(n_test, seed=1)
    assert nearest_neighbour_ratio(train, train[:50], test) == 1.0
    assert nearest_neighbour_ratio(train, test[:30], test) == 0.0
    noise = 1e-3 * rows(300, seed=2)
    assert nearest_neighbour_ratio(train, train + noise, test) > 0.97


@pytest.mark.parametrize("n_test", [200, 800])
def test_fresh_rows_are_at_half(n_test):
    shares = [
        nearest_neighbour_ratio(rows(400, 2, i), rows(400, 2, 100 + i), rows(n_test, 2, 200 + i))
        for i in range(30)
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=3.5 * np.std(shares) / np.sqrt(30))


@pytest.mark.parametrize("n_test", [100, 400])
def test_fresh_rows_with_ties_are_at_half(n_test):
    rng, shares = np.random.RandomState(0), []
    for _ in range(100):
        train, fake, test = (rng.randint(0, 9, (n, 2)) for n in (100, 100, n_test))
        shares.append(nearest_neighbour_ratio(train, fake, test))
    assert np.mean(shares) == pytest.approx(0.5, abs=3.5 * np.std(shares) / 10)


def test_share_of_tables_of_one_size_is_the_plain_one():
    train, fake, test = rows(50), rows(70, seed=1) + 0.3, rows(50, seed=2)
    scale = StandardScaler().fit(train)
    train_z, fake_z, test_z = (scale.transform(X) for X in (train, fake, test))
    nearer = cdist(fake_z, train_z).min(axis=1) < cdist(fake_z, test_z).min(axis=1)
    assert nearest_neighbour_ratio(train, fake, test) == pytest.approx(nearer.mean(), rel=1e-12)


def test_share_does_not_depend_on_order_and_units():
    train, fake, test = rows(60), rows(50, seed=1), rows(40, seed=2)
    expected = nearest_neighbour_ratio(train, fake, test)
    assert nearest_neighbour_ratio(train[::-1], fake[::-1], test[::-1]) == expected
    units = np.array([1e-3, 1.0, 1e4])
    shifted = (X * units + 5 * units for X in (train, fake, test))
    assert nearest_neighbour_ratio(*shifted) == expected


def test_rows_of_both_tables_say_nothing():
    both = rows(30)
    assert nearest_neighbour_ratio(both, both[:10], both[::-1]) == 0.5
    constant = np.ones((5, 2))
    assert nearest_neighbour_ratio(constant, constant, np.ones((9, 2))) == 0.5


# Input


@pytest.mark.parametrize("measure", MEASURES)
def test_types_of_input(measure):
    x, y = rows(30).astype(np.float32), rows(30, seed=1).astype(np.float32)
    expected = measure(x.astype(float), y.astype(float))
    for kind in (torch.tensor, np.ndarray.tolist, pd.DataFrame):
        result = measure(kind(x), kind(y))
        assert isinstance(result, float)
        assert result == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_tables(measure):
    good = rows(10)
    with pytest.raises(ValueError, match=r"3 column\(s\), X_fake 2"):
        measure(good, good[:, :2])
    with pytest.raises(ValueError, match="X_fake contains NaN"):
        measure(good, np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="minimum of"):
        measure(good, good[:0])
    with pytest.raises(ValueError, match="1D array"):
        measure(good, good[0])
    frame = pd.DataFrame(good, columns=list("abc"))
    with pytest.raises(ValueError, match=r"\['a', 'b', 'c'\], X_fake \['a', 'c', 'b'\]"):
        measure(frame, frame[["a", "c", "b"]])


def test_bad_held_out_rows():
    good = rows(10)
    with pytest.raises(ValueError, match=r"X_train has 3 column\(s\), X_test 2"):
        nearest_neighbour_ratio(good, good, good[:, :2])
    with pytest.raises(ValueError, match="X_test contains NaN"):
        nearest_neighbour_ratio(good, good, np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="minimum of 2"):
        nearest_neighbour_ratio(good, good, good[:1])


@pytest.mark.parametrize("measure", [energy_distance, sliced, two_sample])
def test_floor(measure):
    x = rows(400)
    floor, far = score_floor(x, measure, random_state=0), measure(x[:200], x[200:] + 2)
    assert 0 < floor < 0.65 * far


def test_measures_leave_the_input_and_the_global_generator_alone():
    x, y = rows(30), rows(30, seed=1)
    before = np.random.get_state()[1].copy()
    for measure in MEASURES:
        measure(x, y)
    assert (np.random.get_state()[1] == before).all()
    assert (x == rows(30)).all() and (y == rows(30, seed=1)).all()
