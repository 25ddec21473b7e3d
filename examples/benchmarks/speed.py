"""Speed of exact log-densities and of a training step, as ratios.

``python -m examples.benchmarks speed`` compares, in turn and with one thread, rows per second of
the log-density of a flow with those of zuko's CNF with its exact trace (the same network, float32),
and has those of ``FlowMatchingDensity.score_samples`` beside them, which solves the flow as exactly
as the densities that it is mixed with require; the time of a training step, of log-densities and of
samples with that of their matrix products alone (as PyTorch takes them, and as skgen does, see
``skgen.core.products``); and coupling flows with those of zuko and nflows. Times are medians, of
rounds in which all take turns.
"""

from __future__ import annotations

import warnings
from functools import partial
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import silu
from tqdm import tqdm

from examples.benchmarks.common import Results, alternate, parser, set_threads, write
from skgen import FlowMatchingDensity, RealNVPDensity
from skgen.core.flow import Flow
from skgen.core.gaussian import standard_normal_log_prob
from skgen.core.networks import velocity_network
from skgen.core.paths import LinearPath
from skgen.core.products import product
from skgen.core.training import Plan, Trainer

PEERS = [name for name in ("zuko", "nflows") if find_spec(name)]  # those that are installed


def mixture_rows(n_rows, n_features, seed):
    """Rows of a mixture of five Gaussians with random centres and axes."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(5, n_features))
    axes = rng.normal(size=(5, n_features, n_features)) / np.sqrt(n_features)
    label = rng.integers(5, size=n_rows)
    noise = rng.normal(size=(n_rows, n_features))
    return centres[label] + np.einsum("nij,nj->ni", axes[label], noise)


def zuko_log_prob(model, z):
    """Log-density of rows by zuko's exact trace and adaptive solver, with the network of a flow."""
    from zuko.transforms import FreeFormJacobianTransform

    network = model.network.requires_grad_(False)
    weight_in = network.weight_in * network.speed

    def velocity(t, x):
        features, zoom = network.time_features(t.reshape(1, 1))
        inputs = torch.cat([x, zoom * x, features.expand(*x.shape[:-1], -1)], dim=-1)
        u, p = (inputs @ weight_in).chunk(2, dim=-1)
        hidden = silu(p + silu(u) @ network.hidden.T)
        return hidden @ network.out.T + network.bias_out + model.path.gaussian_gain(t) * x

    with torch.no_grad():
        flow = FreeFormJacobianTransform(velocity, torch.tensor(1.0), torch.tensor(0.0), exact=True)
        noise, log_det = flow.call_and_ladj(z)
    return standard_normal_log_prob(noise) + log_det


def log_densities(n_features, width, max_iter, n_rounds=5):
    """Exact log-densities of one trained network: the flow of skgen by default, against zuko.

    zuko's own flow, untrained and so easier to solve, and the whole estimator are timed beside.
    """
    import zuko

    X = mixture_rows(5000, n_features, 0)
    density = FlowMatchingDensity(
        hidden_layer_sizes=(width, width),
        max_iter=max_iter,
        preconditioning="standardize",
        random_state=0,
    ).fit(X)
    rows = X[:4096].astype(np.float32)
    flow = density.module_.components[0]
    z = flow.bijection(torch.from_numpy(rows))[0]
    own = zuko.flows.CNF(n_features, hidden_features=(width, width), exact=True)

    def own_log_prob():
        with torch.no_grad():
            own().log_prob(z[:64])

    ours, theirs, theirs_untrained, estimator = alternate(
        [
            lambda: flow.model.log_prob(z),
            lambda: zuko_log_prob(flow.model, z[:64]),
            own_log_prob,
            lambda: density.score_samples(rows),
        ],
        n_rounds,
    )
    found, found_by_zuko = flow.model.log_prob(z), zuko_log_prob(flow.model, z[:64])
    reference = flow.model._solve_density(z.double(), 1000)
    error, error_of_zuko = (found - reference).abs(), (found_by_zuko - reference[:64]).abs()
    rate, rate_of_zuko = len(rows) / ours, 64 / theirs
    return {
        "log-densities, columns": n_features,
        "width": width,
        "max_iter": max_iter,
        "skgen, rows/s": rate,
        "mean error, nats": float(error.mean()),
        "worst error, nats": float(error.max()),
        "same network in zuko, rows/s": rate_of_zuko,
        "its mean error, nats": float(error_of_zuko.mean()),
        "ratio": rate / rate_of_zuko,
        "zuko's CNF, untrained, rows/s": 64 / theirs_untrained,
        "ratio to that": rate * theirs_untrained / 64,
        "score_samples, rows/s": len(rows) / estimator,
    }


def untrained(n_features, width, generator):
    """A flow as `FlowMatchingDensity` makes it, which refines no row."""
    path = LinearPath()
    network = velocity_network(n_features, (width, width), "silu", path, generator)
    return Flow(network, path, n_features, "adams", 32, tolerance=0)


def solves(n_features, width, n_rows=2048, n_rounds=5):
    """Log-densities and samples against the matrix products of their evaluations."""
    generator = torch.Generator().manual_seed(0)
    model = untrained(n_features, width, generator)
    field, calls = model.network.field, []

    def counted(*settings):
        evaluate = field(*settings)
        return lambda t, x: calls.append(len(x)) or evaluate(t, x)

    model.network.field = counted
    found = {"solves, columns": n_features, "width": width}
    for work, dtype, layers in (
        ("log-density, float64", torch.float64, 2),
        ("log-density, float32", torch.float32, 2),
        ("samples", torch.float32, 1),
    ):
        rows = torch.randn(n_rows, n_features, generator=generator, dtype=dtype)
        layer, hidden = torch.randn(1024, width, dtype=dtype), torch.randn(width, width).to(dtype)
        weight_x, out = torch.randn(n_features, 2 * width).to(dtype), hidden[:, :n_features].clone()

        def solve(work=work, rows=rows):
            return model.sample(n_rows, generator) if work == "samples" else model.log_prob(rows)

        calls.clear()
        solve()
        n_evaluations = sum(calls) // 1024

        def products(
            multiply,
            n=n_evaluations,
            n_layers=layers,
            these=(rows[:1024], weight_x, layer, hidden, out),
        ):
            x, weight_x, layer, hidden, out = these
            for _ in range(n):
                multiply(x, weight_x), multiply(layer, out)
                for _ in range(n_layers):
                    multiply(layer, hidden)

        runs = [solve, partial(products, torch.mm), partial(products, product)]
        seconds, alone, best = alternate(runs, n_rounds)
        found |= {f"{work}, us a row": 1e6 * seconds / n_rows, f"{work}, ratio": seconds / alone}
        found[f"{work}, ratio to skgen's"] = seconds / best
    return found


def training_step(n_features, width, batch_size, n_rounds=9):
    """A whole gradient step against its matrix products.

    Batches are prepared up to 8 at a time, so 24 steps are timed together.
    """
    generator = torch.Generator().manual_seed(0)
    model = untrained(n_features, width, generator)
    network = model.network
    rows = torch.randn(5000, n_features, generator=generator)
    plan = Plan(10**6, batch_size, 3e-3, 1e-4, 0, 10, 10**6)
    trainer = Trainer(model, rows, None, plan, generator, tqdm(disable=True))
    n_inputs = len(network.weight_in)
    inputs, pre = torch.randn(batch_size, n_inputs), torch.randn(batch_size, 2 * width)
    layer, weight_in = torch.randn(batch_size, width), torch.randn(n_inputs, 2 * width)
    hidden, out = torch.randn(width, width), torch.randn(n_features, width)
    grad = torch.randn(batch_size, n_features)
    groups = torch.randn(batch_size // model.group_size, model.group_size, n_features + 1)

    forward = (inputs, weight_in), (layer, hidden.T), (layer, out.T)
    backward = (grad, out), (grad.T, layer), (layer, hidden), (layer.T, layer), (inputs.T, pre)

    def products(multiply):
        (groups @ groups.mT) @ groups  # the average over a group
        for pair in (*forward, *backward):
            multiply(*pair)

    runs = [trainer._step, partial(products, torch.mm), partial(products, product)]
    step, alone, best = alternate(runs, n_rounds, repeats=24)
    return {
        "training step, columns": n_features,
        "width": width,
        "batch": batch_size,
        "step, us": 1e6 * step,
        "its matrix products, us": 1e6 * alone,
        "ratio": step / alone,
        "products by skgen, us": 1e6 * best,
        "ratio to skgen's": step / best,
    }


def peer_couplings(library, transformer, n_features, width, n_blocks):
    """Coupling flow of another library: a module and its function ``log_prob(rows)``."""
    if library == "zuko":
        import zuko

        kind = zuko.flows.NSF if transformer == "spline" else zuko.flows.MAF
        flow = kind(n_features, transforms=n_blocks, hidden_features=(width, width), passes=2)
        return flow, lambda rows: flow().log_prob(rows)
    from nflows import distributions, flows, transforms

    class Conditioner(torch.nn.Sequential):
        def __init__(self, n_in, n_out):
            sizes = (n_in, width, width, n_out)
            layers = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
            super().__init__(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])

        def forward(self, inputs, context=None):
            return super().forward(inputs)

    layers = []
    for k in range(n_blocks):
        mask = torch.where(torch.arange(n_features) < n_features // 2, -1, 1) * (-1) ** k
        if transformer == "spline":
            layers.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(
                    mask, Conditioner, num_bins=8, tails="linear", tail_bound=4.0
                )
            )
        else:
            layers.append(transforms.AffineCouplingTransform(mask, Conditioner))
    base = distributions.StandardNormal([n_features])
    flow = flows.Flow(transforms.CompositeTransform(layers), base)
    return flow, flow.log_prob


def couplings(
    n_features, transformer, width=64, n_blocks=6, batch_size=256, n_rows=10_000, n_rounds=30
):
    """Coupling flows of the same sizes: a step, log-densities of a batch and a table, samples."""
    density = RealNVPDensity(
        transformer=transformer,
        n_blocks=n_blocks,
        hidden_layer_sizes=(width, width),
        activation="relu",
        linear="permutation",
        dropout=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(batch_size, n_features, generator=generator)
    model = density._build_model(rows, generator, "standardize")
    plan = Plan(10**6, batch_size, 1e-3, 1e-4, 0, 10, 10**6)
    trainer = Trainer(model, rows, None, plan, generator, tqdm(disable=True))
    steps, log_probs = [trainer._step], [model.log_prob]
    for library in PEERS:
        flow, log_prob = peer_couplings(library, transformer, n_features, width, n_blocks)
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)

        def step(flow=flow, log_prob=log_prob, optimiser=optimiser):
            optimiser.zero_grad()
            (-log_prob(rows).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()

        steps.append(step)
        log_probs.append(log_prob)
    step, *other_steps = alternate(steps, n_rounds, repeats=8)
    with torch.no_grad():
        log_prob, *others = alternate([lambda f=f: f(rows) for f in log_probs], n_rounds, repeats=8)
        exact = rows.double()  # as estimators score and sample
        both = [lambda: model.log_prob(exact), lambda: model.transport(exact, to_data=True)]
        score, sample = alternate(both, n_rounds, repeats=8)
        table = torch.randn(n_rows, n_features, generator=generator)
        functions = [lambda f=f: f(table) for f in log_probs]
        of_table, *others_of_table = alternate(functions, max(3, n_rounds // 6))

    def times(what, own, of_others):
        return {f"{k}, {what}": other / own for k, other in zip(PEERS, of_others, strict=True)}

    return {
        "couplings": transformer,
        "columns": n_features,
        "step, ms": 1e3 * step,
        **times("times that", step, other_steps),
        "log-density, ms": 1e3 * log_prob,
        **times("times it", log_prob, others),
        "inverse, times it in float64": sample / score,
        "table, ms": 1e3 * of_table,
        **times("times the table's", of_table, others_of_table),
    }


FORMATS = {
    **dict.fromkeys(["skgen, rows/s", "same network in zuko, rows/s"], ",.0f"),
    **dict.fromkeys(["zuko's CNF, untrained, rows/s", "score_samples, rows/s"], ",.0f"),
    **dict.fromkeys(["mean error, nats", "worst error, nats", "its mean error, nats"], ".1e"),
    **dict.fromkeys(["step, us", "its matrix products, us", "products by skgen, us"], ".0f"),
    **dict.fromkeys(["ratio", "ratio to skgen's", "ratio to that"], ".2f"),
    **dict.fromkeys(["step, ms", "log-density, ms", "table, ms"], ".2f"),
    **dict.fromkeys(["zuko, times that", "nflows, times that"], ".2f"),
    **dict.fromkeys(["zuko, times it", "nflows, times it", "inverse, times it in float64"], ".2f"),
    **dict.fromkeys(["zuko, times the table's", "nflows, times the table's"], ".2f"),
    "cost, times that of 2 columns": ".2f",
}


def draw(rows, path):
    """Time over that of the matrix products, and over that of other libraries."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    steps = [row for row in rows if "training step, columns" in row]
    for batch_size, ax in zip(sorted({row["batch"] for row in steps}), axes, strict=False):
        some = [row for row in steps if row["batch"] == batch_size]
        by_columns(ax, some, "training step, columns", "width", "ratio")
        ax.set(title=f"training step, {batch_size} rows", ylabel="time / its products' by PyTorch")
    ax = next(axes)
    solved = [row for row in rows if "solves, columns" in row]
    for work, style in (("log-density, float64", "-"), ("samples", ":")):
        by_columns(ax, solved, "solves, columns", "width", f"{work}, ratio", style, work)
    ax.set(title="log-densities (float64) and samples", ylabel="time / its products' by PyTorch")
    for panel in [panel for panel in figure.axes if panel.lines]:
        panel.set_ylim(0, panel.get_ylim()[1] * (1.4 if panel is ax else 1.1))
    scored = [row for row in rows if "log-densities, columns" in row]
    if scored:  # with zuko
        ax = next(axes)
        columns = sorted({row["log-densities, columns"] for row in scored})
        for key, label in (("ratio", "same network"), ("ratio to that", "its own, untrained")):
            for max_iter in sorted({row["max_iter"] for row in scored}):
                some = [row for row in scored if row["max_iter"] == max_iter]
                trained = "trained" if max_iter > 1 else "untrained"
                name = f"{label}, skgen's {trained}"
                ax.loglog(columns, [row[key] for row in some], "o-", markersize=4, label=name)
        ax.set(title="exact log-densities", xlabel="columns", ylabel="rows/s over zuko's CNF")
        ax.set_xticks(columns, columns, minor=False)
        ax.set_xticks([], minor=True)
        ax.legend(fontsize=7)
    for ax in axes:
        ax.remove()
    figure.savefig(path, dpi=150)


def by_columns(ax, rows, columns, x, y, style="-", label=""):
    """A line for each number of columns; the dashed line is what is aimed at."""
    for i, n_columns in enumerate(sorted({row[columns] for row in rows})):
        some = [row for row in rows if row[columns] == n_columns]
        name = f"{label + ', ' if label else ''}{n_columns} columns"
        places, values = [row[x] for row in some], [row[y] for row in some]
        ax.plot(places, values, "o" + style, markersize=4, color=f"C{i}", label=name)
    ax.axhline(1.3, color="0.5", ls="--", lw=1)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("units of a hidden layer")
    ax.legend(fontsize=7)


def main(argv=None):
    args = parser(__doc__, "speed").parse_args(argv)
    set_threads(args.threads)
    warnings.simplefilter("ignore")
    results = Results(args, FORMATS)
    for name in {"zuko", "nflows"} - set(PEERS):
        print(f"{name} is not installed: skipped")
    for n_features in (2,) if args.quick else (2, 10, 60):
        for transformer in ("spline", "affine"):
            results.add(**couplings(n_features, transformer))
    for width in (128,) if args.quick else (64, 128, 256, 512):
        for n_features in (10,) if args.quick else (2, 10, 64):
            for batch_size in (512,) if args.quick else (512, 2048):
                results.add(**training_step(n_features, width, batch_size))
    for width in (128,) if args.quick else (64, 128, 256, 512):
        for n_features in (10,) if args.quick else (2, 10, 64):
            results.add(**solves(n_features, width))
    for max_iter in (1,) if args.quick else (1, 1500):
        if "zuko" not in PEERS:  # whose log-densities these are to be compared with
            break
        rates = []
        for n_features in (10,) if args.quick else (2, 10, 50):
            found = log_densities(n_features, 256, max_iter)
            rates.append(found["skgen, rows/s"])
            results.add(**found, **{"cost, times that of 2 columns": rates[0] / rates[-1]})
    try:
        write(args.out / "speed.png", lambda path: draw(results.rows, path))
    except ImportError:
        print("No figure: Matplotlib is not installed.")


if __name__ == "__main__":
    main()
