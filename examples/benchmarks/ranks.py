"""Ranks over data sets and their critical difference (Demsar, JMLR 7, 2006)."""

from __future__ import annotations

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range


def mean_ranks(scores):
    """Mean rank of each column of scores (n_sets, k); 1 is the largest, ties share theirs."""
    return rankdata(-np.asarray(scores), axis=1).mean(axis=0)


def friedman(scores):
    """Friedman's statistic and p-value of equal ranks, None for fewer than three columns."""
    scores = np.asarray(scores)
    if scores.shape[1] < 3 or len(scores) < 2:
        return None
    statistic, p = friedmanchisquare(*-scores.T)
    return float(statistic), float(p)


def critical_difference(k, n_sets, alpha=0.05):
    """Least difference of two mean ranks that Nemenyi's test takes for significant."""
    q = studentized_range.ppf(1 - alpha, k, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * n_sets)))


def bars(ranks, difference):
    """Longest runs (first, last) of sorted ranks within the critical difference of each other."""
    ranks, found = np.sort(ranks), []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference)) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def picture(names, ranks, n_sets, title=""):
    """Figure of mean ranks: bars join densities that do not differ significantly."""
    from matplotlib.figure import Figure

    order = np.argsort(ranks, kind="stable")
    ranks, names = np.asarray(ranks)[order], [names[i] for i in order]
    k = len(names)
    difference = critical_difference(k, n_sets)
    joined = bars(ranks, difference)
    half, step, top = (k + 1) // 2, 0.28, 0.2 + 0.12 * len(joined)
    depth = top + step * half
    figure = Figure(figsize=(8, 1.1 + depth))
    ax = figure.add_axes([0, 0, 1, 1])
    margin = 0.32 * (k - 1)  # of the axis, for the names at both sides
    ax.set(xlim=(1 - margin, k + margin), ylim=(-depth - 0.1, 1.0))
    ax.axis("off")
    ax.plot([1, k], [0, 0], color="black", linewidth=1)
    for tick in range(1, k + 1):
        ax.plot([tick, tick], [0, 0.07], color="black", linewidth=1)
        ax.text(tick, 0.1, str(tick), ha="center", va="bottom", fontsize=9)
    shown = min(difference, k - 1)
    ax.plot([1, 1 + shown], [0.5, 0.5], color="black", linewidth=1, marker="|", markersize=8)
    text = f"critical difference {difference:.2f}, {n_sets} sets{title}"
    ax.text(1, 0.6, text, ha="left", va="bottom", fontsize=9)
    for i, (first, last) in enumerate(joined):
        y = -0.12 * (i + 1)
        ends = [ranks[first] - 0.006 * k, ranks[last] + 0.006 * k]
        ax.plot(ends, [y, y], color="C0", linewidth=3.5, solid_capstyle="butt", zorder=3)
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        left = i < half
        y = -top - step * (i if left else k - 1 - i)
        x = 1 - 0.02 * margin if left else k + 0.02 * margin
        ax.plot([rank, rank, x], [0, y, y], color="0.4", linewidth=0.8)
        label = f"{name}  {rank:.2f} " if left else f" {rank:.2f}  {name}"
        ax.text(x, y, label, ha="right" if left else "left", va="center", fontsize=9)
    return figure


def draw(path, *args):
    """Write the picture as PNG."""
    picture(*args).savefig(path, dpi=150, format="png")
