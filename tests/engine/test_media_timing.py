# SPDX-License-Identifier: Apache-2.0
"""Every frame is found by its exact time: reordered, open groups, variable rate, missing times, ranges in any order."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import make_clip, number_of, numbers_in, pass_through, sound_of

from vs3r_engine.errors import RangeError
from vs3r_engine.media import video_file
from vs3r_engine.media.decode import open_source, probe
from vs3r_engine.media.info import fit_rate
from vs3r_engine.timeline import FrameRange

COUNT = 40
TIMES_MS = list(np.cumsum([0, *([33, 34, 41, 16, 100, 17] * 7)[: COUNT - 1]]).tolist())

CLIPS = {
    "b-frames.mp4": {"options": {"g": "12", "bf": "3"}},
    "open-group.mkv": {"options": {"x264-params": "open-gop=1:keyint=9:bframes=3:b-adapt=0"}},
    "open-group.ts": {"options": {"x264-params": "open-gop=1:keyint=9:bframes=3:b-adapt=0"}},
    "open-group-hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=9:min-keyint=9:open-gop=1:bframes=4:b-adapt=0"}},
    "variable.mp4": {"times_ms": TIMES_MS, "options": {"g": "12"}},
    "variable.mkv": {"times_ms": TIMES_MS, "options": {"g": "12"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "9", "bf": "2"}},
    "mpeg2.mxf": {"codec": "mpeg2video", "pixel_format": "yuv422p", "options": {"g": "9", "bf": "2"}},
    "reordered.mxf": {"pixel_format": "yuv422p10le", "options": {"g": "9", "bf": "2"}},
    "reordered.avi": {"options": {"g": "9", "bf": "2"}},
    "no-times.h264": {"options": {"g": "9", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "lag-in-frames": "10", "deadline": "realtime"}},
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
    "fragments.mp4": {"options": {"g": "12"}, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
}


@pytest.mark.parametrize("name", CLIPS)
def test_any_frame_asked_for_is_the_frame_given(tmp_path, name):
    path = make_clip(tmp_path / name, count=COUNT, **CLIPS[name])
    with open_source(str(path)) as source:
        assert source.info.frame_count == COUNT
        frames = list(source.frames(FrameRange(0, COUNT)))
        assert [number_of(frame) for frame in frames] == list(range(COUNT))
        assert [frame.frame_index for frame in frames] == list(range(COUNT))
        for index in (17, 3, 39, 38, 0, 8, 9, 10, 26, 27, 1):
            assert number_of(next(source.frames(FrameRange(index, 1)))) == index
        for start in (20, 5, 14, 31):
            assert [number_of(frame) for frame in source.frames(FrameRange(start, 9))] == list(range(start, start + 9))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:keyint=9:min-keyint=9:bframes=3:b-adapt=0:scenecut=0"}),
        ("libx265", {"x265-params": "keyint=9:min-keyint=9:open-gop=1:bframes=4:b-adapt=0:scenecut=0"}),
        ("mpeg2video", {"g": "9", "bf": "2"}),
    ],
)
def test_a_recording_that_began_in_the_middle_of_a_group_begins_with_its_first_whole_picture(tmp_path, codec, options):
    path = make_clip(tmp_path / "in.ts", codec=codec, count=COUNT, options=options)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 3 // 188 * 188 :])
    with open_source(str(path)) as source:
        numbers = [number_of(frame) for frame in source.frames(source.info.clip.available_range)]
        assert 9 < numbers[0] < 30
        assert numbers == list(range(numbers[0], COUNT))
        assert number_of(next(source.frames(FrameRange(5, 1)))) == numbers[5]


@pytest.mark.parametrize("offset_s", ["0", "0.8"])
def test_broadcast_streams_one_after_the_other_lose_no_picture(tmp_path, offset_s):
    first = make_clip(tmp_path / "first.ts", count=20)
    second = make_clip(tmp_path / "second.ts", count=20, muxer={"output_ts_offset": offset_s})
    path = tmp_path / "in.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert numbers_in(path) == [*range(20), *range(20)]
    assert not probe(str(path)).is_variable_rate


def test_two_ranges_can_be_read_at_the_same_time(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=COUNT, options={"g": "12"})
    with open_source(str(path)) as source:
        pairs = zip(source.frames(FrameRange(0, 10)), source.frames(FrameRange(20, 10)), strict=True)
        assert [(number_of(a), number_of(b)) for a, b in pairs] == [(i, i + 20) for i in range(10)]


def test_frames_stay_valid_after_the_source_is_closed(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=COUNT)
    with open_source(str(path)) as source:
        frames = list(source.frames(FrameRange(0, COUNT)))
    assert [number_of(frame) for frame in frames] == list(range(COUNT))
    with pytest.raises(ValueError, match="read-only"):
        frames[0].planes[0][0, 0] = 1


@pytest.mark.parametrize("output", ["out.mp4", "out.mov", "out.mkv"])
def test_variable_times_come_out_exactly(tmp_path, output):
    path = make_clip(tmp_path / "in.mp4", count=COUNT, times_ms=TIMES_MS)
    assert probe(str(path)).is_variable_rate
    pass_through(path, tmp_path / output, chunk=7)
    after = probe(str(tmp_path / output))
    assert after.is_variable_rate
    assert [after.time_s(i) * 1000 for i in range(COUNT)] == TIMES_MS
    assert numbers_in(tmp_path / output) == list(range(COUNT))
    pass_through(path, tmp_path / output, FrameRange(13, 20), chunk=7, overwrite=True)
    after = probe(str(tmp_path / output))
    assert [after.time_s(i) * 1000 for i in range(20)] == [time - TIMES_MS[13] for time in TIMES_MS[13:33]]


def test_a_picture_with_the_time_of_the_next_is_shown_and_the_times_of_all_others_stand(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=COUNT, options={"bf": "2"})
    times = [probe(str(path)).time_s(i) for i in range(COUNT)]
    with av.open(str(path)) as source, av.open(str(tmp_path / "repeating.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.pts is None:
                continue
            if packet.pts * packet.time_base == times[6]:
                packet.pts = round(times[7] / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    repeating = probe(str(tmp_path / "repeating.mp4"))
    assert repeating.is_variable_rate
    assert numbers_in(tmp_path / "repeating.mp4") == list(range(COUNT))
    moved = [*times[:6], times[7], (times[7] + times[8]) / 2, *times[8:]]
    assert [float(repeating.time_s(i)) for i in range(COUNT)] == pytest.approx([float(time) for time in moved], abs=1e-4)


def test_a_picture_that_starts_after_the_sound_still_does(tmp_path):
    path = make_clip(tmp_path / "in.mkv", times_ms=[200 + 40 * i for i in range(10)], sounds=[{}])
    pass_through(path, tmp_path / "out.mov")
    after = probe(str(tmp_path / "out.mov"))
    assert after.time_s(0) == Fraction(1, 5)
    assert not after.is_variable_rate


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv"])
@pytest.mark.parametrize("late_ms", [23, 210])
def test_a_picture_that_starts_between_two_of_its_frames_after_the_sound_still_does(tmp_path, container, late_ms):
    path = make_clip(tmp_path / "in.mkv", times_ms=[late_ms + 40 * i for i in range(10)], sounds=[{}])
    output = tmp_path / f"out.{container}"
    pass_through(path, output)
    after = probe(str(output))
    assert abs(after.time_s(0) - Fraction(late_ms, 1000)) < Fraction(1, 50000)
    assert (after.clip.rate, after.is_variable_rate) == (25, False)
    assert sound_of(output)[1] == 0


def test_no_sound_is_lost_where_a_broadcast_stream_begins(tmp_path):
    # A beginning at 126005/90000 s, which FFmpeg calls 1.400056 s.
    path = make_clip(tmp_path / "in.ts", count=25, sounds=[{"codec": "mp2"}], muxer={"output_ts_offset": "0.000056"})
    pass_through(path, tmp_path / "out.mkv")
    assert packet_sizes(tmp_path / "out.mkv") == packet_sizes(path)


def packet_sizes(path):
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(audio=0) if packet.size]


def test_a_range_past_the_end_is_refused(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=10)
    with open_source(str(path)) as source, pytest.raises(RangeError) as caught:
        source.frames(FrameRange(5, 6))
    assert caught.value.code == "range-past-media"


INTRA = {
    "prores.mov": {"codec": "prores_aw", "pixel_format": "yuv422p10le", "rate": Fraction(30000, 1001)},
    "variable.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p", "times_ms": TIMES_MS[:10]},
    "one.mov": {"codec": "prores_aw", "pixel_format": "yuv422p10le", "count": 1},
    "late.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p", "times_ms": [300 + 40 * i for i in range(10)], "sounds": [{}]},
}


@pytest.mark.parametrize("name", INTRA)
def test_a_stated_index_equals_the_counted_one(tmp_path, name):
    path = str(make_clip(tmp_path / name, **INTRA[name]))
    with av.open(path) as container:
        stated = video_file._stated_index(container, container.streams.video[0], path)
        counted = video_file._counted_index(container, container.streams.video[0], path)
    assert stated is not None
    np.testing.assert_array_equal(stated.pts, counted.pts)
    np.testing.assert_array_equal(stated.key_pts, counted.key_pts)
    assert stated.end_pts == counted.end_pts
    assert stated.counts_frames == counted.counts_frames


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    make_clip(tmp_path / "in.mp4", count=10)
    assert probe(str(tmp_path / "in.mp4")).frame_count == 10
    (tmp_path / "in.mp4").unlink()
    make_clip(tmp_path / "in.mp4", count=7)
    assert probe(str(tmp_path / "in.mp4")).frame_count == 7


@pytest.mark.parametrize(
    "rate",
    [
        Fraction(24000, 1001),
        Fraction(24),
        Fraction(25),
        Fraction(30000, 1001),
        Fraction(30),
        Fraction(50),
        Fraction(60000, 1001),
        Fraction(60),
        Fraction(120),
    ],
)
def test_a_rate_is_recognised_through_millisecond_times(rate):
    times = np.array([round(i * 1000 / rate) for i in range(2000)], np.int64)
    stated = [Fraction(round(rate * 317), 317)]
    found, is_variable = fit_rate(times, int(times[-1]) + round(1000 / rate), Fraction(1, 1000), stated)
    assert (found, is_variable) == (rate, False)


@pytest.mark.parametrize(("jitter_us", "is_variable"), [(500, False), (3000, True)])
def test_a_rate_is_recognised_where_rounded_times_were_copied_to_a_finer_clock(jitter_us, is_variable):
    times = np.array([round((i * 1001 / 30000 + (i % 3 - 1) * jitter_us * 1e-6) * 90000) for i in range(2000)], np.int64)
    found = fit_rate(times, int(times[-1]) + 3003, Fraction(1, 90000), [Fraction(30000, 1001)])
    assert found == (Fraction(30000, 1001), is_variable)


def test_a_dropped_frame_makes_a_rate_variable():
    times = np.array([i for i in range(100) if i != 50], np.int64)
    assert fit_rate(times, 100, Fraction(1, 25), [Fraction(25)])[1]
