"""Fixtures that run a test over every estimator, and settings for all tests."""

import pytest
import torch
from sklearn.base import clone

from .estimators import ESTIMATORS, TRAINED, fit_once

torch.set_num_threads(1)  # the networks are tiny: a second thread would only wait for the first

# Cheap fits stop long before they converge, and their densities are solved roughly.
EXPECTED = ["sklearn.exceptions.ConvergenceWarning", "skgen.core.flow.SolverAccuracyWarning"]


# Their siblings run scikit-learn's own checks in every run; all of these take a minute.
VARIATIONS = [
    clone(ESTIMATORS[name])
    for name in ("flow-standardize", "flow-gaussianize", "flow-unstopped", "flow-undefended",
                 "flow-preserving", "diffusion-exact", "coupling-student", "coupling-mixture",
                 "coupling-on-gaussian", "coupling-circle", "coupling-noisy")
]  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    variations = {repr(estimator) for estimator in VARIATIONS}
    for item in items:
        checked = item.originalname == "test_check_estimator"
        if checked and repr(item.callspec.params["estimator"]) in variations:
            item.add_marker(pytest.mark.slow)
        for warning in EXPECTED:
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{warning}"))


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    """Each listed estimator, unfitted."""
    return clone(ESTIMATORS[request.param])


@pytest.fixture(params=ESTIMATORS)
def fitted(request):
    """Each listed estimator, fitted to ``two_clusters()``; not to be changed."""
    return fit_once(request.param)


@pytest.fixture(params=TRAINED)
def trained(request):
    """Each listed estimator that is trained by gradient steps, unfitted."""
    return clone(ESTIMATORS[request.param])
