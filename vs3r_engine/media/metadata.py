# SPDX-License-Identifier: Apache-2.0
"""What files say beside their pictures: timecode, reel, rotation, HDR, other streams, and whether they are whole."""

import ctypes
import os
import struct
from fractions import Fraction
from typing import Any

import av
from av.sidedata.sidedata import Type as SideDataType

from vs3r_engine.media.info import ContentLight, MasteringDisplay, StreamSummary


def timecode_and_reel(container: av.container.InputContainer, video: av.VideoStream) -> tuple[str | None, str | None]:
    """(start timecode, reel name): the picture stream's own, else a timecode track's, else the file's."""
    places = [
        video.metadata,
        *(s.metadata for s in container.streams if s.type == "data"),
        container.metadata,
        *(s.metadata for s in container.streams if s.type == "audio"),
    ]
    found: dict[str, str] = {}
    for place in places:
        for key, value in place.items():
            key = key.lower()
            if key in ("timecode", "reel_name", "reel") and value.strip():
                found.setdefault("reel_name" if key == "reel" else key, value.strip())
    return found.get("timecode"), found.get("reel_name")


def _side_data(picture: av.VideoFrame, kind: SideDataType) -> bytes | None:
    try:
        every: Any = picture.side_data
        data = every.get(kind)
    except ValueError:  # PyAV refuses to list anything once FFmpeg attached a kind it does not know, such as EXIF
        return None
    return None if data is None else bytes(data)


def display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the display matrix; None where there is none or it does nothing."""
    data = _side_data(picture, SideDataType.DISPLAYMATRIX)
    if data is None:
        return None
    matrix = struct.unpack("=9i", data[:36])
    return None if matrix == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30) else matrix


def mastering_display(picture: av.VideoFrame) -> MasteringDisplay | None:
    data = _side_data(picture, SideDataType.MASTERING_DISPLAY_METADATA)
    if data is None:
        return None
    # libavutil's struct: ten rationals (R, G, B, white as x y; smallest, largest luminance), then two flags
    numbers = struct.unpack("=22i", data[:88])
    ratios = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    red, green, blue, white = ((ratios[i], ratios[i + 1]) for i in (0, 2, 4, 6))
    return MasteringDisplay(
        (red, green, blue) if numbers[20] else None, white if numbers[20] else None, (ratios[8], ratios[9]) if numbers[21] else None
    )


def content_light(picture: av.VideoFrame) -> ContentLight | None:
    data = _side_data(picture, SideDataType.CONTENT_LIGHT_LEVEL)
    return None if data is None else ContentLight(*struct.unpack("=2I", data[:8]))


def speakers(context: Any) -> tuple[int, str]:
    """(number of channels, FFmpeg's name of their layout) of a sound's codec context.

    PyAV's copy of a layout frees the channel map that belongs to the context, which frees it too (seen with PyAV 18.1:
    a MOV with 7.1 in its own order aborts the process). So no copy is ever freed.
    """
    layout = context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout.nb_channels, layout.name


def stream_summaries(container: av.container.InputContainer, video: av.VideoStream) -> tuple[StreamSummary, ...]:
    """Every stream but the picture."""
    summaries = []
    for stream in container.streams:
        if stream.index == video.index:
            continue
        context: Any = stream.codec_context
        is_audio = stream.type == "audio" and context is not None
        summaries.append(
            StreamSummary(
                stream.index,
                stream.type,
                context.name if context else getattr(stream, "name", None),
                stream.metadata.get("language"),
                context.sample_rate if is_audio else None,
                speakers(context)[0] if is_audio else None,
            )
        )
    return tuple(summaries)


def file_origin_s(container: av.container.InputContainer) -> Fraction:
    """Start of the earliest stream, in seconds: FFmpeg's `start_time`, which is rounded, as that stream states it."""
    rounded = Fraction(container.start_time or 0, av.time_base)
    stated = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
    return min((start for start in stated if abs(start - rounded) < Fraction(2, av.time_base)), default=rounded)


def is_cut_short(path: str) -> bool:
    """The container's own sizes (MP4 and MOV boxes, Matroska segments, RIFF) reach past the file's end."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _boxes_end(file, size) > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_end(file, size) > size
        if head[:4] == b"RIFF":
            return int.from_bytes(head[4:8], "little") + 8 > size + 1
    return False


def _boxes_end(file, size: int) -> int:
    place, has_index = 0, False
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        has_index |= header[4:8] in (b"moov", b"moof")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            length = size - place
        if length < 8:
            break
        place += length
    return place if has_index else size + 1


def _matroska_end(file, size: int) -> int:
    place = 0
    while place < size:
        file.seek(place)
        header = file.read(12)
        if len(header) < 2 or header[0] == 0:
            break
        id_length = 9 - header[0].bit_length()
        first = header[id_length] if id_length < len(header) else 0
        if first == 0:
            break
        size_length = 9 - first.bit_length()
        value = int.from_bytes(header[id_length : id_length + size_length], "big") & ((1 << 7 * size_length) - 1)
        if value == (1 << 7 * size_length) - 1:
            return size  # of unknown length, as written by live recorders
        place += id_length + size_length + value
    return place
