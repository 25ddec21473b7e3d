"""Modules of the extra that a test needs."""

import importlib

import pytest


def load(name):
    """Import a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision built for another torch: the latter
        pytest.skip(f"{name} cannot be imported: {error}")
