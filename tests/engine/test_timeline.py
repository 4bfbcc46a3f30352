# SPDX-License-Identifier: Apache-2.0
"""Ranges as people write them: frames, timecodes as the media counts them, and what no range is."""

from fractions import Fraction

import pytest

from vs3r_engine.errors import RangeError
from vs3r_engine.timeline import FrameRange, frame_count_of_timecode, parse_range, timecode_of_frame_count

NTSC = Fraction(30000, 1001)


def chosen(text: str, rate=Fraction(25), frames=200, start: str | None = None) -> tuple[int, int]:
    found = parse_range(text, rate, FrameRange(0, frames), start)
    return found.start, found.end_exclusive


@pytest.mark.parametrize(
    ("text", "meant"),
    [("100..140", (100, 140)), ("..20", (0, 20)), ("180..", (180, 200)), ("..", (0, 200)), (" 10 .. 20 ", (10, 20))],
)
def test_frames_are_half_open_and_either_side_may_be_left_out(text, meant):
    assert chosen(text) == meant


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("10", "bad-range"),
        ("10-20", "bad-range"),
        ("20..10", "empty-range"),
        ("10..10", "empty-range"),
        ("0..201", "range-past-media"),
        ("-5..10", "range-past-media"),
        ("\u00b2..20", "bad-timecode"),
        ("--5..20", "bad-timecode"),
        ("1e3..20", "bad-timecode"),
        ("9" * 50 + "..20", "bad-timecode"),
        ("10...20", "bad-timecode"),
        ("00:00:00:25..", "bad-timecode"),
        ("00:00:61:00..", "bad-timecode"),
    ],
)
def test_what_is_no_range_is_refused(text, code):
    with pytest.raises(RangeError) as refused:
        chosen(text)
    assert refused.value.code == code


def test_timecodes_count_from_the_medias_own():
    assert chosen("00:00:01:00..00:00:02:00") == (25, 50)
    assert chosen("01:00:01:00..01:00:02:00", start="01:00:00:00") == (25, 50)
    assert chosen("01:00:01:00..60", start="01:00:00:00") == (25, 60)


@pytest.mark.parametrize("typed", ["01:00:58;10..01:01:00;02", "01:00:58:10..01:01:00:02", "01:00:58.10..01:01:00,02"])
def test_a_timecode_is_drop_frame_where_the_medias_is_whatever_is_typed_before_the_frames(typed):
    assert chosen(typed, NTSC, 3000, "01:00:00;00") == (1750, 1800)
    assert timecode_of_frame_count(107892 + 1800, NTSC, drop_frame=True) == "01:01:00;02"


def test_and_is_not_where_the_medias_is_not():
    assert chosen("01:01:00;00..01:01:00;02", NTSC, 3000, "01:00:00:00") == (1800, 1802)


def test_a_frame_that_drop_frame_skips_is_refused():
    with pytest.raises(RangeError, match="drop-frame skips it"):
        chosen("01:01:00:00..", NTSC, 3000, "01:00:00;00")


@pytest.mark.parametrize(("rate", "start", "separator"), [(Fraction(25), "23:59:59:00", ":"), (NTSC, "23:59:59;00", ";")])
def test_a_clip_may_run_past_midnight(rate, start, separator):
    second = round(rate)
    assert chosen(f"23:59:59{separator}10..00:00:00{separator}05", rate, 100, start) == (10, second + 5)
    assert chosen(f"00:00:00{separator}00..00:00:01{separator}00", rate, 100, start) == (second, 2 * second)
    with pytest.raises(RangeError) as refused:
        chosen(f"22:00:00{separator}00..", rate, 100, start)
    assert refused.value.code == "range-past-media"


@pytest.mark.parametrize(
    ("count", "rate", "drop_frame", "text"),
    [
        (0, Fraction(25), False, "00:00:00:00"),
        (90024, Fraction(25), False, "01:00:00:24"),
        (25 * 86400 - 1, Fraction(25), False, "23:59:59:24"),
        (1800, NTSC, False, "00:01:00:00"),
        (1799, NTSC, True, "00:00:59;29"),
        (1800, NTSC, True, "00:01:00;02"),
        (17982, NTSC, True, "00:10:00;00"),
        (144 * 17982 - 1, NTSC, True, "23:59:59;29"),
        (119, Fraction(120), False, "00:00:00:119"),
    ],
)
def test_a_frames_timecode_and_back_and_the_next_day(count, rate, drop_frame, text):
    day = 144 * 17982 if drop_frame else 86400 * round(rate)
    for days in (-1, 0, 1):
        assert timecode_of_frame_count(count + days * day, rate, drop_frame) == text
    assert frame_count_of_timecode(text, rate) == count
