"""
Model selection
===============

`score` is a mean log-likelihood in nats per row, so scikit-learn's searches maximise the right
thing as they are. Which preconditioning, which network, which learning rate?
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import loguniform
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, train_test_split

from skgen import FlowMatchingDensity
from skgen.datasets import Spiral

X = np.exp(Spiral().sample(2000, random_state=0))  # two positive, skewed columns
X_train, X_test = train_test_split(X, random_state=0)

# %%
# A grid of every combination. Three folds for each of four candidates are twelve fits, so the
# training is short here.

density = FlowMatchingDensity(max_iter=500, random_state=0)
grid = GridSearchCV(
    density,
    {
        "preconditioning": ["standardize", "gaussianize"],
        "hidden_layer_sizes": [(32, 32), (128, 128)],
    },
    cv=3,
).fit(X_train)
print("best of the grid:", grid.best_params_)

# %%
# A random search draws candidates from distributions, which serves parameters with a scale.

search = RandomizedSearchCV(
    grid.best_estimator_,
    {"learning_rate_init": loguniform(1e-3, 2e-2), "weight_decay": loguniform(1e-6, 1e-1)},
    n_iter=4,
    cv=3,
    random_state=1,
).fit(X_train)
print("best of the random search:", {k: float(f"{v:.2g}") for k, v in search.best_params_.items()})

worst = grid.cv_results_["params"][int(np.argmin(grid.cv_results_["mean_test_score"]))]
models = {
    "worst of the grid": density.set_params(**worst).fit(X_train),
    "best of the grid": grid,
    "best of the random search": search,
}
print("log-likelihood of held-out rows, nats per row")
for name, model in models.items():
    print(f"{name:26s} {model.score(X_test):6.3f}")

# %%
# Each fold's score is a dot, the mean of a candidate a line. Folds differ more than candidates, so
# compare candidates fold by fold: the grey lines join the scores of one fold.


def show_folds(ax, results, positions):
    """Scores of each fold at the position of each candidate."""
    folds = np.array([results[f"split{k}_test_score"] for k in range(3)])
    order = np.argsort(positions)
    positions = np.asarray(positions)[order]
    ax.plot(positions, folds.T[order], "o-", color="0.7", ms=4, lw=0.8)
    ax.plot(positions, folds.mean(axis=0)[order], "o-", color="C0", label="mean of the folds")
    ax.grid(axis="y", alpha=0.3)


fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
labels = [
    f"{params['hidden_layer_sizes'][0]}\n{params['preconditioning']}"
    for params in grid.cv_results_["params"]
]
show_folds(axes[0], grid.cv_results_, range(len(labels)))
axes[0].set_xticks(range(len(labels)), labels, fontsize=9)
axes[0].set(xlabel="width of the layers, preconditioning", ylabel="score (nats per row)")
axes[0].legend(loc="upper left")
rates = [params["learning_rate_init"] for params in search.cv_results_["params"]]
show_folds(axes[1], search.cv_results_, rates)
axes[1].set(xlabel="learning_rate_init", xscale="log")
plt.show()
