"""What every estimator promises of fit, score_samples, score and sample."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pandas
import polars
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2, kstest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skgen import base

from .estimators import ESTIMATORS, EXACT_REFITS, fit_once, two_clusters

X = two_clusters()


def test_init_takes_keywords_and_stores_them_unchanged(estimator):
    parameters = inspect.signature(type(estimator)).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    for parameter in parameters.values():
        hash(parameter.default)  # immutable
    marks = {name: object() for name in parameters}
    stored = vars(type(estimator)(**marks))
    assert stored.keys() == marks.keys()
    assert all(stored[name] is marks[name] for name in marks)


def test_clone_is_unfitted_and_equal(fitted):
    copy = clone(fitted)
    assert str(copy) == str(fitted)
    with pytest.raises(NotFittedError):
        copy.score_samples(X)


@pytest.mark.parametrize("method", ["score_samples", "score", "transform", "inverse_transform"])
def test_not_fitted_rows(estimator, method):
    if hasattr(estimator, method):
        with pytest.raises(NotFittedError, match=f"This {type(estimator).__name__} instance"):
            getattr(estimator, method)(X)


@pytest.mark.parametrize("method", ["sample", "sample_trajectory"])
def test_not_fitted_draws(estimator, method):
    if hasattr(estimator, method):
        with pytest.raises(NotFittedError, match=f"This {type(estimator).__name__} instance"):
            getattr(estimator, method)(2)


def test_device(estimator):
    if "device" in estimator.get_params():
        assert estimator.set_params(device="cpu").fit(X).device_ == "cpu"
        with pytest.raises(ValueError, match=r"'cuda:99' is not available; .* \['cpu'"):
            estimator.set_params(device="cuda:99").fit(X)
        assert estimator.device_ == "cpu"


def test_fit_returns_self_and_counts_features(estimator):
    assert estimator.fit(X) is estimator
    assert estimator.n_features_in_ == 2
    assert not hasattr(estimator, "feature_names_in_")


def memmap(X, folder):
    path = folder / "rows.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize(
    "make",
    [
        lambda X, _: X.tolist(),
        lambda X, _: torch.tensor(X),
        lambda X, _: torch.tensor(X, requires_grad=True),
        lambda X, _: pandas.DataFrame(X, columns=["a", "b"]),
        lambda X, _: polars.DataFrame(X, schema=["a", "b"]),
        lambda X, _: X.astype(np.int64),
        lambda X, _: np.asfortranarray(X),
        lambda X, _: X[::-1].copy()[::-1],  # with a negative stride
        memmap,
    ],
    ids=["list", "tensor", "leaf", "pandas", "polars", "int", "fortran", "reversed", "memmap"],
)
def test_kinds_of_input_agree_and_are_not_modified(estimator, make, tmp_path):
    whole = np.round(4 * X)
    rows = make(whole, tmp_path)
    expected = clone(estimator).fit(whole).score_samples(whole)
    assert_allclose(estimator.fit(rows).score_samples(rows), expected, atol=1e-10)
    after = rows.detach().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
    assert_array_equal(after, whole)


def test_tensors_that_numpy_does_not_know():
    rows, fitted = np.round(4 * X), fit_once("gaussian")
    expected = fitted.score_samples(rows.astype(np.float32))
    assert_array_equal(fitted.score_samples(torch.tensor(rows).bfloat16()), expected)
    lazily = torch.tensor(-1j * rows).conj().imag  # only marked as negated
    assert lazily.is_neg()
    assert_allclose(fitted.score_samples(lazily), fitted.score_samples(rows))


def test_result_follows_the_dtype(fitted):
    double, single = fitted.score_samples(X), fitted.score_samples(X.astype(np.float32))
    assert double.dtype == np.float64 and single.dtype == np.float32
    assert double.shape == single.shape == (60,)
    assert_allclose(single, double, rtol=1e-3, atol=1e-3)
    assert_array_equal(fitted.score_samples(X), double)


@pytest.mark.parametrize("dtype, rtol, atol", [("float64", 1e-7, 1e-7), ("float32", 1e-4, 1e-4)])
def test_rows_do_not_depend_on_their_neighbours(fitted, dtype, rtol, atol):
    rows = X.astype(dtype)
    log_density = fitted.score_samples(rows)
    order = np.random.RandomState(0).permutation(60)
    assert_allclose(fitted.score_samples(rows[order]), log_density[order], rtol=rtol, atol=atol)
    alone = [fitted.score_samples(rows[i : i + 1])[0] for i in range(5)]
    assert_allclose(alone, log_density[:5], rtol=rtol, atol=atol)
    far = np.vstack([rows[:7], 100 * rows[7:9]])
    assert_allclose(fitted.score_samples(far)[:7], log_density[:7], rtol=rtol, atol=atol)


def test_chunks_join_seamlessly(fitted, monkeypatch):
    whole = fitted.score_samples(X)
    monkeypatch.setattr(base, "CHUNK_ROWS", 7)
    assert_allclose(fitted.score_samples(X), whole, rtol=1e-7, atol=1e-7)
    drawn = fitted.sample(22)
    assert drawn.shape == (22, 2)
    assert len(np.unique(drawn[:, 0])) == 22


@pytest.mark.parametrize("name", sorted({*EXACT_REFITS} - {"flow-bounds"}))
def test_log_density_is_in_the_units_of_X(name):
    scale = {"gaussian-spherical": [4.0, 4.0], "gaussian-white": [1.0, 1.0]}.get(name, [4.0, 0.25])
    moved = X * scale + [-64, 16]
    log_density = clone(ESTIMATORS[name]).fit(moved).score_samples(moved)
    expected = fit_once(name).score_samples(X) - np.log(scale).sum()
    assert_allclose(log_density, expected, rtol=1e-3, atol=1e-3)


def test_score_is_the_weighted_mean(fitted):
    log_density, weight = fitted.score_samples(X), np.arange(60.0)
    assert type(fitted.score(X)) is float
    assert fitted.score(X) == pytest.approx(log_density.mean())
    assert fitted.score(X, None, weight) == pytest.approx(np.average(log_density, weights=weight))
    assert fitted.score(X, sample_weight=np.ones(60)) == pytest.approx(fitted.score(X))


def test_sample_shape_and_seeds(fitted):
    parameters = inspect.signature(fitted.sample).parameters
    common = {k: p.default for k, p in parameters.items() if p.kind is not p.KEYWORD_ONLY}
    assert common == {"n_samples": 1, "random_state": None}
    assert fitted.sample().shape == (1, 2)
    drawn = fitted.sample(5)
    assert type(drawn) is np.ndarray and drawn.dtype == np.float64
    assert_array_equal(fitted.sample(5), drawn)  # the constructor's seed is an int
    rng = np.random.RandomState(3)
    first = fitted.sample(5, random_state=rng)
    assert_array_equal(first, fitted.sample(5, random_state=3))
    assert not np.array_equal(fitted.sample(5, random_state=rng), first)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "3", None])
def test_n_samples_must_be_a_positive_integer(fitted, bad):
    with pytest.raises(ValueError, match=f"n_samples must be an int of at least 1, got {bad!r}"):
        fitted.sample(bad)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_samples_keep_the_names_of_the_columns(estimator, container):
    frame = pandas.DataFrame(X, columns=["height", "weight"])
    estimator.fit(frame)
    assert type(estimator.sample(2)) is np.ndarray
    with sklearn.config_context(transform_output=container):
        drawn = estimator.sample(4)
    assert type(drawn).__module__.startswith(container)
    assert list(drawn.columns) == ["height", "weight"]
    assert_array_equal(drawn.to_numpy(), estimator.sample(4))


def grid_of_masses(fitted, X, n_cells, reach=5.0):
    """Mass of cells evenly spaced in u, where x = centre + scale * sinh(u); and u of rows."""
    centre, scale = X.mean(0), X.std(0)
    u = reach * (2 * (np.arange(n_cells) + 0.5) / n_cells - 1)
    d = X.shape[1]
    points = np.stack(np.meshgrid(*[u] * d, indexing="ij"), axis=-1).reshape(-1, d)
    volume = np.prod(np.cosh(points) * scale * (2 * reach / n_cells), axis=1)
    log_density = fitted.score_samples(centre + scale * np.sinh(points))
    return (np.exp(log_density) * volume).reshape([n_cells] * d), np.arcsinh(
        (fitted.sample(4000, random_state=1) - centre) / scale
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mass_is_one_and_samples_follow_the_density_in_one_dimension(name):
    fitted = fit_once(name, n_samples=2000, n_features=1)
    mass, u = grid_of_masses(fitted, two_clusters(2000, 1), 1000)
    assert_allclose(mass.sum(), 1, atol=1e-3)
    cdf = np.append(0, np.cumsum(mass)) / mass.sum()
    edges = np.linspace(-5, 5, 1001)
    assert kstest(u[:, 0], lambda v: np.interp(v, edges, cdf)).pvalue > 1e-3


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "flow-deep" else ()) for n in ESTIMATORS],
)
def test_mass_is_one_and_samples_follow_the_density_in_two_dimensions(name):
    fitted = fit_once(name, n_samples=2000)
    mass, u = grid_of_masses(fitted, two_clusters(2000), 120)
    assert_allclose(mass.sum(), 1, atol=2e-3)
    edges = np.linspace(-5, 5, 41)
    count, *_ = np.histogram2d(*u.T, bins=(edges, edges))
    expected = len(u) * mass.reshape(40, 3, 40, 3).sum(axis=(1, 3))
    likely = expected > 10
    statistic = np.sum((count - expected)[likely] ** 2 / expected[likely])
    assert chi2.sf(statistic, likely.sum()) > 1e-3
    assert count[~likely].sum() <= 1.5 * expected[~likely].sum() + 5


def global_state():
    name, keys, *rest = np.random.get_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    return name, tuple(keys), *rest, tuple(torch.get_rng_state().tolist()), threads, dtype


def test_global_state_is_untouched(estimator):
    before = global_state()
    estimator.fit(X)
    estimator.score_samples(X)
    estimator.sample(3)
    assert global_state() == before
    with pytest.raises(ValueError):
        estimator.fit(np.vstack([X, [[0.0, np.nan]]]))
    with pytest.raises(ValueError):
        estimator.fit(X, sample_weight=np.where(np.arange(60) == 3, 1.0, 0.0))
    assert global_state() == before


@contextmanager
def other_modes():
    """What a script may have chosen for its own tensors and arrays."""
    torch.set_default_dtype(torch.float64)
    mixed, numbers = torch.autocast("cpu", torch.bfloat16), np.errstate(all="raise")
    try:
        with torch.inference_mode(), mixed, torch.device("meta"), numbers:
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_get_what_one_gets(fitted):
    parts = [X[:20], X[20:50], X[50:]]

    def work(part):
        rows = [fitted.transform(part)] if hasattr(fitted, "transform") else []
        return fitted.score_samples(part), fitted.sample(len(part), random_state=0), *rows

    expected = [work(part) for part in parts]
    with ThreadPoolExecutor(3) as threads:
        for found, alone in zip(threads.map(work, parts), expected, strict=True):
            for one, other in zip(found, alone, strict=True):
                assert_array_equal(one, other)


def test_global_state_has_no_influence(estimator):
    np.random.seed(1)
    torch.manual_seed(1)
    first = clone(estimator).fit(X)
    np.random.seed(2)
    torch.manual_seed(2)
    with other_modes():
        second = clone(estimator).fit(X)
        log_density, drawn = second.score_samples(X), second.sample(5)
    rounding = {"rtol": 0, "atol": 1e-9}  # in PyTorch 2.4, with more than two hidden layers
    assert_allclose(first.score_samples(X), log_density, **rounding)
    assert_allclose(first.sample(5), drawn, **rounding)


@pytest.mark.parametrize("name", EXACT_REFITS)
def test_order_of_the_rows_does_not_matter(name):
    shuffled = clone(ESTIMATORS[name]).fit(X[np.random.RandomState(0).permutation(60)])
    assert_allclose(shuffled.score_samples(X), fit_once(name).score_samples(X), atol=1e-8)


@pytest.mark.parametrize("name", EXACT_REFITS)
def test_weight_k_is_k_copies(name):
    weight = np.arange(60) % 4
    weighted = clone(ESTIMATORS[name]).fit(X, sample_weight=weight)
    copied = clone(ESTIMATORS[name]).fit(X.repeat(weight, axis=0))
    assert_allclose(weighted.score_samples(X), copied.score_samples(X), atol=1e-8)
    assert abs(weighted.score(X) - fit_once(name).score(X)) > 1e-4


@pytest.mark.parametrize("unit", [1e308, 1e-308])
def test_unit_of_the_weights_does_not_matter(estimator, unit):
    weight = np.where(X[:, 0] < 4, 1.0, 0.25)
    alike = clone(estimator).fit(X, sample_weight=weight)
    estimator.fit(X, sample_weight=unit * weight)
    assert_allclose(estimator.score_samples(X), alike.score_samples(X), atol=1e-8)
    assert estimator.score(X, sample_weight=unit * weight) == pytest.approx(
        alike.score(X, sample_weight=weight)
    )


def test_rows_without_weight_have_no_part_in_the_score():
    fitted = fit_once("flow-bounds")
    outside, inside = [-60.0, 0.0], [2.0, -1.0]
    assert fitted.score([outside]) == -np.inf
    assert fitted.score([outside, inside], sample_weight=[0, 1]) == fitted.score([inside])


def test_weights_move_the_density(estimator):
    low, high = X[X[:, 0] < 4], X[X[:, 0] >= 4]
    weight = np.where(X[:, 0] < 4, 1.0, 0.05)
    to_low = clone(estimator).fit(X, sample_weight=weight)
    to_high = clone(estimator).fit(X, sample_weight=weight.max() + 0.05 - weight)
    assert to_low.score(low) > to_high.score(low) + 0.1
    assert to_high.score(high) > to_low.score(high) + 0.1
