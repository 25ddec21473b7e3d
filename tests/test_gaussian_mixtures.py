import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_info, threadpool_limits

from skgen.compose import StackedDensity
from skgen.datasets import TwoMoons
from skgen.gaussian_mixtures import (
    FORMS,
    _joined,
    _libraries,
    candidates,
    fit_gaussian_mixture,
    fit_sized_mixtures,
    fit_stacked_mixtures,
    mixture_size,
)
from skgen.mixing import mixture_weights

from .conftest import ALL_MIXTURES
from .estimators import cheap_flow

X, TEST = TwoMoons().sample(400, random_state=0), TwoMoons().sample(1000, random_state=1)
Z, Z_TEST = torch.tensor(X), torch.tensor(TEST)

pytestmark = pytest.mark.usefixtures("every_mixture")


@pytest.mark.parametrize("form", ["full", "tied", "diag"])
def test_join_is_the_weighted_mean(form):
    parts = [GaussianMixture(k, covariance_type=form, random_state=k).fit(X) for k in (1, 5)]
    found = _joined(parts, [0.3, 0.7]).log_prob(Z_TEST)
    expected = np.log(
        0.3 * np.exp(parts[0].score_samples(TEST)) + 0.7 * np.exp(parts[1].score_samples(TEST))
    )
    assert_allclose(found, expected, rtol=1e-9)


def test_stack_against_stacked_density(monkeypatch):
    def without_prior(held_out, sample_weight, floor, prior):
        return mixture_weights(held_out, sample_weight, floor, tol=1e-5)

    monkeypatch.setattr("skgen.compose.mixture_weights", without_prior)
    few = X[:39]  # one component each, where EM does not depend on the seed
    members = list(candidates(39, 2, ALL_MIXTURES["FORMS_OF_DEFENCE"]).items())
    assert all(mixture.n_components == 1 for _, mixture in members)
    folds = KFold(5, shuffle=True, random_state=7)
    stack = StackedDensity(estimators=members, cv=folds, min_weight=0).fit(few)
    found = fit_stacked_mixtures(7, torch.tensor(few)).log_prob(Z_TEST)
    assert_allclose(found, stack.score_samples(TEST), atol=1e-3)  # no components of small weight


def test_stack_is_better_than_one_mixture():
    stack = fit_stacked_mixtures(0, Z)
    single = fit_gaussian_mixture(0, 16, Z)
    assert stack.log_prob(Z_TEST).mean() > single.log_prob(Z_TEST).mean() + 0.05
    assert float(stack.weights.sum()) == pytest.approx(1)
    assert torch.equal(stack.means, fit_stacked_mixtures(0, Z).means)


def test_a_handful_of_rows_gets_one_gaussian():
    assert len(fit_stacked_mixtures(0, Z[:9]).weights) == 1
    assert len(fit_stacked_mixtures(0, Z[:10]).weights) >= 5


def test_candidates():
    found = candidates(400, 2, [("full", 1e-3), ("tied", 1e-6)]).values()
    assert [(m.covariance_type, m.n_components, m.reg_covar) for m in found] == [
        *(("full", k, 1e-3) for k in (1, 2, 4, 8, 16)),
        *(("tied", k, 1e-6) for k in (2, 4, 8, 16)),  # of one component, it is full
    ]


def test_wide_tables_get_few_components():
    for n_columns, most in [(256, 64), (257, 32), (1000, 4), (5000, 1)]:
        found = candidates(2000, n_columns, [("full", 1e-3), ("diag", 1e-3)]).values()
        sizes = {
            form: max(m.n_components for m in found if m.covariance_type == form)
            for form in ("full", "diag")
        }
        assert sizes == {"full": most, "diag": 64}
        bound = max(1, 2**22 // n_columns**2)
        assert mixture_size(4000, n_columns, 64) == min(64, bound)
        assert mixture_size(300, n_columns) == min(15, bound)


def clusters(n_rows, seed):
    """Rows of 16 normal clusters on a grid, none of which knows of another."""
    rng = np.random.default_rng(seed)
    return 20 * rng.integers(0, 4, size=(n_rows, 2)) + rng.normal(size=(n_rows, 2))


def test_many_rows_are_defended_by_mixtures_of_several_sizes():
    rows, fresh = clusters(2800, 0), clusters(1000, 1)
    density = cheap_flow(max_iter=2, preconditioning="standardize").fit(rows)
    truth = -np.log(2 * np.pi * np.e) - np.log(16)
    mixture = density._mixture.components[1]
    assert density.mixture_weights_[1] > 0.9
    assert density.score(fresh) > truth - 0.1
    n_rows = 9 * 2800 // 10  # the rest is held out
    sizes = {mixture_size(n_rows, 2, most) for most in (128, 32, 8, 4)}
    assert sizes == {126, 32, 8, 4}
    kept = [c for n in range(5) for c in itertools.combinations(sizes, n)]
    assert len(mixture.model.weights) in {sum(some) for some in kept} - {0, 4, 8, 12}


def test_sizes_are_mixed_better_than_any():
    rows = torch.tensor(clusters(2500, 0))
    fresh = torch.tensor(clusters(1000, 1))
    found = fit_sized_mixtures(0, rows).log_prob(fresh).mean()
    assert found > max(fit_gaussian_mixture(0, k, rows).log_prob(fresh).mean() for k in (8, 125))
    assert float(fit_sized_mixtures(0, rows).weights.sum()) == pytest.approx(1)
    assert len(fit_sized_mixtures(0, rows[:39]).weights) == 1
    assert len(fit_sized_mixtures(0, rows[:2]).weights) == 1


def test_copies_are_not_learnt_by_heart():
    rng = np.random.default_rng(0)
    rows, fresh = rng.normal(size=(1000, 2)), torch.tensor(rng.normal(size=(1000, 2)))
    truth = -np.log(2 * np.pi * np.e)
    copies = torch.tensor(rows[np.sort(rng.integers(0, 1000, 5000))])
    assert fit_sized_mixtures(0, copies).log_prob(fresh).mean() > truth - 0.06
    assert fit_gaussian_mixture(0, 128, copies).log_prob(fresh).mean() < truth - 0.3
    assert len(fit_sized_mixtures(0, Z[:30].repeat_interleave(100, 0)).weights) == 1
    few, copied = copies[::20], copies[::20].repeat_interleave(4, 0)
    of_few, of_copies = (fit_stacked_mixtures(0, z).log_prob(fresh).mean() for z in (few, copied))
    assert of_copies > of_few - 0.02


def test_no_warnings_if_em_stops_early():
    mixture = candidates(400, 2, FORMS)["full16_1e-06"].set_params(max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not mixture.fit(X).converged_


def test_mixtures_are_fitted_where_arrays_are_dispatched(monkeypatch):
    expected = cheap_flow(max_iter=2).fit(X).score_samples(TEST)
    pytest.importorskip("scipy", minversion="1.14")
    pytest.importorskip("sklearn", minversion="1.7")  # before, only with another package
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with config_context(array_api_dispatch=True):
        density = cheap_flow(max_iter=2).fit(X)
        assert_allclose(density.score_samples(torch.tensor(TEST)), expected)


@pytest.mark.parametrize("preconditioning", ["standardize", "gaussianize"])
def test_few_rows_are_defended_by_a_stack(preconditioning):
    density = cheap_flow(max_iter=2, preconditioning=preconditioning).fit(X)
    *_, mixture = density._mixture.components[1].children()
    assert len(mixture.weights) > 16
    assert density.score(TEST) > fit_gaussian_mixture(0, 16, Z).log_prob(Z_TEST).mean()
    assert density.sample(5).shape == (5, 2)


def test_mixtures_are_fitted_by_one_thread(monkeypatch):
    def numbers():
        return {library["num_threads"] for library in threadpool_info()}

    during = []
    m_step = GaussianMixture._m_step

    def watched(self, *args, **kwargs):
        during.append(numbers())
        return m_step(self, *args, **kwargs)

    monkeypatch.setattr(GaussianMixture, "_m_step", watched)
    _libraries.cache_clear()  # which does not know those that other tests have loaded since
    with threadpool_limits(2):
        before = numbers()
        fit_gaussian_mixture(0, 2, Z)
        assert numbers() == before
    assert before == {2} and all(found == {1} for found in during) and during


def test_threads_put_back_what_was_there():
    _libraries.cache_clear()
    with threadpool_limits(2), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = threadpool_info(), list(warnings.filters)
        for _ in range(5):
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda seed: fit_gaussian_mixture(seed, 4, Z), range(8)))
            assert (threadpool_info(), list(warnings.filters)) == before
