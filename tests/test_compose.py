import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgen import FlowMatchingDensity, GaussianMLE
from skgen.compose import StackedDensity, default_members
from skgen.datasets import TwoMoons
from skgen.mixing import mixture_weights
from skgen.weights import as_frequencies

from .estimators import cheap_coupling, cheap_flow, cheap_members, two_clusters

X = TwoMoons().sample(600, random_state=0)
TEST = TwoMoons().sample(1000, random_state=1)


HALVES = [(np.arange(300), np.arange(300, 600))]


@pytest.mark.parametrize(
    "cv, ensemble", [(None, True), (3, True), (3, False), (KFold(2), False), (HALVES, False)]
)
def test_about_as_good_as_the_best_member(cv, ensemble):
    members = [
        ("poor", GaussianMLE()), ("good", GaussianMixture(12, random_state=0)),
        ("other", KernelDensity(bandwidth=0.15)),
    ]  # fmt: skip
    stack = StackedDensity(estimators=members, cv=cv, ensemble=ensemble, random_state=0).fit(X)
    alone = [clone(member).fit(X).score_samples(TEST).mean() for _, member in members]
    assert stack.score(TEST) > max(alone) - 0.03
    assert stack.weights_[0] < 0.05
    assert stack.weights_.sum() == pytest.approx(1) and (stack.weights_ >= 1e-3 - 1e-12).all()


def test_density_is_the_mixture_of_the_members():
    stack = StackedDensity(estimators=cheap_members(), random_state=0).fit(X)
    columns = [member.score_samples(TEST) for member in stack.estimators_]
    expected = logsumexp(columns, axis=0, b=stack.weights_[:, None])
    assert_allclose(stack.score_samples(TEST), expected, rtol=1e-10)
    assert list(stack.named_estimators_) == ["mixture", "kernel", "gaussian"]
    assert stack.named_estimators_["kernel"] is stack.estimators_[1]


def test_members_are_fitted_again_on_all_rows():
    member, expected = [("gaussian", GaussianMLE())], GaussianMLE().fit(X)
    for cv in (None, 2):
        stack = StackedDensity(estimators=member, cv=cv, ensemble=False, random_state=0).fit(X)
        assert_allclose(stack.score_samples(TEST), expected.score_samples(TEST))


def test_members_of_all_folds_are_kept():
    members, folds = cheap_members(), list(KFold(3).split(X))
    stack = StackedDensity(estimators=members, cv=3, random_state=0).fit(X)
    fitted = stack.named_estimators_["kernel"]
    alone = [clone(dict(members)["kernel"]).fit(X[rows]) for rows, _ in folds]
    parts = [each.score_samples(TEST) for each in alone]
    assert_allclose(fitted.score_samples(TEST), logsumexp(parts, axis=0) - np.log(3))
    held = np.concatenate([rows for _, rows in folds])
    columns = np.empty((len(X), len(members)))
    for i, (_, rows) in enumerate(folds):
        for k, fitted in enumerate(stack.estimators_):
            columns[rows, k] = fitted.estimators_[i].score_samples(X[rows])
    assert_allclose(stack.weights_, mixture_weights(columns[held], prior="first"), atol=1e-6)
    drawn = stack.sample(6000)
    assert drawn.shape == (6000, 2) and len(np.unique(drawn[:, 0])) == 6000
    assert stack.score(drawn[:3000]) == pytest.approx(stack.score(stack.sample(3000, 5)), abs=0.1)


@pytest.mark.parametrize(
    "n, n_folds", [(4, 2), (5, 5), (10, 4), (500, 4), (501, 5), (2000, 5), (2001, 2)]
)
def test_rows_choose_the_folds(n, n_folds):
    rows = np.sort(TwoMoons().sample(n, random_state=0), axis=0)  # the folds must be random
    stack = StackedDensity(estimators=[("gaussian", GaussianMLE())], random_state=0).fit(rows)
    (member,) = stack.estimators_
    assert len(getattr(member, "estimators_", [member])) == n_folds
    if n == 2000:
        assert np.ptp([each.mean_[0] for each in member.estimators_]) < 0.1


class Recorder(GaussianMLE):
    """Keeps the rows it was fitted on, with their weights, and those it was to hold out."""

    def __init__(self, early_stopping=True):
        super().__init__()
        self.early_stopping = early_stopping

    def fit(self, X, y=None, sample_weight=None, *, X_val=None):
        super().fit(X, y, sample_weight)
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        self.seen_, self.held_ = np.column_stack([X, weight]), X_val
        return self


def test_members_get_the_rows_held_out():
    members = [("takes", Recorder()), ("is_not_stopped", Recorder(early_stopping=False))]
    rows, weight = X[:60], np.arange(60) % 3 + 1
    stack = StackedDensity(estimators=[*members, ("plain", GaussianMLE())], random_state=0)
    for sample_weight in (None, weight):
        stack.fit(rows, sample_weight=sample_weight)
        expected = np.column_stack([rows, np.ones(60) if sample_weight is None else weight])
        for each in stack.named_estimators_["takes"].estimators_:
            held, copies = np.unique(each.held_, axis=0, return_counts=True)
            both = np.concatenate([each.seen_, np.column_stack([held, copies])])
            assert_array_equal(both[np.lexsort(both.T)], expected[np.lexsort(expected.T)])
        for each in stack.named_estimators_["is_not_stopped"].estimators_:
            assert each.held_ is None
    many = TwoMoons().sample(2001, random_state=0)
    stack = StackedDensity(estimators=members, random_state=0).fit(many)
    one, two = stack.named_estimators_["takes"].estimators_
    assert len(one.seen_) == len(two.seen_) == 1800 and len(one.held_) == len(two.held_) == 201
    assert 5 < len({*one.held_[:, 0]} & {*two.held_[:, 0]}) < 60  # drawn anew, of all
    for parameters in ({"ensemble": False}, {"cv": None}):  # fitted again; one split
        stack = StackedDensity(estimators=members, random_state=0, **parameters).fit(rows)
        assert stack.estimators_[0].held_ is None


def test_given_estimators_are_not_fitted():
    members = cheap_members()
    StackedDensity(estimators=members, random_state=0).fit(X)
    assert not any(key.endswith("_") for _, member in members for key in vars(member))


@pytest.mark.parametrize("n, folds", [(5, None), (20, None), (21, 5), (5000, 5)])
def test_default_members(n, folds):
    members = dict(default_members(n, 2))
    assert list(members) == ["mixtures", "standardized_flow", "gaussianized_flow", "coupling"]
    assert [*members, "coupling_of_thirds"] == [name for name, _ in default_members(n, 3)]
    cv = members["mixtures"].estimator.cv
    assert (cv and cv.get_n_splits()) == folds


def test_default_stack(monkeypatch):
    monkeypatch.setattr("skgen.gaussian_mixtures.SIZES", (1, 4))
    monkeypatch.setattr("skgen.compose.FlowMatchingDensity", cheap_flow)
    monkeypatch.setattr("skgen.compose.RealNVPDensity", cheap_coupling)
    moved = 1e4 * X + 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = StackedDensity(cv=2, random_state=0).fit(X)
        scaled = StackedDensity(cv=2, random_state=0).fit(moved)
    assert len(stack.estimators_) == 4
    for member in stack.estimators_:
        assert member.score(TEST) == pytest.approx(member.score_samples(TEST).mean())
    assert stack.score(TEST) > GaussianMLE().fit(X).score(TEST) + 0.5
    assert stack.sample(10).shape == (10, 2)
    expected = stack.score_samples(TEST) - 2 * np.log(1e4)
    assert_allclose(scaled.score_samples(1e4 * TEST + 7), expected, atol=0.05)


@pytest.mark.parametrize(
    "member",
    [
        GaussianMixture(3),  # returns (rows, labels) and takes no seed
        BayesianGaussianMixture(n_components=3),
        KernelDensity(bandwidth=0.2),
        GaussianMLE(),
        StackedDensity(estimators=[("inner", GaussianMixture(2)), ("other", GaussianMLE())]),
    ],
    ids=lambda member: type(member).__name__,
)
def test_members_of_any_kind_are_sampled(member):
    stack = StackedDensity(estimators=[("member", member)], random_state=0).fit(X)
    drawn = stack.sample(4000)
    assert drawn.shape == (4000, 2) and len(np.unique(drawn[:, 0])) == 4000
    assert_array_equal(stack.sample(4000), drawn)
    assert not np.array_equal(stack.sample(4000, random_state=1), drawn)
    assert_allclose(drawn.mean(0), X.mean(0), atol=0.1)
    assert_allclose(drawn.std(0), X.std(0), atol=0.2)
    own = drawn[:2000], stack.sample(2000, random_state=5)
    assert stack.score(own[0]) == pytest.approx(stack.score(own[1]), abs=0.1)


def test_rows_come_from_the_members_by_weight():
    low, high = GaussianMLE().fit(X - 100), GaussianMLE().fit(X + 100)
    stack = StackedDensity(estimators=cheap_members()[:2], random_state=0).fit(X)
    stack.estimators_, stack.weights_ = [low, high], np.array([0.3, 0.7])
    drawn = stack.sample(20_000)[:, 0]
    assert (drawn > 0).mean() == pytest.approx(0.7, abs=0.01)
    swaps = ((drawn[1:] > 0) != (drawn[:-1] > 0)).mean()  # rows are not sorted by member
    assert swaps == pytest.approx(2 * 0.3 * 0.7, abs=0.02)


def test_weight_k_is_k_copies_on_the_same_side_of_a_split():
    weight = np.arange(600) % 3
    rows, copies = np.arange(600), np.repeat(np.arange(600), weight)
    folds = [(rows[:400], rows[400:])]
    copied = [(np.flatnonzero(copies < 400), np.flatnonzero(copies >= 400))]
    members = [("full", GaussianMLE()), ("kernel", KernelDensity(bandwidth=0.2))]
    one = StackedDensity(estimators=members, cv=folds).fit(X, sample_weight=weight)
    two = StackedDensity(estimators=members, cv=copied).fit(X[copies])
    assert_allclose(one.weights_, two.weights_, atol=1e-6)
    assert_allclose(one.score_samples(TEST), two.score_samples(TEST), atol=1e-6)


def test_weights_that_leave_no_held_out_row():
    weight = np.r_[np.ones(400), np.zeros(200)]
    folds = [(np.arange(400), np.arange(400, 600))]
    stack = StackedDensity(estimators=cheap_members(), cv=folds).fit(X, sample_weight=weight)
    assert_allclose(stack.weights_, 1 / 3)
    stack = StackedDensity(estimators=[("takes", Recorder())], cv=folds * 2)
    (member,) = stack.fit(X, sample_weight=weight).estimators_
    assert [each.held_ for each in member.estimators_] == [None, None]


def test_the_mixtures_of_a_stack_know_the_weights():
    rows, test = np.random.RandomState(0).normal(size=(2, 300, 3))
    weight = np.random.RandomState(1).uniform(0.5, 1.5, 300)
    (_, mixtures), *_ = default_members(300, 3)
    weighted = clone(mixtures).fit(rows, sample_weight=weight)
    assert weighted.score(test) > clone(mixtures).fit(rows).score(test) - 0.02
    copied = clone(mixtures).fit(rows[as_frequencies(rows, weight)])  # learnt by heart
    assert copied.score(test) < weighted.score(test) - 0.003


def test_nested_parameters():
    stack = StackedDensity(estimators=cheap_members())
    assert stack.get_params()["kernel__bandwidth"] == 0.5
    stack.set_params(kernel__bandwidth=0.2, gaussian=GaussianMLE(covariance_type="diag"))
    assert dict(stack.estimators)["kernel"].bandwidth == 0.2
    assert stack.get_params()["gaussian__covariance_type"] == "diag"
    choice = {"kernel__bandwidth": [0.05, 5.0], "mixture__n_components": [2]}
    search = GridSearchCV(stack.set_params(random_state=0), choice, cv=2).fit(X[::2])
    assert search.best_params_["kernel__bandwidth"] == 0.05


@pytest.mark.parametrize(
    "estimators, error, message",
    [
        ([], ValueError, "non-empty list of"),
        ([GaussianMLE()], ValueError, r"\(name, estimator\) pairs"),
        ([("a", GaussianMLE()), ("a", GaussianMLE())], ValueError, "not unique"),
        ([("a__b", GaussianMLE())], ValueError, "must not contain __"),
        ([("cv", GaussianMLE())], ValueError, "conflict with constructor arguments"),
        ([("p", make_pipeline(StandardScaler(), GaussianMLE()))], ValueError, "'p' is a Pipeline"),
        ([("c", LogisticRegression())], ValueError, "'c' .* has no score_samples"),
        ([("s", StandardScaler())], ValueError, "is not a density estimator"),
    ],
)  # fmt: skip
def test_bad_members(estimators, error, message):
    with pytest.raises(error, match=message):
        StackedDensity(estimators=estimators).fit(X)


@pytest.mark.parametrize(
    "cv, sizes", [([], r"\[\]"), ([(range(500), range(100)), (range(600), [])], "600, 0")]
)
def test_bad_splits(cv, sizes):
    with pytest.raises(ValueError, match=f"cv must give splits into rows .*{sizes}"):
        StackedDensity(estimators=[("a", GaussianMLE())], cv=cv).fit(X)


def test_splits_by_masks():
    masks = [(np.arange(600) % 3 != k, np.arange(600) % 3 == k) for k in range(3)]
    by_masks, by_numbers = (
        StackedDensity(estimators=cheap_members(), cv=cv, random_state=0).fit(
            X, sample_weight=1.0 + np.arange(600) % 2
        )
        for cv in (masks, [tuple(map(np.flatnonzero, split)) for split in masks])
    )
    assert_array_equal(by_masks.score_samples(TEST), by_numbers.score_samples(TEST))


class Impossible(GaussianMLE):
    """A density that holds no row possible."""

    def score_samples(self, X):
        return np.full(len(X), -np.inf)


def test_members_may_have_no_weight():
    members = [("normal", GaussianMLE()), ("impossible", Impossible())]
    stack = StackedDensity(estimators=members, min_weight=0, random_state=0).fit(X)
    assert_array_equal(stack.weights_, [1, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_allclose(stack.score_samples(TEST), stack.estimators_[0].score_samples(TEST))


def test_too_few_rows_to_fit_members_to():
    stack = StackedDensity(cv=None, validation_fraction=0.9, estimators=[("a", GaussianMLE())])
    with pytest.raises(ValueError, match=r"=0\.9 of 10 rows leaves 1 to fit"):
        stack.fit(X[:10])
    assert len(stack.fit(X[:20]).weights_) == 1


def test_member_without_sample():
    class Scorer(BaseEstimator):
        def fit(self, X, y=None):
            self.density_ = GaussianMLE().fit(X)
            return self

        def score_samples(self, X):
            return self.density_.score_samples(X)

    stack = StackedDensity(estimators=[("scorer", Scorer())]).fit(X)
    assert np.isfinite(stack.score(X))
    with pytest.raises(AttributeError, match="has no method sample"):
        stack.sample()


@pytest.mark.slow
def test_parallel_members_agree_with_serial_ones(every_mixture):
    members = [("mixture", GaussianMixture(2)), ("flow", cheap_flow(random_state=None))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (
            StackedDensity(estimators=members, n_jobs=n_jobs, random_state=0).fit(two_clusters())
            for n_jobs in (None, 2)
        )
    assert isinstance(one.estimators_[1].estimators_[0], FlowMatchingDensity)
    assert_allclose(one.score_samples(X), two.score_samples(X), rtol=1e-6)
