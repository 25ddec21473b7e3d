r"""
Stochastic interpolants
=======================

One velocity, learnt once, drives an ordinary and a stochastic differential equation with the same
distribution at all times. Here both carry noise to two targets, in the same number of steps.
"""

# %%
# The interpolant is :math:`x_t = t\,x_1 + (1-t)\,x_0` with noise :math:`x_0` and data
# :math:`x_1`. Training finds the velocity :math:`b(x, t) = E[\dot x_t \mid x_t = x]`, by least
# squares or by the equivalent loss :math:`E[\tfrac12 |b|^2 - b\cdot\dot x_t]`, which differs by a
# factor and a constant.

import matplotlib.pyplot as plt
import numpy as np

from skgen import FlowMatchingDensity
from skgen.datasets import Checkerboard, EightGaussians

targets = {"eight Gaussians": EightGaussians(), "checkerboard": Checkerboard()}
flows = {}
for name, target in targets.items():
    X = target.sample(20_000, random_state=0)
    flow = FlowMatchingDensity(loss="interpolant", max_iter=4000, batch_size=1024, random_state=0)
    flows[name] = flow.fit(X)

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, flow in flows.items():
    steps = np.linspace(0, flow.n_iter_, len(flow.loss_curve_) + 1)[1:]
    ax.plot(steps, flow.loss_curve_, label=name)
ax.set(xlabel="gradient step", ylabel="mean of $|b|^2/2 - b\\cdot\\dot x_t$")
ax.legend()

# %%
# The stochastic equation :math:`dx = (b + \varepsilon s)\,dt + \sqrt{2\varepsilon}\,dW` needs the
# score function :math:`s`, which follows from the velocity. With :math:`\varepsilon` in
# proportion to the noise that is left, :math:`\varepsilon s` stays finite at the data. Samples of
# the data, of the ordinary equation by Euler's method and of the stochastic one by that of Euler
# and Maruyama, 80 steps each:

ways = {"data": None, "ODE": {"sampler": "euler"}, "SDE": {"sampler": "euler_maruyama"}}
figure, axes = plt.subplots(2, 3, figsize=(8, 5.4), layout="constrained")
for row, (name, flow) in zip(axes, flows.items(), strict=True):
    for ax, (title, way) in zip(row, ways.items(), strict=True):
        if way is None:
            drawn = targets[name].sample(20_000, random_state=1)
        else:
            drawn = flow.sample(20_000, random_state=0, n_steps=80, **way)
        reach = 1.15 * np.abs(targets[name].sample(2000, random_state=0)).max()
        edges = np.linspace(-reach, reach, 120)
        ax.hist2d(*drawn.T, bins=[edges, edges], cmap="magma")
        ax.set(aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"{name}: {title}", fontsize=10)

# %%
# How much noise the stochastic equation has is chosen when sampling, not when training: any
# diffusion leaves the distribution unchanged, while the ways become rougher.

flow = flows["eight Gaussians"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
for ax, strength in zip(axes, (0.0, 0.3, 3.0), strict=True):

    def diffusion(t, strength=strength):
        return strength * (1 - t)

    trajectory = flow.sample_trajectory(
        24, random_state=3, sampler="euler_maruyama", n_steps=200, diffusion=diffusion,
        time_grid="uniform",
    )  # fmt: skip
    ax.plot(trajectory[..., 0], trajectory[..., 1], color="C0", linewidth=0.6, alpha=0.7)
    ax.plot(*trajectory[-1].T, ".", color="C1")
    ax.set(aspect="equal", xlabel="$x_1$", title=rf"$\varepsilon = {strength:g}\,(1-t)$")
axes[0].set_ylabel("$x_2$")
plt.show()
