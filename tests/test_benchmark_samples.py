"""The benchmark of samples runs, and judges rows that are as good as real ones, and copies."""

import json

import numpy as np
import pytest

samples = pytest.importorskip("examples.benchmarks.samples")  # not in an installed package


def test_quick_run(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    options = ["--quick", "--tables", "diabetes", "--only", "GaussianMLE", "--out", str(tmp_path)]
    samples.main(options)
    printed = capsys.readouterr().out
    assert printed.startswith("Quick run")
    assert (tmp_path / "samples.md").read_text().strip() == printed.strip()
    written = json.loads((tmp_path / "samples.json").read_text())
    assert written["settings"]["options"]["quick"]
    found = written["sets"]["diabetes"]
    assert (found["n_test"], found["n_drawn"], found["n_columns"]) == (111, 331, 9)
    assert found["results"]["real rows"]["copies"] == 1.0
    assert set(found["results"]["GaussianMLE"]) > {"energy", "wasserstein", "auc", "copies", "r2"}
    assert (tmp_path / "samples.png").stat().st_size > 10_000


@pytest.mark.slow
def test_quick_run_of_everything(tmp_path, capsys):
    samples.main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "## EightGaussians" in printed and "## diabetes" in printed
    assert "StackedDensity" in printed.split("Mean ranks")[1]


def test_folder_of_tables(tmp_path):
    X = np.random.RandomState(0).standard_normal((60, 2))
    np.savez(tmp_path / "own.npz", train=X[:40], test=X[40:])
    folder = str(tmp_path)
    samples.main(["--data", folder, "--tables", "own", "--only", "GaussianMLE", "--out", folder])
    found = json.loads((tmp_path / "samples.json").read_text())["sets"]["own"]
    assert (found["n_train"], found["n_test"]) == (40, 20) and "r2" in found["results"][
        "GaussianMLE"
    ]
    with pytest.raises(SystemExit):
        samples.main(["--tables", "other"])


def test_generators_without_their_package_are_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(samples, "missing", lambda name: "ForestDiffusion")
    options = ["--quick", "--tables", "diabetes", "--only", "ForestFlow", "--out", str(tmp_path)]
    samples.main(options)
    assert "ForestFlow is skipped: ForestDiffusion is not installed." in capsys.readouterr().out


def test_ranks():
    found = {"energy": 0.1, "wasserstein": 0.2, "auc": 0.48, "copies": 0.5}
    seconds = {"fit_seconds": 1.0, "sample_seconds": 2.0}
    good, bad = {**found, **seconds}, {**found, **seconds, "energy": 0.3, "auc": 0.6}
    results = {"set": {"results": {"real rows": found, "good": good, "bad": bad}}}
    lines = samples.summary(results, ["bad", "good"]).splitlines()
    assert lines[-2] == "| bad | 2.0 | 1.5 | 2.0 | - | 0.50 | 1 | 2 |"
    assert lines[-1] == "| good | 1.0 | 1.5 | 1.0 | - | 0.50 | 1 | 2 |"
