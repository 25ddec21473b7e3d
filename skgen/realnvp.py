"""Coupling flows: exact densities and samples in one pass each."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .base import BaseDensity
from .core.bijections import Layer, LayerChain, LULinear, Permutation
from .core.coupling import Coupling, mapped_columns
from .core.coupling_flow import CouplingFlow, StudentT
from .core.gaussian import StandardNormal
from .core.interfaces import Density
from .core.transformers import Affine, RationalQuadratic
from .gaussian_mixtures import FEW_ROWS, VERY_FEW_ROWS, fit_gaussian_mixture, mixture_size
from .trained_flow import TrainedFlow
from .weights import n_distinct

# Share of the hidden units that training leaves out, by the most rows that it is for.
DROPOUT = {
    "standardize": {VERY_FEW_ROWS: 0.5, FEW_ROWS: 0.1, math.inf: 0.05},
    "gaussianize": {VERY_FEW_ROWS: 0.5, FEW_ROWS: 0.3, math.inf: 0.05},
}
COUPLINGS_PER_GROUP = 3


class RealNVPDensity(TrainedFlow):
    r"""Density estimator by a coupling flow, affine (RealNVP) or with splines.

    A chain of invertible layers maps the data to noise, :math:`z = f(x)`, and

    .. math::

        \log p(x) = \log p_\text{base}(f(x)) + \log \left|\det \partial f / \partial x\right| .

    Each coupling keeps half of the columns and maps the others by monotone functions whose
    parameters a network computes from those kept, so the determinant is a product of slopes, and
    density and samples take one pass each. From coupling to coupling the halves change; six
    couplings map each of up to 20 columns given each other. Trained by maximum likelihood, by AdamW
    and, for the hidden layers of splines, Muon, with the same preconditioning and the same
    defensive mixture as `FlowMatchingDensity`.

    Parameters
    ----------
    transformer : {"spline", "affine"}, default="spline"
        What a coupling does to a column: a monotone rational-quadratic spline on (-4, 4) of the
        whitened data, and nothing beyond; or a scale and a shift.
    n_blocks : int or "auto", default="auto"
        Number of couplings; "auto" is three for each of the groups, 6 with halves.
    n_groups : int, default=2
        Groups of the columns, of which a coupling maps one given the others: 2 are halves. Thirds
        do better where columns depend on several others, and worse elsewhere.
    hidden_layer_sizes : tuple of int, default=(64, 64)
        Widths of the hidden layers of the network in each coupling.
    activation : {"silu", "gelu", "softplus", "tanh", "relu"}, default="silu"
        Activation of the hidden layers.
    n_bins : int, default=8
        Bins of a spline.
    linear : {"lu", "permutation"}, default="lu"
        What mixes the columns before each coupling: a learnt linear map too, or only the
        permutation that makes its groups.
    base : {"normal", "student", "mixture"} or density estimator, default="normal"
        Density of the noise: standard normal, independent Student-t columns with learnt degrees of
        freedom, a Gaussian mixture fitted to the whitened rows, or a copy of the given estimator
        fitted to them, whose log-density must be differentiable (`GaussianMLE` or
        `RealNVPDensity`).
    dropout : "auto" or float, default="auto"
        Share of the hidden units left out in each training step. "auto" is 0.5 for up to 500
        training rows, 0.1 for up to 2,000, or 0.3 behind Gaussianised columns, and 0.05 for more.
    input_noise : float, default=0.0
        Standard deviation of noise added to the whitened rows in each training step.
    preconditioning : {"auto", "standardize", "gaussianize"}, default="auto"
        What is done to X before the flow: whitening, or a monotone curve for each column that
        makes it normal, and then whitening. "auto" starts both and keeps the better on held-out
        rows, the curves if they are ahead by 0.06 nats, as they lead early; up to 2,000 training
        rows cannot tell, and both are kept, in the mixture.
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
    batch_size : int, default=256
        Rows a gradient step, or all where there are fewer.
    learning_rate_init : float, default=1e-2
        Peak of the one-cycle learning rate.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    max_iter : int or "auto", default="auto"
        Most gradient steps (not passes over the data); "auto" is 2,800 for up to three features
        and 1,800 for more.
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
        Mean negative log-density of the preconditioned rows (nats) in each round.
    validation_scores_ : list of float or None
        Mean held-out log-density (nats, units of X) after each round.
    best_validation_score_ : float or None
        The best of them.
    mixture_weights_ : ndarray of shape (n_components,)
        Weights of the flow, of a Gaussian mixture and of a standard normal, both behind the same
        preconditioning, and of a Gaussian fitted to X; and, where both preconditionings are kept,
        of the flow behind the other one; then of those of further splits. Up to 2,000 training
        rows the mixture is a stack of many, of whitened rows.
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
    FlowMatchingDensity : Trained by regression; slower to score, stronger on small tables.
    skgen.compose.StackedDensity : A mixture of several density estimators.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.

    Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", 2019.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    Examples
    --------
    >>> from skgen import RealNVPDensity
    >>> from skgen.datasets import TwoMoons
    >>> X = TwoMoons().sample(500, random_state=0)
    >>> density = RealNVPDensity(max_iter=100, early_stopping=False, random_state=0).fit(X)
    >>> density.score_samples(X).shape
    (500,)
    >>> density.sample(3).shape
    (3, 2)
    """

    _parameter_constraints: dict = {
        **TrainedFlow._parameter_constraints,
        "transformer": [StrOptions({"affine", "spline"})],
        "n_blocks": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_groups": [Interval(Integral, 2, None, closed="left")],
        "n_bins": [Interval(Integral, 2, None, closed="left")],
        "linear": [StrOptions({"lu", "permutation"})],
        "base": [StrOptions({"normal", "student", "mixture"}), BaseDensity],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "input_noise": [Interval(Real, 0, None, closed="left")],
    }

    _auto_max_iter = (2_800, 1_800)
    _probe_steps = (400, 250)
    _early_lead = 0.06

    def __init__(
        self,
        *,
        transformer="spline",
        n_blocks: Any = "auto",
        n_groups=2,
        hidden_layer_sizes: Any = (64, 64),
        activation="silu",
        n_bins=8,
        linear="lu",
        base: Any = "normal",
        dropout: Any = "auto",
        input_noise=0.0,
        preconditioning="auto",
        reg_covar=1e-6,
        defensive_weight=1e-3,
        bounds=None,
        periodic=None,
        discrete=None,
        batch_size=256,
        learning_rate_init=1e-2,
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
        self.transformer = transformer
        self.n_blocks = n_blocks
        self.n_groups = n_groups
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_bins = n_bins
        self.linear = linear
        self.base = base
        self.dropout = dropout
        self.input_noise = input_noise
        self.preconditioning = preconditioning
        self.reg_covar = reg_covar
        self.defensive_weight = defensive_weight
        self.bounds = bounds
        self.periodic = periodic
        self.discrete = discrete
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

    def _build_model(self, z: Tensor, generator: torch.Generator, kind: str) -> CouplingFlow:
        d, sizes, dropout = z.shape[1], self._hidden_layer_sizes(), self.dropout
        if dropout == "auto":
            shares, n_rows = DROPOUT[kind], n_distinct(z)
            dropout = next(share for most, share in shares.items() if n_rows <= most)
        spline = self.transformer == "spline"
        transformer = RationalQuadratic(self.n_bins) if spline else Affine()
        n_blocks = self.n_blocks
        if n_blocks == "auto":
            n_blocks = COUPLINGS_PER_GROUP * self.n_groups
        mix = LULinear if self.linear == "lu" else Permutation
        layers: list[Layer] = []
        places = torch.arange(d)  # where each column of the rows is now
        for mapped in mapped_columns(d, n_blocks, self.n_groups, generator):
            order = mapped.int().argsort(stable=True)
            layers.append(mix(places[order]))
            places = order.argsort()
            n, activation = int(mapped.sum()), self.activation
            layers.append(Coupling(d, transformer, sizes, activation, n, dropout, generator))
        layers.append(Permutation(places))
        return CouplingFlow(LayerChain(*layers), self._base(z, generator), self.input_noise)

    def _base(self, z: Tensor, generator: torch.Generator) -> Density:
        """Density of the noise."""
        d = z.shape[1]
        if self.base == "normal":
            return StandardNormal(d)
        if self.base == "student":
            return StudentT(d)
        if self.base == "mixture":
            return fit_gaussian_mixture(generator.initial_seed(), mixture_size(*z.shape), z)
        base = clone(self.base)
        if hasattr(base, "random_state"):
            base.set_params(random_state=generator.initial_seed() % 2**32)
        module = base.fit(z.cpu().numpy()).module_.requires_grad_(False)
        parts = [part for part in module.modules() if isinstance(part, Density)]
        if not all(part.differentiable for part in parts):
            raise ValueError(
                f"base must have a log-density that can be differentiated, such as GaussianMLE or "
                f"RealNVPDensity; that of {type(base).__name__} cannot."
            )
        return module
