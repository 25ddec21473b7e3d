"""
Stacking densities
==================

A few rows are best described by a simple density, many rows by a flexible one, and it is hard to
know in advance which it is. `StackedDensity` mixes its members with weights that maximise the
likelihood of rows that the members have not seen. Here the truth is known, so the loss of each can
be measured in nats.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skgen import FlowMatchingDensity
from skgen.compose import StackedDensity
from skgen.datasets import Pinwheel

truth = Pinwheel()
X_test = truth.sample(2000, random_state=1)
members = [
    ("mixture", GaussianMixture(10, reg_covar=1e-4)),
    ("kernel", KernelDensity(bandwidth=0.12)),
    ("flow", FlowMatchingDensity(preconditioning="standardize", max_iter=1000)),
]

# %%
# With ``cv=3`` the weights come from the held-out rows of three folds. The members of all folds
# are kept: each name stands for the mean of three densities.

sizes = [100, 400, 1600]
losses, weights = [], []
for n_rows in sizes:
    stack = StackedDensity(estimators=members, cv=3, random_state=0)
    stack.fit(truth.sample(n_rows, random_state=0))
    scores = [member.score_samples(X_test).mean() for member in stack.estimators_]
    losses.append(-truth.entropy() - np.array([*scores, stack.score(X_test)]))
    weights.append(stack.weights_)

names = [*stack.named_estimators_, "stack"]
print("KL(truth || model), nats   " + "".join(f"{name:>9s}" for name in names))
for n_rows, row in zip(sizes, losses, strict=True):
    print(f"{n_rows:20d} rows   " + "".join(f"{value:9.3f}" for value in row))

# %%
# The weights move from member to member as rows come in. The mixture is about as good as its best
# member, or better, without anyone having to choose.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
colours = ["C0", "C2", "C1", "k"]
for name, values, colour in zip(names, np.transpose(losses), colours, strict=True):
    axes[0].loglog(sizes, values, "o-", color=colour, label=name, lw=2 if name == "stack" else 1.2)
axes[0].set_xticks(sizes, sizes)
axes[0].set_yticks([0.25, 0.5, 1, 2], [0.25, 0.5, 1, 2])
axes[0].minorticks_off()
axes[0].set(xlabel="training rows", ylabel="KL(truth || model) (nats)")
axes[0].legend()

bottom = np.zeros(len(sizes))
for name, share, colour in zip(names, np.transpose(weights), colours, strict=False):
    axes[1].bar([f"{n}" for n in sizes], share, 0.6, bottom=bottom, color=colour, label=name)
    bottom += share
axes[1].set(xlabel="training rows", ylabel="weight in the stack")
plt.show()
