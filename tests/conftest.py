"""Fixtures that run a test over every estimator, and settings for all tests."""

import pytest
import torch
from sklearn.base import clone

from skgen import gaussian_mixtures, trained

from .estimators import ESTIMATORS, TRAINED, fit_once

torch.set_num_threads(1)  # the networks are tiny: a second thread would only wait for the first
# A tenth of a second less for each fit, and up to four with many rows; their own tests have all.
FEWER = {"SIZES": (1,), "FORMS_OF_DEFENCE": [("full", 1e-6)], "SIZES_OF_DEFENCE": (8, 4)}
ALL_MIXTURES = {name: getattr(gaussian_mixtures, name) for name in FEWER}
vars(gaussian_mixtures).update(FEWER)
N_SPLITS, trained.N_SPLITS = trained.N_SPLITS, 1  # of very few rows, as those of most tests are

# Cheap fits stop long before they converge, and their densities are solved roughly.
EXPECTED = ["sklearn.exceptions.ConvergenceWarning", "skgen.exceptions.SolverAccuracyWarning"]


# What costs most is tested in every run on their siblings only, and on these with -m slow.
VARIATIONS = (
    "flow-standardize", "flow-gaussianize", "flow-unstopped", "flow-undefended", "flow-preserving",
    "flow-deep", "flow-transport", "diffusion-exact", "coupling-affine", "coupling-student",
    "coupling-mixture", "coupling-on-gaussian", "coupling-circle", "coupling-noisy",
)  # fmt: skip
COSTLY = (
    "test_check_estimator", "test_kinds_of_input_agree_and_are_not_modified", "test_searches",
    "test_difficult_rows_are_fitted", "test_cross_val_score",
    "test_failed_refit_keeps_the_former_fit",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    names = (*VARIATIONS, *(repr(ESTIMATORS[name]) for name in VARIATIONS))
    for item in items:
        if getattr(item, "originalname", None) in COSTLY:
            given = [value for value in item.callspec.params.values() if isinstance(value, str)]
            given += [repr(item.callspec.params.get("estimator"))]
            if set(given) & set(names):
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


@pytest.fixture
def every_mixture(monkeypatch):
    """Stacks of mixtures as they are outside of the tests, and in other processes."""
    for name, value in ALL_MIXTURES.items():
        monkeypatch.setattr(f"skgen.gaussian_mixtures.{name}", value)
