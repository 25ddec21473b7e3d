"""Imports go down only: estimators, the door, core; and importing skgen is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skgen

ROOT = Path(skgen.__file__).parent
CORE = {path.stem for path in (ROOT / "core").glob("*.py")} - {"__init__"}
METRICS = {path.stem for path in (ROOT / "metrics").glob("*.py")} - {"__init__"}
TOP = {path.stem for path in ROOT.glob("*.py")} - {"__init__"} | {"metrics"}

# What each file of core may import of core, besides interfaces; one not listed, nothing.
ALLOWED = {
    "interfaces": {"draws"},
    "networks": {
        "activations",
        "divergence",
        "paths",
        "products",
        "times",
        "two_layers",
        "workspace",
    },
    "unet": {"divergence", "networks", "paths", "schedules"},
    "products": set(),
    "two_layers": {"activations", "products", "workspace"},
    "conditioner": {"activations", "draws", "products", "transformers", "workspace"},
    "bijections": {"workspace"},
    "coupling": {"bijections", "conditioner", "transformers"},
    "transformers": {"splines"},
    "times": {"paths"},
    "chain_bound": {"diffusion_samplers", "gaussian", "progress", "samplers", "schedules"},
    "conditional": {"gaussian"},
    "coupling_flow": {"bijections", "coupling", "gaussian", "workspace"},
    "marginals": {"bijections", "gaussian", "splines"},
    "supports": {"gaussian"},
    "samplers": {"gaussian", "paths", "progress", "solvers"},
    "schedules": {"paths", "splines", "workspace"},
    "diffusion_samplers": {"gaussian", "paths", "progress", "samplers", "schedules"},
    "objectives": {"gaussian", "times"},
    "matching": {
        "draws",
        "gaussian",
        "networks",
        "objectives",
        "paths",
        "products",
        "times",
        "workspace",
    },
    "flow": CORE - {"chain_bound", "flow", "models", "optimiser", "reflow", "training"},
    "refinement": {"solvers"},
    "reflow": {"draws", "flow", "matching", "times"},
    "models": set(),
    "conditioning": set(),
    "training": {"optimiser"},
}
DOOR = {  # what estimators share
    "base",
    "bases",
    "completion",
    "conditions",
    "defended",
    "fields",
    "gaussian_mixtures",
    "held_out",
    "image_rows",
    "interchange",
    "path_density",
    "race",
    "rows",
    "supports",
    "trained",
    "trained_flow",
    "weights",
}
ROOMS = {
    "compose",
    "datasets",
    "member_fits",
    "members",
    "metrics",
    "mixing",
}  # know densities by public methods only
ESTIMATORS = TOP - DOOR - ROOMS - {"exceptions"}


def imports(path):
    """Absolute names of what a file of skgen imports anywhere in it."""
    package = ["skgen", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield ".".join(module)
            yield from (".".join([*module, alias.name]) for alias in node.names)


def parts_of(path, package):
    """Files of a package of skgen that a file imports."""
    names = [name.split(".") for name in imports(path)]
    depth = len(package)
    return {name[depth] for name in names if name[:depth] == package and len(name) > depth}


@pytest.mark.parametrize("name", sorted(CORE))
def test_core_knows_tensors_only(name):
    outside = {module.split(".")[0] for module in imports(ROOT / "core" / f"{name}.py")}
    outside -= {"scipy"} if name == "pairing" else set()  # whose assignment solver has no match
    assert not outside & {"numpy", "scipy", "sklearn", "pandas", "polars"}
    assert "torch" in outside or name in {"solvers", "progress"}
    assert not parts_of(ROOT / "core" / f"{name}.py", ["skgen"]) & TOP


@pytest.mark.parametrize("name", sorted(CORE))
def test_layers_of_core(name):
    used = parts_of(ROOT / "core" / f"{name}.py", ["skgen", "core"]) & CORE
    assert used <= ALLOWED.get(name, set()) | ({"interfaces"} - {name})


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_do_not_import_each_other(name):
    used = parts_of(ROOT / f"{name}.py", ["skgen"]) & TOP
    assert used & DOOR
    assert used <= DOOR


@pytest.mark.parametrize("name", sorted(DOOR))
def test_door_does_not_import_estimators(name):
    assert parts_of(ROOT / f"{name}.py", ["skgen"]) & TOP <= DOOR | {"mixing"}


@pytest.mark.parametrize("name", sorted(ROOMS - {"metrics"}))
def test_rooms_do_not_import_core(name):
    used = parts_of(ROOT / f"{name}.py", ["skgen"])
    assert "core" not in used
    assert "torch" not in {module.split(".")[0] for module in imports(ROOT / f"{name}.py")}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_metrics_know_arrays_and_networks_only(name):
    path = ROOT / "metrics" / f"{name}.py"
    assert parts_of(path, ["skgen"]) <= {"base", "metrics", "rows"}
    modules = {module.split(".")[0] for module in imports(path)}
    assert "torch" not in modules or name in {"extraction", "fid"}
    assert not modules & OPTIONAL


def test_every_file_is_read():
    assert {"gaussian", "flow_matching"} <= ESTIMATORS and {"base"} <= DOOR <= TOP
    assert "skgen.core.training" in imports(ROOT / "trained.py")
    assert {"paths", "divergence"} <= parts_of(ROOT / "core" / "networks.py", ["skgen", "core"])


OPTIONAL = {"matplotlib", "pandas", "polars", "diffusers", "torchvision", "cleanfid", "PIL"}
BASIS = "torch, sklearn.mixture, sklearn.pipeline, sklearn.model_selection"  # loaded beforehand


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_loads_nothing_optional():
    # scikit-learn loads pandas itself where it is installed.
    code = f"import {BASIS}, sys; before = set(sys.modules); import skgen; "
    loaded = set(run(code + "print(*sys.modules.keys() - before)"))
    assert "skgen.core.models" in loaded
    assert not loaded & OPTIONAL
    assert not [module for module in loaded if module.startswith("skgen.metrics")]


def test_import_of_metrics_loads_nothing_optional():
    code = f"import {BASIS}, sys; before = set(sys.modules); import skgen.metrics; "
    loaded = set(run(code + "print(*sys.modules.keys() - before)"))
    assert "skgen.metrics.images" in loaded
    assert not loaded & OPTIONAL


@pytest.mark.slow
def test_import_is_quick():
    code = f"import {BASIS}, time; t = time.perf_counter; start = t(); import skgen; "
    code += "print(t() - start)"
    assert min(float(run(code)[0]) for _ in range(3)) < 0.2
