"""Held-out log-likelihood of skgen and of its peers, side by side.

``python -m examples.benchmarks.density --data DIR`` takes every ``.npz`` file of a folder with
arrays ``train`` and ``test``, standardises the columns by the training rows, fits every density
in turn with its defaults and one thread, and prints a table: mean log-density of the test rows
(nats, standardised units) with the seconds of the fit in brackets.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from examples.benchmarks.peers import PEERS
from skgen import FlowMatchingDensity, GaussianMLE, RealNVPDensity
from skgen.compose import StackedDensity


def ours(make):
    return lambda X, seed: make(seed).fit(X).score_samples


DENSITIES = {
    "Gaussian": ours(lambda seed: GaussianMLE()),
    **PEERS,
    "Flow": ours(lambda seed: FlowMatchingDensity(random_state=seed)),
    "RealNVP": ours(lambda seed: RealNVPDensity(random_state=seed)),
    "Stack": ours(lambda seed: StackedDensity(random_state=seed)),
}


def run(path, names, seed):
    """Results of the named densities on one table."""
    data = np.load(path)
    scaler = StandardScaler().fit(data["train"])
    train, test = scaler.transform(data["train"]), scaler.transform(data["test"])
    floor = GaussianMLE().fit(train).score_samples(test)
    results = {}
    for name in names:
        start = time.perf_counter()
        score_samples = DENSITIES[name](train, seed)
        seconds = time.perf_counter() - start
        log_density = score_samples(test)
        results[name] = {
            "seconds": seconds,
            "nats": float(log_density.mean()),
            "nats_first_1000": float(log_density[:1000].mean()),
            "worst_above_gaussian": float((log_density - floor).min()),
        }
    return results


def markdown(results, names):
    """The table of all results."""
    lines = ["| set | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for table, row in results.items():
        cells = [f"{row[name]['nats']:.3f} ({row[name]['seconds']:.0f})" for name in names]
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    totals = [sum(row[name]["seconds"] for row in results.values()) for name in names]
    lines.append("| total seconds | " + " | ".join(f"{total:.0f}" for total in totals) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz tables")
    parser.add_argument("--only", nargs="*", default=list(DENSITIES), choices=list(DENSITIES))
    parser.add_argument("--tables", nargs="*", help="names of tables; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    results = {}
    for path in sorted(args.data.glob("*.npz")):
        if args.tables and path.stem not in args.tables:
            continue
        results[path.stem] = run(path, args.only, args.seed)
        print(path.stem, json.dumps(results[path.stem]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
    print(markdown(results, args.only))


if __name__ == "__main__":
    main()
