# SPDX-License-Identifier: Apache-2.0
"""Eq. 4-5 on exact scenes: what a still scene predicts, and what contradicts it."""

import cv2
import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine.camera import Camera, Trajectory
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.dis import DisFlow
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import AnalysisSettings
from vs3r_engine.stages.mask import (
    cleaned,
    dynamic_mask,
    explains_better,
    flow_mask,
    mean_lengths,
    moving_of,
    pixel_centres,
    predicted_flow,
    rigid_flow,
    threshold_of_sensitivity,
)


@pytest.fixture(scope="module")
def crowd():
    return make_clip("crowd", frames=10, width=256, height=144, seed=4)


def reconstruction_of(clip, semantic=None) -> Reconstruction:
    depth = np.stack([clip.truth(i)[0] for i in range(len(clip))])
    return Reconstruction(clip.trajectory, depth, np.ones_like(depth), semantic)


def test_rigid_flow_is_the_true_flow_of_static_points():
    clip = make_clip("parallax", frames=2, width=256, height=144, seed=1)
    depth, _ = clip.truth(0)
    path = clip.trajectory
    predicted = rigid_flow(depth, path.camera(0), path.camera(1))
    points = clip.static_points_world
    seen, later = clip.seen(points, 0), clip.seen(points, 1)
    ok = np.isfinite(seen).all(1) & np.isfinite(later).all(1)
    rows, columns = np.floor(seen[ok]).astype(int)[:, ::-1].T
    # The pixel nearest a point lies up to 0.7 px from it; on smooth surfaces the flow differs by far less.
    error = np.linalg.norm(predicted[rows, columns] - (later - seen)[ok], axis=1)
    assert np.median(error) < 0.01


def test_rigid_flow_is_unknown_where_depth_is():
    clip = make_clip("regular", frames=2, width=64, height=36, seed=1)
    depth = clip.truth(0)[0].copy()
    depth[:10] = np.nan
    predicted = rigid_flow(depth, clip.trajectory.camera(0), clip.trajectory.camera(1))
    assert np.isnan(predicted[:10]).all() and np.isfinite(predicted[10:]).all()


def test_flow_that_disagrees_by_more_than_tau_moves_and_unknown_flow_does_not():
    observed, rigid = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3, 2), np.float32)
    observed[0, 0], observed[0, 1], observed[1, 1], rigid[1, 2] = (3, 4), (3, 3.9), np.nan, np.nan
    assert flow_mask(observed, rigid, 4.95).tolist() == [[True, False, False], [False, False, False]]


def test_the_masks_of_people_walking_overlap_the_truth(crowd):
    flow = DisFlow()
    masks = moving_of(reconstruction_of(crowd), [flow.prepared(frame) for frame in crowd.frames], flow, AnalysisSettings()).mask
    truth = np.stack([crowd.truth(i)[1] for i in range(len(crowd))])
    assert truth.mean() > 0.03
    assert (masks & truth).sum() / (masks | truth).sum() >= 0.6


def test_a_still_scene_does_not_move():
    clip = make_clip("parallax", frames=8, width=256, height=144, seed=2)
    flow = DisFlow()
    masks = moving_of(reconstruction_of(clip), [flow.prepared(frame) for frame in clip.frames], flow, AnalysisSettings()).mask
    assert masks.mean() < 0.02


def test_a_plain_sky_does_not_move_when_the_camera_does():
    """DIS finds nothing to follow in it and reports standing still, against a prediction of motion."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (200, 300)).astype(np.float32), (0, 0), 2) * 3 - 255
    picture[:80] = 180
    frames = [
        Frame(i, (np.clip(picture[i * 3 : i * 3 + 144, i * 4 : i * 4 + 256], 0, 255).astype(np.uint8),), PixelLayout("gray", 8))
        for i in range(2)
    ]
    found = DisFlow().flow(*frames)
    predicted = np.full_like(found, (-4.0, -3.0))
    says = flow_mask(found, predicted, 0.5)
    assert says[:60].mean() > 0.3  # what would be taken for motion
    assert (says & explains_better(found, predicted, *frames)).mean() < 0.01


def test_the_hybrid_mask_is_the_union_and_semantic_alone_is_the_network_s(crowd):
    semantic = np.zeros((len(crowd), 36, 64), bool)
    semantic[:, :9, :16] = True
    piece, flow = reconstruction_of(crowd, semantic), DisFlow()
    frames = [flow.prepared(frame) for frame in crowd.frames]
    alone = moving_of(piece, frames, flow, AnalysisSettings(mask="semantic")).mask
    assert alone[:, :36, :64].all() and not alone[:, 36:].any()
    hybrid, by_flow = (
        moving_of(piece, frames, flow, AnalysisSettings()).mask,
        moving_of(reconstruction_of(crowd), frames, flow, AnalysisSettings()).mask,
    )
    assert np.array_equal(hybrid, alone | by_flow)
    assert np.array_equal(dynamic_mask(None, by_flow[0]), by_flow[0])


def test_the_published_mask_is_eq_5_from_frame_to_frame_and_nothing_else(crowd):
    semantic = np.zeros((len(crowd), 144, 256), bool)
    semantic[:, :20, :20] = True
    flow, piece = DisFlow(), reconstruction_of(crowd, semantic)
    frames = [flow.prepared(frame) for frame in crowd.frames]
    masks = moving_of(piece, frames, flow, AnalysisSettings(mask="published", flow_threshold_px=0.5)).mask
    for i, j in ((0, 1), (4, 5), (9, 8)):
        predicted = predicted_flow(piece, i, j, 256, 144)
        assert np.array_equal(masks[i], semantic[i] | flow_mask(flow.flow(frames[i], frames[j]), predicted, 0.5))


class Asked:
    """Flow that says all moved alike and remembers between which frames it was asked for."""

    def __init__(self, moved_px=0.0):
        self.pairs, self.moved_px = [], moved_px

    def prepared(self, frame):
        return frame

    def flow(self, frame, next_frame):
        self.pairs.append((frame.frame_index, next_frame.frame_index))
        return np.full((frame.height, frame.width, 2), (self.moved_px, 0), np.float32)


@pytest.mark.parametrize(
    ("mask", "count", "pairs"),
    [
        ("hybrid", 1, []),
        ("hybrid", 2, [(0, 1), (1, 0)]),
        ("hybrid", 3, [(0, 2), (1, 2), (2, 0)]),
        ("hybrid", 6, [(0, 2), (1, 3), (2, 4), (3, 5), (4, 2), (5, 3)]),
        ("published", 3, [(0, 1), (1, 2), (2, 1)]),
        ("semantic", 3, []),
    ],
)
def test_a_frame_is_compared_with_the_second_one_on_and_at_the_end_of_a_piece_back(mask, count, pairs):
    picture = np.zeros((18, 32), np.uint8)
    path = Trajectory(
        0, 32, 18, np.tile(np.array([[30.0, 0, 16], [0, 30, 9], [0, 0, 1]]), (count, 1, 1)), np.tile(np.eye(4), (count, 1, 1))
    )
    depth, flow = np.ones((count, 9, 16), np.float32), Asked()
    frames = [Frame(i, (picture,), PixelLayout("gray", 8)) for i in range(count)]
    assert not moving_of(Reconstruction(path, depth, depth), frames, flow, AnalysisSettings(mask=mask)).mask.any()
    assert flow.pairs == pairs
    if mask == "published":
        for threshold_px, moves in ((0.6, True), (0.8, False)):
            chosen = AnalysisSettings(mask=mask, flow_threshold_px=threshold_px)
            moving = moving_of(Reconstruction(path, depth, depth), frames, Asked(0.7), chosen)
            assert (moving.mask == moves).all()
            if count > 1:
                np.testing.assert_allclose(moving.own_motion, 0.7 / 32 * moves, rtol=1e-5)


def test_own_motion_is_that_of_what_is_marked_a_frame_in_widths_of_the_picture(crowd):
    """At the end of a piece, too, where the motion is seen backwards; and not where nothing is marked."""
    flow = DisFlow()
    frames = [flow.prepared(frame) for frame in crowd.frames]
    mask, own_motion = moving_of(reconstruction_of(crowd), frames, flow, AnalysisSettings())
    rows, columns = own_motion.shape[1:]
    share = np.stack([cv2.resize(m.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA) for m in mask])
    assert (own_motion[share == 0] == 0).all() and (own_motion[share == 1] > 0.001).all()
    for i, j in ((3, 5), (len(frames) - 1, len(frames) - 3)):
        found = np.linalg.norm(flow.flow(frames[i], frames[j]) - predicted_flow(reconstruction_of(crowd), i, j, 256, 144), axis=-1)
        assert np.average(own_motion[i], weights=share[i]) == pytest.approx(found[mask[i]].mean() / 2 / 256, rel=1e-3)


def test_where_nobody_knows_what_stands_still_own_motion_is_far():
    vectors, mask = np.zeros((4, 8, 2), np.float32), np.ones((4, 8), bool)
    vectors[:, :4], vectors[0, 0] = (3, 4), np.nan
    mask[:, 6:] = False
    np.testing.assert_allclose(mean_lengths(vectors, mask, (2, 4)), [[(3 * 5 + 8) / 4, 5, 0, 0], [5, 5, 0, 0]])


def test_own_motion_is_unknown_where_only_the_network_looked(crowd):
    semantic = np.ones((len(crowd), 36, 64), bool)
    moving = moving_of(reconstruction_of(crowd, semantic), crowd.frames, DisFlow(), AnalysisSettings(mask="semantic"))
    assert moving.mask.all() and moving.own_motion is None


def test_a_zoom_is_no_motion_of_the_scene():
    K = np.array([[30.0, 0, 16], [0, 30, 9], [0, 0, 1]])
    near, far = (
        Camera(K * [[zoom], [zoom], [1]] + np.array([[0, 0, 16], [0, 0, 9], [0, 0, 0]]) * (1 - zoom), 32, 18, np.eye(4))
        for zoom in (1, 1.1)
    )
    expected = 0.1 * (pixel_centres(32, 18) - (16, 9))
    np.testing.assert_allclose(rigid_flow(np.full((18, 32), 3.0), near, far), expected, atol=1e-9)


def test_a_residual_path_moves_what_is_predicted_by_its_change_in_pixels_of_the_picture_asked_for():
    x, y = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 5))
    residual = np.stack([np.zeros((5, 9, 2)), np.stack([6 * x - 3 * y, 4 * y], -1)]).astype(np.float32)
    K = np.tile(np.array([[300.0, 0, 160], [0, 300, 90], [0, 0, 1]]), (2, 1, 1))
    path = Trajectory(0, 320, 180, K, np.tile(np.eye(4), (2, 1, 1)), residual)
    for rows, columns in ((36, 64), (180, 320)):
        depth = np.full((2, rows, columns), 4.0, np.float32)
        predicted = predicted_flow(Reconstruction(path, depth, depth), 0, 1, 160, 90)
        u, v = np.meshgrid((np.arange(160) + 0.5) / 160, (np.arange(90) + 0.5) / 90)
        expected = np.stack([6 * u - 3 * v, 4 * v], -1) / 2
        assert np.abs(predicted - expected)[3:-3, 3:-3].max() < 0.02
        assert np.abs(predicted_flow(Reconstruction(path, depth, depth), 1, 0, 160, 90) + predicted).max() < 1e-4


def test_sensitivity_halves_the_threshold_every_quarter():
    assert threshold_of_sensitivity(75, 256) == threshold_of_sensitivity(50, 256) / 2 == 0.256


def test_moving_things_are_areas_and_a_line_along_an_edge_is_a_flow_error():
    says = np.zeros((180, 320), bool)
    says[40:43, 20:200] = True  # a picture frame's edge, three pixels thick
    says[100:112, 60:66] = True  # somebody far away
    moving = cleaned(says)
    assert not moving[:60].any() and moving[101:111, 61:65].all()


def test_what_a_still_scene_would_move_out_of_the_picture_is_not_judged():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (80, 120)).astype(np.float32), (0, 0), 2).astype(np.uint8)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    shown, later = (Frame(i, (np.ascontiguousarray(picture[:60, 10 * i : 10 * i + 100]),), PixelLayout("gray", 8)) for i in range(2))
    later.planes[0][:, :10] = shown.planes[0][:, :10]  # where the camera no longer looks it cannot tell
    still, invented = np.zeros((2, 60, 100, 2), np.float32)
    still[..., 0] = -10  # the camera turned: everything moves left by ten
    better = explains_better(invented, still, shown, later)
    assert not better[:, :9].any()
    # The other way round, the invented flow is what the prediction says: all of the rest that is textured is told apart.
    assert explains_better(still, invented, shown, later)[:, 12:].mean() > 0.8
