r"""
Pipelines and units
===================

A density estimator may be the last step of a pipeline, and `cross_val_score` and the like then work
as usual. One thing needs care: the pipeline's log-density is that of the *transformed* rows. In the
units of the table, a transformation :math:`z = g(x)` adds

.. math:: \log p_X(x) = \log p_Z(g(x)) + \log \left| \det \frac{\partial g}{\partial x} \right|

and without that term, scores of pipelines with different transformers cannot be compared.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skgen import FlowMatchingDensity

columns = ["mean radius", "mean texture", "mean smoothness", "mean concavity"]
X = load_breast_cancer(as_frame=True).data[columns]
density = FlowMatchingDensity(max_iter=500, random_state=0)

# %%
# Three pipelines: the table as it is, standardised, and in units a hundred times smaller. The
# estimator brings the columns to a common scale itself, so the three fits are the same but for
# rounding. Their scores are not: they are about different units.

pipelines = {
    "no transformer": density,
    "StandardScaler": make_pipeline(StandardScaler(), density),
    "100 times the values": make_pipeline(FunctionTransformer(lambda X: 100 * X), density),
}
log_det = {
    "no transformer": 0.0,
    "StandardScaler": -np.log(X.std(ddof=0)).sum(),
    "100 times the values": len(columns) * np.log(100),
}
scores = {name: cross_val_score(pipeline, X, cv=3) for name, pipeline in pipelines.items()}

fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for k, (name, values) in enumerate(scores.items()):
    print(
        f"{name:20s} score {values.mean():7.2f}, in the units of the table "
        f"{values.mean() + log_det[name]:6.2f} nats per row"
    )
    for ax, shift in zip(axes, (0, log_det[name]), strict=True):
        ax.scatter(values + shift, np.full(len(values), k), s=30, c=f"C{k}", alpha=0.7)
axes[0].set_yticks(range(3), list(scores))
axes[0].set(ylim=(2.5, -0.5), title="scores of the pipelines", xlabel="nats per row")
axes[1].set(title="plus the log-determinant", xlabel="nats per row, in the units of the table")
for ax in axes:
    ax.grid(axis="x", alpha=0.3)
plt.show()

# %%
# (The scaler is fitted anew in each fold, so its log-determinant here, from all rows, is right up
# to a few hundredths.)
#
# So scaling is better left to the estimator. A pipeline is the place for what changes the rows: to
# choose columns, to impute, to project. To sample, draw from the last step and go back through the
# others. With ``set_output``, the estimator returns frames with the names of the columns.

pipeline = make_pipeline(StandardScaler(), density).set_output(transform="pandas").fit(X)
Z_new = pipeline[-1].sample(5)
print(Z_new.round(2))

X_new = pipeline[:-1].inverse_transform(Z_new)
print(np.round(X_new, 2))
