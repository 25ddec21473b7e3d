"""How the cost of fits, log-densities and samples grows with rows and with columns.

``python -m examples.benchmarks scaling`` fits densities, by 400 gradient steps and otherwise with
their defaults, to 10^4 to 10^7 rows of a Gaussian mixture in the plane, scores them all and draws
as many; then the same for 20,000 rows of 2 to 64 columns. It prints seconds of the processor and
exponents of growth (1: in proportion), and draws them in doubly logarithmic axes. A size that would
take longer than ``--limit`` is left out, as the printed table shows.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from examples.benchmarks.speed import mixture_rows
from skgen import FlowMatchingDensity, GaussianMLE, RealNVPDensity

WORK = ("fit", "score_samples", "sample")
SIZES = {"rows": [10**4, 10**5, 10**6, 10**7], "columns": [2, 4, 8, 16, 32, 64]}
N_ROWS = 20_000  # where columns grow


def densities(max_iter):
    """Densities that take a fixed number of gradient steps."""
    steps = {"max_iter": max_iter, "n_iter_no_change": max_iter, "random_state": 0}
    return {
        "GaussianMLE": GaussianMLE(random_state=0),
        "RealNVPDensity": RealNVPDensity(**steps),
        "FlowMatchingDensity": FlowMatchingDensity(**steps),
    }


def measure(density, sizes, rows_of, limit):
    """Processor seconds of each kind of work at each size, NaN where they would be too many."""
    seconds = np.full((len(sizes), len(WORK)), np.nan)
    for i, size in enumerate(sizes):
        growth = size / sizes[i - 1] if i else 0.0
        for j, work in enumerate(WORK):
            if i and not seconds[i - 1, j] * growth < limit:
                if work == "fit":
                    return seconds
                continue
            X = rows_of(size).astype(np.float32)
            start = time.process_time()
            density.sample(len(X)) if work == "sample" else getattr(density, work)(X)
            seconds[i, j] = time.process_time() - start
    return seconds


def exponents(sizes, seconds):
    """Exponent of growth of each column from its first size to its last that was measured."""
    found = []
    for column in np.asarray(seconds).T:
        known = np.flatnonzero(~np.isnan(column))
        first, last = known[0], known[-1]
        growth = np.log(column[last] / column[first])
        found.append(growth / np.log(sizes[last] / sizes[first]) if last > first else np.nan)
    return found


def draw(results, path):
    """Seconds against rows and against columns, in doubly logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 6), sharey="row", layout="constrained")
    for line, (axis, found) in zip(axes, results.items(), strict=True):
        sizes = np.array(SIZES[axis], dtype=float)
        for ax, (j, work) in zip(line, enumerate(WORK), strict=True):
            for name, seconds in found.items():
                ax.loglog(sizes, np.array(seconds)[:, j], "o-", markersize=4, label=name)
            low = np.nanmin([np.array(s)[:, j] for s in found.values()])
            ax.loglog(sizes, low * sizes / sizes[0], ":", color="grey", label="in proportion")
            ax.set(title=f"{work}, {axis}", xlabel=f"number of {axis}")
        line[0].set_ylabel("processor seconds")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="40 steps, up to 10^5 rows")
    parser.add_argument("--limit", type=float, default=600.0, help="most seconds of one cell")
    parser.add_argument("--out", type=Path, help="folder for scaling.json, .md and .png")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    if args.quick:
        SIZES.update(rows=[10**3, 10**4, 10**5], columns=[2, 8, 32])
    made = {
        "rows": lambda n: mixture_rows(n, 2, 0),
        "columns": lambda d: mixture_rows(N_ROWS // (10 if args.quick else 1), d, 0),
    }
    results, lines = {}, []
    for axis, rows_of in made.items():
        sizes = SIZES[axis]
        lines += [
            f"| {axis} grow | work | "
            + " | ".join(f"{size:,}" for size in sizes)
            + " | exponent |",
            "|---" * (len(sizes) + 3) + "|",
        ]
        results[axis] = {}
        for name, density in densities(40 if args.quick else 400).items():
            seconds = measure(density, sizes, rows_of, args.limit)
            results[axis][name] = seconds.tolist()
            for j, exponent in enumerate(exponents(sizes, seconds)):
                cells = [f"{s:.2f}" if s == s else "" for s in seconds[:, j]]
                lines.append(
                    f"| {name} | {WORK[j]} | " + " | ".join(cells) + f" | {exponent:.2f} |"
                )
            print("\n".join(lines), flush=True)
            lines = []
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "scaling.json").write_text(json.dumps(results, indent=1))
        draw(results, args.out / "scaling.png")


if __name__ == "__main__":
    main()
