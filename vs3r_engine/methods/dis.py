# SPDX-License-Identifier: Apache-2.0
"""Dense inverse search (DIS) optical flow from OpenCV: the FlowEstimator that needs no weights."""

import cv2
import numpy as np

from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.shrink import shrunk

_WIDTH_PX = 320
_DESCENT_STEPS = 16
"""With these, the variational refinement, as long again, adds 0.01 to the overlap of mask and truth: it is left out."""
_SMALLEST_SIDE_PX = 32
"""DIS of OpenCV 5.0.0 crashes the process on narrower pictures; they are enlarged first."""


class DisFlow:
    """FlowEstimator on luma."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setGradientDescentIterations(_DESCENT_STEPS)
        self._dis.setVariationalRefinementIterations(0)

    def prepared(self, frame: Frame) -> Frame:
        """The luma, at most 320 pixels wide: what moves by itself is an area, and areas are found at this size."""
        width = min(frame.width, _WIDTH_PX)
        luma = shrunk(frame.luma8(), width, max(1, round(frame.height * width / frame.width)))
        return Frame(frame.frame_index, (luma,), PixelLayout("gray", 8))

    def flow(self, frame: Frame, next_frame: Frame) -> np.ndarray:
        """[h, w, 2] float32 pixels from `frame` to `next_frame`."""
        first, second = frame.luma8(), next_frame.luma8()
        height, width = first.shape
        flow = np.asarray(self._dis.calc(_enlarged(first), _enlarged(second), None))  # type: ignore[call-overload]
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
