"""
Quickstart
==========

Fit a density to a real table, compare it with two classical ones on rows that none of them has
seen, and draw new rows from it.

The table is the breast cancer data that scikit-learn ships: 569 cell samples, 30 measurements
each, in units that differ by a factor of 100,000.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from skgen import FlowMatchingDensity

data = load_breast_cancer()
names = list(data.feature_names)
X_train, X_test = train_test_split(data.data, random_state=0)

# %%
# One line fits the density. The columns need no scaling: the log-densities are in the units of the
# table whatever is done to the columns inside.

start = time.perf_counter()
density = FlowMatchingDensity(random_state=0).fit(X_train)
log_density = {"FlowMatchingDensity": density.score_samples(X_test)}
print(f"fit and score in {time.perf_counter() - start:.0f} s")

# %%
# The classical densities need standardised columns. Their log-densities are then those of the
# standardised rows; subtracting the logarithms of the scales brings them to the units of the table.
# The mixture's components and covariances are chosen on a tenth of the training rows, the kernel's
# bandwidth by cross-validation.

scaler = StandardScaler().fit(X_train)
Z_train, Z_test = scaler.transform(X_train), scaler.transform(X_test)
log_det = -np.log(scaler.scale_).sum()

Z_fit, Z_val = train_test_split(Z_train, test_size=0.1, random_state=0)
candidates = [
    GaussianMixture(k, covariance_type=kind, random_state=0).fit(Z_fit)
    for kind in ("full", "diag")
    for k in (1, 2, 4, 8, 16)
]
mixture = max(candidates, key=lambda candidate: candidate.score(Z_val)).fit(Z_train)
log_density["GaussianMixture"] = mixture.score_samples(Z_test) + log_det

search = GridSearchCV(KernelDensity(), {"bandwidth": np.logspace(-1.5, 0.5, 20)}, cv=5)
kernel = search.fit(Z_train).best_estimator_
log_density["KernelDensity"] = kernel.score_samples(Z_test) + log_det

best = log_density["FlowMatchingDensity"]
print(f"\nlog-likelihood of {len(X_test)} held-out rows, nats per row")
print(f"{'':20s} {'mean':>6s}   {'behind the flow':>15s}")
for name, values in log_density.items():
    behind = best - values
    error = behind.std() / np.sqrt(len(behind))
    print(f"{name:20s} {values.mean():6.2f}   {behind.mean():6.2f} +- {error:.2f}")

# %%
# Samples are new rows in the units of the table. In these pairs of columns they lie where the
# held-out rows lie, curved and skewed as these are. A few stray: the simple densities that are
# mixed in get a share from the held-out rows.

X_new = density.sample(len(X_test))
flow, mixture, start, gaussian, *other_flows = density.mixture_weights_
print(f"\nweights in the mixture: {1 + len(other_flows)} flows {flow + sum(other_flows):.3f},")
print(f"Gaussian mixture {mixture:.3f}, the flow's start {start:.3f}, Gaussian {gaussian:.3f}")

pairs = [
    ("mean radius", "mean area"),
    ("mean concavity", "worst compactness"),
    ("area error", "worst texture"),
]
fig = plt.figure(figsize=(9, 6), layout="constrained")
top, bottom = fig.subfigures(2, 1, height_ratios=[2, 1])
for j, (ax, pair) in enumerate(zip(top.subplots(1, 3), pairs, strict=True)):
    columns = [names.index(name) for name in pair]
    for rows, colour, label in ((X_test, "C0", "held-out rows"), (X_new, "C1", "samples")):
        ax.scatter(*rows[:, columns].T, s=14, c=colour, alpha=0.6, linewidths=0, label=label)
    ax.set(xlabel=pair[0], ylabel=pair[1])
    if j == 0:
        ax.legend(loc="upper left", frameon=False, handletextpad=0.1)
top.suptitle(f"{len(X_test)} held-out rows and as many samples, units of the table", fontsize=11)

ax = bottom.subplots()
for k, (name, values) in enumerate(reversed(log_density.items())):
    colour = "C1" if name == "FlowMatchingDensity" else "0.45"
    error = values.std() / np.sqrt(len(values))
    ax.errorbar(values.mean(), k, xerr=error, fmt="o", color=colour, capsize=3)
    ax.annotate(f"{values.mean():.1f}", (values.mean(), k + 0.18), ha="center", color=colour)
ax.set_yticks(range(len(log_density)), reversed(log_density))
ax.set_ylim(-0.5, len(log_density) - 0.3)
ax.set_xlabel("held-out log-likelihood (nats per row; mean, standard error; higher is better)")
ax.grid(axis="x", alpha=0.3)

fig.savefig("quickstart.png", dpi=150)
print("\npicture saved as quickstart.png")
