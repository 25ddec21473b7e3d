"""How close generated rows or images come to real ones, without a density.

Each takes the real rows first and the generated ones second. Of the distances smaller is better,
and 0 is out of reach for finite samples: `score_floor` tells what real rows reach against real
rows. `frechet_distance` and `kernel_distance` are for features, those of images for instance;
`energy_distance`, `sliced_wasserstein_distance` and `classifier_two_sample_test` for tables as they
are, with columns of like scale; `nearest_neighbour_ratio` tells copies of training rows.
"""

from .distances import frechet_distance, kernel_distance, score_floor
from .fid import fid_score, image_features
from .images import image_grid, save_images
from .tables import (
    classifier_two_sample_test,
    energy_distance,
    nearest_neighbour_ratio,
    sliced_wasserstein_distance,
)

__all__ = [
    "classifier_two_sample_test",
    "energy_distance",
    "fid_score",
    "frechet_distance",
    "image_features",
    "image_grid",
    "kernel_distance",
    "nearest_neighbour_ratio",
    "save_images",
    "score_floor",
    "sliced_wasserstein_distance",
]
