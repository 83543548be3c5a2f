"""Docstrings on their way to the site."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def to_rst(text: str, *, record: bool = False) -> str:
    """docs/docstrings.py is no part of the package, so it is loaded from its file."""
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n".join(module.to_rst(text.splitlines(), record=record))


def test_mathematics_is_no_markup() -> None:
    """|x| is a modulus and a * b a product; in backticks nothing is touched."""
    assert to_rst("R = sum ||o| - a| / sum a*b") == r"R = sum \|\|o\| - a\| / sum a\*b"
    assert to_rst("q_ and `--set a|b*`") == r"q\_ and `--set a|b*`"


def test_indented_text_is_code_unless_a_section_owns_it() -> None:
    """Args belong to napoleon; other indented blocks are shown as they are typed."""
    text = "Add one:\n\n    @method('a*')\n\nArgs:\n    x: |x| rows."
    expected = "Add one:\n\n::\n\n    @method('a*')\n\nArgs:\n    x: \\|x\\| rows."
    assert to_rst(text) == expected
    assert to_rst("Examples:\n\n    a --b *.png") == "Examples::\n\n    a --b *.png"


def test_fields_of_a_record_become_a_list() -> None:
    """One item a line of `name: meaning`, whatever its continuation is indented by."""
    text = "A view.\n\nq: (s,) 1/Å,\n    from shell 0.\nx, y: in Å, or\nNone.\n\nMore."
    expected = (
        "A view.\n\n\n* ``q``: (s,) 1/Å,\n  from shell 0.\n* ``x, y``: in Å, or\n  None.\n\nMore."
    )
    assert to_rst(text, record=True) == expected
