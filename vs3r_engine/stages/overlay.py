# SPDX-License-Identifier: Apache-2.0
"""What is burnt into a clip's frames (logos, timecode, a camera's display) is no scene: it stands still while the scene behind it moves."""

from collections.abc import Sequence

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import PictureBounds, Reconstruction
from vs3r_engine.stages.mask import LEAST_ADVANTAGE_LEVELS, STEP_FRAMES, advantage_levels, found_differences, predicted_flow

_EVERY_FRAMES = 2
_LEAST_MOTION_PX = 1.5
_SURE, _LIKELY = (5, 0.25, 0.85), (3, 0.15, 0.6)
"""Least looks in favour, their least share of all looks (plain scene behind a logo hides it from the rest), and their least
agreement, (for - against) / (for + against). Logos reach 1; a walker whom the camera follows stays below 0.7."""
_LEAST_SURE_PX = 12
_LEAST_SURE_SHARE = 0.2
"""Of an area that is likely burnt in, what must be sure. On hand-held footage without logos nothing is."""
_EDGE_SHARE = 1 / 80
"""Of the picture's width: closer to its edge lie lines that codecs leave there, which stand still too."""


class OverlayObserver:
    """Compares frames with later ones and counts per pixel how often it stood still though the scene there moved."""

    def __init__(self) -> None:
        self._stood = self._moved = self._looks = np.zeros((1, 1), np.int32)

    def look(self, piece: Reconstruction, frames: Sequence[Frame]) -> None:
        """frames: the piece's, of one size, the same for all pieces."""
        height, width = frames[0].height, frames[0].width
        edge_px = width * _EDGE_SHARE
        for i in range(0, len(frames) - STEP_FRAMES, _EVERY_FRAMES):
            predicted = predicted_flow(piece, i, i + STEP_FRAMES, width, height)
            as_scene, at = found_differences(frames[i], frames[i + STEP_FRAMES], predicted)
            as_overlay = cv2.absdiff(frames[i].luma8(), frames[i + STEP_FRAMES].luma8())
            advantage = advantage_levels(as_scene, as_overlay)
            judged = cv2.inRange(at, (edge_px, edge_px), (width - 1 - edge_px, height - 1 - edge_px)) > 0
            judged &= cv2.magnitude(predicted[..., 0], predicted[..., 1]) > _LEAST_MOTION_PX
            self._looks = self._looks + judged
            self._stood = self._stood + (judged & (advantage > LEAST_ADVANTAGE_LEVELS))
            self._moved = self._moved + (judged & (advantage < -LEAST_ADVANTAGE_LEVELS))

    def mask(self, bounds: PictureBounds, width: int) -> np.ndarray | None:
        """[h, w] bool at the looked-at size, True on and close to what is burnt in; None where nothing is.

        bounds are those of the clip's frames, `width` theirs: bars and edge lines stand still too.
        """
        sure, likely = (
            (self._stood >= np.maximum(count, share * self._looks)) & (self._stood - self._moved > agreement * (self._stood + self._moved))
            for count, share, agreement in (_SURE, _LIKELY)
        )
        rows, columns = sure.shape
        left, top, right, bottom = (round(inset * columns / width + columns * _EDGE_SHARE) for inset in bounds.inset_px)
        inside = np.zeros_like(likely)
        inside[top : rows - bottom, left : columns - right] = True
        joined = cv2.morphologyEx((likely & inside).astype(np.uint8), cv2.MORPH_CLOSE, _square(columns // 64))
        count, areas = cv2.connectedComponents(joined)
        sure_px, likely_px = (np.bincount(areas[which & inside], minlength=count) for which in (sure, likely))
        burnt_in = (sure_px >= np.maximum(_LEAST_SURE_PX, _LEAST_SURE_SHARE * likely_px))[areas] & (areas > 0)
        if not burnt_in.any():
            return None
        # Small print beside a logo is not found by itself.
        return cv2.dilate(cv2.morphologyEx(burnt_in.astype(np.uint8), cv2.MORPH_CLOSE, _square(columns // 24)), _square(columns // 36)) > 0


def _square(side: int) -> np.ndarray:
    return np.ones((max(3, side | 1),) * 2, np.uint8)
