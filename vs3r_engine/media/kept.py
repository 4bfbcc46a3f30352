# SPDX-License-Identifier: Apache-2.0
"""A source that is read twice, first to analyse it and then to render it, and not decoded twice where it is short."""

from collections.abc import Iterator

from vs3r_engine.frame import Frame
from vs3r_engine.media.source import VideoSource
from vs3r_engine.timeline import FrameRange

KEPT_BYTES = 160 << 20
"""Nine seconds of 848x480, two of 1920x1080, in 8 bits."""


class KeptSource(VideoSource):
    """The frames of another source. The first range that is read is kept until it is read once more, where all of it fits
    into KEPT_BYTES: of a part that is missing, a long group of pictures would have to be decoded from its start."""

    def __init__(self, source: VideoSource) -> None:
        self.info, self._source = source.info, source
        self._kept: dict[int, Frame] = {}
        self._is_first = True

    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        start, is_first, self._is_first = frame_range.start, self._is_first, False
        while start < frame_range.end_exclusive and start in self._kept:
            yield self._kept.pop(start)
            start += 1
        if start == frame_range.end_exclusive:
            return
        for frame in self._source.frames(FrameRange.between(start, frame_range.end_exclusive)):
            if is_first and frame_range.duration * sum(plane.nbytes for plane in frame.planes) <= KEPT_BYTES:
                self._kept[frame.frame_index] = frame
            yield frame

    def refuse_replaced(self) -> None:
        self._source.refuse_replaced()

    def close(self) -> None:
        self._kept.clear()
        self._source.close()
