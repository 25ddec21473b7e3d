"""Densities made of densities; only their public methods are used."""

from __future__ import annotations

import warnings
from math import ceil
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.model_selection import KFold, ShuffleSplit, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted
from typing_extensions import Self

from .base import MeanScoreMixin, row_bar, unchanged_on_error
from .exceptions import TrainingWarning
from .flow_matching import FlowMatchingDensity
from .gaussian_mixtures import (
    FEW_ROWS,
    FORMS,
    FORMS_OF_FEW,
    N_FOLDS,
    VERY_FEW_ROWS,
    candidates,
)
from .member_fits import Fit, fit_members
from .members import Mean, Standardized, draw, log_densities
from .mixing import mixture_weights
from .realnvp import RealNVPDensity
from .rows import check_n_samples, check_rows, refuse_constant_columns, wrap_samples
from .weights import check_weights

N_SPLITS = 2  # random ones of many rows
N_TENTHS = 4  # held out of very few


class StackedDensity(MeanScoreMixin, _BaseComposition):
    r"""Mixture of density estimators with weights found on rows they have not seen.

    .. math:: \log p(x) = \log \sum_k w_k\, p_k(x)

    The weights maximise the likelihood of held-out rows, and of one row more that belongs to the
    first member whose mean log-density is within one standard error of the best, so the mixture is
    about as good as its best member, and better where the members fail on different rows. It is
    normalised, exact and can be sampled like any density.

    Parameters
    ----------
    estimators : list of (str, estimator), default=None
        Members: anything with ``fit``, ``score_samples`` (the log-density in nats, in the units of
        X) and, to sample, ``sample``, such as those of skgen, `GaussianMixture` and
        `KernelDensity`; simpler ones should come first. None takes a stack of Gaussian mixtures of
        several forms with 1 to 64 components (where there are 20 rows a component), each the mean
        over five folds; `FlowMatchingDensity` on whitened and on Gaussianised columns; and
        `RealNVPDensity`, of more than two columns by halves and by thirds.
    cv : "auto", int, cross-validation generator, iterable or None, default="auto"
        How to split the rows: members are fitted to one part, and the weights come from their
        densities on the other. None is one split, an int so many folds. "auto" is four of ten
        random folds up to 500 rows, five folds up to 2,000, and two random splits of more. Members
        whose ``fit`` takes ``X_val``, such as those of skgen, are given the rows that each of
        several splits holds out, and hold out none of their own.
    ensemble : bool, default=True
        Whether the members of all splits are kept, with the mean of their densities; that is
        better than any of them, with few rows far better. False fits the members again, to all
        rows.
    validation_fraction : float, default=0.1
        Share of the rows that a random split holds out.
    min_weight : float, default=0.001
        Least weight of a member.
    n_jobs : int, default=None
        Number of members fitted in parallel; None means 1.
    verbose : int, default=0
        1 shows a progress bar of the members, 2 also a line for each, on standard error.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, of members without a ``random_state`` of their own and, where `sample` is
        given none, of the draw.

    Attributes
    ----------
    estimators_ : list of estimator
        The fitted members; where those of several splits are kept, each is the mean of their
        densities, with their list as its ``estimators_``.
    named_estimators_ : Bunch
        The same by name.
    weights_ : ndarray of shape (n_members,)
        Weights of the members in the mixture.
    interrupted_ : bool
        Whether Ctrl-C cut the fit short. The members are then those of the splits that were
        finished or, if none was, those that were fitted to the first.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had some.

    See Also
    --------
    FlowMatchingDensity : One flow.

    References
    ----------
    Smyth and Wolpert, "Linearly combining density estimators via stacking", 1999.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from sklearn.neighbors import KernelDensity
    >>> from skgen.compose import StackedDensity
    >>> from skgen.datasets import TwoMoons
    >>> X = TwoMoons().sample(1000, random_state=0)
    >>> members = [("mixture", GaussianMixture(8)), ("kernel", KernelDensity(bandwidth=0.1))]
    >>> density = StackedDensity(estimators=members, random_state=0).fit(X)
    >>> density.weights_.shape
    (2,)
    >>> density.sample(5).shape
    (5, 2)
    """

    _parameter_constraints: dict = {
        "estimators": [list, None],
        "cv": ["cv_object", StrOptions({"auto"}), None],
        "ensemble": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "min_weight": [Interval(Real, 0, 0.5, closed="left")],
        "n_jobs": [None, Integral],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        estimators=None,
        cv: Any = "auto",
        ensemble=True,
        validation_fraction=0.1,
        min_weight=1e-3,
        n_jobs=None,
        verbose=0,
        random_state=None,
    ):
        self.estimators = estimators
        self.cv = cv
        self.ensemble = ensemble
        self.validation_fraction = validation_fraction
        self.min_weight = min_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the members and find their weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows of finite numbers.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. An integer weight k is the same as k copies of the row, kept on
            the same side of every split.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X, a parameter or a member is invalid. The estimator then keeps its former state.
        """
        with unchanged_on_error(self), np.errstate(under="ignore"):
            X = check_rows(self, X, ensure_min_samples=2)
            refuse_constant_columns(self, np.flatnonzero(np.ptp(X, axis=0) == 0))
            if sample_weight is not None:
                sample_weight = check_weights(sample_weight, X)
            rng = check_random_state(self.random_state)
            members = self._members(len(X), rng)
            weight = np.ones(len(X)) if sample_weight is None else sample_weight
            splits = self._splits(X, rng)
            fits, self.interrupted_ = fit_members(
                members, X, weight, splits, self.n_jobs, self.verbose
            )
            names, by_split = _by_split(list(members), fits)
            held = np.concatenate([rows for _, rows in splits[: len(by_split)]])
            columns = [np.column_stack([fit.held_out for fit in part]) for part in by_split]
            self.weights_ = mixture_weights(
                np.concatenate(columns),
                None if sample_weight is None else sample_weight[held],
                self.min_weight,
                prior="first",
            )
            if not self.ensemble and not self.interrupted_:
                fits, self.interrupted_ = fit_members(
                    members, X, weight, [(slice(None),)], self.n_jobs, self.verbose
                )
                by_split = by_split if self.interrupted_ else [fits]
            if self.interrupted_:
                warnings.warn(
                    f"The fit was interrupted; the density is made of {len(names)} of "
                    f"{len(members)} members, fitted to {len(by_split)} of {len(splits)} splits.",
                    TrainingWarning,
                    stacklevel=3,
                )
            self.estimators_ = [
                fits[0].member if len(fits) == 1 else Mean([fit.member for fit in fits])
                for fits in zip(*by_split, strict=True)
            ]
            self.named_estimators_ = Bunch(**dict(zip(names, self.estimators_, strict=True)))
        return self

    def _members(self, n_samples: int, rng: np.random.RandomState) -> dict[str, Any]:
        pairs = self.estimators
        if pairs is None:
            pairs = default_members(n_samples, self.n_features_in_)
        if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(
                f"estimators must be a non-empty list of (name, estimator) pairs, got {pairs!r}."
            )
        self._validate_names([name for name, _ in pairs])
        members = {}
        for name, estimator in pairs:
            if isinstance(estimator, Pipeline):
                raise ValueError(
                    f"Member {name!r} is a Pipeline, whose score_samples is not a density in the "
                    "units of X: it leaves out how its transformers change volumes."
                )
            for method in ("fit", "score_samples"):
                if not hasattr(estimator, method):
                    raise ValueError(
                        f"Member {name!r} ({estimator!r}) is not a density estimator: it has no "
                        f"{method}."
                    )
            member = clone(estimator)
            seeds = {
                key: int(rng.randint(2**31 - 1))
                for key, value in sorted(member.get_params().items())
                if value is None and key.split("__")[-1] == "random_state"
            }
            members[name] = member.set_params(**seeds)
        return members

    def _splits(self, X: np.ndarray, rng: np.random.RandomState) -> list:
        """Pairs of the rows to fit on and the rows to find the weights on."""
        cv, auto = self.cv, isinstance(self.cv, str)
        if auto and 10 <= len(X) <= VERY_FEW_ROWS:
            cv = [*KFold(10, shuffle=True, random_state=rng).split(X)][:N_TENTHS]
        elif auto and N_FOLDS <= len(X) <= FEW_ROWS:
            cv = KFold(N_FOLDS, shuffle=True, random_state=rng)
        elif auto or cv is None:
            n_splits, share = N_SPLITS if auto else 1, self.validation_fraction
            n_left = len(X) - ceil(share * len(X))
            if n_left < 2:
                raise ValueError(
                    f"validation_fraction={share} of {len(X)} rows leaves {n_left} to fit members "
                    "to; 2 are needed. Reduce it."
                )
            cv = ShuffleSplit(n_splits, test_size=share, random_state=rng)
        places = np.arange(len(X))
        splits = [tuple(places[rows] for rows in split) for split in check_cv(cv).split(X)]
        sizes = [tuple(map(len, split)) for split in splits]
        if not splits or not all(map(all, sizes)):
            raise ValueError(
                "cv must give splits into rows to fit members to and rows to find the weights on, "
                f"got splits of {sizes} rows."
            )
        return splits

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Natural logarithm of the density (nats, in the units of X), in the dtype of X.
        """
        check_is_fitted(self)
        X = check_rows(self, X, reset=False)
        # Weights may be 0, and densities too small for numbers, more so those of float32.
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            with row_bar(len(self.estimators_), self.verbose, "members") as bar:
                columns = log_densities((self.estimators_[k] for k, _ in bar.chunks(1)), X)
            return logsumexp(columns + np.log(self.weights_), axis=1).astype(X.dtype)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw new rows: first the member of each, then the row.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draw. None uses the estimator's ``random_state``: if that is an int,
            every call returns the same rows.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data.
        """
        check_is_fitted(self)
        check_n_samples(n_samples)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return wrap_samples(self, draw(self.estimators_, self.weights_, n_samples, rng))

    def get_params(self, deep: bool = True) -> dict:
        """Parameters of the mixture and, by ``name__parameter``, of its members.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the members and their parameters.

        Returns
        -------
        params : dict
            Parameter names and values.
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the mixture or, by ``name__parameter``, of its members.

        Parameters
        ----------
        **params : dict
            Parameter names and values; a member's name replaces the member.

        Returns
        -------
        self : object
            This estimator.
        """
        return self._set_params("estimators", **params)


def default_members(n_samples: int, n_features: int) -> list[tuple[str, BaseEstimator]]:
    """Members of ``StackedDensity()`` for so many rows and columns.

    Parameters
    ----------
    n_samples : int
        Number of training rows.
    n_features : int
        Number of columns. Some hundred of them limit the sizes of the Gaussian mixtures.

    Returns
    -------
    estimators : list of (str, estimator)
        A stack of Gaussian mixtures of several sizes, and three flows, of more than two columns
        four.

    Examples
    --------
    >>> from skgen.compose import default_members
    >>> [name for name, _ in default_members(100, 3)]
    ['mixtures', 'standardized_flow', 'gaussianized_flow', 'coupling', 'coupling_of_thirds']
    """
    # Cheap enough for the means of five folds, with weights from all rows.
    folds = KFold(N_FOLDS, shuffle=True, random_state=0) if n_samples > 4 * N_FOLDS else None
    forms = FORMS_OF_FEW if n_samples <= FEW_ROWS else FORMS
    mixtures = StackedDensity(
        estimators=list(candidates(n_samples, n_features, forms).items()), cv=folds, min_weight=1e-4
    )
    members = [
        ("mixtures", Standardized(mixtures)),
        ("standardized_flow", FlowMatchingDensity(preconditioning="standardize")),
        ("gaussianized_flow", FlowMatchingDensity(preconditioning="gaussianize")),
        ("coupling", RealNVPDensity()),
    ]
    if n_features > 2:  # two have no thirds
        members.append(("coupling_of_thirds", RealNVPDensity(n_groups=3)))
    return members


def _by_split(names: list[str], fits: list[Fit]) -> tuple[list[str], list[list[Fit]]]:
    """Fits by finished splits, or what there is of the first, and the names of their members."""
    if not fits:  # nothing to keep
        raise KeyboardInterrupt
    n = len(names)
    n_splits = (len(fits) - fits[-1].interrupted) // n
    if not n_splits:
        return names[: len(fits)], [fits]
    return names, [fits[i * n : (i + 1) * n] for i in range(n_splits)]
