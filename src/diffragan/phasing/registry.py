"""How methods are found by name, and refuse what they do not take: names at once, what is behind
them when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from diffragan.errors import DiffraganError
from diffragan.plugins import load_plugins

if TYPE_CHECKING:
    from diffragan.phasing.method import Method

GROUP = "diffragan.methods"


@dataclass(frozen=True)
class MethodLine:
    """One line of the registry.

    target: `module:attribute` of the `Method`. summary: a few words for `--help`. aliases: other
    names by which users may ask for it.
    """

    target: str
    summary: str
    aliases: tuple[str, ...] = ()


class UnknownMethodError(DiffraganError, KeyError):
    """No method has this name; a `KeyError` too, as mappings promise."""

    __str__ = Exception.__str__


class MethodRegistry(MutableMapping[str, "Method"]):
    """Methods by name: those of the package, then those of plug-ins, then those set at run time.

    Names are known without importing a method, which would import PyTorch. A plug-in is an entry
    point of the group `diffragan.methods`: a `Method`, or a function `(batch, context) -> Phased`.
    A method set at run time wins over one of the same name.
    """

    def __init__(self, lines: Mapping[str, MethodLine]) -> None:
        self._lines = dict(lines)
        self._loaded: dict[str, Method] = {}

    def __iter__(self) -> Iterator[str]:
        offered = sorted(entry.name for entry in entry_points(group=GROUP))
        return iter(dict.fromkeys([*self._lines, *offered, *self._loaded]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) in list(iter(self))

    def __getitem__(self, name: str) -> Method:
        """The method of that name or alias.

        Raises:
            UnknownMethodError: no such method.
            DiffraganError: a plug-in that can't be loaded.
        """
        name = self.canonical(name)
        if name not in self._loaded:
            if name not in self:
                raise UnknownMethodError(
                    f"There is no method '{name}'; choose from {', '.join(self)}."
                )
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __setitem__(self, name: str, method: Method) -> None:
        self._loaded[name] = method

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def canonical(self, name: str) -> str:
        """The name that an alias stands for; any other name as it is."""
        for known, line in self._lines.items():
            if name in line.aliases:
                return known
        return name

    def describe(self) -> str:
        """All names, with a few words on each of the package's own."""
        parts = []
        for name in self:
            line = self._lines.get(name)
            names = " or ".join([name, *line.aliases]) if line else name
            parts.append(f"{names} ({line.summary})" if line else name)
        return ", ".join(parts)

    def _load(self, name: str) -> Method:
        from diffragan.phasing.method import as_method

        if name in self._lines:
            module, _, attribute = self._lines[name].target.partition(":")
            return as_method(getattr(import_module(module), attribute), name)
        return as_method(load_plugins(GROUP)[name], name)


class TakesOptions(Protocol):
    """A method that names the options it takes."""

    @property
    def takes(self) -> frozenset[str]:
        """Names of options."""


def check_options(name: str, given: Mapping[str, str], methods: Mapping[str, TakesOptions]) -> None:
    """Refuse options that a method does not take.

    Args:
        given: options given by hand, by the user's word: {"--time-budget": "time_budget_s"}.
        methods: all there are, by name.

    Raises:
        DiffraganError: no such method, or options that it does not take; the message names the
            methods that do.
    """
    if name not in methods:
        raise DiffraganError(f"There is no method '{name}'; choose from {', '.join(methods)}.")
    takes = methods[name].takes
    refused = []
    for word, option in given.items():
        if option in takes:
            continue
        others = [other for other in methods if option in methods[other].takes]
        do = "does" if len(others) == 1 else "do"
        refused.append(f"{word} ({', '.join(others)} {do})" if others else word)
    if refused:
        them = "it" if len(refused) == 1 else "them"
        raise DiffraganError(
            f"The method '{name}' does not take {', '.join(refused)}; leave {them} out."
        )
