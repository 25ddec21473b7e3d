"""
From noise to data
==================

A flow moves every point of a normal distribution along a path of its own to a point of the data.
The motion can be watched with ``sample_trajectory``, and run backwards with ``transform``, which
takes rows of data to the noise that they come from. Both show the flow alone, without the simple
densities that `sample` mixes in.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from skgen import FlowMatchingDensity

X, moon = make_moons(3000, noise=0.06, random_state=0)
density = FlowMatchingDensity(preconditioning="standardize", max_iter=2000, random_state=0).fit(X)

# %%
# ``sample_trajectory`` returns the positions after each step of the solver, the noise first, all in
# the units of the data. Fifteen points are followed; the other samples are grey. Early steps draw
# the cloud together, late ones sort out the detail.

trajectory = density.sample_trajectory(2000)
print(f"trajectory: {trajectory.shape} (steps + 1, samples, features)")

steps = np.linspace(0, len(trajectory) - 1, 6).round().astype(int)
fig, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex=True, sharey=True, layout="constrained")
for ax, step in zip(axes.flat, steps, strict=True):
    ax.scatter(*trajectory[step].T, s=3, c="0.7", linewidths=0)
    ax.plot(*trajectory[: step + 1, :15].transpose(2, 0, 1), color="C0", lw=1)
    ax.scatter(*trajectory[step, :15].T, s=14, c="C1", zorder=3)
    ax.set_title(f"after step {step} of {steps[-1]}", fontsize=10)
    ax.set(aspect="equal", xlim=(-2.2, 3.2), ylim=(-1.5, 2))
for ax in axes[-1]:
    ax.set_xlabel("$x_1$")
for ax in axes[:, 0]:
    ax.set_ylabel("$x_2$")

# %%
# ``transform`` is the way back. Rows of the two moons fill the normal distribution between them,
# each moon a region of its own. ``inverse_transform`` returns them, up to the error of the solver.

X_new, moon_new = make_moons(2000, noise=0.06, random_state=1)
Z = density.transform(X_new)
back = density.inverse_transform(Z)
print(f"mean {Z.mean(axis=0).round(2)}, standard deviations {Z.std(axis=0).round(2)}")
print(f"largest difference after the return trip: {np.abs(back - X_new).max():.1e}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.5, 1), layout="constrained")
for ax, rows, title in zip(axes, (X_new, Z), ("data", "the same rows as noise"), strict=True):
    for k in (0, 1):
        ax.scatter(*rows[moon_new == k].T, s=5, c=f"C{k}", alpha=0.7, linewidths=0)
    ax.set_title(title, fontsize=10)
    ax.set_aspect("equal")
axes[0].set(xlabel="$x_1$", ylabel="$x_2$")
axes[1].set(xlabel="$z_1$ (standard deviations)", ylabel="$z_2$ (standard deviations)")
for radius in (1, 2, 3):
    axes[1].add_patch(plt.Circle((0, 0), radius, fill=False, color="0.6", lw=0.7))
plt.show()
