r"""
Conditional and marginal velocities
===================================

Flow matching regresses on velocities that lead to single rows, and thereby learns the one velocity
that leads to all of them.
"""

# %%
# Given one row :math:`x_1`, the *conditional* path carries noise straight to it. With the path of
# Lipman et al. the noise shrinks to a small rest on the way; with independent conditional flow
# matching a pair of noise and data is joined by a straight line, with noise of constant size
# around it. The dots are the positions at five times, the lines the ways of twelve draws of
# noise.

import matplotlib.pyplot as plt
import numpy as np
import torch

from skgen import FlowMatchingDensity
from skgen.core.paths import IndependentPath, LipmanPath, Parts
from skgen.datasets import TwoMoons

rng = np.random.RandomState(0)
noise = torch.tensor(rng.normal(size=(400, 2)))
data = torch.tensor([2.5, 1.5], dtype=torch.float64).expand(400, 2)
around = torch.tensor(rng.normal(size=(400, 2)))
s = 0.1

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
titles = ["Lipman: noise shrinks to 0.1", "independent: line and noise of size 0.1"]
for ax, title in zip(axes, titles, strict=True):
    for t in np.linspace(0, 1, 5):
        at = torch.tensor(t)
        if "Lipman" in title:
            x = LipmanPath(sigma_min=s).position(at, Parts(data, noise))
        else:
            x = (1 - t) * noise + t * data + s * around
        ax.plot(
            *x.T, ".", markersize=2.5, alpha=0.6, color=plt.cm.viridis(0.9 * t), label=f"t = {t:g}"
        )
    ways = torch.stack([noise[:12] + u * (data[:12] - noise[:12]) for u in np.linspace(0, 1, 20)])
    ax.plot(ways[..., 0], ways[..., 1], color="0.5", linewidth=0.6)
    ax.set(title=title, aspect="equal", xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")
axes[1].legend(markerscale=4, fontsize=9, loc="lower right")
alpha, sigma = IndependentPath(sigma=s).coefficients(torch.tensor(1.0))
print(f"at t = 1 the independent path has alpha = {float(alpha):g}, sigma = {float(sigma):g}")

# %%
# Many such ways pass through one place. Their velocities there differ (grey arrows), but what a
# network fitted by least squares learns is their mean: the *marginal* velocity (blue), which
# carries the whole noise to the whole data. The grey arrows start at three places at time 0.4,
# and each leads to a row of the data, drawn with its probability given that place. All arrows are
# as long as their velocity would lead in the time that is left.

X = TwoMoons().sample(5000, random_state=0)
flow = FlowMatchingDensity(preconditioning="standardize", max_iter=3000, random_state=0).fit(X)
t, places = 0.4, np.array([[-0.7, -0.5], [1.9, 0.7], [0.5, 0.25]])
centre, root = X.mean(axis=0), np.linalg.cholesky(np.cov(X.T))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
axes[0].plot(*X[::5].T, ".", color="0.8", markersize=2)
size = {"scale": 1 / (1 - t), "scale_units": "xy", "angles": "xy"}
for place in places:
    away = np.linalg.solve(root, (place - centre)[:, None] - t * (X - centre).T) / (1 - t)
    weight = np.exp(-0.5 * (away**2).sum(axis=0))
    rows = X[rng.choice(len(X), 40, p=weight / weight.sum())]
    conditional = (rows - place) / (1 - t)
    starts = np.repeat(place[:, None], 40, axis=1)
    axes[0].quiver(*starts, *conditional.T, color="0.55", width=0.002, **size)
learnt = flow.velocity(places, t)
axes[0].quiver(*places.T, *learnt.T, color="C0", width=0.01, **size)
axes[0].set(title="conditional (grey) and marginal (blue), t = 0.4", xlabel="$x_1$", ylabel="$x_2$")

grid = np.stack(np.meshgrid(np.linspace(-2, 3, 22), np.linspace(-1.4, 1.8, 15)), -1).reshape(-1, 2)
field = flow.velocity(grid, t)
speed = np.linalg.norm(field, axis=1)
arrows = axes[1].quiver(*grid.T, *field.T, speed, cmap="viridis", angles="xy")
trajectory, times = flow.sample_trajectory(
    300, random_state=0, time_grid="uniform", n_steps=60, return_times=True
)
axes[1].plot(*trajectory[24].T, ".", color="C1", markersize=3)
axes[1].set(title="marginal velocity and samples, t = 0.4", xlabel="$x_1$")
figure.colorbar(arrows, ax=axes[1], label="speed (units of X per unit t)")
plt.show()
