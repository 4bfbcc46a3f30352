# SPDX-License-Identifier: Apache-2.0
"""Which part of a clip's frames holds picture: letterbox and pillarbox bars, and the dark lines codecs leave at the edge,
are no scene. Bars stay where they are; edge lines are filled like everything the camera did not see."""

from dataclasses import replace

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import PictureBounds

LOOK_EVERY_FRAMES = 30
_BLACK_LEVEL = 26
"""8-bit luma up to which a whole line is taken for a bar: video black is 16, and bars carry some coding noise."""
_LARGEST_BAR_SHARE = 0.3
_EDGE_LINES = 4
_EDGE_DARKNESS = 0.75
"""An edge line whose mean is below this share of the lines just inside is no picture; hand-held clips show 0.9 and more."""


class BoundsObserver:
    """Looks at some frames of a clip and remembers per line its brightest look and its mean, and each pixel's brightest look."""

    def __init__(self) -> None:
        self._brightest: list[np.ndarray] = []
        self._peak: np.ndarray | None = None
        self._total: list[np.ndarray] = []

    def look(self, frame: Frame) -> None:
        luma = frame.luma8()
        if not frame.colour.full_range and frame.layout.model != "rgb":
            luma = luma.clip(16)
        self._peak = luma if self._peak is None else np.maximum(self._peak, luma)
        for axis, lines in enumerate((1, 0)):
            brightest = np.percentile(luma[:: 1 + 3 * (lines == 0), :: 1 + 3 * (lines == 1)], 99, axis=lines)
            total = luma.mean(axis=lines, dtype=np.float32)
            if len(self._brightest) <= axis:
                self._brightest.append(brightest)
                self._total.append(total)
            else:
                self._brightest[axis] = np.maximum(self._brightest[axis], brightest)
                self._total[axis] = self._total[axis] + total

    def bounds(self, overlay_mask: np.ndarray | None = None) -> PictureBounds:
        """What all looks together say; no bounds for a clip that is black throughout. A bar is one also where an overlay lies over
        it ([h, w] bool of any size), as timecode does."""
        if self._peak is None or max(lines.max() for lines in self._brightest) <= _BLACK_LEVEL:
            return PictureBounds()
        line_peaks = self._brightest
        if overlay_mask is not None:
            lies_over = cv2.resize(overlay_mask.astype(np.uint8), self._peak.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            beside = np.where(lies_over, np.nan, self._peak)
            beside[lies_over.all(axis=1)] = self._peak[lies_over.all(axis=1)]
            beside[:, lies_over.all(axis=0)] = self._peak[:, lies_over.all(axis=0)]
            line_peaks = [np.nanpercentile(beside, 99, axis=lines) for lines in (1, 0)]
        bars: list[int] = []
        insets: list[int] = []
        for axis in (1, 0):
            for flip in (1, -1):
                brightest, mean = line_peaks[axis][::flip], self._total[axis][::flip]
                bar = int(np.argmax(brightest > _BLACK_LEVEL))
                if bar > _LARGEST_BAR_SHARE * len(brightest):
                    bar = 0
                inside = mean[bar + _EDGE_LINES : bar + 2 * _EDGE_LINES].mean() if len(mean) > bar + 2 * _EDGE_LINES else 0.0
                dark = mean[bar : bar + _EDGE_LINES] < _EDGE_DARKNESS * inside
                bars.append(bar)
                insets.append(bar + (int(np.flatnonzero(dark)[-1]) + 1 if dark.any() else 0))
        (left, right, top, bottom), (left_bar, right_bar, top_bar, bottom_bar) = insets, bars
        return PictureBounds((left, top, right, bottom), (left_bar, top_bar, right_bar, bottom_bar))


def with_bars(frame: Frame, bounds: PictureBounds) -> Frame:
    """The frame with the clip's bars over it, black; the same frame where there are none."""
    left, top, right, bottom = bounds.bars_px
    if not any(bounds.bars_px):
        return frame
    layout, width, height = frame.layout, frame.width, frame.height
    planes = []
    for number, plane in enumerate(frame.planes):
        rows, columns = plane.shape
        inside = (
            slice(rows * top // height, rows - rows * bottom // height),
            slice(columns * left // width, columns - columns * right // width),
        )
        barred = np.full_like(plane, _black(frame, number))
        if layout.has_alpha and number == layout.plane_count - 1:
            barred = plane
        else:
            barred[inside] = plane[inside]
        planes.append(barred)
    return replace(frame, planes=tuple(planes))


def _black(frame: Frame, number: int) -> float:
    """Black's code value in a plane."""
    layout = frame.layout
    unit = 1 / 255 if layout.bit_depth == 32 else float(1 << (layout.bit_depth - 8))
    if layout.model == "yuv" and number in (1, 2):
        return 128 * unit
    return 0.0 if frame.colour.full_range or layout.model == "rgb" else 16 * unit
