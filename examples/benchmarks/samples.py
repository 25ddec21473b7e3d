"""Quality of the samples of skgen and of its peers, on known densities and on tables.

``python -m examples.benchmarks samples --data DIR`` takes known densities, tables that scikit-learn
ships and every ``.npz`` file of a folder with arrays ``train`` and ``test``, standardises the
columns by the training rows, fits every generator in turn, draws rows, and compares as many as the
test has, up to 2,000, with the test rows:

- energy: energy distance (`skgen.metrics.energy_distance`);
- Wasserstein: sliced Wasserstein distance (`sliced_wasserstein_distance`);
- AUC: area under the ROC curve of boosted trees that tell generated rows from test rows
  (`classifier_two_sample_test`), 0.5 at best;
- copies: share of generated rows nearer to training than to test rows
  (`nearest_neighbour_ratio`), 0.5 without and 1 with nothing but copies;
- R2: of boosted trees that predict the last column of the test rows from the others, fitted to
  generated rows, as many as there are training rows, up to 2,000; not for the known densities;
- seconds of fit and sampling.

"Real rows" are as many of the training rows: what a perfect generator reaches in distances, AUC and
R2, and copies by definition. A Markdown table is printed for each set, then the mean ranks; they
are written to ``samples.md``, the numbers to ``samples.json`` and, if Matplotlib is installed, a
figure to ``samples.png``.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.preprocessing import StandardScaler

from examples.benchmarks.common import KNOWN, data_sets, parser, save, set_threads, settings, write
from examples.benchmarks.samplers import FEW, GENERATORS, Settings, missing
from skgen.metrics import (
    classifier_two_sample_test,
    energy_distance,
    nearest_neighbour_ratio,
    sliced_wasserstein_distance,
)

MAX_ROWS = 2000
REAL = "real rows"
# Heading, format, and how good a value is (smaller is better) where generators are ranked.
COLUMNS = {
    "energy": ("energy", ".3f", lambda value: value),
    "wasserstein": ("Wasserstein", ".3f", lambda value: value),
    "auc": ("AUC", ".3f", lambda value: abs(value - 0.5)),
    "r2": ("R2", ".3f", lambda value: -value),
    "copies": ("copies", ".2f", None),
    "fit_seconds": ("fit (s)", ".1f", None),
    "sample_seconds": ("sample (s)", ".1f", None),
}
RANKED = [key for key, (_, _, badness) in COLUMNS.items() if badness]


def compare(fake, train, test, is_table, seed):
    """What the generated rows are like, against test rows."""
    few = fake[: len(test)]
    found = {
        "energy": energy_distance(test, few),
        "wasserstein": sliced_wasserstein_distance(test, few, random_state=seed),
        "auc": classifier_two_sample_test(test, few, random_state=seed),
        "copies": nearest_neighbour_ratio(train, few, test),
    }
    if is_table:
        trees = HistGradientBoostingRegressor(random_state=seed).fit(fake[:, :-1], fake[:, -1])
        found["r2"] = float(trees.score(test[:, :-1], test[:, -1]))
    return found


def run(train, test, is_table, names, options):
    """Results of the real rows and of the named generators on one set."""
    rng = np.random.default_rng(options.seed)
    train, test = rng.permutation(train), rng.permutation(test)[:MAX_ROWS]
    if options.quick:
        train, test = train[:400], test[:150]
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    n_drawn = max(len(test), min(len(train), MAX_ROWS))
    results = {REAL: compare(train[:n_drawn], train, test, is_table, options.seed)}
    for name in names:
        start = time.perf_counter()
        sample = GENERATORS[name](train, options)
        fitted = time.perf_counter()
        fake = sample(n_drawn)
        seconds = {"fit_seconds": fitted - start, "sample_seconds": time.perf_counter() - fitted}
        results[name] = {
            # Mixtures return the rows of one component after the other.
            **compare(rng.permutation(fake), train, test, is_table, options.seed),
            **seconds,
            "note": getattr(sample, "note", ""),
        }
    shape = {"n_train": len(train), "n_test": len(test), "n_drawn": n_drawn}
    return {**shape, "n_columns": train.shape[1], "results": results}


def markdown(rows, headings):
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def table(name, found):
    """Heading and table of one set."""
    rows = []
    for generator, values in found["results"].items():
        label = generator + (f" ({values['note']})" if values.get("note") else "")
        cells = (
            format(values[key], style) if key in values else "-"
            for key, (_, style, _) in COLUMNS.items()
        )
        rows.append([label, *cells])
    shape = "{n_train} training rows, {n_columns} columns, {n_test} test rows, {n_drawn} drawn"
    headings = ["generator", *(heading for heading, _, _ in COLUMNS.values())]
    return f"## {name}\n\n{shape.format(**found)}\n\n{markdown(rows, headings)}\n"


def summary(results, names):
    """Mean rank of each generator in each measure, mean share of copies, and all seconds."""
    rows = {name: [] for name in names}
    for key in RANKED:
        ranks = [
            rankdata([COLUMNS[key][2](found["results"][name][key]) for name in names])
            for found in results.values()
            if key in found["results"][REAL]
        ]
        for name, rank in zip(names, np.transpose(ranks) if ranks else names, strict=True):
            rows[name].append(f"{np.mean(rank):.1f}" if ranks else "-")
    for name in names:
        each = [found["results"][name] for found in results.values()]
        rows[name].append(f"{np.mean([values['copies'] for values in each]):.2f}")
        for key in ("fit_seconds", "sample_seconds"):
            rows[name].append(f"{sum(values[key] for values in each):.0f}")
    headings = ["generator", *(f"rank: {COLUMNS[key][0]}" for key in RANKED)]
    headings += ["mean copies", "fit (s), all", "sample (s), all"]
    title = f"## Mean ranks over {len(results)} set(s), 1 is best\n\n"
    return title + markdown([[name, *cells] for name, cells in rows.items()], headings) + "\n"


def figure(results, names, path):
    """Every measure beside that of real rows, one line a set, one mark a generator."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    panels = {
        "energy": ("energy distance / real rows'", lambda value, real: value / real),
        "wasserstein": ("sliced Wasserstein / real rows'", lambda value, real: value / real),
        "auc": ("AUC of boosted trees", lambda value, real: value),
        "r2": ("$R^2$ less real rows'", lambda v, real: max(v - real, -1)),
    }
    canvas = Figure(figsize=(10, 2.1 + 0.32 * len(results)), layout="constrained")
    axes = canvas.subplots(1, 4, sharey=True)
    colours, marks = [f"C{i}" for i in range(10)], "osD^vPX*h<"
    for ax, (key, (title, relative)) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(names):
            points = [
                (relative(found["results"][name][key], found["results"][REAL][key]), line)
                for line, found in enumerate(results.values())
                if key in found["results"][name]
            ]
            offset = 0.5 * (i / max(len(names) - 1, 1) - 0.5)  # or marks hide each other
            x, y = np.transpose(points) if points else ([], np.empty(0))
            style = {"color": colours[i % 10], "marker": marks[i % 10], "ms": 7, "mew": 0.3}
            ax.plot(x, y + offset, ls="", label=name, mec="white", **style)
        ax.axvline({"auc": 0.5, "r2": 0.0}.get(key, 1.0), color="0.4", lw=1.2, zorder=1)
        ax.set_title(title, fontsize=10)
        if key in ("energy", "wasserstein"):
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter("{x:g}")
        ax.set_yticks(range(len(results)), list(results))
        ax.set_ylim(len(results) - 0.4, -0.6)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        for line in range(1, len(results)):
            ax.axhline(line - 0.5, color="0.85", lw=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    title = "grey line: real rows (AUC: 0.5, cannot be told apart); differences below -1 at -1"
    canvas.legend(handles, labels, title=title, loc="outside lower center", ncols=4, frameon=False)
    canvas.savefig(path, dpi=150)


def main(argv=None):
    options = parser(__doc__, "samples", GENERATORS)
    options.add_argument("--forest-seconds", type=float, default=150.0, help="cap of ForestFlow")
    args = options.parse_args(argv)
    set_threads(args.threads)
    names = [name for name in args.only if not missing(name)]
    parts, results = [], {}
    chosen = Settings(args.seed, args.quick, args.threads, args.forest_seconds)

    def report(part):
        parts.append(part)
        print(part, flush=True)
        content = {"settings": settings(args), "sets": results}
        save(args.out, args.benchmark, content, "\n".join(parts))

    wanted = args.tables or (["EightGaussians", "diabetes"] if args.quick else None)
    available = data_sets(args.data, names=wanted)
    if args.quick:
        report(
            f"Quick run: 400 training rows, {FEW} gradient steps. It shows no generator's worth.\n"
        )
    for name in args.only:
        if missing(name):
            report(f"{name} is skipped: {missing(name)} is not installed.\n")
    known = {kind.__name__ for kind in KNOWN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, rows in available.items():
            results[name] = run(*rows(), name not in known, names, chosen)
            report(table(name, results[name]))
    report(summary(results, names))
    if names:
        try:
            write(args.out / "samples.png", lambda path: figure(results, names, path))
        except ImportError:
            print("No figure: Matplotlib is not installed.")


if __name__ == "__main__":
    main()
