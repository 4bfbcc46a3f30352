# SPDX-License-Identifier: Apache-2.0
"""The synthetic clips are what they say: cameras, depth, masks and pixels agree with each other."""

import resource

import av
import cv2
import numpy as np
import pytest

from tests.synthetic import CATEGORIES, make_clip
from tests.synthetic_scene import Quad, cast, project, unproject
from vs3r_engine.camera import inverse


def psnr(first, second, where=None):
    difference = (first - second) ** 2
    return -10 * np.log10((difference if where is None else difference[where]).mean())


def seen_from(clip, source_index, target_index, shift_px=0.0):
    """The source frame pulled into the target's view through true depth and cameras, and where that is possible."""
    source, target = clip.trajectory.camera(source_index), clip.trajectory.camera(target_index)
    depth, moves = clip.truth(target_index)
    pixels = np.stack(np.meshgrid(np.arange(clip.width) + 0.5, np.arange(clip.height) + 0.5), axis=-1) + shift_px
    source_from_target = inverse(source.world_from_camera) @ target.world_from_camera
    points = unproject(pixels, target.K, depth) @ source_from_target[:3, :3].T + source_from_target[:3, 3]
    at = project(points, source.K).astype(np.float32)
    source_depth, source_moves = clip.truth(source_index)
    there = cv2.remap(source_depth, at[..., 0] - 0.5, at[..., 1] - 0.5, cv2.INTER_LINEAR, borderValue=-1.0)
    moved = cv2.remap(source_moves.astype(np.float32), at[..., 0] - 0.5, at[..., 1] - 0.5, cv2.INTER_LINEAR, borderValue=1.0)
    warped = cv2.remap(clip.frame(source_index).to_rgb(), at[..., 0] - 0.5, at[..., 1] - 0.5, cv2.INTER_CUBIC)
    return warped, (np.abs(there / points[..., 2] - 1) < 0.02) & ~moves & (moved == 0)


@pytest.mark.parametrize("category", CATEGORIES)
def test_depth_and_cameras_predict_every_static_pixel(category):
    clip = make_clip(category, frames=6)
    warped, common = seen_from(clip, 0, 5)
    target = clip.frame(5).to_rgb()
    assert common.mean() > 0.4
    right = psnr(warped, target, common)
    assert right > 23
    assert right > psnr(seen_from(clip, 0, 5, shift_px=0.5)[0], target, common) + 1.0, "pixel centres are half a pixel off"


def test_equal_arguments_give_equal_pixels_and_another_seed_another_scene():
    first, again, other = (make_clip("crowd", frames=3, width=96, height=54, seed=seed) for seed in (3, 3, 4))
    for one, two in zip(first.frame(2).planes, again.frame(2).planes, strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.abs(first.frame(2).luma().astype(float) - other.frame(2).luma()).mean() > 5


def test_only_the_crowd_moves_and_its_mask_covers_what_changes():
    assert not any(make_clip(c, frames=2, width=96, height=54).dynamic_mask.any() for c in CATEGORIES if c != "crowd")
    still = make_clip("crowd", frames=4, shake=0.0)
    still.path.__dict__["centre_at"] = lambda times: np.zeros((len(times), 3))
    masks = still.dynamic_mask
    assert 0.03 < masks.mean() < 0.5
    change = np.abs(still.frame(0).to_rgb() - still.frame(3).to_rgb()).max(axis=2)
    either = cv2.dilate((masks[0] | masks[3]).astype(np.uint8), np.ones((7, 7))) > 0
    assert change[~either].max() < 0.02
    assert change[either].mean() > 0.05


def test_the_stable_target_is_the_clip_without_shake():
    shaky, calm = make_clip("parallax", frames=4), make_clip("parallax", frames=4, shake=0.0)
    np.testing.assert_allclose(shaky.stable.world_from_camera, calm.trajectory.world_from_camera)
    target = shaky.render_at(3, shaky.stable.camera(3))
    assert psnr(target, calm.frame(3).to_rgb()) > 28, "chroma subsampling and 8 bits are the only difference"
    assert psnr(target, shaky.frame(3).to_rgb()) < 25


def test_the_jitter_looks_hand_held():
    clip = make_clip("regular", frames=240, width=96, height=54)
    forward = clip.trajectory.world_from_camera[:, :3, 2] - clip.stable.world_from_camera[:, :3, 2]
    shake_deg = np.degrees(np.sqrt((forward[:, :2] ** 2).mean(axis=0)))
    assert (shake_deg > 0.25).all() and (shake_deg < 1.2).all()
    power = np.abs(np.fft.rfft(forward[:, 0])) ** 2
    hz = np.fft.rfftfreq(240, 1 / 30)
    assert power[(hz > 0.3) & (hz < 9.5)].sum() > 0.98 * power[1:].sum()
    assert power[(hz > 0.3) & (hz < 3)].sum() > power[(hz > 3) & (hz < 9.5)].sum()


def test_static_points_are_where_the_frames_show_them():
    clip = make_clip("parallax", frames=5)
    pixels = clip.seen(clip.static_points_world, 4)
    visible = np.isfinite(pixels).all(axis=1)
    assert visible.sum() > 800
    camera = clip.trajectory.camera(4)
    column, row = np.floor(pixels[visible]).astype(int).T
    z = (clip.static_points_world[visible] - camera.world_from_camera[:3, 3]) @ camera.world_from_camera[:3, 2]
    assert np.median(np.abs(z / clip.depth[4][row, column] - 1)) < 0.01


def test_rolling_shutter_skews_by_the_row_and_leaves_the_middle_row():
    straight, skewed = (make_clip("rotation", frames=4, width=192, height=108, rolling_shutter=amount) for amount in (0.0, 0.9))
    np.testing.assert_array_equal(straight.trajectory.world_from_camera, skewed.trajectory.world_from_camera)
    difference = np.abs(straight.frame(3).to_rgb() - skewed.frame(3).to_rgb()).mean(axis=(1, 2))
    assert difference[53:55].mean() < 0.25 * min(difference[:8].mean(), difference[-8:].mean())


def test_motion_blur_softens_along_the_motion_without_ghosts():
    sharp, soft = (make_clip("rotation", frames=2, width=192, height=108, motion_blur=blur) for blur in (False, True))

    def energy(clip):
        return np.abs(np.diff(clip.frame(1).luma().astype(float), axis=1)).mean()

    assert energy(soft) < 0.9 * energy(sharp)
    assert psnr(cv2.GaussianBlur(sharp.frame(1).to_rgb(), (0, 0), 3), cv2.GaussianBlur(soft.frame(1).to_rgb(), (0, 0), 3)) > 28


def test_a_written_clip_decodes_to_the_same_pictures_and_tags(tmp_path):
    clip = make_clip("zooming", frames=5, width=160, height=90)
    path = clip.write(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        assert (stream.average_rate, stream.codec_context.colorspace, stream.codec_context.color_primaries) == (
            30,
            1,
            1,
        )
    assert len(pictures) == 5
    luma = pictures[4].to_ndarray()[:90, :160].astype(float)
    assert psnr(luma / 255, clip.frame(4).luma() / 255.0) > 38


@pytest.mark.slow
def test_150_frames_of_960x540_take_under_a_minute_on_two_cores(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF)
    make_clip("crowd", frames=150, width=960, height=540).write(tmp_path / "clip.mp4")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60, "CPU seconds, two cores have 120 in a minute"


@pytest.mark.parametrize("axis", [0, 1])
def test_an_edge_in_the_world_is_seen_where_its_projection_is(axis):
    texture = np.full((64, 64, 4), 255, np.uint8)
    texture[:, :32, :3] = 0
    # Black up to 0.13 m, white beyond, 2 m away, from a camera that stands 0.02 m off.
    quad = Quad(
        np.array([-3.87, -3.87, 2.0]),
        np.array([8.0, 0, 0]),
        np.array([0, 8.0, 0]),
        (texture.transpose(1, 0, 2).copy() if axis else texture,),
        is_room=True,
    )
    K = np.array([[90, 0, 48.0], [0, 90, 27.0], [0, 0, 1]])
    world_from_camera = np.eye(4)
    world_from_camera[axis, 3] = 0.02
    rgb, depth, _ = cast([quad], np.tile(world_from_camera, (54, 1, 1)), np.tile(K, (54, 1, 1)), np.zeros(54), width=96)
    black_px = (1 - rgb[..., 0]).sum(axis=1 - axis)
    expected = project(np.array([0.11, 0.11, 2.0]), K)[axis]
    np.testing.assert_allclose(black_px, expected, atol=0.03)
    np.testing.assert_allclose(depth, 2.0, rtol=1e-5)
