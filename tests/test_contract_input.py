"""Bad input is refused with a message that names it; difficult input is accepted."""

import numpy as np
import pandas
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone

from skgen.compose import StackedDensity

from .estimators import ESTIMATORS, TRAINED, fit_once, two_clusters

X = two_clusters()
CONSTANT_ALLOWED = {"gaussian-white", "gaussian-spherical"}


def with_value(value):
    bad = X.copy()
    bad[3, 1] = value
    return bad


def constant_column():
    return np.column_stack([X, np.full(60, 0.1)])


TIMES = pandas.DataFrame({"x": X[:, 0], "when": pandas.date_range("2020", periods=60)})
BAD_ROWS = [
    pytest.param(with_value(np.nan), ValueError, r"contains NaN, in 1 .* column\(s\) 1", id="nan"),
    pytest.param(
        np.ma.masked_equal(with_value(9).astype(int), 9),
        ValueError,
        "contains NaN, in 1",
        id="mask",
    ),
    pytest.param(with_value(np.inf), ValueError, "contains infinity, in 1 of 60", id="infinity"),
    pytest.param(X + 1j, ValueError, "Complex data not supported", id="complex"),
    pytest.param(csr_array(X), TypeError, "Sparse data was passed", id="sparse"),
    pytest.param([["a", 1]] * 9, ValueError, r"\(s\) 0 .* not convert string .* 'a'", id="strings"),
    pytest.param(TIMES, TypeError, r"\(s\) 1.* of X .* not 'Timestamp'", id="times"),
    pytest.param(
        torch.tensor(X[:, 0], requires_grad=True), ValueError, "Expected 2D array", id="leaf"
    ),
    pytest.param([[1.0], [2.0, 3.0]], ValueError, "inhomogeneous shape", id="ragged"),
    pytest.param(X[:, 0], ValueError, "Expected 2D array, got 1D array", id="1d"),
    pytest.param(X[None], ValueError, r"shape \(1, 60, 2\), but each row must be flat", id="3d"),
    pytest.param(X[:0], ValueError, r"Found array with 0 sample\(s\)", id="empty"),
    pytest.param(X[:, :0], ValueError, r"0 feature\(s\) \(shape=\(60, 0\)\)", id="no columns"),
]


@pytest.mark.parametrize("bad, error, message", BAD_ROWS)
def test_bad_rows(estimator, fitted_alike, bad, error, message):
    with pytest.raises(error, match=message):
        estimator.fit(bad)
    with pytest.raises(error, match=message):
        fitted_alike.score_samples(bad)


@pytest.fixture
def fitted_alike(request, estimator):
    """The fitted twin of ``estimator``."""
    return fit_once(request.node.callspec.params["estimator"])


def test_one_row(estimator, fitted_alike):
    with pytest.raises(ValueError, match=r"1 sample\(s\) .* while a minimum of 2 is required"):
        estimator.fit(X[:1])
    assert fitted_alike.score_samples(X[:1]).shape == (1,)


@pytest.mark.parametrize("method", ["score_samples", "score", "transform"])
def test_wrong_number_of_features(fitted, method):
    if hasattr(fitted, method):
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 2 features"):
            getattr(fitted, method)(np.zeros((4, 3)))


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.ones(59), r"sample_weight.shape == \(59,\), expected \(60,\)"),
        (np.ones((60, 2)), "Sample weights must be 1D array or scalar"),
        (np.where(np.arange(60) == 3, -1.0, 1.0), "Negative values in data"),
        (np.where(np.arange(60) == 3, np.nan, 1.0), "sample_weight contains NaN"),
    ],
    ids=["length", "2d", "negative", "nan"],
)
def test_bad_weights(estimator, fitted_alike, weight, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, sample_weight=weight)
    with pytest.raises(ValueError, match=message):
        fitted_alike.score(X, sample_weight=weight)


def test_weights_that_leave_too_few_rows(estimator):
    with pytest.raises(ValueError, match=r"sample_weight is positive for 1 row.* at least 2"):
        estimator.fit(X, sample_weight=(np.arange(60) == 3).astype(float))


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - CONSTANT_ALLOWED))
def test_constant_column_is_named(name):
    estimator, bad = clone(ESTIMATORS[name]), constant_column()
    with pytest.raises(ValueError, match=r"Column\(s\) 2 of X are constant"):
        estimator.fit(bad)
    frame = pandas.DataFrame(bad, columns=["height", "weight", "year"])
    with pytest.raises(ValueError, match=r"Column\(s\) 2 \('year'\) of X are constant"):
        estimator.fit(frame)


@pytest.mark.parametrize("name", sorted(set(TRAINED) - CONSTANT_ALLOWED))
def test_column_that_varies_only_in_rows_of_hardly_any_weight(name):
    rows = constant_column()
    rows[3, 2] += 1
    weight = np.where(np.arange(len(rows)) == 3, 1e-6, 1.0)
    with pytest.raises(ValueError, match=r"Column\(s\) 2 of X are constant"):
        clone(ESTIMATORS[name]).fit(rows, sample_weight=weight)


@pytest.mark.parametrize("name", sorted(CONSTANT_ALLOWED))
def test_constant_column_where_the_density_exists(name):
    fitted = clone(ESTIMATORS[name]).fit(constant_column())
    assert np.isfinite(fitted.score(constant_column()))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(X[:1].repeat(30, 0) + np.eye(2)[np.arange(30) % 2], id="two distinct rows"),
        pytest.param(np.vstack([X[:20]] * 3), id="copies"),
        pytest.param(X[:5], id="five rows"),
        pytest.param(X[:, :1], id="one column"),
        pytest.param(1e6 + X, id="far from zero"),
        pytest.param(X.astype(np.float32), id="single precision"),
        pytest.param(1e-12 * X, id="tiny units"),
        pytest.param(1e140 * abs(X), id="huge units"),
        pytest.param(np.column_stack([X, X[:, 0] + X[:, 1]]), id="dependent columns"),
        pytest.param(np.column_stack([X[:, 0], np.arange(60) % 2]), id="binary column"),
        pytest.param(np.append(X, [[1e4, -1e4]], axis=0), id="outlier"),
    ],
)
def test_difficult_rows_are_fitted(estimator, rows):
    if isinstance(estimator, StackedDensity) and abs(rows).max() < 1e-3:
        return  # the kernel density's bandwidth is in the units of X
    log_density = estimator.fit(rows).score_samples(rows)
    assert log_density.shape == (len(rows),) and np.isfinite(log_density).all()
    drawn = estimator.sample(20)
    assert drawn.shape == (20, rows.shape[1]) and np.isfinite(drawn).all()


def test_rows_whose_squares_are_not_finite(estimator):
    rows = X * [1.0, 1e160]
    with pytest.raises(ValueError, match=r"beyond ±1e\+150, in column\(s\) 1 \('weight'\). Divide"):
        estimator.fit(pandas.DataFrame(rows, columns=["height", "weight"]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")
@pytest.mark.parametrize("far", [1e4, 1e30])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_far_rows_have_a_low_density_not_a_wrong_one(fitted, far, dtype):
    row = (far * np.array([[1.0, -1.0]])).astype(dtype)
    log_density = fitted.score_samples(row)
    assert not np.isnan(log_density).any()
    assert log_density[0] < fitted.score_samples(X).min()


@pytest.mark.parametrize(
    "bad",
    [
        {"X": with_value(np.nan)},
        {"X": X[:1]},
        {"X": np.column_stack([X, X]), "sample_weight": np.full(60, -1.0)},
        {"X": np.full((60, 1), 7.0), "sample_weight": np.arange(60) == 1},
    ],
    ids=["nan", "one row", "weights", "other columns"],
)
def test_failed_refit_keeps_the_former_fit(estimator, bad):
    estimator.fit(pandas.DataFrame(X, columns=["a", "b"]))
    before, drawn = dict(vars(estimator)), estimator.sample(3)
    with pytest.raises(ValueError):
        estimator.fit(**bad)
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[key] is value for key, value in before.items())
    assert_array_equal(estimator.sample(3), drawn)
