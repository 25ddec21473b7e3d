r"""
The normal density, by formula and by descent
=============================================

Before deep models, the density that all of them start from: samples against the contours of their
density, maximum likelihood for four forms of the covariance, and how far each is from the truth.
"""

# %%
# A normal density in the plane with mean (1, 2). Half of its mass lies within the second contour
# and 90 % within the third, and so should the samples.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import chi2, multivariate_normal

from skgen import GaussianMLE

mean, covariance = np.array([1.0, 2.0]), np.array([[1.0, 0.6], [0.6, 1.5]])
truth = multivariate_normal(mean, covariance)
X = truth.rvs(1000, random_state=0)
density = GaussianMLE(random_state=0).fit(X)

shares = (0.9, 0.5, 0.1)


def contours(ax, model, color):
    """Draw the lines within which those shares of a normal density lie."""
    axes = np.meshgrid(np.linspace(-3, 5, 200), np.linspace(-3, 7, 200))
    points = np.stack([a.ravel() for a in axes], axis=1)
    top = model.score_samples(model.mean_[None])[0]
    levels = [top - chi2(2).ppf(share) / 2 for share in shares]
    log_density = model.score_samples(points).reshape(axes[0].shape)
    ax.contour(*axes, log_density, levels=levels, colors=color, linestyles="solid")


drawn = density.sample(2000)
figure, ax = plt.subplots(figsize=(5, 5), layout="constrained")
ax.plot(*drawn.T, ".", markersize=3, alpha=0.6, label="samples")
contours(ax, density, "black")
ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", title="10, 50 and 90 % of the mass")
ax.legend()

distance = (
    (drawn - density.mean_) @ np.linalg.inv(density.covariance_) * (drawn - density.mean_)
).sum(1)
for share in shares:
    print(f"{share:.0%} of the mass, {np.mean(distance < chi2(2).ppf(share)):.1%} of the samples")

# %%
# Maximum likelihood minimises the empirical risk, the mean negative log-likelihood of the rows. As
# the rows grow in number it comes to the Kullback-Leibler divergence of the fit from the truth,
# plus the entropy of the truth. "white" fits only the mean, and each further form more.


def divergence(model):
    """Kullback-Leibler divergence of a normal density from the truth, in closed form (nats)."""
    inverse, shift = np.linalg.inv(model.covariance_), model.mean_ - mean
    log_ratio = np.linalg.slogdet(model.covariance_)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(inverse @ covariance) - 2 + shift @ inverse @ shift + log_ratio)


fresh = truth.rvs(100_000, random_state=1)
forms = ("white", "spherical", "diag", "full")
figure, axes = plt.subplots(1, 4, figsize=(10, 3.4), sharex=True, sharey=True, layout="constrained")
print("covariance  mean            risk    KL, formula   KL, fresh rows")
for ax, form in zip(axes, forms, strict=True):
    model = GaussianMLE(covariance_type=form).fit(X)
    found = truth.logpdf(fresh).mean() - model.score(fresh)
    print(
        f"{form:<10}  {model.mean_[0]:.3f}, {model.mean_[1]:.3f}   {-model.score(X):.4f}  "
        f"{divergence(model):.4f}        {found:.4f}"
    )
    ax.plot(*X.T, ".", markersize=2, alpha=0.4)
    contours(ax, model, "black")
    ax.set(title=f"{form}\nKL {divergence(model):.3f} nats", xlabel="$x_1$", aspect="equal")
axes[0].set_ylabel("$x_2$")

# %%
# The same by stochastic gradient descent, without the formula: the estimates agree.

for form in forms:
    by_formula = GaussianMLE(covariance_type=form).fit(X)
    by_descent = GaussianMLE(covariance_type=form, solver="sgd", random_state=0).fit(X)
    gap = max(
        np.abs(by_formula.mean_ - by_descent.mean_).max(),
        np.abs(by_formula.covariance_ - by_descent.covariance_).max(),
    )
    print(f"{form:<10} mean {by_descent.mean_.round(3)}, largest difference {gap:.1e}")
plt.show()
