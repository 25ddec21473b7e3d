"""Modes of PyTorch that callers may have switched on for their thread, and threads after a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_has_computed = False  # or the process that this one was forked from


@contextmanager
def default_modes() -> Iterator[None]:
    """Work in the modes that PyTorch begins with, and then in those of the caller again.

    Gradients are taken, tensors compute in their own precision, and are on the CPU unless told.
    """
    global _has_computed
    _has_computed = True
    with ExitStack() as modes, torch.inference_mode(False), torch.enable_grad():
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # get_default_device may not tell
            modes.enter_context(torch.device("cpu"))
        yield


def _after_fork() -> None:
    """Compute with one thread: PyTorch would wait for those of the parent, which are not there."""
    if _has_computed:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # there are no forks on Windows
    os.register_at_fork(after_in_child=_after_fork)
