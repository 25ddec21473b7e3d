"""How close generated rows or images come to real ones: distances between two samples.

Each takes the real rows first and the generated ones second; smaller is better, and 0 is out of
reach for finite samples. `score_floor` tells what real rows reach against real rows.
"""

from .distances import frechet_distance, kernel_distance, score_floor
from .fid import fid_score, image_features
from .images import image_grid, save_images

__all__ = [
    "fid_score",
    "frechet_distance",
    "image_features",
    "image_grid",
    "kernel_distance",
    "save_images",
    "score_floor",
]
