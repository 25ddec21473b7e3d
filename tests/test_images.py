"""Diffusion of images, with the U-Net of diffusers."""

import pickle
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone

from skgen import DDPMGenerator

SHAPE = (1, 4, 4)
RNG = np.random.RandomState(0)
LEVELS = np.where(np.arange(16) % 2, 200, 40)
LABELS = np.arange(120) % 2
IMAGES = np.where(LABELS[:, None], LEVELS, 240 - LEVELS) + RNG.randint(-20, 21, size=(120, 16))
IMAGES[:, 0] = 7  # a pixel that never varies
IMAGES = IMAGES.astype(np.uint8)


def small(**parameters):
    pytest.importorskip("diffusers")
    settings = {"image_shape": SHAPE, "max_iter": 6, "n_timesteps": 20, "n_steps": 4,
                "unet_params": {"block_out_channels": (8, 8), "norm_num_groups": 4},
                "random_state": 0}  # fmt: skip
    return DDPMGenerator(**{**settings, **parameters})


@pytest.fixture(scope="module")
def fitted():
    return small().fit(IMAGES)


def test_samples_have_the_range_and_the_type_of_the_images(fitted):
    drawn = fitted.sample(20)
    assert drawn.shape == (20, 16) and drawn.dtype == np.uint8
    assert drawn.min() >= IMAGES.min() and drawn.max() <= IMAGES.max()
    unit = small().fit(IMAGES.astype(np.float32) / 255)
    drawn = unit.sample(20)
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1
    assert fitted.preconditioning_ == "scale" and len(fitted.mixture_weights_) == 1


def test_training_learns_the_images():
    diffusion = small(max_iter=150, early_stopping=False, batch_size=32, learning_rate_init=3e-3)
    drawn = diffusion.fit(IMAGES).sample(100, sampler="ddim", n_steps=15).astype(float)
    assert_allclose(drawn.mean(0), IMAGES.mean(0), atol=40)
    contrast = np.abs(drawn[:, 3] - drawn[:, 4]).mean()
    assert contrast > 80  # the mean image has none
    assert diffusion.loss_curve_[-1] < 0.8 * diffusion.loss_curve_[0]


def test_a_continued_fit_keeps_the_scale():
    continued = small(warm_start=True).fit(IMAGES).fit(IMAGES)
    assert continued.preconditioning_ == "scale" and len(continued.mixture_weights_) == 1


def test_fits_are_reproducible_and_pickled(fitted):
    again = clone(fitted).fit(IMAGES)
    assert np.array_equal(again.sample(5), fitted.sample(5))
    copied = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copied.sample(5, sampler="ddim"), fitted.sample(5, sampler="ddim"))


def test_log_density_is_estimated_with_the_same_vectors_for_all_rows(fitted):
    rows = IMAGES[:6].astype(float)
    found = fitted.score_samples(rows)
    assert np.isfinite(found).all()
    assert_allclose(fitted.score_samples(rows[2:4]), found[2:4], rtol=1e-4)
    assert (fitted.log_density_error(rows) > 0).all()
    assert np.isfinite(fitted.elbo(rows, random_state=0)).all()


def test_bits_per_dimension(fitted):
    rows = IMAGES[:4].astype(float)
    expected = -fitted.score_samples(rows) / (16 * np.log(2))
    assert_allclose(fitted.bits_per_dimension(rows), expected)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=(4, 16))
    noisy = -fitted.score_samples(rows + noise) / (16 * np.log(2))
    found = fitted.bits_per_dimension(IMAGES[:4], random_state=0)
    assert np.array_equal(found, fitted.bits_per_dimension(IMAGES[:4], random_state=0))
    assert_allclose(found.mean(), noisy.mean(), atol=0.3)
    assert (found != expected).all()


def test_held_out_loss_is_watched_with_frozen_noise(fitted):
    assert len(fitted.validation_scores_) == 6
    flow, z = fitted._model, fitted._density.precondition(torch.tensor(IMAGES[:64]).double())[0]
    assert flow.frozen_loss(z.float(), 0) == flow.frozen_loss(z.float(), 0)
    assert flow.frozen_loss(z.float(), 0) != flow.frozen_loss(z.float(), 1)


def test_batches_add_up(fitted):
    parts = small(batch_size=16, gradient_accumulation_steps=2, max_iter=10, early_stopping=False)
    assert parts.fit(IMAGES).n_iter_ == 10
    assert (
        parts.loss_curve_ != parts.set_params(gradient_accumulation_steps=1).fit(IMAGES).loss_curve_
    )


def test_images_given_their_class():
    diffusion = small(conditional=True, max_iter=10).fit(IMAGES, LABELS)
    assert diffusion.sample(4, y=[0, 1, 0, 1]).shape == (4, 16)
    assert diffusion.sample(4, y=1, guidance=2.0, sampler="ddim", n_steps=3).dtype == np.uint8


def test_add_noise_of_images(fitted):
    assert_allclose(fitted.add_noise(IMAGES[:3], 0), IMAGES[:3], atol=1e-9)


def test_completion_is_refused_with_a_reason(fitted):
    with pytest.raises(ValueError, match="which a U-Net does not have"):
        fitted.sample_given(np.where(np.arange(16) < 8, IMAGES[:2], np.nan))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"image_shape": (1, 5, 5)}, r"image_shape=\(1, 5, 5\) has 25 numbers, X 16 columns"),
        ({"image_shape": (4, 4)}, r"needs image_shape=\(C, H, W\), .* got \(4, 4\)"),
        ({"image_shape": (-1, -4, 4)}, r"three positive ints, got \(-1, -4, 4\)"),
        ({"image_shape": (1, 4.0, 4)}, r"three positive ints, got \(1, 4\.0, 4\)"),
        ({"image_shape": None, "denoiser": "unet"}, r"three positive ints, got None"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_bad_input(parameters, message):
    with pytest.raises(ValueError, match=message):
        small(**parameters).fit(IMAGES)
    with pytest.raises(ValueError, match="All images of X are the same"):
        small().fit(np.zeros((9, 16)))


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"scikit-generative\[images\]"):
        DDPMGenerator(image_shape=SHAPE, max_iter=2).fit(IMAGES)


def test_a_network_of_layers_takes_images_as_rows():
    varying = IMAGES[:, 1:]
    diffusion = DDPMGenerator(
        image_shape=(1, 3, 5), denoiser="mlp", max_iter=5, n_timesteps=10, random_state=0
    ).fit(varying)
    assert diffusion.preconditioning_ != "scale"
    assert diffusion.sample(2).shape == (2, 15)
