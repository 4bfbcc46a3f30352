# SPDX-License-Identifier: Apache-2.0
"""Bars and dark edge lines are told from picture, and bars stay where they are."""

from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine import pipeline
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.media.decode import open_source
from vs3r_engine.methods.choice import choose_methods
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.settings import Settings
from vs3r_engine.stages.bounds import BoundsObserver, blackened, look_every_frames, with_bars


@pytest.fixture(scope="module")
def frames():
    return make_clip("regular", frames=3, width=192, height=108, seed=2).frames


def darkened(frame: Frame, left: int, top: int, right: int, bottom: int, level: int) -> Frame:
    luma = frame.planes[0].copy()
    height, width = luma.shape
    luma[:top], luma[height - bottom :], luma[:, :left], luma[:, width - right :] = level, level, level, level
    return replace(frame, planes=(luma, *frame.planes[1:]))


def looked(frames) -> BoundsObserver:
    observer = BoundsObserver()
    for frame in frames:
        observer.look(frame)
    return observer


def test_plain_footage_has_none(frames):
    bounds = looked(frames).bounds()
    assert not any(bounds.inset_px) and not any(bounds.bars_px)


def test_a_letterbox_is_found_to_the_line(frames):
    bounds = looked([darkened(frame, 0, 14, 0, 12, 16) for frame in frames]).bounds()
    assert bounds.bars_px == (0, 14, 0, 12) == bounds.inset_px


def test_a_pillarbox_with_coding_noise_is_found(frames):
    bounds = looked([darkened(frame, 20, 0, 22, 0, 19) for frame in frames]).bounds()
    assert bounds.bars_px == (20, 0, 22, 0)


def test_a_dark_edge_line_is_no_picture_and_no_bar(frames):
    bounds = looked([darkened(frame, 0, 1, 0, 2, 40) for frame in frames]).bounds()
    assert bounds.inset_px == (0, 1, 0, 2) and not any(bounds.bars_px)


def test_a_dark_wall_in_linear_light_is_no_bar():
    layout = PixelLayout("rgb", 32)
    planes = tuple(np.full((96, 128), 0.4, np.float32) for _ in range(3))
    for plane in planes:
        plane[:24] = 0.03  # as dark on a screen as 48 of 255
    assert not any(looked([Frame(0, planes, layout)]).bounds().bars_px)
    for plane in planes:
        plane[:24] = 0.0
    assert looked([Frame(0, planes, layout)]).bounds().bars_px == (0, 24, 0, 0)


@pytest.mark.parametrize("model", ["rgb", "yuv"])
def test_a_dark_part_of_a_full_range_picture_is_no_bar(model):
    planes = tuple(np.full((96, 128), 120, np.uint8) for _ in range(3))
    for plane in planes:
        plane[:24] = 20
    assert not any(looked([Frame(0, planes, PixelLayout(model, 8), ColourTags(1, 1, 1, True))]).bounds().bars_px)


def test_what_is_black_in_more_than_a_third_of_the_picture_or_has_a_lit_window_in_it_is_no_bar(frames):
    assert not any(looked([darkened(frame, 0, 40, 0, 0, 16) for frame in frames]).bounds().bars_px)
    night = darkened(frames[0], 0, 24, 0, 0, 18)
    night.planes[0][:24, 60:70] = 46
    assert not any(looked([night]).bounds().bars_px)


@pytest.mark.parametrize("order", [1, -1])
def test_one_dark_moment_makes_no_bar_and_no_edge(frames, order):
    wide = [darkened(frame, 0, 14, 0, 0, 16) for frame in frames]
    moments = [*wide, *wide, darkened(frames[0], 0, 30, 0, 0, 16), darkened(wide[0], 0, 0, 2, 0, 40)]
    observer = looked(moments[::order])
    nothing_over_it = np.zeros((54, 96), bool)
    assert observer.bounds() == observer.bounds(nothing_over_it)
    assert observer.bounds().bars_px == (0, 14, 0, 0) == observer.bounds().inset_px


def test_a_bar_is_one_under_a_logo_and_a_strip_from_end_to_end_is_none(frames):
    barred = [darkened(frame, 0, 14, 12, 0, 16) for frame in frames]
    mask = np.zeros((54, 96), bool)
    mask[2:6, 10:30] = mask[20:40, 91:95] = True
    for frame in barred:
        frame.planes[0][4:12, 20:60] = frame.planes[0][40:80, 182:190] = 235
    assert looked(barred).bounds(mask).bars_px == (0, 14, 12, 0) != looked(barred).bounds().bars_px
    for strip in (np.s_[46:], np.s_[:, :20]):
        mask = np.zeros((54, 96), bool)
        mask[strip] = True
        assert not any(looked(frames).bounds(mask).bars_px)


def test_a_star_in_a_night_sky_is_no_bar(frames):
    night = darkened(frames[0], 0, 30, 0, 0, 18)
    night.planes[0][5, 77] = 140
    assert looked([night]).bounds().bars_px == (0, 5, 0, 0)


def test_every_clip_is_looked_at_a_few_times_and_a_long_one_once_a_second():
    assert [look_every_frames(count) for count in (1, 7, 24, 300, 9000)] == [1, 1, 3, 30, 30]


def test_a_clip_that_is_black_throughout_is_all_picture(frames):
    black = replace(frames[0], planes=(np.full_like(frames[0].planes[0], 16), *frames[0].planes[1:]))
    assert not any(looked([black]).bounds().inset_px)
    noise = np.pad(np.full((88, 120), 8, np.uint8), 4)
    assert not any(looked([Frame(0, (noise,) * 3, PixelLayout("rgb", 8))]).bounds().inset_px)


@pytest.mark.parametrize(
    "layout", [PixelLayout("yuv", 8, 1, 1), PixelLayout("yuv", 10, 1, 0), PixelLayout("rgb", 16, has_alpha=True), PixelLayout("rgb", 32)]
)
def test_bars_are_black_in_every_layout_and_the_picture_is_untouched(layout):
    planes = tuple(np.full(layout.plane_shape(i, 64, 48), layout.peak / 2, layout.dtype) for i in range(layout.plane_count))
    frame = Frame(0, planes, layout, ColourTags(1, 1, 1))
    observer = looked([frame])
    barred = with_bars(frame, replace(observer.bounds(), bars_px=(4, 8, 6, 12), inset_px=(4, 8, 6, 12)))
    # Chroma is interpolated at the last lines.
    for bar in (np.s_[:6], np.s_[-10:], np.s_[:, :2], np.s_[:, -4:]):
        assert np.abs(barred.to_rgb()[bar]).max() < 1e-6
    for number, (plane, original) in enumerate(zip(barred.planes, planes, strict=True)):
        down, across = 48 // plane.shape[0], 64 // plane.shape[1]
        inside = np.s_[8 // down : -12 // down, 4 // across : -6 // across]
        if layout.has_alpha and number == len(planes) - 1:
            inside = np.s_[:]
        assert np.array_equal(plane[inside], original[inside])
    assert planes[0].min() > 0  # the given frame is not written to


@pytest.mark.parametrize("layout", [PixelLayout("yuv", 8, 1, 1, has_alpha=True), PixelLayout("yuv", 10, 2, 0), PixelLayout("rgb", 32)])
def test_what_is_blackened_is_black_in_every_plane_and_the_rest_untouched(layout):
    planes = tuple(np.full(layout.plane_shape(i, 49, 31), layout.peak / 2 + 7, layout.dtype) for i in range(layout.plane_count))
    frame = Frame(0, planes, layout, ColourTags(1, 1, 1))
    mask = np.zeros((31, 49), bool)
    assert blackened(frame, mask) is frame
    mask[:, 40:] = True
    black = blackened(frame, mask)
    assert np.abs(black.to_rgb()[:, 40:]).max() < 1e-6
    assert np.array_equal(black.to_rgb()[:, :36], frame.to_rgb()[:, :36]) and [plane.dtype for plane in black.planes] == [
        layout.dtype
    ] * len(planes)
    assert not layout.has_alpha or black.planes[-1] is planes[-1]


def test_a_letterboxed_clip_is_steady_between_its_bars(tmp_path):
    clip = make_clip("regular", frames=40, width=192, height=136, seed=3)
    for i, frame in enumerate(clip.frames):
        barred = darkened(frame, 0, 16, 0, 16, 16)
        for plane in barred.planes[1:]:
            plane[:8], plane[-8:] = 128, 128
        clip._frames[i] = barred
    path = clip.write(tmp_path / "wide.mkv", crf=6)
    job = pipeline.plan(str(path), str(tmp_path / "out.mkv"), Settings())
    analysis = list(pipeline.analyze(job, DiskStore(tmp_path / "cache")))[-1]
    steady = pipeline.smoothed_path(job, analysis)
    assert not np.allclose(steady.world_from_camera, analysis.trajectory.world_from_camera, atol=1e-3)
    methods = choose_methods(job.settings, job.clip.rate)
    shares: dict[int, float] = {}
    with open_source(str(path)) as source:
        for frame in pipeline.render_frames(job, analysis, steady, job.render_range, source, methods, shares):
            luma = frame.planes[0]
            assert (luma[:16] == 16).all() and (luma[-16:] == 16).all()
            assert (frame.planes[1][:8] == 128).all() and (frame.planes[2][-8:] == 128).all()
            # No black of a bar was drawn into the picture: its own first and last lines are as bright as those further in.
            for edge, inside in ((luma[16:20], luma[22:40]), (luma[-20:-16], luma[-40:-22])):
                assert edge.mean() > 0.8 * inside.mean() and edge.min() > 20
    # Bars are nothing that was missing: a quarter of every frame is theirs.
    assert 0 < max(shares.values()) < 0.2


@pytest.mark.parametrize("zoom", ["static", "dynamic"])
def test_crop_shows_nothing_unseen_between_the_bars(tmp_path, zoom):
    clip = make_clip("regular", frames=24, width=192, height=136, seed=3)
    for i, frame in enumerate(clip.frames):
        clip._frames[i] = darkened(frame, 0, 16, 0, 16, 16)
    path = clip.write(tmp_path / "wide.mkv", crf=6)
    job = pipeline.plan(
        str(path), "unused.mkv", Settings().with_values({"frame.framing": "crop", "frame.zoom": zoom, "frame.zoom_limit": 300})
    )
    analysis = list(pipeline.analyze(job, DiskStore(tmp_path / "cache")))[-1]
    methods, steady, shares = choose_methods(job.settings, job.clip.rate), pipeline.smoothed_path(job, analysis), {}
    with open_source(str(path)) as source:
        list(pipeline.render_frames(job, analysis, steady, job.render_range, source, methods, shares))
    assert max(shares.values()) < 0.001  # depth is judged as one plane
