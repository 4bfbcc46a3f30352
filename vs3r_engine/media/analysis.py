# SPDX-License-Identifier: Apache-2.0
"""An analysis on disk: what was found in a clip (reconstruction and dynamic masks), written piece by piece while it is
found and read piece by piece while it is used, so that neither needs memory in proportion to the clip."""

import hashlib
import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.errors import EngineFault, MediaError
from vs3r_engine.lens import Lens
from vs3r_engine.media import sequence
from vs3r_engine.scene import Moving, PictureBounds, Reconstruction
from vs3r_engine.timeline import FrameRange

SCHEMA = 19
"""Part of every analysis key: raise it whenever a method's results change, and old analyses are made again."""

_OVERLAY = "overlay.npy"


def source_key(path: str) -> str:
    """A key of the media's content: equal keys, equal pictures. Reads at most 4 MiB of a file; of many files 256 KiB each of at most
    127, and takes the others to be as they were where size and time of writing are.

    Of an image sequence only its own files count, whatever else lies in their folder. Raises: MediaError `media-missing`.
    """
    digest = hashlib.sha256()
    root = Path(path)
    if root.is_file():
        files = [root]
    elif root.is_dir():
        files = sorted(p for p in root.iterdir() if p.is_file())
    else:
        images = sequence.find(path)
        files = [] if images is None else [Path(images.file(index)) for index in range(images.numbers[1] - images.numbers[0] + 1)]
    if not files:
        raise MediaError("media-missing", f"{path} does not exist any more.", "Check the path, or reconnect the drive it is on.")
    step = max(1, len(files) // 64)
    for number, file in enumerate(files):
        facts = file.stat()
        digest.update(f"{file.name} {facts.st_size} {facts.st_mtime_ns if number % step else ''} ".encode())
    for file in files[::step]:
        size = file.stat().st_size
        blocks = 64 if len(files) == 1 else 4
        with file.open("rb") as stream:
            for i in range(blocks):
                stream.seek(i * max(0, size - 65536) // max(1, blocks - 1))
                digest.update(stream.read(65536))
    return digest.hexdigest()[:24]


class AnalysisWriter:
    """Writes pieces, in order, into an empty directory; the directory is an analysis once `finish` has returned.

    findings: facts about the clip, by name: those given, and so far the longest shot's. A new dictionary where they change.
    """

    def __init__(self, directory: Path, findings: dict[str, Any]) -> None:
        self.findings = findings
        self._directory = directory
        self._starts: list[int] = []
        self._shot_starts: list[int] = []
        self._lenses: list[Lens | None] = []
        self._end = 0
        self._longest_frames = self._bridged = self._breaks = 0
        self._moving_frames: list[float] = []

    def add(self, piece: Reconstruction, moving: Moving, starts_shot: bool) -> None:
        """Append one piece."""
        path = piece.trajectory
        if self._starts and path.first_frame != self._end:
            raise EngineFault("analysis-gap", f"A piece starts at frame {path.first_frame}; {self._end} was next.")
        arrays = {
            "K": path.K,
            "world_from_camera": path.world_from_camera,
            "confidence": piece.confidence.astype(np.float16),
            "depth": piece.depth.astype(np.float32),
            "mask_bits": np.packbits(moving.mask, axis=-1),
            "mask_width": np.array(moving.mask.shape[-1]),
        }
        if moving.own_motion is not None:
            arrays["own_motion"] = moving.own_motion.astype(np.float16)
        if path.residual_px is not None:
            arrays["residual_px"] = path.residual_px.astype(np.float32)
        arrays |= {f"diagnostics.{name}": values for name, values in piece.diagnostics.items()}
        np.savez(self._directory / f"{len(self._starts):06d}.npz", **arrays)  # type: ignore[arg-type]
        self._starts.append(path.first_frame)
        if starts_shot:
            self._shot_starts.append(path.first_frame)
            self._lenses.append(path.lens(path.first_frame))
        self._end = path.first_frame + len(path)
        self._breaks += int(np.count_nonzero(piece.diagnostics.get("is_apart", ())))
        self._bridged += int(np.count_nonzero(piece.diagnostics.get("is_bridged", ())))
        self._moving_frames.append(float(moving.mask.mean()) * len(path))
        if (shot_frames := self._end - self._shot_starts[-1]) >= self._longest_frames:
            # Of shots by different cameras the longest speaks for the clip.
            self._longest_frames = shot_frames
            self.findings = self.findings | piece.findings
        self._size = (path.width, path.height)

    def finish(self, bounds: PictureBounds = PictureBounds(), overlay_mask: np.ndarray | None = None) -> None:
        """Write the index that makes the directory an analysis. overlay_mask: [h, w] bool of the dynamic masks' size, see `View`."""
        findings = self.findings | {
            "moving_percent": round(100 * sum(self._moving_frames) / (self._end - self._starts[0]), 1),
            "shots": len(self._shot_starts),
            "breaks": self._breaks,
            "bridged_frames": self._bridged,
        }
        if overlay_mask is not None:
            findings["overlay_percent"] = round(100 * float(overlay_mask.mean()), 1)
            np.save(self._directory / _OVERLAY, overlay_mask)
        index = {
            "schema": SCHEMA,
            "width": self._size[0],
            "height": self._size[1],
            "piece_starts": self._starts,
            "shot_starts": self._shot_starts,
            "end_exclusive": self._end,
            "findings": findings,
            "inset_px": bounds.inset_px,
            "bars_px": bounds.bars_px,
            "shot_lenses": [None if lens is None else [lens.model, lens.parameters, lens.largest_angle_rad] for lens in self._lenses],
        }
        (self._directory / "analysis.json").write_text(json.dumps(index, indent=1))


class Analysis:
    """What is known of a range of one clip. Paths are in memory; depth and masks are read when asked for."""

    def __init__(self, directory: Path) -> None:
        index = json.loads((directory / "analysis.json").read_text())
        self._directory = directory
        self._starts = np.array(index["piece_starts"])
        self.frame_range = FrameRange.between(int(self._starts[0]), index["end_exclusive"])
        self.findings: dict[str, Any] = index["findings"]
        self.bounds = PictureBounds(tuple(index["inset_px"]), tuple(index["bars_px"]))
        self._piece = lru_cache(maxsize=3)(self._read_piece)
        K, world_from_camera, plane_depth = [], [], []
        residual_px: list[np.ndarray] = []
        diagnostics: dict[str, list[np.ndarray]] = {}
        moving = []
        for number in range(len(self._starts)):
            piece = self._read_piece(number)
            K.append(piece["K"])
            world_from_camera.append(piece["world_from_camera"])
            if "residual_px" in piece:
                residual_px.append(piece["residual_px"])
            known = (d[np.isfinite(d)] for d in piece["depth"])
            plane_depth.append([float(np.median(d)) if len(d) else 1.0 for d in known])
            moving.append(piece["dynamic_mask"].mean(axis=(1, 2)))
            for key, values in piece.items():
                if key.startswith("diagnostics."):
                    diagnostics.setdefault(key.removeprefix("diagnostics."), []).append(values)
        lenses: list[Lens | None] = []
        for (start, end), lens in zip(pairwise([*index["shot_starts"], index["end_exclusive"]]), index["shot_lenses"], strict=True):
            lenses += [None if lens is None else Lens(lens[0], tuple(lens[1]), lens[2])] * (end - start)
        self.trajectory = Trajectory(
            self.frame_range.start,
            index["width"],
            index["height"],
            np.concatenate(K),
            np.concatenate(world_from_camera),
            np.concatenate(residual_px) if residual_px else None,
            tuple(lenses) if any(lenses) else (),
        )
        self.plane_depth = np.concatenate(plane_depth)
        """[n] median depth of each frame, scene units."""
        self.moving_share = np.concatenate(moving)
        """[n] share of each frame that moves by itself."""
        self.diagnostics = {name: np.concatenate(values) for name, values in diagnostics.items()}
        overlay = directory / _OVERLAY
        self.overlay_mask: np.ndarray | None = np.load(overlay) if overlay.exists() else None
        """[h, w] bool, True on what lies over the scene and stands still in every frame; None where nothing does."""
        nowhere = np.zeros(len(self.trajectory), bool)
        apart = self.frame_range.start + np.flatnonzero(self.diagnostics.get("is_apart", nowhere))
        bounds = [*sorted({*index["shot_starts"], *apart.tolist()}), index["end_exclusive"]]
        self.shots = [FrameRange.between(a, b) for a, b in pairwise(bounds)]
        """Between scene cuts, and between places where nothing shows how the camera moved: neither path nor filling goes across."""
        self.is_bad = self.diagnostics.get("is_bridged", nowhere) & ~self.diagnostics.get("is_repeated", nowhere)
        """[n] bool: frames whose camera is only guessed; a picture that merely stands still is none of them."""

    def shot_of(self, frame_index: int) -> FrameRange:
        return next(shot for shot in self.shots if frame_index in shot)

    def depth(self, frame_index: int) -> np.ndarray:
        """[h, w] float32 z-depth, scene units."""
        return self._of_piece("depth", frame_index)

    def dynamic_mask(self, frame_index: int) -> np.ndarray:
        """[h, w] bool, True = moves against the scene: by itself, or with the frame as overlays do."""
        moving = self._of_piece("dynamic_mask", frame_index)
        return moving if self.overlay_mask is None else moving | self.overlay_mask

    def own_motion(self, frame_index: int) -> np.ndarray | None:
        """[rows, columns] float16, see `Moving`."""
        return self._of_piece("own_motion", frame_index) if "own_motion" in self._piece(self._number_of(frame_index)) else None

    def _of_piece(self, name: str, frame_index: int) -> np.ndarray:
        number = self._number_of(frame_index)
        return self._piece(number)[name][frame_index - self._starts[number]]

    def _number_of(self, frame_index: int) -> int:
        return int(np.searchsorted(self._starts, frame_index, side="right")) - 1

    def _read_piece(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self._directory / f"{number:06d}.npz") as stored:
            piece = {name: stored[name] for name in stored.files}
        piece["dynamic_mask"] = np.unpackbits(piece.pop("mask_bits"), axis=-1, count=int(piece.pop("mask_width"))).astype(bool)
        return piece
