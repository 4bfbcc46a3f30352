# SPDX-License-Identifier: Apache-2.0
"""What every source of frames can do, whatever its files are."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from vs3r_engine.errors import MediaError, RangeError
from vs3r_engine.frame import Frame
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.timeline import FrameRange

SMALLEST_SIDE_PX = 16


class VideoSource(ABC):
    """An open clip. `info` says what it is; `frames` hands out any range of it, in any order, as often as asked."""

    info: MediaInfo

    def frames(self, frame_range: FrameRange) -> Iterator[Frame]:
        """The frames of `frame_range` in order, decoded while they are asked for.

        Raises: RangeError `range-past-media`; MediaError `media-damaged` naming the first frame that cannot be decoded.
        """
        available = self.info.clip.available_range
        if not available.contains_range(frame_range):
            raise RangeError(
                "range-past-media",
                f"The range {frame_range} asks for frames that do not exist: {self.info.clip.path} holds {available}.",
                "Trim the range, or relink the full-length file.",
            )
        return (frame.of_numbers() for frame in self._decode(frame_range))

    @abstractmethod
    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        """`frames`, the range being known to exist."""

    def refuse_replaced(self) -> None:  # noqa: B027 - images are files of their own, each read whole
        """The file is still the one that was opened; it may have grown. Raises: MediaError `media-replaced`, `media-missing`."""

    @abstractmethod
    def close(self) -> None:
        """Every file is closed; frames already handed out stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_tiny(path: str, width: int, height: int) -> None:
    """Raises: MediaError `media-too-small` below 16 pixels a side: there is nothing to track in such a picture."""
    if min(width, height) < SMALLEST_SIDE_PX:
        raise MediaError(
            "media-too-small", f"{path} is {width}x{height} pixels; at least {SMALLEST_SIDE_PX} a side are needed.", "Choose a larger clip."
        )
