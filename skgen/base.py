"""The door of every estimator: NumPy to tensors, device, seeds, chunks, pickling."""

from __future__ import annotations

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from .core.interfaces import Density, has_double
from .core.modes import default_modes
from .core.progress import RowBar
from .rows import check_n_samples, check_rows, wrap_samples
from .weights import check_weights, weighted_mean

# Rows a pass, fewer where they have many columns, which bounds memory; flows divide them further.
CHUNK_ROWS, CHUNK_NUMBERS = 2**14, 2**21


class MeanScoreMixin(DensityMixin):
    """`score` of an estimator that has `score_samples`."""

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        log_likelihood : float
            Mean of `score_samples` (nats), larger is better.
        """
        return weighted_mean(self.score_samples(X), sample_weight)


class BaseDensity(MeanScoreMixin, BaseEstimator, ABC):
    """Base of the density estimators.

    A subclass stores its parameters in ``__init__`` and implements `_fit_model`, which returns
    a model on tensors with ``log_prob`` and ``sample``; everything else is here.
    """

    _parameter_constraints: dict = {
        "device": [str, torch.device],
        "random_state": ["random_state"],
    }

    module_: Density

    @abstractmethod
    def _fit_model(
        self, x: Tensor, sample_weight: Tensor | None, generator: torch.Generator
    ) -> Density:
        """Fit to the rows ``x``, float64, and return the model."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the density to data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows: an array, a frame, a list or a torch tensor of finite numbers.
        y : None
            Ignored; present for compatibility with pipelines.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. An integer weight k is the same as k copies of the row.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or a parameter is invalid. The estimator then keeps its former state.
        """
        numbers = np.errstate(under="ignore")  # what is too small for one is 0, not an error
        with unchanged_on_error(self), default_modes(), numbers:
            X = check_rows(self, X, ensure_min_samples=2)
            if sample_weight is not None:
                sample_weight = check_weights(sample_weight, X)
            self._read_conditions(y, sample_weight)
            rows = self._rows_given(X, y, "y")
            if sample_weight is not None:
                rows, sample_weight = rows[sample_weight > 0], sample_weight[sample_weight > 0]
            self.device_ = resolve_device(self.device)
            x = torch.tensor(rows, dtype=torch.float64)
            weight = None if sample_weight is None else torch.tensor(sample_weight)
            if has_double(torch.device(self.device_)):  # else only training is there
                x = x.to(self.device_)
                weight = None if weight is None else weight.to(self.device_)
            seed = _draw_seed(self.random_state)
            generator = torch.Generator(x.device).manual_seed(seed)
            self.module_ = self._fit_model(x, weight, generator)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data. Computed in float32 if X has it, else in
            float64.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Natural logarithm of the density (nats, in the units of X), in the dtype of X.
        """
        return self._by_chunks(X, lambda x: self.module_.log_prob(x))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw new rows.

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
            Rows in the units of the training data, float64. A frame with the names of the
            training columns if ``set_output(transform="pandas")`` or ``"polars"`` is in force.
        """
        return self._draw(n_samples, random_state)

    @default_modes()
    def _draw(
        self,
        n_samples: int,
        random_state: Any,
        conditions: np.ndarray | None = None,
        density: Density | None = None,
    ) -> np.ndarray:
        """Draw rows given encoded conditions (n, k) in chunks, from the model if not another."""
        check_is_fitted(self)
        check_n_samples(n_samples)
        device, size = self._place_module(), self._chunk_rows
        generator = self._generator(random_state, device)
        density = self.module_ if density is None else density.to(device)
        parts = []
        with torch.inference_mode(), self._row_bar(n_samples) as bar:
            for start, end in bar.chunks(size):
                given = None
                if conditions is not None:
                    given = torch.tensor(conditions[start:end], device=device)
                parts.append(density.sample(end - start, generator, given).cpu().numpy())
        return wrap_samples(self, self._finished(np.concatenate(parts)))

    @property
    def _chunk_rows(self) -> int:
        return min(CHUNK_ROWS, max(256, CHUNK_NUMBERS // self.n_features_in_))

    def _row_bar(self, n_rows: int) -> RowBar:
        return row_bar(n_rows, getattr(self, "verbose", 0))

    def _finished(self, X: np.ndarray) -> np.ndarray:
        """Drawn rows as the user gets them."""
        return X

    def _read_conditions(self, y: Any, sample_weight: np.ndarray | None) -> None:
        """Learn to encode conditions, for densities that have some."""

    def _rows_given(self, X: np.ndarray, y: Any, name: str) -> np.ndarray:
        """Rows to fit, ending with encoded conditions, called so, for densities that have some."""
        return X

    def _rows(self, X: np.ndarray, y: Any) -> np.ndarray:
        """Rows to evaluate, ending with encoded conditions for densities that have some."""
        return X

    def _generator(self, random_state: Any, device: torch.device) -> torch.Generator:
        source = self.random_state if random_state is None else random_state
        return torch.Generator(device).manual_seed(_draw_seed(source))

    @default_modes()
    def _by_chunks(
        self, X: Any, function: Callable[[Tensor], Tensor], y: Any = None, named: bool = True
    ) -> np.ndarray:
        """Apply a row-wise function of tensors to validated rows, with bounded memory."""
        check_is_fitted(self)
        X = self._rows(check_rows(self, X, named, reset=False), y)
        device = self._place_module()
        with torch.inference_mode(), self._row_bar(len(X)) as bar:
            parts = [
                function(torch.tensor(X[start:end], device=device))
                for start, end in bar.chunks(self._chunk_rows)
            ]
        return torch.cat(parts).cpu().numpy()

    def _place_module(self) -> torch.device:
        """Move the model to the device of the fit, if it is there, and return the device used."""
        device = torch.device(self.device_)
        if device.type != "cpu" and str(device) not in available_devices():
            warnings.warn(
                f"The estimator was fitted on device {self.device_!r}, which this machine does "
                "not have; it is evaluated on the CPU.",
                UserWarning,
                stacklevel=4,
            )
            self.device_ = "cpu"
            device = torch.device("cpu")
        if not has_double(device):
            device = torch.device("cpu")
        self.module_.to(device)
        return device

    def __getstate__(self) -> dict:
        """State with the weights on the CPU, so that it loads on any machine."""
        state = super().__getstate__()
        if "module_" in state and state.get("device_", "cpu") != "cpu":
            state["module_"] = copy.deepcopy(state["module_"]).to("cpu")
        return state


def available_devices() -> list[str]:
    """Names of the devices PyTorch can use here."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices += ["mps"]
    return devices


def resolve_device(device: str | torch.device) -> str:
    """Name of a device that is there; ``"auto"`` is the GPU if there is one, else the CPU."""
    devices = available_devices()
    if str(device) == "auto":
        return "cuda" if "cuda" in devices else "cpu"
    if str(device) not in devices:
        raise ValueError(
            f"device={str(device)!r} is not available; the devices here are {devices}, or 'auto'."
        )
    return str(device)


def row_bar(n_rows: int, verbose: int, unit: str = "rows") -> RowBar:
    """Progress bar of rows, or what else is drawn or evaluated one by one."""
    return RowBar(n_rows, verbose, unit)


def draw_rows(density: Any, n_samples: int, seed: int) -> np.ndarray:
    """Sample a density, whichever of the conventions of `sample` it follows."""
    if isinstance(density, FrozenEstimator):
        density = density.estimator
    if not hasattr(density, "sample"):
        raise AttributeError(f"{density!r} has no method sample.")
    if "random_state" in inspect.signature(density.sample).parameters:
        rows = density.sample(n_samples, random_state=seed)
    else:
        rows = copy.copy(density).set_params(random_state=seed).sample(n_samples)
    return np.asarray(rows[0] if isinstance(rows, tuple) else rows)


def _draw_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def lent(estimator: BaseEstimator, **attributes: Any) -> Iterator[None]:
    """Let the estimator have attributes while it is fitted: what methods in between do not take."""
    vars(estimator).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            delattr(estimator, name)


@contextmanager
def unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """Put the estimator back to its former state if fitting fails."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        # What scikit-learn's callbacks keep here while fitting, it removes itself afterwards.
        kept = {k: v for k, v in estimator.__dict__.items() if "callback" in k}
        estimator.__dict__.clear()
        estimator.__dict__.update(before | kept)
        raise
