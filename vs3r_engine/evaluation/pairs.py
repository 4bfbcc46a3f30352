# SPDX-License-Identifier: Apache-2.0
"""Which result belongs to which original: by path relative to its folder, whatever the suffix."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vs3r_engine.errors import MediaError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v", ".avi", ".webm", ".mxf")


@dataclass(frozen=True, slots=True)
class Pair:
    """An original and its result. name: relative path without suffix. category: its first folder, "" at the top."""

    name: str
    category: str
    original: Path
    result: Path


@dataclass(frozen=True, slots=True)
class Pairing:
    """One folder of results. missing: originals without a result; extra: results without an original."""

    label: str
    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def videos(folder: Path) -> dict[str, Path]:
    """Every video below `folder` by relative path without suffix. Raises: MediaError `no-folder`, `two-of-a-name`."""
    if not folder.is_dir():
        raise MediaError("no-folder", f"{folder} is not a folder.", "Give a folder of videos.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise MediaError("two-of-a-name", f"{found[name]} and {path} both answer to {name}.", "Remove one of them.")
            found[name] = path
    return found


def paired(originals: Path, results: Path, label: str | None = None) -> Pairing:
    """The originals with the results of one folder. Raises: MediaError `no-clips` when there is no original at all."""
    sources, made = videos(originals), videos(results)
    if not sources:
        raise MediaError("no-clips", f"{originals} holds no video.", "Give the folder of the original clips.")
    pairs = tuple(Pair(name, category_of(name), sources[name], made[name]) for name in sources if name in made)
    return Pairing(label or results.name, pairs, _without(sources, made), _without(made, sources))


def category_of(name: str) -> str:
    """The first folder of a relative name: NUS keeps one for each category."""
    return name.split("/")[0] if "/" in name else ""


def _without(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(name for name in names if name not in known)
