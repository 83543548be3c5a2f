"""What the package imports is what it declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Names under which distributions are imported, where they differ.
IMPORTED_AS = {
    "biopython": "Bio",
    "pyfftw": "pyfftw",
    "scikit-image": "skimage",
}
# Declared though never imported here: abTEM leaves its FFT to pyFFTW, and the others are extras.
OPTIONAL = {"tensorboard", "hdf5plugin", "pyterse", "rsciio"}


def declared() -> set[str]:
    """Import names of the dependencies in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[<>=\[; ]", line)[0].lower() for line in project["dependencies"]]
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def imported() -> set[str]:
    """Top-level packages that the source imports, inside functions too."""
    names: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"diffragan", "__future__"}


def test_every_import_is_declared() -> None:
    """A package that is only there because another one brings it may go with the next release of
    that one."""
    brought = {name.split(".")[0] for name in imported()} - declared() - OPTIONAL
    assert not brought, f"declare {sorted(brought)} in pyproject.toml"
