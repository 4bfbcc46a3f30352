# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be read or written get a message that names them, and leave nothing half-made behind."""

import os
import shutil

import av
import numpy as np
import pytest
from media_clips import make_clip, number_of, numbers_in, pass_through

from vs3r_engine.errors import DiskFull, EngineFault, MediaError
from vs3r_engine.media.decode import open_source, probe
from vs3r_engine.media.encode import SegmentWriter, assemble, resolve_encoding
from vs3r_engine.settings import OutputSettings
from vs3r_engine.timeline import FrameRange


def refusal(path) -> str:
    """The code of the error that probing gives; it names the file and what to do."""
    with pytest.raises(MediaError) as caught:
        probe(str(path))
    assert os.path.basename(str(path)) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 4
    return caught.value.code


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "none.mp4") == "media-missing"
    assert refusal(tmp_path / "none.png") == "media-missing"


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert refusal(tmp_path / "empty.mp4") == "media-empty"


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "notes.mp4").write_text("dear diary " * 500)
    assert refusal(tmp_path / "notes.mp4") == "media-unreadable"


def test_a_folder_without_pictures(tmp_path):
    assert refusal(tmp_path) == "media-not-video"


def test_a_file_with_sound_only(tmp_path):
    with av.open(str(tmp_path / "song.m4a"), "w") as output:
        track = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        output.mux(track.encode(frame))
        output.mux(track.encode(None))
    assert refusal(tmp_path / "song.m4a") == "media-not-video"


def test_a_picture_too_small_to_track(tmp_path):
    assert refusal(make_clip(tmp_path / "tiny.mkv", "ffv1", size=(1, 1), pixel_format="yuv444p", count=1)) == "media-too-small"
    assert refusal(make_clip(tmp_path / "flat.mkv", "ffv1", size=(64, 8), count=1)) == "media-too-small"


def test_an_interlaced_clip_is_refused_with_a_way_out(tmp_path):
    path = make_clip(tmp_path / "in.mp4", options={"x264-params": "tff=1"})
    with pytest.raises(MediaError) as caught:
        probe(str(path))
    assert caught.value.code == "media-interlaced"
    assert "bwdif" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "muxer"),
    [
        ("end.mp4", {}),
        ("front.mp4", {"movflags": "faststart"}),
        ("in.mov", {}),
        ("in.mkv", {}),
        ("intra.mov", {"movflags": "faststart"}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("in.avi", {}),
    ],
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_file_cut_off_in_the_middle(tmp_path, name, muxer, part):
    path = make_clip(
        tmp_path / name,
        {"in.avi": "mpeg4", "intra.mov": "prores_aw"}.get(name, "libx264"),
        "yuv422p10le" if name == "intra.mov" else "yuv420p",
        count=30,
        size=(320, 240),
        muxer=muxer,
        options={"g": "10"},
    )
    assert probe(str(path)).frame_count == 30
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert refusal(path) == "media-truncated"


def test_a_whole_file_with_a_sloppy_last_box_is_read(tmp_path):
    path = make_clip(tmp_path / "in.mp4")
    path.write_bytes(path.read_bytes() + b"\0\0\1\0free")
    assert probe(str(path)).frame_count == 10


def test_a_clip_that_changes_its_size_stops_there(tmp_path):
    first, second = make_clip(tmp_path / "a.h264"), make_clip(tmp_path / "b.h264", size=(128, 96))
    (tmp_path / "c.h264").write_bytes(first.read_bytes() + second.read_bytes())
    with open_source(str(tmp_path / "c.h264")) as source, pytest.raises(MediaError) as caught:
        list(source.frames(source.info.clip.available_range))
    assert caught.value.code == "media-changes"


def refused_output(source, output, overwrite=False) -> str:
    with pytest.raises(MediaError) as caught:
        resolve_encoding(probe(str(source)), str(output), OutputSettings(), overwrite)
    assert caught.value.hint
    return caught.value.code


def test_the_source_is_never_written_over(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    assert refused_output(source, source, overwrite=True) == "output-is-source"
    os.link(source, tmp_path / "same.mp4")
    os.symlink(source, tmp_path / "link.mp4")
    assert refused_output(source, tmp_path / "same.mp4", overwrite=True) == "output-is-source"
    assert refused_output(source, tmp_path / "link.mp4", overwrite=True) == "output-is-source"
    assert refused_output(source, tmp_path / "." / "in.mp4", overwrite=True) == "output-is-source"


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    (tmp_path / "out.mp4").write_text("precious")
    assert refused_output(source, tmp_path / "out.mp4") == "output-exists"
    pass_through(source, tmp_path / "out.mp4", overwrite=True)
    assert probe(str(tmp_path / "out.mp4")).frame_count == 10


def test_a_folder_that_is_not_there_or_not_writable(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    assert refused_output(source, tmp_path / "none" / "out.mp4") == "output-unwritable"
    (tmp_path / "out.mp4").mkdir()
    assert refused_output(source, tmp_path / "out.mp4", overwrite=True) == "output-unwritable"
    pass_through(source, tmp_path / f"{'n' * 226}.mp4")
    for too_long in (227, 260):
        assert refused_output(source, tmp_path / f"{'n' * too_long}.mp4") == "output-unwritable"
    if os.geteuid() == 0:
        return  # nothing is forbidden to root
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert refused_output(source, locked / "out.mp4") == "output-unwritable"


@pytest.mark.parametrize("output", ["out.mov", "out.mp4", "out.mkv", "out.dpx"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, small_disk, output):
    disk = small_disk("40k")
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuv420p", size=(320, 240), count=30)
    with open_source(str(source)) as opened:
        info = opened.info
        settings = OutputSettings(codec="prores" if output == "out.mov" else "auto", crf=0)
        encoding = resolve_encoding(info, str(disk / output), settings)
        writer = SegmentWriter(tmp_path / "segment", info, encoding)
        for frame in opened.frames(info.clip.available_range):
            writer.write(frame)
        writer.close()
        with pytest.raises(DiskFull) as caught:
            assemble([tmp_path / "segment"], str(disk / output), info, encoding, info.clip.available_range)
    assert caught.value.code == "disk-full"
    assert caught.value.exit_code == 5
    assert list(disk.iterdir()) == []


def test_a_full_disk_stops_a_segment_and_leaves_nothing_behind(tmp_path, small_disk):
    disk = small_disk("40k")
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuv420p", size=(320, 240), count=60)
    with open_source(str(source)) as opened:
        encoding = resolve_encoding(opened.info, str(tmp_path / "out.mov"), OutputSettings(codec="prores"))
        writer = SegmentWriter(disk / "segment", opened.info, encoding)
        with pytest.raises(DiskFull):
            for frame in opened.frames(opened.info.clip.available_range):
                writer.write(frame)
            writer.close()
        writer.abort()
    assert list(disk.iterdir()) == []


def segments_of(tmp_path, output="out.mp4", pieces=((0, 5), (5, 5))):
    source = make_clip(tmp_path / "in.mp4")
    opened = open_source(str(source))
    encoding = resolve_encoding(opened.info, str(tmp_path / output), OutputSettings(), overwrite=True)
    segments = []
    for start, duration in pieces:
        writer = SegmentWriter(tmp_path / f"segment-{start}", opened.info, encoding)
        for frame in opened.frames(FrameRange(start, duration)):
            writer.write(frame)
        writer.close()
        segments.append(tmp_path / f"segment-{start}")
    return opened, encoding, segments


@pytest.mark.parametrize("pieces", [((0, 5),), ((0, 5), (5, 5), (3, 2))])
def test_segments_that_are_not_the_range_are_a_fault_and_leave_what_was_there(tmp_path, pieces):
    opened, encoding, segments = segments_of(tmp_path, pieces=pieces)
    (tmp_path / "out.mp4").write_text("precious")
    with opened, pytest.raises(EngineFault) as caught:
        assemble(segments, str(tmp_path / "out.mp4"), opened.info, encoding, FrameRange(0, 10), overwrite=True)
    assert caught.value.code == "segments-incomplete"
    assert (tmp_path / "out.mp4").read_text() == "precious"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("pieces", [((0, 5),), ((0, 5), (6, 4))])
def test_images_that_are_not_the_range_are_a_fault_and_none_is_placed(tmp_path, pieces):
    opened, encoding, segments = segments_of(tmp_path, "out.%04d.png", pieces)
    with opened, pytest.raises(EngineFault) as caught:
        assemble(segments, str(tmp_path / "out.%04d.png"), opened.info, encoding, FrameRange(0, 10))
    assert caught.value.code == "segments-incomplete"
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("output", ["out.mp4", "out.%04d.png"])
def test_what_a_killed_process_left_of_a_segment_is_in_nobodys_way(tmp_path, output):
    for _ in range(2):
        opened, encoding, segments = segments_of(tmp_path, output)
        opened.close()
        for segment in segments:  # as if it had been killed before it ended; the next one finds both
            partial = segment.with_name(segment.name + ".partial")
            shutil.copytree(segment, partial) if segment.is_dir() else shutil.copyfile(segment, partial)
    opened, encoding, segments = segments_of(tmp_path, output)
    with opened:
        assemble(segments, str(tmp_path / output), opened.info, encoding, FrameRange(0, 10))
    assert numbers_in(tmp_path / output) == list(range(10))
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_that_appeared_during_the_render_is_kept(tmp_path):
    opened, encoding, segments = segments_of(tmp_path)
    (tmp_path / "out.mp4").write_text("precious")
    with opened, pytest.raises(MediaError) as caught:
        assemble(segments, str(tmp_path / "out.mp4"), opened.info, encoding, FrameRange(0, 10))
    assert caught.value.code == "output-exists"
    assert (tmp_path / "out.mp4").read_text() == "precious"


def test_a_segment_is_there_whole_or_not_at_all(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    with open_source(str(source)) as opened:
        encoding = resolve_encoding(opened.info, str(tmp_path / "out.mp4"), OutputSettings())
        writer = SegmentWriter(tmp_path / "segment", opened.info, encoding)
        frames = opened.frames(FrameRange(0, 4))
        writer.write(next(frames))
        assert not (tmp_path / "segment").exists()
        writer.abort()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
        writer = SegmentWriter(tmp_path / "segment", opened.info, encoding)
        writer.write(next(frames))
        with pytest.raises(EngineFault) as caught:
            writer.write(next(opened.frames(FrameRange(7, 1))))
        assert caught.value.code == "frame-order"
        writer.close()
    assert (tmp_path / "segment").exists()


def test_names_with_odd_characters_are_files(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    odd = source.rename(tmp_path / "a:b %04d é #1?.mp4")
    pass_through(odd, tmp_path / "c:d 100%.mov")
    with open_source(str(tmp_path / "c:d 100%.mov")) as opened:
        assert number_of(next(opened.frames(FrameRange(9, 1)))) == 9
