"""scikit-learn-compatible deep generative estimators on PyTorch."""

from . import compose, datasets
from .ddpm import DDPMGenerator
from .flow_matching import FlowMatchingDensity
from .gaussian import GaussianMLE
from .realnvp import RealNVPDensity

__version__ = "0.1.0"

__all__ = [
    "DDPMGenerator",
    "FlowMatchingDensity",
    "GaussianMLE",
    "RealNVPDensity",
    "__version__",
    "compose",
    "datasets",
]
