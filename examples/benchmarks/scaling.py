"""How the cost of fits, log-densities and samples grows with rows and with columns.

``python -m examples.benchmarks scaling`` fits densities, by 400 gradient steps and otherwise with
their defaults, to 10^4 to 10^7 rows of a Gaussian mixture in the plane, scores them all and draws
as many; then the same for 20,000 rows of 2 to 64 columns. It prints seconds of the processor and
exponents of growth (1: in proportion), and draws them in doubly logarithmic axes. A size that would
take longer than ``--limit`` is left out, as the printed table shows.
"""

from __future__ import annotations

import time
import warnings

import numpy as np

from examples.benchmarks.common import Results, parser, set_threads, write
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


def draw(results, sizes_of, path):
    """Seconds against rows and against columns, in doubly logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharey="row")
    for line, (axis, found) in zip(axes, results.items(), strict=True):
        sizes = np.array(sizes_of[axis], dtype=float)
        for ax, (j, work) in zip(line, enumerate(WORK), strict=True):
            for name, seconds in found.items():
                ax.loglog(sizes, np.array(seconds)[:, j], "o-", markersize=4, label=name)
            low = np.nanmin([np.array(s)[:, j] for s in found.values()])
            ax.loglog(sizes, low * sizes / sizes[0], ":", color="grey", label="in proportion")
            ax.set(title=f"{work}, {axis}", xlabel=f"number of {axis}")
            if sizes[-1] < 1000:
                ax.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
                ax.set_xticks([], minor=True)
        line[0].set_ylabel("processor seconds")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def main(argv=None):
    options = parser(__doc__, "scaling")
    options.add_argument("--limit", type=float, default=600.0, help="most seconds of one cell")
    args = options.parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    sizes_of, max_iter, n_rows = SIZES, 400, N_ROWS
    if args.quick:
        sizes_of = {"rows": [10**3, 10**4], "columns": [2, 8]}
        max_iter, n_rows = 20, 1000
    made = {
        "rows": lambda n: mixture_rows(n, 2, 0),
        "columns": lambda d: mixture_rows(n_rows, d, 0),
    }
    results, found = Results(args, dict.fromkeys(WORK, ".2f") | {"exponent": ".2f"}), {}
    for axis, sizes in sizes_of.items():
        found[axis] = {}
        for name, density in densities(max_iter).items():
            seconds = found[axis][name] = measure(density, sizes, made[axis], args.limit)
            for j, exponent in enumerate(exponents(sizes, seconds)):
                cells = [None if np.isnan(s) else float(s) for s in seconds[:, j]]
                results.add(
                    **{"density": name, "work": WORK[j]},
                    **{f"{size:,} {axis}": s for size, s in zip(sizes, cells, strict=True)},
                    exponent=float(exponent),
                )
    try:
        write(args.out / "scaling.png", lambda path: draw(found, sizes_of, path))
    except ImportError:
        print("No figure: Matplotlib is not installed.")


if __name__ == "__main__":
    main()
