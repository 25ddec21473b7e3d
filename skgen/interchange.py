"""Image diffusions as pipelines of diffusers, and back."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .base import resolve_device
from .core.marginals import Scaling
from .core.models import Mixture, Preconditioned
from .core.unet import PREDICTIONS, UNetVelocity, import_diffusers
from .image_rows import ImageDensity
from .supports import declared_supports

PREDICTION_TYPES = {"epsilon": "noise", "v_prediction": "velocity", "sample": "data"}
VARIANCES = {"fixed_large": "beta", "fixed_small": "beta_tilde"}
OWN_SETTINGS = ("in_channels", "out_channels", "sample_size")  # that image_shape decides
FROM_PIPELINE = (
    "n_timesteps", "beta_schedule", "prediction_type", "posterior_variance", "denoiser",
    "image_shape", "unet_params", "conditional", "bounds", "periodic", "discrete",
)  # fmt: skip


def to_pipeline(estimator: Any) -> Any:
    """Pipeline with the U-Net and the chain of a fitted diffusion of images."""
    check_is_fitted(estimator)
    network = estimator._model.network
    if not isinstance(network, UNetVelocity):
        raise ValueError("Pipelines of diffusers have a U-Net: fit with image_shape.")
    if network.embedding is not None:
        raise ValueError(
            "The fit was conditional, and pipelines of diffusers for such U-Nets know no "
            "conditions. Fit with conditional=False."
        )
    if any(network.margins):
        n_levels = len(network.unet.config.block_out_channels)
        raise ValueError(
            f"Images of {network.image_shape[1]} x {network.image_shape[2]} pixels were padded, as "
            f"a U-Net of {n_levels} levels halves their sides {n_levels - 1} times. Pipelines of "
            "diffusers do not pad: choose unet_params with fewer levels."
        )
    diffusers = import_diffusers()
    unet = diffusers.UNet2DModel.from_config(network.unet.config)
    unet.load_state_dict(network.unet.state_dict())
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=network.schedule.n_timesteps,
        trained_betas=network.schedule.betas.tolist(),
        prediction_type=network.prediction,
        clip_sample=False,
        variance_type={ours: name for name, ours in VARIANCES.items()}[
            estimator.posterior_variance
        ],
    )
    return diffusers.DDPMPipeline(unet.eval(), scheduler)


def from_pipeline(
    kind: type[ImageDensity],
    pipeline: Any,
    value_range: tuple[float, float],
    image_dtype: Any,
    parameters: dict[str, Any],
) -> Any:
    """Fitted diffusion with the U-Net and the chain of a pipeline, or of the folder of one."""
    diffusers = import_diffusers()
    if isinstance(pipeline, str | PathLike):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(pipeline)
    unet = getattr(pipeline, "unet", None)
    if not isinstance(unet, diffusers.UNet2DModel):
        raise ValueError(
            "pipeline must be one of diffusers with a UNet2DModel as unet, its folder, or its name "
            f"on the Hub; got {pipeline!r:.200}."
        )
    decided = set(parameters) & set(FROM_PIPELINE)
    if decided:
        raise ValueError(f"{sorted(decided)} follow from the pipeline and cannot be given.")
    estimator: Any = kind(**_chain(pipeline.scheduler.config, pipeline.scheduler), **_images(unet))
    estimator.set_params(**parameters)
    estimator._validate_params()
    shape = estimator.image_shape
    estimator.device_ = resolve_device(estimator.device)
    estimator.n_features_in_ = math.prod(shape)
    estimator._images = True
    low, high = map(float, value_range)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range!r}.")
    estimator._image_range, estimator._image_dtype = (low, high), np.dtype(image_dtype)
    estimator._supports = declared_supports(estimator)
    generator = torch.Generator().manual_seed(0)
    row = torch.zeros(1, estimator.n_features_in_, dtype=torch.float32)
    model = estimator._build_model(row, generator, "scale")
    network = cast(UNetVelocity, model.network)
    network.unet.load_state_dict(unet.state_dict())
    network.prediction = pipeline.scheduler.config.prediction_type
    scaling = Scaling(torch.tensor([[low, high]], dtype=torch.float64))
    density = Preconditioned(scaling, model, estimator.n_features_in_)
    estimator.module_ = Mixture([density], [1.0])
    estimator.preconditioning_, estimator._fitted_params = "scale", estimator._model_params()
    estimator.n_iter_, estimator.loss_curve_, estimator.interrupted_ = 0, [], False
    estimator.validation_scores_ = estimator.best_validation_score_ = None
    return estimator


def _chain(config: Any, scheduler: Any) -> dict[str, Any]:
    """Parameters of the chain that a scheduler has."""
    if config.get("prediction_type") not in PREDICTIONS or not hasattr(scheduler, "betas"):
        raise ValueError(
            "The scheduler must have betas and a prediction_type out of "
            f"{sorted(PREDICTIONS)}, got a {type(scheduler).__name__} with "
            f"{config.get('prediction_type')!r}."
        )
    variance = config.get("variance_type") or "fixed_small"
    if variance not in VARIANCES:
        raise ValueError(
            f"variance_type of the scheduler must be one of {sorted(VARIANCES)}, got {variance!r}."
        )
    betas = scheduler.betas.double().numpy()
    return {
        "n_timesteps": len(betas),
        "beta_schedule": betas,
        "prediction_type": PREDICTION_TYPES[config.prediction_type],
        "posterior_variance": VARIANCES[variance],
    }


def _images(unet: Any) -> dict[str, Any]:
    """Parameters of the images and the network that a U-Net has."""
    config = unet.config
    size = config.sample_size
    if size is None or config.in_channels != config.out_channels:
        raise ValueError(
            "The U-Net must have a sample_size, and as many channels out as in, got "
            f"sample_size={size}, {config.in_channels} in and {config.out_channels} out."
        )
    if config.time_embedding_type != "positional" or unet.class_embedding is not None:
        raise ValueError(
            "The U-Net must embed times by their position and have no classes, got "
            f"time_embedding_type={config.time_embedding_type!r}, "
            f"class_embed_type={config.class_embed_type!r}, "
            f"num_class_embeds={config.num_class_embeds}."
        )
    sides = (size, size) if isinstance(size, int) else tuple(size)
    settings = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in OWN_SETTINGS
    }
    return {"image_shape": (config.in_channels, *sides), "unet_params": settings}
