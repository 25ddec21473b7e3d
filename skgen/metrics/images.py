"""Rows as images: ranges of values, grids, and folders of PNG files."""

from __future__ import annotations

import importlib
import math
import os
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, check_scalar

from ..rows import are_positive_ints, refuse_unflattened, to_array

Range = tuple[float, float]


def save_images(
    X: Any,
    folder: str | Path,
    image_shape: tuple[int, ...],
    value_range: Range | None = None,
) -> list[Path]:
    """Write each row as a PNG file of 8 bits a channel: ``00000.png``, ``00001.png`` and so on.

    A file appears under its name once it is complete. Files of these names are replaced.

    Parameters
    ----------
    X : array-like of shape (n_images, n_values)
        Flattened images, channels first.
    folder : str or Path
        Where to write; made if it is not there.
    image_shape : (height, width) or (channels, height, width)
        Shape of a row as an image; 1 or 3 channels.
    value_range : (low, high), default=None
        Values of black and of full intensity; values beyond are clipped. None is (0, 255) if X has
        the type uint8; other types need it.

    Returns
    -------
    paths : list of Path
        The files, in the order of the rows.

    Raises
    ------
    ValueError
        If the rows do not have this shape, or the range is not known.
    FileExistsError
        If the folder has other PNG files: they would be taken for images of the same set.
    ImportError
        If Pillow, of the extra ``images``, is missing.

    Examples
    --------
    >>> import tempfile
    >>> from skgen.metrics import save_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = save_images([[0.0, 0.5, 0.5, 1.0]], folder, (2, 2), value_range=(0, 1))
    >>> paths[0].name
    '00000.png'
    """
    pillow = import_extra("PIL.Image")
    images = to_uint8(to_images(X, image_shape, value_range))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.png" for i in range(len(images))]
    others = set(folder.glob("*.png")) - set(paths)
    if others:
        raise FileExistsError(
            f"{folder} has {len(others)} other PNG file(s), {min(others).name} for one; "
            "choose an empty folder."
        )
    for path, image in zip(paths, images, strict=True):
        unfinished = path.with_suffix(".part")
        try:
            pillow.fromarray(last_channel(image)).save(unfinished, format="PNG")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return paths


def image_grid(
    X: Any,
    image_shape: tuple[int, ...],
    n_columns: int | None = None,
    pad: int = 1,
    *,
    value_range: Range | None = None,
) -> NDArray[Any]:
    """Images side by side, row by row, as one array for ``imshow`` of Matplotlib or for Pillow.

    Parameters
    ----------
    X : array-like of shape (n_images, n_values)
        Flattened images, channels first.
    image_shape : (height, width) or (channels, height, width)
        Shape of a row as an image; 1 or 3 channels.
    n_columns : int, default=None
        Images beside each other. None makes the grid about square.
    pad : int, default=1
        Pixels between neighbours. These, and places without an image, have the smallest value of X.
    value_range : (low, high), default=None
        If given, the grid is of type uint8, from 0 at low to 255 at high, as Pillow wants it.

    Returns
    -------
    grid : ndarray of shape (total_height, total_width) or (total_height, total_width, 3)
        Of the type and with the values of X, unless a range is given.

    Raises
    ------
    ValueError
        If the rows do not have this shape, or a number is out of range.

    Examples
    --------
    >>> from skgen.metrics import image_grid
    >>> image_grid([[1, 2], [3, 4], [5, 6]], image_shape=(1, 2), n_columns=2)
    array([[1, 2, 1, 3, 4],
           [1, 1, 1, 1, 1],
           [5, 6, 1, 1, 1]])
    """
    if value_range is None:
        images = _shaped(X, image_shape)
    else:
        images = to_uint8(to_images(X, image_shape, value_range))
    n, channels, height, width = images.shape
    if n_columns is None:
        n_columns = math.ceil(math.sqrt(n))
    check_scalar(n_columns, "n_columns", Integral, min_val=1)
    check_scalar(pad, "pad", Integral, min_val=0)
    n_rows = -(-n // n_columns)
    tiles = np.full(
        (n_rows * n_columns, channels, height + pad, width + pad), images.min(), images.dtype
    )
    tiles[:n, :, :height, :width] = images
    tiles = tiles.reshape(n_rows, n_columns, channels, height + pad, width + pad)
    grid = tiles.transpose(2, 0, 3, 1, 4).reshape(channels, n_rows * (height + pad), -1)
    return last_channel(grid[:, : grid.shape[1] - pad, : grid.shape[2] - pad])


def to_images(
    X: Any, image_shape: tuple[int, ...], value_range: Range | None, name: str = "X"
) -> NDArray[Any]:
    """Images (n, channels, height, width), floats in [0, 1]; values beyond are clipped."""
    images = _shaped(X, image_shape, name)
    low, high = check_range(images, value_range, name)
    images = images.astype(np.result_type(images.dtype, np.float32))
    return np.clip((images - low) / (high - low), 0, 1)


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images in [0, 1] as whole numbers from 0 to 255."""
    return np.rint(images * 255).astype(np.uint8)


def last_channel(image: NDArray[Any]) -> NDArray[Any]:
    """Image (height, width) or (height, width, 3) of one (channels, height, width)."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def check_range(X: NDArray[Any], value_range: Range | None, name: str) -> Range:
    """Lowest and highest value of images, given or known from their type."""
    if value_range is None:
        if X.dtype == np.uint8:
            return 0.0, 255.0
        raise ValueError(
            f"{name} is of type {X.dtype}, with values from {float(X.min()):g} to "
            f"{float(X.max()):g}: give the values of black and of full intensity, "
            "value_range=(0, 1) for instance. Only uint8 does without."
        )
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range!r}.")
    return float(low), float(high)


def check_rows(X: Any, name: str = "X") -> NDArray[Any]:
    """Rows of finite numbers, in their own type."""
    X = to_array(X)
    refuse_unflattened(X, name)
    return check_array(X, dtype="numeric", input_name=name)


def _shaped(X: Any, image_shape: tuple[int, ...], name: str = "X") -> NDArray[Any]:
    rows = check_rows(X, name)
    shape = tuple(image_shape)
    valid = len(shape) in (2, 3) and are_positive_ints(shape)
    if not valid or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ValueError(
            "image_shape must be (height, width) or (channels, height, width) with 1 or 3 "
            f"channels, got {image_shape!r}."
        )
    if math.prod(shape) != rows.shape[1]:
        raise ValueError(
            f"An image of shape {shape} has {math.prod(shape)} values; a row of {name} has "
            f"{rows.shape[1]}."
        )
    return rows.reshape(len(rows), *((1, *shape) if len(shape) == 2 else shape))


def import_extra(module: str) -> Any:
    """Module of the extra ``images``, or an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision built for another torch: the latter
        raise ImportError(
            f"{module.split('.')[0]} could not be imported ({error}). It comes with the extra "
            "'images': python -m pip install 'scikit-generative[images]'."
        ) from error
