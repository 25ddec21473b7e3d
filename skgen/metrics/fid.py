"""Features of images from a network or any function, and the Fréchet distance of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .distances import frechet_distance
from .extraction import Extraction, check_inside, is_folder
from .images import Range


def image_features(
    X: Any,
    image_shape: tuple[int, ...] | None = None,
    *,
    feature_extractor: Any = "inception",
    value_range: Range | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 64,
    verbose: int = 0,
) -> np.ndarray:
    """Features of images, to be compared by `frechet_distance` or `kernel_distance`.

    Parameters
    ----------
    X : array-like of shape (n_images, n_values), or str or Path
        Flattened images, channels first; or a folder of images, which clean-fid reads as RGB.
    image_shape : (height, width) or (channels, height, width), default=None
        Shape of a row as an image; 1 or 3 channels. Needed unless X is a folder or the extractor a
        function of rows.
    feature_extractor : "inception", torch.nn.Module or callable, default="inception"
        - ``"inception"``: the network of the FID with 2048 features, after the resizing of
          clean-fid [1]_ from 8 bits a channel; gray images get three equal channels. It needs the
          extra ``images`` and weights of 95 MB, which clean-fid downloads once.
        - A module takes float images (n, channels, height, width) in [0, 1], not resized, and
          returns one row for each. It is run on `device` in batches, in evaluation mode and without
          gradients, and left as it was.
        - Any other callable takes the rows of X as they are, all at once, and returns features of
          shape (n_images, n_features): the `transform` of a fitted transformer, for instance.
    value_range : (low, high), default=None
        Values of black and of full intensity; values beyond are clipped. None is (0, 255) if X has
        the type uint8; other types need it. Not used for folders and functions of rows.
    device : str or torch.device, default="auto"
        Where networks run: "auto" is the GPU if there is one, else the CPU.
    batch_size : int, default=64
        Images a pass through a network.
    verbose : int, default=0
        1 shows a progress bar on standard error where a network takes more than a second.

    Returns
    -------
    features : ndarray of shape (n_images, n_features)

    Raises
    ------
    ValueError
        If X does not fit the shape, its range is not known, the folder has no images, or the
        extractor does not return one row for each image.
    ImportError
        If the extra ``images`` is missing.
    RuntimeError
        If the Inception network cannot be loaded; the message names file and address.

    References
    ----------
    .. [1] Parmar, Zhang and Zhu, "On aliased resizing and surprising subtleties in GAN
       evaluation", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen.metrics import image_features
    >>> brightness = lambda X: X.mean(axis=1, keepdims=True)
    >>> image_features([[0.0, 2.0], [4.0, 4.0]], feature_extractor=brightness)
    array([[1.],
           [4.]])
    """
    features = Extraction(image_shape, feature_extractor, value_range, device, batch_size, verbose)
    return features(X, "X")


def fid_score(
    X_real: Any,
    X_fake: Any,
    image_shape: tuple[int, ...] | None = None,
    *,
    feature_extractor: Any = "inception",
    value_range: Range | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 64,
    verbose: int = 0,
) -> float:
    """Fréchet distance of real and generated images: `frechet_distance` of `image_features`.

    With the default extractor it is the FID [1]_ as clean-fid computes it.

    Parameters
    ----------
    X_real : array-like of shape (n_real, n_values), or str or Path
        Real images, as in `image_features`.
    X_fake : array-like of shape (n_fake, n_values), or str or Path
        Generated images; a folder if, and only if, `X_real` is one.
    image_shape : (height, width) or (channels, height, width), default=None
        As in `image_features`.
    feature_extractor : "inception", torch.nn.Module or callable, default="inception"
        As in `image_features`. Distances of different features cannot be compared.
    value_range : (low, high), default=None
        As in `image_features`, for both arrays. Generated values beyond are clipped.
    device : str or torch.device, default="auto"
        As in `image_features`.
    batch_size : int, default=64
        As in `image_features`.
    verbose : int, default=0
        As in `image_features`.

    Returns
    -------
    fid : float
        At least 0, smaller is better. It falls as the numbers of images grow: compare only scores
        of equally many, 50,000 by custom, and print `score_floor` beside them.

    Raises
    ------
    ValueError
        As `image_features`, and if real values lie outside of the range.
    ImportError, RuntimeError
        As `image_features`.

    References
    ----------
    .. [1] Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two
       time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from skgen.metrics import fid_score
    >>> X = load_digits().data
    >>> reduce = PCA(10, random_state=0).fit(X).transform
    >>> fid_score(X[:800], X[800:], feature_extractor=reduce) < 50
    True
    >>> fid_score(X[:800], X[800:, ::-1], feature_extractor=reduce) > 100  # upside down
    True
    """
    features = Extraction(image_shape, feature_extractor, value_range, device, batch_size, verbose)
    if is_folder(X_real) != is_folder(X_fake):
        raise ValueError("X_real and X_fake must both be folders or both be arrays.")
    if features.on_images and not is_folder(X_real):
        check_inside(X_real, value_range)
    return frechet_distance(features(X_real, "X_real"), features(X_fake, "X_fake"))
