"""Names what the repository has under src/diffragan and a wheel has not; fails if there is any.

    python release/missing_files.py dist/diffragan-0.1.0-py3-none-any.whl

Weights, example data and the pages' JavaScript are no modules, so nothing else would miss them.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def missing(wheel: Path) -> list[str]:
    """Tracked files of the package that are not in the wheel, or are there with other bytes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/diffragan"], cwd=ROOT, capture_output=True, check=True
    )
    tracked = [name for name in listed.stdout.decode().split("\0") if name]
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        return [
            name
            for name in tracked
            if (inside := name.removeprefix("src/")) not in held
            or archive.read(inside) != (ROOT / name).read_bytes()
        ]


def main() -> None:
    """Command line."""
    absent = missing(Path(sys.argv[1]))
    if absent:
        sys.exit(f"The wheel lacks {len(absent)} files: {', '.join(absent)}")
    print("The wheel holds every file of the package.")


if __name__ == "__main__":
    main()
