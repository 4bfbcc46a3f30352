# SPDX-License-Identifier: Apache-2.0
"""Time: exact frame rates, half-open frame ranges, timecode, and the clip they count in. Nothing here opens a file."""

import re
from dataclasses import dataclass
from fractions import Fraction

from vs3r_engine.errors import RangeError

_RATE_TEXT = re.compile(r"\d{1,9}([/.]\d{1,20})?")
"""Not "1e999999999", which is a number too and would never be computed."""
MOST_PER_S = 1000
"""The highest rate that text may state: Matroska's times are whole milliseconds."""


def exact_rate(rate: float | int | str | Fraction) -> Fraction:
    """The exact rate meant by a rounded one: 29.97 is 30000/1001, 23.976 is 24000/1001; "30000/1001" is itself.

    Raises: RangeError `bad-rate` for zero, negative or non-finite rates, and for text that is no rate.
    """
    try:
        if isinstance(rate, str) and not _RATE_TEXT.fullmatch(rate.strip()):
            raise ValueError(rate)
        value = Fraction(rate)
        if isinstance(rate, str) and value > MOST_PER_S:
            raise ValueError(rate)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise RangeError("bad-rate", f"{rate!r} is not a frame rate.", "Give one such as 25, 29.97 or 30000/1001.") from error
    if value <= 0:
        raise RangeError("bad-rate", f"A frame rate of {rate} is not possible.", "Give one such as 25, 29.97 or 30000/1001.")
    is_rounded = value.denominator not in (1, 1001)
    for nominal in (24, 30, 48, 60, 120, 240):
        ntsc = Fraction(nominal * 1000, 1001)
        if is_rounded and abs(float(value) - float(ntsc)) < 0.005 * nominal / 24:  # 23.98 is 23.976 too
            return ntsc
    nearest = Fraction(round(value))
    if is_rounded and nearest > 0 and abs(value - nearest) < Fraction(1, 1000):
        return nearest
    return value.limit_denominator(100_000) or value


@dataclass(frozen=True, slots=True)
class FrameRange:
    """A half-open run of frames [start, end_exclusive) in one clip's own numbering.

    Frame 0 is the first frame of the clip's media, whatever its timecode says. FrameRange(10, 5) is frames 10..14.
    """

    start: int
    duration: int

    def __post_init__(self) -> None:
        if self.duration <= 0:
            raise RangeError(
                "empty-range",
                f"The range {self.start}..{self.start + self.duration} has no frames.",
                "Give a range of at least one frame, such as 100..340.",
            )

    @classmethod
    def between(cls, start: int, end_exclusive: int) -> "FrameRange":
        return cls(start, end_exclusive - start)

    @property
    def end_exclusive(self) -> int:
        return self.start + self.duration

    def __contains__(self, frame_index: int) -> bool:
        return self.start <= frame_index < self.end_exclusive

    def __iter__(self):
        return iter(range(self.start, self.end_exclusive))

    def __len__(self) -> int:
        return self.duration

    def __str__(self) -> str:
        return f"{self.start}..{self.end_exclusive}"

    def contains_range(self, other: "FrameRange") -> bool:
        return self.start <= other.start and other.end_exclusive <= self.end_exclusive

    def padded(self, handles: int, within: "FrameRange") -> "FrameRange":
        """Grown by `handles` frames at each end, clipped to `within`."""
        return FrameRange.between(max(self.start - handles, within.start), min(self.end_exclusive + handles, within.end_exclusive))

    def intersection(self, other: "FrameRange") -> "FrameRange | None":
        """The frames in both, or None."""
        start, end = max(self.start, other.start), min(self.end_exclusive, other.end_exclusive)
        return FrameRange.between(start, end) if start < end else None

    def chunks(self, duration: int) -> list["FrameRange"]:
        """Cut into runs of `duration` frames from `start`; the last may be shorter."""
        return [FrameRange.between(s, min(s + duration, self.end_exclusive)) for s in range(self.start, self.end_exclusive, duration)]


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece of video media: what it is, and which frames of it exist.

    `available_range` counts decodable frames from 0 (OTIO's word, our numbering). `start_timecode` is the media's own
    text, None where it carries none. Width and height are of the picture as stored, before display rotation.
    """

    path: str
    rate: Fraction
    width: int
    height: int
    available_range: FrameRange
    start_timecode: str | None = None


_INDEX = re.compile(r"-?[0-9]{1,18}")
_TIMECODE = re.compile(r"^(\d{1,2}):([0-5]\d):([0-5]\d)([:;.,])(\d{2,3})$")
_BEFORE_FRAMES = re.compile(r"[:;.,](?=\d+$)")


def frame_count_of_timecode(timecode: str, rate: Fraction) -> int:
    """Frames since 00:00:00:00 at `rate`; `;` before the frames means drop-frame (29.97 and 59.94 only).

    Raises: RangeError `bad-timecode`.
    """
    match = _TIMECODE.match(timecode.strip())
    nominal = round(rate)
    if not match or int(match[5]) >= nominal:
        raise RangeError(
            "bad-timecode",
            f"{timecode!r} is not a timecode at {float(rate):.3f} frames per second.",
            "Write hours:minutes:seconds:frames, with ; before the frames for drop-frame.",
        )
    hours, minutes, seconds, frames = int(match[1]), int(match[2]), int(match[3]), int(match[5])
    total = ((hours * 60 + minutes) * 60 + seconds) * nominal + frames
    if match[4] in ";,":
        dropped_per_minute = _dropped_per_minute(rate, timecode)
        if minutes % 10 and seconds == 0 and frames < dropped_per_minute:
            raise RangeError("bad-timecode", f"{timecode!r} does not exist: drop-frame skips it.", "Use the next frame.")
        total_minutes = hours * 60 + minutes
        total -= dropped_per_minute * (total_minutes - total_minutes // 10)
    return total


def timecode_of_frame_count(count: int, rate: Fraction, drop_frame: bool = False) -> str:
    """Text of `count` frames since midnight; wraps at 24 hours. Inverse of `frame_count_of_timecode`."""
    nominal = round(rate)
    if drop_frame:
        per_minute = _dropped_per_minute(rate, "drop-frame")
        frames_per_10_minutes = nominal * 600 - per_minute * 9
        count %= frames_per_10_minutes * 6 * 24
        tens, rest = divmod(count, frames_per_10_minutes)
        count += per_minute * 9 * tens
        if rest >= per_minute:
            count += per_minute * ((rest - per_minute) // (nominal * 60 - per_minute))
    count %= nominal * 86400
    seconds, frames = divmod(count, nominal)
    digits = 3 if nominal > 100 else 2
    separator = ";" if drop_frame else ":"
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{separator}{frames:0{digits}d}"


def _dropped_per_minute(rate: Fraction, what: str) -> int:
    if rate not in (Fraction(30000, 1001), Fraction(60000, 1001)):
        raise RangeError(
            "bad-timecode", f"{what!r} is drop-frame, which {float(rate):.3f} frames per second does not have.", "Use : before the frames."
        )
    return round(rate) // 15


def parse_range(text: str, clip_rate: Fraction, available: FrameRange, start_timecode: str | None = None) -> FrameRange:
    """The range of `100..340` (frame indices, half-open; either side may be empty) or of two timecodes joined by `..`.

    Timecodes count as the media's own do, whether `:` or `;` is typed (shells want `;` quoted), and on past midnight.
    Raises: RangeError `bad-range`, `bad-timecode`, `empty-range`, `range-past-media`.
    """
    first, separator, last = text.partition("..")
    if not separator:
        raise RangeError("bad-range", f"{text!r} is not a range.", "Write first..end, such as 100..340 (340 is not included).")

    def index(part: str, default: int) -> int:
        part = part.strip()
        if not part:
            return default
        if _INDEX.fullmatch(part):
            return int(part)
        if not start_timecode:
            return frame_count_of_timecode(part, clip_rate)
        origin = frame_count_of_timecode(start_timecode, clip_rate)
        separator = _BEFORE_FRAMES.findall(start_timecode.strip())[0]
        found = frame_count_of_timecode(_BEFORE_FRAMES.sub(separator, part), clip_rate) - origin
        day = 24 * frame_count_of_timecode(f"01:00:00{separator}00", clip_rate)
        return found + day if found < 0 and available.start <= found + day <= available.end_exclusive else found

    chosen = FrameRange.between(index(first, available.start), index(last, available.end_exclusive))
    if not available.contains_range(chosen):
        raise RangeError(
            "range-past-media",
            f"The range {chosen} asks for frames that do not exist: the media holds {available}.",
            "Trim the range, or relink the full-length file.",
        )
    return chosen
