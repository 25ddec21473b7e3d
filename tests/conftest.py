"""Fixtures that run a test over every estimator, and settings for all tests."""

import pytest
from sklearn.base import clone

from .estimators import ESTIMATORS, TRAINED, fit_once


def pytest_collection_modifyitems(items):
    for item in items:  # cheap fits stop long before they converge
        item.add_marker(
            pytest.mark.filterwarnings(
                "ignore:.*still rising:sklearn.exceptions.ConvergenceWarning"
            )
        )


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
