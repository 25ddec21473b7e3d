"""Modes of PyTorch that callers may have switched on for their thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def default_modes() -> Iterator[None]:
    """Work in the modes that PyTorch begins with, and then in those of the caller again.

    Gradients are taken, tensors compute in their own precision, and are on the CPU unless told.
    """
    with ExitStack() as modes, torch.inference_mode(False), torch.enable_grad():
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield
