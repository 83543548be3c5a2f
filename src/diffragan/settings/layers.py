"""Settings from their layers: a preset (`presets/*.toml`), then a TOML file, then `key=value`
pairs, each laid over the one before."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from diffragan.errors import DiffraganError
from diffragan.settings.old_keys import present_keys, refuse_old_key
from diffragan.settings.sections import Settings


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    files = resources.files("diffragan").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_settings(
    preset: str = "default",
    *,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from a preset, a TOML file, `section.key=value` pairs and Python values.

    Each layer wins over the one before it.

    Args:
        preset: `default`, `published` for the paper's system, `published-tuned` for its
            training as it was found better, `network` to train ours, `experiment` for one as it
            is, `counting-detector`, `integrating-detector`; several with commas between them.
        file: TOML with a table for each section.
        overrides: as after `--set`: "image.snr=2", "simulate.box_A=70".
        values: by dotted key, {"phase.method": "raar"}; a None is skipped.

    Raises:
        DiffraganError: an unknown preset, key or value; the message names what is allowed.
    """
    tree: dict[str, Any] = {}
    for name in preset.split(","):
        if name not in preset_names():
            raise DiffraganError(
                f"There is no preset '{name}'; the presets are {', '.join(preset_names())}."
            )
        text = resources.files("diffragan").joinpath("presets", f"{name}.toml").read_text("utf-8")
        _lay_over(tree, tomllib.loads(text))
    by_hand = {} if file is None else present_keys(_read_toml(file))
    for pair in overrides:
        key, equals, value = pair.partition("=")
        if not equals:
            raise DiffraganError(f"--set takes key=value, for example image.snr=2, not '{pair}'.")
        refuse_old_key(key.strip())
        _lay_over(by_hand, _nested(key.strip(), _parse_value(value.strip())))
    for key, value in (values or {}).items():
        if value is not None:
            _lay_over(by_hand, _nested(key, value))
    _lay_over(tree, by_hand)
    return _marked(settings_from_dict(tree), by_hand)


def given_by_hand(settings: Settings, key: str) -> bool:
    """Whether a file, `--set` or an option gave a setting (`energy_ev`, `image.defocus_A`), which
    then stands against what a data file tells; a preset's or the default value does not."""
    section, _, name = key.rpartition(".")
    if not section:
        return name in settings.model_fields_set
    inner: BaseModel = getattr(settings, section)
    return section in settings.model_fields_set and name in inner.model_fields_set


def _marked(settings: Settings, by_hand: Mapping[str, Any]) -> Settings:
    """The same settings; `model_fields_set` names what was given by hand, and no preset's."""
    fields: dict[str, Any] = {
        name: value.model_construct(set(by_hand.get(name, ())), **dict(value))
        if isinstance(value, BaseModel)
        else value
        for name, value in settings
    }
    return Settings.model_construct(set(by_hand), **fields)


def settings_from_dict(tree: Mapping[str, Any]) -> Settings:
    """Validated settings from a nested dictionary, as stores keep them, those of earlier versions
    too: keys that have another name by now are taken under it, and removed ones are dropped.
    None counts as given by hand: what a file tells of its lens goes before a record of it.

    Raises:
        DiffraganError: an unknown key or a value out of range.
    """
    try:
        return _marked(Settings.model_validate(present_keys(tree)), {})
    except ValidationError as error:
        raise DiffraganError(_plain(error)) from None


def settings_to_toml(settings: Settings) -> str:
    """The settings as TOML that `load_settings(file=...)` reads back; None is left out."""
    import json

    lines: list[str] = []
    tree = settings.model_dump(mode="json", exclude_none=True)
    lines += [f"{k} = {json.dumps(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for section, content in tree.items():
        if isinstance(content, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{k} = {json.dumps(v)}" for k, v in content.items()]
            # TOML has no null: a value that a preset sets and the user unset is written out.
            lines += [
                f'{k} = "none"'
                for k, v in getattr(settings, section)
                if v is None and k not in content
            ]
    return "\n".join(lines) + "\n"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise DiffraganError(f"The settings file {file} can't be read: {reason}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DiffraganError(f"The settings file {file} is not TOML: {error}.") from None


def _parse_value(text: str) -> Any:
    """A TOML value where it is one, a bare string otherwise; `none` unsets."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _lay_over(base[key], value)
        elif isinstance(value, Mapping):
            base[key] = {}
            _lay_over(base[key], value)
        else:
            base[key] = None if value == "none" else value


def _plain(error: ValidationError) -> str:
    """The first validation error as one sentence: key, value, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = Settings
        for part in first["loc"][:-1]:
            annotation = model.model_fields[str(part)].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
        names = ", ".join(sorted(model.model_fields))
        return f"There is no setting '{key}'; here the settings are {names}."
    reason = first["msg"].removeprefix("Value error, ")
    if not key:  # settings that do not go together
        return f"{reason}."
    reason = reason[0].lower() + reason[1:]
    return f"The setting {key} can't be {first['input']!r}: {reason}."
