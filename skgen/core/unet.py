"""Velocity network for images: the U-Net of diffusers behind the face of the other networks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .divergence import exact_divergence
from .networks import Field, Network
from .paths import LinearPath
from .schedules import SchedulePath

_process_lock = threading.Lock()


def unet_settings(
    image_shape: tuple[int, int, int], sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Arguments of ``diffusers.UNet2DModel`` that suit images (C, H, W) of this size.

    Parameters
    ----------
    image_shape : tuple of three int
    sizes : sequence of int, optional
        Channels of the levels, each of which halves the sides. By default there are two levels for
        sides up to 15, three up to 47, else four: 0.65, 2.5 and 12.8 million parameters.

    Returns
    -------
    dict
    """
    channels, height, width = image_shape
    side = max(height, width)
    if sizes is None:
        sizes = (32, 64) if side < 16 else (32, 64, 128) if side < 48 else (64, 128, 128, 256)
    # The middle always attends. Above it, attention costs a large image little next to the rest.
    attends = [side >= 48 and math.ceil(side / 2**k) <= 16 for k in range(len(sizes))]
    return {
        "sample_size": (height, width),
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": tuple(sizes),
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": min(32, min(sizes)),
    }


def _of_noise(noise: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (sigma * x - noise) / alpha


def _of_velocity(velocity: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return -velocity


def _of_data(data: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (data - alpha * x) / sigma


# What a U-Net may give, by the names of diffusers, and the angular velocity
# ``sigma data - alpha noise`` that follows from it at ``x = alpha data + sigma noise``.
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": _of_noise,
    "v_prediction": _of_velocity,
    "sample": _of_data,
}


class UNetVelocity(Network):
    """Excess velocity of the straight path, of images as rows, by ``diffusers.UNet2DModel``.

    The U-Net u sees an image as the chain has it, and as time the number of the step::

        e(x, t) = -u(x / s(t), k(t) - 1) / s(t)

    with the scale ``s(t)`` that normal data would have on the straight path at time t, and the
    step k, a real number, at which the chain has as much noise. Hence u learns the
    ``alpha noise - sigma data`` of the chain, which is the "v_prediction" of diffusers.

    The U-Net computes in float32; rows in float64 are rounded, and results cast back.

    Parameters
    ----------
    image_shape : tuple of three int
        Channels C, height H and width W of the images that rows of ``d = C H W`` are.
    schedule : SchedulePath
        The chain.
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    n_conditions : int
        Number k of columns that follow the images in all rows (n, d + k). A linear map takes them
        to the embedding of the time; all 0, they add nothing.
    settings : dict, optional
        Arguments of ``UNet2DModel`` in place of those of `unet_settings`. ``norm_num_groups``, by
        default 8, divides all ``block_out_channels``.
    autocast : torch.dtype, optional
        Of products and convolutions, such as torch.bfloat16. Divergences, and the velocity next to
        them, are computed without it.

    Attributes
    ----------
    unet : diffusers.UNet2DModel
    prediction : str
        Key of `PREDICTIONS`: what it gives.
    """

    unet: Any
    chunk = 100_000  # numbers of images that a CPU is given at a time; its cache holds no more

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        schedule: SchedulePath,
        generator: torch.Generator,
        n_conditions: int = 0,
        settings: dict[str, Any] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.schedule, self.autocast = tuple(image_shape), schedule, autocast
        self.n_features, self.straight = math.prod(image_shape), LinearPath()
        self.prediction = "v_prediction"
        settings = settings or {}
        chosen = unet_settings(image_shape, settings.get("block_out_channels")) | settings
        if n_conditions:
            chosen["class_embed_type"] = "identity"  # added to the embedding of the time
        self.unet, self.embedding = _build(chosen, n_conditions, generator)
        # Images are padded until every halving of the sides is exact.
        multiple = 2 ** (len(chosen["block_out_channels"]) - 1)
        margins = [-side % multiple for side in image_shape[:0:-1]]
        self.margins = [part for m in margins for part in (m // 2, m - m // 2)]

    def time_features(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Step and coefficients of the chain (n, 3), and the factor ``1 / s(t)`` (n, 1)."""
        scale = self.straight.gaussian_scale(t)
        alpha, sigma = (part / scale for part in self.straight.coefficients(t))
        step = self.schedule.step_at(alpha, sigma)
        _, least = self.schedule.levels(1)
        weakest, _ = self.schedule.levels(self.schedule.n_timesteps)
        parts = step - 1, alpha.clamp(min=weakest), sigma.clamp(min=least)
        return torch.cat(parts, dim=1), 1 / scale

    def forward(self, x: Tensor, features: Tensor, zoom: Tensor) -> Tensor:
        """Excess velocity (n, d) of rows (n, d + k) at times given by their features."""
        rows, conditions = x[:, : self.n_features], x[:, self.n_features :]
        step, alpha, sigma = features.split(1, dim=1)
        position = zoom * rows
        images = pad(position.float().view(-1, *self.image_shape), self.margins)
        # Forward derivatives do not go through mixed precision, and would be too rough; nor do
        # they go through norms of images whose channels come last.
        plain = torch._C._are_functorch_transforms_active()
        if x.is_cuda and not plain:
            images = images.to(memory_format=torch.channels_last)
        mixed = self.autocast is not None and not plain
        with torch.autocast(x.device.type, self.autocast, enabled=mixed):
            labels = None if self.embedding is None else self.embedding(conditions.float())
            (found,) = self.unet(images, step[:, 0].float(), labels, return_dict=False)
        cropped = pad(found, [-margin for margin in self.margins]).reshape(rows.shape).to(x.dtype)
        return zoom * PREDICTIONS[self.prediction](cropped, position, alpha, sigma)

    def field(
        self, dtype: torch.dtype, divergence: bool = False, times: Sequence[float] = ()
    ) -> Field:
        """See `Network.field`.

        The divergence is exact, by d Jacobian-vector products: for tiny images only.
        """

        @torch.no_grad()
        def excess(t: float, x: Tensor) -> Tensor:
            times = self.time_features(x.new_full((1, 1), t))
            rows, conditions = x[:, : self.n_features], x[:, self.n_features :]

            def call(moved: Tensor) -> Tensor:
                size = (
                    max(1, self.chunk // self.n_features) if moved.device.type == "cpu" else len(x)
                )
                parts = torch.cat([moved, conditions], dim=1).split(size)
                return torch.cat([self(part, *times) for part in parts]).to(dtype)

            return exact_divergence(call, rows) if divergence else call(rows)

        return excess


def import_diffusers() -> Any:
    """The package, or an error that says how to install it."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "Networks for images need diffusers. Install it by "
            'pip install "scikit-generative[images]".'
        ) from error
    return diffusers


def _build(
    settings: dict[str, Any], n_conditions: int, generator: torch.Generator
) -> tuple[nn.Module, nn.Linear | None]:
    """U-Net whose output is zero, and the embedding of conditions if there are any."""
    diffusers = import_diffusers()
    from diffusers.models import attention_processor as attention

    seed = int(torch.randint(2**62, (), generator=generator))
    # Layers draw their weights from the global generator, in the global type.
    with _process_lock, torch.random.fork_rng(devices=[]):
        dtype = torch.get_default_dtype()
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            unet = diffusers.UNet2DModel(**settings)
            width = unet.time_embedding.linear_2.out_features
            embedding = nn.Linear(n_conditions, width, bias=False) if n_conditions else None
        finally:
            torch.set_default_dtype(dtype)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    for module in unet.modules():
        if isinstance(module, attention.Attention):
            module.set_processor(attention.AttnProcessor())  # the fused has no forward derivative
            module.register_forward_hook(_in_order)
    return unet, embedding


def _in_order(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Attention leaves channels last, for which the norm after it has no forward derivative."""
    return output.contiguous()
