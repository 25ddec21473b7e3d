r"""
Known densities
===============

How close is a fitted density to the truth? On data whose density is known exactly this can be
measured. With rows of the true density :math:`p` that the model :math:`q` has not seen,

.. math:: KL(p \,\|\, q) = \mathbb{E}_p[\log p(x)] - \mathbb{E}_p[\log q(x)]

is minus the entropy of the truth minus the score of the model: the nats per row that the model
loses.
"""

import matplotlib.pyplot as plt
import numpy as np

from skgen import FlowMatchingDensity
from skgen.datasets import Checkerboard, EightGaussians, TwoMoons

# %%
# The training is shortened to keep this page quick; the default ``max_iter`` comes closer. Part of
# every fit is a Gaussian mixture, with a weight from held-out rows. The eight Gaussians are one.

truths = {
    "eight Gaussians": (EightGaussians(), (-7.5, 7.5, -7.5, 7.5)),
    "two moons": (TwoMoons(), (-1.5, 2.5, -1.75, 2.25)),
    "checkerboard": (Checkerboard(), (-5, 5, -5, 5)),
}
models, divergences = {}, {}
for name, (truth, _) in truths.items():
    X = truth.sample(10_000, random_state=0)
    models[name] = FlowMatchingDensity(
        preconditioning="standardize", max_iter=2000, random_state=0
    ).fit(X)
    X_new = truth.sample(5_000, random_state=1).astype(np.float32)  # float32 is faster
    divergences[name] = -truth.entropy() - models[name].score(X_new)
    print(f"{name:16s} KL(truth || model) = {divergences[name]:.3f} nats")

# %%
# The true density, the fitted one, and samples of the fitted one. The hard edges of the
# checkerboard are the most difficult part: a flow is smooth, and so is a Gaussian mixture.


def on_grid(log_density, box, n_points=80):
    """Density at the centres of a grid of cells."""
    left, right, low, high = box
    first = left + (right - left) * (np.arange(n_points) + 0.5) / n_points
    second = low + (high - low) * (np.arange(n_points) + 0.5) / n_points
    points = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    return np.exp(log_density(points.astype(np.float32))).reshape(n_points, n_points)


fig, axes = plt.subplots(3, 3, figsize=(9, 8.6), layout="constrained")
for row, (name, (truth, box)) in zip(axes, truths.items(), strict=True):
    true = on_grid(truth.score_samples, box)
    fitted = on_grid(models[name].score_samples, box)
    for ax, values in zip(row, (true, fitted), strict=False):
        image = ax.imshow(values, origin="lower", extent=box, vmin=0, vmax=true.max())
    fig.colorbar(image, ax=row[1], label="density (per unit area)")
    row[2].scatter(*models[name].sample(3000).T, s=2, alpha=0.5, linewidths=0)
    row[2].set(xlim=box[:2], ylim=box[2:], aspect="equal")
    row[0].set_title(f"{name}, truth", fontsize=10)
    row[1].set_title(f"fit, KL {divergences[name]:.3f} nats", fontsize=10)
    row[2].set_title("samples of the fit", fontsize=10)
    row[0].set_ylabel("$x_2$")
for ax in axes[-1]:
    ax.set_xlabel("$x_1$")
plt.show()
