# SPDX-License-Identifier: Apache-2.0
"""What lies over the scene and stands still in the frame while the scene behind it moves (logos, timecode, the bonnet that a
camera is mounted on): found, told from the scene, and left where it is."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import PictureBounds, Reconstruction, Rendered, View
from vs3r_engine.stages.bounds import BoundsObserver
from vs3r_engine.stages.mask import LEAST_ADVANTAGE_LEVELS, STEP_FRAMES, advantage_levels, found_differences, grid_at, predicted_flow
from vs3r_engine.stages.render import is_identity, source_positions

_EVERY_FRAMES = 2
_LEAST_MOTION_PX = 1.5
_SURE, _LIKELY = (5, 0.25, 0.85), (3, 0.15, 0.6)
"""Least looks in favour, their least share of all looks (plain scene behind a logo hides it from the rest), and their least
agreement, (for - against) / (for + against). Logos reach 1; a walker whom the camera follows stays below 0.7."""
_KEPT_EVERY_FRAMES, _KEPT, _FEWEST_KEPT = 6, 4, 2
"""A face that the camera is held before stands as still as a logo for two frames; it has moved after 12 to 24."""
_ALIKE, _LEAST_ALIKE_SHARE = 0.8, 0.7
_LEAST_TEXTURE_LEVELS = 6.0
"""What stands out less from its surroundings is a scratch on a windscreen: seen through, and better moved along than cut out."""
_LEAST_SURE_PX = 12
_LEAST_SURE_SHARE = 0.2
"""Of an area that is likely an overlay, what must be sure. On hand-held footage without logos nothing is."""
_EDGE_SHARE = 1 / 80
"""Of the picture's width: closer to its edge lie lines that codecs leave there, which stand still too."""
_LARGEST_SHARE = 0.5
"""What stands still in more of the picture than this is what the shot is of."""
_FEATHER_SHARE = 0.005
"""Of the picture's width."""
_CELL_PX = 16


class OverlayObserver:
    """Compares frames with later ones and counts per pixel how often it stood still though the scene there moved, and how often
    it looked as it did long before."""

    def __init__(self) -> None:
        self._stood = self._moved = self._looks = self._alike = self._compared = np.zeros((1, 1), np.int32)
        self._kept: deque[np.ndarray] = deque(maxlen=_KEPT)

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
        for frame in frames[::_KEPT_EVERY_FRAMES]:
            luma = frame.luma8().astype(np.float32)
            if len(self._kept) >= _FEWEST_KEPT:
                likeness, textured = _likeness(self._kept[0], luma)
                self._compared = self._compared + textured
                self._alike = self._alike + (textured & (likeness > _ALIKE))
            self._kept.append(luma)

    def mask(self, bounds: PictureBounds, width: int) -> np.ndarray | None:
        """[h, w] bool at the looked-at size, True on and close to what lies over the scene; None where nothing does.

        bounds are those of the clip's frames, `width` theirs: bars and edge lines stand still too.
        """
        sure, likely = (
            (self._stood >= np.maximum(count, share * self._looks)) & (self._stood - self._moved > agreement * (self._stood + self._moved))
            for count, share, agreement in (_SURE, _LIKELY)
        )
        sure &= self._alike >= np.maximum(1, _LEAST_ALIKE_SHARE * self._compared)
        rows, columns = sure.shape
        left, top, right, bottom = (round(inset * columns / width + columns * _EDGE_SHARE) for inset in bounds.inset_px)
        inside = slice(top, rows - bottom), slice(left, columns - right)
        sure, likely = sure[inside], likely[inside]
        # Letters belong together, and what lies between them to them.
        joined = cv2.morphologyEx(likely.astype(np.uint8), cv2.MORPH_CLOSE, _square(columns // 24))
        count, areas = cv2.connectedComponents(joined)
        sure_px, likely_px = (np.bincount(areas[which], minlength=count) for which in (sure, likely))
        lies_over = (sure_px >= np.maximum(_LEAST_SURE_PX, _LEAST_SURE_SHARE * likely_px))[areas] & (areas > 0)
        if not 0 < lies_over.mean() <= _LARGEST_SHARE:
            return None
        # Small print beside a logo is not found by itself.
        area = cv2.dilate(lies_over.astype(np.uint8), _square(columns // 26))
        return cv2.copyMakeBorder(area, top, bottom, left, right, cv2.BORDER_REPLICATE) > 0


def bounds_and_overlay(bounds: BoundsObserver, overlays: OverlayObserver, width: int) -> tuple[PictureBounds, np.ndarray | None]:
    """What is picture in frames `width` wide, and the mask of what lies over it or over its bars."""
    plain = bounds.bounds()
    mask = overlays.mask(plain, width)
    if mask is None:
        return plain, None
    found = bounds.bounds(mask)
    if found == plain:
        return plain, mask
    # A bar with timecode in it. Its inner edge stood still, but is no overlay; the timecode is.
    rows, columns = mask.shape
    left, top, right, bottom = (round(bar * columns / width) for bar in found.bars_px)
    mask[top : rows - bottom, left : columns - right] = False
    beside = overlays.mask(found, width)
    return found, mask if beside is None else mask | beside


def without_overlay(rendered: Rendered, view: View) -> Rendered:
    """The same with holes where it shows the view's overlay; unchanged if it is the view's own frame."""
    if view.overlay_mask is None or is_identity(rendered.target, view):
        return rendered
    height, width = rendered.hole_mask.shape
    rows, columns = view.overlay_mask.shape
    x, y = (np.linspace(0, side, -(-side // _CELL_PX) + 1) for side in (width, height))
    at = grid_at(source_positions(rendered.target, view, np.stack(np.meshgrid(x, y), -1)), columns, rows)
    at *= np.array([columns / width, rows / height], np.float32)
    at -= np.float32(0.5)
    cv2.patchNaNs(at, -1.0)
    overlay = view.overlay_mask.astype(np.uint8) * 255
    moved = cv2.remap(overlay, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    lies_over = cv2.resize(moved, (width, height), interpolation=cv2.INTER_LINEAR) > 127
    if rendered.current_mask is None:
        return replace(rendered, hole_mask=rendered.hole_mask | lies_over)
    lies_over &= rendered.current_mask
    return replace(rendered, hole_mask=rendered.hole_mask | lies_over, current_mask=rendered.current_mask & ~lies_over)


def with_overlay(frame: Frame, view: View) -> Frame:
    """The frame with the view's overlay over it, where it is in the view, feathered; the same frame where there is none."""
    if view.overlay_mask is None:
        return frame
    rows, columns = view.overlay_mask.shape
    soft = cv2.GaussianBlur(view.overlay_mask.astype(np.float32), (0, 0), columns * _FEATHER_SHARE, borderType=cv2.BORDER_REPLICATE)
    matte = np.clip(2 * soft - 0.9, 0, 1)
    _, _, boxes, _ = cv2.connectedComponentsWithStats((matte > 0).astype(np.uint8))
    planes = [plane.copy() for plane in frame.planes]
    for plane, source in zip(planes, view.frame.planes, strict=True):
        scale_x, scale_y = columns / plane.shape[1], rows / plane.shape[0]
        for left, top, width, height, _ in boxes[1:]:
            x, y = int(left / scale_x), int(top / scale_y)
            part = slice(y, -int(-(top + height) // scale_y)), slice(x, -int(-(left + width) // scale_x))
            here = plane[part]
            to_matte = np.array([[scale_x, 0, (x + 0.5) * scale_x - 0.5], [0, scale_y, (y + 0.5) * scale_y - 0.5]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            share = cv2.warpAffine(matte, to_matte, here.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            mixed = here * (1 - share) + source[part] * share
            np.copyto(here, mixed if plane.dtype == np.float32 else np.rint(mixed), where=share > 0, casting="unsafe")
    return replace(frame, planes=tuple(planes))


def _likeness(luma: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] correlation of 5 x 5 pixels around each, and whether both have texture there."""
    (mean, later_mean, square, later_square, product) = (
        cv2.boxFilter(image, -1, (5, 5)) for image in (luma, later, luma * luma, later * later, luma * later)
    )
    variance, later_variance = square - mean * mean, later_square - later_mean * later_mean
    textured = np.minimum(variance, later_variance) > _LEAST_TEXTURE_LEVELS**2
    return (product - mean * later_mean) / np.sqrt(np.maximum(variance * later_variance, 1.0)), textured


def _square(side: int) -> np.ndarray:
    return np.ones((max(3, side | 1),) * 2, np.uint8)
