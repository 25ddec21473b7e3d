"""Search for defaults: one estimator with several settings, on tables cut to several sizes.

``python docs/defaults/search.py RealNVPDensity --data DIR`` fits each entry of `SETTINGS` to random
rows of each table and prints the mean log-density of other rows (nats, standardised columns), the
mean over random splits and, last, over tables. ``name@300`` is a table of which 300 rows are
trained on. Results are saved after each fit; a second run goes on with what is missing.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

import skgen
from examples.benchmarks.common import data_sets, markdown_table, set_threads, write

SPLITS = {f"{n} splits": {"n_splits": n} for n in (1, 2, 4, 10)}
SETTINGS = {
    "RealNVPDensity": {
        "default": {},
        **{f"dropout {share}": {"dropout": share} for share in (0.02, 0.05, 0.1, 0.3, 0.5, 0.8)},
        **{f"{n} steps": {"max_iter": n} for n in (400, 700, 1000, 1500, 1800)},
        **SPLITS,
    },
    "FlowMatchingDensity": {
        "default": {},
        "held out 20%": {"validation_fraction": 0.2},
        "weight decay 0.1": {"weight_decay": 0.1},
        "held out 20%, decay 0.1": {"validation_fraction": 0.2, "weight_decay": 0.1},
        "standardized": {"preconditioning": "standardize"},
        "gaussianized": {"preconditioning": "gaussianize"},
        **SPLITS,
    },
    "StackedDensity": {
        "default": {},
        "one split": {"cv": None},
        "five folds, fitted again": {"ensemble": False},
    },
}
TABLES = ["iris", "diabetes", "phoneme@300", "magic@300", "wine_red@300"]
MAX_TEST_ROWS = 2000


def rows_of(table, folder, seed):
    """Standardised training and test rows of a random split."""
    name, _, n_train = table.partition("@")
    X = np.concatenate(data_sets(folder, names=[name])[name]())
    X = X[np.random.RandomState(seed).permutation(len(X))]
    n_train = int(n_train or 0.75 * len(X))
    scaler = StandardScaler().fit(X[:n_train])
    return scaler.transform(X[:n_train]), scaler.transform(X[n_train:][:MAX_TEST_ROWS])


def markdown(results, tables):
    """Means over the splits, and over the tables that have all settings."""
    lines = []
    for name, by_table in results.items():
        means = [np.mean(by_table[t]["nats"]) if t in by_table else np.nan for t in tables]
        seconds = [s for row in by_table.values() for s in row["seconds"]]
        cells = [f"{value:.3f}" for value in (*means, np.mean(means))]
        lines.append([name, *cells, f"{np.mean(seconds):.1f}"])
    return markdown_table(["settings", *tables, "mean", "seconds a fit"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("estimator", choices=SETTINGS)
    parser.add_argument("--data", type=Path, help="folder of .npz tables with train and test")
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--only", nargs="*", help="names of settings; all by default")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmark_results"))
    args = parser.parse_args()
    set_threads(1)
    warnings.simplefilter("ignore")
    path = args.out / f"defaults_{args.estimator}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.only or SETTINGS[args.estimator]:
        for table in args.tables:
            row = results.setdefault(name, {}).setdefault(table, {"nats": [], "seconds": []})
            for seed in range(len(row["nats"]), args.splits):
                train, test = rows_of(table, args.data, seed)
                kind = getattr(skgen, args.estimator, None) or getattr(
                    skgen.compose, args.estimator
                )
                density = kind(random_state=seed, **SETTINGS[args.estimator][name])
                start = time.perf_counter()
                density.fit(train)
                row["seconds"].append(time.perf_counter() - start)
                row["nats"].append(float(density.score(test)))
                write(path, json.dumps(results, indent=1) + "\n")
                write(path.with_suffix(".md"), markdown(results, args.tables) + "\n")
    print(markdown(results, args.tables))


if __name__ == "__main__":
    main()
