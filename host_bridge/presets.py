# SPDX-License-Identifier: Apache-2.0
"""Presets: the built-in ones, and the user's own as TOML files in the configuration directory."""

import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vs3r_engine.errors import InputError, SettingsError
from vs3r_engine.service.rendezvous import configuration_directory, write_private
from vs3r_engine.settings import NAMING_FILES, PRESETS, SCHEMA, Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NO_FILE = ("", "none", "perspective")
"""What a setting that may name files holds instead."""


def chosen_values(preset: str, assignments: Iterable[str]) -> dict[str, Any]:
    """What a preset and texts such as "path.smoothness=70" change. Files are named from here: the engine works elsewhere.

    Raises: as `preset_values`; SettingsError `bad-setting` for a text that assigns nothing.
    """
    values = preset_values(preset)
    for assignment in assignments:
        key, separator, value = (part.strip() for part in assignment.partition("="))
        if not separator:
            raise SettingsError("bad-setting", f"{assignment!r} is not a setting.", "Write --set group.name=value.")
        if key in NAMING_FILES and value not in _NO_FILE:
            value = ";".join(os.path.abspath(os.path.expanduser(part.strip())) for part in value.split(";"))
        values[key] = value
    return values


def directory() -> Path:
    return configuration_directory() / "presets"


def user_presets() -> list[str]:
    return sorted(path.stem for path in directory().glob("*.toml"))


def preset_values(name: str) -> dict[str, Any]:
    """The settings that a preset changes.

    Raises: SettingsError `unknown-preset`, `bad-preset`, `newer-settings`, `bad-setting`, `unknown-setting`.
    """
    if name in PRESETS:
        return dict(PRESETS[name])
    file = directory() / f"{name}.toml"
    if not _NAME.fullmatch(name) or not file.exists():
        known = [*PRESETS, *user_presets()]
        raise SettingsError("unknown-preset", f"There is no preset {name!r}.", f"Choose one of {', '.join(known)}.")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError("bad-preset", f"{file} cannot be read: {error}.", "Correct or delete it.") from error
    if content.get("version") != SCHEMA:
        raise SettingsError(
            "newer-settings",
            f"{file} is of version {content.get('version')}; this program reads {SCHEMA}.",
            "Update VS3R.",
        )
    values = content.get("settings", {})
    if not isinstance(values, dict):
        raise SettingsError("bad-preset", f"{file} cannot be read: its settings are no table.", "Correct or delete it.")
    Settings().with_values(values)
    return values


def save(name: str, settings: Settings, *, overwrite: bool) -> Path:
    """The preset is in the user's configuration directory. Raises: InputError `bad-name`, `preset-exists`;
    SetupError `directory-unusable`."""
    if not _NAME.fullmatch(name) or name in PRESETS:
        raise InputError(
            "bad-name",
            f"{name!r} cannot name a preset.",
            "Use letters, digits, - and _, and no built-in preset's name.",
        )
    file = directory() / f"{name}.toml"
    if file.exists() and not overwrite:
        raise InputError("preset-exists", f"There is a preset {name!r} already.", "Use -f to replace it.")
    lines = [f"version = {SCHEMA}", "", "[settings]"] + [f'"{key}" = {_toml(value)}' for key, value in settings.changed().items()]
    write_private(file, ("\n".join(lines) + "\n").encode())
    return file


def _toml(value: Any) -> str:
    """JSON, but for what TOML wants otherwise: no pairs of surrogates, and DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
