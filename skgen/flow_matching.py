"""Flow matching: a density carried from noise to data by a learnt velocity."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .base import check_n_samples
from .core.models import Flow
from .core.networks import velocity_network
from .core.paths import LinearPath
from .core.solvers import SOLVERS
from .trained import TrainedFlow


class FlowMatchingDensity(TrainedFlow):
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
    preconditioning : {"auto", "standardize", "gaussianize"}, default="auto"
        What is done to X before the flow: whitening, or a monotone curve for each column that makes
        it normal, and then whitening. "auto" starts both and keeps the better on held-out rows.
    reg_covar : float, default=1e-6
        Variance added before whitening, in units of the column variances.
    defensive_weight : float, default=0.001
        Least weight of each of the three simple densities in the mixture; 0 leaves them out.
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
    batch_size : int, default=512
        Rows a gradient step, or all where there are fewer.
    learning_rate_init : float, default=3e-3
        Peak of the one-cycle learning rate.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    max_iter : int or "auto", default="auto"
        Most gradient steps (not passes over the data); "auto" is 24,000 for up to three features
        and 8,000 for more.
    tol : float, default=1e-3
        Gain of the held-out score (nats) that counts as progress.
    n_iter_no_change : int, default=10
        Rounds of ``max_iter / 40`` steps without progress after which training stops.
    early_stopping : bool, default=True
        Whether to hold rows out, to stop when their log-likelihood no longer rises and to choose
        the preconditioning and the mixture weights. The best weights are kept in any case.
    validation_fraction : float, default=0.1
        Share of the rows held out, 2,000 at most.
    warm_start : bool, default=False
        Whether `fit` continues from the fitted model.
    device : str, default="auto"
        Where to compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for a GPU if
        there is one.
    verbose : int, default=0
        1 shows a progress bar, 2 also a line a round, on standard error.
    random_state : int, RandomState instance or None, default=None
        Seed of the weights, the batches and, where `sample` is given none, the draw.

    Attributes
    ----------
    preconditioning_ : str
        The preconditioning used.
    n_iter_ : int
        Gradient steps taken.
    loss_curve_ : list of float
        Mean squared error of the velocity in each round.
    validation_scores_ : list of float or None
        Mean held-out log-density (nats, units of X) after each round.
    best_validation_score_ : float or None
        The best of them.
    mixture_weights_ : ndarray of shape (4,)
        Weights of the flow, of a Gaussian mixture and of the Gaussian the flow started as, both
        behind the same preconditioning, and of a Gaussian fitted to X.
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
        **TrainedFlow._parameter_constraints,
        "solver": [StrOptions(set(SOLVERS))],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "solver_tol": [Interval(Real, 0, None, closed="left")],
    }

    _auto_max_iter = (24_000, 8_000)
    _probe_steps = 2_000

    def __init__(
        self,
        *,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        preconditioning="auto",
        reg_covar=1e-6,
        defensive_weight=1e-3,
        solver="adams",
        n_steps=32,
        solver_tol=1e-3,
        batch_size=512,
        learning_rate_init=3e-3,
        weight_decay=1e-4,
        max_iter="auto",
        tol=1e-3,
        n_iter_no_change=10,
        early_stopping=True,
        validation_fraction=0.1,
        warm_start=False,
        device="auto",
        verbose=0,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.preconditioning = preconditioning
        self.reg_covar = reg_covar
        self.defensive_weight = defensive_weight
        self.solver = solver
        self.n_steps = n_steps
        self.solver_tol = solver_tol
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def _build_model(self, z: Tensor, generator: torch.Generator) -> Flow:
        n_features, path, sizes = z.shape[1], LinearPath(), self._hidden_layer_sizes()
        network = velocity_network(n_features, sizes, self.activation, path, generator)
        return Flow(network, path, n_features, self.solver, self.n_steps, self.solver_tol)

    def sample_trajectory(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw rows from the flow and show how they came about.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.

        Returns
        -------
        trajectory : ndarray of shape (n_steps + 1, n_samples, n_features)
            Positions in the units of X after each of ``n_steps`` steps of the solver, the noise
            first (mapped to these units like everything else) and the samples last.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        generator = self._generator(random_state, self._place_module())
        bijection, flow = self._density.bijection, cast(Flow, self._density.model)
        positions = flow.trajectory(flow.base.sample(n_samples, generator), self.n_steps)
        return np.stack([bijection.inverse(z).cpu().numpy() for z in positions])
