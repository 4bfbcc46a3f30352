# SPDX-License-Identifier: Apache-2.0
"""The default renderer against pictures whose truth is known."""

from dataclasses import replace

import numpy as np
import panorama
import pytest

from vs3r_engine.camera import Camera
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.lens import Lens
from vs3r_engine.methods.warp import WarpRenderer
from vs3r_engine.scene import Target, View
from vs3r_engine.stages.render import source_positions

GRAY32 = PixelLayout("gray", 32)
LAYOUTS = {
    "yuv420p": PixelLayout("yuv", 8, 1, 1),
    "yuv422p10": PixelLayout("yuv", 10, 1, 0),
    "yuv444p12": PixelLayout("yuv", 12),
    "yuv411p": PixelLayout("yuv", 8, 2, 0),
    "yuva444p16": PixelLayout("yuv", 16, has_alpha=True),
    "gray": PixelLayout("gray", 8),
    "rgb-float": PixelLayout("rgb", 32),
    "rgba16": PixelLayout("rgb", 16, has_alpha=True),
}


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray, peak: float = 1.0) -> float:
    return float(10 * np.log10(peak**2 / np.mean(np.square(a.astype(np.float64) - b)[where])))


def pixel_centres(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def box_room(at: Camera, box_depth: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """(picture, depth) of a smooth texture on a wall at z = 5 that bulges to `box_depth`, smoothly, in the middle."""
    rays = (
        np.stack([*np.moveaxis((pixel_centres(at.width, at.height) - at.K[:2, 2]) / at.K[0, 0], -1, 0), np.ones((at.height, at.width))], -1)
        @ at.world_from_camera[:3, :3].T
    )
    origin = at.world_from_camera[:3, 3]
    reach = np.full(rays.shape[:2], 5.0)
    for _ in range(60):
        points = origin + rays * reach[..., None]
        wall = 5 - (5 - box_depth) * np.exp(-(points[..., 0] ** 2 + points[..., 1] ** 2) / 4)
        reach = 0.5 * reach + 0.5 * (wall - origin[2]) / rays[..., 2]
    points = origin + rays * reach[..., None]
    picture = 0.5 + 0.2 * np.sin(4 * points[..., 0]) * np.cos(5 * points[..., 1]) + 0.15 * np.sin(2 * points[..., 0] + 3 * points[..., 1])
    depth = ((points - origin) @ at.world_from_camera[:3, :3])[..., 2]
    return picture.astype(np.float32), depth.astype(np.float32)


def test_from_where_it_was_filmed_a_frame_comes_back_untouched():
    at = panorama.camera(1, 2, 3)
    residual = np.random.default_rng(0).normal(size=(5, 9, 2)).astype(np.float32)
    filmed = View(panorama.seen(panorama.texture(), at), at, residual, np.full((4, 4), 3.0), np.zeros((4, 4), bool))
    rendered = WarpRenderer().render(Target(0, replace(at, K=at.K.copy()), residual.copy()), filmed, ())
    assert all(a is b for a, b in zip(rendered.frame.planes, filmed.frame.planes, strict=True))
    assert not rendered.hole_mask.any() and rendered.current_mask.all()


def test_next_to_where_it_was_filmed_nothing_is_shifted():
    at = panorama.camera()
    frame = panorama.seen(panorama.texture(), at, GRAY32)
    rendered = WarpRenderer().render(Target(0, panorama.camera(1e-7), None), panorama.view(frame, at), ())
    inner = np.s_[4:-4, 4:-4]
    gradient_y, gradient_x = np.gradient(frame.planes[0].astype(np.float64))
    difference = (rendered.frame.planes[0] - frame.planes[0])[inner]
    shift_x = (difference * gradient_x[inner]).sum() / np.square(gradient_x[inner]).sum()
    shift_y = (difference * gradient_y[inner]).sum() / np.square(gradient_y[inner]).sum()
    assert abs(shift_x) < 0.02 and abs(shift_y) < 0.02


def test_a_turned_and_moved_camera_sees_what_it_would_have_filmed():
    here, there = panorama.camera(0.5, 0.3, 0.2), panorama.camera(-1.0, 0.8, 1.5)
    there.world_from_camera[:3, 3] = (0.2, -0.12, 0.1)
    picture, depth = box_room(here)
    truth, _ = box_room(there)
    filmed = View(Frame(0, (picture,), GRAY32), here, None, depth, np.zeros((4, 4), bool))
    rendered = WarpRenderer().render(Target(0, there, None), filmed, ())
    assert 0.02 < rendered.hole_mask.mean() < 0.2
    assert psnr(rendered.frame.planes[0], truth, ~rendered.hole_mask) > 55


def test_unknown_depth_is_taken_from_the_rest():
    here, there = panorama.camera(), panorama.camera()
    there.world_from_camera[:3, 3] = (0.3, 0, 0)
    depth = np.full((18, 32), 5.0, np.float32)
    frame = panorama.seen(panorama.texture(), here)
    whole = View(frame, here, None, depth, np.zeros((4, 4), bool))
    depth_with_gaps = depth.copy()
    depth_with_gaps[3:9, 5:20] = np.nan
    a, b = (WarpRenderer().render(Target(0, there, None), v, ()) for v in (whole, replace(whole, depth=depth_with_gaps)))
    assert np.array_equal(a.frame.planes[0], b.frame.planes[0])


def test_a_residual_path_counts_by_its_change_at_one_place():
    at = panorama.camera()
    frame = panorama.seen(panorama.texture(), at, GRAY32)
    path = np.random.default_rng(1).normal(size=(4, 6, 2)).astype(np.float32) * 50
    filmed = replace(panorama.view(frame, at), residual_px=path)
    rendered = WarpRenderer().render(Target(0, at, path - np.float32([3, -2])), filmed, ())
    assert np.allclose(source_positions(rendered.target, filmed, np.array([[100.0, 50.0]])), [[103, 48]])
    assert np.abs(rendered.frame.planes[0][2:, :-3] - frame.planes[0][:-2, 3:]).mean() < 0.005
    assert rendered.hole_mask[:, -3:].all() and rendered.hole_mask[:2].all() and not rendered.hole_mask[2:, :-3].any()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(160, 96), (133, 75)])
def test_every_plane_moves_alike_at_every_layout_and_size(name, size):
    layout, (width, height) = LAYOUTS[name], size
    here, there = (panorama.camera(*angles, width=width, height=height) for angles in ((0.4, -0.3, 0.2), (-0.5, 0.6, -0.9)))
    wall = panorama.cv2.GaussianBlur(panorama.texture(), (0, 0), 6)
    rendered = WarpRenderer().render(Target(0, there, None), panorama.view(panorama.seen(wall, here, layout), here), ())
    truth = panorama.seen(wall, there, layout)
    # The outermost chroma samples lean on a repeated border.
    inner = panorama.cv2.dilate(rendered.hole_mask.view(np.uint8), np.ones((9, 17), np.uint8)) > 0
    for plane, expected in zip(rendered.frame.planes, truth.planes, strict=True):
        assert plane.dtype == expected.dtype and plane.shape == expected.shape
        covered = ~inner[:: -(-height // plane.shape[0]), :: -(-width // plane.shape[1])]
        # A quarter of the columns cannot hold as much of the wall.
        assert psnr(plane, expected, covered, layout.peak) > (44 if layout.chroma_shift_x == 2 else 48)


def test_holes_are_exactly_where_the_frame_does_not_reach():
    for angles in ((2, 1, 0), (-3, -2, 5), (0, 0, 20), (0.05, 0, 0)):
        here, there = panorama.camera(width=250, height=141), panorama.camera(*angles, width=250, height=141)
        filmed = panorama.view(panorama.seen(panorama.texture(), here), here)
        rendered = WarpRenderer().render(Target(0, there, None), filmed, ())
        at = source_positions(Target(0, there, None), filmed, pixel_centres(250, 141))
        margin_px = np.minimum(at, (250, 141) - at).min(axis=-1)
        clear = np.abs(margin_px) > 0.02
        assert np.array_equal(rendered.hole_mask[clear], margin_px[clear] < 0)
        assert np.array_equal(rendered.hole_mask, ~rendered.current_mask)


def test_no_edge_darkens():
    at = panorama.camera()
    white = Frame(
        0, tuple(np.full(YUV, value, np.uint8) for YUV, value in (((180, 320), 235), ((90, 160), 90), ((90, 160), 160))), panorama.YUV420
    )
    rendered = WarpRenderer().render(Target(0, panorama.camera(1.3, 0.7, 2), None), panorama.view(white, at), ())
    assert [np.unique(plane).tolist() for plane in rendered.frame.planes] == [[235], [90], [160]]


def test_looking_away_shows_nothing():
    at = panorama.camera()
    filmed = panorama.view(panorama.seen(panorama.texture(), at), at)
    for yaw_deg in (70, 120, 180):
        rendered = WarpRenderer().render(Target(0, panorama.camera(yaw_deg), None), filmed, (filmed,))
        assert rendered.hole_mask.all()


def test_static_points_of_neighbours_fill_what_the_frame_does_not_cover():
    wall, target = panorama.texture(), panorama.camera()
    current_at, neighbour_at = panorama.camera(2, 0, 1), panorama.camera(-2, 0, 0)
    current = panorama.view(panorama.seen(wall, current_at, frame_index=5), current_at)
    neighbour = panorama.view(panorama.seen(wall, neighbour_at, frame_index=6), neighbour_at)
    alone = WarpRenderer().render(Target(5, target, None), current, ())
    rendered = WarpRenderer().render(Target(5, target, None), current, (neighbour,))
    assert rendered.hole_mask.sum() < 0.2 * alone.hole_mask.sum()
    assert np.array_equal(rendered.current_mask, alone.current_mask)
    added = alone.hole_mask & ~rendered.hole_mask
    assert psnr(rendered.frame.planes[0], panorama.seen(wall, target).planes[0], added, 255) > 38
    assert psnr(rendered.frame.planes[1], panorama.seen(wall, target).planes[1], added[::2, ::2], 255) > 38
    assert np.array_equal(rendered.frame.planes[0][alone.current_mask], alone.frame.planes[0][alone.current_mask])


def test_the_nearest_neighbour_in_time_comes_first():
    wall, target = panorama.texture(), panorama.camera()
    current_at, other_at = panorama.camera(2), panorama.camera(-2)
    current = panorama.view(panorama.seen(wall, current_at, frame_index=5), current_at)
    near, far = (
        panorama.view(panorama.seen(wall, other_at, frame_index=index, gain=gain), other_at) for index, gain in ((4, 1.0), (9, 0.5))
    )
    expected = WarpRenderer().render(Target(5, target, None), current, (near,))
    rendered = WarpRenderer().render(Target(5, target, None), current, (far, near))
    assert np.array_equal(rendered.frame.planes[0], expected.frame.planes[0])


def test_what_moves_in_a_neighbour_is_never_taken():
    wall, target = panorama.texture(), panorama.camera()
    current_at, neighbour_at = panorama.camera(2), panorama.camera(-2)
    current = panorama.view(panorama.seen(wall, current_at), current_at)
    mask = np.zeros((45, 80), bool)
    mask[15:30] = True
    neighbour = panorama.view(panorama.seen(wall, neighbour_at, frame_index=1), neighbour_at, mask)
    rendered = WarpRenderer().render(Target(0, target, None), current, (neighbour,))
    left = np.flatnonzero(rendered.hole_mask[90])
    assert len(left) > 8 and not rendered.hole_mask[30, left[1:-1]].any()


def test_lines_without_picture_stay_out_of_the_result():
    at = panorama.camera()
    frame = panorama.seen(panorama.texture(), at)
    luma = frame.planes[0].copy()
    luma[0], luma[-2:], luma[:, :3], luma[:, -1] = 0, 0, 0, 0
    dirty = replace(panorama.view(replace(frame, planes=(luma, *frame.planes[1:])), at), inset_px=(3, 1, 1, 2))
    rendered = WarpRenderer().render(Target(0, panorama.camera(0, 0, 0.4), None), dirty, (dirty,))
    clean = WarpRenderer().render(Target(0, panorama.camera(0, 0, 0.4), None), panorama.view(frame, at), ())
    covered = ~rendered.hole_mask
    assert 0.9 * clean.current_mask.mean() < covered.mean() < clean.current_mask.mean()
    assert np.array_equal(rendered.frame.planes[0][covered], clean.frame.planes[0][covered])


def test_an_overshooting_kernel_stays_within_the_codes():
    layout = PixelLayout("gray", 10)
    plane = np.zeros((96, 160), np.uint16)
    plane[:, ::7] = plane[:, 1::7] = plane[:, 2::7] = 1023
    at, there = (panorama.camera(yaw, 0, yaw, width=160, height=96) for yaw in (0, 1))
    rendered = WarpRenderer().render(Target(0, there, None), panorama.view(Frame(0, (plane,), layout), at), ())
    assert rendered.frame.planes[0].max() == 1023


def test_the_picture_stays_as_sharp_as_it_was():
    at = panorama.camera()
    frame = panorama.seen(panorama.texture(), at)
    shares = []
    for yaw, pitch, roll in ((0.03, 0.05, 0.3), (0.11, -0.07, -0.8), (0.17, 0.13, 1.0), (0.09, 0.02, 0.05)):
        rendered = WarpRenderer().render(Target(0, panorama.camera(yaw, pitch, roll), None), panorama.view(frame, at), ())
        energy = [
            sum(np.square(g[8:-8, 8:-8]).mean() for g in np.gradient(f.planes[0].astype(np.float64))) for f in (rendered.frame, frame)
        ]
        shares.append(energy[0] / energy[1])
    assert 0.97 <= np.mean(shares) <= 1.08


@pytest.mark.parametrize("lens", [Lens("equirectangular"), Lens("omnidirectional", (0.8,)), Lens("double-sphere", (0.1, 0.55))])
def test_another_lens_shows_the_same_world(lens):
    at = panorama.camera()
    wide = replace(panorama.camera(0.5, 0.5), lens=lens)
    wall = panorama.cv2.GaussianBlur(panorama.texture(), (0, 0), 3)
    rendered = WarpRenderer().render(Target(0, wide, None), panorama.view(panorama.seen(wall, at, GRAY32), at), ())
    covered = ~rendered.hole_mask
    assert covered.mean() > 0.2
    assert psnr(rendered.frame.planes[0], panorama.seen(wall, wide, GRAY32).planes[0], covered) > 45
