# SPDX-License-Identifier: Apache-2.0
"""Finds the media that a timeline refers to: where it says, beside the timeline, or in folders to search."""

import os
import re
import unicodedata
from dataclasses import dataclass, field

from vs3r_engine.errors import MediaError
from vs3r_engine.media.edit import IMAGE_SUFFIXES

MOVIES = {".mov", ".mp4", ".m4v", ".mxf", ".mkv", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".wmv", ".webm"}
"""What a clip that an EDL only names may be."""
_SEQUENCE = re.compile(r"(?P<prefix>.*?)(?:%0?(?P<digits>\d*)d|(?P<hashes>#+)|\[(?P<first>\d+)-(?P<last>\d+)\])(?P<suffix>\.\w+)")
"""Resolve writes name.[0001-0100].exr, others name.%04d.exr or name.####.exr."""


@dataclass
class MediaSearch:
    """Looks for files. base_dir: the timeline's folder. folders: searched with everything below them.

    Symbolic links to folders are not followed. macOS spells ü as u and dots: names are compared however they are spelled.
    """

    base_dir: str
    folders: tuple[str, ...] = ()
    _index: dict[str, list[str]] | None = field(default=None, repr=False)

    def find(self, path: str) -> str | None:
        """`path` if it exists, else the one file of the same name beside the timeline or under the folders; None where there is none.

        Raises: MediaError `media-ambiguous` for several files of that name.
        """
        name = re.split(r"[/\\]", path)[-1]
        for place in (path, os.path.join(self.base_dir, name)):
            for spelled in (place, unicodedata.normalize("NFC", place), unicodedata.normalize("NFD", place)):
                if exists(spelled):
                    return spelled
        found = self._named(name)
        if len(found) > 1:
            raise MediaError(
                "media-ambiguous",
                f"{path} is missing, and {len(found)} files have its name: {', '.join(sorted(found)[:4])}.",
                "Search a narrower folder, or relink the clip in the editor.",
            )
        return found[0] if found else None

    def find_named(self, names: list[str]) -> str | None:
        """The one movie under the folders that is called like one of `names`, with or without its suffix; None where there is none.

        Raises: MediaError `media-ambiguous`.
        """
        wanted = {_spelled(name) for name in names if name}
        found = sorted(
            {
                path
                for each, paths in self._all().items()
                for path in paths
                if (each in wanted or os.path.splitext(each)[0] in wanted) and os.path.splitext(each)[1] in MOVIES
            }
        )
        if len(found) > 1:
            raise MediaError(
                "media-ambiguous",
                f"{len(found)} files are called like {' or '.join(names)}: {', '.join(found[:4])}.",
                "Search a narrower folder, or relink the clip in the editor.",
            )
        return found[0] if found else None

    def searched(self) -> str:
        """Where `find` looks, for people."""
        places = [
            "where the timeline says",
            f"beside the timeline in {self.base_dir or '.'}",
            *(f"in {folder} and below" for folder in self.folders),
        ]
        return ", ".join(places)

    def _all(self) -> dict[str, list[str]]:
        """Every file under the folders, by its name as `_spelled` has it."""
        if self._index is None:
            self._index = {}
            for folder in self.folders:
                for where, _, names in os.walk(folder):
                    for each in names:
                        self._index.setdefault(_spelled(each), []).append(os.path.join(where, each))
        return self._index

    def _named(self, name: str) -> list[str]:
        index = self._all()
        pattern = sequence_pattern(_spelled(name))
        if pattern is None:
            return sorted(set(index.get(_spelled(name), [])))
        places = {os.path.dirname(paths[0]) for each, paths in index.items() if pattern.fullmatch(each)}
        return [os.path.join(place, name) for place in sorted(places)]


def _spelled(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def exists(path: str) -> bool:
    """True for a file, and for the name of an image sequence that some file of its folder belongs to."""
    return os.path.exists(path) or bool(_members(path))


def fingerprint(path: str) -> str:
    """Changes when the file does: size and modification time; of an image sequence, those of all its files together."""
    stats = [os.stat(path)] if os.path.exists(path) else [os.stat(member) for member in _members(path)]
    return f"{len(stats)}-{sum(stat.st_size for stat in stats)}-{max(stat.st_mtime_ns for stat in stats)}"


def sequence_pattern(name: str) -> re.Pattern[str] | None:
    """What the files of an image sequence are called, their number the one group; None for the name of one file."""
    match = _SEQUENCE.fullmatch(name)
    if match is None or match["suffix"].lower() not in IMAGE_SUFFIXES:
        return None
    digits = int(match["digits"] or 1) if match["digits"] is not None else len(match["hashes"] or match["first"])
    prefix = match["prefix"] if match["digits"] is None else match["prefix"].replace("%%", "%")
    return re.compile(re.escape(prefix) + rf"(\d{{{digits},}})" + re.escape(match["suffix"]))


def _members(path: str) -> list[str]:
    folder, name = os.path.split(path)
    pattern = sequence_pattern(name)
    if pattern is None or not os.path.isdir(folder or "."):
        return []
    part = _SEQUENCE.fullmatch(name)
    numbers = range(int(part["first"]), int(part["last"]) + 1) if part is not None and part["first"] else None
    return [
        entry.path
        for entry in os.scandir(folder or ".")
        if (match := pattern.fullmatch(entry.name)) and (numbers is None or int(match[1]) in numbers)
    ]
