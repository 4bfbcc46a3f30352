# SPDX-License-Identifier: Apache-2.0
"""A source that is read twice, first to analyse it and then to render it, and not decoded twice where it is short."""

from collections.abc import Iterator

from vs3r_engine.frame import Frame
from vs3r_engine.media.source import VideoSource
from vs3r_engine.timeline import FrameRange

KEPT_BYTES = 128 << 20


class KeptSource(VideoSource):
    """The frames of another source. Those its first reading begins with, as many as fit into KEPT_BYTES, are kept until
    they are read once more."""

    def __init__(self, source: VideoSource) -> None:
        self.info, self._source = source.info, source
        self._kept: dict[int, Frame] = {}
        self._free_bytes = KEPT_BYTES

    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        start = frame_range.start
        while start < frame_range.end_exclusive and start in self._kept:
            yield self._kept.pop(start)
            start += 1
        if start == frame_range.end_exclusive:
            return
        for frame in self._source.frames(FrameRange.between(start, frame_range.end_exclusive)):
            self._free_bytes -= sum(plane.nbytes for plane in frame.planes)
            if self._free_bytes >= 0:
                self._kept[frame.frame_index] = frame
            yield frame

    def close(self) -> None:
        self._kept.clear()
        self._source.close()
