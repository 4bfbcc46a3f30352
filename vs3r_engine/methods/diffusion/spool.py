# SPDX-License-Identifier: Apache-2.0
"""A shot on disk between the pass that reads it and the pass that writes it:

full-size frames and their reduced pictures.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vs3r_engine.errors import DiskFull
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.scene import Rendered, Target


class Spool:
    """Frames in order, readable again by position. Everything is gone when the block that made it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: list[tuple[int, PixelLayout, ColourTags, Target, int, bool]] = []
        self.has_hole: list[bool] = []
        """For every frame, whether anything was not rendered in it."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, rendered: Rendered, picture: np.ndarray, hole_mask: np.ndarray, prior: np.ndarray | None) -> None:
        """Append a frame, its reduced picture [h, w, 3] in [0, 1] with hole_mask [h, w], and the prior's picture,
        if any.
        """
        frame = rendered.frame
        full = {f"plane{i}": plane for i, plane in enumerate(frame.planes)} | {"holes": np.packbits(rendered.hole_mask, axis=1)}
        if rendered.current_mask is not None:
            full["current"] = np.packbits(rendered.current_mask, axis=1)
        small = {"picture": picture.astype(np.float16), "holes": hole_mask}
        if prior is not None:
            small["prior"] = prior.astype(np.float16)
        self._write("full", full)
        self._write("small", small)
        self._known.append(
            (
                frame.frame_index,
                frame.layout,
                frame.colour,
                rendered.target,
                frame.width,
                rendered.current_mask is not None,
            )
        )
        self.has_hole.append(bool(rendered.hole_mask.any()))

    def rendered(self, position: int) -> Rendered:
        """The full-size frame as it was added."""
        index, layout, colour, target, width, has_current = self._known[position]
        with np.load(self._path("full", position)) as stored:
            planes = tuple(stored[f"plane{i}"] for i in range(layout.plane_count))
            holes = np.unpackbits(stored["holes"], axis=1, count=width).astype(bool)
            current = np.unpackbits(stored["current"], axis=1, count=width).astype(bool) if has_current else None
        return Rendered(Frame(index, planes, layout, colour), holes, target, current)

    def forget(self, position: int) -> None:
        """Free the full-size frame's space."""
        self._path("full", position).unlink()

    def small(self, position: int, name: str) -> np.ndarray:
        """The reduced "picture" or "prior" [h, w, 3] float32, or "holes" [h, w] bool."""
        with np.load(self._path("small", position)) as stored:
            array = stored[name]
        return array if array.dtype == bool else array.astype(np.float32)

    def _path(self, kind: str, position: int) -> Path:
        return self._directory / f"{kind}{position:07d}.npz"

    def _write(self, kind: str, arrays: dict[str, Any]) -> None:
        try:
            np.savez(self._path(kind, len(self)), **arrays)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(
                "disk-full",
                f"The disk of {self._directory.parent} is full; a shot waits there while it is generated.",
                "Free some space, or set TMPDIR to a larger disk.",
            ) from error


@contextmanager
def spool() -> Iterator[Spool]:
    """An empty spool in the system's temporary directory, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="vs3r-shot-") as directory:
        yield Spool(Path(directory))
