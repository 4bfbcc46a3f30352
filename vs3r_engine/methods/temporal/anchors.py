# SPDX-License-Identifier: Apache-2.0
"""Anchors: the source frames that fillings are taken from. They sit at fixed indices, so that neighbouring output
frames draw on the same ones, and how much each counts changes smoothly with time."""

from dataclasses import dataclass

import cv2
import numpy as np

from vs3r_engine.methods.temporal.cells import Cells, blurred
from vs3r_engine.methods.warp import found_positions, picture_bounds
from vs3r_engine.scene import Target, View
from vs3r_engine.stages.complete import Views
from vs3r_engine.stages.render import Surface


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A source frame and what is asked of it again and again.

    small: [h, w, planes] its small picture. levels: its first plane, as in `blurred`. still: [h, w] small, 0 on and
    close to what moves against the scene, or None where nothing does. own_motion: see `Moving`, reaching as far; None where it is not
    known. scene: as still, of what lies over the scene.
    bounds: `picture_bounds`. surface: its depth.
    """

    view: View
    small: np.ndarray
    levels: tuple[np.ndarray, ...]
    still: np.ndarray | None
    own_motion: np.ndarray | None
    scene: np.ndarray | None
    bounds: np.ndarray
    surface: Surface

    @property
    def frame_index(self) -> int:
        return self.view.frame.frame_index

    def positions(self, target: Target, pixels: np.ndarray) -> np.ndarray:
        """See `found_positions`."""
        return found_positions(target, self.view, pixels, self.surface)


class Anchors:
    """The anchors around the frame being completed, remembered while in reach."""

    def __init__(self, views: Views, step_frames: int, reach_frames: int) -> None:
        self._views, self._step, self._reach = views, step_frames, reach_frames
        self._held: dict[int, Anchor | None] = {}

    def move_to(self, frame_index: int) -> None:
        """Forgets what the frames from here on cannot ask for: another shot's anchors. To be told of every frame."""
        if self._reach and self._views.view(frame_index - 1) is None:
            self._held.clear()

    def around(self, frame_index: int, cells: Cells) -> list[Anchor]:
        """Those within reach of a frame and in its shot: every multiple of the step, and the shot's two ends."""
        low, high = frame_index - self._reach, frame_index + self._reach
        for index in [held for held in self._held if held < low]:
            del self._held[index]
        found: list[Anchor] = []
        after = range(-(-(frame_index + 1) // self._step) * self._step, high + 1, self._step)
        before = range((frame_index - 1) // self._step * self._step, low - 1, -self._step)
        for indices, back in ((after, -1), (before, 1)):
            for index in indices:
                anchor = self._anchor(index, cells)
                if anchor is None:
                    # The shot ends within this step: its last frame stands in.
                    nearer = range(index + back, index + back * self._step, back)
                    inner = (self._anchor(i, cells) for i in nearer if (i - frame_index) * back < 0)
                    anchor = next((found_anchor for found_anchor in inner if found_anchor), None)
                    found += [anchor] if anchor else []
                    break
                found.append(anchor)
        return found

    def _anchor(self, index: int, cells: Cells) -> Anchor | None:
        if index not in self._held:
            view = self._views.view(index)
            self._held[index] = None if view is None else _made(view, cells)
        return self._held[index]


def _made(view: View, cells: Cells) -> Anchor:
    small = cells.small_picture(view.frame)
    levels = blurred(np.ascontiguousarray(small[..., 0]))
    scene = None if view.overlay_mask is None else cells.still(view.overlay_mask)
    still = cells.still(view.dynamic_mask)
    known = None if still is None or view.own_motion is None else view.own_motion.astype(np.float32)
    own_motion = None if known is None else cv2.dilate(known, np.ones((3, 3), np.uint8))
    return Anchor(view, small, levels, still, own_motion, scene, picture_bounds(view), Surface.of(view))


def prior_weight(distance_frames: np.ndarray, quarter_frames: int, reach_frames: int) -> np.ndarray:
    """What an anchor counts for its distance in time alone: a quarter for every `quarter_frames`, fading to nothing at
    the reach's end."""
    distance = np.abs(distance_frames)
    return np.exp2(-2 * distance / quarter_frames) * np.clip((reach_frames + 1 - distance) / quarter_frames, 0, 1)
