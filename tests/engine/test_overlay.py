# SPDX-License-Identifier: Apache-2.0
"""What lies over the scene is told from it, is never taken for it, and stays where it is."""

from dataclasses import replace

import cv2
import numpy as np
import panorama
import pytest

from tests.synthetic import make_clip
from vs3r_engine import pipeline
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.media.decode import open_source
from vs3r_engine.methods.choice import choose_methods
from vs3r_engine.methods.dis import DisFlow
from vs3r_engine.methods.temporal import TemporalCompleter
from vs3r_engine.methods.warp import WarpRenderer
from vs3r_engine.scene import PictureBounds, Reconstruction, Target
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.settings import FillSettings, Settings
from vs3r_engine.stages.overlay import OverlayObserver, with_overlay, without_overlay


def found(clip, frames) -> np.ndarray | None:
    """What is seen over the clip, cut into two pieces as a reconstructor does."""
    observer, flow = OverlayObserver(), DisFlow()
    depth = np.stack([clip.truth(i)[0] for i in range(len(clip))])
    half = len(clip) // 2
    for piece in (slice(0, half), slice(half, len(clip))):
        path = clip.trajectory.sliced(piece.start, piece.stop)
        reconstruction = Reconstruction(path, depth[piece], np.ones_like(depth[piece]))
        observer.look(reconstruction, [flow.prepared(frame) for frame in frames[piece]])
    return observer.mask(PictureBounds(), clip.width)


def burnt_in(frame: Frame, text: str, x: int, y: int) -> tuple[Frame, np.ndarray]:
    """The frame with white text in it, and [h, w] bool, where that is."""
    ink = np.zeros(frame.planes[0].shape, np.uint8)
    cv2.putText(ink, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    luma = np.where(ink > 0, np.uint8(235), frame.planes[0])
    return replace(frame, planes=(luma, *frame.planes[1:])), ink > 0


@pytest.mark.parametrize("kind", ["regular", "crowd"])
def test_a_logo_is_found_and_plain_footage_has_none(kind):
    clip = make_clip(kind, frames=30, width=256, height=144, seed=4)
    assert found(clip, clip.frames) is None
    frames, inks = zip(*(burnt_in(frame, "VIEW 7", 150, 40) for frame in clip.frames), strict=True)
    mask = found(clip, list(frames))
    assert mask is not None
    rows, columns = np.nonzero(inks[0])
    around = np.zeros_like(mask)
    around[rows.min() - 12 : rows.max() + 12, columns.min() - 12 : columns.max() + 12] = True
    assert mask[inks[0]].mean() > 0.95 and not mask[~around].any()


def test_a_clock_that_counts_is_found():
    clip = make_clip("regular", frames=30, width=256, height=144, seed=4)
    frames, inks = zip(*(burnt_in(frame, f"00:{i:02d}", 30, 120) for i, frame in enumerate(clip.frames)), strict=True)
    mask = found(clip, list(frames))
    assert mask is not None and mask[np.any(inks, axis=0)].mean() > 0.9


@pytest.mark.parametrize(("levels", "is_overlay"), [(9, False), (60, True)])
def test_a_line_over_a_plain_road_is_an_overlay_where_it_can_hardly_be_seen_through(levels, is_overlay):
    clip = make_clip("regular", frames=40, width=256, height=144, seed=4)
    frames = []
    for frame in clip.frames:
        luma = np.rint(90 + 0.05 * (frame.planes[0].astype(np.float32) - 128)).astype(np.uint8)
        luma[100:102, 20:236:2] += np.uint8(levels)
        luma[100:101, 20:236] += np.uint8(levels // 2)
        frames.append(replace(frame, planes=(luma, *frame.planes[1:])))
    assert (found(clip, frames) is not None) == is_overlay


@pytest.mark.parametrize(("sway_px", "is_overlay"), [(0.0, True), (3.0, False)])
def test_a_bonnet_is_found_and_a_face_that_the_camera_is_held_before_is_not(sway_px, is_overlay):
    clip = make_clip("regular", frames=40, width=256, height=144, seed=4)
    face = (panorama.texture()[:80, :70, 0] * 255).astype(np.uint8)
    frames = []
    for i, frame in enumerate(clip.frames):
        luma = frame.planes[0].copy()
        x, y = sway_px * np.sin(i / 5), sway_px * np.cos(i / 7)
        place = np.float32([[1, 0, 90 + x], [0, 1, 40 + y]])
        shown = cv2.warpAffine(np.full_like(face, 255), place, (256, 144)) > 0
        luma[shown] = cv2.warpAffine(face, place, (256, 144))[shown]
        frames.append(replace(frame, planes=(luma, *frame.planes[1:])))
    mask = found(clip, frames)
    assert (mask is not None) == is_overlay
    if mask is not None:
        assert mask[50:110, 100:150].mean() > 0.75  # plain parts of it look the same wherever they are


def test_what_is_burnt_in_fills_nothing():
    views, targets, _ = panorama.shaken(24)
    mark = np.zeros((180, 320), bool)
    mark[12:40, 12:60] = mark[-40:-12, -60:-12] = True
    white = {}
    for i, view in views.items():
        luma = np.where(mark, np.uint8(255), view.frame.planes[0])
        white[i] = replace(view, frame=replace(view.frame, planes=(luma, *view.frame.planes[1:])), dynamic_mask=mark, overlay_mask=mark)
    taken = []
    for shown in (white, {i: replace(view, overlay_mask=None) for i, view in white.items()}):
        rendered = [WarpRenderer().render(targets[i], shown[i], ()) for i in sorted(shown)]
        filled = TemporalCompleter(FillSettings(), 30).complete(iter(rendered), panorama.Held(shown))
        taken.append(sum(int((frame.planes[0] > 235)[item.hole_mask].sum()) for frame, item in zip(filled, rendered, strict=True)))
    assert taken[0] == 0 < taken[1]


@pytest.mark.parametrize("layout", [PixelLayout("yuv", 10, 1, 1), PixelLayout("yuv", 8, 1, 0), PixelLayout("rgb", 32, has_alpha=True)])
def test_an_overlay_leaves_a_hole_where_it_moved_to_and_is_put_back_where_it_was(layout):
    at, elsewhere = panorama.camera(width=322, height=180), panorama.camera(2.0, width=322, height=180)
    mask = np.zeros((45, 80), bool)
    mask[10:20, 30:50] = True
    view = replace(panorama.view(panorama.seen(panorama.texture(), at, layout), at), overlay_mask=mask)
    target = Target(0, elsewhere, None)
    rendered = WarpRenderer().render(target, view, ())
    holes = without_overlay(rendered, view).hole_mask & ~rendered.hole_mask
    shift_px = 0.9 * 322 * np.tan(np.radians(2.0))
    rows, columns = np.nonzero(holes)
    assert abs(columns.mean() + 0.5 - (40 / 80 * 322 - shift_px)) < 1 and abs(rows.mean() + 0.5 - 15 / 45 * 180) < 1
    assert abs(holes.sum() / (80 * 40) - 1) < 0.06
    restored = with_overlay(rendered.frame, view)
    for new, old, source in zip(restored.planes, rendered.frame.planes, view.frame.planes, strict=True):
        scale = np.array(new.shape) / mask.shape
        inner = tuple(slice(round(a * s), round(b * s)) for (a, b), s in zip(((12, 18), (32, 48)), scale, strict=True))
        assert np.array_equal(new[inner], source[inner]) and new.dtype == old.dtype
        outer = np.ones(new.shape, bool)
        outer[tuple(slice(int(a * s), int(b * s) + 1) for (a, b), s in zip(((8, 22), (28, 52)), scale, strict=True))] = False
        assert np.array_equal(new[outer], old[outer])
    assert not np.array_equal(restored.planes[0], rendered.frame.planes[0])


def test_an_overlay_makes_no_hole_in_what_other_frames_have_filled():
    at, target = panorama.camera(), Target(0, panorama.camera(2.0), None)
    mask = np.zeros((45, 80), bool)
    mask[10:20, 20:60] = True
    view = replace(panorama.view(panorama.seen(panorama.texture(), at), at), overlay_mask=mask)
    rendered = WarpRenderer().render(target, view, ())
    own = rendered.current_mask & (np.arange(320) < 160)
    freed = without_overlay(replace(rendered, current_mask=own), view)
    holes = freed.hole_mask & ~rendered.hole_mask
    assert holes.sum() > 1000 and own[holes].all() and np.array_equal(freed.current_mask, own & ~holes)


@pytest.mark.parametrize("size", [(321, 180), (160, 90), (80, 45), (51, 31)])
def test_an_overlay_is_put_back_evenly_on_all_sides_and_hardly_larger_than_it_is(size):
    mask = np.zeros((45, 80), bool)
    mask[15:30, 30:50] = True
    layout, shape = PixelLayout("gray", 32), size[::-1]
    white, black = (Frame(0, (np.full(shape, value, np.float32),), layout) for value in (1, 0))
    view = replace(panorama.view(white, panorama.camera(width=size[0], height=size[1])), overlay_mask=mask)
    share = with_overlay(black, view).planes[0]
    np.testing.assert_allclose(share, share[::-1], atol=0.04)
    np.testing.assert_allclose(share, share[:, ::-1], atol=0.04)
    area = 15 * 20 * shape[0] * shape[1] / mask.size
    assert 0.93 < share.sum() / area < 1.07 and share.max() == 1


def test_a_frame_seen_from_its_own_camera_keeps_its_overlay_untouched():
    views, _, _ = panorama.shaken(1)
    view = replace(views[0], overlay_mask=np.ones((45, 80), bool))
    rendered = WarpRenderer().render(Target(0, view.camera, None), view, ())
    assert without_overlay(rendered, view) is rendered
    assert np.array_equal(with_overlay(rendered.frame, view).planes[0], view.frame.planes[0])


def test_a_logo_stays_where_it_is_or_moves_with_the_picture(tmp_path):
    clip = make_clip("regular", frames=30, width=256, height=144, seed=4)
    for i, frame in enumerate(clip.frames):
        clip._frames[i], ink = burnt_in(frame, "VIEW 7", 150, 40)
    path = clip.write(tmp_path / "logo.mkv", crf=6)
    missed = {}
    for choice in ("stay", "move"):
        job = pipeline.plan(str(path), str(tmp_path / "out.mkv"), Settings().with_values({"frame.overlay": choice}))
        analysis = list(pipeline.analyze(job, DiskStore(tmp_path / "cache")))[-1]
        assert analysis.overlay_mask is not None and 1 < analysis.findings["overlay_percent"] < 30
        steady, methods = pipeline.smoothed_path(job, analysis), choose_methods(job.settings, job.clip.rate)
        with open_source(str(path)) as source:
            frames = pipeline.render_frames(job, analysis, steady, job.render_range, source, methods)
            missed[choice] = np.mean([np.mean(frame.planes[0][ink] < 200) for frame in frames])
    assert missed["stay"] < 0.01 and missed["move"] > 0.1


def test_a_letterbox_with_timecode_in_it_stays_black_and_legible(tmp_path):
    clip = make_clip("regular", frames=30, width=320, height=200, seed=4)
    ink = np.zeros((200, 320), np.uint8)
    cv2.putText(ink, "01:00:00", (100, 192), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 2)
    for i, frame in enumerate(clip.frames):
        luma, *chroma = (plane.copy() for plane in frame.planes)
        luma[:32], luma[-32:], luma[ink > 0] = 16, 16, 235
        for plane in chroma:
            plane[:16], plane[-16:] = 128, 128
        clip._frames[i] = replace(frame, planes=(luma, *chroma))
    path = clip.write(tmp_path / "dailies.mkv", crf=4)
    job = pipeline.plan(str(path), str(tmp_path / "out.mkv"), Settings())
    analysis = list(pipeline.analyze(job, DiskStore(tmp_path / "cache")))[-1]
    steady, methods = pipeline.smoothed_path(job, analysis), choose_methods(job.settings, job.clip.rate)
    beside = cv2.dilate(ink, np.ones((9, 9), np.uint8)) == 0
    with open_source(str(path)) as source:
        for frame in pipeline.render_frames(job, analysis, steady, job.render_range, source, methods):
            luma = frame.planes[0]
            assert luma[:32].max() < 20 and luma[-30:][beside[-30:]].max() < 24
            assert luma[ink > 0].min() > 180
