# SPDX-License-Identifier: Apache-2.0
"""The parts of the weight-free reconstructor by themselves, and what it does with pictures that tell nothing."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.geometric import GeometricReconstructor
from vs3r_engine.methods.geometric.begin import begun
from vs3r_engine.methods.geometric.bundle import (
    ROTATION,
    ROTATION_TRANSLATION,
    Sightings,
    Window,
    adjusted,
    rotations_from_vectors,
)
from vs3r_engine.methods.geometric.chain import Chain
from vs3r_engine.methods.geometric.depth import DepthMap
from vs3r_engine.methods.geometric.motion import (
    pair_motion,
    rotation_from_vector,
    turned,
    vector_from_rotation,
    votes_of,
)
from vs3r_engine.methods.geometric.residual import SmoothField
from vs3r_engine.methods.geometric.shutter import skew_at
from vs3r_engine.methods.geometric.tracks import Tracker
from vs3r_engine.methods.geometric.windows import Windows
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import AnalysisSettings

RATE = Fraction(30)
GRAY = PixelLayout("gray", 8)


def gray_frames(pictures: list[np.ndarray]) -> list[Frame]:
    return [Frame(i, (picture,), GRAY) for i, picture in enumerate(pictures)]


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def shifted(count: int, dx: int, dy: int, width: int = 160, height: int = 96) -> list[np.ndarray]:
    big = texture(width + count * dx, height + count * dy)
    return [big[i * dy : i * dy + height, i * dx : i * dx + width].copy() for i in range(count)]


def analysed(pictures: list[np.ndarray], **settings) -> list[Reconstruction]:
    return list(GeometricReconstructor(AnalysisSettings(**settings)).reconstruct(iter(gray_frames(pictures)), RATE))


def checked(pieces: list[Reconstruction], count: int) -> list[Reconstruction]:
    """The pieces, if they cover `count` frames with finite numbers and proper rotations."""
    assert sum(len(piece.trajectory) for piece in pieces) == count
    for piece in pieces:
        path = piece.trajectory
        for array in (path.K, path.world_from_camera, path.residual_px, piece.depth, piece.confidence):
            assert np.isfinite(array).all()
        assert np.allclose(np.linalg.det(path.world_from_camera[:, :3, :3]), 1.0)
        assert (piece.depth > 0).all() and (piece.confidence >= 0).all() and (piece.confidence <= 1).all()
    return pieces


def column(pieces: list[Reconstruction], name: str) -> np.ndarray:
    return np.concatenate([piece.diagnostics[name] for piece in pieces])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shots_of_very_few_frames(count):
    checked(analysed(shifted(count, 2, 1)), count)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (400, 16), (853, 479)])
def test_any_size_from_16_pixels(size):
    checked(analysed(shifted(5, 1, 1, *size)), 5)


def test_a_picture_that_stands_still_gives_a_camera_that_stands_still_exactly():
    pieces = checked(analysed([texture(160, 96)] * 40), 40)
    for piece in pieces:
        assert (piece.trajectory.world_from_camera == np.eye(4)).all()
        assert (piece.trajectory.residual_px == 0).all()


def test_a_tripod_under_noise_moves_less_than_a_twentieth_of_a_pixel():
    rng, still = np.random.default_rng(1), texture(160, 96)
    noisy = [np.clip(still + rng.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    pieces = checked(analysed(noisy), 30)
    turns = np.concatenate([piece.trajectory.world_from_camera[:, :3, :3] for piece in pieces])
    residual = np.concatenate([piece.trajectory.residual_px for piece in pieces])
    assert max(np.linalg.norm(vector_from_rotation(turn)) for turn in turns) * 0.9 * 160 < 0.05
    assert np.sqrt((residual**2).mean()) < 0.05


def test_black_and_noise_are_bridged_and_never_raise():
    rng = np.random.default_rng(2)
    for pictures in (
        [np.zeros((96, 160), np.uint8)] * 40,
        [rng.integers(0, 255, (96, 160)).astype(np.uint8) for _ in range(40)],
    ):
        pieces = checked(analysed(pictures), 40)
        assert column(pieces, "is_bridged").mean() > 0.5


@pytest.mark.parametrize(("before", "after"), [(1, 0), (4, 0), (0, 20)])
def test_black_before_and_after_a_picture_is_bad_and_the_picture_is_not(before, after):
    black = np.zeros((96, 160), np.uint8)
    pieces = checked(analysed([black] * before + shifted(30, 2, 1) + [black] * after), before + 30 + after)
    is_bad = column(pieces, "is_bridged") & ~column(pieces, "is_repeated")
    assert list(is_bad) == [True] * before + [False] * 30 + [True] * after


def test_bad_frames_lie_on_the_way_between_their_neighbours_and_are_reported():
    pictures = shifted(40, 2, 1)
    whole = checked(analysed(pictures), 40)
    pictures[20], pictures[21] = np.zeros_like(pictures[0]), np.full_like(pictures[0], 255)
    pieces = checked(analysed(pictures), 40)
    assert list(np.flatnonzero(column(pieces, "is_bridged"))) == [20, 21]
    assert not column(pieces, "is_repeated").any()
    paths = [np.concatenate([p.trajectory.world_from_camera for p in found])[:, :3, :3] for found in (pieces, whole)]
    apart = [np.linalg.norm(vector_from_rotation(a.T @ b)) for a, b in zip(*paths, strict=True)]
    assert np.degrees(max(apart)) < 0.1


def test_a_repeated_frame_stands_where_it_was_taken():
    pictures = shifted(30, 2, 0)
    pictures[11] = pictures[10]
    pieces = checked(analysed(pictures), 30)
    path = np.concatenate([piece.trajectory.world_from_camera for piece in pieces])
    assert (path[11] == path[10]).all() and column(pieces, "is_bridged")[11]
    assert list(np.flatnonzero(column(pieces, "is_repeated"))) == [11]


def test_a_repeated_frame_stands_where_it_was_taken_after_a_flash_too():
    pictures = shifted(30, 2, 0)
    pictures[11], pictures[12] = np.full_like(pictures[0], 255), pictures[10]
    path = np.concatenate([piece.trajectory.world_from_camera for piece in checked(analysed(pictures), 30)])
    assert (path[12] == path[10]).all() and (path[11] != path[10]).any()


@pytest.mark.parametrize("picture", [texture(64, 48), np.zeros((48, 64), np.uint8)])
def test_a_picture_that_stands_still_is_not_waited_for_until_it_moves(picture):
    read = done = 0

    def endless():
        nonlocal read
        while read < 2000:
            yield Frame(read, (picture,), GRAY)
            read += 1

    for piece in GeometricReconstructor(AnalysisSettings()).reconstruct(endless(), RATE):
        done += len(piece.trajectory)
        assert read - done <= 100 and len(piece.trajectory) <= 200
    assert done == 2000


def test_a_jump_of_a_quarter_of_the_picture_is_found_again():
    pictures = shifted(24, 2, 0, 320, 96)
    big = texture(700, 96, seed=5)
    pictures = [big[:, 2 * i : 2 * i + 320].copy() for i in range(12)] + [big[:, 80 + 2 * i : 400 + 2 * i].copy() for i in range(12, 24)]
    pieces = checked(analysed(pictures), 24)
    assert not column(pieces, "is_bridged").any()


def turned_views(scene: np.ndarray, turn_deg: np.ndarray, width: int) -> list[np.ndarray]:
    """What a camera of focal length 378 sees of a wide scene as it pans and rolls; turn_deg: [n, 2] yaw and roll."""
    height = scene.shape[0]
    to_scene, to_picture = (np.array([[378.0, 0, w / 2 - 0.5], [0, 378, height / 2 - 0.5], [0, 0, 1]]) for w in (scene.shape[1], width))
    pictures = []
    for yaw, roll in np.radians(turn_deg):
        turn = rotation_from_vector(np.array([0.0, yaw, 0.0])) @ rotation_from_vector(np.array([0.0, 0.0, roll]))
        H = to_scene @ turn @ np.linalg.inv(to_picture)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        pictures.append(cv2.warpPerspective(scene, H, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT))
    return pictures


def yaw_and_roll_deg(pieces: list[Reconstruction]) -> np.ndarray:
    path = np.concatenate([piece.trajectory.world_from_camera for piece in pieces])
    return np.degrees(np.stack([np.arctan2(path[:, 0, 2], path[:, 2, 2]), np.arctan2(path[:, 1, 0], path[:, 1, 1])], axis=1))


@pytest.mark.parametrize(("blurred", "away"), [([13], slice(13, 14)), ([13, 14, 15, 16], slice(13, None)), ([22, 23], slice(22, None))])
def test_frames_too_blurred_for_tracks_stand_where_the_whole_picture_shows_them(blurred, away):
    # The second: too many to go on from, so that the chain begins anew, where the camera has gone meanwhile. The third: the shot's end.
    patches = cv2.resize(texture(45, 15, seed=7), (900, 300), interpolation=cv2.INTER_CUBIC)
    turn_deg = np.stack([np.arange(24) * 0.3, np.zeros(24)], axis=1)
    turn_deg[away] += 5.0, 3.0
    pictures = turned_views(cv2.addWeighted(texture(900, 300, seed=5), 0.5, patches, 0.5, 0), turn_deg, 420)
    for i in blurred:
        pictures[i] = cv2.GaussianBlur(pictures[i], (0, 0), 7)
    pieces = checked(analysed(pictures, focal_mm=36 * 378 / 420), 24)
    assert column(pieces, "is_bridged")[blurred].any()
    assert np.abs(yaw_and_roll_deg(pieces) - turn_deg).max() < 0.6


def test_a_whip_pan_is_followed_through_its_blur_further_than_the_first_and_last_picture_overlap():
    patches = cv2.resize(texture(75, 15, seed=7), (1500, 300), interpolation=cv2.INTER_CUBIC)
    scene = cv2.addWeighted(texture(1500, 300, seed=5), 0.5, patches, 0.5, 0)
    yaw_deg = np.interp(np.arange(30), [0, 10, 15, 29], [-40, -38, 37, 40])
    open_deg = 0.5 * np.gradient(yaw_deg)
    pictures = []
    for yaw, width in zip(yaw_deg, open_deg, strict=True):
        turn_deg = np.stack([yaw + np.linspace(-0.5, 0.5, 24) * width, np.zeros(24)], axis=1)
        pictures.append(np.mean(turned_views(scene, turn_deg, 420), axis=0).astype(np.uint8))
    pieces = checked(analysed(pictures, focal_mm=36 * 378 / 420), 30)
    assert column(pieces, "is_bridged").any()
    found_deg = yaw_and_roll_deg(pieces)[:, 0]
    assert np.abs(found_deg - found_deg[0] - yaw_deg + yaw_deg[0]).max() < 1.5


def test_sky_that_says_nothing_of_the_camera_is_not_believed_to():
    # Its gradient and the lens's vignette lie on each other well, and not where the camera has turned to.
    across = np.linspace(-1, 1, 1500)[None] + 0.1 * np.linspace(-1, 1, 300)[:, None]
    scene = np.where(across < -0.2, texture(1500, 300, seed=5), 150 - 70 * across).astype(np.uint8)
    yaw_deg = np.arange(24) * 0.2 - 45
    yaw_deg[10:14] += [30, 70, 75, 30]
    vignette = 1 - 0.3 * np.hypot(np.linspace(-1, 1, 300)[:, None], np.linspace(-1, 1, 420)[None]) ** 2
    noise = np.random.default_rng(4)
    pictures = [
        np.clip(view * vignette + noise.normal(0, 2, view.shape), 0, 255).astype(np.uint8)
        for view in turned_views(scene, np.stack([yaw_deg, np.zeros(24)], axis=1), 420)
    ]
    found_deg = yaw_and_roll_deg(checked(analysed(pictures, focal_mm=36 * 378 / 420), 24))
    expected_deg = np.stack([yaw_deg - yaw_deg[0], np.zeros(24)], axis=1)
    expected_deg[11:13, 0] = np.interp([11, 12], [10, 13], expected_deg[[10, 13], 0])
    assert np.abs(found_deg - found_deg[0] - expected_deg).max() < 1.0


def test_a_turn_that_no_two_pictures_show_is_reported_where_the_pictures_go_on_and_black_is_none():
    scene = texture(1500, 300, seed=5)
    yaw_deg = np.where(np.arange(30) < 14, -35, 35) + np.arange(30) * 0.2
    pictures = turned_views(scene, np.stack([yaw_deg, np.zeros(30)], axis=1), 420)
    assert list(np.flatnonzero(column(checked(analysed(pictures), 30), "is_apart"))) == [16]
    dark = turned_views(scene, np.stack([np.arange(30) * 0.2, np.zeros(30)], axis=1), 420)
    dark[10:15] = [np.zeros_like(dark[0])] * 5
    assert not column(checked(analysed(dark), 30), "is_apart").any()


def test_a_handful_of_tracks_is_no_link_where_the_whole_picture_does_not_agree(monkeypatch):
    followed = Chain._followed

    def by_chance(self, index, picture, expected):
        pair, link, support = followed(self, index, picture, expected)
        return pair, link, 0.05 if index == 14 else support

    monkeypatch.setattr(Chain, "_followed", by_chance)
    pictures = shifted(24, 2, 0, 320, 96)
    assert not column(checked(analysed(pictures), 24), "is_bridged").any()
    pictures[14][:, 130:] = texture(190, 96, seed=9)
    assert list(np.flatnonzero(column(checked(analysed(pictures), 24), "is_bridged"))) == [14]


def test_a_window_whose_cameras_turn_otherwise_than_the_tracks_say_is_not_believed(monkeypatch):
    clip = make_clip("parallax", frames=40, width=320, height=180, seed=1)
    refined = Windows._refined

    def strayed(self, *arguments):
        solved = refined(self, *arguments)
        rotation = solved.rotation.copy()
        rotation[7] = rotation_from_vector(np.radians([0.0, 0.0, 2.0])) @ rotation[7]
        return replace(solved, rotation=rotation)

    assert column(list(GeometricReconstructor(AnalysisSettings()).reconstruct(iter(clip.frames), RATE)), "has_parallax").any()
    monkeypatch.setattr(Windows, "_refined", strayed)
    assert not column(list(GeometricReconstructor(AnalysisSettings()).reconstruct(iter(clip.frames), RATE)), "has_parallax").any()


def test_a_jump_is_found_though_a_banner_on_the_picture_agrees_to_have_none():
    turn_deg = np.stack([np.arange(24) * 0.3 + np.where(np.arange(24) % 8 > 3, 12.0, 0.0), np.zeros(24)], axis=1)
    pictures = turned_views(texture(900, 300, seed=5), turn_deg, 420)
    banner = texture(420, 90, seed=6)
    for picture in pictures:
        picture[210:] = banner
    pieces = checked(analysed(pictures), 24)
    assert np.allclose(np.diff(yaw_and_roll_deg(pieces), axis=0), np.diff(turn_deg, axis=0), atol=0.3)


def test_analysis_runs_ahead_of_its_pieces_by_a_bounded_number_of_frames():
    clip = make_clip("regular", frames=40, width=64, height=48, seed=0)
    read = [0]

    def endless():
        while read[0] < 2000:
            yield replace(clip.frame(read[0] % 40), frame_index=read[0])
            read[0] += 1

    done = 0
    for piece in GeometricReconstructor(AnalysisSettings()).reconstruct(endless(), RATE):
        assert piece.trajectory.first_frame == done
        done += len(piece.trajectory)
        assert read[0] - done <= 100
        if done > 200:
            break


def test_equal_frames_give_equal_results():
    frames = shifted(36, 2, 1)
    first, second = analysed(frames), analysed(frames)
    for a, b in zip(first, second, strict=True):
        assert (a.trajectory.world_from_camera == b.trajectory.world_from_camera).all()
        assert (a.trajectory.residual_px == b.trajectory.residual_px).all() and (a.depth == b.depth).all()


def test_the_tracker_measures_a_shift_to_a_twentieth_of_a_pixel():
    big = cv2.GaussianBlur(texture(420, 300), (0, 0), 1.0)
    first, second = (cv2.getRectSubPix(big, (320, 180), (200 + dx, 140 + dy)) for dx, dy in ((0, 0), (3.3, -1.6)))
    tracker = Tracker(320, 180)
    assert tracker.begin(first) > 150
    pair = tracker.follow(second)
    assert len(pair) > 130
    assert np.abs(np.median(pair.xy_to - pair.xy_from, axis=0) - [-3.3, 1.6]).max() < 0.05


@pytest.mark.parametrize("size", [(640, 360), (320, 180), (854 // 2, 241), (333, 97), (64, 48)])
def test_corners_are_looked_for_up_to_the_edges(size):
    width, height = size
    tracker = Tracker(width, height)
    tracker.begin(texture(width, height, seed=4))
    low, high = tracker.xy.min(axis=0), tracker.xy.max(axis=0)
    assert (low < 10).all() and (high > (width - 10, height - 10)).all()
    cells = tracker._cell_of(tracker.xy)
    assert len(np.unique(cells)) == len(cells)


def test_bars_hold_no_track_still():
    pictures = shifted(2, 2, 3)
    for picture in pictures:
        picture[:12] = picture[-14:] = picture[:, :9] = 16
    tracker = Tracker(160, 96)
    tracker.begin(pictures[0])
    pair = tracker.follow(pictures[1])
    assert len(pair) > 60
    assert np.abs(pair.xy_to - pair.xy_from + (2, 3)).max() < 0.5


def test_a_large_moving_object_does_not_take_the_camera_along():
    rng = np.random.default_rng(3)
    points = rng.uniform([-320, -180], [320, 180], (300, 2))
    truth = rotation_from_vector(np.array([0.004, -0.01, 0.006]))
    seen = turned(points, 500.0, truth, 0.01) + rng.normal(0, 0.1, points.shape)
    walks = (np.abs(points[:, 0] - 30) < 180) & (points[:, 1] > -140)
    assert walks.mean() > 0.45
    seen[walks] += [14.0, -5.0]
    motion = pair_motion(points, seen, votes_of(points, np.full(300, 0.5), 640, 360), 500.0, (np.eye(3), 0.0), 0)
    assert np.degrees(np.linalg.norm(vector_from_rotation(motion.to_from @ truth.T))) < 0.01
    assert motion.log_zoom == pytest.approx(0.01, abs=1e-3)
    assert motion.weights[walks].max() < 0.1 < 0.5 < motion.weights[~walks].mean()


def test_the_residual_field_is_exact_for_affine_motion_and_not_pulled_by_moving_objects():
    rng = np.random.default_rng(4)
    field = SmoothField(np.array([640, 360]), 10, 17)
    points = rng.uniform([-320, -180], [320, 180], (260, 2))
    matrix = np.array([[0.004, -0.002], [0.001, 0.006]])
    flow = points @ matrix.T + [0.5, -0.3]
    moving = (np.abs(points - [100, 20]) < [60, 90]).all(axis=1)
    flow[moving] += [6.0, 0.0]
    y, x = np.meshgrid(np.linspace(-180, 180, 10), np.linspace(-320, 320, 17), indexing="ij")
    expected = np.stack([x, y], axis=-1) @ matrix.T + [0.5, -0.3]
    assert np.abs(field.fit(points, flow, np.ones(260), 2.0) - expected).max() < 0.25


def bundle_truth(
    seed: int = 5, walk: tuple[float, float, float] = (0, 0, 0), near: tuple[float, float] = (3, 12), near_share: float = 1.0
) -> tuple[Window, Sightings, Window]:
    """(a window to begin from, what it sees, the truth): a swaying camera, carried by `walk` in all, before points `near` units
    away, the rest of them 12 to 30."""
    rng = np.random.default_rng(seed)
    frames, tracks, focal = 14, 80, 500.0
    time = np.linspace(0, 1, frames)[:, None]
    vectors = 0.02 * np.sin(2 * np.pi * time * [1.0, 1.7, 0.6] + [0, 1, 2])
    centre = 0.12 * np.sin(2 * np.pi * time * [0.9, 1.3, 0.5] + [1, 0, 2])
    centre += time * walk - centre[0]
    rotation = rotations_from_vectors(vectors)
    rotation = rotation @ rotation[0].T
    translation = -np.einsum("fij,fj->fi", rotation, centre)
    direction = np.concatenate([rng.uniform([-0.5, -0.3], [0.5, 0.3], (tracks, 2)), np.ones((tracks, 1))], axis=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    inverse_depth = 1 / np.where(np.arange(tracks) < near_share * tracks, rng.uniform(*near, tracks), rng.uniform(12, 30, tracks))
    points = np.einsum("fij,mj->fmi", rotation, direction) + translation[:, None] * inverse_depth[:, None]
    xy = focal * points[..., :2] / points[..., 2:] + rng.normal(0, 0.05, (frames, tracks, 2))
    seen = np.ones((frames, tracks))
    first = np.arange(frames) == 0
    truth = Window(rotation, translation, np.full(frames, focal), direction, inverse_depth, np.full(tracks, 0.3), first)
    ray = np.concatenate([xy[0] / focal, np.ones((tracks, 1))], axis=1)
    start = replace(
        truth,
        rotation=np.tile(np.eye(3), (frames, 1, 1)),
        translation=np.zeros((frames, 3)),
        direction=ray / np.linalg.norm(ray, axis=1, keepdims=True),
        inverse_depth=np.ones(tracks),
    )
    return start, Sightings(xy, seen), truth


def test_bundle_adjustment_finds_cameras_and_depths_up_to_scale_from_nothing():
    start, sightings, truth = bundle_truth()
    solved, error = begun(start, sightings)
    assert np.median(error) < 0.1
    turns = [vector_from_rotation(a @ b.T) for a, b in zip(solved.rotation, truth.rotation, strict=True)]
    assert np.degrees(np.abs(turns).max()) < 0.05
    ratio = solved.inverse_depth / truth.inverse_depth
    assert np.std(np.log(ratio)) < 0.05
    assert np.abs(solved.translation * np.median(ratio) - truth.translation).max() < 0.01


@pytest.mark.parametrize("walk", [(2.0, 0.0, 0.3), (0.0, 0.0, 1.5)])
@pytest.mark.parametrize("tracks", [80, 36])
def test_a_window_begins_right_on_a_walk_past_few_near_things(walk, tracks):
    start, sightings, truth = bundle_truth(1, walk, near=(2, 4), near_share=0.3)
    some = slice(None, None, 80 // tracks)
    part = replace(start, direction=start.direction[some], inverse_depth=start.inverse_depth[some], depth_weight=start.depth_weight[some])
    solved, error = begun(part, Sightings(sightings.xy[:, some], sightings.seen[:, some]))
    assert np.median(error) < 0.1
    assert np.std(np.log(solved.inverse_depth / truth.inverse_depth[some])) < 0.05


@pytest.mark.parametrize("seen_as", ["still", "one line", "one point", "noise", "roll"])
def test_a_window_begins_finitely_where_two_pictures_tell_nothing(seen_as):
    start, sightings, _ = bundle_truth()
    time, first = np.arange(14)[:, None, None], sightings.xy[0]
    xy = {
        "still": first + 0 * time,
        "one line": first * [1, 0] + time * [0, 1],
        "one point": 0 * first + time,
        "noise": np.random.default_rng(1).uniform(-200, 200, sightings.xy.shape),
        "roll": np.stack([first @ rotation_from_vector(np.array([0, 0, 0.05 * k]))[:2, :2] for k in range(14)]),
    }[seen_as]
    solved, error = begun(start, Sightings(xy, sightings.seen))
    assert all(np.isfinite(part).all() for part in (solved.rotation, solved.translation, solved.direction, solved.inverse_depth, error))


def test_bundle_adjustment_leaves_settled_cameras_and_moving_objects_alone():
    _, sightings, truth = bundle_truth(6)
    sightings.xy[:, :20, 0] += np.linspace(0, 40, 14)[:, None]
    fixed = replace(truth, is_fixed=np.arange(14) < 5)
    solved, error = adjusted(fixed, sightings, ROTATION_TRANSLATION, 8)
    assert (solved.rotation[:5] == truth.rotation[:5]).all() and (solved.translation[:5] == truth.translation[:5]).all()
    assert np.abs(solved.translation - truth.translation).max() < 0.01
    assert np.median(error[:, 20:]) < 0.15


def test_turns_alone_do_not_explain_parallax():
    start, sightings, _ = bundle_truth()
    assert np.median(adjusted(start, sightings, ROTATION, 10)[1]) > 5 * np.median(begun(start, sightings)[1])


def test_the_depth_map_moves_with_the_camera_and_keeps_what_it_learnt():
    depth = DepthMap(np.array([640.0, 360.0]))
    rng = np.random.default_rng(7)
    points = rng.uniform([-320, -180], [320, 180], (400, 2))
    near = points[:, 0] < 0
    for _ in range(6):
        depth.learn(points, np.where(near, 0.5, 0.1), np.ones(400))
    assert depth.at(np.array([[-200.0, 0.0], [200.0, 0.0]])) == pytest.approx([0.5, 0.1], rel=0.1)
    depth.carry(rotation_from_vector(np.array([0.0, 0.2, 0.0])), np.zeros(3), 500.0, 500.0)
    assert depth.at(np.array([[40.0, 0.0], [220.0, 0.0]])) == pytest.approx([0.5, 0.1], rel=0.15)


def test_the_shutter_skews_rows_by_the_motion_they_missed():
    pace = np.zeros((2, 4))
    pace[0, 1] = 0.02
    skew = skew_at(np.array([[0.0, -90.0], [0.0, 0.0], [0.0, 90.0]]), pace, 0.5, 500.0, 180.0)
    assert skew[:, 0] == pytest.approx([-2.5, 0.0, 2.5], rel=1e-3)
    assert not skew_at(np.ones((3, 2)), pace, 0.0, 500.0, 180.0).any()


@pytest.mark.parametrize("gain", [0.5, 1.6])
def test_tracks_are_followed_into_another_light(gain):
    picture = make_clip("regular", frames=1, width=320, height=180, seed=3).frame(0).luma8() // 2
    later = np.clip(np.roll(picture, 2, axis=1).astype(np.float32) * gain, 0, 255).astype(np.uint8)
    tracker = Tracker(320, 180)
    count = tracker.begin(picture)
    found = tracker.follow(later)
    error_px = np.linalg.norm(found.xy_to - found.xy_from - (2, 0), axis=1)
    assert np.count_nonzero(error_px < 0.5) > 0.6 * count
