"""Entry of the benchmarks: ``python -m examples.benchmarks NAME [options]``."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

NAMES = ["density", "speed", "samples", "images", "scaling", "tutorial", "known", "transport"]
NAMES += ["conditional", "completion"]


def first_lines():
    """First line of the docstring of each benchmark, read without importing what it needs."""
    found = {}
    for name in NAMES:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        found[name] = ast.get_docstring(ast.parse(source)).split("\n")[0]
    return found


def main(argv=None):
    name, *options = (sys.argv[1:] if argv is None else argv) or [""]
    lines = first_lines()
    if name not in lines:
        print("usage: python -m examples.benchmarks NAME [options]; -h after a name lists them\n")
        for known, line in lines.items():
            print(f"  {known:12} {line}")
        return 2
    import_module(f"examples.benchmarks.{name}").main(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
