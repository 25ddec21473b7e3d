"""
Paths, couplings and samplers
=============================

A flow follows a path from noise to data. Which one, how noise and data are paired in training, and
how the fitted flow is followed are separate choices.
"""

# %%
# A path is :math:`x_t = \alpha(t)\,x_1 + \sigma(t)\,x_0`. All lead from noise (left) to data
# (right); they differ in how fast, and in how large the positions are on the way. Here are the
# samples of four paths to eight Gaussians at six times, straight from the definition.

import matplotlib.pyplot as plt
import numpy as np
import torch

from skgen import FlowMatchingDensity
from skgen.core.paths import PATHS, Parts
from skgen.datasets import EightGaussians, TwoMoons

rng = np.random.RandomState(0)
data = EightGaussians().sample(1500, random_state=0)
hub = Parts(torch.tensor(data / data.std()), torch.tensor(rng.normal(size=data.shape)))
names = ["linear", "independent", "trigonometric", "variance_preserving"]
times = [0.0, 0.2, 0.4, 0.6, 0.8, 0.99]

figure, axes = plt.subplots(4, 6, figsize=(9, 6.2), sharex=True, sharey=True, layout="constrained")
for row, name in zip(axes, names, strict=True):
    path = PATHS[name]()
    for ax, t in zip(row, times, strict=True):
        x = path.position(torch.tensor(t), hub)
        ax.plot(*x.T, ".", markersize=1.2, alpha=0.5)
        ax.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        if name == "linear":
            ax.set_title(f"t = {t:g}", fontsize=10)
    row[0].set_ylabel(name.replace("_", "\n"), fontsize=10)

# %%
# After training, the same flow is followed by an ordinary differential equation, in few or many
# steps, or by a stochastic one, whose noise corrects errors on the way.

X = TwoMoons().sample(5000, random_state=0)
flow = FlowMatchingDensity(max_iter=2500, random_state=0).fit(X)
ways = {
    "Euler, 8 steps": {"sampler": "euler", "n_steps": 8},
    "Heun, 20 steps": {"sampler": "heun", "n_steps": 20, "time_grid": "quadratic"},
    "Euler-Maruyama, 80 steps": {"sampler": "euler_maruyama", "n_steps": 80},
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharex=True, sharey=True, layout="constrained")
for ax, (title, way) in zip(axes, ways.items(), strict=True):
    drawn = flow.sample(3000, random_state=0, **way)
    ax.plot(*drawn.T, ".", markersize=1.5, alpha=0.5)
    ax.set(title=title, aspect="equal", xlabel="x1", xlim=(-1.7, 2.7), ylim=(-1.2, 1.7))
axes[0].set_ylabel("x2")

# %%
# Paired by optimal transport, noise goes to data near it. The ways are straighter, and two steps of
# Euler's method are already close.

straight = FlowMatchingDensity(coupling="optimal_transport", max_iter=2500, random_state=0).fit(X)
figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), sharex=True, sharey=True, layout="constrained")
for row, (title, model) in zip(
    axes, {"independent": flow, "optimal transport": straight}.items(), strict=True
):
    trajectory, when = model.sample_trajectory(
        60, random_state=1, n_steps=64, time_grid="uniform", return_times=True
    )
    row[0].plot(trajectory[..., 0], trajectory[..., 1], color="0.6", linewidth=0.7)
    row[0].plot(*trajectory[-1].T, ".", color="C1", markersize=4)
    k = 32
    arrows = model.velocity(trajectory[k], when[k])
    row[0].quiver(*trajectory[k].T, *arrows.T, color="C0", width=0.004, angles="xy")
    row[0].set(title=f"{title}: straightness {model.straightness(random_state=0):.3f}")
    drawn = model.sample(3000, random_state=0, sampler="euler", n_steps=2)
    row[1].plot(*drawn.T, ".", markersize=1.5, alpha=0.5)
    row[1].set(title="two steps of Euler's method", xlim=(-2.5, 3.5), ylim=(-2, 2.5))
for ax in axes[-1]:
    ax.set_xlabel("x1")
for ax in axes[:, 0]:
    ax.set_ylabel("x2")
plt.show()
