"""Estimators on a device other than the CPU, and on one without double precision."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from skgen.metrics import image_features

from .elsewhere import ELSEWHERE, elsewhere, register
from .estimators import ESTIMATORS, cheap_diffusion, cheap_flow, two_clusters

pytestmark = pytest.mark.skipif(register is None, reason="PyTorch registers no devices in Python")
X = two_clusters()[:60]
LABELS = (X[:, 0] > X[:, 0].mean()).astype(int)
IMAGES = np.random.default_rng(0).uniform(size=(24, 64))
WITH_DEVICE = {name: each for name, each in ESTIMATORS.items() if "device" in each.get_params()}
QUICK = "gaussian", "flow-undefended", "coupling-affine", "diffusion-exact"  # of each kind


@pytest.fixture(params=[ELSEWHERE, "mps"])
def device(request, monkeypatch):
    """The name of a device, and of one without double precision."""
    with elsewhere(monkeypatch, request.param) as name:
        yield name


def results(density):
    yield density.score_samples(X[:4])
    yield density.sample(4, random_state=0)
    if hasattr(density, "transform"):
        yield density.transform(X[:4])


def fitted(name, device):
    density = clone(WITH_DEVICE[name]).set_params(device=device).fit(X)
    assert density.device_ == device
    found = list(results(density))
    kept = "cpu" if device == "mps" else torch.device(device).type
    assert {each.device.type for each in density.module_.state_dict().values()} == {kept}
    again = pickle.loads(pickle.dumps(density))
    assert {each.device.type for each in again.module_.state_dict().values()} == {"cpu"}
    return found


def given(device):
    density = cheap_diffusion(conditional=True, device=device).fit(X, LABELS)
    yield density.score_samples(X[:4], LABELS[:4])
    yield density.sample(3, y=1, guidance=1.0, sampler="ancestral", random_state=0)


def based(device):
    density = cheap_flow(base=GaussianMixture(2, random_state=0), device=device).fit(X)
    yield from results(density)


def transported(device):
    density = cheap_flow(device=device).fit(X, X_base=X[:, ::-1] + 1)
    yield density.transport(X[:4])
    yield density.score_samples(X[:4])


def straightened(device):
    yield from results(cheap_flow(device=device).fit(X).reflow(200, max_iter=4))


def continued(device):
    yield from results(cheap_flow(device=device, warm_start=True).fit(X).fit(X))


def completed(device):
    density = cheap_flow(device=device).fit(X, sample_weight=1 + np.arange(len(X)) % 3)
    yield density.sample_given(np.where(np.arange(X.shape[1]) == 1, np.nan, X[:4]), random_state=0)


def fields(device):
    density = cheap_flow(device=device, divergence="rademacher", n_probes=2).fit(X)
    yield density.score_samples(X[:4])
    yield density.log_density_error(X[:4])
    yield density.velocity(X[:4], 0.5)
    yield density.sample_trajectory(3, random_state=0, sampler="stochastic_heun", n_steps=3)


def images(device):
    density = cheap_diffusion(
        image_shape=(1, 8, 8), denoiser="unet", max_iter=2, batch_size=8, device=device
    ).fit(IMAGES)
    yield density.sample(2, random_state=0, sampler="ddim", n_steps=3)


def extracted(device):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    network.load_state_dict({"1.weight": torch.eye(64)[:3], "1.bias": torch.zeros(3)})
    options = {"value_range": (0, 1), "feature_extractor": network, "device": device}
    yield image_features(IMAGES, image_shape=(1, 8, 8), **options)


USES = given, based, transported, straightened, continued, completed, fields, images, extracted
CALLS = {name: partial(fitted, name) for name in WITH_DEVICE}
CALLS |= {call.__name__: call for call in USES}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CALLS]
)
def test_results_are_those_of_the_cpu(name, device):
    for found, expected in zip(CALLS[name](device), CALLS[name]("cpu"), strict=True):
        assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_device_keeps_to_itself(device):
    there, here = torch.ones(2).to(device), torch.ones(2)
    assert there.device.type == torch.device(device).type and not there.is_cpu
    with pytest.raises(RuntimeError, match="two devices"):
        there + here
    with pytest.raises(RuntimeError, match="got a generator of cpu"):
        torch.rand(2, device=device, generator=torch.Generator())
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        there.numpy()
    if device == "mps":
        with pytest.raises(TypeError, match="leaves double precision"):
            there.double()
    torch.testing.assert_close((there + 1).cpu(), here + 1)
