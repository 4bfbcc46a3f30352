# SPDX-License-Identifier: Apache-2.0
"""The hybrid reprojection by points: exact where nothing moves, right on analytic scenes, for every lens, without
ghosts."""

import dataclasses

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from synthetic import make_clip  # noqa: E402

from vs3r_engine.camera import Camera, output_camera  # noqa: E402
from vs3r_engine.frame import ColourTags, Frame, PixelLayout  # noqa: E402
from vs3r_engine.lens import Lens, rays_of_pixels  # noqa: E402
from vs3r_engine.methods.points import composite, depth_buffer  # noqa: E402
from vs3r_engine.methods.splat import SplatRenderer  # noqa: E402
from vs3r_engine.methods.upsample import upsampled_depth  # noqa: E402
from vs3r_engine.scene import Target, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402
from vs3r_engine.stages.mask import pixel_centres  # noqa: E402

RGB32 = PixelLayout("rgb", 32)
SHARP = Settings()
PUBLISHED = Settings().with_values({"frame.splatting": "published"})


def camera(width=160, height=90, focal=120.0, at=(0.0, 0.0, 0.0)):
    world_from_camera = np.eye(4)
    world_from_camera[:3, 3] = at
    return Camera(np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), width, height, world_from_camera)


def wall_view(frame_index, where, depth=2.0, paint=None, layout=RGB32):
    """A wall at z = 2 whose colour is its own world position (x, y), seen from a camera that looks straight at it."""
    at = pixel_centres(where.width, where.height)
    world = rays_of_pixels(at, where.K, where.lens)
    world = world / world[..., 2:] * (depth - where.world_from_camera[2, 3]) + where.world_from_camera[:3, 3]
    rgb = np.stack([world[..., 0] / 8 + 0.5, world[..., 1] / 8 + 0.5, np.full(world.shape[:2], 0.2)], -1).astype(np.float32)
    mask = np.zeros(rgb.shape[:2], bool)
    z = np.full(mask.shape, depth - where.world_from_camera[2, 3], np.float32)
    if paint is not None:
        mask = (np.abs(world[..., 0] - paint) < 0.15) & (np.abs(world[..., 1]) < 0.15)
        rgb[mask] = (0, 0, 1)
    return View(Frame(frame_index, tuple(np.ascontiguousarray(rgb[..., c]) for c in range(3)), layout), where, None, z, mask)


def nudged(view):
    """The view's own camera, but not so exactly that renderers may take the short cut."""
    K = view.camera.K.copy()
    K[0, 2] += 1e-9
    return Target(view.frame.frame_index, dataclasses.replace(view.camera, K=K), view.residual_px)


@pytest.mark.parametrize("settings", [SHARP, PUBLISHED])
def test_the_own_camera_returns_the_frame_untouched(settings):
    view = wall_view(3, camera())
    rendered = SplatRenderer(settings, "cpu").render(Target(3, view.camera, None), view, [])
    assert rendered.frame is view.frame and not rendered.hole_mask.any() and rendered.current_mask.all()


@pytest.mark.parametrize(("width", "height"), [(160, 90), (161, 91), (64, 97)])
@pytest.mark.parametrize("layout", [PixelLayout("yuv", 8, 1, 1), PixelLayout("yuv", 10, 1, 0), PixelLayout("rgb", 16)])
def test_rendering_from_the_same_place_changes_no_code_value(width, height, layout):
    rng = np.random.default_rng(0)
    planes = tuple(rng.integers(0, int(layout.peak), layout.plane_shape(i, width, height)).astype(layout.dtype) for i in range(3))
    depth = rng.uniform(1, 9, (height, width)).astype(np.float32)
    view = View(Frame(0, planes, layout), camera(width, height), None, depth, np.zeros((height, width), bool))
    rendered = SplatRenderer(SHARP, "cpu").render(nudged(view), view, [])
    assert not rendered.hole_mask.any()
    for ours, theirs in zip(rendered.frame.planes, planes, strict=True):
        assert np.array_equal(ours, theirs)


def shift_px(a, b):
    """Sub-pixel displacement between two pictures by phase correlation."""
    return np.array(cv2.phaseCorrelate(a.astype(np.float64), b.astype(np.float64), cv2.createHanningWindow(a.shape[::-1], cv2.CV_64F))[0])


@pytest.mark.parametrize(("width", "height"), [(160, 90), (161, 91)])
@pytest.mark.parametrize("network", [(56, 42), (70, 28), (37, 21)])
def test_published_splatting_and_small_depth_shift_nothing(width, height, network):
    rng = np.random.default_rng(1)
    texture = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 2.5)
    texture = (texture - texture.min()) / np.ptp(texture)
    view = View(
        Frame(0, (texture,) * 3, RGB32),
        camera(width, height),
        None,
        np.full(network[::-1], 3.0, np.float32),
        np.zeros((8, 8), bool),
    )
    for settings in (SHARP, PUBLISHED):
        rendered = SplatRenderer(settings, "cpu").render(nudged(view), view, [])
        assert np.abs(shift_px(texture, rendered.frame.to_rgb()[..., 0])).max() < 0.02
        assert rendered.hole_mask.mean() < 0.01


def test_discs_are_blended_as_written_down():
    """Against the rasterizer's definition, pixel by pixel and point by point."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(400, 2, generator=generator) * torch.tensor([26.0, 18.0]) - 3
    z, colours = torch.rand(400, generator=generator) * 3 - 0.3, torch.rand(400, 3, generator=generator)
    picture, covered = composite(pixels, z, colours, (12, 20), 2.3, per_pixel=5, rows_at_once=5)
    for row in range(12):
        for column in range(20):
            square = ((pixels - torch.tensor([column + 0.5, row + 0.5])) ** 2).sum(1)
            hits = [i for i in z.argsort().tolist() if z[i] > 0 and square[i] < 2.3**2][:5]
            left, expected = 1.0, torch.zeros(3)
            for i in hits:
                opacity = 1 - square[i] / 2.3**2
                expected += left * opacity * colours[i]
                left *= 1 - opacity
            assert (picture[row, column] - expected).abs().max() < 1e-5
            assert bool(covered[row, column]) == bool(hits)


def test_the_depth_buffer_has_no_pinholes_and_lets_nothing_shine_through():
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    grid = torch.stack((x, y), -1).reshape(-1, 2)
    stretched = grid * 1.4 + 0.3
    near = depth_buffer(stretched, torch.full((len(grid),), 2.0), (60, 80))
    assert (near == 2).all()
    both = depth_buffer(
        torch.cat((stretched, grid)),
        torch.cat((torch.full((len(grid),), 2.0), torch.full((len(grid),), 9.0))),
        (60, 80),
    )
    assert (both[1:-1, 1:-1] == 2).float().mean() > 0.999
    assert torch.isinf(depth_buffer(grid[:0], torch.zeros(0), (4, 4))).all()


@pytest.mark.parametrize(
    "name",
    [
        "perspective",
        "wide",
        "ultra-wide",
        "telephoto",
        "fisheye",
        "omnidirectional",
        "double-sphere",
        "equirectangular",
    ],
)
def test_every_lens_shows_each_wall_point_where_it_belongs(name):
    source = wall_view(0, camera(200, 120, 110))
    seen_from = output_camera(camera(200, 120, 110, at=(0.1, -0.05, 0.2)), name)
    rendered = SplatRenderer(SHARP, "cpu").render(Target(0, seen_from, None), source, [])
    rays = rays_of_pixels(pixel_centres(200, 120), seen_from.K, seen_from.lens)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = rays / np.where(rays[..., 2:] > 0, rays[..., 2:], np.nan) * 1.8 + seen_from.world_from_camera[:3, 3]
    reach = np.array([100, 60]) / 110 * 2
    is_seen = (np.abs(expected[..., :2]) < reach - 0.06).all(-1)
    is_unseen = ~(np.abs(expected[..., :2]) < reach + 0.06).all(-1)
    assert rendered.hole_mask[is_unseen].sum() >= 0.99 * is_unseen.sum() and is_seen.sum() > 500
    assert rendered.hole_mask[is_seen].mean() < 0.002
    error = np.abs((rendered.frame.to_rgb()[..., :2] - 0.5) * 8 - expected[..., :2])[is_seen & ~rendered.hole_mask]
    assert error.max() < 0.02


def test_fisheye_sources_are_read_through_their_lens():
    lens = Lens("fisheye", (0.05, -0.01) + (0.0,) * 10, 1.4)
    fish = dataclasses.replace(camera(200, 120, 110), lens=lens)
    target = camera(200, 120, 110, at=(0.05, 0, 0))
    rendered = SplatRenderer(SHARP, "cpu").render(Target(0, target, None), wall_view(0, fish), [])
    expected = wall_view(0, target).frame.to_rgb()
    inner = (slice(15, -15), slice(15, -15))
    assert np.abs(rendered.frame.to_rgb() - expected)[inner].max() < 3e-3


def test_published_splatting_takes_sources_that_see_beside_themselves():
    fish = dataclasses.replace(camera(200, 120, 60), lens=Lens("fisheye", (0.0,) * 12, 2.0))
    target = camera(200, 120, 30, at=(0.05, 0, 0))
    rendered = SplatRenderer(PUBLISHED, "cpu").render(Target(0, target, None), wall_view(0, fish), [])
    middle = (slice(45, -45), slice(80, -80))
    error = np.abs(rendered.frame.to_rgb() - wall_view(0, target).frame.to_rgb())[middle]
    assert not rendered.hole_mask[middle].any() and np.median(error) < 0.01


def test_neighbours_fill_what_the_current_frame_does_not_cover_and_holes_are_told():
    current, before, after = (wall_view(i, camera(at=(0.25 * (i - 1), 0, 0))) for i in (1, 0, 2))
    target = Target(1, camera(at=(0.15, 0, 0)), None)
    alone = SplatRenderer(SHARP, "cpu").render(target, current, [])
    filled = SplatRenderer(SHARP, "cpu").render(target, current, [before, after])
    assert 0.02 < alone.hole_mask.mean() < 0.1 and alone.hole_mask[:, -5:].all()
    assert filled.hole_mask.mean() < 0.002
    assert np.array_equal(filled.current_mask, ~alone.hole_mask)
    expected = wall_view(1, target.camera).frame.to_rgb()
    assert np.abs(filled.frame.to_rgb() - expected)[:, :-1].max() < 5e-3


@pytest.mark.parametrize("settings", [SHARP, PUBLISHED])
def test_no_ghost_of_a_moving_thing_comes_from_another_frame(settings):
    where = [camera(at=(0.3 * (i - 1), 0, 0)) for i in range(3)]
    before, current, after = (wall_view(i, where[i], paint=x) for i, x in enumerate((-0.9, 0.0, 1.3)))
    target = Target(1, camera(at=(0.2, 0, 0)), None)
    picture = SplatRenderer(settings, "cpu").render(target, current, [before, after]).frame.to_rgb()
    blue = picture[..., 2] > 0.5
    truth = wall_view(1, target.camera, paint=0.0)
    assert (blue & cv2.erode(truth.dynamic_mask.astype(np.uint8), np.ones((3, 3))).astype(bool)).sum() > 50
    assert not (blue & ~(cv2.dilate(truth.dynamic_mask.astype(np.uint8), np.ones((5, 5))) > 0)).any()


def at_the_true_target(category, i, step):
    """A clip as a camera sees it, rendered at the stable camera of frame i with neighbours step frames away: the result,
    the mean square error [h, w], and where static things are shown by one surface. Only pixels that two surfaces share,
    and their neighbours, are left out."""
    clip = make_clip(category, frames=i + step + 1, width=320, height=180)

    def view(j):
        rgb = clip.photographed(j, clip.trajectory.camera(j))
        planes = tuple(np.ascontiguousarray(rgb[..., c]) for c in range(3))
        return View(Frame(j, planes, RGB32), clip.trajectory.camera(j), None, *clip.truth(j))

    target = Target(i, clip.stable.camera(i), None)
    rendered = SplatRenderer(SHARP, "cpu").render(target, view(i), [view(i - step), view(i + step)])
    error = ((rendered.frame.to_rgb() - clip.photographed(i, target.camera)) ** 2).mean(-1)
    depth, moves = clip.truth_at(i, target.camera)
    edges = cv2.dilate(depth, np.ones((3, 3))) / cv2.erode(depth, np.ones((3, 3))) > 1.03
    return rendered, error, cv2.dilate((edges | moves).astype(np.uint8), np.ones((3, 3))) == 0


@pytest.mark.parametrize("category", ["parallax", "crowd"])
def test_the_true_target_is_matched_on_static_textured_areas(category):
    """On all of them, hard borders of paint included, as a camera sees them: a picture of point samples, which holds
    detail finer than its pixels, is not the same after any resampling."""
    rendered, error, static = at_the_true_target(category, 4, 1)
    static &= ~rendered.hole_mask
    assert static.mean() > 0.5
    assert -10 * np.log10(error[static].mean()) >= 38


def test_what_neighbours_fill_in_a_crowd_shows_no_person_of_another_moment():
    rendered, error, static = at_the_true_target("crowd", 8, 4)
    filled = static & ~rendered.hole_mask & ~rendered.current_mask
    assert filled.sum() > 1000
    assert -10 * np.log10(error[filled].mean()) >= 35
    assert error[filled].max() < 0.02


def test_residual_paths_of_both_sides_are_followed():
    grid = np.zeros((3, 5, 2), np.float32)
    grid[..., 0] = 3.0
    view = wall_view(0, camera())
    moved = dataclasses.replace(view, residual_px=grid)
    still = SplatRenderer(SHARP, "cpu").render(dataclasses.replace(nudged(view), residual_px=grid), moved, [])
    assert np.abs(still.frame.to_rgb() - view.frame.to_rgb()).max() < 1e-5
    undone = SplatRenderer(SHARP, "cpu").render(Target(0, view.camera, np.zeros_like(grid)), moved, [])
    # What the view shows at p + 3 px belongs at p.
    assert np.abs(undone.frame.to_rgb()[:, 5:-8] - view.frame.to_rgb()[:, 8:-5]).max() < 1e-4


def test_unknown_depth_is_a_hole_not_a_guess():
    view = wall_view(0, camera())
    view.depth[20:40, 50:90] = np.nan
    rendered = SplatRenderer(SHARP, "cpu").render(nudged(view), view, [])
    assert rendered.hole_mask[22:38, 52:88].all() and rendered.hole_mask.sum() <= 20 * 40


def test_small_depth_is_exact_on_planes_and_sharp_at_edges():
    y, x = torch.meshgrid((torch.arange(120) + 0.5) / 120, (torch.arange(200) + 0.5) / 200, indexing="ij")
    plane = 1 / (0.2 + 0.3 * x + 0.1 * y)
    small = 1 / (0.2 + 0.3 * x[3::8, 3::8] + 0.3 * 0.5 / 200 + 0.1 * (y[3::8, 3::8] + 0.5 / 120))
    lifted = upsampled_depth(small, torch.zeros(120, 200))
    inner = (slice(8, -8), slice(8, -8))
    assert ((lifted / plane - 1).abs()[inner]).max() < 1e-4
    on_card = ((x - 0.5) ** 2 + (y - 0.5) ** 2) < 0.09
    depth, guide = torch.where(on_card, 1.0, 4.0), torch.where(on_card, 0.8, 0.3)
    small = torch.nn.functional.interpolate(depth[None, None], size=(15, 25), mode="nearest-exact")[0, 0]
    lifted = upsampled_depth(small, guide)
    bilinear = torch.nn.functional.interpolate(small[None, None], size=(120, 200), mode="bilinear")[0, 0]
    wrong, usual = (((d / depth - 1).abs() > 0.05).float().mean() for d in (lifted, bilinear))
    assert wrong < 0.015 < 0.1 < usual, (wrong, usual)
    assert ((lifted - 1).abs() < 0.02).logical_or((lifted - 4).abs() < 0.1).all(), "nothing floats between the surfaces"


def test_colour_and_frame_number_are_the_currents():
    view = wall_view(7, camera())
    tagged = dataclasses.replace(view, frame=dataclasses.replace(view.frame, colour=ColourTags(9, 16, 9, True)))
    rendered = SplatRenderer(SHARP, "cpu").render(Target(7, camera(at=(0.1, 0, 0)), None), tagged, [])
    assert rendered.frame.frame_index == 7 and rendered.frame.colour == ColourTags(9, 16, 9, True)
