"""Where RELION is, which version it is, and how it is run on several processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from diffragan.errors import DiffraganError

_VERSION = re.compile(r"version:?\s*v?(\d+)\.(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Relion:
    """The RELION on the PATH.

    version: major and minor number, as (3, 1).
    """

    version: tuple[int, int]

    @property
    def descends_by_gradient(self) -> bool:
        """Whether its ab initio search is `--grad` (4 and 5) and not `--sgd` (3)."""
        return self.version >= (4, 0)


def find_relion() -> Relion:
    """The RELION on the PATH.

    Raises:
        DiffraganError: there is none, or it does not tell its version.
    """
    if shutil.which("relion_refine") is None:
        raise DiffraganError(
            "RELION is not installed here (there is no relion_refine on the PATH); on Debian and "
            "Ubuntu `apt-get install relion` brings it, or write the files alone with "
            "--export-only."
        )
    try:
        told = subprocess.run(
            ["relion_refine", "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
        words = told.stdout + told.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    match = _VERSION.search(words)
    if match is None:
        said = " ".join(words.split())[:200] or "nothing"
        raise DiffraganError(
            f"relion_refine --version says {said}, which tells no version; repair the installation."
        )
    return Relion((int(match[1]), int(match[2])))


def mpi_words(launcher: str, ranks: int) -> list[str]:
    """What starts a program on several processes, as a command line's first words.

    Raises:
        DiffraganError: there is no such launcher.
    """
    if shutil.which(launcher) is None:
        raise DiffraganError(
            f"There is no {launcher} on the PATH, by which relion_refine_mpi is started; install "
            "an MPI (Debian: apt-get install openmpi-bin), or name another with "
            "--set relion.launcher=..."
        )
    return [launcher, "-n", str(ranks)]


def mpi_environment() -> dict[str, str]:
    """The environment in which Open MPI starts more processes than there are cores, and for root,
    as in a container.

    Both are options of Open MPI's `mpirun` that other launchers refuse; as variables they are
    ignored by whoever does not know them. Those of version 5 have names of their own.
    """
    added = {
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        # Containers forbid processes to read each other's memory, which it would complain of.
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }
    if os.geteuid() == 0:
        added |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return os.environ | added
