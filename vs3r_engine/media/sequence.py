# SPDX-License-Identifier: Apache-2.0
"""Image sequences: what a name means, and their files as a source of frames."""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vs3r_engine.errors import MediaError, RangeError
from vs3r_engine.frame import ColourTags, Frame
from vs3r_engine.media.image_headers import read_header
from vs3r_engine.media.info import MediaInfo, SequenceName
from vs3r_engine.media.pixel_formats import frame_format, planes_of
from vs3r_engine.media.source import VideoSource, refuse_tiny
from vs3r_engine.timeline import Clip, FrameRange, frame_count_of_timecode

DECODERS = {".exr": "exr", ".dpx": "dpx", ".tif": "tiff", ".tiff": "tiff", ".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
ASSUMED_RATE = Fraction(24)
"""The rate of a sequence for which nobody states one, and whose files do not say theirs."""

_PATTERN = re.compile(r"^(?P<prefix>.*?)(?:%0?(?P<digits>\d*)d|(?P<hashes>#+)|\[(?P<first>\d+)-(?P<last>\d+)\])(?P<suffix>\.\w+)$")
_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\.\w+)$")
_ENDS_IN_MINUS = re.compile(r"(^|[._ ])-$")
"""As of name.-0001.exr; that of name-0001.exr is a hyphen."""


def find(path: str) -> SequenceName | None:
    """The image sequence that `path` means; None where it is a file of another kind, or not there.

    A name with %04d, #### or [0001-0100] means just that; a folder, its one sequence; one file, all files numbered like it.

    Raises: MediaError `media-missing`, `media-gap`, `media-negative`, `media-ambiguous`, `media-not-video`.
    """
    folder, name = os.path.split(path)
    if os.path.isdir(path):
        return _only_sequence_of(path)
    if os.path.splitext(name)[1].lower() not in DECODERS:
        return None
    if not os.path.exists(path) and (match := _PATTERN.match(name)):
        prefix = os.path.join(folder, match["prefix"])
        if match["first"]:
            found = SequenceName(prefix, len(match["first"]), match["suffix"], (int(match["first"]), int(match["last"])), True)
            return _complete(found, set(_numbers(found)))
        if match["digits"] is not None:
            prefix = os.path.join(folder, match["prefix"].replace("%%", "%"))
        found = SequenceName(prefix, _digits(match), match["suffix"], (0, 0))
        return _spanning(found, _numbers(found), path)
    if not os.path.exists(path):
        return None
    match = _NUMBERED.match(name)
    if match is None:
        stem, suffix = os.path.splitext(path)
        return SequenceName(stem, 0, suffix, (0, 0))
    if _ENDS_IN_MINUS.search(match["prefix"]):
        raise MediaError(
            "media-negative",
            f"{path} has a number below zero, which is not supported.",
            "Name a part from 0 on, such as name.[0000-0100].exr.",
        )
    # Zero-padded names have one width; unpadded ones count on from 9 to 10.
    is_padded = match["number"].startswith("0") and len(match["number"]) > 1
    digits = len(match["number"])
    like = SequenceName(os.path.join(folder, match["prefix"]), digits, match["suffix"], (0, 0))
    numbers = _numbers(like)
    if not is_padded:
        unpadded = SequenceName(like.prefix, 1, like.suffix, (0, 0))
        if min(_numbers(unpadded), default=0) < min(numbers):
            like, numbers = unpadded, _numbers(unpadded)
    return _spanning(like, numbers, path)


def _digits(pattern: re.Match[str]) -> int:
    return int(pattern["digits"] or 1) if pattern["hashes"] is None else len(pattern["hashes"])


def _only_sequence_of(folder: str) -> SequenceName:
    images = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in DECODERS and not name.startswith("."))
    kinds = {(match["prefix"], match["suffix"]) if (match := _NUMBERED.match(name)) else (name, "") for name in images}
    if not kinds:
        raise MediaError(
            "media-not-video",
            f"The folder {folder} holds no image sequence.",
            "Give a video file, or a folder of .exr, .dpx, .tiff or .png.",
        )
    if len(kinds) > 1:
        raise MediaError(
            "media-ambiguous",
            f"The folder {folder} holds {len(kinds)} image sequences.",
            f"Name one file of the wanted one, such as {os.path.join(folder, images[0])}.",
        )
    found = find(os.path.join(folder, images[0]))
    assert found is not None
    return found


def _numbers(like: SequenceName) -> list[int]:
    """Numbers of the files named like this sequence, sorted."""
    folder, prefix = os.path.split(like.prefix)
    expression = re.compile(re.escape(prefix) + r"(\d+)" + re.escape(like.suffix) + "$")
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    found = []
    for name in names:
        if (match := expression.match(name)) and f"{int(match[1]):0{like.digits}d}" == match[1]:
            found.append(int(match[1]))
    return sorted(found)


def _spanning(like: SequenceName, numbers: list[int], path: str) -> SequenceName:
    if not numbers:
        raise MediaError("media-missing", f"No file is named like {path}.", "Check the path, or reconnect the drive it is on.")
    return _complete(SequenceName(like.prefix, like.digits, like.suffix, (numbers[0], numbers[-1])), set(numbers))


def _complete(found: SequenceName, numbers: set[int]) -> SequenceName:
    first, last = found.numbers
    missing = [number for number in range(first, last + 1) if number not in numbers]
    if len(missing) == last + 1 - first:
        raise MediaError("media-missing", f"No file of {found.pattern} is there.", "Check the path, or reconnect the drive it is on.")
    if missing:
        some = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
        start = min(numbers & set(range(first, last + 1)))
        end = next(number for number in range(start, last + 2) if number not in numbers) - 1
        part = f"{os.path.basename(found.prefix)}[{start:0{found.digits}d}-{end:0{found.digits}d}]{found.suffix}"
        raise MediaError(
            "media-gap",
            f"{found.pattern} lacks {len(missing)} of its files: {some}.",
            f"Render them again, or name a part without gaps, such as {part}.",
        )
    return found


def output_name(output_path: str, info: MediaInfo) -> SequenceName:
    """The files of a sequence written as `output_path`: frame 0 of the clip gets the number in the name, else the
    source sequence's own first number, else 0; four digits unless the name or the source says otherwise."""
    folder, name = os.path.split(output_path)
    first = info.sequence.numbers[0] if info.sequence else 0
    last = first + info.frame_count - 1
    if match := _PATTERN.match(name):
        if match["first"]:
            return _counting(os.path.join(folder, match["prefix"]), len(match["first"]), match["suffix"], int(match["first"]), info)
        return _counting(os.path.join(folder, match["prefix"]), _digits(match), match["suffix"], first, info)
    if match := _NUMBERED.match(name):
        return _counting(os.path.join(folder, match["prefix"]), len(match["number"]), match["suffix"], int(match["number"]), info)
    stem, suffix = os.path.splitext(output_path)
    if info.sequence is not None and info.sequence.digits == 0:
        return SequenceName(stem, 0, suffix, (0, 0))
    digits = info.sequence.digits if info.sequence else max(4, len(str(last)))
    return _counting(stem if stem.endswith((".", "_", "-")) else f"{stem}.", digits, suffix, first, info)


def _counting(prefix: str, digits: int, suffix: str, first: int, info: MediaInfo) -> SequenceName:
    return SequenceName(prefix, digits, suffix, (first, first + info.frame_count - 1))


class SequenceSource(VideoSource):
    """Frames of an image sequence, one file each. Its rate is the stated one, else its first file's, else assumed."""

    def __init__(self, found: SequenceName, stated_rate: Fraction | None = None) -> None:
        self._sequence = found
        self._decoder = DECODERS[found.suffix.lower()]
        self.info = self._describe(stated_rate)

    def _describe(self, stated_rate: Fraction | None) -> MediaInfo:
        sequence, path = self._sequence, self._sequence.pattern
        data = self._read(0)
        # Without threads the context knows the aspect of its last picture.
        context: Any = av.CodecContext.create(self._decoder, "r")
        first = next(self._pictures(context, range(1)), None)
        if first is None:
            raise MediaError("media-unreadable", f"{sequence.file(0)} is not an image that can be read.", "Export it again.")
        refuse_tiny(sequence.file(0), first.width, first.height)
        format = frame_format(first.format.name)
        header = read_header(data)
        rate = stated_rate or header.rate or ASSUMED_RATE
        timecode = header.timecode
        if timecode is not None:
            try:
                frame_count_of_timecode(timecode, rate)
            except RangeError:
                timecode = None
        count = sequence.numbers[1] - sequence.numbers[0] + 1
        matrix = 0 if format.layout.model == "rgb" else int(first.colorspace) or 2
        colour = ColourTags(int(first.color_primaries) or 2, int(first.color_trc) or 2, matrix, format.is_full_range)
        is_half = "f16" in first.format.name
        return MediaInfo(
            clip=Clip(path, rate, first.width, first.height, FrameRange(0, count), timecode),
            layout=format.layout,
            colour=colour,
            codec=self._decoder,
            container="sequence",
            pts=np.arange(count, dtype=np.int64),
            end_pts=count,
            time_base=1 / rate,
            pixel_format=first.format.name,
            profile="half" if is_half else None,
            range_is_tagged=False,
            pixel_aspect=Fraction(context.sample_aspect_ratio or 1),
            start_timecode=timecode,
            reel_name=header.reel_name,
            sequence=sequence,
        )

    def _context(self) -> Any:
        context: Any = av.CodecContext.create(self._decoder, "r")
        context.thread_type = "FRAME"
        return context

    def _read(self, frame_index: int) -> bytes:
        name = self._sequence.file(frame_index)
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise MediaError("media-missing", f"{name} cannot be read: {error.strerror}.", "Render that frame again.") from error
        if not data:
            raise MediaError("media-empty", f"{name} is empty.", "Render that frame again.")
        return data

    def _pictures(self, context: Any, indices: range) -> Iterator[av.VideoFrame]:
        frame_index = indices[0]
        try:
            for frame_index in indices:
                data = self._read(frame_index)
                packet = av.Packet(len(data))  # which is padded, as decoders need it; a packet around `data` is not
                packet.update(data)
                packet.pts = frame_index
                packet.is_keyframe = True  # else the PNG decoder adds the image to the one before
                yield from context.decode(packet)
            yield from context.decode(None)
        except av.FFmpegError as error:
            code = "media-unreadable" if frame_index == 0 else "media-damaged"
            raise MediaError(
                code, f"{self._sequence.file(frame_index)} is not an image that can be read.", "Render that frame again."
            ) from error

    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        info, expected = self.info, frame_range.start
        for picture in self._pictures(self._context(), range(frame_range.start, frame_range.end_exclusive)):
            if picture.pts != expected:
                break
            has_size = (picture.width, picture.height) == (info.clip.width, info.clip.height)
            if not has_size or frame_format(picture.format.name).layout != info.layout:
                raise MediaError(
                    "media-changes",
                    f"{self._sequence.file(expected)} differs in size or format from the first image.",
                    "Render the sequence again with one size.",
                )
            yield Frame(expected, planes_of(picture), info.layout, info.colour)
            expected += 1
        if expected != frame_range.end_exclusive:
            raise MediaError(
                "media-damaged", f"{self._sequence.file(expected)} is not an image that can be read.", "Render that frame again."
            )

    def close(self) -> None:
        """Files are open only while they are read."""
