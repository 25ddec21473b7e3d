"""How images become features: the networks and functions that `image_features` takes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_scalar
from torch import Tensor

from ..base import resolve_device, row_bar
from ..rows import to_array
from .images import Range, check_range, check_rows, import_extra, to_images, to_uint8

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extraction:
    """Images to features: the parameters of `image_features`, and a call on X."""

    image_shape: tuple[int, ...] | None
    extractor: Any
    value_range: Range | None
    device: str | torch.device
    batch_size: int
    verbose: int

    def __post_init__(self) -> None:
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        if not callable(self.extractor) and self.extractor != "inception":
            raise ValueError(
                "feature_extractor must be 'inception', a torch.nn.Module or a callable, got "
                f"{self.extractor!r}."
            )

    @property
    def on_images(self) -> bool:
        """Whether a network sees images; otherwise a function sees rows."""
        return isinstance(self.extractor, torch.nn.Module) or not callable(self.extractor)

    def __call__(self, X: Any, name: str) -> np.ndarray:
        if not self.on_images:
            if is_folder(X):
                raise ValueError("A function of rows cannot read a folder; pass an array.")
            rows = check_rows(X, name)
            return _one_row_each(np.asarray(to_array(self.extractor(rows))), len(rows))
        device = resolve_device(self.device)
        if is_folder(X):
            return self._of_folder(Path(X), device)
        return self._of_rows(check_rows(X, name), name, device)

    def _of_rows(self, X: np.ndarray, name: str, device: str) -> np.ndarray:
        if self.image_shape is None:
            raise ValueError("image_shape is needed: (height, width) or (channels, height, width).")
        value_range = check_range(X, self.value_range, name)
        parts, bar = [], row_bar(len(X), self.verbose, "images")
        with _network(self.extractor, device) as network, torch.no_grad(), bar:
            for start, end in bar.chunks(self.batch_size):
                images = to_images(X[start:end], self.image_shape, value_range, name)
                if self.extractor == "inception":
                    images = _resized(to_uint8(images))
                x = torch.from_numpy(images.astype(np.float32)).to(device)
                parts.append(network(x).cpu().numpy())
        return _one_row_each(np.concatenate(parts), len(X))

    def _of_folder(self, folder: Path, device: str) -> np.ndarray:
        cleanfid = import_extra("cleanfid.fid")
        extensions = {f".{extension}" for extension in cleanfid.EXTENSIONS}
        if not any(path.suffix in extensions for path in folder.rglob("*")):
            raise ValueError(f"{folder} is not a folder with images.")
        resized = self.extractor == "inception"
        with _network(self.extractor, device) as network:
            features = cleanfid.get_folder_features(
                str(folder),
                network if resized else lambda x: network(x / 255),
                custom_fn_resize=None if resized else lambda image: image,
                batch_size=self.batch_size,
                num_workers=0,
                device=torch.device(device),
                verbose=bool(self.verbose),
            )
        return _one_row_each(features, len(features))


def is_folder(X: Any) -> bool:
    """Whether images are given by the path of their folder."""
    return isinstance(X, str | Path)


def _one_row_each(features: np.ndarray, n: int) -> np.ndarray:
    if features.ndim != 2 or len(features) != n:
        raise ValueError(
            f"feature_extractor must return an array of shape ({n}, n_features) for {n} images, "
            f"got {features.shape}."
        )
    return features


def check_inside(X_real: Any, value_range: Range | None) -> None:
    """Refuse real images that a wrong range would clip, but for a margin for rounding."""
    X = check_rows(X_real, "X_real")
    low, high = check_range(X, value_range, "X_real")
    margin = 0.01 * (high - low)
    if X.min() < low - margin or X.max() > high + margin:
        raise ValueError(
            f"X_real has values from {float(X.min()):g} to {float(X.max()):g}, outside of "
            f"value_range=({low:g}, {high:g})."
        )


@contextmanager
def _network(extractor: Any, device: str) -> Iterator[Network]:
    """Network of an extractor on a device, in evaluation mode; a module is restored at the end."""
    if extractor == "inception":
        yield _inception(device)
        return
    training = {module: module.training for module in extractor.modules()}
    tensors = [*extractor.parameters(), *extractor.buffers()]
    before = tensors[0].device if tensors else device
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    try:
        extractor.to(device).eval()
        yield lambda x: extractor(x.to(dtype)).flatten(1).float()
    finally:
        extractor.to(before)
        for module, mode in training.items():
            module.training = mode


def _resized(images: np.ndarray) -> np.ndarray:
    """Images (n, channels, h, w) of uint8 as clean-fid's (n, 3, 299, 299) from 0 to 255."""
    resize = import_extra("cleanfid.resize").build_resizer("clean")
    rgb = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return np.stack([resize(image.transpose(1, 2, 0)) for image in rgb]).transpose(0, 3, 1, 2)


def _weights_file() -> Path:
    """Where clean-fid looks for the weights of the Inception network, and downloads them to."""
    return Path("." if platform.system() == "Windows" else "/tmp", "inception-2015-12-05.pt")


def _inception(device: str) -> Network:
    cleanfid = import_extra("cleanfid.features")
    path = _weights_file()
    existed = path.exists()
    try:
        return cleanfid.build_feature_extractor(
            "clean", torch.device(device), use_dataparallel=False
        )
    except BaseException as error:
        if not existed and not isinstance(error, RuntimeError):
            path.unlink(missing_ok=True)  # half a download would be taken for the whole
        if not isinstance(error, OSError | RuntimeError):
            raise
        url = import_extra("cleanfid.downloads_helper").inception_url
        raise RuntimeError(
            f"The Inception network could not be loaded from {path} ({error}). Download {url} to "
            "this file, in place of an incomplete one, or pass feature_extractor= with a "
            "torch.nn.Module or a function of rows."
        ) from error
