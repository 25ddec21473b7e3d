"""Modules of the extra that a test needs, a small network and images."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn


def load(name):
    """Import a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision built for another torch: the latter
        pytest.skip(f"{name} cannot be imported: {error}")


class SmallNetwork(nn.Module):
    """Eight random features of any image of three channels; its batch norm must not be trained."""

    def __init__(self, channels=3):
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 2)
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, x):
        return self.second(self.dropout(torch.relu(self.norm(self.first(x))))).mean((2, 3))


def images(shape, n=14, seed=0):
    """Smooth bytes: waves of random direction."""
    rng = np.random.RandomState(seed)
    height, width = np.indices(shape[-2:]) / 4
    a, b, phase = rng.uniform(-1 - seed, 1, (3, n, *shape[:-2], 1, 1))
    waves = 127.5 * (1 + np.sin(a * height + b * width + 6 * phase))
    return waves.reshape(n, -1).astype(np.uint8)
