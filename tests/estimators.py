"""Every public estimator and its main variants, with settings cheap enough to fit in a blink.

A new estimator joins the tests of the contract by being listed here.
"""

from functools import cache

import numpy as np
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skgen import DDPMGenerator, FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.compose import StackedDensity
from skgen.trained import TrainedDensity


def cheap_flow(**parameters):
    settings = {"max_iter": 6, "hidden_layer_sizes": (16, 16), "n_steps": 12, "solver_tol": 1e-2}
    return FlowMatchingDensity(**{**settings, "random_state": 0, **parameters})


def cheap_diffusion(**parameters):
    settings = {"max_iter": 6, "hidden_layer_sizes": (16, 16), "n_steps": 12, "solver_tol": 0,
                "n_timesteps": 100, "preconditioning": "standardize"}  # fmt: skip
    return DDPMGenerator(**{**settings, "random_state": 0, **parameters})


def cheap_coupling(**parameters):
    settings = {"max_iter": 6, "hidden_layer_sizes": (8, 8), "n_blocks": 2, "n_bins": 4}
    return RealNVPDensity(**{**settings, "random_state": 0, **parameters})


def cheap_members():
    return [
        ("mixture", GaussianMixture(2)),
        ("kernel", KernelDensity(bandwidth=0.5)),
        ("gaussian", GaussianMLE()),
    ]


ESTIMATORS = {
    "gaussian": GaussianMLE(random_state=0),
    "gaussian-diag": GaussianMLE(covariance_type="diag", random_state=0),
    "gaussian-spherical": GaussianMLE(covariance_type="spherical", random_state=0),
    "gaussian-white": GaussianMLE(covariance_type="white", random_state=0),
    "gaussian-sgd": GaussianMLE(solver="sgd", max_iter=20, random_state=0),
    "flow": cheap_flow(),
    "flow-standardize": cheap_flow(preconditioning="standardize"),
    "flow-gaussianize": cheap_flow(preconditioning="gaussianize"),
    "flow-deep": cheap_flow(
        preconditioning="standardize",
        hidden_layer_sizes=(8, 8, 8),
        max_iter=4,
        early_stopping=False,
    ),
    "flow-unstopped": cheap_flow(early_stopping=False),
    "flow-undefended": cheap_flow(preconditioning="standardize", defensive_weight=0),
    "flow-bounds": cheap_flow(bounds={0: (-50, None)}, preconditioning="standardize", solver_tol=0),
    "flow-preserving": cheap_flow(
        path="variance_preserving",
        prediction="noise",
        preconditioning="standardize",
        solver_tol=0,
    ),
    "flow-transport": cheap_flow(
        path="independent", coupling="optimal_transport", loss="interpolant", early_stopping=False
    ),
    "diffusion": cheap_diffusion(),
    "diffusion-exact": cheap_diffusion(
        sampler="exact", prediction_type="noise", beta_schedule="cosine", early_stopping=False
    ),
    "coupling": cheap_coupling(),
    "coupling-affine": cheap_coupling(
        transformer="affine", linear="permutation", n_groups=3, preconditioning="standardize"
    ),
    "coupling-student": cheap_coupling(base="student", preconditioning="standardize"),
    "coupling-mixture": cheap_coupling(base="mixture", preconditioning="gaussianize"),
    "coupling-on-gaussian": cheap_coupling(base=GaussianMLE(), early_stopping=False),
    "coupling-circle": cheap_coupling(periodic={0: (-1e9, 1e9)}, preconditioning="gaussianize"),
    "coupling-noisy": cheap_coupling(
        dropout=0.2, input_noise=0.1, defensive_weight=0, preconditioning="standardize"
    ),
    "stack": StackedDensity(estimators=cheap_members(), random_state=0),
    "stack-cv": StackedDensity(estimators=cheap_members(), cv=2, random_state=0),
}
TRAINED = [name for name, e in ESTIMATORS.items() if isinstance(e, TrainedDensity)]
EXACT_REFITS = [*TRAINED, *(n for n in ESTIMATORS if n.startswith("gaussian") and "sgd" not in n)]


def two_clusters(n_samples=60, n_features=2, seed=0):
    """Rows of two correlated clusters with unequal units in the columns."""
    rng = np.random.RandomState(seed)
    z = rng.normal(size=(n_samples, n_features))
    z[:, -1] += 0.5 * z[:, 0]
    z += 3 * (np.arange(n_samples) % 3 == 0)[:, None]
    return z * np.linspace(1, 0.5, n_features) + np.linspace(2, -1, n_features)


@cache
def fit_once(name, n_samples=60, n_features=2):
    """Estimator fitted to `two_clusters`; shared by tests, which must not change it."""
    return clone(ESTIMATORS[name]).fit(two_clusters(n_samples, n_features))
