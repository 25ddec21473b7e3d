"""Scores of images against clean-fid's own path over folders, with a small network."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skgen.metrics import fid_score, frechet_distance, image_features, save_images

from .extra import SmallNetwork, images, load


class OfBytes(nn.Module):
    """Network of images from 0 to 255, as clean-fid's, of the size that it resizes to."""

    def __init__(self):
        super().__init__()
        self.network = SmallNetwork().eval()
        self.seen = []

    def forward(self, x):
        assert x.shape[1:] == (3, 299, 299) and x.dtype == torch.float32
        self.seen.append(x)
        return self.network((x - 128) / 128)


@pytest.fixture
def small_inception(monkeypatch):
    """clean-fid with a small network in the place of its own."""
    features = load("cleanfid.features")
    network = OfBytes()
    monkeypatch.setattr(features, "build_feature_extractor", lambda *args, **options: network)
    monkeypatch.setattr(load("cleanfid.fid"), "build_feature_extractor", None)  # never a download
    return network


@pytest.mark.parametrize("shape", [(9, 12), (3, 8, 8), (1, 28, 28)])
def test_inception_path_equals_clean_fid(tmp_path, small_inception, shape):
    X_real, X_fake = images(shape), images(shape, 12, seed=1)
    for name, X in (("real", X_real), ("fake", X_fake)):
        save_images(X, tmp_path / name, shape)
    folders = str(tmp_path / "real"), str(tmp_path / "fake")
    cleanfid = load("cleanfid.fid")
    options = {"model": small_inception, "num_workers": 0, "device": torch.device("cpu")}
    theirs = [cleanfid.get_folder_features(f, verbose=False, **options) for f in folders]
    small_inception.seen.clear()
    ours = image_features(X_real, shape, device="cpu", batch_size=5)
    assert [len(x) for x in small_inception.seen] == [5, 5, 4]
    assert_allclose(ours, theirs[0], atol=1e-5)

    arrays = fid_score(X_real, X_fake, shape, device="cpu")
    assert arrays > 0.01
    assert arrays == pytest.approx(frechet_distance(*theirs), abs=1e-4)
    assert arrays == pytest.approx(fid_score(*folders, device="cpu"), abs=1e-4)
    as_floats = (X / 127.5 - 1 for X in (X_real, X_fake))
    assert arrays == fid_score(*as_floats, shape, value_range=(-1, 1), device="cpu")


class Layers(nn.Module):
    """2048 features of an image from -1 to 1, named as the part of Inception that is used."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.linear = nn.Linear(48, 2048)

    def forward(self, x):
        return self.linear(self.pool(x).flatten(1))


def test_weights_are_loaded_as_clean_fid_does(tmp_path, monkeypatch):
    load("cleanfid.features")
    monkeypatch.setattr("platform.system", lambda: "Windows")  # where the place is relative
    monkeypatch.chdir(tmp_path)
    network = nn.Module()
    network.layers, network.forward = Layers(), lambda x: network.layers(x)
    traced = torch.jit.trace(network, torch.zeros(2, 3, 299, 299))
    traced.save("inception-2015-12-05.pt")
    X_real, X_fake = images((3, 8, 8)), images((3, 8, 8), seed=1)
    features = image_features(X_real, (3, 8, 8), device="cpu")
    assert features.shape == (14, 2048)
    score = fid_score(X_real, X_fake, (3, 8, 8), device="cpu")
    save_images(X_real, "real", (3, 8, 8))
    save_images(X_fake, "fake", (3, 8, 8))
    assert 0 < score == pytest.approx(fid_score("real", "fake", device="cpu"), abs=1e-3)


def test_score_equals_compute_fid(tmp_path, small_inception, monkeypatch):
    cleanfid = load("cleanfid.fid")
    sqrtm = cleanfid.linalg.sqrtm
    # SciPy 1.18 has no disp any more, and returned two values with it.
    monkeypatch.setattr(cleanfid.linalg, "sqrtm", lambda S, disp=True: (sqrtm(S), 0.0))
    X_real, X_fake = images((8, 8)), images((8, 8), seed=1)
    folders = [str(tmp_path / name) for name in ("real", "fake")]
    for X, folder in zip((X_real, X_fake), folders, strict=True):
        save_images(X, folder, (8, 8))
    theirs = cleanfid.compute_fid(
        *folders,
        custom_feat_extractor=small_inception,
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    assert fid_score(X_real, X_fake, (8, 8), device="cpu") == pytest.approx(theirs, abs=1e-3)


def test_resizing_is_clean_fids(tmp_path, small_inception):
    utils = load("cleanfid.utils")
    X = images((3, 10, 7), n=4)
    files = [str(path) for path in save_images(X, tmp_path, (3, 10, 7))]
    theirs = torch.stack([*utils.ResizeDataset(files, "clean")])
    image_features(X, (3, 10, 7), device="cpu")
    assert_array_equal(small_inception.seen[0], theirs)


@pytest.mark.parametrize(
    ("X_real", "X_fake", "options", "message"),
    [
        (images((8, 8)) / 255, images((8, 8)) / 255, {}, "X_real is of type float64"),
        (images((8, 8)), images((8, 8)) / 255, {}, "X_fake is of type float64"),
        (images((8, 8)), images((8, 8)), {"value_range": (0, 1)}, "X_real has values from 0 to 25"),
        (images((8, 8)), images((8, 7)), {}, "a row of X_fake has 56"),
        (images((8, 8)), images((8, 8)), {"image_shape": None}, "image_shape is needed"),
        (images((8, 8)), "folder", {}, "both be folders or both be arrays"),
        ("missing", "missing", {}, "missing is not a folder with images"),
        (images((8, 8)), images((8, 8)), {"batch_size": 0}, "batch_size"),
        (images((8, 8)), images((8, 8)), {"device": "abacus"}, "'abacus' is not available"),
    ],
)
def test_bad_input(X_real, X_fake, options, message):
    if isinstance(X_real, str):
        load("cleanfid.fid")
    options = {"image_shape": (8, 8), "feature_extractor": SmallNetwork(1), **options}
    with pytest.raises(ValueError, match=message):
        fid_score(X_real, X_fake, **options)


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        ("resnet", "must be 'inception', a torch.nn.Module or a callable, got 'resnet'"),
        (lambda X: X[:, 0], r"shape \(14, n_features\) for 14 images, got \(14,\)"),
        (lambda X: X[1:], r"got \(13, 64\)"),
    ],
)
def test_bad_extractor(extractor, message):
    with pytest.raises(ValueError, match=message):
        image_features(images((8, 8)), (8, 8), feature_extractor=extractor)


def test_function_of_rows_cannot_read_a_folder(tmp_path):
    with pytest.raises(ValueError, match="cannot read a folder"):
        image_features(tmp_path, feature_extractor=np.asarray)
