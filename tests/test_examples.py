"""Every example runs, with its training cut to a few steps, and draws something."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import pyplot

from skgen.trained import TrainedDensity

FOLDER = Path(__file__).parents[1] / "examples"
# Many images are drawn, or judged by classifiers.
LONG = {"plot_mnist_diffusion", "plot_digits_diffusion", "plot_conditional_digits"}
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG))
    for path in sorted(FOLDER.glob("plot_*.py"))
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a few steps
@pytest.mark.parametrize("path", EXAMPLES)
def test_example_runs(path, tmp_path, monkeypatch):
    plan = TrainedDensity._plan

    def short_plan(self, *args):
        return replace(plan(self, *args), max_iter=4, round_length=2)

    monkeypatch.setattr(TrainedDensity, "_plan", short_plan)
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("Agg")
    try:
        runpy.run_path(str(path), run_name="__main__")
        assert pyplot.get_fignums() or list(tmp_path.glob("*.png"))
    finally:
        pyplot.close("all")
