# SPDX-License-Identifier: Apache-2.0
"""Dense inverse search (DIS) optical flow from OpenCV: the FlowEstimator that needs no weights."""

import cv2
import numpy as np

from vs3r_engine.frame import Frame, PixelLayout

_WIDTH_PX = 256
_SMALLEST_SIDE_PX = 32
"""DIS of OpenCV 5.0.0 crashes the process on narrower pictures; they are enlarged first."""


class DisFlow:
    """FlowEstimator on luma."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def prepared(self, frame: Frame) -> Frame:
        """The luma, about 256 pixels wide: what moves by itself is an area, and areas are found at this size."""
        shrink = max(1, round(frame.width / _WIDTH_PX))
        size = (max(1, frame.width // shrink), max(1, frame.height // shrink))
        luma = cv2.resize(frame.luma8(), size, interpolation=cv2.INTER_AREA)
        return Frame(frame.frame_index, (luma,), PixelLayout("gray", 8))

    def flow(self, frame: Frame, next_frame: Frame) -> np.ndarray:
        """[h, w, 2] float32 pixels from `frame` to `next_frame`."""
        first, second = frame.luma8(), next_frame.luma8()
        height, width = first.shape
        flow = np.asarray(self._dis.calc(_enlarged(first), _enlarged(second), np.empty(0, np.float32)))
        if flow.shape[:2] != (height, width):
            factor = flow.shape[1] / width
            flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)
        return flow


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """The picture, large enough for DIS."""
    factor = max(1, -(-_SMALLEST_SIDE_PX // min(picture.shape)))
    if factor == 1:
        return np.ascontiguousarray(picture)
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
