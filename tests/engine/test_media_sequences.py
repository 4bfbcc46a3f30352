# SPDX-License-Identifier: Apache-2.0
"""Image sequences go in and come out like clips: numbering, depth, aspect, rate and timecode."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import make_clip, number_of, numbered_planes, numbers_in, pass_through

from vs3r_engine.errors import MediaError
from vs3r_engine.media.decode import open_source, probe
from vs3r_engine.media.image_headers import ImageHeader, read_header, with_header
from vs3r_engine.media.pixel_formats import frame_format, picture_of, planar_format
from vs3r_engine.settings import OutputSettings
from vs3r_engine.timeline import FrameRange


def make_images(folder, name, encoder, pixel_format, numbers, options=None, size=(96, 64), header=None, aspect=None):
    """Numbered images `name % number`; image k of the sequence carries k."""
    for index, number in enumerate(numbers):
        context = av.CodecContext.create(encoder, "w")
        context.width, context.height, context.pix_fmt, context.time_base = *size, pixel_format, Fraction(1, 24)
        context.options = options or {}
        if aspect:
            context.sample_aspect_ratio = aspect
        planar = planar_format(pixel_format) or frame_format(pixel_format)
        picture = picture_of(numbered_planes(index, *size, planar.name), planar)
        data = b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
        (folder / (name % number)).write_bytes(with_header(data, header) if header else data)


IMAGES = [
    ("exr", "gbrpf32le", {"format": "half"}, "gbrpf16le"),
    ("exr", "gbrapf32le", {"format": "float"}, "gbrapf32le"),
    ("exr", "grayf32le", {}, "grayf32le"),
    ("png", "rgb24", {}, "rgb24"),
    ("png", "rgb48be", {}, "rgb48be"),
    ("png", "rgba64be", {}, "rgba64be"),
    ("png", "gray16be", {}, "gray16be"),
    ("tiff", "rgb24", {}, "rgb24"),
    ("tiff", "rgb48le", {}, "rgb48le"),
    ("tiff", "rgba", {}, "rgba"),
    ("tiff", "gray", {}, "gray"),
    ("dpx", "gbrp10le", {}, "gbrp10le"),
    ("dpx", "gbrp12le", {}, "gbrp12le"),
    ("dpx", "rgb48le", {}, "rgb48le"),
    ("dpx", "rgb24", {}, "rgb24"),
]


@pytest.mark.parametrize(("encoder", "pixel_format", "options", "decoded"), IMAGES, ids=[f"{e}-{d}" for e, _, _, d in IMAGES])
def test_images_come_out_with_every_code_value(tmp_path, encoder, pixel_format, options, decoded):
    make_images(tmp_path, f"in.%04d.{encoder}", encoder, pixel_format, range(1001, 1007), options)
    source, output = tmp_path / f"in.%04d.{encoder}", tmp_path / f"out.%04d.{encoder}"
    pass_through(source, output)
    before, after = probe(str(source)), probe(str(output))
    assert before.pixel_format == after.pixel_format == decoded
    assert after.profile == before.profile
    assert after.sequence.numbers == (1001, 1006)
    with open_source(str(source)) as a, open_source(str(output)) as b:
        pairs = list(zip(a.frames(FrameRange(0, 6)), b.frames(FrameRange(0, 6)), strict=True))
    assert [number_of(b) for _, b in pairs] == list(range(6))
    for x, y in pairs:
        for plane_x, plane_y in zip(x.planes, y.planes, strict=True):
            np.testing.assert_array_equal(plane_x, plane_y)


def test_one_file_a_pattern_a_part_and_the_folder_mean_the_sequence(tmp_path):
    make_images(tmp_path, "shot_%05d.png", "png", "rgb24", range(8, 13))
    whole = (8, 12)
    for path, numbers in [
        ("shot_00010.png", whole),
        ("shot_%05d.png", whole),
        ("shot_#####.png", whole),
        ("shot_[00009-00011].png", (9, 11)),
        ("", whole),
    ]:
        info = probe(str(tmp_path / path))
        assert info.sequence.numbers == numbers
        assert info.frame_count == numbers[1] - numbers[0] + 1
        assert info.clip.rate == 24
        assert probe(info.clip.path).sequence.numbers == numbers, "the clip's path means the same files"
    with open_source(str(tmp_path / "shot_[00009-00011].png")) as source:
        assert [(f.frame_index, number_of(f)) for f in source.frames(FrameRange(1, 2))] == [(1, 2), (2, 3)]


def test_a_percent_sign_in_a_name_is_one(tmp_path):
    make_images(tmp_path, "100%%_%04d.png", "png", "rgb24", range(4))
    assert (tmp_path / "100%_0002.png").exists()
    for name in ("100%_0002.png", "100%_%04d.png", "100%_[0001-0002].png"):
        path = probe(str(tmp_path / name)).clip.path
        assert numbers_in(path) == ([1, 2] if "[" in name else [0, 1, 2, 3])


def test_unpadded_numbers_count_on_past_nine(tmp_path):
    make_images(tmp_path, "a%d.png", "png", "rgb24", range(8, 12))
    assert numbers_in(tmp_path / "a10.png") == [0, 1, 2, 3]
    assert numbers_in(tmp_path / "a8.png") == [0, 1, 2, 3]


def test_numbers_below_zero_are_refused_and_hyphens_are_none(tmp_path):
    make_images(tmp_path, "a.-%04d.png", "png", "rgb24", [1, 2])
    make_images(tmp_path, "b-%04d.png", "png", "rgb24", [1, 2])
    with pytest.raises(MediaError) as caught:
        probe(str(tmp_path / "a.-0001.png"))
    assert caught.value.code == "media-negative"
    assert numbers_in(tmp_path / "b-0001.png") == [0, 1]


def test_a_single_image_is_a_clip_of_one_frame(tmp_path):
    make_images(tmp_path, "still%s.png", "png", "rgb24", [""])
    assert probe(str(tmp_path / "still.png")).frame_count == 1
    pass_through(tmp_path / "still.png", tmp_path / "steady.png")
    assert (tmp_path / "steady.png").exists()


def test_a_range_writes_the_files_of_that_range(tmp_path):
    make_images(tmp_path, "in.%04d.dpx", "dpx", "gbrp10le", range(100, 110))
    (tmp_path / "out").mkdir()
    pass_through(tmp_path / "in.0100.dpx", tmp_path / "out" / "steady.dpx", FrameRange(3, 4), chunk=3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"steady.{n:04d}.dpx" for n in range(103, 107)]


def test_a_movie_becomes_a_sequence_numbered_as_named(tmp_path):
    source = make_clip(tmp_path / "in.mov", count=5, sounds=[{}])
    pass_through(source, tmp_path / "hashes.###.png")
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [f"hashes.{n:03d}.png" for n in range(5)]
    notes = pass_through(source, tmp_path / "frame_0001.tif")
    assert any("Sound" in note for note in notes)
    assert sorted(p.name for p in tmp_path.glob("*.tif")) == [f"frame_{n:04d}.tif" for n in range(1, 6)]
    assert numbers_in(tmp_path / "frame_0001.tif") == list(range(5))


def test_a_sequence_becomes_a_movie(tmp_path):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", range(6))
    pass_through(tmp_path / "in.0000.png", tmp_path / "out.mp4", settings=OutputSettings(codec="h264"))
    after = probe(str(tmp_path / "out.mp4"))
    assert (after.codec, after.pixel_format, after.clip.rate, after.colour.matrix) == ("h264", "yuv420p", 24, 1)
    with open_source(str(tmp_path / "in.0000.png")) as a, open_source(str(tmp_path / "out.mp4")) as b:
        x, y = (next(s.frames(FrameRange(2, 1))).to_rgb() for s in (a, b))
    assert np.abs(x - y)[40:].mean() < 0.01


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(25, 2)])
def test_images_that_tell_no_rate_become_a_movie_of_the_stated_one(tmp_path, rate):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", range(9))
    pass_through(tmp_path / "in.0000.png", tmp_path / "out.mp4", settings=OutputSettings(codec="h264"), sequence_rate=rate)
    with av.open(str(tmp_path / "out.mp4")) as movie:
        stream = movie.streams.video[0]
        times_s = [frame.pts * stream.time_base for frame in movie.decode(stream)]
    assert times_s == [index / rate for index in range(9)]
    assert numbers_in(tmp_path / "out.mp4") == list(range(9))
    assert probe(str(tmp_path / "out.mp4")).clip.rate == rate


@pytest.mark.parametrize(("encoder", "pixel_format"), [("exr", "gbrpf32le"), ("dpx", "gbrp10le")])
def test_a_stated_rate_wins_over_the_images_headers_and_is_written_into_them(tmp_path, encoder, pixel_format):
    header = ImageHeader("10:00:00:24", Fraction(24), "A007")
    make_images(tmp_path, f"in.%04d.{encoder}", encoder, pixel_format, range(3), header=header)
    source = str(tmp_path / f"in.0000.{encoder}")
    assert (probe(source).clip.rate, probe(source).start_timecode) == (24, None), "there is no frame 24 at 24"
    stated = probe(source, Fraction(25))
    assert (stated.clip.rate, stated.start_timecode, stated.time_s(2)) == (25, "10:00:00:24", Fraction(2, 25))
    pass_through(source, tmp_path / f"out.{encoder}", sequence_rate=Fraction(25))
    last = read_header((tmp_path / f"out.0002.{encoder}").read_bytes())
    assert (last.rate, last.timecode) == (25, "10:00:01:01")


def test_an_exr_that_rounds_its_rate_means_the_exact_one(tmp_path):
    make_images(tmp_path, "in.%04d.exr", "exr", "gbrpf32le", range(2), header=ImageHeader(rate=Fraction(2997, 125)))
    assert probe(str(tmp_path / "in.0000.exr")).clip.rate == Fraction(24000, 1001)


def test_the_times_of_a_movie_stand_whatever_rate_is_stated(tmp_path):
    source = str(make_clip(tmp_path / "in.mov", count=5))
    found, stated = probe(source), probe(source, Fraction(7))
    assert stated.clip == found.clip and stated.time_s(4) == found.time_s(4)


@pytest.mark.parametrize(("encoder", "pixel_format"), [("exr", "gbrpf32le"), ("dpx", "gbrp10le")])
def test_timecode_rate_reel_and_aspect_live_in_every_image(tmp_path, encoder, pixel_format):
    header = ImageHeader("10:20:59;28", Fraction(30000, 1001), "A007")
    for index in range(4):
        timecode = ["10:20:59;28", "10:20:59;29", "10:21:00;02", "10:21:00;03"][index]
        make_images(
            tmp_path,
            f"in.%04d.{encoder}",
            encoder,
            pixel_format,
            [index],
            aspect=Fraction(2),
            header=ImageHeader(timecode, header.rate, header.reel_name),
        )
    before = probe(str(tmp_path / f"in.0000.{encoder}"))
    assert (before.start_timecode, before.clip.rate, before.pixel_aspect) == ("10:20:59;28", Fraction(30000, 1001), 2)
    pass_through(tmp_path / f"in.0000.{encoder}", tmp_path / f"out.{encoder}")
    after = probe(str(tmp_path / f"out.0000.{encoder}"))
    assert (after.start_timecode, after.clip.rate, after.pixel_aspect) == ("10:20:59;28", Fraction(30000, 1001), 2)
    third = read_header((tmp_path / f"out.0002.{encoder}").read_bytes())
    assert third.timecode == "10:21:00;02"
    assert third.reel_name == ("A007" if encoder == "exr" else None)


def test_an_exr_with_a_new_header_still_says_where_its_rows_are(tmp_path):
    """FFmpeg looks for lost rows by itself; other readers believe the table."""
    make_images(
        tmp_path, "a%d.exr", "exr", "gbrpf32le", [1], {"compression": "zip16"}, header=ImageHeader("01:02:03:04", Fraction(24), "R")
    )
    data = (tmp_path / "a1.exr").read_bytes()
    place = next(at for at in range(data.index(b"timeCode"), len(data)) if _is_table(data, at, 4))
    rows = [int.from_bytes(data[chunk : chunk + 4], "little") for chunk in _table(data, place, 4)]
    assert rows == [0, 16, 32, 48]


def _table(data, at, count):
    return [int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little") for i in range(count)]


def _is_table(data, at, count):
    """Four places in ascending order, the first right behind the table."""
    places = _table(data, at, count)
    return places[0] == at + 8 * count and places == sorted(places) and places[-1] + 8 < len(data)


def test_a_gap_is_named_with_a_part_that_has_none(tmp_path):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", [1, 2, 3, 6, 7])
    with pytest.raises(MediaError) as caught:
        probe(str(tmp_path / "in.0002.png"))
    assert caught.value.code == "media-gap"
    assert "4, 5" in caught.value.message
    assert "in.[0001-0003].png" in caught.value.hint
    assert probe(str(tmp_path / "in.[0001-0003].png")).frame_count == 3


def test_a_folder_of_two_sequences_is_ambiguous(tmp_path):
    make_images(tmp_path, "a.%04d.png", "png", "rgb24", [1, 2])
    make_images(tmp_path, "b.%04d.png", "png", "rgb24", [1, 2])
    with pytest.raises(MediaError) as caught:
        probe(str(tmp_path))
    assert caught.value.code == "media-ambiguous"


def test_an_image_of_another_size_stops_the_reading(tmp_path):
    make_images(tmp_path, "a.%04d.png", "png", "rgb24", [1, 2])
    make_images(tmp_path, "a.%04d.png", "png", "rgb24", [3], size=(64, 64))
    with open_source(str(tmp_path / "a.0001.png")) as source, pytest.raises(MediaError) as caught:
        list(source.frames(FrameRange(0, 3)))
    assert caught.value.code == "media-changes"
    assert "a.0003.png" in caught.value.message


def test_a_broken_image_stops_the_reading(tmp_path):
    make_images(tmp_path, "a.%04d.png", "png", "rgb24", [1, 2, 3])
    (tmp_path / "a.0002.png").write_bytes((tmp_path / "a.0002.png").read_bytes()[:60])
    with open_source(str(tmp_path / "a.0001.png")) as source, pytest.raises(MediaError) as caught:
        list(source.frames(FrameRange(0, 3)))
    assert caught.value.code == "media-damaged"


def test_a_sequence_is_not_written_over_itself(tmp_path):
    make_images(tmp_path, "a.%04d.png", "png", "rgb24", [1, 2, 3])
    with pytest.raises(MediaError) as caught:
        pass_through(tmp_path / "a.0001.png", tmp_path / "a.%04d.png", overwrite=True)
    assert caught.value.code == "output-is-source"


def test_what_a_mac_leaves_in_a_folder_is_no_image(tmp_path):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", range(3))
    for name in ("._in.0000.png", "._in.0001.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"Mac OS X")
    assert probe(str(tmp_path)).sequence.numbers == (0, 2) and numbers_in(tmp_path) == [0, 1, 2]


def test_images_too_small_to_track_are_refused(tmp_path):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", range(2), size=(64, 8))
    with pytest.raises(MediaError) as caught:
        probe(str(tmp_path / "in.%04d.png"))
    assert caught.value.code == "media-too-small"


def test_an_image_that_is_gone_or_empty_by_now_is_named(tmp_path):
    make_images(tmp_path, "in.%04d.png", "png", "rgb24", range(4))
    with open_source(str(tmp_path / "in.%04d.png")) as source:
        (tmp_path / "in.0002.png").write_bytes(b"")
        with pytest.raises(MediaError, match=r"in\.0002\.png is empty") as caught:
            list(source.frames(FrameRange(0, 4)))
        assert caught.value.code == "media-empty"
        (tmp_path / "in.0002.png").unlink()
        with pytest.raises(MediaError, match=r"in\.0002\.png cannot be read") as caught:
            list(source.frames(FrameRange(0, 4)))
        assert caught.value.code == "media-missing"
