"""Fixtures that run a test over every estimator, and settings for all tests."""

import pytest
import torch
from sklearn.base import clone

from .estimators import ESTIMATORS, TRAINED, fit_once

torch.set_num_threads(1)  # the networks are tiny: a second thread would only wait for the first

# Cheap fits stop long before they converge, and their densities are solved roughly.
EXPECTED = ["sklearn.exceptions.ConvergenceWarning", "skgen.core.flow.SolverAccuracyWarning"]


def pytest_collection_modifyitems(items):
    for item in items:
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
