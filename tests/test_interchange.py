"""Diffusions of images as pipelines of diffusers, and back."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone

from skgen import DDPMGenerator

from .test_images import IMAGES, LABELS, small

diffusers = pytest.importorskip("diffusers")

TINY = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    return small(max_iter=40, early_stopping=False).fit(IMAGES)


def random_pipeline(prediction="epsilon", sample_size=(4, 6), **options):
    torch.manual_seed(0)
    settings = {"sample_size": sample_size, "in_channels": 1, "out_channels": 1, **TINY, **options}
    unet = diffusers.UNet2DModel(**settings)
    unet.conv_out.weight.data *= 3
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=25, prediction_type=prediction, clip_sample=False
    )
    return diffusers.DDIMPipeline(unet, scheduler)


def ddim_by_diffusers(pipeline, noise):
    """End of the deterministic way from noise (n, C, H, W), by all steps of the chain."""
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    x = noise
    with torch.no_grad():
        for step in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(x, step).sample, step, x).prev_sample
    return x.flatten(1).double().numpy()


def noise_of(generator, n, seed):
    """The noise that `sample` begins with, as images."""
    seed = np.random.RandomState(seed).randint(2**31 - 1)
    source = torch.Generator().manual_seed(int(seed))
    noise = generator._model.base.sample(n, source)
    return noise.float().view(n, *generator.image_shape)


def test_pipelines_go_the_same_way(fitted):
    pipeline = fitted.to_diffusers()
    steps = fitted.n_timesteps
    way = fitted.sample_trajectory(3, random_state=5, sampler="ddim", n_steps=steps)
    low, high = IMAGES.min(), IMAGES.max()
    expected = ddim_by_diffusers(pipeline, noise_of(fitted, 3, 5))
    assert_allclose((way[-1] - low) / (high - low) * 2 - 1, expected, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_pipelines_of_others_are_taken_as_they_are(prediction):
    pipeline = random_pipeline(prediction)
    generator = DDPMGenerator.from_diffusers(
        pipeline, value_range=(0, 10), image_dtype=float, n_steps=2
    )
    assert generator.image_shape == (1, 4, 6) and generator.n_timesteps == 25
    way = generator.sample_trajectory(3, random_state=5, sampler="ddim", n_steps=25)
    expected = ddim_by_diffusers(pipeline, noise_of(generator, 3, 5))
    assert_allclose(way[-1] / 5 - 1, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.isfinite(generator.score_samples(way[-1])).all()
    drawn = generator.sample(2)
    assert drawn.shape == (2, 24) and drawn.min() >= 0 and drawn.max() <= 10


def test_folders_hold_everything(fitted, tmp_path):
    fitted.to_diffusers().save_pretrained(tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=20, output_type="np").images
    assert images.shape == (2, 4, 4, 1) and 0 <= images.min() < images.max() <= 1
    back = DDPMGenerator.from_diffusers(tmp_path, value_range=(IMAGES.min(), IMAGES.max()))
    assert np.array_equal(back.sample(4, random_state=0), fitted.sample(4, random_state=0))
    rows = IMAGES[:5].astype(float)
    back.set_params(n_steps=4)
    assert_allclose(back.betas_, fitted.betas_, rtol=1e-6)
    assert_allclose(back.elbo(rows, random_state=0), fitted.elbo(rows, random_state=0), rtol=1e-4)


def test_training_goes_on(fitted):
    back = DDPMGenerator.from_diffusers(
        fitted.to_diffusers(),
        value_range=(IMAGES.min(), IMAGES.max()),
        warm_start=True,
        max_iter=20,
        batch_size=32,
        early_stopping=False,
        random_state=0,
    )
    start = small(max_iter=20, early_stopping=False, batch_size=32).fit(IMAGES)
    assert back.fit(IMAGES).loss_curve_[0] < start.loss_curve_[0]
    assert clone(back).set_params(warm_start=False).fit(IMAGES).sample(2).shape == (2, 16)


def test_what_pipelines_cannot_do_is_refused():
    with pytest.raises(ValueError, match="Pipelines of diffusers have a U-Net"):
        DDPMGenerator(max_iter=1, early_stopping=False).fit(IMAGES[:, 1:]).to_diffusers()
    with pytest.raises(ValueError, match="The fit was conditional"):
        small(conditional=True, max_iter=1).fit(IMAGES, LABELS).to_diffusers()
    odd = small(image_shape=(1, 3, 5), max_iter=1).fit(IMAGES[:, 1:])
    with pytest.raises(ValueError, match="Images of 3 x 5 pixels were padded"):
        odd.to_diffusers()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"out_channels": 2}, "as many channels out as in"),
        ({"sample_size": None}, "must have a sample_size"),
        ({"num_class_embeds": 3}, "have no classes"),
        ({"time_embedding_type": "fourier"}, "embed times by their position"),
    ],
)
def test_other_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DDPMGenerator.from_diffusers(random_pipeline(**options))


def test_other_chains_and_parameters_are_refused(tmp_path):
    pipeline = random_pipeline()
    with pytest.raises(ValueError, match=r"\['n_timesteps'\] follow from the pipeline"):
        DDPMGenerator.from_diffusers(pipeline, n_timesteps=10)
    with pytest.raises(ValueError, match="sampler"):
        DDPMGenerator.from_diffusers(pipeline, sampler="none")
    with pytest.raises(ValueError, match="value_range must be"):
        DDPMGenerator.from_diffusers(pipeline, value_range=(1, 0))
    pipeline.scheduler = diffusers.ScoreSdeVeScheduler()
    with pytest.raises(ValueError, match="must have betas"):
        DDPMGenerator.from_diffusers(pipeline)
    with pytest.raises(ValueError, match=r"pipeline must be one of diffusers .* got 3"):
        DDPMGenerator.from_diffusers(3)
    with pytest.raises(OSError):
        DDPMGenerator.from_diffusers(tmp_path)
