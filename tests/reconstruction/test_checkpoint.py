"""An unfinished run's folder: whose it is, also where an earlier version began it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffragan.errors import DiffraganError
from diffragan.reconstruction.checkpoint import claim
from diffragan.settings import Settings


def test_a_run_begun_under_old_names_of_settings_goes_on(tmp_path: Path) -> None:
    """The same values under a renamed key are the same run; another value is another run."""
    settings = Settings().model_dump(mode="json", include={"seed", "many_views"})
    key = {"input": "ab", "settings": settings}
    old = json.loads(json.dumps(key))
    many_views = old["settings"]["many_views"]
    many_views["polish"] = many_views.pop("error_reduction_iterations")
    many_views["hold_iterations"] = many_views.pop("image_weight_iterations")
    record = tmp_path / "run.json"
    record.write_text(json.dumps(old))
    claim(tmp_path, key)
    assert json.loads(record.read_text()) == key
    many_views["polish"] += 1
    record.write_text(json.dumps(old))
    with pytest.raises(DiffraganError, match="other settings"):
        claim(tmp_path, key)
