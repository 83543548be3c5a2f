"""How large the tree's files and functions are: the table in docs/architecture.md.

    python benchmarks/tree_figures.py src/diffragan [OTHER ...]

Files are modules other than `__init__.py`. Lines count as they stand, blank lines and comments
too. A function goes from its `def` to its last line; methods and functions inside functions count.
Parameters are all but `self`, `cls` and starred ones. The docstring share is the docstrings' lines
over all lines. Public names are functions and classes at a module's top level without a `_`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from statistics import median

LONG_LINES, MANY_PARAMETERS = 60, 7
HEADER = (
    "| | files | median / longest file | functions: median / 90 % / longest | > 60 lines "
    "| > 7 params | docstring share | most public names in a module |"
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def row(folder: Path) -> str:
    """The table's row of a source tree, as Markdown.

    Raises:
        SyntaxError: a file that is no Python of this version.
    """
    paths = sorted(p for p in folder.rglob("*.py") if p.name != "__init__.py")
    texts = [path.read_text("utf-8") for path in paths]
    trees = [ast.parse(text) for text in texts]
    files = [len(text.splitlines()) for text in texts]
    functions = [n for tree in trees for n in ast.walk(tree) if isinstance(n, Function)]
    lengths = sorted((n.end_lineno or n.lineno) - n.lineno + 1 for n in functions)
    documented = sum(docstring_lines(node) for tree in trees for node in ast.walk(tree))
    public = {path.stem: public_names(tree) for path, tree in zip(paths, trees, strict=True)}
    most = max(public, key=lambda name: public[name])
    cells = (
        folder.name,
        len(files),
        f"{int(median(files) + 0.5)} / {max(files)}",
        f"{int(median(lengths) + 0.5)} / {lengths[int(0.9 * len(lengths))]} / {lengths[-1]}",
        f"{sum(length > LONG_LINES for length in lengths)} of {len(lengths)}",
        sum(parameters(node) > MANY_PARAMETERS for node in functions),
        f"{documented / sum(files):.2f}".lstrip("0"),
        f"{public[most]} ({most})",
    )
    return f"| {' | '.join(map(str, cells))} |"


def parameters(node: Function) -> int:
    """How many a caller may give, without `self` and `cls`."""
    given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return sum(argument.arg not in ("self", "cls") for argument in given)


def docstring_lines(node: ast.AST) -> int:
    """Lines of a node's docstring with its quotes, 0 where it has none."""
    if not isinstance(node, Function | ast.ClassDef | ast.Module) or not ast.get_docstring(node):
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def public_names(tree: ast.Module) -> int:
    """Functions and classes at the top level."""
    defined = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    return sum(not node.name.startswith("_") for node in defined)


if __name__ == "__main__":
    print(HEADER, "|" + "---|" * 8, sep="\n")
    for name in sys.argv[1:]:
        print(row(Path(name)))
