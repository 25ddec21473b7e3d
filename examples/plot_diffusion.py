r"""
Denoising diffusion
===================

A chain of small steps turns data into noise. A network that finds the noise in a noisy row is
enough to walk the chain backwards, in all of its steps or in few.
"""

# %%
# The chain at five of its 1,000 steps, :math:`x_k = \sqrt{\bar\alpha_k}\,x_0 +
# \sqrt{1-\bar\alpha_k}\,\epsilon`:

import matplotlib.pyplot as plt
import numpy as np

from skgen import DDPMGenerator
from skgen.datasets import Pinwheel

X = Pinwheel().sample(5000, random_state=0)
diffusion = DDPMGenerator(preconditioning="standardize", max_iter=4000, random_state=0).fit(X)

figure, axes = plt.subplots(1, 5, figsize=(10, 2.3), sharex=True, sharey=True, layout="constrained")
for ax, step in zip(axes, (0, 50, 150, 400, 1000), strict=True):
    noisy = diffusion.add_noise(X[:3000], step, random_state=0)
    ax.plot(*noisy.T, ".", markersize=1.2, alpha=0.5)
    ax.set(title=f"step {step}", aspect="equal", xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")

# %%
# Backwards: the chain itself, and two solvers that take a twentieth or a fiftieth of its steps.
# The title has the mean log-density of the samples under the true law, whose negative entropy is
# the first.

ways = {
    "data": None,
    "ancestral, 1000 steps": {},
    "DDIM, 50 steps": {"sampler": "ddim"},
    "DPM-Solver++, 20 steps": {"sampler": "dpm_solver++"},
}
figure, axes = plt.subplots(1, 4, figsize=(10, 3), sharex=True, sharey=True, layout="constrained")
for ax, (title, way) in zip(axes, ways.items(), strict=True):
    drawn = Pinwheel().sample(3000, random_state=1)
    if way is not None:
        drawn = diffusion.sample(3000, random_state=0, **way)
    nats = np.mean(Pinwheel().score_samples(drawn))
    ax.plot(*drawn.T, ".", markersize=1.2, alpha=0.5)
    ax.set(aspect="equal", xlabel="$x_1$")
    ax.set_title(f"{title}\n{nats:.2f} nats", fontsize=10)
axes[0].set_ylabel("$x_2$")

# %%
# Two numbers measure the fit. `score` is the exact log-density of the differential equation with
# the same distributions, and can be compared with that of any other density. `elbo` is the
# variational bound of the chain.

X_test = Pinwheel().sample(1000, random_state=2)
print(f"log-density {diffusion.score(X_test):.3f} nats")
print(f"bound       {diffusion.elbo(X_test, random_state=0, n_draws=4).mean():.3f} nats")
print(f"truth       {Pinwheel().score(X_test):.3f} nats")
plt.show()
