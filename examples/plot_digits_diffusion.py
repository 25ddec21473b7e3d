"""
Digits by denoising diffusion
=============================

Images are rows of a table. With an ``image_shape``, a U-Net learns to find the noise in them.
"""

# %%
# The digits of scikit-learn, 8 by 8 pixels with grey levels from 0 to 16. Training takes a few
# minutes on one core.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from skgen import DDPMGenerator, GaussianMLE
from skgen.metrics import fid_score, image_grid, score_floor

X, y = load_digits(return_X_y=True)
X = X.astype(np.uint8)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
diffusion = DDPMGenerator(image_shape=(1, 8, 8), max_iter=2500, random_state=0).fit(X_train)

# %%
# The chain at five of its 1,000 steps, for eight digits:

figure, axes = plt.subplots(5, 1, figsize=(6, 4.2), layout="constrained")
for ax, step in zip(axes, (0, 50, 150, 400, 1000), strict=True):
    noisy = diffusion.add_noise(X_train[:8].astype(float), step, random_state=0)
    ax.imshow(image_grid(noisy, (1, 8, 8), n_columns=8, value_range=(-16, 32)), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(f"{step}", rotation=0, ha="right", va="center")

# %%
# Samples by 20 steps of DPM-Solver++, beside the data:

drawn = diffusion.sample(len(X_test), sampler="dpm_solver++")
figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for ax, images, title in zip(axes, (X_train, drawn), ("data", "samples"), strict=True):
    ax.imshow(image_grid(images[:64], (1, 8, 8)), cmap="gray_r", vmin=0, vmax=16)
    ax.set(title=title, xticks=[], yticks=[])

# %%
# A Fréchet distance compares them with test images, on the hidden layer of a small classifier. It
# is read beside the same distance between two halves of real images, the floor, and beside that
# of a Gaussian.

classifier = MLPClassifier((32,), max_iter=300, random_state=0).fit(X_train, y_train)


def features(images):
    """Hidden layer of the classifier."""
    return np.maximum(images @ classifier.coefs_[0] + classifier.intercepts_[0], 0)


def distance(real, fake):
    """Fréchet distance on it."""
    return fid_score(real, fake, feature_extractor=features)


gaussian = GaussianMLE(reg_covar=1e-3).fit(
    X_train + np.random.default_rng(0).uniform(size=X_train.shape)
)
print(
    f"real against real: {score_floor(X.astype(float), distance, len(X_test), random_state=0):.1f}"
)
print(f"diffusion:         {distance(X_test, drawn):.1f}")
print(f"Gaussian:          {distance(X_test, gaussian.sample(len(X_test)) - 0.5):.1f}")
plt.show()
