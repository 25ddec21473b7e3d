"""
Digits given their class
========================

With ``conditional=True`` a flow is fitted to X given y: it can draw any class, score rows under
each class, and complete rows of which only a part is known.
"""

# %%
# Images of 8 by 8 pixels, with grey levels from 0 to 16. The few pixels that are never inked have
# no density and are left out.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skgen import FlowMatchingDensity

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
varying = X_train.std(axis=0) > 0
flow = FlowMatchingDensity(
    conditional=True, hidden_layer_sizes=(256, 256), max_iter=4000, early_stopping=False,
    preconditioning="standardize", reg_covar=1e-2, random_state=0,
).fit(X_train[:, varying], y_train)  # fmt: skip


def show(ax, rows, n_columns):
    """Draw rows as a table of images."""
    images = np.zeros((len(rows), 64))
    images[:, varying] = rows
    images = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    table = images.reshape(-1, n_columns, 10, 10).swapaxes(1, 2).reshape(-1, 10 * n_columns)
    ax.imshow(table, cmap="gray_r", vmin=0, vmax=16)
    ax.set(xticks=[], yticks=[])


# %%
# Ten of each class. Guidance moves them towards what is typical of their class: clearer digits,
# and less variety.

labels = np.repeat(np.arange(10), 10)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
real = np.concatenate([X_train[y_train == k][:10] for k in range(10)])
show(axes[0], real[:, varying], 10)
axes[0].set_title("training data", fontsize=10)
for ax, guidance in zip(axes[1:], (0.0, 1.0), strict=True):
    drawn = flow.sample(100, y=labels, guidance=guidance, sampler="heun", n_steps=30)
    show(ax, drawn, 10)
    ax.set_title(f"samples, guidance {guidance:g}", fontsize=10)

# %%
# The log-density given each class is a classifier by Bayes' rule.

given = np.column_stack([flow.score_samples(X_test[:, varying], k) for k in range(10)])
accuracy = np.mean(given.argmax(axis=1) == y_test)
print(f"{accuracy:.3f} of the test rows have the highest density given their own class")

# %%
# ``sample_given`` draws unknown values given the known ones, and the class: the upper half is
# real, the lower half is drawn, five times each.

known = np.where(np.arange(64) < 32, X_test[:10], np.nan)[:, varying]
drawn = [flow.sample_given(known, random_state=seed, y=y_test[:10]) for seed in range(5)]
figure, axes = plt.subplots(2, 1, figsize=(7, 4.4), height_ratios=(1, 5), layout="constrained")
show(axes[0], X_test[:10, varying], 10)
axes[0].set_title("test rows", fontsize=10)
show(axes[1], np.concatenate(drawn), 10)
axes[1].set_title("the upper half, and five draws of the lower half", fontsize=10)
plt.show()
