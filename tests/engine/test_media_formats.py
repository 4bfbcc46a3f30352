# SPDX-License-Identifier: Apache-2.0
"""What goes into a render comes out of it: codec, depth, size, rate, times, colour, aspect, rotation, timecode, HDR."""

from dataclasses import replace
from fractions import Fraction

import pytest
from media_clips import ffprobe, make_clip, numbers_in, pass_through

from vs3r_engine.media.codecs import IMAGE_CODECS, MXF_RATES
from vs3r_engine.media.decode import probe
from vs3r_engine.media.encode import resolve_encoding
from vs3r_engine.settings import DESCRIPTORS, OutputSettings
from vs3r_engine.timeline import FrameRange

NTSC_24, NTSC_30, NTSC_60 = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
SMALL, DNX, ODD = (96, 64), (256, 128), (853, 479)

# (container, encoder, pixel format, rate, size, encoder options) -> the codec and pixel format that must come back
KEPT = [
    ("mp4", "libx264", "yuv420p", NTSC_24, SMALL, {}, "h264", "yuv420p"),
    ("mp4", "libx264", "yuvj420p", Fraction(25), SMALL, {}, "h264", "yuvj420p"),
    ("mov", "libx264", "yuv422p10le", NTSC_30, SMALL, {}, "h264", "yuv422p10le"),
    ("mkv", "libx264", "yuv444p", NTSC_60, ODD, {}, "h264", "yuv444p"),
    ("mp4", "libx265", "yuv420p10le", NTSC_30, SMALL, {}, "hevc", "yuv420p10le"),
    ("mov", "libx265", "yuv420p", Fraction(50), SMALL, {}, "hevc", "yuv420p"),
    ("mkv", "libx265", "yuv420p12le", Fraction(24), SMALL, {}, "hevc", "yuv420p12le"),
    ("mov", "prores_ks", "yuv422p10le", Fraction(24), ODD, {"profile": "2"}, "prores", "yuv422p10le"),
    ("mov", "prores_ks", "yuv422p10le", NTSC_24, SMALL, {"profile": "3"}, "prores", "yuv422p10le"),
    ("mov", "prores_ks", "yuv422p10le", NTSC_60, SMALL, {"profile": "0"}, "prores", "yuv422p10le"),
    ("mov", "prores_aw", "yuva444p10le", Fraction(25), SMALL, {"profile": "4"}, "prores", "yuva444p12le"),
    ("mkv", "prores_aw", "yuv422p10le", NTSC_30, SMALL, {"profile": "1"}, "prores", "yuv422p10le"),
    ("mov", "dnxhd", "yuv422p", Fraction(24), DNX, {"profile": "dnxhr_sq"}, "dnxhd", "yuv422p"),
    ("mov", "dnxhd", "yuv422p10le", NTSC_30, DNX, {"profile": "dnxhr_hqx"}, "dnxhd", "yuv422p10le"),
    ("mxf", "dnxhd", "yuv422p10le", Fraction(25), DNX, {"profile": "dnxhr_hqx"}, "dnxhd", "yuv422p10le"),
    ("mov", "dnxhd", "yuv444p10le", Fraction(25), DNX, {"profile": "dnxhr_444"}, "dnxhd", "yuv444p10le"),
    ("mov", "dnxhd", "gbrp10le", Fraction(25), DNX, {"profile": "dnxhr_444"}, "dnxhd", "gbrp10le"),
    ("mkv", "ffv1", "yuv420p", Fraction(25), ODD, {}, "ffv1", "yuv420p"),
    ("mkv", "ffv1", "yuv444p16le", Fraction(25), SMALL, {}, "ffv1", "yuv444p16le"),
    ("mkv", "ffv1", "yuva420p", Fraction(25), SMALL, {}, "ffv1", "yuva420p"),
    ("mkv", "ffv1", "bgra", Fraction(25), SMALL, {}, "ffv1", "bgra"),
    ("mkv", "ffv1", "gbrp16le", NTSC_30, SMALL, {}, "ffv1", "gbrp16le"),
    ("mkv", "ffv1", "gray16le", Fraction(25), SMALL, {}, "ffv1", "gray16le"),
]


@pytest.mark.parametrize(
    ("container", "encoder", "pixel_format", "rate", "size", "options", "codec", "comes_back"),
    KEPT,
    ids=[f"{c}-{e}-{p}-{float(r):.2f}" for c, e, p, r, *_ in KEPT],
)
def test_codec_depth_size_rate_and_every_time_survive(tmp_path, container, encoder, pixel_format, rate, size, options, codec, comes_back):
    source = make_clip(tmp_path / f"in.{container}", encoder, pixel_format, rate, size=size, options=options)
    output = tmp_path / f"out.{container}"
    pass_through(source, output)
    before, after = probe(str(source)), probe(str(output))
    assert (after.codec, after.pixel_format) == (codec, comes_back)
    assert before.clip.rate == after.clip.rate == rate
    assert not after.is_variable_rate
    assert (after.clip.width, after.clip.height) == size
    assert after.layout == before.layout
    if container != "mkv":  # FFmpeg does not keep ProRes's profile there
        assert after.profile == before.profile
    assert [after.time_s(i) for i in range(11)] == [before.time_s(i) for i in range(11)]
    assert numbers_in(output) == list(range(10))
    if (seen := ffprobe(output)) is not None:
        video = next(s for s in seen["streams"] if s["codec_type"] == "video")
        assert (video["codec_name"], video["width"], video["height"]) == (codec, *size)
        assert int(video["nb_read_packets"]) == 10
        assert abs(float(seen["format"]["duration"]) - 10 / rate) < (0.0011 if container != "mkv" else 0.002)


# Sources that are read but not written: where they go with codec "auto"
REWRITTEN = [
    ("mov", "uyvy422", "rawvideo", {}, "mov", "h264", "yuv422p"),
    ("mov", "yuv422p10le", "v210", {}, "mov", "prores", "yuv422p10le"),
    ("avi", "yuv420p", "mpeg4", {"bf": "2", "g": "5"}, "mp4", "h264", "yuv420p"),
    ("avi", "yuvj422p", "mjpeg", {}, "mov", "h264", "yuvj422p"),
    ("webm", "yuv420p", "libvpx-vp9", {"deadline": "realtime"}, "mkv", "h264", "yuv420p"),
    ("mpg", "yuv420p", "mpeg2video", {"bf": "2"}, "mp4", "h264", "yuv420p"),
    ("ts", "yuv420p", "libx264", {}, "mp4", "h264", "yuv420p"),
    ("mov", "rgb24", "qtrle", {}, "mov", "h264", "yuv420p"),
    ("mov", "rgba", "png", {}, "mov", "prores", "yuva444p12le"),
    ("mov", "gbrp10le", "dnxhd", {"profile": "dnxhr_444"}, "mp4", "hevc", "yuv420p10le"),
]


@pytest.mark.parametrize(
    ("container", "pixel_format", "encoder", "options", "out_container", "codec", "comes_back"),
    REWRITTEN,
    ids=[f"{e}-{p}-to-{o}" for _, p, e, _, o, *_ in REWRITTEN],
)
def test_codecs_that_are_only_read_become_the_nearest_that_keeps_the_depth_and_say_so(
    tmp_path, container, pixel_format, encoder, options, out_container, codec, comes_back
):
    source = make_clip(tmp_path / f"in.{container}", encoder, pixel_format, size=DNX, options=options)
    output = tmp_path / f"out.{out_container}"
    notes = pass_through(source, output)
    after = probe(str(output))
    assert (after.codec, after.pixel_format) == (codec, comes_back)
    assert numbers_in(output) == list(range(10))
    assert bool(notes) == (encoder != "libx264")


CHOSEN = [
    ("h264", "mp4", "h264", None),
    ("h265", "mov", "hevc", None),
    ("prores", "mov", "prores", "Standard"),
    ("prores-hq", "mov", "prores", "HQ"),
    ("prores-4444", "mov", "prores", "4444"),
    ("dnxhr", "mov", "dnxhd", "DNXHR HQ"),
    ("dnxhr", "mxf", "dnxhd", "DNXHR HQ"),
    ("ffv1", "mkv", "ffv1", None),
]


def test_no_codec_is_left_out_here():
    offered = next(d.choices for d in DESCRIPTORS if d.key == "output.codec")
    assert {"auto", *IMAGE_CODECS.values(), *(codec for codec, *_ in CHOSEN)} == set(offered)


@pytest.mark.parametrize(("codec", "container", "name", "profile"), CHOSEN)
def test_every_codec_can_be_asked_for(tmp_path, codec, container, name, profile):
    source = make_clip(tmp_path / "in.mp4", size=DNX, colour=(1, 1, 1, 1), count=5)
    output = tmp_path / f"out.{container}"
    pass_through(source, output, settings=OutputSettings(codec=codec))
    after = probe(str(output))
    assert after.codec == name
    assert profile is None or after.profile == profile
    assert numbers_in(output) == list(range(5))
    if container != "mxf":
        assert after.colour == probe(str(source)).colour


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("rotation_deg", [90, 180, -90])
def test_rotation_aspect_colour_and_timecode_survive(tmp_path, container, rotation_deg):
    source = make_clip(
        tmp_path / "in.mov",
        "libx264",
        "yuv420p10le",
        NTSC_30,
        size=(64, 96),
        rotation_deg=rotation_deg,
        pixel_aspect=Fraction(4, 3),
        colour=(9, 16, 9, 1),
        metadata={"timecode": "01:00:59;20", "reel_name": "A001C002"},
    )
    output = tmp_path / f"out.{container}"
    pass_through(source, output)
    before, after = probe(str(source)), probe(str(output))
    assert after.rotation_deg == before.rotation_deg
    assert abs(after.rotation_deg) == abs(rotation_deg)
    assert after.display_matrix == before.display_matrix
    assert (after.clip.width, after.clip.height) == (64, 96)  # the stored picture: players turn it
    assert after.pixel_aspect == Fraction(4, 3)
    assert after.colour == before.colour
    assert (after.colour.primaries, after.colour.transfer, after.colour.matrix, after.colour.full_range) == (9, 16, 9, False)
    assert after.start_timecode == "01:00:59;20"
    if container != "mp4":  # which has no place for it
        assert after.reel_name == "A001C002"
    if (seen := ffprobe(output)) is not None:
        video = seen["streams"][0]
        assert (video["color_primaries"], video["color_transfer"], video["color_space"], video["color_range"]) == (
            "bt2020",
            "smpte2084",
            "bt2020nc",
            "tv",
        )
        assert video["sample_aspect_ratio"] == "4:3"
        assert abs(next(d["rotation"] for d in video["side_data_list"] if "rotation" in d)) == abs(rotation_deg)


def test_a_range_starts_at_its_own_timecode_across_a_dropped_minute(tmp_path):
    source = make_clip(tmp_path / "in.mov", rate=NTSC_30, count=20, metadata={"timecode": "01:00:59;20"})
    pass_through(source, tmp_path / "out.mov", FrameRange(12, 5))
    after = probe(str(tmp_path / "out.mov"))
    assert after.start_timecode == "01:01:00;04"  # ;00 and ;01 do not exist
    assert numbers_in(tmp_path / "out.mov") == [12, 13, 14, 15, 16]
    assert after.time_s(0) == 0
    assert after.time_s(5) == 5 / NTSC_30


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("container", "codec"), [("mp4", "h264"), ("mp4", "h265"), ("mkv", "ffv1"), ("mov", "prores")])
def test_clips_of_one_to_three_frames_survive(tmp_path, count, container, codec):
    source = make_clip(tmp_path / "in.mp4", count=count)
    output = tmp_path / f"out.{container}"
    pass_through(source, output, chunk=2, settings=OutputSettings(codec=codec))
    assert numbers_in(output) == list(range(count))
    after = probe(str(output))
    assert after.clip.available_range == FrameRange(0, count)
    assert after.clip.rate == 25


MASTERING = "hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"


@pytest.mark.parametrize(("container", "codec"), [("mp4", "auto"), ("mkv", "auto"), ("mov", "prores-hq"), ("mov", "h264")])
def test_hdr_mastering_metadata_survives(tmp_path, container, codec):
    source = make_clip(tmp_path / "in.mp4", "libx265", "yuv420p10le", colour=(9, 16, 9, 1), options={"x265-params": MASTERING}, count=4)
    output = tmp_path / f"out.{container}"
    assert pass_through(source, output, settings=OutputSettings(codec=codec)) == []
    before, after = probe(str(source)), probe(str(output))
    assert before.content_light is not None and before.content_light.max_content == 1000
    assert before.mastering_display is not None
    assert before.mastering_display.primaries_rgb[0] == (Fraction(17, 25), Fraction(8, 25))
    assert after.mastering_display == before.mastering_display
    assert after.content_light == before.content_light
    if container == "mov" and (seen := ffprobe(output)) is not None:
        kinds = {data["side_data_type"] for data in seen["streams"][0]["side_data_list"]}
        assert {"Mastering display metadata", "Content light level metadata"} <= kinds


def test_equal_frames_give_equal_files(tmp_path):
    source = make_clip(tmp_path / "in.mp4", sounds=[{}])
    for codec, container in (("h264", "mp4"), ("h265", "mov"), ("prores", "mov"), ("ffv1", "mkv")):
        outputs = [tmp_path / f"{name}.{container}" for name in "ab"]
        for output in outputs:
            pass_through(source, output, settings=OutputSettings(codec=codec), overwrite=True)
        assert ffprobe_free_bytes(outputs[0]) == ffprobe_free_bytes(outputs[1]), codec


def test_pictures_are_not_cut_into_slices(tmp_path):
    source = make_clip(tmp_path / "in.mp4", size=(256, 144))
    pass_through(source, tmp_path / "out.mp4", settings=OutputSettings(codec="h264"))
    assert b"sliced_threads=0" in (tmp_path / "out.mp4").read_bytes(), "what x264 wrote down of its settings"


def ffprobe_free_bytes(path):
    """The file but for Matroska's random identifiers: its decoded packets' bytes."""
    import av

    with av.open(str(path)) as container:
        return [(packet.stream_index, packet.pts, bytes(packet)) for packet in container.demux() if packet.size]


@pytest.mark.parametrize(
    ("size", "speed", "looks_less_far"),
    [((1920, 1080), "veryfast", False), ((3840, 2160), "veryfast", True), ((3840, 2160), "ultrafast", False)],
)
def test_x265_looks_less_far_ahead_where_pictures_are_large(tmp_path, size, speed, looks_less_far):
    info = probe(str(make_clip(tmp_path / "in.mov", count=1)))
    info = replace(info, clip=replace(info.clip, width=size[0], height=size[1]))
    encoding = resolve_encoding(info, str(tmp_path / "out.mov"), OutputSettings(codec="h265", speed=speed))
    assert ("rc-lookahead=10" in encoding.options["x265-params"]) == looks_less_far


@pytest.mark.parametrize("range_tag", [0, 1, 2])
def test_an_unstated_range_stays_unstated(tmp_path, range_tag):
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuv420p", colour=(2, 2, 2, range_tag), count=3)
    pass_through(source, tmp_path / "out.mkv")
    before, after = probe(str(source)), probe(str(tmp_path / "out.mkv"))
    assert before.range_is_tagged == after.range_is_tagged == (range_tag != 0)
    assert before.colour.full_range == after.colour.full_range == (range_tag == 2)


@pytest.mark.parametrize(
    ("pixel_format", "output", "settings", "code"),
    [
        ("yuv422p16le", "out.mov", OutputSettings(codec="prores"), "output-depth"),
        ("gbrp12le", "out.mp4", OutputSettings(codec="h264"), "output-depth"),
        ("yuva444p16le", "out.mp4", OutputSettings(codec="h265"), "output-depth"),
        ("yuva420p", "out.mp4", OutputSettings(codec="h264"), "output-alpha"),
        ("yuv420p", "out.mp4", OutputSettings(codec="prores"), "output-codec"),
        ("yuv420p", "out.mp4", OutputSettings(codec="exr"), "output-codec"),
        ("yuv420p", "out.png", OutputSettings(codec="h264"), "output-codec"),
        ("yuv420p", "out.mov", OutputSettings(codec="dnxhr"), "output-codec"),  # smaller than DNxHR can be
        ("yuv420p", "out.avi", OutputSettings(), "output-suffix"),
        ("yuv420p", "out", OutputSettings(), "output-suffix"),
    ],
)
def test_what_an_output_cannot_hold_is_refused_before_rendering(tmp_path, pixel_format, output, settings, code):
    from vs3r_engine.errors import MediaError

    source = make_clip(tmp_path / "in.mkv", "ffv1", pixel_format, count=2)
    with pytest.raises(MediaError) as caught:
        resolve_encoding(probe(str(source)), str(tmp_path / output), settings)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_width_whose_last_chroma_prores_loses_is_written_otherwise(tmp_path):
    source = make_clip(tmp_path / "in.mkv", "ffv1", "yuv422p10le", size=(321, 180), count=2)
    notes = pass_through(source, tmp_path / "out.mov")
    assert probe(str(tmp_path / "out.mov")).codec == "hevc"
    assert "prores-hq cannot hold 321x180" in notes[0]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv440p", "yuv422p"])
def test_tiffs_of_odd_sizes_can_be_read(tmp_path, pixel_format):
    source = make_clip(tmp_path / "in.mkv", "ffv1", pixel_format, size=(97, 65), count=3)
    pass_through(source, tmp_path / "out.0000.tiff")
    assert numbers_in(tmp_path / "out.0000.tiff") == [0, 1, 2]


@pytest.mark.parametrize("times_ms", [[100 * i for i in range(8)], [0, 40, 80, 200, 240, 400, 440, 480]])
def test_a_rate_that_mxf_does_not_hold_is_refused_before_rendering(tmp_path, times_ms):
    from vs3r_engine.errors import MediaError

    source = make_clip(tmp_path / "in.mkv", count=8, size=(256, 128), times_ms=times_ms)
    with pytest.raises(MediaError) as caught:
        resolve_encoding(probe(str(source)), str(tmp_path / "out.mxf"), OutputSettings())
    assert caught.value.code == "output-rate"
    assert ".mov" in caught.value.hint


@pytest.mark.parametrize("rate", MXF_RATES)
def test_every_rate_that_mxf_is_said_to_hold_comes_back(tmp_path, rate):
    source = make_clip(tmp_path / "in.mov", count=3, size=(256, 128), rate=Fraction(rate))
    pass_through(source, tmp_path / "out.mxf", settings=OutputSettings(codec="prores"))
    assert (probe(str(tmp_path / "out.mxf")).clip.rate, probe(str(tmp_path / "out.mxf")).frame_count) == (rate, 3)
