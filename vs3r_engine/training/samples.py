# SPDX-License-Identifier: Apache-2.0
"""Training data on disk: shards of latents (safetensors) and one manifest line per finished clip."""

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vs3r_engine.errors import InputError

MANIFEST = "manifest.jsonl"
SCHEMA = 1


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One pair in normalised latents, [16, n, rows, columns]: what was, and what reprojection left of it."""

    clean: torch.Tensor
    condition: torch.Tensor


class DatasetWriter:
    """Adds clips to a data set; a clip is in it whole or not at all. Opening an existing one goes on with it.

    Raises: InputError `data-settings-changed` where it was begun with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        lines = _lines(folder)
        if not lines:
            _append(folder, {"schema": SCHEMA, "settings": settings})
        elif lines[0]["settings"] != settings:
            changed = sorted(key for key in settings if lines[0]["settings"].get(key) != settings[key])
            raise InputError(
                "data-settings-changed",
                f"The data set in {folder} was begun with other settings ({', '.join(changed)}).",
                "Use the same settings, or another folder.",
            )
        self._done = {line["clip"] for line in lines[1:]}

    def has(self, clip: str) -> bool:
        """Whether a clip was finished, with or without samples."""
        return clip in self._done

    def add(self, clip: str, source: str, samples: list[tuple[Sample, dict[str, Any]]], rejected: dict[str, int]) -> None:
        """Finish a clip. samples: with facts about each."""
        from safetensors.torch import save_file

        shard = f"shards/{clip}.safetensors"
        if samples:
            tensors: dict[str, torch.Tensor] = {}
            for number, (sample, _) in enumerate(samples):
                tensors |= {
                    f"{number}.clean": sample.clean.half().contiguous(),
                    f"{number}.condition": sample.condition.half().contiguous(),
                }
            partial = self.folder / (shard + ".part")
            save_file(tensors, partial)
            partial.replace(self.folder / shard)
        _append(
            self.folder,
            {
                "clip": clip,
                "source": source,
                "shard": shard if samples else None,
                "samples": [facts for _, facts in samples],
                "rejected": rejected,
            },
        )
        self._done.add(clip)


class Dataset:
    """The samples of a data set by position, in the manifest's order. Raises: InputError `no-training-data`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = _lines(folder)
        self._places = [(line["shard"], number) for line in lines[1:] for number in range(len(line["samples"]))]
        self._open: OrderedDict[str, Any] = OrderedDict()
        if not self._places:
            raise InputError("no-training-data", f"There are no samples in {folder}.", "Make some with `vs3r-engine train curate`.")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, position: int) -> Sample:
        from safetensors import safe_open

        shard, number = self._places[position]
        if shard not in self._open:
            self._open[shard] = safe_open(self.folder / shard, framework="pt")
            if len(self._open) > 8:
                self._open.popitem(last=False)
        stored = self._open[shard]
        return Sample(stored.get_tensor(f"{number}.clean").float(), stored.get_tensor(f"{number}.condition").float())


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The manifest's whole lines; one torn by a crash is not there."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _append(folder: Path, line: dict[str, Any]) -> None:
    path = folder / MANIFEST
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    if whole and not whole.endswith("\n"):
        path.write_text(whole[: whole.rfind("\n") + 1], encoding="utf-8")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
