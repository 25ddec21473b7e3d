"""Processes that are forked, as multiprocessing makes them on Linux."""

import os
import subprocess
import sys

import pytest

FORK = """
import os, signal, numpy as np, torch
from skgen import GaussianMLE
torch.set_num_threads(2)
X = np.random.RandomState(0).normal(size=(100_000, 3))
density = GaussianMLE()
if {fitted_before}:
    density.fit(X).score(X)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for ever
    score = density.fit(X).score(X)
    print("threads", torch.get_num_threads(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize("fitted_before, threads", [(True, 1), (False, 2)])
def test_forked_processes_do_not_wait_for_threads_of_their_parent(fitted_before, threads):
    code = FORK.format(fitted_before=fitted_before)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == f"threads {threads}\n", done.stderr
