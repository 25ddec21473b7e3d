"""What every estimator promises inside scikit-learn: its own checks, tools and files."""

import copy
import inspect
import io
import pickle
import re
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)

import skgen
from skgen import compose

from .estimators import ESTIMATORS, fit_once, two_clusters

X = two_clusters()
FRAME = pandas.DataFrame(X, columns=["height", "weight"])
CLASSES = list(dict.fromkeys(map(type, ESTIMATORS.values())))


@parametrize_with_checks(list(ESTIMATORS.values()))
def test_check_estimator(estimator, check):
    if getattr(check, "func", check).__name__ != "check_array_api_input":  # there is no support
        check(estimator)


def test_every_public_estimator_is_listed():
    public = {
        value
        for module in (skgen, compose)
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.startswith("skgen.")
    }
    estimators = {c for c in public if hasattr(c, "score_samples") and c.__name__[0] != "_"}
    private = {"skgen.base", "skgen.members"}
    assert {c for c in estimators if c.__module__ not in private} == set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_type_checkers_know_the_parameters_and_the_methods(cls):
    for name, parameter in inspect.signature(cls).parameters.items():
        constraints = [c for c in cls._parameter_constraints[name] if c is not str]
        texts = [isinstance(constraint, StrOptions) for constraint in constraints]
        of_one_type = not any(texts) or (all(texts) and isinstance(parameter.default, str))
        if not of_one_type or isinstance(parameter.default, tuple):  # they guess by the default
            assert parameter.annotation is not parameter.empty, name
    assert inspect.signature(cls.fit).return_annotation == "Self"
    assert (Path(skgen.__file__).parent / "py.typed").exists()


def test_parameter_validation(estimator):
    check_param_validation(type(estimator).__name__, estimator)


def test_column_names(estimator):
    check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


def test_own_frames_raise_no_warning_about_names(estimator):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*feature names")
        log_density = estimator.fit(FRAME).score_samples(FRAME)
        assert list(estimator.feature_names_in_) == ["height", "weight"]
        estimator.score(FRAME)
        estimator.sample(3)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.score_samples(FRAME[["weight", "height"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert_array_equal(estimator.score_samples(X), log_density)


@pytest.mark.parametrize("name", ["flow", "diffusion", "coupling"])
def test_noise_has_no_names(name):
    estimator = clone(ESTIMATORS[name])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*feature names")
        noise = estimator.fit(FRAME).transform(FRAME)
        back = estimator.inverse_transform(noise)
        named = estimator.set_output(transform="pandas").transform(FRAME)
        assert list(named) != list(FRAME)
        assert_array_equal(estimator.inverse_transform(named), back)
    with pytest.raises(ValueError, match=r"X has 1 features, .* is expecting 2"):
        estimator.inverse_transform(noise[:, :1])


def through_joblib(fitted):
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), through_joblib]
)
def test_pickle_joblib_and_copy(fitted, travel):
    twin = travel(fitted)
    assert_array_equal(twin.score_samples(X), fitted.score_samples(X))
    assert_array_equal(twin.sample(5), fitted.sample(5))
    assert str(twin) == str(fitted)


@pytest.mark.parametrize("use", ["score_samples", "sample"])
def test_model_from_a_device_that_is_not_there(fitted, use):
    if not hasattr(fitted, "device_"):
        return
    abroad = copy.copy(fitted)
    abroad.device_ = "cuda:99"
    abroad = pickle.loads(pickle.dumps(abroad))
    assert {p.device.type for p in abroad.module_.state_dict().values()} == {"cpu"}
    argument = X if use == "score_samples" else 5
    with pytest.warns(UserWarning, match="fitted on device 'cuda:99', which this machine does"):
        result = getattr(abroad, use)(argument)
    assert_array_equal(result, getattr(fitted, use)(argument))
    assert fitted.device_ != "cuda:99"


def test_pipeline(estimator):
    pipeline = make_pipeline(StandardScaler(), estimator).fit(X)
    alone = clone(estimator).fit(StandardScaler().fit_transform(X))
    expected = alone.score_samples(StandardScaler().fit_transform(X))
    assert_allclose(pipeline.score_samples(X), expected, rtol=1e-10)
    assert pipeline.score(X) == pytest.approx(expected.mean())


@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_searches(estimator, search):
    choice = {"random_state": [0, 1]}
    options = {} if search is GridSearchCV else {"n_iter": 2, "random_state": 0}
    found = search(estimator, choice, cv=2, error_score="raise", **options).fit(FRAME)
    scores = found.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and found.best_score_ == scores.max()
    assert found.score(FRAME) == found.best_estimator_.score(FRAME)


def test_search_in_two_processes(every_mixture):
    choice, flow = {"random_state": [0, 1]}, clone(ESTIMATORS["flow"]).set_params(n_splits=1)
    one, two = (
        GridSearchCV(flow, choice, cv=2, n_jobs=n_jobs, error_score="raise").fit(X)
        for n_jobs in (1, 2)
    )
    assert_allclose(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])


def test_cross_val_score(estimator):
    order = np.random.RandomState(0).permutation(60)
    scores = cross_val_score(estimator, X[order], cv=2, error_score="raise")
    halves = order[30:], order[:30]
    expected = [clone(estimator).fit(X[a]).score(X[b]) for a, b in (halves, halves[::-1])]
    assert_allclose(scores, expected, atol=1e-6)


def test_log_density_as_a_feature(fitted):
    feature = FunctionTransformer(lambda rows: fitted.score_samples(rows)[:, None])
    pipeline = make_pipeline(feature, StandardScaler())
    log_density = fitted.score_samples(X)
    expected = (log_density - log_density.mean()) / log_density.std()
    assert_allclose(pipeline.fit_transform(X)[:, 0], expected, atol=1e-10)


def test_html_and_fitted_attributes_are_cheap(fitted):
    start = time.perf_counter()
    assert type(fitted).__name__ in fitted._repr_html_()
    for name in dir(fitted):
        if name.endswith("_") and not name.endswith("__"):
            getattr(fitted, name)
    assert time.perf_counter() - start < 1


def described(doc, section):
    """Names that a section of a numpydoc docstring describes."""
    match = re.search(rf"^ *{section}\n *-+\n(.*?)(?:\n\n *\w[\w ]*\n *---|\Z)", doc, re.M | re.S)
    return set(re.findall(r"^ *\**(\w+) : ", match.group(1), re.M)) if match else set()


@pytest.mark.parametrize("cls", CLASSES)
def test_docstrings_describe_parameters_and_attributes(cls):
    doc = inspect.getdoc(cls)
    assert set(inspect.signature(cls).parameters) == described(doc, "Parameters")
    for section in ("References", "Examples", "See Also"):
        assert re.search(rf"^{section}\n---", doc, re.M), section
    assert ">>>" in doc
    documented = described(doc, "Attributes")
    for name, estimator in ESTIMATORS.items():
        if type(estimator) is cls:
            fitted = fit_once(name)
            found = {a for a in vars(fitted) if a.endswith("_")}
            assert found <= documented
            assert all(hasattr(fitted, a) for a in documented - {"feature_names_in_"})


def own_methods():
    for cls in CLASSES:
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_") and method.__module__.startswith("skgen."):
                yield pytest.param(method, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize("method", list(own_methods()))
def test_docstrings_of_methods(method):
    doc = inspect.getdoc(method)
    parameters = set(inspect.signature(method).parameters) - {"self"}
    assert described(doc, "Parameters") == parameters
    assert described(doc, "Returns")
