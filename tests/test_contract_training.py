"""What every estimator trained by gradient steps promises of its training."""

import re
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skgen import GaussianMLE
from skgen.core.coupling_flow import CouplingFlow
from skgen.core.flow import Flow
from skgen.core.training import TrainingWarning

from .estimators import cheap_coupling, cheap_diffusion, cheap_flow, two_clusters

X = two_clusters()


@pytest.fixture
def on_step(monkeypatch):
    """Function that makes every loss pass through ``change(step, loss)``, steps from 1."""
    steps = []

    def install(change):
        def watch(add_gradient):
            def watched(self, x, generator, share):
                steps.append(1)
                return change(len(steps), add_gradient(self, x, generator, share))

            return watched

        for model in (Flow, CouplingFlow):
            monkeypatch.setattr(model, "add_gradient", watch(model.add_gradient))

    return install


def weights_of(estimator):
    return torch.cat([p.detach().reshape(-1) for p in estimator._density.parameters()])


def test_fitted_curves(trained):
    trained.set_params(n_iter_no_change=50).fit(X)
    assert trained.n_iter_ == trained.max_iter and trained.interrupted_ is False
    assert len(trained.loss_curve_) == trained.n_iter_ and np.isfinite(trained.loss_curve_).all()
    if trained.early_stopping:
        assert len(trained.validation_scores_) == trained.n_iter_
        assert trained.best_validation_score_ == max(trained.validation_scores_)
    else:
        assert trained.validation_scores_ is None and trained.best_validation_score_ is None


def test_early_stopping_stops(trained):
    trained.set_params(early_stopping=True, tol=100.0, n_iter_no_change=4, max_iter=20)
    # The first round gains more than 100 nats on nothing at all; the next four do not.
    assert trained.fit(X).n_iter_ == 5


def test_best_weights_are_those_of_the_best_round():
    flow = cheap_flow(preconditioning="standardize", learning_rate_init=0.3, max_iter=60)
    flow.set_params(weight_decay=0.0, n_iter_no_change=5).fit(X)
    assert flow.n_iter_ < 60 and len(flow.validation_scores_) > 1
    best = np.argmax(flow.validation_scores_)
    assert best < len(flow.validation_scores_) - 1
    x = torch.tensor(X)
    order = np.lexsort(X.T[::-1])
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    held = x[order][torch.randperm(60, generator=generator)[:6]]
    log_probs = flow.module_.component_log_probs(held)[:, [0, 2, 3]]  # the flow, two Gaussians
    floor = torch.tensor([1, 1e-3, 1e-3], dtype=torch.float64).log()
    score = (log_probs + floor).logsumexp(1).mean()
    assert_allclose(score, flow.best_validation_score_, atol=5e-3)


@pytest.mark.parametrize(
    "parameters, warned",
    [
        ({"max_iter": 1}, True),
        ({"max_iter": 1, "early_stopping": False}, False),
        ({"learning_rate_init": 1e-9, "n_iter_no_change": 50}, False),  # a plateau
        ({"tol": 100.0, "n_iter_no_change": 2}, False),  # stopped by the rule
    ],
)
def test_convergence_warning_only_while_rising(trained, parameters, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained.set_params(**{"early_stopping": True, **parameters}).fit(X)
    rising = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    assert len(rising) == warned
    assert all("Increase max_iter" in str(w.message) for w in rising)


@pytest.mark.parametrize("verbose, lines", [(0, 0), (1, 0), (2, 12)])
def test_verbose(trained, verbose, lines, capfd):
    trained.set_params(verbose=verbose, max_iter=12, early_stopping=False).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert bool(err) == (verbose > 0)
    assert len(re.findall(r"step \d+, loss -?\d", err)) == lines
    if verbose:
        assert "12/12" in err and re.search(r"loss=\d", err)


@pytest.mark.parametrize("verbose", [0, 1])
def test_scoring_and_sampling_show_bars(trained, verbose, capfd, monkeypatch):
    trained.fit(X).set_params(verbose=verbose)
    monkeypatch.setattr("skgen.core.progress.DELAY", 0.0)
    partly = np.where([True, False], X[:5], np.nan)
    for call in (trained.score_samples, trained.transform, trained.sample_given):
        call(partly if call == trained.sample_given else X)
        out, err = capfd.readouterr()
        assert out == "" and ("rows/s" in err) == verbose, call
    trained.sample(20)
    assert ("20.0/20.0 [" in capfd.readouterr().err) == verbose


@pytest.mark.parametrize("step", [1, 3, 9])
def test_interruption_leaves_a_usable_model(trained, on_step, step):
    def interrupt(now, loss):
        if now == step:
            raise KeyboardInterrupt
        return loss

    on_step(interrupt)
    trained.set_params(max_iter=12)
    with pytest.warns(TrainingWarning, match="interrupted .* holds the best weights so far"):
        trained.fit(X)
    assert trained.n_iter_ < step and trained.interrupted_ is True
    assert np.isfinite(trained.score_samples(X)).all() and trained.sample(3).shape == (3, 2)
    if trained.early_stopping and step > 3:
        assert trained.best_validation_score_ == max(trained.validation_scores_)


def test_interruption_after_the_training_keeps_it(trained, monkeypatch):
    def interrupt(seed, z):
        raise KeyboardInterrupt

    for name in ("fit_stacked_mixtures", "fit_sized_mixtures"):
        monkeypatch.setattr(f"skgen.defended.{name}", interrupt)
    if not trained.defensive_weight:
        assert trained.fit(X).interrupted_ is False  # there are no mixtures
        return
    with pytest.warns(TrainingWarning, match="interrupted after the training; one Gaussian"):
        trained.fit(X)
    assert trained.interrupted_ is True and len(trained._mixture.components[1].model.weights) == 1
    assert np.isfinite(trained.score_samples(X)).all() and trained.sample(3).shape == (3, 2)


@pytest.mark.parametrize("steps", [{1}, {7}, {4, 5, 9}])
def test_loss_turned_nan_is_rolled_back(trained, on_step, steps):
    on_step(lambda now, loss: loss * (torch.nan if now in steps else 1))
    trained.set_params(max_iter=12, n_iter_no_change=50)
    with pytest.warns(TrainingWarning, match="became infinite or NaN; going back .* halved") as log:
        trained.fit(X)
    assert sum("halved" in str(w.message) for w in log) == len(steps)
    assert trained.n_iter_ == 12 and len(trained.loss_curve_) == 12
    assert np.isfinite(trained.loss_curve_).all() and np.isfinite(trained.score(X))


def test_persistent_nan_gives_up_and_keeps_the_former_fit(trained, on_step):
    trained.fit(X)
    before = dict(vars(trained))
    on_step(lambda now, loss: loss * torch.nan)
    with (
        pytest.warns(TrainingWarning, match="halved"),
        pytest.raises(FloatingPointError, match=r"4 times.* Reduce learning_rate_init"),
    ):
        trained.fit(X)
    assert vars(trained) == before


@pytest.mark.parametrize("make", [cheap_flow, cheap_coupling])
def test_preconditioning_that_diverges_is_left_out(make, on_step):
    alone = make(preconditioning="gaussianize").fit(X)
    on_step(lambda now, loss: loss * (torch.nan if now <= 4 else 1))  # the whole of the first
    with pytest.warns(TrainingWarning, match="halved"):
        density = make(preconditioning="auto").fit(X)
    assert density.preconditioning_ == "gaussianize" and len(density.mixture_weights_) == 4
    assert_array_equal(weights_of(density), weights_of(alone))
    assert_allclose(density.score_samples(X), alone.score_samples(X))


def test_warm_start_continues(trained):
    cold = clone(trained).fit(X)
    trained.set_params(warm_start=True).fit(X)
    assert_array_equal(weights_of(trained), weights_of(cold))
    start = weights_of(trained).clone()
    trained.set_params(learning_rate_init=1e-12).fit(X)
    assert_allclose(weights_of(trained), start, atol=1e-6)
    trained.set_params(learning_rate_init=3e-3).fit(X)
    assert abs(weights_of(trained) - start).max() > 1e-4
    with pytest.raises(ValueError, match=r"continues the fit on 2 feature\(s\), but X has 3"):
        trained.fit(two_clusters(n_features=3))
    assert trained.n_features_in_ == 2


def test_warm_start_refuses_what_would_take_another_model(trained):
    trained.set_params(warm_start=True).fit(X)
    before = trained.score_samples(X)
    trained.set_params(activation="tanh", batch_size=7)
    with pytest.raises(ValueError, match=r"with activation='silu', got activation='tanh'\. Set it"):
        trained.fit(X)
    assert_array_equal(trained.score_samples(X), before)
    sizes = list(trained.hidden_layer_sizes)  # the same in another container
    trained.set_params(activation="silu", hidden_layer_sizes=sizes).fit(X)
    assert trained.set_params(activation="tanh", warm_start=False).fit(X).n_iter_ > 0


def test_weights_start_from_the_seed(trained):
    one, other = clone(trained).fit(X), trained.set_params(random_state=1).fit(X)
    assert abs(weights_of(one) - weights_of(other)).max() > 1e-2


try:
    import sklearn.callback  # noqa: F401
except ImportError:  # scikit-learn < 1.9
    pass
else:

    class Recorder:
        """Counts what it is told and asks to stop after some rounds."""

        def __init__(self, stop_after=10**9):
            self.stop_after, self.events = stop_after, []

        def setup(self, estimator, context):
            self.events.append("setup")

        def teardown(self, estimator, context):
            self.events.append("teardown")

        def on_fit_task_begin(self, estimator, context, **kwargs):
            self.events.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context, **kwargs):
            self.events.append(f"end {context.task_name}")
            return self.events.count("end round") >= self.stop_after

    def test_callbacks_see_the_rounds(trained):
        recorder = Recorder()
        trained.set_callbacks(recorder).fit(X)
        assert recorder.events[:2] == ["setup", "begin fit"]
        assert recorder.events[-2:] == ["end fit", "teardown"]
        rounds = recorder.events.count("end round")
        assert rounds == recorder.events.count("begin round") >= trained.n_iter_
        assert [key for key in vars(trained) if "callback" in key] == ["_skl_callbacks"]

    def test_callbacks_can_stop_the_training(trained):
        recorder = Recorder(stop_after=1)
        trained.set_callbacks(recorder).fit(X)
        assert trained.n_iter_ == 1 and recorder.events.count("end round") == 1

    def test_callbacks_are_told_when_the_fit_fails(trained, on_step):
        recorder = Recorder()
        on_step(lambda now, loss: loss * torch.nan)
        with pytest.warns(TrainingWarning), pytest.raises(FloatingPointError):
            trained.set_callbacks(recorder).fit(X)
        assert recorder.events[-1] == "teardown"
        assert vars(trained).keys() == trained.get_params(deep=False).keys() | {"_skl_callbacks"}


def test_no_parameter_drags_a_larger_memory_into_a_pickle(trained):
    for p in trained.fit(X).module_.parameters():
        assert p.untyped_storage().nbytes() == p.numel() * p.element_size()


@pytest.mark.parametrize("make", [cheap_flow, cheap_diffusion, cheap_coupling])
def test_fewer_rows_than_columns(make):
    rng = np.random.RandomState(0)
    factors = rng.normal(size=(3, 40))
    X, T = (rng.normal(size=(n, 3)) @ factors + rng.normal(size=(n, 40)) for n in (25, 200))
    log_density = make().fit(X).score_samples(T)
    independent = GaussianMLE(covariance_type="diag").fit(X).score_samples(T)
    assert log_density.mean() > independent.mean() + 2
    assert log_density.min() > independent.min() - 20
