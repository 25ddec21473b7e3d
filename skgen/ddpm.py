"""Denoising diffusion: a chain of small steps from noise to data."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from .base import unchanged_on_error
from .core.chain_bound import chain_bound
from .core.diffusion_samplers import DIFFUSION_SAMPLERS, DiffusionSampler
from .core.divergence import draw_probes
from .core.flow import Flow
from .core.gaussian import standard_normal
from .core.interfaces import join
from .core.networks import DeepVelocityNetwork, VelocityNetwork, velocity_network
from .core.objectives import Objective
from .core.paths import LinearPath
from .core.samplers import Sampler
from .core.schedules import BETA_SCHEDULES, SchedulePath
from .core.solvers import SOLVERS
from .core.unet import UNetVelocity
from .image_rows import ImageDensity
from .interchange import from_pipeline, to_pipeline
from .path_density import STOCHASTIC
from .rows import to_array

# Of few steps: the spread within modes of tables needs more of them near the noise than images do.
IMAGE_SPACING = 30.0
TARGETS_BY_NAME = {"noise": "noise", "velocity": "angular_velocity", "data": "data"}


class DDPMGenerator(ImageDensity):
    r"""Generator and density by denoising diffusion.

    A chain of T steps turns data into noise,

    .. math:: x_k = \sqrt{\bar\alpha_k}\,x_0 + \sqrt{1-\bar\alpha_k}\,\epsilon, \qquad
              \bar\alpha_k = \prod_{j \le k} (1-\beta_j)

    A network learns to find the noise, and thereby to reverse the steps. `score_samples` is the
    log-density of the ordinary differential equation with the same distributions, exact up to the
    error of its solver; `elbo` is the variational bound of the chain, a different and smaller
    number.

    Parameters
    ----------
    n_timesteps : int, default=1000
        Steps T of the chain.
    beta_schedule : {"linear", "cosine"} or array-like of shape (n_timesteps,), default="linear"
        Variances :math:`\beta_k` of the noise of each step: from 1e-4 to 0.02 for 1000 steps, and
        in proportion for other T, so that all data turn into noise; those of a squared cosine; or
        own ones.
    prediction_type : {"noise", "velocity", "data"}, default="velocity"
        Whose squared error is minimised: the noise, :math:`\sqrt{\bar\alpha}\,\epsilon -
        \sqrt{1-\bar\alpha}\,x_0`, or the data. The network gives the same in any case, so this
        weighs the steps differently.
    posterior_variance : {"beta", "beta_tilde"}, default="beta"
        Variance of the reversed steps: :math:`\beta_k`, or that of the exact reversal given the
        data, :math:`\tilde\beta_k = \beta_k (1-\bar\alpha_{k-1}) / (1-\bar\alpha_k)`.
    sampler : str, default="ancestral"
        How `sample` goes from noise to data, unless told otherwise: "ancestral", the chain itself;
        "ddim"; "dpm_solver++", of second order; "dpm_solver++_sde", the same with noise drawn anew;
        "exact", the differential equation as `score_samples` takes it; or one of the samplers of
        `FlowMatchingDensity`, such as "heun".
    n_sampling_steps : int, default=None
        Steps of ``sampler``; None is all of the chain for "ancestral", 20 for "dpm_solver++" and
        50 for the others.
    denoiser : {"auto", "mlp", "unet"}, default="auto"
        The network: one of fully connected layers, or, by default where there is an
        ``image_shape``, a U-Net, which takes rows as images. Then pixels are scaled together
        instead of preconditioned, there is no defensive mixture, the loss on held-out images is
        watched, log-densities are estimated with fixed random vectors, the same for all rows, and
        samples have the range and the type of X.
    image_shape : tuple (C, H, W), default=None
        Channels, height and width of the images that rows are, flattened in this order.
    unet_params : dict, default=None
        Arguments of ``diffusers.UNet2DModel`` in place of those chosen by ``image_shape``, such as
        ``{"block_out_channels": (32, 64)}``.
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        What a U-Net computes in; "auto" is bfloat16 where that is faster.
    hidden_layer_sizes : tuple of int, default=(128, 128)
        Widths of the hidden layers. Two layers have a divergence in closed form; other depths
        work, with log-densities about n_features times as dear.
    activation : {"silu", "gelu", "softplus", "tanh", "relu"}, default="silu"
        Activation of the hidden layers.
    conditional : bool, default=False
        Whether the density is that of X given y, as in `FlowMatchingDensity`.
    preconditioning : {"auto", "standardize", "gaussianize"}, default="auto"
        What is done to X before the chain: whitening, or a monotone curve for each column that
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
        Solver of the ODE of log-densities.
    n_steps : int, default=32
        Steps of the solver while training is watched. Results begin with half as many and are
        refined; see ``solver_tol``.
    solver_tol : float, default=1e-3
        Rows whose numerical error is estimated to be larger (log-densities in nats, transforms in
        standard deviations) are solved again with twice the steps, up to 16 times ``n_steps``; then
        a warning is raised. 0 switches the estimate off.
    divergence : {"exact", "rademacher", "gaussian"}, default="exact"
        How log-densities come by the divergence of the velocity, as in `FlowMatchingDensity`.
    n_probes : int, default=16
        Number of the random vectors.
    batch_size : int or "auto", default="auto"
        Rows a gradient step, or all where there are fewer; "auto" is 512, and 64 for a U-Net.
    gradient_accumulation_steps : int, default=1
        Batches whose mean gradient a step takes: as one larger batch, in less memory.
    learning_rate_init : float or "auto", default="auto"
        Peak of the one-cycle learning rate; "auto" is 3e-3, and 1e-3 for a U-Net of 256 or more
        pixels.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    max_iter : int or "auto", default="auto"
        Most gradient steps (not passes over the data); "auto" is 13,000 for up to three features,
        8,000 for more, and 5,000 for a U-Net.
    tol : float, default=1e-3
        Gain of the held-out score (nats, or see ``validation_scores_``) that counts as progress.
    n_iter_no_change : int, default=8
        Rounds of ``max_iter / 40`` steps without progress after which training stops.
    early_stopping : bool, default=True
        Whether to hold rows out, to stop when their log-likelihood no longer rises and to choose
        the preconditioning and the mixture weights. The best weights are kept in any case.
    validation_fraction : float, default=0.1
        Share of the rows held out, 2,000 at most.
    n_splits : int or "auto", default="auto"
        How often to train, each time with other rows held out, as long as there are any. The
        diffusions of all times are kept, in the mixture. "auto" is 4 for up to 500 rows, where it
        matters much which of them are seen, and 1 for more. It is 1 of images, with ``X_val``, with
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
    betas_ : ndarray of shape (n_timesteps,)
        Variances of the noise of each step.
    preconditioning_ : str
        The preconditioning used, or the better one of both.
    n_iter_ : int
        Gradient steps taken.
    interrupted_ : bool
        Whether Ctrl-C cut the training short.
    loss_curve_ : list of float
        Mean squared error in each round.
    validation_scores_ : list of float or None
        Mean held-out log-density (nats, units of X) after each round; with a U-Net,
        minus the logarithm of the loss.
    best_validation_score_ : float or None
        The best of them.
    mixture_weights_ : ndarray of shape (n_components,)
        Weights of the diffusion, of a Gaussian mixture and of the Gaussian the diffusion started
        as, both behind the same preconditioning, and of a Gaussian fitted to X; and, where both
        preconditionings are kept, of the diffusion behind the other one; then of those of further
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
    FlowMatchingDensity : The same by a straight path, trained for its density.

    References
    ----------
    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020.

    Song et al., "Score-based generative modeling through stochastic differential equations", 2021.

    Examples
    --------
    >>> from skgen import DDPMGenerator
    >>> from skgen.datasets import TwoMoons
    >>> X = TwoMoons().sample(500, random_state=0)
    >>> generator = DDPMGenerator(max_iter=100, early_stopping=False, random_state=0).fit(X)
    >>> generator.sample(3).shape
    (3, 2)
    >>> generator.sample(3, sampler="dpm_solver++", n_steps=10).shape
    (3, 2)
    >>> generator.score_samples(X).shape
    (500,)
    """

    _parameter_constraints: dict = {
        **ImageDensity._parameter_constraints,
        "n_timesteps": [Interval(Integral, 2, None, closed="left")],
        "beta_schedule": [StrOptions(set(BETA_SCHEDULES)), "array-like"],
        "prediction_type": [StrOptions(set(TARGETS_BY_NAME))],
        "posterior_variance": [StrOptions({"beta", "beta_tilde"})],
        "sampler": [StrOptions({"exact", *DIFFUSION_SAMPLERS, *SOLVERS, *STOCHASTIC})],
        "n_sampling_steps": [Interval(Integral, 1, None, closed="left"), None],
        "conditional": ["boolean"],
        "solver": [StrOptions(set(SOLVERS))],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "solver_tol": [Interval(Real, 0, None, closed="left")],
        "divergence": [StrOptions({"exact", "rademacher", "gaussian"})],
        "denoiser": [StrOptions({"auto", "mlp", "unet"})],
        "image_shape": ["array-like", None],
        "unet_params": [dict, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "gradient_accumulation_steps": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "n_probes": [Interval(Integral, 2, None, closed="left")],
    }

    _own_names = tuple(DIFFUSION_SAMPLERS)
    _auto_max_iter = (13_000, 8_000)
    _probe_steps = (1_300, 600)

    def __init__(
        self,
        *,
        n_timesteps=1000,
        beta_schedule: Any = "linear",
        prediction_type="velocity",
        posterior_variance="beta",
        sampler="ancestral",
        n_sampling_steps=None,
        denoiser="auto",
        image_shape=None,
        unet_params=None,
        dtype="auto",
        hidden_layer_sizes: Any = (128, 128),
        activation="silu",
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
        batch_size: Any = "auto",
        gradient_accumulation_steps=1,
        learning_rate_init: Any = "auto",
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
        self.n_timesteps = n_timesteps
        self.beta_schedule = beta_schedule
        self.prediction_type = prediction_type
        self.posterior_variance = posterior_variance
        self.sampler = sampler
        self.n_sampling_steps = n_sampling_steps
        self.denoiser = denoiser
        self.image_shape = image_shape
        self.unet_params = unet_params
        self.dtype = dtype
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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
        self.gradient_accumulation_steps = gradient_accumulation_steps
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

    def fit(  # type: ignore[override]
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the chain to data, given conditions if ``conditional=True``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows of finite numbers; images as flattened rows, of any range.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            Conditions of the rows; ignored unless ``conditional=True``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. An integer weight k is the same as k copies of the row.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Rows to hold out in place of a random ``validation_fraction`` of X: later times or other
            groups than those of X. Of more than 2,000, or 256 images, as many spread among them.
        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_conditions), default=None
            Conditions of the rows of X_val; ignored unless ``conditional=True``.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the rows of X_val.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If an array or a parameter is invalid, or X_val is given without early stopping. The
            estimator then keeps its former state.
        ImportError
            If a U-Net is asked for and diffusers is not installed.
        """
        val = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        with unchanged_on_error(self):
            self._validate_params()
            self._read_images(X)
            super().fit(X, y, sample_weight, **val)
        return self

    def _build_model(self, z: Tensor, generator: torch.Generator, kind: str) -> Flow:
        path = SchedulePath(self._betas())
        self.betas_ = path.betas.numpy()
        n_features, divergence, n_probes = z.shape[1], self.divergence, self.n_probes
        network: VelocityNetwork | DeepVelocityNetwork | UNetVelocity
        solution = (self.solver, self.n_steps, self.solver_tol)
        if self._images:
            network = self._unet(path, generator, self.unet_params, self.dtype)
            if divergence == "exact":
                divergence, n_probes = "rademacher", 2
            solution = (self.solver, self.n_steps, 0)
        else:
            sizes = self._hidden_layer_sizes()
            network = velocity_network(
                n_features, sizes, self.activation, LinearPath(), generator, self._n_conditions
            )
        probes = None
        if divergence != "exact":
            probes = draw_probes(divergence, n_probes, n_features, generator)
        objective = Objective(TARGETS_BY_NAME[self.prediction_type])
        return Flow(network, path, n_features, *solution, objective, probes)

    def _betas(self) -> Tensor:
        if isinstance(self.beta_schedule, str):
            return BETA_SCHEDULES[self.beta_schedule](self.n_timesteps)
        betas = torch.tensor(np.asarray(self.beta_schedule, dtype=np.float64))
        if betas.shape != (self.n_timesteps,) or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"beta_schedule must hold n_timesteps={self.n_timesteps} numbers between 0 and 1, "
                f"got {np.array2string(betas.numpy(), threshold=8)} of shape {tuple(betas.shape)}."
            )
        return betas

    def _default_sampler(self) -> str:
        return self.sampler

    def _default_n_steps(self, sampler: str) -> int:
        if sampler == self.sampler and self.n_sampling_steps is not None:
            return self.n_sampling_steps
        if sampler in DIFFUSION_SAMPLERS:
            return DIFFUSION_SAMPLERS[sampler].n_steps or self.n_timesteps
        return super()._default_n_steps(sampler)

    def _own_samplers(self, sampler: str, n_steps: int) -> DiffusionSampler | Sampler | None:
        if sampler not in DIFFUSION_SAMPLERS:
            return None
        spacing = IMAGE_SPACING if self._images else DiffusionSampler.spacing
        return DiffusionSampler(sampler, n_steps, self.posterior_variance, spacing)

    def add_noise(self, X: Any, step: int, random_state: Any = None) -> np.ndarray:
        """Carry rows forward along the chain, as training does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        step : int
            Step k of the chain, from 0, the data, to ``n_timesteps``.
        random_state : int, RandomState instance or None, default=None
            As in `sample`.

        Returns
        -------
        X_noisy : ndarray of shape (n_samples, n_features)
            A draw of :math:`x_k`, mapped back to the units of X.
        """
        check_is_fitted(self)
        path = cast(SchedulePath, self._model.path)
        check_scalar(step, "step", Integral, min_val=0, max_val=path.n_timesteps)
        generator = self._generator(random_state, self._place_module())
        alpha, sigma = path.levels(step)
        density, d = self._density, self.n_features_in_

        def carry(rows: Tensor) -> Tensor:
            z = density.precondition(self._unfold(rows))[0][:, :d]
            noise = standard_normal(len(z), z, generator)
            return self._fold(density.bijection.inverse(alpha * z + sigma * noise))

        return self._by_chunks(X, carry)

    def bits_per_dimension(self, X: Any, y: Any = None, random_state: Any = None) -> np.ndarray:
        r"""Bits for each number of a row, as likelihoods of images are reported.

        .. math:: -\log_2 p(x) / d

        Rows of a whole-number type, such as uint8, get uniform noise in [-1/2, 1/2): the mean is
        then an upper bound of the bits that the whole numbers take (Jensen). It is lowest for
        generators fitted to images with such noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise; None uses the estimator's ``random_state``.

        Returns
        -------
        bits : ndarray of shape (n_samples,)

        References
        ----------
        Theis, van den Oord and Bethge, "A note on the evaluation of generative models", 2016.
        """
        check_is_fitted(self)
        generator, d = self._generator(random_state, self._place_module()), self.n_features_in_
        noisy = np.asarray(to_array(X)).dtype.kind in "ui" and not self._supports.discrete

        def log_density(rows: Tensor) -> Tensor:
            if noisy:
                noise = torch.rand(
                    len(rows), d, generator=generator, dtype=rows.dtype, device=rows.device
                )
                rows = join(rows[:, :d] + noise - 0.5, rows[:, d:])
            return self.module_.log_prob(rows)

        return -self._by_chunks(X, log_density, y) / (d * math.log(2))

    def to_diffusers(self) -> Any:
        """Pipeline of diffusers with the U-Net and the chain, which samples by itself.

        Its ``save_pretrained(folder)`` writes files that ``DDPMPipeline.from_pretrained(folder)``
        and `from_diffusers` read. It gives images in [0, 1], from the darkest to the brightest
        value of the training images, with as many ``num_inference_steps`` as ``n_timesteps`` by
        the ancestral sampler, and by any other scheduler of diffusers with its ``from_config``.

        Returns
        -------
        pipeline : diffusers.DDPMPipeline
            With copies of the weights.

        Raises
        ------
        ValueError
            If the network is not a U-Net, the fit was conditional, or images had to be padded:
            pipelines know neither conditions nor padding.
        """
        return to_pipeline(self)

    @classmethod
    def from_diffusers(
        cls,
        pipeline: Any,
        *,
        value_range: tuple[float, float] = (0, 255),
        image_dtype: Any = np.uint8,
        **parameters: Any,
    ) -> Self:
        """Fitted generator with the U-Net and the chain of a pipeline of diffusers.

        Parameters
        ----------
        pipeline : DiffusionPipeline, str or Path
            With a ``UNet2DModel`` and a scheduler that has ``betas``; or the folder, or the name on
            the Hugging Face Hub, of such a pipeline.
        value_range : (low, high), default=(0, 255)
            Values of X that the pipeline takes for -1 and 1.
        image_dtype : dtype, default=numpy.uint8
            Type of the samples.
        **parameters
            Of the generator, such as ``sampler`` or ``warm_start``, except for those that the
            pipeline decides.

        Returns
        -------
        generator : DDPMGenerator
            Samples and gives log-densities; `fit` trains it on if ``warm_start=True``.

        Raises
        ------
        ValueError
            If the pipeline is of another kind, or a parameter is invalid.
        """
        return from_pipeline(cls, pipeline, value_range, image_dtype, parameters)

    def elbo(
        self, X: Any, y: Any = None, random_state: Any = None, *, n_draws: int = 1
    ) -> np.ndarray:
        """Variational lower bound of the log-density of each row under the chain.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            As in `score_samples`.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise.
        n_draws : int, default=1
            Draws of the noise of each step. With one, the bound of a row has a standard error of
            about two nats, that of the mean of a thousand rows of 0.05.

        Returns
        -------
        bound : ndarray of shape (n_samples,)
            Nats, in the units of X; of the chain alone, without its defence.

        References
        ----------
        Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020.
        """
        check_is_fitted(self)
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        generator = self._generator(random_state, self._place_module())
        density, d = self._density, self.n_features_in_

        def bound(rows: Tensor) -> Tensor:
            z, log_det = density.precondition(self._unfold(rows))
            flow = self._model.given(z[:, d:])
            draws = [
                chain_bound(flow, z[:, :d], self.posterior_variance, generator, 1 / n_draws)
                for _ in range(n_draws)
            ]
            return torch.stack(draws).mean(0) + log_det

        return self._by_chunks(X, bound, y)
