"""Every public estimator and its main variants, with settings cheap enough to fit in a blink.

A new estimator joins the tests of the contract by being listed here.
"""

from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skgen import FlowMatchingDensity, GaussianMLE
from skgen.compose import StackedDensity


def cheap_flow(**parameters):
    settings = {"max_iter": 20, "hidden_layer_sizes": (16, 16), "random_state": 0}
    return FlowMatchingDensity(**{**settings, **parameters})


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
    "flow-deep": cheap_flow(preconditioning="standardize", hidden_layer_sizes=(8, 8, 8)),
    "flow-unstopped": cheap_flow(early_stopping=False),
    "flow-undefended": cheap_flow(preconditioning="standardize", defensive_weight=0),
    "stack": StackedDensity(estimators=cheap_members(), random_state=0),
    "stack-cv": StackedDensity(estimators=cheap_members(), cv=2, random_state=0),
}
