# SPDX-License-Identifier: Apache-2.0
"""A clip with a lens profile: the reconstructor sees straight pictures, everything after it the clip's own lens."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from vs3r_engine.camera import Camera, Trajectory, inverse, points_of_pixels
from vs3r_engine.errors import EngineFault, InputError
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.lens import Lens, pixels_of_points, rays_of_pixels
from vs3r_engine.methods.rectified import RectifiedReconstructor
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import Settings
from vs3r_engine.stages.mask import pixel_centres, rigid_flow

WIDTH, HEIGHT = 160, 90
PROFILE = {
    "model": "fisheye",
    "width": 320,
    "height": 180,
    "fx": 190,
    "fy": 190,
    "cx": 160,
    "cy": 90,
    "parameters": {"k1": 0.03, "k2": -0.01},
}
OWN = Lens("fisheye", (0.03, -0.01) + (0.0,) * 10)


class Inner:
    """Records the frames it is given and answers what it was told to, in the straight pictures' geometry."""

    moving = np.s_[8:16, 15:25]

    def __init__(self, settings, residual_px=None):
        self.focal_px = settings.analysis.focal_mm / 36 * WIDTH
        self.frames, self.residual_px = [], residual_px

    def reconstruct(self, frames, rate):
        self.frames = list(frames)
        n = len(self.frames)
        K = np.tile(np.array([[self.focal_px, 0, WIDTH / 2], [0, self.focal_px, HEIGHT / 2], [0, 0, 1]]), (n, 1, 1))
        world_from_camera = np.tile(np.eye(4), (n, 1, 1))
        world_from_camera[:, 0, 3] = 0.05 * np.arange(n)
        x = np.tile(np.linspace(2, 4, 40, dtype=np.float32), (n, 24, 1))
        mask = np.zeros((n, 24, 40), bool)
        mask[:, *self.moving] = True
        yield Reconstruction(Trajectory(0, WIDTH, HEIGHT, K, world_from_camera, self.residual_px), x, np.ones_like(x), mask)


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "lens.json"
    path.write_text(json.dumps(PROFILE))
    return str(path)


def reconstructed(profile, frames, **options):
    holder = {}

    def inner(settings):
        assert settings.analysis.input_lens == "perspective"
        holder["inner"] = Inner(settings, **options)
        return holder["inner"]

    method = RectifiedReconstructor(Settings().with_values({"analysis.input_lens": profile}), inner)
    (piece,) = method.reconstruct(iter(frames), Fraction(30))
    return piece, holder["inner"]


def fisheye_frames(count):
    """A grid of straight lines in space, as the fisheye lens shows it."""
    K = np.array([[95.0, 0, 80], [0, 95, 45], [0, 0, 1]])
    lens = dataclasses.replace(OWN, largest_angle_rad=1.5)
    rays = rays_of_pixels(pixel_centres(WIDTH, HEIGHT), K, lens)
    plane = rays[..., :2] / rays[..., 2:]
    wave = (0.5 + 0.5 * np.sin(14 * plane[..., 0])) * (0.5 + 0.5 * np.sin(14 * plane[..., 1]))
    return [Frame(i, (np.float32(wave),) * 3, PixelLayout("rgb", 32)) for i in range(count)]


def test_the_inner_reconstructor_sees_straight_lines_and_knows_the_focal_length(profile):
    _, inner = reconstructed(profile, fisheye_frames(1))
    straight = inner.frames[0].planes[0]
    plane = rays_of_pixels(pixel_centres(WIDTH, HEIGHT), np.array([[inner.focal_px, 0, 80], [0, inner.focal_px, 45], [0, 0, 1]]), None)
    expected = (0.5 + 0.5 * np.sin(14 * plane[..., 0])) * (0.5 + 0.5 * np.sin(14 * plane[..., 1]))
    inner_part = (slice(8, -8), slice(8, -8))
    assert np.abs(straight - expected)[inner_part].max() < 0.03


def test_what_comes_out_lies_on_the_clips_own_picture(profile):
    piece, inner = reconstructed(profile, fisheye_frames(2))
    path = piece.trajectory
    assert path.lenses[0] is not None and np.allclose(path.K[0], [[95, 0, 80], [0, 95, 45], [0, 0, 1]])
    rays = rays_of_pixels(pixel_centres(40, 24) * (WIDTH / 40, HEIGHT / 24), path.K[0], path.lenses[0])
    straight_x = inner.focal_px * rays[..., 0] / rays[..., 2] + WIDTH / 2
    expected = 2 + 2 * (straight_x / WIDTH * 40 - 0.5) / 39
    known = piece.confidence[0] > 0
    assert np.isfinite(piece.depth).all() and 0.9 < known.mean() < 1
    assert np.abs(piece.depth[0] - expected)[known].max() < 0.06 and abs((piece.depth[0] - expected)[known].mean()) < 0.005
    # Beyond the straight picture depth goes on as at its border.
    assert piece.depth.min() == 2 and piece.depth.max() == 4
    assert piece.semantic_mask.shape == piece.depth.shape and 0.04 < piece.semantic_mask.mean() < 0.2


def test_where_the_straight_picture_does_not_reach_nothing_moves_and_where_no_ray_leads_nothing_is_known(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(Inner, "moving", np.s_[:, :])
    piece, _ = reconstructed(profile, fisheye_frames(1))
    assert np.array_equal(piece.semantic_mask[0], piece.confidence[0] > 0)
    narrow = tmp_path / "narrow.json"
    narrow.write_text(json.dumps(PROFILE | {"largest_angle_deg": 40}))
    piece, _ = reconstructed(str(narrow), fisheye_frames(1))
    rays = rays_of_pixels(pixel_centres(40, 24) * (WIDTH / 40, HEIGHT / 24), piece.trajectory.K[0], piece.trajectory.lenses[0])
    unseen = np.isnan(rays[..., 0])
    assert 0.05 < unseen.mean() < 0.5 and np.array_equal(np.isnan(piece.depth[0]), unseen) and not piece.confidence[0][unseen].any()


@pytest.mark.parametrize(("width", "height", "focal_px"), [(320, 180, 190), (180, 320, 190), (320, 180, 60)])
def test_the_straight_picture_reaches_every_side_but_of_very_wide_lenses(tmp_path, width, height, focal_px):
    file = tmp_path / "lens.json"
    file.write_text(
        json.dumps(PROFILE | {"width": width, "height": height, "fx": focal_px, "fy": focal_px, "cx": width / 2, "cy": height / 2})
    )
    told = []
    RectifiedReconstructor(Settings().with_values({"analysis.input_lens": str(file)}), lambda given: told.append(given.analysis.focal_mm))
    straight_px = told[0] / 36 * max(width, height)
    angles = np.arctan(np.array([width, height]) / 2 / straight_px)
    reached = focal_px * angles * (1 + 0.03 * angles**2 - 0.01 * angles**4) / (width / 2, height / 2)
    if focal_px > 100:
        assert reached.min() == pytest.approx(1) and reached.max() >= 1
    else:
        assert angles.min() == pytest.approx(np.radians(60))


def test_a_profile_for_pictures_of_another_shape_is_refused(profile, tmp_path):
    file = tmp_path / "four_by_three.json"
    file.write_text(json.dumps(PROFILE | {"width": 240}))
    with pytest.raises(InputError) as error:
        reconstructed(str(file), fisheye_frames(1))
    assert error.value.code == "bad-lens-profile" and "240 x 180" in error.value.message and "160 x 90" in error.value.message


def test_rigid_flow_through_the_lens_is_where_the_points_go(profile):
    piece, _ = reconstructed(profile, fisheye_frames(2))
    path = piece.trajectory
    cameras = [path.camera(i).resized(40, 24) for i in (0, 1)]
    flow = rigid_flow(piece.depth[0], *cameras)
    rays = rays_of_pixels(pixel_centres(40, 24), cameras[0].K, path.lenses[0])
    points = rays / rays[..., 2:] * piece.depth[0][..., None]
    to = inverse(cameras[1].world_from_camera)
    seen = pixels_of_points(points @ to[:3, :3].T + to[:3, 3], cameras[1].K, path.lenses[0])
    known = np.isfinite(flow[..., 0])
    assert known.mean() > 0.85 and np.abs(flow - (seen - pixel_centres(40, 24)))[known].max() < 0.01


def test_residual_paths_are_carried_through_the_lens(profile):
    grid = np.zeros((2, 5, 9, 2), np.float32)
    grid[1, ..., 0] = 2.0
    piece, inner = reconstructed(profile, fisheye_frames(2), residual_px=grid)
    own = piece.trajectory.residual_px
    assert np.abs(own[0]).max() < 1e-3
    # In the middle the straight picture is magnified by the ratio of the focal lengths.
    assert own[1, 2, 4, 0] == pytest.approx(2.0 * 95 / inner.focal_px, rel=0.01) and abs(own[1, 2, 4, 1]) < 1e-3
    x, y = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 5))
    grid[1] = np.stack([5 * x - 3 * y, 4 * y], -1)
    piece, inner = reconstructed(profile, fisheye_frames(2), residual_px=grid)
    path, own = piece.trajectory, piece.trajectory.residual_px
    straight_K = np.array([[inner.focal_px, 0, 80], [0, inner.focal_px, 45], [0, 0, 1]])
    vertices = np.stack([x * WIDTH, y * HEIGHT], -1)
    straight = pixels_of_points(rays_of_pixels(vertices, path.K[1], path.lenses[0]), straight_K, None)
    inside = ((straight >= 0) & (straight <= (WIDTH, HEIGHT))).all(-1)
    u, v = np.moveaxis(straight / (WIDTH, HEIGHT), -1, 0)
    shown = straight + np.stack([5 * u - 3 * v, 4 * v], -1)
    expected = pixels_of_points(rays_of_pixels(shown, straight_K, None), path.K[1], path.lenses[0]) - vertices
    assert inside.sum() > 20 and np.abs(own[1] - expected)[inside].max() < 0.04


def test_a_camera_is_resized_with_its_lens_and_sees_ahead_only():
    camera = Camera(np.array([[4.0, 0.5, 5], [0, 6, 5], [0, 0, 1]]), 10, 10, np.eye(4), OWN)
    larger = camera.resized(20, 30)
    assert larger.lens is camera.lens and (larger.width, larger.height) == (20, 30)
    assert larger.K.tolist() == [[8, 1, 10], [0, 18, 15], [0, 0, 1]]
    at = pixels_of_points(np.array([[1.0, 0, 2], [1.0, 0, 0.01], [1.0, 0, -1]]), camera.K, OWN)
    points = points_of_pixels(at, camera, 3.0)
    assert points[0] == pytest.approx([1.5, 0, 3], abs=1e-6) and np.isnan(points[1:]).all()


def test_a_path_has_no_frames_beyond_its_ends():
    path = Trajectory(
        5, 8, 8, np.tile(np.eye(3), (4, 1, 1)), np.tile(np.eye(4), (4, 1, 1)), np.arange(4.0).reshape(4, 1, 1, 1) * np.ones((1, 2, 2, 2))
    )
    part = path.sliced(6, 9)
    assert (part.first_frame, len(part)) == (6, 3) and (path.residual(7) == part.residual(7)).all() and path.residual(7)[0, 0, 0] == 2
    for start, end in ((4, 6), (6, 10), (7, 7)):
        with pytest.raises(EngineFault):
            path.sliced(start, end)
    for spoiled in ({"world_from_camera": path.world_from_camera[1:]}, {"residual_px": path.residual_px[1:]}):
        with pytest.raises(EngineFault):
            dataclasses.replace(path, **spoiled)


def test_a_profile_that_was_written_again_is_another_analysis(tmp_path):
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE))
    settings = Settings().with_values({"analysis.input_lens": str(file)})
    before, path_before = settings.digest("analysis"), settings.digest("path")
    assert settings.digest("analysis") == before
    file.write_text(json.dumps(PROFILE | {"fx": 1900}))
    assert settings.digest("analysis") != before and settings.digest("path") == path_before
    assert Settings().with_values({"analysis.input_lens": "/" + "x" * 300}).digest("analysis")
