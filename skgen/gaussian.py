"""Maximum-likelihood normal distribution."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .base import BaseDensity
from .core.gaussian import Gaussian, column_moments, descend_gaussian, fit_gaussian
from .rows import describe_columns


class GaussianMLE(BaseDensity):
    r"""Multivariate normal density fitted by maximum likelihood.

    The mean is the (weighted) mean of the rows; the covariance, of the chosen form, is

    .. math::

        \hat\Sigma = \frac{1}{\sum_i w_i} \sum_i w_i (x_i - \hat\mu)(x_i - \hat\mu)^\top

    Parameters
    ----------
    covariance_type : {"full", "diag", "spherical", "white"}, default="full"
        Form of the covariance: any matrix, a diagonal one, one variance for all columns, or the
        identity (only the mean is fitted).
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariance, in units of each column's variance; keeps
        linearly dependent columns from making it singular.
    solver : {"closed_form", "sgd"}, default="closed_form"
        Formula, or stochastic gradient descent on the mean negative log-likelihood of the
        standardised rows, as a cross-check.
    learning_rate_init : float, default=0.1
        Step size of ``solver="sgd"``; decays linearly to 0 over the second half of the epochs.
    batch_size : int, default=200
        Rows a step of ``solver="sgd"``.
    max_iter : int, default=500
        Passes over the data of ``solver="sgd"``.
    device : str, default="auto"
        Where to compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for a GPU if
        there is one.
    random_state : int, RandomState instance or None, default=None
        Order of the rows in ``solver="sgd"`` and, where `sample` is given none, the draw.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Fitted mean, in the units of X.
    covariance_ : ndarray of shape (n_features, n_features)
        Fitted covariance, in squared units of X.
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
    FlowMatchingDensity : A density of any shape.
    sklearn.covariance.EmpiricalCovariance : Covariance alone.

    References
    ----------
    Bishop, "Pattern recognition and machine learning", 2006, section 2.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen import GaussianMLE
    >>> X = np.random.default_rng(0).normal([1, 2], size=(1000, 2))
    >>> density = GaussianMLE(covariance_type="white").fit(X)
    >>> density.mean_.round(1)
    array([1., 2.])
    >>> density.sample(3, random_state=0).shape
    (3, 2)
    """

    _parameter_constraints: dict = {
        **BaseDensity._parameter_constraints,
        "covariance_type": [StrOptions({"full", "diag", "spherical", "white"})],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions({"closed_form", "sgd"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        covariance_type="full",
        reg_covar=1e-6,
        solver="closed_form",
        learning_rate_init=0.1,
        batch_size=200,
        max_iter=500,
        device="auto",
        random_state=None,
    ):
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def _fit_model(
        self, x: Tensor, sample_weight: Tensor | None, generator: torch.Generator
    ) -> Gaussian:
        kind = self.covariance_type
        constant = (column_moments(x)[1] <= 0).nonzero()[:, 0].tolist()
        needed = {"white": 0, "spherical": 1}.get(kind, x.shape[1])  # columns that vary
        if x.shape[1] - len(constant) < needed:
            raise ValueError(
                f"Column(s) {describe_columns(self, constant)} of X are constant, so the density "
                f"with covariance_type={kind!r} does not exist. Drop them, or use "
                "covariance_type='white'."
            )
        try:
            if self.solver == "closed_form":
                model = fit_gaussian(x, sample_weight, kind, self.reg_covar)
            else:
                model = descend_gaussian(
                    x,
                    sample_weight,
                    kind,
                    self.reg_covar,
                    self.learning_rate_init,
                    self.batch_size,
                    self.max_iter,
                    generator,
                )
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "The columns of X are linearly dependent, so the covariance is singular. Use a "
                f"larger reg_covar than {self.reg_covar}, drop columns, or choose "
                "covariance_type='diag'."
            ) from error
        self.mean_ = model.mean.cpu().numpy()
        self.covariance_ = (model.scale_tril @ model.scale_tril.T).cpu().numpy()
        return model
