"""How the site is built: `make docs`. Pages are the Markdown here; the API reference and the
notebook's page are written to docs/generated/ from the sources at every build."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import diffragan

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from docstrings import to_rst  # noqa: E402

GENERATED = HERE / "generated"
SOURCE = Path(diffragan.__file__).parent

project = "diffragan"
author = "the diffragan developers"
version = release = diffragan.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]
nitpicky = False  # types of other packages are named, not linked: the build needs no network

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "model_config",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = f"diffragan {version}"
html_copy_source = False
html_show_sphinx = False


def api_pages() -> dict[str, str]:
    """reStructuredText by file name: a page a room, its modules below each other."""
    pages = {}
    folders = [p.parent for p in SOURCE.rglob("__init__.py")]
    for folder in sorted(folders):
        place = folder.relative_to(SOURCE)
        if place.name == "api":  # docs/api.md shows its calls
            continue
        name = ".".join(["diffragan", *place.parts])
        title = f"``{place.as_posix()}/``" if place.parts else "Modules outside the rooms"
        lines = [title, "=" * len(title), ""]
        if place.parts:
            lines += [f".. automodule:: {name}", "   :no-members:", ""]
        for path in sorted(folder.glob("*.py")):
            if path.stem in ("__init__", "__main__"):
                continue
            module = f"{name}.{path.stem}"
            head = f"``{path.relative_to(SOURCE).as_posix()}``"
            lines += [head, "-" * len(head), "", f".. automodule:: {module}", ""]
        pages[f"{name}.rst"] = "\n".join(lines)
    return pages


def notebook_page(path: Path) -> str:
    """A notebook's cells as Markdown, without outputs."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = []
    for cell in cells:
        text = "".join(cell["source"])
        texts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(texts) + "\n"


def generate(app: Any, config: Any) -> None:
    """Writes what is generated; a page that did not change keeps its time, so that it isn't
    built again."""
    pages = api_pages()
    for path in HERE.glob("*.ipynb"):
        pages[f"{path.stem}.md"] = notebook_page(path)
    GENERATED.mkdir(exist_ok=True)
    for old in GENERATED.iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = GENERATED / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def rewrite(app: Any, what: str, name: str, object_: Any, options: Any, lines: list[str]) -> None:
    """Each docstring on its way to napoleon."""
    lines[:] = to_rst(lines, record=what == "class")
    fields = getattr(object_, "model_fields", {}) if what == "class" else {}
    for key, field in fields.items():
        default = "" if field.default_factory else f" = {field.default!r}"
        about = f": {field.description}" if field.description else ""
        lines += ["", f"* ``{key}{default}``{about}"]


def keep_whole(
    app: Any, what: str, name: str, object_: Any, options: Any, lines: list[str]
) -> None:
    """Docstrings of properties as they were: napoleon takes words before a colon for a type."""
    if what == "property":
        lines[:] = [*to_rst((inspect.getdoc(object_) or "").splitlines()), ""]


def shorten(
    app: Any, what: str, name: str, object_: Any, options: Any, signature: str | None, returned: str
) -> tuple[str, None] | None:
    """Commands go without their options, which `--help` lists, and settings without fields, which
    their list tells."""
    bare = "typer." in (signature or "") or hasattr(object_, "model_fields")
    return ("()", None) if bare else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", generate)
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-process-docstring", keep_whole, priority=600)
    app.connect("autodoc-process-signature", shorten)
