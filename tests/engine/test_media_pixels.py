# SPDX-License-Identifier: Apache-2.0
"""Planes are the decoder's code values, whatever FFmpeg calls their format."""

import av
import numpy as np
import pytest
from media_clips import numbered_planes

from vs3r_engine.errors import EngineFault, MediaError
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.media.codecs import Encoding
from vs3r_engine.media.pixel_formats import frame_format, name_of_layout, picture_of, planar_format, planes_of
from vs3r_engine.media.segments import encodable

PLANAR = [
    "yuv420p",
    "yuvj422p",
    "yuv444p",
    "yuv440p",
    "yuva420p",
    "yuv420p9le",
    "yuv422p10le",
    "yuv444p12le",
    "yuv420p14le",
    "yuv444p16le",
    "yuva444p10le",
    "gray",
    "gray10le",
    "gray16le",
    "grayf32le",
    "gbrp",
    "gbrap",
    "gbrp10le",
    "gbrp12le",
    "gbrp14le",
    "gbrap16le",
    "gbrpf32le",
    "gbrapf32le",
]


@pytest.mark.parametrize("name", PLANAR)
@pytest.mark.parametrize("size", [(64, 48), (53, 47)])
def test_planar_pictures_go_in_and_out_unchanged(name, size):
    format = planar_format(name)
    planes = numbered_planes(21, *size, name)
    back = planes_of(picture_of(planes, format))
    assert len(back) == format.layout.plane_count
    for index, (before, after) in enumerate(zip(planes, back, strict=True)):
        assert after.shape == format.layout.plane_shape(index, *size)
        assert after.dtype == format.layout.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("packed", "planar"),
    [
        ("nv12", "yuv420p"),
        ("nv21", "yuv420p"),
        ("nv16", "yuv422p"),
        ("nv24", "yuv444p"),
        ("p010le", "yuv420p10le"),
        ("p016le", "yuv420p16le"),
        ("p210le", "yuv422p10le"),
        ("p410le", "yuv444p10le"),
        ("yuyv422", "yuv422p"),
        ("uyvy422", "yuv422p"),
        ("y210le", "yuv422p10le"),
        ("rgb24", "gbrp"),
        ("bgr24", "gbrp"),
        ("bgr0", "gbrp"),
        ("rgba", "gbrap"),
        ("bgra", "gbrap"),
        ("argb", "gbrap"),
        ("rgb48le", "gbrp16le"),
        ("rgb48be", "gbrp16le"),
        ("bgr48le", "gbrp16le"),
        ("rgba64be", "gbrap16le"),
        ("x2rgb10le", "gbrp10le"),
        ("gray16be", "gray16le"),
        ("gbrp10be", "gbrp10le"),
        ("yuv422p10be", "yuv422p10le"),
        ("gbrpf32be", "gbrpf32le"),
        ("monob", "gray"),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_packed_pictures_keep_every_code_value(packed, planar, full_range):
    assert frame_format(packed).name == planar
    planes = numbered_planes(42, 64, 48, planar)
    if packed == "monob":
        planes = (np.where(planes[0] > 128, 255, 0).astype(np.uint8),)
    picture = picture_of(planes, planar_format(planar)).reformat(format=packed)
    picture.color_range = 2 if full_range else 1
    for before, after in zip(planes, planes_of(picture), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("packed", ["p010le", "p016le", "nv12"])
def test_interleaved_chroma_of_odd_sizes_is_split_by_hand(packed):
    picture = av.VideoFrame(53, 47, packed)
    for number, plane in enumerate(picture.planes):
        np.frombuffer(plane, np.uint8)[:] = 64 + number
    luma, u, v = planes_of(picture)
    assert luma.shape == (47, 53)
    assert u.shape == v.shape == (24, 27)
    assert len(np.unique(u)) == len(np.unique(v)) == 1


def test_half_floats_come_out_as_floats():
    picture = av.VideoFrame(32, 16, "gbrpf16le")
    for plane, value in zip(picture.planes, (0.25, 0.5, 65504.0), strict=True):  # stored as G, B, R
        np.frombuffer(plane, np.float16)[:] = value
    red, green, blue = planes_of(picture)
    assert red.dtype == np.float32
    assert (red[0, 0], green[0, 0], blue[0, 0]) == (65504.0, 0.25, 0.5)


def test_planes_are_views_of_the_decoded_picture():
    picture = picture_of(numbered_planes(1, 64, 48, "yuv420p"), planar_format("yuv420p"))
    plane = planes_of(picture)[0]
    np.frombuffer(picture.planes[0], np.uint8)[0] = 77
    assert plane[0, 0] == 77


def test_every_layout_has_a_name_that_means_it():
    for name in PLANAR:
        layout = planar_format(name).layout
        assert planar_format(name_of_layout(layout)).layout == layout
    with pytest.raises(EngineFault):
        name_of_layout(PixelLayout("yuv", 8, 2, 2))


def test_formats_that_nothing_here_can_hold_are_refused():
    with pytest.raises(MediaError) as caught:
        frame_format("bayer_rggb8")
    assert caught.value.code == "media-pixel-format"


def test_planes_of_another_shape_or_depth_are_a_fault():
    planes = numbered_planes(1, 64, 48, "yuv420p")
    with pytest.raises(EngineFault):
        picture_of((planes[0], planes[1][:-1], planes[2]), planar_format("yuv420p"))
    with pytest.raises(EngineFault):
        picture_of(tuple(plane.astype(np.uint16) for plane in planes), planar_format("yuv420p"))


def test_trackers_see_the_same_picture_at_every_depth_it_is_handed_over_in():
    codes = np.random.default_rng(7).integers(0, 256, (3, 40, 50))
    seen = []
    for depth in (8, 16, 32):
        layout = PixelLayout("rgb", depth)
        planes = tuple((plane / 255 * layout.peak).astype(layout.dtype) for plane in codes)
        seen.append(Frame(0, planes, layout, ColourTags(matrix=0, full_range=True)).luma8())
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


CONVERSIONS = [
    ("yuv420p", "gbrp"),
    ("yuv420p10le", "gbrp10le"),
    ("yuv422p10le", "gbrpf32le"),
    ("yuv444p12le", "gbrp16le"),
    ("yuva444p10le", "gbrap16le"),
    ("gbrp", "gbrp10le"),
    ("gbrp", "gbrpf32le"),
    ("gbrp12le", "gbrp16le"),
    ("gbrap16le", "gbrapf32le"),
    ("gbrp10le", "yuv444p10le"),
    ("gbrp12le", "yuv444p12le"),
    ("gray10le", "yuv422p10le"),
    ("gray16le", "grayf32le"),
    ("yuv444p12le", "yuv444p10le"),
    ("yuv420p", "yuv422p10le"),
    ("yuva420p", "yuva444p10le"),
    ("yuv420p10le", "yuv444p10le"),
]


@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
@pytest.mark.parametrize("full_range", [False, True])
def test_a_picture_in_another_layout_has_the_same_colours(source, target, full_range):
    before, after = planar_format(source), planar_format(target)
    y, x = np.mgrid[0:96, 0:256]
    rgb = np.dstack([0.03 + 0.94 * x / 255, 0.2 + 0.6 * y / 95, 0.5 + 0.3 * np.sin(x / 90 + y / 50)]).astype(np.float32)
    rgb[..., 1:] = rgb[..., :1] if before.layout.model == "gray" else rgb[..., 1:] * (1 - rgb[..., :1]) + rgb[..., :1] ** 2
    colour = ColourTags(1, 1, 1 if before.layout.model == "yuv" else 0, full_range or before.layout.model != "yuv")
    written = ColourTags(1, 1, 1, colour.full_range if before.layout.model == after.layout.model else after.layout.model != "yuv")
    blank = tuple(np.zeros(before.layout.plane_shape(i, 256, 96), before.layout.dtype) for i in range(before.layout.plane_count))
    frame = Frame(0, blank, before.layout, colour).with_rgb(rgb)
    if before.layout.has_alpha:
        alpha = np.rint(x / 255 * before.layout.peak).astype(before.layout.dtype)
        frame = Frame(0, (*frame.planes[:-1], alpha), before.layout, colour)
    planes = planes_of(encodable(frame, Encoding("x", "x", "mov", after, target, written)))
    wrong = Frame(0, planes, after.layout, written).to_rgb() - frame.to_rgb()
    step = 1 / min(layout.peak for layout in (before.layout, after.layout))
    resampled = before.layout.model == after.layout.model and before.layout.chroma_shift_x != after.layout.chroma_shift_x
    assert np.abs(wrong).max() < (0.012 if resampled else 2.1 * step)
    assert np.abs(wrong.mean(axis=(0, 1))).max() < (0.0015 if resampled else step / 10)
    if before.layout.has_alpha:
        kept = planes[-1].astype(np.float64) / after.layout.peak - frame.planes[-1] / before.layout.peak
        assert np.abs(kept).max() <= 0.5 * step + 1e-6


def test_what_is_brighter_than_white_stays_so_in_floats():
    white = Frame(0, (np.full((32, 32), 1019, np.uint16), *[np.full((16, 16), 512, np.uint16)] * 2), PixelLayout("yuv", 10, 1, 1))
    format = planar_format("gbrpf32le")
    planes = planes_of(encodable(white, Encoding("exr", "exr", "sequence", format, format.name, ColourTags(matrix=0, full_range=True))))
    np.testing.assert_allclose(planes, 955 / 876, atol=1e-4)


@pytest.mark.parametrize(("height", "matrix"), [(480, 5), (719, 5), (720, 1)])
@pytest.mark.parametrize("target", ["gbrp16le", "gbrp"])
def test_an_untagged_picture_has_the_colours_that_its_size_says(height, matrix, target):
    codes = [np.full((height, 16), code, np.uint8) for code in (120, 90, 200)]
    format = planar_format(target)
    untagged, tagged = (
        encodable(
            Frame(0, tuple(codes), PixelLayout("yuv", 8), ColourTags(matrix=number)),
            Encoding("x", "x", "mov", format, target, ColourTags(matrix=0, full_range=True)),
        )
        for number in (2, matrix)
    )
    np.testing.assert_array_equal(planes_of(untagged), planes_of(tagged))


@pytest.mark.parametrize(("height", "matrix"), [(480, 5), (720, 1)])
@pytest.mark.parametrize(("source", "target"), [("gbrp", "yuv444p"), ("gbrp10le", "yuv444p10le")])
def test_rgb_becomes_yuv_by_the_matrix_that_its_size_says_where_none_is_wanted(height, matrix, source, target):
    layout, format = planar_format(source).layout, planar_format(target)
    frame = Frame(
        0, tuple(np.full((height, 16), code, layout.dtype) for code in (200, 90, 30)), layout, ColourTags(matrix=0, full_range=True)
    )
    wanted = (Encoding("x", "x", "mov", format, target, ColourTags(matrix=number)) for number in (2, matrix))
    untagged, tagged = (planes_of(encodable(frame, encoding)) for encoding in wanted)
    np.testing.assert_array_equal(untagged, tagged)
