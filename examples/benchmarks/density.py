"""Held-out log-likelihood of skgen and of its peers, side by side, with ranks.

``python -m examples.benchmarks density`` takes the known densities of skgen and the tables that
scikit-learn ships, with ``--data DIR`` also every ``.npz`` file of a folder with arrays ``train``
and ``test``, standardises the columns by the training rows, and fits every density in turn with its
defaults and one thread before it goes on to the next set. It prints the mean log-density of the
test rows (nats, standardised units) with the seconds of the fit in brackets, then for each density
its mean rank, the seconds of all fits, and how far its worst test row is above the fitted Gaussian.
The picture joins densities whose ranks do not differ significantly. Results are saved after every
fit; ``--resume`` goes on where a run was stopped. With ``--splits K`` all rows of a set are split K
times at random, a quarter to test on; the ranks are those of the means over the splits. Unless told
otherwise, sets with fewer than 100 test rows are split five times: one split says little of them.
"""

from __future__ import annotations

import json
import time
import warnings
import zlib
from importlib.util import find_spec

import numpy as np
from sklearn.model_selection import ShuffleSplit
from sklearn.preprocessing import StandardScaler

from examples.benchmarks import ranks
from examples.benchmarks.common import (
    data_sets,
    markdown_table,
    parser,
    save,
    set_threads,
    settings,
    write,
)
from examples.benchmarks.peers import PEERS, missing_package
from skgen import DDPMGenerator, FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.compose import StackedDensity, default_members

QUICK_SECONDS, QUICK_ITER = 1.0, 200
FEW_TEST_ROWS = 100


def ours(kind):
    """An estimator as a function of the rows, the seed and whether to be quick."""

    def fit(X, seed, quick):
        density = kind()
        if quick and kind is StackedDensity:
            density.set_params(estimators=default_members(*X.shape), cv=None)
        for name in density.get_params():
            if name == "random_state":
                density.set_params(random_state=seed)
            elif quick and name.split("__")[-1] == "max_iter":
                density.set_params(**{name: QUICK_ITER})
        return density.fit(X).score_samples

    return fit


def peer(fit):
    return lambda X, seed, quick: fit(X, seed, QUICK_SECONDS if quick else 150.0)


DENSITIES = {
    "Gaussian": ours(GaussianMLE),
    **{name: peer(fit) for name, fit in PEERS.items()},
    "Flow": ours(FlowMatchingDensity),
    "RealNVP": ours(RealNVPDensity),
    "DDPM": ours(DDPMGenerator),
    "Stack": ours(StackedDensity),
    "Mixtures": lambda X, seed, quick: default_members(*X.shape)[0][1].fit(X).score_samples,
}
BY_DEFAULT = [name for name in DENSITIES if name != "Mixtures"]  # a member of Stack


def splits(train, test, n_splits, seed, quick=False):
    """The given training and test rows, or several random splits of all rows."""
    if n_splits is None:
        n_splits = 5 if len(test) < FEW_TEST_ROWS and not quick else 1
    if n_splits == 1:
        yield train, test
    else:
        X = np.concatenate([train, test])
        for rows in ShuffleSplit(n_splits, test_size=0.25, random_state=seed).split(X):
            yield tuple(X[some] for some in rows)


def measure(name, train, test, seed, quick):
    """Result of one density on one split; one that fails is kept as failed."""
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    floor = GaussianMLE().fit(train).score_samples(test)
    start = time.perf_counter()
    try:
        score_samples = DENSITIES[name](train, seed, quick)
        seconds = time.perf_counter() - start
        log_density = score_samples(test)
        if not np.isfinite(log_density).all():
            raise FloatingPointError("a log-density is not finite")
    except Exception as error:
        return {"seconds": time.perf_counter() - start, "error": f"{type(error).__name__}: {error}"}
    return {
        "seconds": seconds,
        "nats": float(log_density.mean()),
        "nats_first_1000": float(log_density[:1000].mean()),
        "worst_above_gaussian": float((log_density - floor).min()),
    }


def mean(cells, key):
    """Mean of a result over the splits; minus infinity if one failed."""
    return float(np.mean([cell.get(key, -np.inf) for cell in cells]))


def summary(results, names):
    """What the results say of each density, over the sets with the same splits for all."""
    by_set = {
        table: [[by_split[k][name] for k in by_split if name in by_split[k]] for name in names]
        for table, by_split in results.items()
    }
    complete = [row for row in by_set.values() if row[0] and len({*map(len, row)}) == 1]
    scores = [[mean(cells, "nats") for cells in row] for row in complete]
    found = {"n_sets": len(complete), "mean_rank": {}, "seconds": {}, "worst_above_gaussian": {}}
    for i, name in enumerate(names):
        cells = [cell for row in by_set.values() for cell in row[i]]
        worst = [cell.get("worst_above_gaussian", -np.inf) for cell in cells]
        found["seconds"][name] = sum(mean(row[i], "seconds") for row in by_set.values() if row[i])
        found["worst_above_gaussian"][name] = min(worst)
        if complete:
            found["mean_rank"][name] = float(ranks.mean_ranks(scores)[i])
    if complete and len(names) > 1:
        found["friedman"] = ranks.friedman(scores)
        found["critical_difference"] = ranks.critical_difference(len(names), len(complete))
    return found


def markdown(results, names, found):
    """The table of all results, that of the densities, and the test."""

    def cell(by_split, name):
        cells = [each[name] for each in by_split.values() if name in each]
        if not cells:
            return ""
        if any("error" in each for each in cells):
            return "failed"
        return f"{mean(cells, 'nats'):.3f} ({mean(cells, 'seconds'):.0f})"

    table = [
        [table, *(cell(by_split, name) for name in names)] for table, by_split in results.items()
    ]
    densities = []
    for name in sorted(names, key=lambda name: found["mean_rank"].get(name, 0)):
        rank, worst = found["mean_rank"].get(name), found["worst_above_gaussian"][name]
        densities.append(
            [
                name,
                "" if rank is None else f"{rank:.2f}",
                f"{found['seconds'][name]:.0f}",
                "failed" if worst == -np.inf else f"{worst:.1f}",
            ]
        )
    header = ["density", "mean rank", "seconds, all fits", "worst row above the Gaussian, nats"]
    parts = [markdown_table(["set", *names], table), "", markdown_table(header, densities)]
    if "critical_difference" in found:
        text = f"{found['n_sets']} sets, critical difference of mean ranks at 5%: "
        text += f"{found['critical_difference']:.2f}"
        if found["friedman"]:
            text += "; Friedman's statistic {:.1f}, p = {:.2g}".format(*found["friedman"])
        parts += ["", text + "."]
    return "\n".join(parts)


class Run:
    """Results of a run: of each set, each split, each density; those of a file it resumes first."""

    def __init__(self, args):
        self.args, self.path = args, args.out / "density.json"
        self.content = {"settings": settings(args), "earlier": [], "summary": {}, "results": {}}
        if args.resume and self.path.exists():
            old = json.loads(self.path.read_text(encoding="utf-8"))
            for name in ("seed", "splits", "quick", "threads"):
                if old["settings"]["options"][name] != getattr(args, name):
                    raise SystemExit(f"{self.path} was written with another --{name}.")
            self.content["earlier"] = [*old["earlier"], old["settings"]]
            self.content["results"] = old["results"]

    @property
    def results(self):
        return self.content["results"]

    @property
    def names(self):
        """Densities with results, in their usual order."""
        found = {name for row in self.results.values() for cells in row.values() for name in cells}
        return [name for name in DENSITIES if name in found]

    def measure(self, table, split, names, train, test):
        """Measure the densities that have no result for these rows yet, and save."""
        args, rows = self.args, zlib.crc32(np.ascontiguousarray([*train, *test]))
        by_split = self.results.setdefault(table, {})
        cells = {  # of the same rows: a table of the folder may have changed
            name: cell
            for name, cell in by_split.get(str(split), {}).items()
            if cell["rows"] == rows
        }
        by_split[str(split)] = cells
        for name in names:
            if "error" not in cells.get(name, {"error": "not measured"}):
                continue
            found = measure(name, train, test, args.seed + split, args.quick)
            cells[name] = {**found, "rows": rows}
            result = found.get("error") or f"{found['nats']:.3f} nats"
            print(f"{table}, split {split}, {name}: {result}, {found['seconds']:.1f} s", flush=True)
            self.save()

    def save(self):
        found = summary(self.results, self.names)
        # JSON has no infinity: the worst row of a density that failed is null.
        worst = {
            name: value if np.isfinite(value) else None
            for name, value in found["worst_above_gaussian"].items()
        }
        self.content["summary"] = {**found, "worst_above_gaussian": worst}
        self.text = markdown(self.results, self.names, found)
        save(self.args.out, "density", self.content, self.text)

    def failures(self):
        for table, row in self.results.items():
            for split, cells in row.items():
                for name, cell in cells.items():
                    if "error" in cell:
                        yield f"{table}, split {split}, {name} failed: {cell['error']}"

    def draw(self):
        found = self.content["summary"]
        if "critical_difference" not in found:
            return
        if find_spec("matplotlib") is None:
            print("matplotlib is not installed: no picture")
            return
        title = f", p = {found['friedman'][1]:.2g} (Friedman)" if found["friedman"] else ""
        means = list(found["mean_rank"].values())
        write(
            self.args.out / "density.png",
            lambda path: ranks.draw(path, self.names, means, found["n_sets"], title),
        )


def main(argv=None):
    options = parser(__doc__, "density", DENSITIES, BY_DEFAULT)
    options.add_argument("--splits", type=int, metavar="K", help="random splits of each")
    options.add_argument("--resume", action="store_true", help="keep the results found in --out")
    args = options.parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    names = []
    for name in args.only:
        package = missing_package(name)
        if package:
            print(f"{package} is not installed: {name} skipped")
        else:
            names.append(name)
    run = Run(args)
    for table, rows in data_sets(args.data, args.quick, args.tables).items():
        for split, (train, test) in enumerate(splits(*rows(), args.splits, args.seed, args.quick)):
            run.measure(table, split, names, train, test)
    run.save()
    run.draw()
    print(run.text)
    for failure in run.failures():
        print(failure)


if __name__ == "__main__":
    main()
