"""Scores of images against clean-fid's own path over folders, with a small network."""

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skgen.metrics import extraction, fid_score, frechet_distance, image_features, save_images

from .extra import load


class SmallNetwork(nn.Module):
    """Eight random features of any image of three channels; its batch norm must not be trained."""

    def __init__(self, channels=3):
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 2)
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, x):
        return self.second(self.dropout(torch.relu(self.norm(self.first(x))))).mean((2, 3))


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


def images(shape, n=14, seed=0):
    """Smooth bytes: waves of random direction."""
    rng = np.random.RandomState(seed)
    height, width = np.indices(shape[-2:]) / 4
    a, b, phase = rng.uniform(-1 - seed, 1, (3, n, *shape[:-2], 1, 1))
    waves = 127.5 * (1 + np.sin(a * height + b * width + 6 * phase))
    return waves.reshape(n, -1).astype(np.uint8)


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
