"""Features from modules and functions, and from weights that are not there."""

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skgen.metrics import extraction, fid_score, frechet_distance, image_features, save_images

from .extra import SmallNetwork, images, load


def test_module_sees_images_from_0_to_1():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :, 0]

    X = np.array([[-1.0, 0.0, 1.0], [3.0, 0.5, -0.5]])
    features = image_features(X, (3, 1, 1), feature_extractor=Spy(), value_range=(-1, 1))
    assert seen[0].shape == (2, 3, 1, 1) and seen[0].dtype == torch.float32
    assert_array_equal(features, [[0, 0.5, 1], [1, 0.75, 0.25]])


def test_module_over_folders_is_that_over_arrays(tmp_path):
    load("cleanfid.fid")
    network, shape = SmallNetwork(), (3, 8, 9)
    X_real, X_fake = images(shape), images(shape, seed=1)
    save_images(X_real, tmp_path / "real", shape)
    save_images(X_fake, tmp_path / "fake", shape)
    over_folders = fid_score(tmp_path / "real", tmp_path / "fake", feature_extractor=network)
    over_arrays = fid_score(X_real, X_fake, shape, feature_extractor=network)
    assert over_arrays == pytest.approx(over_folders, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_module_is_left_as_it_was(dtype):
    network = SmallNetwork(1).to(dtype)
    network.dropout.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = image_features(images((8, 8)), (8, 8), feature_extractor=network, batch_size=14)
    second = image_features(images((8, 8)), (8, 8), feature_extractor=network, batch_size=4)
    assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert network.training and network.norm.training and not network.dropout.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype
    assert all(parameter.grad is None for parameter in network.parameters())


def test_module_is_restored_after_an_error():
    network = SmallNetwork(channels=3)
    with pytest.raises(RuntimeError, match="channels"):
        image_features(images((8, 8)), (8, 8), feature_extractor=network)
    assert all(module.training for module in network.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_features():
    network = SmallNetwork(1)
    features = [
        image_features(images((8, 8)), (8, 8), feature_extractor=network, device=device)
        for device in ("cpu", "cuda")
    ]
    assert_allclose(*features, rtol=1e-3, atol=1e-3)
    assert network.first.weight.device.type == "cpu"


def test_function_sees_rows_as_they_are():
    X_real, X_fake = images((8, 8)) / 10.0, images((8, 8), seed=1) / 10.0
    score = fid_score(X_real, X_fake, feature_extractor=lambda X: X[:, :5])
    assert score == frechet_distance(X_real[:, :5], X_fake[:, :5])


def test_function_may_return_a_tensor():
    weight = torch.ones(64, 2, dtype=torch.float64, requires_grad=True)
    features = image_features(
        images((8, 8)), feature_extractor=lambda X: torch.tensor(X, dtype=torch.float64) @ weight
    )
    assert_array_equal(features[:, 0], images((8, 8)).sum(axis=1))


def test_fewer_images_than_features():
    score = fid_score(images((8, 8), n=5), images((8, 8), n=5), feature_extractor=np.asarray)
    assert score == pytest.approx(0, abs=1e-6)


def broken_builder(error, path=None):
    def build(*args, **options):
        if path is not None:
            path.write_bytes(b"half")
        raise error

    return build


@pytest.mark.parametrize("over", ["arrays", "folders"])
def test_offline(tmp_path, monkeypatch, over):
    features = load("cleanfid.features")
    error = URLError("no network")
    monkeypatch.setattr(features, "feature_extractor", broken_builder(error))
    X = images((8, 8))
    if over == "folders":
        save_images(X, tmp_path, (8, 8))
        X = tmp_path
    expected = (
        r"loaded from /tmp/inception-2015-12-05\.pt \(.*no network.*\)\. Download https://.*"
        r"/inception-2015-12-05\.pt to .*feature_extractor="
    )
    with pytest.raises(RuntimeError, match=expected) as caught:
        fid_score(X, X, (8, 8))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [URLError("cut off"), KeyboardInterrupt()])
def test_half_a_download_is_removed(tmp_path, monkeypatch, error):
    features, path = load("cleanfid.features"), tmp_path / "weights.pt"
    monkeypatch.setattr(extraction, "_weights_file", lambda: path)
    monkeypatch.setattr(features, "build_feature_extractor", broken_builder(error, path))
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        image_features(images((8, 8)), (8, 8))
    assert not path.exists()


def test_weights_that_do_not_load_are_kept(tmp_path, monkeypatch):
    features, path = load("cleanfid.features"), tmp_path / "weights.pt"
    path.write_bytes(b"something")
    monkeypatch.setattr(extraction, "_weights_file", lambda: path)
    error = RuntimeError("not an archive")
    monkeypatch.setattr(features, "build_feature_extractor", broken_builder(error))
    with pytest.raises(RuntimeError, match=r"not an archive.*in place of an incomplete one"):
        image_features(images((8, 8)), (8, 8))
    assert path.exists()


def test_place_of_the_weights_is_clean_fids(monkeypatch):
    features, places = load("cleanfid.features"), []

    def network(path, **options):
        places.append(path)
        raise URLError("no network")

    monkeypatch.setattr(features, "InceptionV3W", network)
    with pytest.raises(RuntimeError) as caught:
        image_features(images((8, 8)), (8, 8))
    assert f"loaded from {places[0]}/inception" in str(caught.value)


def test_without_clean_fid(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanfid.features", None)
    with pytest.raises(ImportError, match=r"cleanfid could not .*scikit-generative\[images\]"):
        image_features(images((8, 8)), (8, 8))
