"""Warnings of skgen, for use in filters.

Examples
--------
>>> import warnings
>>> from skgen.exceptions import SolverAccuracyWarning
>>> warnings.simplefilter("error", SolverAccuracyWarning)
"""

from .core.refinement import SolverAccuracyWarning
from .core.training import TrainingWarning

__all__ = ["SolverAccuracyWarning", "TrainingWarning"]
