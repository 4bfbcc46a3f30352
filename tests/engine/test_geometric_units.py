# SPDX-License-Identifier: Apache-2.0
"""The weight-free reconstructor's maps, fields and rows against formulas: which way, how far, and from where."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from vs3r_engine.lens import Lens, rays_of_pixels
from vs3r_engine.methods.geometric.bend import bent, straight
from vs3r_engine.methods.geometric.bundle import ROTATION_TRANSLATION
from vs3r_engine.methods.geometric.chain import Link
from vs3r_engine.methods.geometric.depth import DEPTH_COLUMNS, DEPTH_ROWS, DepthMap
from vs3r_engine.methods.geometric.motion import refitted, rotation_from_vector, turned
from vs3r_engine.methods.geometric.residual import SmoothField, _spline
from vs3r_engine.methods.geometric.shutter import Shutter, _pace_at, found_readout, skew_at
from vs3r_engine.methods.geometric.tracks import Tracker
from vs3r_engine.methods.geometric.windows import Windows

SIZE = np.array([640.0, 360.0])


def cell_centres() -> np.ndarray:
    """[rows, columns, 2] centred pixels."""
    x, y = ((np.arange(count) + 0.5) / count - 0.5 for count in (DEPTH_COLUMNS, DEPTH_ROWS))
    return np.stack(np.meshgrid(x, y), -1) * SIZE


def ramp() -> DepthMap:
    """Inverse depth 0.3 in the middle, growing by 0.0005 a pixel to the right."""
    depth = DepthMap(SIZE)
    depth.inverse = 0.3 + 0.0005 * cell_centres()[..., 0]
    return depth


def test_a_track_counts_where_it_is():
    for point in ([101.0, -33.0], [-155.0, 47.0]):
        depth = DepthMap(SIZE)
        depth.learn(np.array([point] * 3), np.full(3, 0.5), np.ones(3))
        places = cell_centres().reshape(-1, 2)
        weight = depth.confidence / (1 - depth.confidence)
        assert np.average(places, axis=0, weights=weight.ravel()) == pytest.approx(point, abs=0.1)
        assert 0 < depth.confidence.max() < 1
        # The first that is learnt is believed at once; of what was seen a frame ago, nine tenths count.
        np.testing.assert_allclose(depth.inverse, 0.5, rtol=1e-6)
        depth.learn(np.array([point] * 3), np.full(3, 0.5), np.ones(3))
        assert 0.1 * (depth.confidence / (1 - depth.confidence)).sum() == pytest.approx(3 * 1.9, rel=1e-3)


def test_the_depth_map_goes_where_a_moved_camera_and_another_focal_length_show_it():
    moved, zoomed = ramp(), ramp()
    moved.carry(np.eye(3), np.array([0.2, 0.0, 0.0]), 500.0, 500.0)
    # A point at 0.3 moves by 500 * 0.2 * 0.3 = 30 pixels to the right.
    assert moved.at(np.zeros((1, 2))) == pytest.approx([0.3 - 30 * 0.0005], abs=1e-4)
    zoomed.carry(np.eye(3), np.zeros(3), 500.0, 600.0)
    assert zoomed.at(np.array([[120.0, 0.0]])) == pytest.approx([0.35], abs=1e-4)


def test_what_comes_into_view_continues_the_depth_and_is_not_known():
    depth = ramp()
    points = np.random.default_rng(0).uniform(-SIZE / 2, SIZE / 2, (600, 2))
    depth.learn(points, 0.3 + 0.0005 * points[:, 0], np.ones(600))
    turn = np.arctan(200 / 500)
    to_from = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    border = depth.at(np.array([[-320.0, 0.0]]))
    depth.carry(to_from, np.zeros(3), 500.0, 500.0)
    assert depth.confidence[:, :8].max() < 0.01 < 0.5 < np.median(depth.confidence[:, -20:])
    assert depth.at(np.array([[-300.0, 0.0]])) == pytest.approx(border, abs=0.01)


def test_relief_fades_where_nothing_is_learnt_and_comes_back_slowly():
    depth = ramp()
    before = depth.inverse.copy()
    depth.flatten()
    np.testing.assert_allclose(np.ptp(depth.inverse), 0.96 * np.ptp(before))
    flat, points = depth.inverse.copy(), np.random.default_rng(0).uniform(-SIZE / 2, SIZE / 2, (600, 2))
    for share in (0.1, 0.1 + 0.9 * 0.2):
        depth.learn(points, np.full(600, 1.0), np.ones(600))
        np.testing.assert_allclose(depth.inverse, flat + share * (1 - flat), atol=1e-3)
    left_behind = ramp()
    for _ in range(24):
        left_behind.flatten()
    assert np.ptp(left_behind.inverse) < 0.4 * np.ptp(before)  # a second later little is left of what may have moved on
    lone = ramp()
    lone.learn(points[:1], np.ones(1), np.full(1, 0.5))
    assert np.array_equal(lone.inverse, before)  # half a track tells nothing


def test_splines_reproduce_lines_and_sum_to_one():
    place = np.linspace(0, 1, 41)
    weights = _spline(place, 10)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights @ (np.arange(10) - 1.0), 7 * place, atol=1e-12)


def test_a_residual_field_follows_a_bend_and_neither_noise_nor_a_single_track():
    rng = np.random.default_rng(4)
    points, votes = rng.uniform(-SIZE / 2, SIZE / 2, (300, 2)), rng.uniform(0.5, 2, 300)
    x, y = np.meshgrid(np.linspace(-320, 320, 17), np.linspace(-180, 180, 10))
    field = SmoothField(SIZE, 10, 17)

    def bend(at: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis(at / SIZE, -1, 0)
        return np.stack([4 * x * x + 2 * x * y, 3 * np.cos(3 * y) - x], -1)

    def rms(error: np.ndarray) -> float:
        return float(np.sqrt((error**2).sum(axis=-1).mean()))

    flow, truth = bend(points), bend(np.stack([x, y], -1))
    found = field.fit(points, flow, votes, 2.0)
    assert rms(found - truth) < 0.7 * rms(truth - truth.mean(axis=(0, 1)))
    flow[7] += 40.0
    assert np.abs(field.fit(points, flow, votes, 2.0) - found).max() < 0.1
    assert np.abs(field.fit(points, bend(points), 9 * votes, 2.0) - found).max() < 1e-9
    assert rms(field.fit(points, rng.normal(0, 1, (300, 2)), votes, 2.0)) < 0.3


def test_rows_are_displaced_by_speed_and_acceleration_at_the_moment_they_were_read():
    pace = np.zeros((2, 4))
    pace[0, 1], pace[1, 1] = 0.02, 0.04
    rows = np.array([-90.0, 0.0, 90.0])
    skew = skew_at(np.stack([0 * rows, rows], -1), pace, 0.5, 500.0, 180.0)
    late = 0.5 * rows / 180
    assert skew[:, 0] == pytest.approx(500 * (0.02 * late + 0.5 * 0.04 * late**2), rel=1e-3)


def test_pace_is_exact_for_a_cubic_path():
    t = np.arange(9.0)
    path = np.stack([2 * t, 0.5 * t**2, 0.1 * t**3, 1 - t + 0.2 * t**3], -1)
    velocity = np.stack([2 + 0 * t, t, 0.3 * t**2, 0.6 * t**2 - 1], -1)
    acceleration = np.stack([0 * t, 1 + 0 * t, 0.6 * t, 1.2 * t], -1)
    steps = list(np.diff(path, axis=0))
    for step in (1, 3, 5):
        np.testing.assert_allclose(_pace_at(steps, step), np.stack([velocity, acceleration])[:, step + 1], atol=1e-9)


FOCAL_PX, HEIGHT_PX = 500.0, 360.0


def rolled_links(readout: float, count: int = 36) -> tuple[list[Link], list[np.ndarray]]:
    """Links of a shaken camera whose rows are read one after the other, and where each frame's points are at its middle row's moment."""
    points = np.random.default_rng(1).uniform(-SIZE / 2, SIZE / 2, (150, 2))
    hertz, late, size = np.array([0.9, 1.1, 0.7]), np.array([0.0, 1.0, 2.0]), np.array([0.02, 0.02, 0.01])
    turns = [rotation_from_vector(size * np.sin(hertz * t + late)) for t in range(count)]
    straight = [turned(points, FOCAL_PX, turn, 0.0) for turn in turns]
    seen = []
    for t, xy in enumerate(straight):
        pace = np.zeros((2, 4))
        pace[:, :3] = size * hertz * np.cos(hertz * t + late), -size * hertz**2 * np.sin(hertz * t + late)
        seen.append(xy + skew_at(xy, pace, readout, FOCAL_PX, HEIGHT_PX))
    none, ids, even = np.zeros((0, 2)), np.arange(150), np.full(150, 1 / 150)
    links = [Link(0, "start", ids[:0], none, none, none[:, 0], none[:, 0], np.eye(3), 0.0, 0.0, 0.0)]
    for t in range(1, count):
        to_from, log_zoom = refitted(turns[t] @ turns[t - 1].T, 0.0, seen[t - 1], seen[t], even, FOCAL_PX)
        links.append(Link(t, "linked", ids, seen[t - 1], seen[t], even, np.ones(150), to_from, log_zoom, 1.0, 0.0))
    return links, straight


def rms_px(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).sum(axis=-1).mean()))


@pytest.mark.parametrize("readout", [0.9, 0.4, 0.0, 0.04])
def test_the_readout_time_is_found_or_none_is(readout):
    found = found_readout(rolled_links(readout)[0], FOCAL_PX, HEIGHT_PX)
    assert found == (pytest.approx(readout, rel=0.08) if readout > 0.1 else 0.0)
    assert found_readout(rolled_links(0.9, 12)[0], FOCAL_PX, HEIGHT_PX) == 0.0  # eleven links are too few to tell


def test_links_become_straight_two_frames_later_in_order_and_all_of_them_before_a_new_start():
    links, straight = rolled_links(0.6)
    rolled_px = rms_px(np.stack([link.xy_to - straight[link.frame_index] for link in links[1:]]))
    again, _ = rolled_links(0.6)
    shutter, done = Shutter(0.6, FOCAL_PX, HEIGHT_PX), []
    for number, link in enumerate([*links, *again]):
        done += shutter.add(link)
        assert len(done) == (1 + max(0, number - 2) if number < len(links) else len(links) + 1 + max(0, number - len(links) - 2))
    done += shutter.finish()
    assert [link.frame_index for link in done] == 2 * list(range(len(links)))
    for part in (done[: len(links)], done[len(links) :]):
        left_px = [rms_px(link.xy_from - straight[link.frame_index - 1]) for link in part[1:]]
        assert max(left_px[3:-3]) < 0.15 * rolled_px and max(left_px) < 0.8 * rolled_px, (left_px, rolled_px)
        assert rms_px(np.stack([link.xy_to - straight[link.frame_index] for link in part[1:]])) < 0.25 * rolled_px
        assert np.abs(part[0].pace).max() > 0.001 and np.array_equal(part[0].pace, done[0].pace)
        for before, link in pairwise(part[1:]):
            assert np.abs(before.xy_to - link.xy_from).max() < 1e-9  # the same picture, skewed alike


@pytest.mark.parametrize("size", [(640, 360), (320, 180), (96, 54)])
def test_corners_of_a_mirrored_picture_are_the_mirrored_corners(size):
    width, height = size
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    found = []
    for shown in (picture, np.ascontiguousarray(picture[::-1, ::-1])):
        tracker = Tracker(width, height)
        assert tracker.begin(shown) > 40
        found.append(tracker.xy)
    apart = np.linalg.norm(found[0][:, None] - (np.array(size) - found[1]), axis=-1).min(axis=1)
    assert np.mean(apart < 1e-3) > 0.3


def test_noise_holds_no_corner_and_a_track_that_something_hides_is_dropped():
    rng = np.random.default_rng(0)
    assert Tracker(320, 180).begin((120 + rng.integers(0, 4, (180, 320))).astype(np.uint8)) == 0
    noise = cv2.GaussianBlur(rng.standard_normal((300, 600)).astype(np.float32), (0, 0), 2)
    picture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    later = picture[2:182, 3:323].copy()
    later[:, 160:] = picture[100:280, 400:560]
    tracker = Tracker(320, 180)
    tracker.begin(picture[:180, :320].copy())
    # Without bars corners are looked for, and followed, up to the picture's edge.
    assert tracker.xy.min() < 6 and tracker.follow(picture[:180, :320].copy()).xy_to.min() < 6
    pair = tracker.follow(later)
    hidden, shown = (pair.xy_from[:, 0] > 175).sum() / (tracker.xy[:, 0] > 175).sum(), (pair.xy_from[:, 0] < 145).sum()
    assert hidden < 0.4 and shown > 100


def test_rotations_stay_rotations_however_many_windows_a_walk_has():
    """A camera that sways along a long row of trees: 600 frames of exact tracks."""
    rng = np.random.default_rng(2)
    count, width, height = 600, 320.0, 180.0
    trees = np.stack([rng.uniform(-3, 23, 4000), rng.uniform(-3, 3, 4000), rng.uniform(3, 9, 4000)], -1)
    none = np.zeros((0, 2))
    links = [Link(0, "start", np.zeros(0, np.int64), none, none, none[:, 0], none[:, 0], np.eye(3), 0.0, 0.0, 0.0)]
    before = None
    for t in range(count):
        rotation = rotation_from_vector(np.radians([0.8 * np.sin(0.9 * t), 0.5 * np.sin(0.6 * t), 0.4 * np.sin(0.7 * t)]))
        seen = (trees - [t / 30, 0.05 * np.sin(0.5 * t), 0.0]) @ rotation
        xy = FOCAL_PX / 2 * seen[:, :2] / seen[:, 2:]
        shown = (np.abs(xy) < [width / 2, height / 2]).all(axis=1)
        if before is not None:
            ids = np.flatnonzero(shown & before[1])[:160]
            even = np.full(len(ids), 1 / len(ids))
            to_from = rotation.T @ before[2]
            links.append(Link(t, "linked", ids, before[0][ids], xy[ids], even, np.ones(len(ids)), to_from, 0.0, 1.0, 0.0))
        before = xy, shown, rotation
    windows = Windows(FOCAL_PX / 2)
    nodes = [node for link in links for node in windows.add(link)] + windows.finish()
    rotations = np.array([node.rotation for node in nodes])
    assert all(node.model == ROTATION_TRANSLATION for node in nodes)
    np.testing.assert_allclose(np.matmul(rotations, rotations.transpose(0, 2, 1)), np.broadcast_to(np.eye(3), (count, 3, 3)), atol=1e-12)


@pytest.mark.parametrize("bend", [-1e-6, -4e-6, 1e-6, 0.0])
def test_straight_and_bent_undo_each_other_and_agree_with_the_lens(bend):
    xy, focal = np.random.default_rng(3).uniform(-SIZE / 2, SIZE / 2, (300, 2)), 500.0
    np.testing.assert_allclose(bent(straight(xy, bend), bend), xy, atol=1e-9)
    K, lens = np.diag([focal, focal, 1.0]), Lens("division", (bend * focal**2,))
    rays = rays_of_pixels(xy, K, lens)
    np.testing.assert_allclose(rays[:, :2] / rays[:, 2:] * focal, straight(xy, bend), atol=1e-9)


def test_depth_is_told_where_the_lens_shows_it():
    depth, bend = ramp(), -2e-6
    z, confidence = depth.bent(bend)
    assert confidence.shape == z.shape == depth.inverse.shape
    rows, columns = z.shape
    for row, column in ((5, 8), (18, 32), (30, 50)):
        place = (np.array([column + 0.5, row + 0.5]) / [columns, rows] - 0.5) * SIZE
        assert 1 / z[row, column] == pytest.approx(depth.at(straight(place[None], bend))[0], rel=1e-3)
    assert abs(1 / z[5, 8] - depth.inverse[5, 8]) > 0.002
    np.testing.assert_array_equal(depth.bent(0.0)[0], 1 / depth.inverse)
