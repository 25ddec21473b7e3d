"""
Change of variables, by hand and learnt
=======================================

A normalizing flow is a chain of invertible maps from data to noise. The density of the data is that
of the noise times the factor by which the maps stretch space, the determinant of their Jacobian.
First this is drawn for one curve; then maps are composed by hand; then ``RealNVPDensity`` learns a
chain, and the data are watched on their way through it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons

from skgen import RealNVPDensity
from skgen.core.bijections import Chain, LULinear
from skgen.core.coupling import Coupling
from skgen.core.transformers import Affine

# %%
# One dimension. The noise z is normal, and the data are x = sinh(z). Where the curve is flat, much
# probability falls on a short stretch of x, and the density is high:
# :math:`p(x) = p(z)\,|dz/dx|`.

z = np.linspace(-2.2, 2.2, 400)
x, stretch = np.sinh(z), np.cosh(z)
normal = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)

fig, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
axes[0].plot(z, normal)
axes[0].set(xlabel="noise z", ylabel="density p(z)", title="normal noise", ylim=(0, None))
axes[1].plot(z, x)
axes[1].set(xlabel="noise z", ylabel="data x", title="the map x = sinh(z)")
axes[2].hist(np.sinh(np.random.default_rng(0).normal(size=20_000)), bins=120, range=(-4.5, 4.5),
             density=True, color="0.8", label="samples")  # fmt: skip
axes[2].plot(x, normal / stretch, label="p(z) / |dx/dz|")
axes[2].set(xlabel="data x", ylabel="density p(x)", title="density of the data")
axes[2].legend(fontsize=7, loc="upper left", handlelength=1)

# %%
# Two dimensions, composed by hand. A linear map shears the plane, and a coupling moves the second
# column by an amount that depends on the first. ``Chain`` adds their log-determinants, and its
# inverse runs them backwards. (A coupling starts as the identity; here its weights are set at
# random.) A small square of the grid becomes a small parallelogram, larger or smaller by the
# determinant.

generator = torch.Generator().manual_seed(4)
shear = LULinear(torch.arange(2))
bend = Coupling(2, Affine(), (16, 16), "tanh", 1, 0.0, generator)
with torch.no_grad():
    shear.packed[1, 0], shear.packed[0, 0] = 0.5, 0.3  # L below the diagonal, log U on it
    list(bend.parameters())[-1].normal_(0.0, 0.5, generator=generator)
maps = Chain(shear, bend).double()

line = torch.linspace(-2, 2, 41, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)
with torch.no_grad():
    image, log_det = maps(grid)
    error = (maps.inverse(image) - grid).abs().max()
print(f"largest difference after the return trip: {float(error):.1e}")

fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, rows, title in zip(axes, (grid, image), ("grid", "its image"), strict=True):
    mesh = ax.pcolormesh(*rows.movedim(-1, 0), log_det.exp(), shading="gouraud")
    for lines in (rows[::5], rows[:, ::5].transpose(0, 1)):
        ax.plot(*lines.movedim(-1, 0).transpose(-1, -2), color="k", lw=0.5)
    ax.set(title=title, xlabel="first column", ylabel="second column")
fig.colorbar(mesh, ax=axes, label="|determinant|: growth of an area")

# %%
# Learnt on two moons. The chain of the fitted density maps data to noise. Watch the moons after
# each coupling on the way to the normal distribution, and the way back from noise to samples.

X, moon = make_moons(3000, noise=0.06, random_state=0)
density = RealNVPDensity(preconditioning="standardize", max_iter=1500, random_state=0).fit(X)

whitening, flow = density.module_.components[0].bijection, density.module_.components[0].model
layers = list(flow.chain.layers)  # linear maps and couplings in turn, and a permutation
pairs = [Chain(*layers[k : k + 2]) for k in range(0, len(layers) - 1, 2)]
with torch.no_grad():
    forward = [whitening(torch.from_numpy(X))[0]]
    for pair in pairs:
        forward.append(pair(forward[-1])[0])
    backward = [torch.randn(3000, 2, generator=generator, dtype=torch.float64)]
    for pair in reversed(pairs):
        backward.append(pair.inverse(backward[-1]))


def columns(rows, n_passed):
    # The last column is mapped, so every second coupling has the two the other way round.
    return (rows.flip(1) if n_passed else rows).T


stops = [0, 2, 4, 6]
fig, axes = plt.subplots(2, 4, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
for ax, k in zip(axes[0], stops, strict=True):
    ax.scatter(*columns(forward[k], k), s=2, c=np.where(moon, "C1", "C0"), linewidths=0)
    ax.set_title("data, whitened" if k == 0 else f"after {k} couplings", fontsize=10)
for ax, k in zip(axes[1], stops, strict=True):
    ax.scatter(*columns(backward[k], 6 - k), s=2, c="0.4", linewidths=0)
    ax.set_title("noise" if k == 0 else f"after {k} inverses", fontsize=10)
for ax in axes.flat:
    ax.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
axes[0, 0].set_ylabel("to noise")
axes[1, 0].set_ylabel("to data")
plt.show()
