"""Densities of tables whose rows are images: what differs from other tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .core.flow import Flow
from .core.gaussian import StandardNormal
from .core.interfaces import Density
from .core.models import Preconditioned
from .core.schedules import SchedulePath
from .core.training import Plan
from .core.unet import UNetVelocity
from .gaussian_mixtures import FEW_ROWS
from .path_density import PathDensity
from .rows import are_positive_ints, to_array

MAX_HELD_OUT = 256  # images; their loss would take longer than the training


class ImageDensity(PathDensity):
    """Base of the densities along a path that take rows as images and use a U-Net on them.

    Pixels are scaled together, not whitened; those that never vary are kept; there is no defensive
    mixture, and the loss on held-out rows with fixed noise is watched, not their log-density.
    """

    image_shape: Any
    denoiser: str
    _images = False  # whether the rows are, as the last fit has found

    def _read_images(self, X: Any) -> None:
        """Note whether rows are images, and in what numbers they come."""
        self._images = self.denoiser == "unet" or (
            self.denoiser == "auto" and self.image_shape is not None
        )
        if not self._images:
            return
        shape = self.image_shape
        sizes = () if shape is None else tuple(shape)
        if len(sizes) != 3 or not are_positive_ints(sizes):
            raise ValueError(
                f"denoiser='unet' needs image_shape=(C, H, W), three positive ints, got {shape!r}."
            )
        array = np.asarray(to_array(X))
        if array.ndim == 2 and array.shape[1] != math.prod(shape):
            raise ValueError(
                f"image_shape={tuple(shape)} has {math.prod(shape)} numbers, X {array.shape[1]} "
                "columns."
            )
        self._image_dtype = array.dtype if array.dtype.kind in "uif" else np.dtype(np.float64)

    def _unet(
        self, schedule: SchedulePath, generator: torch.Generator, settings: Any, dtype: str
    ) -> UNetVelocity:
        mixed = torch.bfloat16 if _mixed(dtype, self.device_, self.image_shape) else None
        shape = (int(self.image_shape[0]), int(self.image_shape[1]), int(self.image_shape[2]))
        return UNetVelocity(shape, schedule, generator, self._n_conditions, settings, mixed)

    @property
    def _max_held_out(self) -> int:
        return MAX_HELD_OUT if self._images else super()._max_held_out

    def _check_columns(self, x: Tensor) -> None:
        if not self._images:
            super()._check_columns(x)
        elif not bool((x != x[0]).any()):
            raise ValueError("All images of X are the same.")
        else:
            self._image_range = float(x.min()), float(x.max())

    def _gaussian(self, x: Tensor) -> Density:
        return StandardNormal(self.n_features_in_) if self._images else super()._gaussian(x)

    @property
    def _floor(self) -> float:
        return 0.0 if self._images else super()._floor

    def _kinds(self) -> list[str]:
        return ["scale"] if self._images else super()._kinds()

    def _plan(self, n_rows: int = FEW_ROWS) -> Plan:
        plan = super()._plan(FEW_ROWS if self._images else n_rows)
        small = self.n_features_in_ < 256
        batch, rate = (64, 3e-3 if small else 1e-3) if self._images else (512, 3e-3)
        if self._images and self.max_iter == "auto":
            plan = replace(plan, max_iter=5_000, round_length=5_000 // plan.n_rounds)
        return replace(
            plan,
            batch_size=batch if self.batch_size == "auto" else self.batch_size,
            accumulation=self.gradient_accumulation_steps,
            learning_rate=rate if self.learning_rate_init == "auto" else self.learning_rate_init,
        )

    def _validation(
        self, density: Preconditioned, gaussian: Density, x_held: Tensor, seed: int
    ) -> Callable[[], float]:
        if not self._images:
            return super()._validation(density, gaussian, x_held, seed)
        flow = density.model
        assert isinstance(flow, Flow)
        z = density.precondition(x_held)[0].to(self.device_, torch.float32)
        # Its logarithm, so that progress is measured in proportion.
        return lambda: -math.log(flow.frozen_loss(z, seed))

    def _complete(self, X_partial: Any, random_state: Any, n_proposals: int, y: Any = None) -> Any:
        if self._images:
            raise ValueError(
                "sample_given proposes from a Gaussian mixture, which a U-Net does not have; use "
                "denoiser='mlp'."
            )
        return super()._complete(X_partial, random_state, n_proposals, y)

    def _finished(self, X: np.ndarray) -> np.ndarray:
        """Samples in the range and the type of the training images."""
        if not self._images:
            return X
        X = np.clip(X, *self._image_range)
        return (X.round() if self._image_dtype.kind in "ui" else X).astype(self._image_dtype)


def _mixed(dtype: str, device: str, image_shape: Any) -> bool:
    """Whether to compute in bfloat16: "auto" where that is faster."""
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    fast = device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(fast) and max(image_shape[1:]) >= 16
