"""scikit-learn-compatible deep generative estimators on PyTorch."""

from . import compose, datasets
from .flow_matching import FlowMatchingDensity
from .gaussian import GaussianMLE

__version__ = "0.1.0"

__all__ = ["FlowMatchingDensity", "GaussianMLE", "__version__", "compose", "datasets"]
