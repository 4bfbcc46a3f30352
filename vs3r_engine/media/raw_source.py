# SPDX-License-Identifier: Apache-2.0
"""A directory of raw frames (raw_frames.py) as a source of frames."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from vs3r_engine.errors import MediaError
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.raw_frames import SUFFIX, frame_file, read_format
from vs3r_engine.media.source import VideoSource, refuse_tiny
from vs3r_engine.timeline import Clip, FrameRange

_DTYPES = {"uint8": "u1", "uint16": "<u2", "half": "<f2", "float32": "<f4"}
_PLANES_AT = {"gray": (0,), "rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 3), "bgra": (2, 1, 0, 3)}
"""Where each of our planes is among the interleaved channels."""
_LONGEST = 10_000_000
"""Frames from the first to the last one held, at most: four days. Every one of them has a time in memory."""


class RawFramesSource(VideoSource):
    """Frames that a host uploaded. Their indices are absolute; the range runs from the first to the last one held, and
    asking for one that is missing in between is `frames-missing`."""

    def __init__(self, path: str) -> None:
        self._directory = Path(path)
        self._format = raw_format = read_format(self._directory)
        indices = sorted(int(file.stem) for file in self._directory.glob(f"*{SUFFIX}"))
        if not indices:
            raise MediaError("media-empty", f"{path} holds no frames.", "Upload frames first.")
        refuse_tiny(path, raw_format.width, raw_format.height)
        available = FrameRange.between(indices[0], indices[-1] + 1)
        if available.duration > _LONGEST:
            raise MediaError(
                "frames-missing",
                f"Nearly all of the frames {available} were not uploaded.",
                "Count from the first frame of the clip, and upload every frame of it.",
            )
        depth = {"uint8": 8, "uint16": 16}.get(raw_format.sample, 32)
        is_gray = raw_format.channels == "gray"
        layout = PixelLayout("gray" if is_gray else "rgb", depth, has_alpha=raw_format.channels in ("rgba", "bgra"))
        self.info = MediaInfo(
            clip=Clip(path, raw_format.rate, raw_format.width, raw_format.height, available),
            layout=layout,
            colour=ColourTags(matrix=2 if is_gray else 0, full_range=True),
            codec="raw",
            container="raw",
            pts=np.arange(available.start, available.end_exclusive, dtype=np.int64),
            end_pts=available.end_exclusive,
            time_base=Fraction(1) / raw_format.rate,
            range_is_tagged=False,
        )

    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        raw_format, info = self._format, self.info
        planes_at = _PLANES_AT[raw_format.channels]
        for frame_index in frame_range:
            path = frame_file(self._directory, frame_index)
            try:
                samples = np.fromfile(path, _DTYPES[raw_format.sample])
                samples = samples.reshape(raw_format.height, raw_format.width, len(planes_at))
            except FileNotFoundError as error:
                raise MediaError(
                    "frames-missing", f"Frame {frame_index} was not uploaded.", f"Upload every frame of {frame_range}."
                ) from error
            except (OSError, ValueError) as error:
                raise MediaError("media-damaged", f"The uploaded frame {frame_index} cannot be read.", "Upload it again.") from error
            planes: list[np.ndarray] = [np.ascontiguousarray(samples[..., at], info.layout.dtype) for at in planes_at]
            yield Frame(frame_index, tuple(planes), info.layout, info.colour)

    def close(self) -> None:
        """Files are open only while they are read."""
