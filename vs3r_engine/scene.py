# SPDX-License-Identifier: Apache-2.0
"""What was found in a scene (Reconstruction), one frame with all that is known of it (View), where to render it from
(Target) and what came out (Rendered)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vs3r_engine.camera import Camera, Trajectory
from vs3r_engine.frame import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """Camera and scene over a run of consecutive frames of one shot, in one arbitrary scale ("scene units").

    depth: [n, h, w] float32 z-depth at any reduced size that spans the picture; NaN where unknown.
    confidence: [n, h, w] float32 in [0, 1], same size as depth.
    semantic_mask: [n, h, w] bool (True = moves) of any size that spans the picture, or None where the method has none.
    diagnostics: named arrays [n] per frame (numbers or bools), such as "track_count", "is_bridged".
    findings: facts about this run, by name.
    """

    trajectory: Trajectory
    depth: np.ndarray
    confidence: np.ndarray
    semantic_mask: np.ndarray | None = None
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    findings: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PictureBounds:
    """Lines without picture at (left, top, right, bottom) of a clip's frames: inset_px all of them, bars_px those that are
    letterbox or pillarbox bars and stay where they are."""

    inset_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    bars_px: tuple[int, int, int, int] = (0, 0, 0, 0)


class Moving(NamedTuple):
    """What of n frames moves by itself.

    mask: [n, h, w] bool. own_motion: [n, rows, columns] float32, cells that span the picture: how far what the mask marks there moves
    against the scene, in widths of the picture a frame; 0 where it marks nothing. None where nobody measured it.
    """

    mask: np.ndarray
    own_motion: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One source frame and all that is known of it. depth and the masks are of any size that spans the picture.

    dynamic_mask: True on what moves against the scene. own_motion: how far what it marks moves a frame, as in `Moving`; None where nobody
    measured it. overlay_mask: True on what of it stands still in the frame, as a logo does; None where nothing does. inset_px: lines at
    (left, top, right, bottom) of the frame that hold no picture. is_bad: black, white, blurred or without texture, so that its camera is
    only guessed from the frames around it.
    """

    frame: Frame
    camera: Camera
    residual_px: np.ndarray | None
    depth: np.ndarray
    dynamic_mask: np.ndarray
    inset_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    is_bad: bool = False
    overlay_mask: np.ndarray | None = None
    own_motion: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where one output frame is seen from: a camera on the smoothed path, and the smoothed residual there."""

    frame_index: int
    camera: Camera
    residual_px: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A frame seen from its target. hole_mask: [h, w] bool at the frame's size, True = nothing was rendered.

    current_mask: [h, w] bool, True where the pixel comes from the current frame itself (not from a neighbour), or None
    where the renderer does not tell.
    """

    frame: Frame
    hole_mask: np.ndarray
    target: Target
    current_mask: np.ndarray | None = None
