# SPDX-License-Identifier: Apache-2.0
"""Which part of a clip's frames holds picture: letterbox and pillarbox bars, and the dark lines codecs leave at the edge,
are no scene. Bars stay where they are; edge lines are filled like everything the camera did not see."""

from dataclasses import replace

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import PictureBounds

_LOOK_EVERY_FRAMES, _FEWEST_LOOKS = 30, 8
_DARKEST_PICTURE_LEVELS = 10
"""8-bit luma above black up to which a whole line is taken for a bar: bars carry some coding noise. Not in float pictures: there a dark
wall is linear light of a few hundredths, and bars are 0."""
_SPECK_LEVELS = 40
"""A line with anything as bright as this above black, were it one star in a night sky, is no bar."""
_LARGEST_BAR_SHARE = 0.3
_EDGE_LINES = 4
_EDGE_DARKNESS = 0.75
"""An edge line whose mean is below this share of the lines just inside is no picture; hand-held clips show 0.9 and more."""


def look_every_frames(count: int) -> int:
    """Every how manieth of `count` frames is looked at: of a few frames, the first may lie in a fade."""
    return max(1, min(_LOOK_EVERY_FRAMES, count // _FEWEST_LOOKS))


class BoundsObserver:
    """Looks at some frames of a clip and remembers how far above black each pixel and each line was at its brightest, and each
    line's mean."""

    def __init__(self) -> None:
        self._peak: np.ndarray | None = None
        self._line_peaks: list[np.ndarray] = []
        self._total: list[np.ndarray] = []
        self._darkest = _DARKEST_PICTURE_LEVELS

    def look(self, frame: Frame) -> None:
        luma, black = frame.luma8(), np.uint8(0)
        if not frame.colour.full_range and frame.layout.model != "rgb":
            luma, black = luma.clip(16), np.uint8(16)
        if frame.layout.bit_depth == 32:
            self._darkest = 0
        totals = [luma.mean(axis=lines, dtype=np.float32) for lines in (1, 0)]
        luma = luma - black
        peaks = _line_peaks(luma)
        if self._peak is None:
            self._peak, self._line_peaks, self._total = luma, peaks, totals
            return
        self._peak = np.maximum(self._peak, luma)
        self._line_peaks = [np.maximum(old, new) for old, new in zip(self._line_peaks, peaks, strict=True)]
        self._total = [old + new for old, new in zip(self._total, totals, strict=True)]

    def bounds(self, overlay_mask: np.ndarray | None = None) -> PictureBounds:
        """What all looks together say; no bounds for a clip that is black throughout. A bar is one also where an overlay lies over
        it ([h, w] bool of any size), as timecode does."""
        if self._peak is None or max(lines.max() for lines in self._line_peaks) <= self._darkest:
            return PictureBounds()
        line_peaks = self._line_peaks
        if overlay_mask is not None:
            hidden = cv2.resize(overlay_mask.astype(np.uint8), self._peak.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            # Of a line that is hidden from end to end, what hides it is all that is known.
            hidden &= ~(np.all(hidden, axis=1, keepdims=True) | np.all(hidden, axis=0, keepdims=True))
            line_peaks = _line_peaks(np.where(hidden, np.uint8(0), self._peak))
        bars: list[int] = []
        insets: list[int] = []
        for axis in (1, 0):
            for flip in (1, -1):
                peaks, mean = line_peaks[axis][::flip], self._total[axis][::flip]
                bar = int(np.argmax(peaks > self._darkest))
                if bar > _LARGEST_BAR_SHARE * len(peaks):
                    bar = 0
                inside = mean[bar + _EDGE_LINES : bar + 2 * _EDGE_LINES].mean() if len(mean) > bar + 2 * _EDGE_LINES else 0.0
                dark = mean[bar : bar + _EDGE_LINES] < _EDGE_DARKNESS * inside
                bars.append(bar)
                insets.append(bar + (int(np.flatnonzero(dark)[-1]) + 1 if dark.any() else 0))
        (left, right, top, bottom), (left_bar, right_bar, top_bar, bottom_bar) = insets, bars
        return PictureBounds((left, top, right, bottom), (left_bar, top_bar, right_bar, bottom_bar))


def _line_peaks(luma: np.ndarray) -> list[np.ndarray]:
    """How bright each row and each column is: 99 % of it, or one bright speck."""
    found = []
    for lines in (1, 0):
        peaks = np.percentile(luma[:: 1 + 3 * (lines == 0), :: 1 + 3 * (lines == 1)], 99, axis=lines)
        specks = luma.max(axis=lines)
        found.append(np.where(specks > _SPECK_LEVELS, specks, peaks))
    return found


def between_bars(mask: np.ndarray, bounds: PictureBounds) -> np.ndarray:
    """What of a mask [h, w] of a frame's size lies between the clip's bars."""
    left, top, right, bottom = bounds.bars_px
    return mask[top : mask.shape[0] - bottom, left : mask.shape[1] - right]


def with_bars(frame: Frame, bounds: PictureBounds) -> Frame:
    """The frame with the clip's bars over it, black; the same frame where there are none."""
    left, top, right, bottom = bounds.bars_px
    if not any(bounds.bars_px):
        return frame
    width, height = frame.width, frame.height
    planes = []
    for number, plane in enumerate(frame.planes):
        rows, columns = plane.shape
        inside = (
            slice(rows * top // height, rows - rows * bottom // height),
            slice(columns * left // width, columns - columns * right // width),
        )
        barred = np.full_like(plane, _black(frame, number))
        barred[inside] = plane[inside]
        planes.append(barred if number < frame.layout.picture_planes else plane)
    return replace(frame, planes=tuple(planes))


def blackened(frame: Frame, mask: np.ndarray) -> Frame:
    """The frame, black where `mask` ([h, w] bool) is True, a chroma sample with the luma sample it is sited on; alpha stays."""
    if not mask.any():
        return frame
    planes = []
    for number, plane in enumerate(frame.planes):
        black = np.where(frame.layout.sited(mask, number), plane.dtype.type(_black(frame, number)), plane)
        planes.append(black if number < frame.layout.picture_planes else plane)
    return replace(frame, planes=tuple(planes))


def _black(frame: Frame, number: int) -> float:
    """Black's code value in a plane."""
    layout = frame.layout
    unit = 1 / 255 if layout.bit_depth == 32 else float(1 << (layout.bit_depth - 8))
    if layout.is_chroma(number):
        return 128 * unit
    return 0.0 if frame.colour.full_range or layout.model == "rgb" else 16 * unit
