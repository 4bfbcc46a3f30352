# SPDX-License-Identifier: Apache-2.0
"""Sound, data, subtitles and chapters beside the picture: copied whole, or cut and moved with a range."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_clips import ffprobe, make_clip, pass_through, sample_values, sound_of

from vs3r_engine.errors import MediaError
from vs3r_engine.media.companions import Companions
from vs3r_engine.media.decode import probe
from vs3r_engine.settings import OutputSettings
from vs3r_engine.timeline import FrameRange

RATE = Fraction(30000, 1001)
TRACKS = [
    {"language": "eng"},
    {"codec": "aac", "layout": "mono", "rate": 44100, "language": "deu"},
    {"codec": "pcm_s24le", "layout": "5.1"},
]


@pytest.fixture
def clip(tmp_path):
    return make_clip(
        tmp_path / "in.mov",
        rate=RATE,
        count=30,
        sounds=TRACKS,
        file_metadata={"title": "Dawn", "com.apple.quicktime.make": "ACME"},
        muxer={"movflags": "use_metadata_tags"},
    )


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv"])
def test_all_tracks_are_copied(tmp_path, clip, container):
    output = tmp_path / f"out.{container}"
    assert pass_through(clip, output) == []
    before, after = probe(str(clip)), probe(str(output))
    tracks = [(s.codec, s.sample_rate, s.channels) for s in after.streams if s.kind == "audio"]
    assert tracks == [(s.codec, s.sample_rate, s.channels) for s in before.streams if s.kind == "audio"]
    assert len(tracks) == 3
    for track in (0, 2):
        samples, begin = sound_of(output, track)
        expected, _ = sound_of(clip, track)
        assert begin == 0
        np.testing.assert_array_equal(samples, expected)
    with av.open(str(output)) as container_file:
        assert container_file.metadata["title"] == "Dawn"
        assert {key.lower(): value for key, value in container_file.metadata.items()}["com.apple.quicktime.make"] == "ACME"
        assert container_file.streams.audio[0].language == "eng"


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv"])
def test_sound_whose_speakers_stand_in_an_order_of_their_own(tmp_path, container):
    clip = make_clip(tmp_path / "in.mov", sounds=[{"layout": "7.1"}])
    native = b"chan" + bytes.fromhex("00000000 00010000 0000063f")
    its_own = b"chan" + bytes.fromhex("00000000 00800008 00000000")  # L R C LFE Ls Rs Rls Rrs, as QuickTime writes it
    assert native in clip.read_bytes()
    clip.write_bytes(clip.read_bytes().replace(native, its_own))
    output = tmp_path / f"out.{container}"
    # In a process of its own: PyAV used to abort it.
    words = [sys.executable, "-c", "import sys; from media_clips import pass_through; print(pass_through(*sys.argv[1:]))", clip, output]
    told = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert (told.returncode, told.stdout.strip()) == (0, "[]"), told.stderr
    assert probe(str(output)).streams[0].channels == 8


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv"])
@pytest.mark.parametrize("source_container", ["mov", "mkv"])
def test_sound_far_into_a_clip_is_found(tmp_path, container, source_container):
    source = make_clip(tmp_path / f"in.{source_container}", count=250, size=(32, 32), sounds=[{}], options={"g": "100"})
    output = tmp_path / f"out.{container}"
    pass_through(source, output, FrameRange(205, 25), chunk=25)
    samples, begin = sound_of(output)
    assert begin == 0
    np.testing.assert_array_equal(samples, sample_values(205 * 1920, 25 * 1920, 2))


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv"])
def test_pcm_of_a_range_is_cut_to_the_sample(tmp_path, clip, container):
    output = tmp_path / f"out.{container}"
    pass_through(clip, output, FrameRange(7, 9))
    samples, begin = sound_of(output)
    first, last = round(7 / RATE * 48000), round(16 / RATE * 48000)
    assert begin == 0
    np.testing.assert_array_equal(samples, sample_values(first, last - first, 2))
    assert sound_of(output, 2)[0].shape[1] == last - first
    if (seen := ffprobe(output)) is not None:
        assert abs(float(seen["format"]["duration"]) - 9 / RATE) < 0.0015
        if container != "mkv":
            assert abs(float(seen["streams"][0]["duration"]) - 9 / RATE) < 2e-6


@pytest.mark.parametrize(("container", "tolerance_s"), [("mov", 0.0005), ("mp4", 0.0005), ("mkv", 1024 / 44100 + 0.001)])
def test_compressed_sound_of_a_range_stays_in_sync(tmp_path, container, tolerance_s):
    """A burst of noise at 0.5 s must sound 0.5 s minus the range's start into the result."""
    path = tmp_path / "in.mov"
    with av.open(str(path), "w") as output:
        picture, sound = output.add_stream("libx264", rate=25), output.add_stream("aac", rate=44100, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuv420p"
        wave = np.zeros((1, 44100), np.float32)
        wave[0, 22050:] = 0.8 * np.sign(np.sin(np.arange(22050) * 0.3))
        for place in range(0, 44100, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, place : place + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, place, Fraction(1, 44100)
            output.mux(sound.encode(frame))
        for index in range(25):
            frame = av.VideoFrame(96, 64, "yuv420p")
            for plane in frame.planes:
                np.frombuffer(plane, np.uint8)[:] = 60 + index
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        output.mux(sound.encode(None))
    pass_through(path, tmp_path / f"out.{container}", FrameRange(6, 15))
    samples, begin = sound_of(tmp_path / f"out.{container}")
    onset = float(begin) + np.argmax(np.abs(samples[0]) > 0.3) / 44100
    assert abs(onset - (0.5 - 6 / 25)) < 0.002
    assert -0.0005 <= float(begin) <= tolerance_s


def test_sound_can_be_left_out(tmp_path, clip):
    pass_through(clip, tmp_path / "out.mov", settings=OutputSettings(audio=False))
    assert [s for s in probe(str(tmp_path / "out.mov")).streams if s.kind == "audio"] == []


def test_a_silent_clip_stays_silent(tmp_path):
    pass_through(make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    assert probe(str(tmp_path / "out.mp4")).streams == ()


def test_sound_that_the_container_cannot_hold_is_refused_with_a_way_out(tmp_path):
    source = make_clip(tmp_path / "in.mov", size=(256, 128), sounds=[{"codec": "aac"}], count=3)
    with pytest.raises(MediaError) as caught:
        pass_through(source, tmp_path / "out.mxf", settings=OutputSettings(codec="dnxhr"))
    assert caught.value.code == "output-audio"
    assert ".mov" in caught.value.hint
    assert not (tmp_path / "out.mxf").exists()
    source = make_clip(tmp_path / "in.mkv", sounds=[{"codec": "libopus"}], count=3)
    with pytest.raises(MediaError) as caught:
        pass_through(source, tmp_path / "out.mov")
    assert ".mkv or .mp4" in caught.value.hint and ".mov" not in caught.value.hint


def test_mxf_keeps_its_sound_and_timecode(tmp_path):
    source = make_clip(
        tmp_path / "in.mxf",
        "dnxhd",
        "yuv422p10le",
        size=(256, 128),
        options={"profile": "dnxhr_hqx"},
        sounds=[{}, {"codec": "pcm_s24le"}],
        metadata={"timecode": "10:00:00:00"},
    )
    pass_through(source, tmp_path / "out.mxf", FrameRange(3, 5))
    assert probe(str(tmp_path / "out.mxf")).start_timecode == "10:00:00:03"
    assert [s.codec for s in probe(str(tmp_path / "out.mxf")).streams] == ["pcm_s16le", "pcm_s24le"]
    samples, _ = sound_of(tmp_path / "out.mxf")
    np.testing.assert_array_equal(samples, sample_values(3 * 1920, 5 * 1920, 2))


def test_an_mxf_is_silent_where_its_source_has_no_sound_and_loses_no_picture(tmp_path):
    rate = Fraction(30000, 1001)
    sounds = [{}, {"codec": "pcm_s24le", "layout": "mono"}]
    whole = make_clip(tmp_path / "in.mov", rate=rate, size=(256, 128), count=60, sounds=sounds)
    # The first track from 0.5 s to 1 s, the other up to 0.75 s.
    kept = {1: (24000, 48000), 2: (0, 36000)}
    with av.open(str(whole)) as original, av.open(str(tmp_path / "gaps.mov"), "w") as output:
        copies = [output.add_stream_from_template(stream, opaque=True) for stream in original.streams]
        for packet in original.demux():
            first, last = kept.get(packet.stream_index, (-1, 1 << 40))
            if packet.size and first <= packet.pts < last:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    with av.open(str(tmp_path / "gaps.mov")) as container:
        begin, end = ([f(s) for s in container.streams.audio] for f in (lambda s: s.start_time, lambda s: s.start_time + s.duration))
    for render_range in (FrameRange(0, 60), FrameRange(5, 50)):
        output = tmp_path / f"out{render_range.start}.mxf"
        pass_through(tmp_path / "gaps.mov", output, render_range, settings=OutputSettings(codec="dnxhr"))
        assert probe(str(output)).frame_count == len(render_range)
        count, skipped = round(len(render_range) * 48000 / rate), round(render_range.start * 48000 / rate)
        for track, bits_more in ((0, 0), (1, 16)):
            samples = sound_of(output, track)[0].astype(np.int64) >> bits_more
            expected = sample_values(skipped, count, len(samples)).astype(np.int64)
            at = np.arange(skipped, skipped + count)
            expected[:, (at < begin[track]) | (at >= end[track])] = 0
            np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("container", ["mov", "mkv"])
def test_a_track_that_begins_late_takes_no_sound_from_the_others(tmp_path, container):
    whole = make_clip(tmp_path / "whole.mov", count=200, size=(32, 32), sounds=[{}, {}], options={"g": "50"})
    with av.open(str(whole)) as original, av.open(str(tmp_path / f"in.{container}"), "w") as output:
        copies = [output.add_stream_from_template(stream, opaque=True) for stream in original.streams]
        for packet in original.demux():
            if packet.size and (packet.stream_index != 1 or packet.pts >= 6 * 48000):
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    pass_through(tmp_path / f"in.{container}", tmp_path / "out.mov", FrameRange(100, 75), chunk=75)
    np.testing.assert_array_equal(sound_of(tmp_path / "out.mov", 1)[0], sample_values(4 * 48000, 3 * 48000, 2))
    samples, begin = sound_of(tmp_path / "out.mov", 0)
    np.testing.assert_array_equal(samples, sample_values(round((4 + begin) * 48000), samples.shape[1], 2))
    assert 2 <= begin < 2.1


def test_sound_from_before_the_picture_is_not_in_an_mxf(tmp_path):
    source = make_clip(tmp_path / "in.mkv", size=(256, 128), times_ms=[500 + 40 * i for i in range(10)], sounds=[{}])
    pass_through(source, tmp_path / "out.mxf")
    np.testing.assert_array_equal(sound_of(tmp_path / "out.mxf")[0], sample_values(24000, 19200, 2))


def test_the_rest_of_a_file_is_not_read_after_a_range(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mkv", count=60, rate=Fraction(1), size=(32, 32), sounds=[{"rate": 8000, "layout": "mono"}])
    read = []
    monkeypatch.setattr(Companions, "_within", lambda self, packet, stream: read.append(packet.pts * packet.time_base))
    pass_through(source, tmp_path / "out.mkv", FrameRange(0, 5))
    assert 14 < max(read) < 17


def test_chapters_move_with_the_range(tmp_path):
    source = make_clip(tmp_path / "in.mkv", count=50)
    with av.open(str(source)) as original, av.open(str(tmp_path / "chapters.mkv"), "w") as output:
        stream = output.add_stream_from_template(original.streams.video[0], opaque=True)
        output.set_chapters(
            [
                {"id": 1, "start": 0, "end": 800, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
                {"id": 2, "start": 800, "end": 2000, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
            ]
        )
        for packet in original.demux(original.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    pass_through(tmp_path / "chapters.mkv", tmp_path / "whole.mp4")
    assert pass_through(tmp_path / "whole.mp4", tmp_path / "again.mov") == []  # MP4 keeps chapters as a track
    pass_through(tmp_path / "again.mov", tmp_path / "out.mkv", FrameRange(10, 30))
    with av.open(str(tmp_path / "out.mkv")) as container:
        found = [
            (
                chapter["metadata"]["title"],
                round(float(chapter["start"] * chapter["time_base"]), 3),
                round(float(chapter["end"] * chapter["time_base"]), 3),
            )
            for chapter in container.chapters()
        ]
    assert found == [("one", 0.0, 0.4), ("two", 0.4, 1.2)]


def make_clip_with_data(path, kind):
    """A silent clip of ten pictures with a packet of data at 0.1 and 0.3 s."""
    with av.open(str(path), "w") as output:
        picture = output.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuv420p"
        data = output.add_data_stream(kind)
        for index in range(10):
            frame = av.VideoFrame(96, 64, "yuv420p")
            for plane in frame.planes:
                np.frombuffer(plane, np.uint8)[:] = 60
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(picture.encode(frame))
        for time_ms in (100, 300):
            packet = av.Packet(b"data at %d ms" % time_ms)
            packet.pts = packet.dts = time_ms
            packet.duration, packet.time_base, packet.stream = 40, Fraction(1, 1000), data
            output.mux(packet)
        output.mux(picture.encode(None))
    return path


def test_data_is_copied_and_moves_with_the_range(tmp_path):
    """In MP4 the first packet lasts until the second, so it still holds where the range begins."""
    source = make_clip_with_data(tmp_path / "in.mp4", "bin_data")
    assert pass_through(source, tmp_path / "out.mp4", FrameRange(5, 5)) == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.data[0]
        assert [(round(float(packet.pts * packet.time_base), 3), bytes(packet)) for packet in container.demux(stream) if packet.size] == [
            (0.0, b"data at 100 ms"),
            (0.1, b"data at 300 ms"),
        ]


def test_data_that_the_container_cannot_hold_is_left_out_and_named(tmp_path):
    source = make_clip_with_data(tmp_path / "in.ts", "timed_id3")
    notes = pass_through(source, tmp_path / "out.mp4")
    assert any("timed_id3" in note and "left out" in note for note in notes)
    assert numbers_of_streams(tmp_path / "out.mp4") == 1
    assert len(pass_through(source, tmp_path / "out.mov", FrameRange(2, 5))) == len(notes)


def numbers_of_streams(path):
    with av.open(str(path)) as container:
        return len(container.streams)


def test_sound_of_a_broadcast_stream_reaches_mp4(tmp_path):
    source = make_clip(tmp_path / "in.ts", sounds=[{"codec": "aac"}], count=25)
    pass_through(source, tmp_path / "out.mp4")
    samples, begin = sound_of(tmp_path / "out.mp4")
    assert begin == 0
    assert samples.shape[1] >= 0.9 * 48000
    assert np.abs(samples).max() > 0.1
