"""
Anomaly scores
==============

A row is unusual where the density of usual rows is low. Here the usual rows are benign cell samples
of the breast cancer data; the models never see a malignant one. The question is how well minus the
log-density separates the malignant samples from benign ones that were held out.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import RocCurveDisplay, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgen import FlowMatchingDensity

data = load_breast_cancer(as_frame=True)
columns = [name for name in data.data if name.startswith("worst")]
X, is_malignant = data.data[columns], data.target == 0
X_train, X_benign = train_test_split(X[~is_malignant], test_size=0.4, random_state=0)
X_malignant = X[is_malignant]
print(
    f"{len(X_train)} rows to fit, {len(X_benign)} benign and {len(X_malignant)} malignant to test"
)

# %%
# For ranking rows, the units of a log-density do not matter, so the mixture may be fitted in a
# pipeline behind a scaler. The Bayesian information criterion chooses its number of components. The
# columns are positive and skewed, which speaks for ``preconditioning="gaussianize"``.

Z_train = StandardScaler().fit_transform(X_train)
sizes = range(1, 9)
bic = [GaussianMixture(k, random_state=0).fit(Z_train).bic(Z_train) for k in sizes]
mixture = GaussianMixture(sizes[int(np.argmin(bic))], random_state=0)
detectors = {
    "FlowMatchingDensity": FlowMatchingDensity(preconditioning="gaussianize", random_state=0),
    "GaussianMixture": make_pipeline(StandardScaler(), mixture),
    "IsolationForest": IsolationForest(random_state=0),
}
scores = {}
for name, detector in detectors.items():
    detector.fit(X_train)
    scores[name] = [detector.score_samples(rows) for rows in (X_benign, X_malignant)]

# %%
# Each curve shows, for every threshold, the share of the malignant rows found and the share of the
# benign rows flagged by mistake. To flag a known share of benign rows, say 5 %, take the 5 %
# quantile of the log-densities of held-out benign rows as the threshold. Not of the training rows:
# those score higher.

fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
label = np.repeat([0, 1], [len(X_benign), len(X_malignant)])
for name, parts in scores.items():
    anomaly = -np.concatenate(parts)
    print(f"{name:20s} area under the ROC curve {roc_auc_score(label, anomaly):.3f}")
    RocCurveDisplay.from_predictions(label, anomaly, name=name, ax=axes[0])
axes[0].set(xlabel="share of benign rows flagged", ylabel="share of malignant rows found")

usual, unusual = scores["FlowMatchingDensity"]
threshold = np.quantile(usual, 0.05)
bins = np.arange(-60, usual.max() + 2, 2)
for values, kind in ((usual, "benign"), (unusual, "malignant")):
    print(f"{kind:9s} rows below the threshold: {np.mean(values < threshold):.0%}")
    axes[1].hist(values.clip(min=bins[0]), bins, alpha=0.6, label=kind)
axes[1].axvline(threshold, color="k", ls="--", lw=1, label="5 % of the benign rows lie below")
axes[1].set(
    xlabel="log-density under FlowMatchingDensity (nats;\nthe first bar holds all that is lower)",
    ylabel="held-out rows",
)
axes[1].margins(y=0.4)  # room for the legend
axes[1].legend(loc="upper left")
plt.show()

# %%
# The three rank these rows about equally well. A density adds a unit: ten nats lower means 22,000
# times less dense, for every row and every model.
