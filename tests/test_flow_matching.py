import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal
from sklearn.base import clone
from torch.testing import assert_close

from skgen import FlowMatchingDensity, GaussianMLE
from skgen.core.flow import Flow
from skgen.core.marginals import PRECONDITIONERS
from skgen.core.samplers import OdeSampler
from skgen.core.solvers import SOLVERS
from skgen.datasets import TwoMoons

from .estimators import cheap_flow, two_clusters

MOONS = TwoMoons().sample(3000, random_state=0)


@pytest.fixture(scope="module")
def moons():
    """A flow trained long enough to see the moons."""
    settings = {"hidden_layer_sizes": (64, 64), "max_iter": 800, "defensive_weight": 0}
    return FlowMatchingDensity(**settings, random_state=0).fit(MOONS)


def test_better_than_the_gaussian_and_near_the_truth(moons):
    test = TwoMoons().sample(2000, random_state=1)
    assert moons.score(test) > GaussianMLE().fit(MOONS).score(test) + 0.6
    assert moons.score(test) > TwoMoons().score(test) - 0.3


def test_transform_is_inverted_and_normal(moons):
    test = TwoMoons().sample(500, random_state=1)
    noise = moons.transform(test)
    assert noise.shape == (500, 2) and noise.dtype == np.float64
    assert moons.transform(test.astype(np.float32)).dtype == np.float32
    assert_allclose(moons.inverse_transform(noise), test, atol=0.02)
    for column in noise.T:
        assert abs(column.mean()) < 0.15 and 0.85 < column.std() < 1.15
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.15
    assert list(moons.get_feature_names_out()) == [
        f"flowmatchingdensity{j}" for j in range(2)
    ]  # fmt: skip


def test_inverse_transform_of_noise_follows_the_density(moons):
    noise = np.random.RandomState(0).normal(size=(2000, 2))
    drawn, expected = moons.inverse_transform(noise), moons.sample(2000, random_state=0)
    for column, other in zip(drawn.T, expected.T, strict=True):
        assert kstest(column, other).pvalue > 1e-3


def test_trajectory_starts_as_noise_and_ends_as_samples(moons):
    trajectory = moons.sample_trajectory(1000, random_state=0)
    assert trajectory.shape == (moons.n_steps + 1, 1000, 2)
    assert np.array_equal(trajectory, moons.sample_trajectory(1000, random_state=0))
    noise = moons.transform(trajectory[-1])
    assert_allclose(moons.inverse_transform(noise), trajectory[-1], atol=0.02)
    assert kstest(noise[:, 0], "norm").pvalue > 1e-3
    scores = [moons.score(rows[:200]) for rows in trajectory[::8]]
    assert scores[-1] > scores[0] + 0.5 and scores[-1] > max(scores) - 0.02
    steps = np.linalg.norm(np.diff(trajectory, axis=0), axis=2).mean(1)
    assert steps.max() < np.linalg.norm(trajectory[-1] - trajectory[0], axis=1).mean()
    with pytest.raises(ValueError, match="n_samples must be an int of at least 1, got 0"):
        moons.sample_trajectory(0)


def test_density_of_the_flow_is_that_of_the_transform(moons):
    """Change of variables, with the determinant of the transform taken numerically."""
    points = MOONS[:20]
    step = 1e-5 * np.eye(2)
    columns = [(moons.transform(points + h) - moons.transform(points - h)) / 2e-5 for h in step]
    log_det = np.linalg.slogdet(np.stack(columns, axis=-1))[1]
    expected = multivariate_normal(np.zeros(2)).logpdf(moons.transform(points)) + log_det
    with torch.no_grad():
        flow = moons._density.log_prob(torch.tensor(points)).numpy()
    assert_allclose(flow, expected, atol=0.02)


@pytest.mark.parametrize("preconditioning", ["standardize", "gaussianize"])
@pytest.mark.parametrize("weight", [1e-3, 0.1])
def test_no_row_falls_far_below_the_gaussian(preconditioning, weight):
    flow = cheap_flow(preconditioning=preconditioning, defensive_weight=weight, max_iter=200)
    flow.set_params(learning_rate_init=0.02, early_stopping=False).fit(MOONS[:100])
    far = np.random.RandomState(0).normal(scale=5, size=(200, 2))
    gaussian = GaussianMLE().fit(MOONS[:100]).score_samples(far)
    assert (flow.score_samples(far) >= gaussian + np.log(weight) - 1e-6).all()
    undefended = flow.set_params(defensive_weight=0).fit(MOONS[:100])
    assert (undefended.score_samples(far) < gaussian - 1).any()


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("sizes", [(8, 8), (8,), (4, 4, 4)])
def test_untrained_flow_is_the_fitted_gaussian(solver, sizes):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + [5.0, 0.0, -2.0]
    flow = FlowMatchingDensity(
        hidden_layer_sizes=sizes, solver=solver, preconditioning="standardize", max_iter=1,
        learning_rate_init=1e-9, early_stopping=False, n_steps=200 if solver == "euler" else 40,
        solver_tol=0, reg_covar=1e-9, defensive_weight=0, random_state=0,
    ).fit(X)  # fmt: skip
    tolerance = {"euler": 0.1, "heun": 5e-3, "midpoint": 5e-3}.get(solver, 1e-4)
    expected = multivariate_normal(X.mean(0), np.cov(X.T, bias=True)).logpdf(X)
    assert_allclose(flow.score_samples(X), expected, atol=tolerance, rtol=0)


def test_few_rows_are_looked_at_more_often():
    flow = FlowMatchingDensity()
    flow.n_features_in_ = 4
    lengths = [flow._plan(n_rows).round_length for n_rows in (5, 1_000, 2_000, 10**6)]
    assert lengths == [25, 100, 200, 200]
    assert flow.set_params(max_iter=90)._plan(5).round_length == 2


def test_auto_keeps_the_better_on_held_out_rows():
    skewed = np.exp(np.random.RandomState(0).normal(size=(600, 2)) * [1.5, 1.0])
    flow = cheap_flow(max_iter=40).fit(skewed)
    alone = [
        clone(flow).set_params(preconditioning=kind).fit(skewed)
        for kind in ("standardize", "gaussianize")
    ]
    assert flow.preconditioning_ == "gaussianize"
    assert alone[1].best_validation_score_ > alone[0].best_validation_score_ + 0.5
    assert_allclose(flow.score(skewed), alone[1].score(skewed), atol=0.05)


def kinds_of(flow):
    """Preconditionings of the flows in the mixture, the better one first."""
    return sorted(PRECONDITIONERS, key=lambda kind: kind != flow.preconditioning_)


def test_few_rows_keep_both_preconditionings():
    X = two_clusters()
    flow = cheap_flow(max_iter=40).fit(X)
    assert len(flow.mixture_weights_) == 5
    x = torch.tensor(X)
    for kind, part in zip(kinds_of(flow), (flow._density, *flow._others), strict=True):
        alone = clone(flow).set_params(preconditioning=kind).fit(X)
        assert_close(part.log_prob(x), alone._density.log_prob(x))
    parts = flow.module_.component_log_probs(x).numpy()
    assert_allclose(flow.score_samples(X), logsumexp(parts + np.log(flow.mixture_weights_), 1))


def test_more_rows_keep_one_preconditioning(monkeypatch):
    monkeypatch.setattr("skgen.trained.FEW_ROWS", 50)
    assert len(cheap_flow().fit(two_clusters()).mixture_weights_) == 4


def test_warm_start_continues_with_both_preconditionings():
    X = two_clusters()
    flow = cheap_flow(max_iter=40, warm_start=True).fit(X)
    before = dict(zip(kinds_of(flow), copy.deepcopy([flow._density, *flow._others]), strict=True))
    flow.fit(X)
    for kind, part in zip(kinds_of(flow), (flow._density, *flow._others), strict=True):
        assert_close(part.bijection.state_dict(), before[kind].bijection.state_dict())
        assert not part.model.network.hidden.equal(before[kind].model.network.hidden)


def test_samplers_are_those_of_both_flows(monkeypatch):
    flow, used = cheap_flow().fit(two_clusters()), []
    sample = Flow.sample

    def watched(self, *args):
        used.append(self.sampler)
        return sample(self, *args)

    monkeypatch.setattr(Flow, "sample", watched)
    flow.module_.weights.fill_(0.2)
    flow.sample(200, sampler="euler", n_steps=2)
    assert len(used) == 2 and all(isinstance(sampler, OdeSampler) for sampler in used)
    flow.sample(200)
    assert used[2:] == [None, None]


def test_reflow_leaves_one_flow():
    flow = cheap_flow().fit(two_clusters())
    weights = flow.mixture_weights_
    flow.reflow(n_samples=100, max_iter=2)
    expected = [weights[0] + weights[4], *weights[1:4]]
    assert_allclose(flow.mixture_weights_, expected)


def test_weights_of_the_defence_are_at_least_the_floor():
    weights = cheap_flow(defensive_weight=0.05).fit(two_clusters()).mixture_weights_
    assert weights.sum() == pytest.approx(1) and (weights >= 0.05 - 1e-12).all()
    assert len(cheap_flow(defensive_weight=0).fit(two_clusters()).mixture_weights_) == 1


@pytest.mark.parametrize("bad", [(), (0,), (8, -1), (8, 2.5), [8, "8"]])
def test_bad_hidden_layer_sizes(bad):
    with pytest.raises(ValueError, match="hidden_layer_sizes must hold positive ints, got"):
        cheap_flow(hidden_layer_sizes=bad).fit(two_clusters())


def test_validation_fraction_that_leaves_too_little():
    with pytest.raises(
        ValueError, match=r"validation_fraction=0\.9 of 10 rows leaves 1 to train on"
    ):
        cheap_flow(validation_fraction=0.9).fit(two_clusters(10))


@pytest.mark.slow
def test_density_of_two_moons_is_within_a_hundredth_of_the_truth():
    truth = TwoMoons()
    flow = FlowMatchingDensity(random_state=0).fit(truth.sample(10_000, random_state=0))
    test = truth.sample(10_000, random_state=1)
    assert truth.score(test) - flow.score(test) <= 0.02


@pytest.mark.parametrize("preconditioning", ["standardize", "gaussianize"])
def test_column_that_varies_in_one_row(preconditioning):
    # For some seeds that row is held out, and the column is constant where the flow is trained.
    X = np.random.default_rng(0).normal(size=(60, 2))
    X[:, 1] = 0
    X[7, 1] = 1
    for seed in range(6):
        density = FlowMatchingDensity(
            preconditioning=preconditioning, max_iter=2, validation_fraction=0.4, random_state=seed
        ).fit(X)
        assert np.isfinite(density.score_samples(X)).all()
        assert np.isfinite(density.sample(20)).all()
