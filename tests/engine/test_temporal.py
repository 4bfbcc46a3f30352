# SPDX-License-Identifier: Apache-2.0
"""The weight-free completer: what it fills is the scene, it leaves alone what is there, and each frame stands by itself."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import panorama
import pytest

from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.temporal import TemporalCompleter
from vs3r_engine.methods.temporal.anchors import Anchors, prior_weight
from vs3r_engine.methods.temporal.cells import Cells
from vs3r_engine.methods.temporal.completer import _shares, seam_px
from vs3r_engine.methods.temporal.extrapolation import extrapolated
from vs3r_engine.methods.warp import WarpRenderer, found_positions
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import FillSettings
from vs3r_engine.stages.mask import pixel_centres

LAYOUTS = {
    "yuv420p": PixelLayout("yuv", 8, 1, 1),
    "yuv422p10": PixelLayout("yuv", 10, 1, 0),
    "yuv444p16": PixelLayout("yuv", 16),
    "yuv411p": PixelLayout("yuv", 8, 2, 0),
    "yuva420p": PixelLayout("yuv", 8, 1, 1, has_alpha=True),
    "gray12": PixelLayout("gray", 12),
    "rgb-float": PixelLayout("rgb", 32),
    "rgba16": PixelLayout("rgb", 16, has_alpha=True),
}


class Within(panorama.Held):
    """Views within reach of the frame being completed, as the pipeline gives them."""

    def __init__(self, views: dict[int, View], reach_frames: int) -> None:
        super().__init__(views)
        self.reach_frames, self.frame_index = reach_frames, 0

    def view(self, frame_index: int) -> View | None:
        assert abs(frame_index - self.frame_index) <= self.reach_frames
        return super().view(frame_index)


def run(views: dict[int, View], targets: dict[int, Target], which, fill: FillSettings | None = None) -> tuple[list[Frame], list[Rendered]]:
    completer = TemporalCompleter(fill or FillSettings(), Fraction(30))
    around = Within(views, completer.reach_frames)
    rendered = []

    def items():
        for i in which:
            around.frame_index = i
            rendered.append(WarpRenderer().render(targets[i], views[i], ()))
            yield rendered[-1]

    return list(completer.complete(items(), around)), rendered


def psnr(a: Frame, b: Frame, where: np.ndarray, plane: int = 0) -> float:
    shape = a.planes[plane].shape
    where = where[:: -(-where.shape[0] // shape[0]), :: -(-where.shape[1] // shape[1])]
    error = (a.planes[plane].astype(np.float64) - b.planes[plane])[where]
    return float(10 * np.log10(a.layout.peak**2 / np.mean(np.square(error))))


def replicated(item: Rendered) -> Frame:
    """The holes filled with the nearest pixel of the frame."""
    _, labels = cv2.distanceTransformWithLabels(item.hole_mask.view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    known = np.zeros(labels.max() + 1, item.frame.layout.dtype)
    known[labels[~item.hole_mask]] = item.frame.planes[0][~item.hole_mask]
    return replace(item.frame, planes=(known[labels], *item.frame.planes[1:]))


@pytest.fixture(scope="module")
def hand_held():
    return panorama.shaken(36)


def test_a_frame_without_holes_is_returned_as_it_is(hand_held):
    views, _, _ = hand_held
    targets = {i: Target(i, view.camera, None) for i, view in views.items()}
    outputs, _ = run(views, targets, range(3))
    assert all(output is views[i].frame for i, output in enumerate(outputs))


def test_what_is_filled_is_what_the_camera_would_have_seen(hand_held):
    views, targets, truths = hand_held
    outputs, rendered = run(views, targets, range(4, 32, 3))
    filled, plain, chroma = [], [], []
    for i, output, item in zip(range(4, 32, 3), outputs, rendered, strict=True):
        if item.hole_mask.sum() > 200:
            filled.append(psnr(output, truths[i], item.hole_mask))
            plain.append(psnr(replicated(item), truths[i], item.hole_mask))
            chroma.append(psnr(output, truths[i], item.hole_mask, 1))
    assert len(filled) > 5
    assert np.mean(filled) > 33 and np.mean(filled) > np.mean(plain) + 12 and np.mean(chroma) > 31


def test_the_frames_own_picture_stays_untouched_away_from_the_seam(hand_held):
    views, targets, _ = hand_held
    outputs, rendered = run(views, targets, [9, 10, 11])
    for output, item in zip(outputs, rendered, strict=True):
        far = cv2.dilate(item.hole_mask.view(np.uint8), np.ones((15, 15), np.uint8)) == 0
        assert far.mean() > 0.5
        assert np.array_equal(output.planes[0][far], item.frame.planes[0][far])
        assert np.array_equal(output.planes[1][far[::2, ::2]], item.frame.planes[1][far[::2, ::2]])


def test_a_frame_does_not_depend_on_where_a_render_began(hand_held):
    views, targets, _ = hand_held
    whole, _ = run(views, targets, range(8, 20))
    late, _ = run(views, targets, range(15, 20))
    single, _ = run(views, targets, [19])
    for a, b in [*zip(whole[7:], late, strict=True), (whole[-1], single[0])]:
        assert all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


def test_geometry_that_is_a_little_wrong_is_put_right():
    views, targets, truths = panorama.shaken(30, error_deg=0.3)
    outputs, rendered = run(views, targets, range(6, 26, 4))
    unaligned = pytest.MonkeyPatch()
    with unaligned.context() as patch:
        patch.setattr("vs3r_engine.methods.temporal.alignment.MAX_SHIFT_SMALL_PX", 0.0)
        naive, _ = run(views, targets, range(6, 26, 4))
    gains = [
        psnr(o, truths[i], r.hole_mask) - psnr(n, truths[i], r.hole_mask)
        for i, o, n, r in zip(range(6, 26, 4), outputs, naive, rendered, strict=True)
        if r.hole_mask.sum() > 200
    ]
    assert np.mean(gains) > 4


def test_a_flash_or_a_black_frame_is_no_part_of_a_good_one(hand_held):
    views, targets, truths = hand_held
    spoiled = dict(views)
    for i, level in ((5, 235), (15, 16)):
        frame = views[i].frame
        planes = (np.full_like(frame.planes[0], level), *(np.full_like(p, 128) for p in frame.planes[1:]))
        spoiled[i] = replace(views[i], frame=replace(frame, planes=planes), is_bad=True)
    outputs, rendered = run(spoiled, targets, range(6, 15, 2))
    quality = [psnr(o, truths[o.frame_index], r.hole_mask) for o, r in zip(outputs, rendered, strict=True) if r.hole_mask.sum() > 200]
    assert min(quality) > 24
    for i, level in ((5, 235), (15, 16)):
        (output,), (item,) = run(spoiled, targets, [i])
        assert item.hole_mask.any() and (abs(output.planes[0].astype(int) - level) <= 1).all()


def test_breathing_exposure_leaves_no_step():
    views, targets, truths = panorama.shaken(30, gain=0.12)
    outputs, rendered = run(views, targets, range(6, 26, 4))
    for i, output, item in zip(range(6, 26, 4), outputs, rendered, strict=True):
        if item.hole_mask.sum() > 200:
            error = (output.planes[0].astype(float) - truths[i].planes[0])[item.hole_mask]
            assert abs(np.median(error)) < 2 and psnr(output, truths[i], item.hole_mask) > 29


def test_a_fade_leaves_no_bright_rim():
    views, targets, truths = panorama.shaken(30)

    def faded(frame: Frame) -> Frame:
        share = np.clip(1.0 - (frame.frame_index - 10) / 12, 0.25, 1.0)
        return replace(frame, planes=(np.rint(frame.planes[0] * share).astype(np.uint8), *frame.planes[1:]))

    dimmed = {i: replace(view, frame=faded(view.frame)) for i, view in views.items()}
    outputs, rendered = run(dimmed, targets, range(12, 20))
    for output, item in zip(outputs, rendered, strict=True):
        if item.hole_mask.sum() > 200:
            error = (output.planes[0].astype(float) - faded(truths[output.frame_index]).planes[0])[item.hole_mask]
            assert abs(np.median(error)) < 5


def test_a_moving_object_in_another_frame_is_not_copied_where_any_frame_shows_what_is_behind_it():
    views, targets, _ = panorama.shaken(30)
    marked = {}
    for i, view in views.items():
        luma = view.frame.planes[0].copy()
        mask = np.zeros((45, 80), bool)
        # Something wide and white is there in every other frame.
        if i % 2:
            luma[60:120] = 255
            mask[14:31] = True
        marked[i] = replace(view, frame=replace(view.frame, planes=(luma, *view.frame.planes[1:])), dynamic_mask=mask)
    outputs, rendered = run(marked, targets, range(4, 26, 2))
    checked = 0
    for output, item in zip(outputs, rendered, strict=True):
        pixels = pixel_centres(output.width, output.height)
        still = [found_positions(item.target, marked[i], pixels) for i in range(0, 30, 10)]
        is_shown = np.any([(at > 8).all(-1) & (at < (output.width - 8, output.height - 8)).all(-1) for at in still], axis=0)
        behind = item.hole_mask & is_shown
        checked += behind.sum()
        assert not (output.planes[0][behind] > 245).any()
    assert checked > 5000


def test_what_every_frame_takes_for_moving_is_better_than_a_smear(hand_held):
    views, targets, truths = hand_held
    mask = np.zeros((45, 80), bool)
    mask[:, :30] = mask[:, -30:] = True
    outputs, rendered = run({i: replace(view, dynamic_mask=mask) for i, view in views.items()}, targets, range(6, 24, 4))
    quality = [psnr(o, truths[o.frame_index], r.hole_mask) for o, r in zip(outputs, rendered, strict=True) if r.hole_mask.sum() > 200]
    assert np.mean(quality) > 24


def test_a_copy_of_what_has_moved_on_since_is_worse_than_a_smear():
    """In every frame that others are filled from, and in no other, something striped hides the rim."""
    views, targets, _ = panorama.shaken(24)
    mask = np.zeros((45, 80), bool)
    mask[:, :24] = mask[:, -24:] = True

    def stripes_filled_in(widths_a_frame: float | None, striped_from: int = 0) -> float:
        motion = None if widths_a_frame is None else np.where(mask[::5, ::5], np.float16(widths_a_frame), np.float16(0))
        marked = dict(views)
        for i in (*range(striped_from, 24, 5), 23):
            luma = views[i].frame.planes[0].copy()
            striped = np.where(np.arange(len(luma)) % 8 < 4, 0, 255).astype(np.uint8)[:, None]
            luma[:, : luma.shape[1] // 4] = luma[:, -(luma.shape[1] // 4) :] = striped
            frame = replace(views[i].frame, planes=(luma, *views[i].frame.planes[1:]))
            marked[i] = replace(views[i], frame=frame, dynamic_mask=mask, own_motion=motion)
        steps = []
        for output, item in zip(*run(marked, targets, (7, 8, 12, 13, 17)), strict=True):
            both = item.hole_mask[1:] & item.hole_mask[:-1]
            both[:, both.shape[1] // 8 : -both.shape[1] // 8] = False
            steps += np.abs(np.diff(output.planes[0].astype(float), axis=0))[both].tolist()
        assert len(steps) > 5000
        return float(np.mean(steps))

    copied = stripes_filled_in(None)
    assert copied > 20 and stripes_filled_in(0.0) == copied and stripes_filled_in(0.015) > 20
    assert stripes_filled_in(0.1) < 5
    # Where others show what is behind, what has stayed in its place counts as if it stood still, and the rest for nothing.
    seen_through = stripes_filled_in(None, striped_from=10)
    assert stripes_filled_in(0.0, striped_from=10) > 1.3 * seen_through > 1.3 * stripes_filled_in(0.1, striped_from=10)


def test_the_filling_does_not_flicker(hand_held):
    views, targets, truths = hand_held
    outputs, rendered = run(views, targets, range(6, 24))
    changes, wanted = [], []
    for i in range(1, len(outputs)):
        both = rendered[i].hole_mask & rendered[i - 1].hole_mask
        if both.sum() > 200:
            a, b, c, d = (f.planes[0].astype(float)[both] for f in (outputs[i], outputs[i - 1], truths[i + 6], truths[i + 5]))
            changes.append(np.abs(a - b).mean())
            wanted.append(np.abs(c - d).mean())
    # A still camera before a still wall: the truth changes by rounding alone.
    assert len(changes) > 5 and max(wanted) < 0.5
    assert np.mean(changes) < 2.5


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(176, 96), (133, 75)])
def test_every_layout_and_size_is_filled(name, size):
    layout, (width, height) = LAYOUTS[name], size
    views, targets, truths = panorama.shaken(14, layout=layout, width=width, height=height)
    outputs, rendered = run(views, targets, [7])
    assert rendered[0].hole_mask.any()
    for i, (plane, source) in enumerate(zip(outputs[0].planes, views[7].frame.planes, strict=True)):
        assert plane.dtype == source.dtype and plane.shape == source.shape and plane.flags.c_contiguous
        assert plane.max() <= layout.peak and np.isfinite(plane).all()
        if i < layout.plane_count - layout.has_alpha:
            assert psnr(outputs[0], truths[7], rendered[0].hole_mask, i) > 19


def test_with_nothing_to_draw_on_the_picture_is_continued():
    views, _, _ = panorama.shaken(1)
    target = Target(0, panorama.camera(4, 2), None)
    outputs, rendered = run(views, {0: target}, [0])
    hole, luma = rendered[0].hole_mask, outputs[0].planes[0]
    assert 0.1 < hole.mean() < 0.5
    inside = rendered[0].frame.planes[0][~hole]
    assert luma[hole].min() >= inside.min() - 2 and luma[hole].max() <= inside.max() + 2
    edge = cv2.dilate(hole.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    step = np.abs(np.diff(luma.astype(float), axis=1))[edge[:, 1:] & ~hole[:, 1:]]
    assert np.median(step) < 6


@pytest.mark.parametrize("radius_s", [0.0, 0.1, 1.0])
def test_a_frame_that_is_nowhere_to_be_seen_is_still_a_picture(radius_s):
    views, _, _ = panorama.shaken(5)
    away = {i: Target(i, panorama.camera(150), None) for i in views}
    outputs, rendered = run(views, away, range(5), FillSettings(radius_s=radius_s))
    assert len(outputs) == 5 and rendered[2].hole_mask.all()
    assert all(np.ptp(output.planes[0]) < 60 for output in outputs)


@pytest.mark.parametrize("whole", [(), (12, 13)])
def test_a_cut_ends_what_is_drawn_on_also_where_the_next_shot_begins_without_a_hole(whole):
    views, targets, _ = panorama.shaken(24)
    black = {i: replace(v, frame=replace(v.frame, planes=tuple(np.zeros_like(p) for p in v.frame.planes))) for i, v in views.items()}
    # Frames from 12 on are another shot: the pipeline then answers None across the cut.
    shots = [{i: views[i] for i in range(12)}, {i: black[i] for i in range(12, 24)}]
    targets |= {i: Target(i, views[i].camera, None) for i in whole}
    completer = TemporalCompleter(FillSettings(), Fraction(30))
    around = panorama.Held({})

    def items():
        for i in range(8, 24):
            around.views = shots[i >= 12]
            yield WarpRenderer().render(targets[i], shots[i >= 12][i], ())

    outputs = list(completer.complete(items(), around))
    assert all(output.planes[0].max() == 0 for output in outputs[4:])
    assert all(output.planes[0].min() > 10 for output in outputs[:4])


def test_anchors_stand_at_fixed_places_and_at_the_ends_of_a_shot():
    views, _, _ = panorama.shaken(18)
    cells = Cells.of(views[0].frame)

    def indices(frame_index: int) -> list[int]:
        return sorted(a.frame_index for a in Anchors(panorama.Held(views), 5, 10).around(frame_index, cells))

    assert indices(7) == [0, 5, 10, 15] and indices(10) == [0, 5, 15, 17]
    assert indices(0) == [5, 10] and indices(17) == [10, 15]
    assert sorted(a.frame_index for a in Anchors(panorama.Held({3: views[3], 4: views[4]}), 5, 10).around(3, cells)) == [4]


def test_an_anchor_is_looked_at_once_and_let_go_when_out_of_reach(hand_held, monkeypatch):
    views, looked_at = hand_held[0], []
    anchors, cells = Anchors(panorama.Held(views), 5, 10), Cells.of(views[0].frame)
    monkeypatch.setattr(Cells, "small_picture", lambda self, frame: looked_at.append(frame.frame_index) or np.zeros((8, 16, 3), np.float32))
    for i in range(36):
        anchors.move_to(i)
        anchors.around(i, cells)
        assert i < 10 or min(anchors._held) >= i - 10
    assert sorted(looked_at) == list(range(0, 36, 5))


def test_cells_fit_the_picture_and_a_small_picture_is_its_mean():
    portrait, wide = (
        Frame(0, tuple(np.full(layout.plane_shape(i, *size), 100, np.uint8) for i in range(3)), layout)
        for layout, size in ((LAYOUTS["yuv420p"], (1080, 1920)), (LAYOUTS["yuv411p"], (1441, 805)))
    )
    assert [(c.small_px, c.rows, c.columns) for c in (Cells.of(portrait), Cells.of(wide))] == [(4, 60, 34), (4, 26, 46)]
    assert Cells.of(wide).small_px % 4 == 0 and (Cells.of(wide).small_picture(wide) == 100).all()
    luma = np.random.default_rng(0).integers(0, 256, (64, 128)).astype(np.uint8)
    small = Cells(128, 64, 4).small_picture(Frame(0, (luma,), PixelLayout("gray", 8)))[..., 0]
    np.testing.assert_allclose(small, luma.reshape(16, 4, 32, 4).mean(axis=(1, 3)), atol=1)


@pytest.mark.parametrize("per_small", [1, 2, 0.5])
def test_what_moves_is_kept_away_from_alike_on_every_side(per_small):
    cells = Cells(256, 128, 4)
    mask = np.zeros((32 * 4, 64 * 4), bool)
    mask[40:64, 96:160] = True
    at_size = cv2.resize(mask.astype(np.uint8), (int(64 * per_small), int(32 * per_small)), interpolation=cv2.INTER_NEAREST) > 0
    moving = 1 - cells.still(at_size)
    assert (moving[8:18, 22:42] > 0.8).all() and (moving[6:20, 20:44] > 0.3).all() and not moving[:3].any() and not moving[:, 48:].any()
    np.testing.assert_allclose(np.average(np.indices(moving.shape), axis=(1, 2), weights=np.stack([moving] * 2)), (12.5, 31.5), atol=1e-3)


def test_shares_sum_to_one_and_none_jumps_when_one_falls_under_the_least():
    just_over, just_under = (_shares(np.array([[1.0], [0.7], [least]])) for least in (0.5001, 0.4999))
    assert just_over.sum() == pytest.approx(1) and just_under[2] == 0 and np.abs(just_over - just_under).max() < 1e-3
    assert (just_over[:, 0].argsort() == [2, 1, 0]).all() and not _shares(np.zeros((3, 1))).any()


@pytest.mark.parametrize(("rate", "reach", "step"), [(Fraction(1), 2, 1), (Fraction(24), 48, 4), (Fraction(60000, 1001), 120, 10)])
def test_reach_and_anchors_are_counted_in_seconds(rate, reach, step):
    completer = TemporalCompleter(FillSettings(radius_s=2.0), rate)
    assert completer.reach_frames == reach
    assert [i for i in range(41) if completer.keeps(i)] == list(range(0, 41, step))
    assert [seam_px(width) for width in (320, 1920, 7680)] == [3, 12, 16]


def test_an_anchors_weight_in_time_never_jumps():
    distances = np.arange(-32, 33)
    weights = prior_weight(distances, 5, 30)
    assert weights[[27, 37, 42]] == pytest.approx([1 / 4, 1 / 4, 1 / 16])
    assert weights[32] == 1 and weights[0] == weights[-1] == 0 and (np.abs(np.diff(weights)) < 0.3).all()
    assert (np.diff(weights[32:]) <= 0).all()


def test_continuing_keeps_what_is_known_and_invents_no_colour():
    rng = np.random.default_rng(0)
    picture = rng.uniform(50, 200, (24, 40)).astype(np.float32)
    known = np.zeros((24, 40), np.float32)
    known[:, 10:30] = 1
    result = extrapolated(picture, known)
    assert np.allclose(result[:, 10:30], picture[:, 10:30], atol=1e-3)
    assert result.min() > 45 and result.max() < 205
    assert np.allclose(extrapolated(np.full((9, 9), 77, np.float32), (rng.random((9, 9)) > 0.7).astype(np.float32)), 77, atol=1e-3)
    assert np.allclose(extrapolated(picture, np.zeros_like(known)), 128)


def test_draft_quality_fills_too(hand_held):
    views, targets, truths = hand_held
    outputs, rendered = run(views, targets, [10], FillSettings(quality="draft"))
    assert psnr(outputs[0], truths[10], rendered[0].hole_mask) > 26


def test_no_pixel_stays_empty():
    views, targets, _ = panorama.shaken(20)
    white = {i: replace(v, frame=replace(v.frame, planes=tuple(np.full_like(p, 200) for p in v.frame.planes))) for i, v in views.items()}
    targets = targets | {3: Target(3, panorama.camera(8, -6, 30), None), 4: Target(4, panorama.camera(-25), None)}
    outputs, rendered = run(white, targets, range(20))
    assert max(item.hole_mask.mean() for item in rendered) > 0.3
    assert all(np.ptp(plane) <= 1 and abs(int(plane.min()) - 200) <= 1 for output in outputs for plane in output.planes)


def test_what_a_hole_held_before_does_not_show():
    views, _, _ = panorama.shaken(20)
    item = WarpRenderer().render(Target(4, panorama.camera(-25, 12, 20), None), views[4], ())
    painted = []
    for value in (0, 255):
        planes = [plane.copy() for plane in item.frame.planes]
        for plane in planes:
            plane[item.hole_mask[:: item.hole_mask.shape[0] // plane.shape[0], :: item.hole_mask.shape[1] // plane.shape[1]]] = value
        completer = TemporalCompleter(FillSettings(), Fraction(30))
        painted.append(next(completer.complete([replace(item, frame=replace(item.frame, planes=tuple(planes)))], Within(views, 30))))
    assert 0.1 < item.hole_mask.mean() < 0.9
    for first, second in zip(painted[0].planes, painted[1].planes, strict=True):
        # Gradients beside a hole reach into it by a pixel: what neighbours give is laid a trace differently.
        assert np.abs(first.astype(int) - second).max() <= 12
