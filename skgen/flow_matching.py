"""Flow matching: a density carried from noise to data by a learnt velocity."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import Tensor

from .core.divergence import draw_probes, jacobian_product
from .core.flow import Flow
from .core.networks import velocity_network
from .core.objectives import Objective
from .core.pairing import PAIRINGS
from .core.paths import PATHS, GaussianPath, LinearPath
from .core.solvers import SOLVERS
from .core.times import TARGETS
from .path_density import PathDensity


class FlowMatchingDensity(PathDensity):
    r"""Density estimator by flow matching, with exact log-densities.

    A network learns the velocity :math:`v(x, t)` that carries standard normal noise (t = 0) to the
    data (t = 1) along :math:`x_t = t\,x_1 + (1-t)\,x_0`, by least squares against
    :math:`x_1 - x_0`. The density of the carried noise is

    .. math::

        \log p(x) = \log N(x(0)) - \int_0^1 \nabla\cdot v(x(t), t)\,dt

    where x(t) solves :math:`dx/dt = v` and ends in x. With two hidden layers the divergence has a
    closed form. Columns are preconditioned first, and the result is mixed with three simple
    densities, with weights from held-out rows, so that no row is assigned an absurdly small
    density; both are part of the log-density, which is normalised and in the units of X.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(128, 128)
        Widths of the hidden layers. Two layers have a divergence in closed form; other depths
        work, with log-densities about n_features times as dear.
    activation : {"silu", "gelu", "softplus", "tanh", "relu"}, default="silu"
        Activation of the hidden layers.
    path : str or GaussianPath, default="linear"
        How noise becomes data, :math:`x_t = \alpha(t)\,x_1 + \sigma(t)\,x_0`: "linear"; "lipman",
        straight to a little noise that remains; "independent", straight with noise of constant
        size on top; "trigonometric"; "variance_preserving" or "variance_exploding", those of the
        diffusions; or an own `skgen.core.paths.GaussianPath`. Paths with noise left at t = 1 have
        the density of the data with that noise.
    prediction : {"velocity", "noise", "data"}, default="velocity"
        Whose squared error is minimised. The network gives the same in any case, so this weighs
        the times differently: "noise" is denoising score matching.
    loss : {"regression", "interpolant"}, default="regression"
        Mean squared error, or :math:`E[|b|^2/2 - b\cdot \dot x_t]` of the velocity b, equal to it
        but for a factor and a constant.
    coupling : {"independent", "optimal_transport"}, default="independent"
        Which noise goes with which row of a batch: any, or by the permutation that minimises the
        squared distances in blocks of 128 rows. That makes the ways straighter, so that fewer
        steps suffice, but leaves no score function.
    base : "normal", (mean, covariance) or density estimator, default="normal"
        Density of the noise: standard normal behind the preconditioning; normal with this mean
        (n_features,) and covariance (n_features, n_features) in the units of X; or that of a copy
        of the estimator fitted to X, in the units of X; with `sklearn.frozen.FrozenEstimator`
        around it, a density fitted before to other rows, which the flow then carries to X. Not with
        paths that start with a trace of the data or with more than the noise; there is no score
        function. See also the ``X_base`` of `fit`.
    preconditioning : {"auto", "standardize", "gaussianize"}, default="auto"
        What is done to X before the flow: whitening, or a monotone curve for each column that
        makes it normal, and then whitening. "auto" starts both and keeps the better on held-out
        rows; up to 2,000 training rows cannot tell, and both are kept, in the mixture.
    reg_covar : float, default=1e-6
        Variance added before whitening, in units of the column variances. Correlations from fewer
        than 15 rows a column are shrunk besides, as much as is best for rows left out.
    defensive_weight : float, default=0.001
        Least weight of each of the three simple densities in the mixture; 0 leaves them out.
    bounds : mapping, default=None
        From a column, by position or by name, to ``(low, high)``, within which it lies; None is
        open. The density is zero outside.
    periodic : mapping, default=None
        From a column to ``(low, high)``, one period: it lives on a circle, as angles and times of
        the day do. Scoring takes three passes for each such column.
    discrete : sequence, default=None
        Columns of whole numbers, which may have bounds or a period too. In these the density is a
        probability, and `score_samples` a lower bound, from 16 passes.
    solver : {"adams", "rk4", "dopri5", "heun", "midpoint", "euler"}, default="adams"
        Solver of the ODE. "adams", a multistep method of fourth order, evaluates the velocity once
        a step; the others are Runge-Kutta methods, with 4, 6, 2, 2 and 1 evaluations.
    n_steps : int, default=32
        Steps of the solver while training is watched. Results begin with half as many and are
        refined; see ``solver_tol``.
    solver_tol : float, default=1e-3
        Rows whose numerical error is estimated to be larger (log-densities in nats, samples and
        transforms in standard deviations) are solved again with twice the steps, up to 16 times
        ``n_steps``; then a warning is raised. 0 switches the estimate off.
    conditional : bool, default=False
        Whether the density is that of X given y: `fit`, `score_samples`, `score` and `sample` then
        take y, categories or numbers or several columns of them. A tenth of the training rows
        are shown without their y, so that the flow also knows the density of X alone, which
        guidance needs. Not with ``coupling="optimal_transport"``.
    divergence : {"exact", "rademacher", "gaussian"}, default="exact"
        How log-densities come by the divergence of the velocity: exactly, or estimated without bias
        by ``n_probes`` random vectors of signs or of normal numbers (Hutchinson), drawn once and
        the same for all rows. Exact is as fast with two hidden layers; with more, it takes one
        Jacobian product a feature, the estimate one a probe. See `log_density_error`.
    n_probes : int, default=16
        Number of the random vectors.
    batch_size : int, default=512
        Rows a gradient step, or all where there are fewer.
    learning_rate_init : float, default=3e-3
        Peak of the one-cycle learning rate.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    max_iter : int or "auto", default="auto"
        Most gradient steps (not passes over the data); "auto" is 13,000 for up to three features
        and 8,000 for more.
    tol : float, default=1e-3
        Gain of the held-out score (nats) that counts as progress.
    n_iter_no_change : int, default=8
        Rounds of ``max_iter / 40`` steps without progress after which training stops.
    early_stopping : bool, default=True
        Whether to hold rows out, to stop when their log-likelihood no longer rises and to choose
        the preconditioning and the mixture weights. The best weights are kept in any case.
    validation_fraction : float, default=0.1
        Share of the rows held out, 2,000 at most.
    n_splits : int or "auto", default="auto"
        How often to train, each time with other rows held out, as long as there are any. The
        flows of all times are kept, in the mixture. "auto" is 4 for up to 500 rows, where it
        matters much which of them are seen, and 1 for more. It is 1 with ``X_val``, with
        `warm_start`, and without early stopping or `defensive_weight`.
    warm_start : bool, default=False
        Whether `fit` continues from the fitted model. Parameters that would take another model must
        then be those of the former fit.
    device : str, default="auto"
        Where to compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for a GPU if
        there is one.
    verbose : int, default=0
        1 shows progress bars on standard error, of trainings and of scoring and sampling that take
        more than a second; 2 also a line for each round of a training.
    random_state : int, RandomState instance or None, default=None
        Seed of the weights, the batches and, where `sample` is given none, the draw.

    Attributes
    ----------
    preconditioning_ : str
        The preconditioning used, or the better one of both.
    n_iter_ : int
        Gradient steps taken.
    interrupted_ : bool
        Whether Ctrl-C cut the training short.
    loss_curve_ : list of float
        Mean squared error of the velocity in each round.
    validation_scores_ : list of float or None
        Mean held-out log-density (nats, units of X) after each round.
    best_validation_score_ : float or None
        The best of them.
    mixture_weights_ : ndarray of shape (n_components,)
        Weights of the flow, of a Gaussian mixture and of the Gaussian the flow started as, both
        behind the same preconditioning, and of a Gaussian fitted to X; and, where both
        preconditionings are kept, of the flow behind the other one; then of those of further
        splits. Up to 2,000 training rows the mixture is a stack of many, of whitened rows.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had some.
    device_ : str
        Device of the fit.
    module_ : torch.nn.Module
        The fitted model.

    See Also
    --------
    GaussianMLE : The multivariate normal density.
    skgen.compose.StackedDensity : A mixture of several density estimators.

    References
    ----------
    Lipman, Chen, Ben-Hamu, Nickel and Le, "Flow matching for generative modeling", 2023.

    Albergo and Vanden-Eijnden, "Building normalizing flows with stochastic interpolants", 2023.

    Examples
    --------
    >>> from skgen import FlowMatchingDensity
    >>> from skgen.datasets import TwoMoons
    >>> X = TwoMoons().sample(500, random_state=0)
    >>> density = FlowMatchingDensity(max_iter=100, early_stopping=False, random_state=0).fit(X)
    >>> density.score_samples(X).shape
    (500,)
    >>> density.sample(3).shape
    (3, 2)
    """

    _parameter_constraints: dict = {
        **PathDensity._parameter_constraints,
        "solver": [StrOptions(set(SOLVERS))],
        "path": [StrOptions(set(PATHS)), GaussianPath],
        "prediction": [StrOptions(set(TARGETS))],
        "loss": [StrOptions({"regression", "interpolant"})],
        "coupling": [StrOptions(set(PAIRINGS))],
        "base": [StrOptions({"normal"}), HasMethods(["fit", "sample", "score_samples"]), tuple],
        "conditional": ["boolean"],
        "divergence": [StrOptions({"exact", "rademacher", "gaussian"})],
        "n_probes": [Interval(Integral, 2, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "solver_tol": [Interval(Real, 0, None, closed="left")],
    }

    _auto_max_iter = (13_000, 8_000)
    _probe_steps = (1_300, 600)

    def __init__(
        self,
        *,
        hidden_layer_sizes: Any = (128, 128),
        activation="silu",
        path: Any = "linear",
        prediction="velocity",
        loss="regression",
        coupling="independent",
        base: Any = "normal",
        conditional=False,
        preconditioning="auto",
        reg_covar=1e-6,
        defensive_weight=1e-3,
        bounds=None,
        periodic=None,
        discrete=None,
        solver="adams",
        n_steps=32,
        solver_tol=1e-3,
        divergence="exact",
        n_probes=16,
        batch_size=512,
        learning_rate_init=3e-3,
        weight_decay=1e-4,
        max_iter: Any = "auto",
        tol=1e-3,
        n_iter_no_change=8,
        early_stopping=True,
        validation_fraction=0.1,
        n_splits: Any = "auto",
        warm_start=False,
        device="auto",
        verbose=0,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.path = path
        self.prediction = prediction
        self.loss = loss
        self.coupling = coupling
        self.base = base
        self.conditional = conditional
        self.preconditioning = preconditioning
        self.reg_covar = reg_covar
        self.defensive_weight = defensive_weight
        self.bounds = bounds
        self.periodic = periodic
        self.discrete = discrete
        self.solver = solver
        self.n_steps = n_steps
        self.solver_tol = solver_tol
        self.divergence = divergence
        self.n_probes = n_probes
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_splits = n_splits
        self.warm_start = warm_start
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def _build_model(self, z: Tensor, generator: torch.Generator, kind: str) -> Flow:
        n_features, sizes = z.shape[1], self._hidden_layer_sizes()
        path = PATHS[self.path]() if isinstance(self.path, str) else copy.deepcopy(self.path)
        check_path(path)
        objective = Objective(self.prediction, self.loss, PAIRINGS[self.coupling])
        if self.conditional and objective.pairing is not None:
            raise ValueError(
                f"coupling={self.coupling!r} cannot go with conditional=True: noise paired with "
                "data tells of their conditions, so that given these it is not normal any more."
            )
        network = velocity_network(
            n_features, sizes, self.activation, LinearPath(), generator, self._n_conditions
        )
        probes = None
        if self.divergence != "exact":
            probes = draw_probes(self.divergence, self.n_probes, n_features, generator)
        solution = (self.solver, self.n_steps, self.solver_tol)
        return Flow(network, path, n_features, *solution, objective, probes)


def check_path(path: GaussianPath) -> None:
    """Raise ValueError unless a path leads from noise to data and knows its derivatives."""
    t = torch.linspace(*path.interval, 101, dtype=torch.float64)
    values, rates = jacobian_product(path.coefficients, t, torch.ones_like(t))
    if not all(bool((v.isfinite() & (v >= 0)).all()) for v in values):
        raise ValueError("alpha and sigma of path must be finite and not negative.")
    if not bool((path.straight_time(t).diff() > 0).all()):
        raise ValueError("alpha / sigma of path must increase with t, from noise to data.")
    for name, rate, given in zip(("alpha", "sigma"), rates, path.derivatives(t), strict=True):
        if not torch.allclose(rate, given.expand_as(rate), rtol=1e-4, atol=1e-6):
            raise ValueError(f"The derivative of {name} that path gives is not that of {name}.")
