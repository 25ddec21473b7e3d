"""Stacks show how far they are, and Ctrl-C leaves what has been fitted."""

import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from skgen import GaussianMLE
from skgen.compose import StackedDensity
from skgen.core.flow import Flow
from skgen.exceptions import TrainingWarning

from .estimators import cheap_flow, two_clusters

X = two_clusters()
FOLDS = list(KFold(3).split(X))
MEMBERS = [("full", GaussianMLE()), ("diag", GaussianMLE(covariance_type="diag")),
           ("mixture", GaussianMixture(2, random_state=0))]  # fmt: skip
N = len(MEMBERS)


@pytest.fixture
def ctrl_c(monkeypatch):
    """Function that lets Ctrl-C come in the fit of the given number, from 1, of a member."""
    done = []

    def install(number):
        def watch(fit):
            def watched(self, X, *args, **kwargs):
                done.append(type(self))
                if len(done) == number:
                    raise KeyboardInterrupt
                return fit(self, X, *args, **kwargs)

            return watched

        for kind in (GaussianMLE, GaussianMixture):
            monkeypatch.setattr(kind, "fit", watch(kind.fit))

    return install


@pytest.mark.parametrize("number, n_members, n_splits", [(2, 1, 1), (3, 2, 1), (4, N, 1), (5, N, 1),
                                                         (8, N, 2), (9, N, 2)])  # fmt: skip
def test_interrupted_stack_is_that_of_finished_splits(ctrl_c, number, n_members, n_splits):
    some = StackedDensity(estimators=MEMBERS[:n_members], cv=FOLDS[:n_splits]).fit(X)
    assert some.interrupted_ is False
    stack = StackedDensity(estimators=MEMBERS, cv=FOLDS)
    ctrl_c(number)
    message = f"made of {n_members} of 3 members, fitted to {n_splits} of 3 splits"
    with pytest.warns(TrainingWarning, match=message) as caught:
        stack.fit(X)
    assert caught[0].filename == __file__
    assert stack.interrupted_ is True
    assert list(stack.named_estimators_) == [name for name, _ in MEMBERS[:n_members]]
    assert_allclose(stack.weights_, some.weights_)
    assert_allclose(stack.score_samples(X), some.score_samples(X))
    assert stack.sample(3).shape == (3, 2)


def test_interrupted_before_any_member_is_fitted(ctrl_c):
    stack, former = StackedDensity(estimators=MEMBERS), StackedDensity(estimators=MEMBERS).fit(X)
    before = dict(vars(former))
    ctrl_c(1)
    with pytest.raises(KeyboardInterrupt):
        stack.fit(X)
    with pytest.raises(NotFittedError):
        check_is_fitted(stack)
    ctrl_c(1 + 1)  # one fit has been counted
    with pytest.raises(KeyboardInterrupt):
        former.fit(X[:50])
    assert vars(former) == before


def test_interrupted_while_members_are_fitted_again(ctrl_c):
    members = {"estimators": MEMBERS, "cv": FOLDS}
    splits = StackedDensity(**members).fit(X)
    ctrl_c(3 * N + 2)
    stack = StackedDensity(ensemble=False, **members)
    with pytest.warns(TrainingWarning, match="fitted to 3 of 3"):
        stack.fit(X)
    assert stack.interrupted_
    assert_allclose(stack.score_samples(X), splits.score_samples(X))


@pytest.mark.parametrize("step, n_members", [(2, 2), (9, 3)])  # in the first split, the second
def test_members_that_survive_ctrl_c_end_the_fit(monkeypatch, step, n_members):
    add_gradient, steps = Flow.add_gradient, []

    def interrupted(self, *args):
        steps.append(1)
        if len(steps) == step:
            raise KeyboardInterrupt
        return add_gradient(self, *args)

    monkeypatch.setattr(Flow, "add_gradient", interrupted)
    flow = cheap_flow(preconditioning="standardize", n_iter_no_change=50)
    members = [MEMBERS[0], ("flow", flow), MEMBERS[1]]
    stack = StackedDensity(estimators=members, cv=FOLDS)
    with pytest.warns(TrainingWarning) as caught:
        stack.fit(X)
    assert sum("interrupted" in str(w.message) for w in caught) == 2  # by the flow and the stack
    assert len(steps) == step and stack.interrupted_
    assert len(stack.weights_) == n_members
    assert not hasattr(stack.estimators_[0], "estimators_")  # no mean of several splits
    assert stack.estimators_[1].interrupted_ == (n_members == 2)
    assert np.isfinite(stack.score(X))


def test_interruption_is_seen_in_a_stack_of_stacks(ctrl_c):
    inner = StackedDensity(estimators=MEMBERS[:2], cv=2)
    outer = StackedDensity(estimators=[("inner", inner), MEMBERS[2]], cv=FOLDS)
    ctrl_c(2)
    with pytest.warns(TrainingWarning):
        outer.fit(X)
    assert outer.interrupted_ and list(outer.named_estimators_) == ["inner"]


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_verbose(verbose, n_jobs, capfd):
    stack = StackedDensity(estimators=MEMBERS, cv=2, verbose=verbose, n_jobs=n_jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack.fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("6/6" in err and "mixture, split 2 of 2" in err) == (verbose > 0)
    lines = re.findall(r"(\w+), split (\d) of 2: [\d.]+ s, held-out nats -\d", err)
    assert lines == [(name, i) for i in "12" for name, _ in MEMBERS] * (verbose == 2)
    assert bool(err) == (verbose > 0)
