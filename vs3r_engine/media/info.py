# SPDX-License-Identifier: Apache-2.0
"""What is known of a media file before its pictures are decoded: nouns, and exact presentation times."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vs3r_engine.errors import InputError, RangeError
from vs3r_engine.frame import ColourTags, PixelLayout
from vs3r_engine.timeline import Clip, exact_rate, frame_count_of_timecode, timecode_of_frame_count


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """A stream beside the picture. `kind` is audio, subtitle, data, attachment, video (a second picture) or unknown."""

    index: int
    kind: str
    codec: str | None
    language: str | None = None
    sample_rate: int | None = None
    channels: int | None = None


@dataclass(frozen=True, slots=True)
class MasteringDisplay:
    """SMPTE ST 2086: CIE x, y of the mastering display's primaries and white, luminance in cd/m2. None = not stated."""

    primaries_rgb: tuple[tuple[Fraction, Fraction], ...] | None
    white: tuple[Fraction, Fraction] | None
    luminance: tuple[Fraction, Fraction] | None
    """(smallest, largest)"""


@dataclass(frozen=True, slots=True)
class ContentLight:
    """CTA-861.3: the brightest pixel and the brightest frame's average, cd/m2."""

    max_content: int
    max_frame_average: int


@dataclass(frozen=True, slots=True)
class SequenceName:
    """An image sequence: files `prefix` + number, zero-padded to `digits`, + `suffix`; None of them missing.

    `numbers` is the first and last file number, both included. is_part: there may be more files, which are not meant.
    """

    prefix: str
    digits: int
    suffix: str
    numbers: tuple[int, int]
    is_part: bool = False

    @property
    def pattern(self) -> str:
        """The sequence written the way printf counts, name.%04d.exr; a part as name.[0001-0100].exr."""
        if not self.digits:
            return self.prefix + self.suffix
        if self.is_part:
            return f"{self.prefix}[{self.numbers[0]:0{self.digits}d}-{self.numbers[1]:0{self.digits}d}]{self.suffix}"
        prefix, suffix = (text.replace("%", "%%") for text in (self.prefix, self.suffix))
        return f"{prefix}%0{self.digits}d{suffix}"

    def file(self, frame_index: int) -> str:
        """The path of one frame's image."""
        number = f"{self.numbers[0] + frame_index:0{self.digits}d}" if self.digits else ""
        return f"{self.prefix}{number}{self.suffix}"


@dataclass(frozen=True, slots=True, eq=False)
class MediaInfo:
    """A clip and everything about its file that has to survive to the output.

    `codec`, `container` and `pixel_format` are FFmpeg's names. `rotation_deg` is how far a player turns the stored
    picture counter-clockwise; `display_matrix` is its full 3x3 form, None where the file has none. `pts` holds the
    presentation time of every frame [n] int64 in `time_base` seconds, ascending; `end_pts` is when the last frame's
    time is over.
    """

    clip: Clip
    layout: PixelLayout
    colour: ColourTags
    codec: str
    pts: np.ndarray
    end_pts: int
    time_base: Fraction
    container: str = ""
    pixel_format: str = ""
    profile: str | None = None
    range_is_tagged: bool = True
    rotation_deg: int = 0
    display_matrix: tuple[int, ...] | None = None
    pixel_aspect: Fraction = Fraction(1)
    start_timecode: str | None = None
    reel_name: str | None = None
    is_variable_rate: bool = False
    streams: tuple[StreamSummary, ...] = ()
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None
    sequence: SequenceName | None = None
    stream_index: int = 0
    file_origin_s: Fraction = Fraction(0)
    """Where the file's own time begins: its earliest stream's start."""

    @property
    def frame_count(self) -> int:
        return len(self.pts)

    def time_s(self, frame_index: int) -> Fraction:
        """When a frame is shown, in seconds of the file's own time; `frame_count` gives the end of the last one.

        A constant-rate clip counts exactly (first + index / rate) even where its container rounds times, as Matroska
        does.
        """
        if not self.is_variable_rate:
            return self.pts[0].item() * self.time_base + frame_index / self.clip.rate
        ticks = self.end_pts if frame_index == self.frame_count else self.pts[frame_index].item()
        return ticks * self.time_base

    def timecode_at(self, frame_index: int) -> str | None:
        """The timecode of a frame, None without one; the start timecode where it does not count at the clip's rate."""
        start, rate = self.start_timecode, self.clip.rate
        if start is None or frame_index == 0:
            return start
        try:
            return timecode_of_frame_count(frame_count_of_timecode(start, rate) + frame_index, rate, ";" in start or "," in start)
        except RangeError:
            return start


def refuse_rate_of_file(info: MediaInfo, stated_rate: Fraction | None) -> None:
    """Nobody states a rate for media other than an image sequence. Raises: InputError `rate-of-file`."""
    if stated_rate is not None and info.sequence is None:
        raise InputError(
            "rate-of-file", f"{info.clip.path} is no image sequence: the times in the file stand.", "Leave the rate (--fps) out."
        )


def fit_rate(pts: np.ndarray, end_pts: int, time_base: Fraction, stated: list[Fraction]) -> tuple[Fraction, bool]:
    """(rate, is_variable): the first stated rate whose grid every time keeps within a tick or a millisecond, else the
    average rate.

    Matroska keeps milliseconds: 29.97 then shows as 33, 34, 33 ... which is no variable rate, nor is it in an MP4 that a
    Matroska file was copied into.
    """
    count = len(pts)
    span = Fraction(int(pts[-1] - pts[0])) * time_base
    if count == 1:
        length = (end_pts - int(pts[0])) * time_base
        return _broadcast_rate(stated[0] if stated else 1 / length if length > 0 else Fraction(25)), False
    average = (count - 1) / span
    nominal = exact_rate(float(average))
    candidates = [rate for rate in [*stated, average.limit_denominator(1001), nominal] if rate > 0]
    candidates = list(dict.fromkeys([*map(_broadcast_rate, candidates), *candidates]))
    tolerance = max(1, int(Fraction(1, 1000) / time_base))
    for rate in candidates:
        # |pts_k - pts_0 - k / (rate * time_base)| <= `tolerance` ticks and a quarter of a frame, in exact integers
        ticks_per_frame = 1 / (rate * time_base)
        numerator, denominator = ticks_per_frame.numerator, ticks_per_frame.denominator
        if count * numerator < 1 << 62:
            deviation = np.abs((pts - pts[0]) * denominator - np.arange(count, dtype=np.int64) * numerator)
            if int(deviation.max()) <= min(tolerance * denominator, numerator // 4):
                return rate, False
    return (nominal if nominal.denominator in (1, 1001) else average.limit_denominator(1001)), True


def _broadcast_rate(rate: Fraction) -> Fraction:
    """The usual rate within 0.02 % of `rate`, else itself: FFmpeg reads Matroska's 59.94 as 19001/317."""
    usual = [Fraction(n) for n in (24, 25, 30, 48, 50, 60, 100, 120, 240)]
    usual += [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)]
    nearest = min(usual, key=lambda candidate: abs(candidate - rate))
    return nearest if abs(nearest - rate) < nearest / 5000 else rate
