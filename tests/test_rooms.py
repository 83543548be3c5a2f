"""The house: which room may import which, and how large rooms, modules and functions may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "diffragan"

# From the top down: a module imports from its own line or from those below it.
ROOMS = (
    "cli __main__",
    "commands",
    "terminal",
    "api",
    "view scan atoms",
    "scan.hits scan.placing",
    "atoms.molecule",
    "atoms.bonds",
    "atoms.comparison",
    "atoms.building",
    "relion reconstruction.classes",
    "reconstruction",
    "reconstruction.sorting",
    "reconstruction.likelihood",
    "reconstruction.orientations",
    "reconstruction.maps",
    "training.on_maps",
    "training",
    "phasing phasing.methods",
    "inspection",
    "inspection.detector",
    "report",
    "evaluation",
    "atoms.model",
    "pairs",
    "stores",
    "networks",
    "microscope.session",
    "microscope.planning",
    "microscope",
    "microscope.matter",
    "microscope.exit_waves",
    "molecules",
    "relion.programs",
    "files",
    "files.instruments files.integrity",
    "engine",
    "optics",
    "fourier",
    "settings rotations symmetry progress optimisation",
    "devices plugins",
    "errors",
)
LEVEL = {name: k for k, line in enumerate(ROOMS) for name in line.split()}
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def room_of(module: str) -> str:
    """The longest room whose name starts the module's."""
    parts = module.split(".")
    for k in range(len(parts), 0, -1):
        if ".".join(parts[:k]) in LEVEL:
            return ".".join(parts[:k])
    raise AssertionError(f"{module} lies in no room of this list")


def imports_of(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Modules of this package that a file imports, those for types and inside functions too; with
    `at_import` only what runs when the module is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    known = {name_of(p) for p in MODULES}
    body = tree.body if at_import else ast.walk(tree)
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffragan"):
            base = (node.module or "").removeprefix("diffragan").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found = inner if inner in known else base
                if found:
                    yield found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    """A reader who goes down the list meets every module before those that it is built on."""
    here = LEVEL[room_of(name_of(path))]
    up = [name for name in imports_of(path) if LEVEL[room_of(name)] < here]
    assert not up, f"{name_of(path)} imports upward: {up}"


def test_no_circles() -> None:
    """Modules of one room import each other in one direction."""
    graph = {name_of(p): set(imports_of(p, at_import=True)) for p in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for other in graph[name]:
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_no_command_imports_another() -> None:
    """What two commands share is a library call."""
    for path in sorted((SOURCE / "commands").rglob("*.py")):
        others = [n for n in imports_of(path) if n.startswith("commands.")]
        assert not others, f"{path.name}: {others}"


def test_no_room_is_a_pile() -> None:
    """At most ten modules a folder."""
    for folder in [SOURCE, *(p for p in SOURCE.rglob("*") if p.is_dir())]:
        modules = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= 10, f"{folder.name}: {modules}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """Modules end at 400 lines, functions at 60 and seven parameters; commands list their options,
    and a `# long:` on the line of the def gives the reason of an exception."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    assert len(lines) <= 400, f"{name_of(path)} has {len(lines)} lines"
    options = name_of(path).startswith("commands.")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first, last = node.body[0].lineno, node.end_lineno or node.lineno
        if any("# long:" in line for line in lines[node.lineno - 1 : first]):
            continue
        many = node.args.args + node.args.kwonlyargs + node.args.posonlyargs
        names = [a.arg for a in many if a.arg not in ("self", "cls")]
        size = last - node.lineno + 1
        if not (options and any("typer" in ast.dump(a) for a in many)):
            assert size <= 60, f"{name_of(path)}.{node.name} has {size} lines"
            assert len(names) <= 7, f"{name_of(path)}.{node.name} takes {len(names)} parameters"
