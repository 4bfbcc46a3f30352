# SPDX-License-Identifier: Apache-2.0
"""Pictures for measuring, read without the product's own decoder, so that a fault there cannot hide itself."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vs3r_engine.errors import MediaError


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a file says about itself. frame_count is None where the container does not tell. Size is in pixels of the
    upright picture; pixel_aspect is the width of such a pixel by its height."""

    path: Path
    width: int
    height: int
    rate: Fraction
    frame_count: int | None
    pixel_aspect: Fraction = Fraction(1)


def facts(path: Path) -> VideoFacts:
    """Size, rate and length of the first video stream. Raises: MediaError `media-missing`, `unreadable`, `no-video`."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        if not stream.width or not stream.height:
            raise MediaError("no-video", f"{path} holds no picture that can be decoded.", "Give a video file.")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        width, height = stream.width, stream.height
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        try:
            first = next(container.decode(stream), None)
        except (av.FFmpegError, ValueError) as error:
            raise MediaError("unreadable", f"{path} cannot be decoded: {error}", "Check that the file is complete.") from error
        if first is not None and _quarter_turns(first) % 2:
            width, height, aspect = height, width, 1 / aspect
        return VideoFacts(path, width, height, Fraction(rate), stream.frames or None, aspect)


def decoded(path: Path) -> Iterator[Callable[[], np.ndarray]]:
    """For every frame, in order, what gives its picture: [h, w, 3] uint8 BGR, turned upright. A frame whose picture
    nobody asks for costs only its decoding. Raises: MediaError `unreadable`, `no-video`."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield functools.partial(_picture, frame)
        except (av.FFmpegError, ValueError) as error:
            raise MediaError("unreadable", f"{path} cannot be decoded: {error}", "Check that the file is complete.") from error


def pictures(path: Path) -> Iterator[np.ndarray]:
    """The picture of every frame. Raises: as `decoded`."""
    return (give() for give in decoded(path))


def _picture(frame: av.VideoFrame) -> np.ndarray:
    picture, turns = frame.to_ndarray(format="bgr24"), _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def luma(picture: np.ndarray) -> np.ndarray:
    """[h, w] uint8 brightness of a BGR picture."""
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)


def _opened(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(os.path.abspath(path))  # absolute: FFmpeg takes "12:30.mp4" for an address
    except FileNotFoundError as error:
        raise MediaError("media-missing", f"{path} does not exist.", "Check the path, or reconnect the drive it is on.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError("unreadable", f"{path} cannot be read: {error}", "Check that it is a complete video file.") from error
    if not container.streams.video:
        container.close()
        raise MediaError("no-video", f"{path} has no video stream.", "Give a video file.")
    return container


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Anticlockwise quarter turns that the display matrix asks for."""
    return round(frame.rotation / 90) % 4
