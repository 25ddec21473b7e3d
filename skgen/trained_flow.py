"""What the trained densities share that carry noise to data by an invertible map."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .core.interfaces import Bijection, Transport
from .trained import TrainedDensity


class TrainedFlow(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedDensity):
    """Base of the densities that carry noise to data by an invertible map."""

    def transform(self, X: Any) -> np.ndarray:
        """Carry rows back along the flow to noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Distributed like the base, standard normal by default, if X follows the flow; in the
            dtype of X.
        """
        return self._transform(X)

    def _transform(self, X: Any, y: Any = None) -> np.ndarray:
        check_is_fitted(self)
        density, flow = self._density, self._flow[1]
        return self._by_chunks(
            X,
            lambda rows: flow.transport(density.precondition(self._unfold(rows))[0], to_data=False),
            y,
        )

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Carry noise along the flow to data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Noise, standard normal by default, to sample from the flow.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            Rows in the units of the training data.
        """
        return self._inverse_transform(X)

    def _inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        check_is_fitted(self)
        bijection, flow = self._flow
        return self._by_chunks(
            X,
            lambda rows: self._fold(bijection.inverse(flow.transport(rows, to_data=True))),
            y,
            named=False,  # noise has no columns of the data
        )

    @property
    def _flow(self) -> tuple[Bijection, Transport]:
        """The preconditioner and the flow, without the defence."""
        return self._density.bijection, cast(Transport, self._density.model)

    @property
    def mixture_weights_(self) -> np.ndarray:
        """Weights of the flow, a Gaussian mixture, the flow's start, a Gaussian, other flows."""
        return self._mixture.weights.cpu().numpy()

    @property
    def _n_features_out(self) -> int:
        return self.n_features_in_
