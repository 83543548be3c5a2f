"""Coordinate files for the tests, made from ten residues of ubiquitin (1UBQ, CC0)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SEQUENCE = "MQIFVKTLTG"
# Free acid of the ten residues from their average masses, plus one proton: at pH 7 the first
# residue and the lysine carry one each, the last residue has lost one.
MASS_DA = 1137.403 + 1.008
ATOMS = tuple(
    (Path(__file__).parent / "data" / "ubiquitin_1_10.pdb").read_text("utf-8").splitlines()
)


def record(
    line: str,
    *,
    kind: str | None = None,
    atom: str | None = None,
    altloc: str | None = None,
    residue: str | None = None,
    chain: str | None = None,
    number: int | None = None,
    occupancy: float | None = None,
    shift_A: float = 0.0,
    element: str | None = None,
) -> str:
    """An ATOM record with some of its fields replaced and x moved by `shift_A`."""
    name = line[12:16] if atom is None else (f" {atom:<3}" if len(atom) < 4 else atom)
    return (
        f"{kind or line[:6]:<6}{line[6:12]}{name}{altloc or line[16]}{residue or line[17:20]:>3} "
        f"{chain or line[21]}{line[22:26] if number is None else f'{number:4d}'}{line[26:30]}"
        f"{float(line[30:38]) + shift_A:8.3f}{line[38:54]}"
        f"{line[54:60] if occupancy is None else f'{occupancy:6.2f}'}{line[60:76]}"
        f"{line[76:78] if element is None else f'{element:>2}'}{line[78:]}"
    )


def residue_number(line: str) -> int:
    """Residue number of an ATOM record."""
    return int(line[22:26])


def atom_name(line: str) -> str:
    """Atom name of an ATOM record."""
    return line[12:16].strip()


def water(number: int, chain: str = "A") -> str:
    """A water 40 Å away from everything."""
    line = record(ATOMS[0], kind="HETATM", atom="O", residue="HOH", chain=chain, number=number)
    return record(line, shift_A=40 + 3 * (number % 10), element="O")


def ion(name: str, number: int) -> str:
    """A metal ion 60 Å away from everything."""
    line = record(ATOMS[0], kind="HETATM", atom=name, residue=name, number=number)
    return record(line, shift_A=60, element=name)


def pdb_file(path: Path, lines: Iterable[str]) -> Path:
    """Writes the records and an END."""
    path.write_text("\n".join([*lines, "END"]) + "\n", "utf-8")
    return path
