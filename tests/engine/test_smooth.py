# SPDX-License-Identifier: Apache-2.0
"""The path filter of eq. 2-3: what it keeps, what it removes, where it ends."""

import tracemalloc
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vs3r_engine.camera import Trajectory
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.lens import Lens
from vs3r_engine.scene import PictureBounds, Target, View
from vs3r_engine.settings import FrameSettings, PathSettings
from vs3r_engine.stages.framing import framed, missing_share, moved_px, unseen_share
from vs3r_engine.stages.reframe import reframes
from vs3r_engine.stages.render import source_positions
from vs3r_engine.stages.smooth import filtered, local_line, smooth
from vs3r_engine.timeline import FrameRange

RATE = Fraction(30)
FRAME = Frame(0, (np.zeros((360, 640), np.uint8),), PixelLayout("gray", 8))


def path_of(rotations: Rotation, centres=None, *, focal_px=600.0, residual=None, first_frame=0) -> Trajectory:
    n = len(rotations)
    K = np.tile(np.array([[focal_px, 0, 320], [0, focal_px, 180], [0, 0, 1.0]]), (n, 1, 1))
    world_from_camera = np.tile(np.eye(4), (n, 1, 1))
    world_from_camera[:, :3, :3] = rotations.as_matrix()
    if centres is not None:
        world_from_camera[:, :3, 3] = centres
    return Trajectory(first_frame, 640, 360, K, world_from_camera, residual)


def angle_deg(a: Trajectory, b: Trajectory) -> np.ndarray:
    difference = np.swapaxes(a.world_from_camera[:, :3, :3], 1, 2) @ b.world_from_camera[:, :3, :3]
    return np.degrees(Rotation.from_matrix(difference).magnitude())


def yaw(angles_deg) -> Rotation:
    return Rotation.from_rotvec(np.radians(np.asarray(angles_deg))[:, None] * np.array([0.0, 1.0, 0.0]))


def shaky(n: int, seed: int = 0, amount_deg: float = 0.5) -> Rotation:
    return Rotation.from_rotvec(np.radians(np.random.default_rng(seed).normal(0, amount_deg, (n, 3))))


def whole(path: Trajectory) -> list[FrameRange]:
    return [FrameRange(path.first_frame, len(path))]


def test_a_constant_pan_and_walk_come_out_unchanged_up_to_their_ends():
    measured = path_of(yaw(np.linspace(0, 30, 200)), np.linspace(0, 2, 200)[:, None] * [1.0, 0.2, 0.5])
    calm = smooth(measured, whole(measured), RATE, PathSettings(smoothness=80))
    assert angle_deg(measured, calm).max() < 0.01
    np.testing.assert_allclose(calm.world_from_camera[:, :3, 3], measured.world_from_camera[:, :3, 3], atol=1e-9)


@pytest.mark.parametrize("settings", [PathSettings(), PathSettings(mode="locked"), PathSettings(smoothness=85)])
def test_a_tripod_shot_that_only_measuring_moves_stays_as_it_is(settings):
    tripod, held = (path_of(shaky(90, amount_deg=np.degrees(px / 600))) for px in (0.02, 0.3))
    calm = smooth(tripod, whole(tripod), RATE, settings)
    assert np.array_equal(calm.world_from_camera, tripod.world_from_camera)
    calm = smooth(held, whole(held), RATE, settings)
    assert angle_deg(held, calm).max() > 0.01


def test_the_filter_is_the_gaussian_of_equation_3_where_its_window_is_whole():
    values = np.random.default_rng(1).normal(size=(101, 2))
    sigma_frames = 10.0
    weight = np.exp(-(np.arange(-30, 31) ** 2) / (2 * sigma_frames**2))
    expected = (weight[:, None] * values[50 - 30 : 50 + 31]).sum(0) / weight.sum()
    np.testing.assert_allclose(local_line(values, sigma_frames)[50], expected, atol=1e-12)


def test_the_filter_does_not_lag():
    impulse = np.zeros(121)
    impulse[60] = 1.0
    response = local_line(impulse, 8.0)
    np.testing.assert_allclose(response, response[::-1], atol=1e-12)


def test_shake_is_removed():
    measured = path_of(shaky(300))
    calm = smooth(measured, whole(measured), RATE, PathSettings())
    before, after = (np.diff(Rotation.from_matrix(p.world_from_camera[:, :3, :3]).as_rotvec(), n=2, axis=0) for p in (measured, calm))
    assert np.linalg.norm(after) < np.linalg.norm(before) / 100


def test_a_turning_camera_that_does_not_move_is_not_given_a_drift():
    centre = np.array([3.0, -1.0, 2.0])
    measured = path_of(yaw(np.linspace(0, 90, 200)) * shaky(200), np.tile(centre, (200, 1)))
    calm = smooth(measured, whole(measured), RATE, PathSettings())
    np.testing.assert_allclose(calm.world_from_camera[:, :3, 3], np.tile(centre, (200, 1)), atol=1e-9)


def test_smoothing_commutes_with_the_choice_of_world():
    measured = path_of(yaw(np.linspace(0, 40, 150)) * shaky(150), np.random.default_rng(2).normal(size=(150, 3)))
    other_from_world = np.eye(4)
    other_from_world[:3, :3] = Rotation.from_rotvec([0.4, -1.0, 0.3]).as_matrix()
    other_from_world[:3, 3] = [5, 6, -7]
    moved = replace(measured, world_from_camera=other_from_world @ measured.world_from_camera)
    expected = other_from_world @ filtered(measured, 10.0).world_from_camera
    np.testing.assert_allclose(filtered(moved, 10.0).world_from_camera, expected, atol=1e-9)


def test_flipped_quaternion_signs_change_nothing():
    turn = yaw(np.linspace(0, 720, 400))  # passes every sign flip twice
    measured = path_of(turn)
    assert angle_deg(measured, filtered(measured, 10.0))[30:-30].max() < 0.001


def test_strength_mixes_all_of_the_path_and_zero_is_the_measured_one():
    residual = np.random.default_rng(3).normal(size=(100, 3, 4, 2)).astype(np.float32)
    measured = path_of(shaky(100), np.random.default_rng(4).normal(0, 0.1, (100, 3)), residual=residual)
    measured.K[:, [0, 1], [0, 1]] *= np.exp(np.random.default_rng(5).normal(0, 0.02, (100, 2)))
    assert smooth(measured, whole(measured), RATE, PathSettings(strength=0)) is measured
    full = smooth(measured, whole(measured), RATE, PathSettings())
    part = smooth(measured, whole(measured), RATE, PathSettings(strength=75))
    np.testing.assert_allclose(angle_deg(measured, part), 0.75 * angle_deg(measured, full), atol=1e-3)
    for asked, calm, mixed in (
        [path.K for path in (measured, full, part)],
        [path.world_from_camera[:, :3, 3] for path in (measured, full, part)],
        [path.residual_px for path in (measured, full, part)],
    ):
        assert np.abs(calm - asked).max() > 0.01
        np.testing.assert_allclose(mixed, 0.25 * asked + 0.75 * calm, atol=1e-5)


def test_locked_stands_still_where_the_shot_was_on_average():
    residual = np.random.default_rng(8).normal(3.0, 1.0, (120, 3, 4, 2)).astype(np.float32)
    centres = np.random.default_rng(9).normal([5.0, -2.0, 1.0], 0.01, (120, 3))
    measured = path_of(yaw(np.full(120, 40.0)) * shaky(120, amount_deg=0.3), centres, residual=residual)
    measured = replace(measured, K=measured.K * np.linspace(1, 1.02, 120)[:, None, None] ** [[[1], [1], [0]]])
    calm = smooth(measured, whole(measured), RATE, PathSettings(mode="locked"))
    for path in (calm.world_from_camera, calm.K, calm.residual_px):
        assert np.ptp(path, axis=0).max() < 1e-6
    assert angle_deg(path_of(yaw([40.0])), calm.sliced(0, 1)).max() < 0.15
    np.testing.assert_allclose(calm.world_from_camera[0, :3, 3], centres.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(calm.K[0], measured.K.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(calm.residual_px[0], residual.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("smoothness", [50.0, 0.0])
def test_horizon_lock_takes_the_roll_out_of_a_wandering_horizon(smoothness):
    roll = 6 * np.sin(np.linspace(0, 3, 240))
    measured = path_of(Rotation.from_rotvec(np.radians(roll)[:, None] * np.array([0.0, 0.0, 1.0])))
    calm = smooth(measured, whole(measured), RATE, PathSettings(horizon_lock=True, smoothness=smoothness))
    right = calm.world_from_camera[:, :3, 0]
    assert np.ptp(np.degrees(np.arcsin(right[:, 1]))) < 0.01
    assert np.allclose(np.linalg.det(calm.world_from_camera[:, :3, :3]), 1.0)


def test_a_whip_pan_does_not_leave_the_picture():
    whip = path_of(yaw(np.concatenate([np.zeros(60), np.linspace(0, 120, 20), np.full(60, 120.0)])))
    calm = smooth(whip, whole(whip), RATE, PathSettings())
    assert missing_share(whip, filtered(whip, 24.0)).max() > 0.5
    assert missing_share(whip, calm).max() < 0.35


@pytest.mark.parametrize("frames", [1, 3, 9])
@pytest.mark.parametrize(
    "chosen", [PathSettings(), PathSettings(mode="locked"), PathSettings(smoothness=85)], ids=["natural", "locked", "glide"]
)
def test_a_jerk_to_another_view_is_followed_and_what_is_before_and_after_it_is_calmed(frames, chosen):
    # 640 pixels see 56 degrees.
    jerked = path_of(yaw(np.interp(np.arange(160), [79, 79 + frames], [0, 28])) * shaky(160), np.zeros((160, 3)))
    residual = np.random.default_rng(3).normal(size=(160, 3, 4, 2)).astype(np.float32)
    jerked = replace(jerked, residual_px=residual)
    calm = smooth(jerked, whole(jerked), RATE, chosen, np.full(160, 5.0))
    assert missing_share(jerked, filtered(jerked, 24.0)).max() > 0.18
    assert missing_share(jerked, calm).max() < 0.08
    turns = np.diff(Rotation.from_matrix(calm.world_from_camera[:, :3, :3]).as_rotvec(degrees=True), axis=0)
    assert np.linalg.norm(np.delete(np.diff(turns, axis=0), slice(77, 80 + frames), axis=0), axis=1).max() < 0.03
    for asked, found in ((jerked.world_from_camera, calm.world_from_camera), (jerked.residual_px, calm.residual_px)):
        np.testing.assert_allclose(found[80 : 79 + frames], asked[80 : 79 + frames], atol=1e-6)


@pytest.mark.parametrize(
    "yaw_deg",
    [
        np.interp(np.arange(160), [79, 81, 85, 87], [0, 28, 28, 0]),
        np.interp(np.arange(160), [79, 82], [0, 18]),
        np.interp(np.arange(160), [60, 72], [0, 60]),
        np.interp(np.arange(160), [60, 90], [0, 100]) + 3 * np.sin(np.arange(160) * 1.1),
        np.interp(np.arange(160), [3, 6, 60, 150], [0, 28, 28, 0]),
        15 * np.sin(np.arange(160) * 1.1),
    ],
    ids=["a bump", "too little", "a pan", "a shaken pan", "a shot's first frames", "shake"],
)
def test_what_comes_back_or_goes_on_is_no_jerk_to_another_view(yaw_deg):
    assert reframes(path_of(yaw(yaw_deg) * shaky(160, amount_deg=0.2)), RATE, 0.18) == []


def test_jerks_to_another_view_and_back_are_as_far_apart_as_a_view_has_to_stay():
    def found(stays_frames, tilt=False):
        angle = np.interp(np.arange(160), [60, 62, 62 + stays_frames, 64 + stays_frames], [0, 28, 28, 0])
        turn = Rotation.from_rotvec(np.radians(angle)[:, None] * ([1.0, 0, 0] if tilt else [0, 1.0, 0]))
        return reframes(path_of(turn), RATE, 0.18)

    assert found(9) == [(60, 62), (71, 73)]
    assert found(9, tilt=True) == [(60, 62), (71, 73)]
    assert found(8) == []
    twice = np.interp(np.arange(160), [60, 62, 68, 70], [0, 28, 28, 57])
    assert reframes(path_of(yaw(twice)), RATE, 0.18) == [(68, 70)]


def test_a_jerk_begins_and_ends_where_the_camera_is_quick():
    eased = 14 - 14 * np.cos(np.pi * np.clip((np.arange(160) - 79) / 9, 0, 1))
    assert reframes(path_of(yaw(eased)), RATE, 0.18) == [(80, 87)]


def test_shake_alone_is_taken_out_whole_though_it_uncovers_a_third_of_the_picture():
    shaken = path_of(yaw(15 * np.sin(np.arange(150) * 1.1)))
    assert missing_share(shaken, filtered(shaken, 24.0)).max() > 0.3
    assert angle_deg(smooth(shaken, whole(shaken), RATE, PathSettings()), filtered(shaken, 24.0)).max() < 1e-3


def test_a_shot_that_begins_in_a_pan_does_not_show_what_is_never_seen():
    # 5 degrees a second, then 40: the line through the first second begins where the camera never looked.
    pan = path_of(yaw(np.cumsum(np.where(np.arange(150) < 15, 1 / 6, np.where(np.arange(150) < 45, 4 / 3, 1 / 6)))))
    around = np.arange(-30, 31, 5)
    plain, calm = filtered(pan, 24.0), smooth(pan, whole(pan), RATE, PathSettings())
    assert unseen_share(pan, plain, around).max() > 0.06
    assert unseen_share(pan, calm, around).max() <= 0.03
    assert angle_deg(plain, calm)[110:].max() < 1e-3


def test_judging_a_long_path_takes_little_memory():
    n = 20_000
    path = path_of(yaw(np.sin(np.arange(n) * 0.3)))
    tracemalloc.start()
    unseen_share(path, path_of(yaw(np.zeros(n))), [5, -5])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_unseen_is_what_neither_the_frame_nor_those_around_it_cover():
    # 640 pixels see 56 degrees; the second frame looks 0.25 of its width to the right, the third 0.5.
    turn_deg = np.degrees(np.arctan2(320, 600)) - np.degrees(np.arctan2(160, 600))
    measured = path_of(yaw([0.0, turn_deg, turn_deg]))
    asked = path_of(yaw([turn_deg, turn_deg, 0.0]))
    assert missing_share(measured, asked)[[0, 1]] == pytest.approx([0.25, 0.0], abs=0.05)
    assert unseen_share(measured, asked, [1]) == pytest.approx([0.0, 0.0, missing_share(measured, asked)[2]], abs=0.01)
    assert unseen_share(measured, asked, [-1, -2]) == pytest.approx([missing_share(measured, asked)[0], 0.0, 0.0], abs=0.01)
    # What two turns leave is what the nearer of them leaves.
    turning, further = path_of(yaw([0.0, 10.0])), path_of(yaw([20.0, 20.0]))
    assert unseen_share(turning, further, [1])[0] == pytest.approx(missing_share(turning, further)[1], abs=1e-9) != 0
    near = np.full(3, 2.0)
    moved = path_of(yaw([0.0, 0.0, 0.0]), np.array([[0, 0, 0], [0.25, 0, 0], [1.0, 0, 0]]))
    ahead = path_of(yaw([0.0, 0.0, 0.0]), np.array([[0.5, 0, 0], [0.25, 0, 0], [1.5, 0, 0]]))
    # Half a unit sideways, two units away: 150 of 640 pixels.
    assert missing_share(moved, ahead, near) == pytest.approx([150 / 640, 0.0, 150 / 640], abs=0.03)
    assert unseen_share(moved, ahead, [1], near) == pytest.approx([75 / 640, 0.0, 150 / 640], abs=0.03)


def test_a_picture_is_found_where_turn_depth_and_residual_path_together_move_it():
    still, turn_deg, near = path_of(yaw([0.0])), np.degrees(np.arctan2(150, 600)), np.full(1, 2.0)
    aside, back = (path_of(yaw([angle]), [[0.5, 0, 0]]) for angle in (0.0, -turn_deg))
    # A camera that moved aside and turned back covers what it did, but for its slant; a residual path can undo a turn too.
    assert missing_share(still, aside, near) > 0.2 > 0.1 > missing_share(still, back, near)
    turned = path_of(yaw([turn_deg]), residual=np.zeros((1, 3, 5, 2), np.float32))
    undone = path_of(yaw([0.0]), residual=np.float32([-150, 0]) * np.ones((1, 3, 5, 1), np.float32))
    assert missing_share(undone, turned) < 0.15 < 0.2 < missing_share(still, turned)
    assert missing_share(still, path_of(yaw([120.0]))) == 1
    # Residual paths are bilinear between vertices that span the picture; the outermost places asked are 1/40 inside it.
    y, x = np.meshgrid([0.0, 10.0, 20.0], [0.0, 1.0, 2.0, 3.0, 4.0], indexing="ij")
    stretched = path_of(yaw([0.0]), residual=np.stack([x, y], -1)[None].astype(np.float32))
    assert moved_px(stretched, replace(stretched, residual_px=0 * stretched.residual_px)) == pytest.approx(np.hypot(3.9, 19.5))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("mode", ["smooth", "locked"])
def test_the_shortest_clips_have_a_path(n, mode):
    measured = path_of(shaky(n), residual=np.zeros((n, 4, 5, 2), np.float32))
    calm = smooth(measured, whole(measured), RATE, PathSettings(mode=mode, horizon_lock=True))
    assert len(calm) == n and np.isfinite(calm.world_from_camera).all()


def test_frames_move_through_their_own_lenses():
    measured = path_of(shaky(12))
    lenses = (Lens("division", (-0.2,)),) * 4 + (None,) * 4 + (Lens("fisheye", (0.0,) * 12),) * 4
    measured = replace(measured, lenses=lenses)
    steady = filtered(measured, 4.0)
    moved = moved_px(measured, steady)
    cells = (np.arange(20) + 0.5) / 20
    pixels = np.stack(np.meshgrid(cells * measured.width, cells * measured.height), -1)
    for i in range(12):
        view = View(FRAME, measured.camera(i), None, np.ones((2, 2)), np.zeros((2, 2), bool))
        found = source_positions(Target(i, steady.camera(i), None), view, pixels)
        assert moved[i] == pytest.approx(np.linalg.norm(found - pixels, axis=-1).max(), abs=1e-6)


@pytest.mark.parametrize("zoom", ["static", "dynamic"])
def test_crop_shows_nothing_unseen(zoom):
    measured = path_of(shaky(120, amount_deg=0.8))
    calm = smooth(measured, whole(measured), RATE, PathSettings())
    cropped = framed(measured, calm, whole(measured), RATE, FrameSettings(framing="crop", zoom=zoom, zoom_limit=200))
    assert missing_share(measured, calm).max() > 0.02
    assert missing_share(measured, cropped).max() == 0.0
    if zoom == "static":
        assert np.ptp(cropped.K[:, 0, 0] / calm.K[:, 0, 0]) < 1e-12


def test_the_residual_path_is_smoothed_like_the_camera():
    residual = np.random.default_rng(3).normal(size=(200, 3, 4, 2)).cumsum(0).astype(np.float32)
    measured = path_of(yaw(np.zeros(200)), residual=residual)
    calm = smooth(measured, whole(measured), RATE, PathSettings())
    np.testing.assert_allclose(calm.residual_px, local_line(residual, 2.0 * 0.5**1.322 * 30), atol=1e-4)


def test_every_shot_of_a_part_of_a_clip_is_smoothed_as_if_it_were_alone():
    n = 90
    measured = path_of(
        yaw(np.cumsum(np.random.default_rng(4).normal(0, 1.5, n))), np.random.default_rng(5).normal(0, 0.2, (n, 3)), first_frame=100
    )
    residual = np.random.default_rng(6).normal(size=(n, 3, 4, 2)).astype(np.float32)
    measured = replace(measured, K=measured.K * np.linspace(1, 1.5, n)[:, None, None] ** [[[1], [1], [0]]], residual_px=residual)
    depth = np.linspace(1, 9, n)
    shots = [FrameRange(100, 40), FrameRange(140, 50)]
    settings = PathSettings(strength=70, horizon_lock=True)
    together = smooth(measured, shots, RATE, settings, depth)
    assert (len(together), together.first_frame) == (n, 100)
    for shot, part in zip(shots, (slice(0, 40), slice(40, 90)), strict=True):
        alone = smooth(measured.sliced(shot.start, shot.end_exclusive), [shot], RATE, settings, depth[part])
        for name in ("K", "world_from_camera", "residual_px"):
            np.testing.assert_array_equal(getattr(together, name)[part], getattr(alone, name))
        assert np.abs(alone.residual_px - residual[part]).max() > 1


def test_a_shaky_zoom_becomes_a_steady_one_and_a_steady_one_stays():
    measured = path_of(yaw(np.zeros(200)))
    steady = np.exp(np.linspace(0, 0.7, 200))[:, None]
    for zoom, left in ((steady, 1e-9), (steady * np.exp(np.random.default_rng(7).normal(0, 0.01, (200, 2))), 0.004)):
        K = measured.K.copy()
        K[:, [0, 1], [0, 1]] *= zoom
        calm = smooth(replace(measured, K=K), whole(measured), RATE, PathSettings())
        assert np.abs(calm.K[:, [0, 1], [0, 1]] / (600 * steady) - 1)[20:-20].max() < left
        np.testing.assert_array_equal(calm.K[:, :, 2], measured.K[:, :, 2])


def test_crop_keeps_dark_edges_out_leaves_bars_where_they_are_and_ends_at_its_limit():
    still = path_of(yaw(np.zeros(3)))

    def zoom(bounds, smoothed=still, limit=130.0):
        chosen = FrameSettings(framing="crop", zoom_limit=limit)
        return framed(still, smoothed, whole(still), RATE, chosen, None, bounds).K[:, [0, 1], [0, 1]] / 600

    assert zoom(PictureBounds()) == pytest.approx(1.0)
    assert zoom(PictureBounds((20, 0, 0, 0))) == pytest.approx(319.5 / (320 - 23), abs=1e-3)
    for side, half_px in enumerate((320, 180, 320, 180)):
        bar = tuple(20 * (i == side) for i in range(4))
        assert zoom(PictureBounds(bar, bar)) == pytest.approx((half_px - 20.5) / (half_px - 23), abs=1e-3)
    assert zoom(PictureBounds(), path_of(yaw([20.0] * 3)), 105.0) == pytest.approx(1.05, abs=1e-4)


def test_a_dynamic_zoom_is_there_before_a_jolt_and_comes_and_goes_over_seconds():
    jolt = path_of(yaw(np.where(np.arange(501) == 250, 2.0, 0.0)))
    still = path_of(yaw(np.zeros(501)))
    static, dynamic = (
        framed(jolt, still, whole(jolt), RATE, FrameSettings(framing="crop", zoom=how, zoom_limit=200)).K[:, 0, 0] / 600
        for how in ("static", "dynamic")
    )
    share = (dynamic - 1) / (static - 1)
    assert static[250] > 1.05 and share[250] == 1 and share[[0, -1]] == pytest.approx(0, abs=1e-6)
    assert share[[250 - 30, 250 + 30]].min() > 0.95 and np.abs(np.diff(share)).max() < 1 / 60


@pytest.mark.parametrize("zoom", ["static", "dynamic"])
def test_every_shot_of_a_part_of_a_clip_is_cropped_as_if_it_were_alone(zoom):
    measured = path_of(Rotation.concatenate([shaky(40, 1, 0.3), shaky(50, 2, 1.5)]), np.random.default_rng(5).normal(0, 0.02, (90, 3)))
    measured = replace(measured, first_frame=100, residual_px=np.random.default_rng(6).normal(0, 4, (90, 3, 4, 2)).astype(np.float32))
    shots, depth = [FrameRange(100, 40), FrameRange(140, 50)], np.linspace(1, 9, 90)
    calm = smooth(measured, shots, RATE, PathSettings(), depth)
    chosen = FrameSettings(framing="crop", zoom=zoom, zoom_limit=200)
    together = framed(measured, calm, shots, RATE, chosen, depth)
    assert missing_share(measured, calm, depth)[40:].max() > 0 == missing_share(measured, together, depth).max()
    for shot, part in zip(shots, (slice(0, 40), slice(40, 90)), strict=True):
        alone = (path.sliced(shot.start, shot.end_exclusive) for path in (measured, calm))
        np.testing.assert_array_equal(together.K[part], framed(*alone, [shot], RATE, chosen, depth[part]).K)
    assert together.K[:40, 0, 0].max() < together.K[40:, 0, 0].max()


def test_a_camera_that_pans_to_and_fro_is_followed_though_the_frames_around_would_fill_what_it_leaves():
    pans = path_of(yaw(20 * np.sin(np.arange(270) * 2 * np.pi / 90)))
    assert missing_share(pans, filtered(pans, 24.0))[60:-60].max() > 0.22
    assert missing_share(pans, smooth(pans, whole(pans), RATE, PathSettings()))[60:-60].max() <= 0.19


def test_a_camera_that_moves_to_and_fro_is_followed_as_the_depth_of_its_scene_says():
    moves = path_of(yaw(np.zeros(270)), np.sin(np.arange(270) * 2 * np.pi / 90)[:, None] * [1.0, 0.0, 0.0])
    near, far = np.full(270, 2.0), np.full(270, 20.0)
    assert missing_share(moves, filtered(moves, 24.0), near)[60:-60].max() > 0.22
    assert missing_share(moves, smooth(moves, whole(moves), RATE, PathSettings(), near), near)[60:-60].max() <= 0.19
    np.testing.assert_allclose(
        smooth(moves, whole(moves), RATE, PathSettings(), far).world_from_camera, filtered(moves, 24.0).world_from_camera, atol=1e-3
    )
