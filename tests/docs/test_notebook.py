"""The notebook, run as its reader would run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "from_pdb_to_map.ipynb"


@pytest.mark.filterwarnings("default")  # those of the kernel's client are not ours
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, the run converges, and its claim is one that the page may be proud of."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            "assert found.converged\n"
            "assert found.resolution_A < 1.5\n"
            "assert phased.solved is not None and phased.solved.all()\n"
            "assert scores['frc_0p5_A'] < 2\n"
            "import shutil; shutil.rmtree(work)"
        )
    )
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}
    )
    client.execute()


def test_the_notebook_is_kept_without_outputs() -> None:
    """Pictures of an earlier version would say what this one no longer does."""
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
