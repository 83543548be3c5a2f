"""From docstrings as they are written here to reStructuredText.

They are plain text: `|x|` and `a * b` are mathematics, an indented block is code, and a record
lists its fields as lines of `name: meaning`. Sections such as `Args:` are left to napoleon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:")
_FIELD = re.compile(r"(\w+(?:, \w+)*): (.*)")


def to_rst(lines: list[str], *, record: bool = False) -> list[str]:
    """The lines of a docstring in reStructuredText; `record` for the docstring of a class."""
    return list(_fields(_plain(lines)) if record else _plain(lines))


def _plain(lines: list[str]) -> Iterator[str]:
    """Code blocks marked as such, and what only looks like markup escaped."""
    section, code, before = False, False, ""
    for k, line in enumerate(lines):
        indented = line.startswith("    ")
        if line and not indented:
            section, code = line in SECTIONS, False
        if line == "Examples:":
            line, code = "Examples::", True
        elif indented and not (section or code) and k and not lines[k - 1] and before:
            yield "::"
            yield ""
            code = True
        yield line if code else _escaped(line)
        before = line or before


def _escaped(line: str) -> str:
    """`|` and `*` outside backticks, and `_` at a word's end, taken literally."""
    parts = line.split("`")
    for k in range(0, len(parts), 2):
        parts[k] = re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", parts[k])
    return "`".join(parts)


def _fields(lines: Iterator[str]) -> Iterator[str]:
    """Lines of `name: meaning` as a list."""
    inside = False
    for line in lines:
        found = None if line in SECTIONS else _FIELD.fullmatch(line)
        if found:
            if not inside:
                yield ""
            inside = True
            yield f"* ``{found[1]}``: {found[2]}"
        elif inside and line:
            yield f"  {line.strip()}"
        else:
            inside = False
            yield line
