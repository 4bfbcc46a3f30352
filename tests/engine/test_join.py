# SPDX-License-Identifier: Apache-2.0
"""Windows of a shot, each reconstructed in a gauge and scale of its own, become one path again."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vs3r_engine.camera import Trajectory, inverse
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import PathSettings
from vs3r_engine.stages.join import WindowCutter, bridged, joined, moved, published_seam, robust_seam, steady_focal
from vs3r_engine.stages.smooth import smooth
from vs3r_engine.timeline import FrameRange

SIZE = (24, 32)


def frames(count, first=0):
    plane = np.zeros((2, 2), np.uint8)
    return [Frame(first + i, (plane,), PixelLayout("gray", 8)) for i in range(count)]


def shaky_shot(count=120, seed=0, moves=True):
    """A path with shake and depth that changes from frame to frame, as one reconstruction."""
    rng = np.random.default_rng(seed)
    t = np.arange(count)
    world_from_camera = np.tile(np.eye(4), (count, 1, 1))
    euler = np.stack([0.3 * np.sin(t / 30), 0.01 * t, np.zeros(count)], 1) + rng.normal(0, 0.01, (count, 3))
    world_from_camera[:, :3, :3] = Rotation.from_euler("xyz", euler).as_matrix()
    if moves:
        world_from_camera[:, :3, 3] = np.stack([0.02 * t, 0.1 * np.sin(t / 9), 0.01 * t], 1) + rng.normal(0, 0.01, (count, 3))
    K = np.tile(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), (count, 1, 1))
    depth = rng.uniform(1, 5, (count, *SIZE)).astype(np.float32)
    return Reconstruction(
        Trajectory(0, 320, 240, K, world_from_camera),
        depth,
        rng.uniform(0.2, 1, depth.shape).astype(np.float32),
        np.zeros(depth.shape, bool),
    )


def cut(shot, window=50, overlap=10, seed=1, scales=(0.3, 3.0), spoil=lambda part, rng: part):
    """The shot's windows, all but the first in a random rigid gauge and scale."""
    rng = np.random.default_rng(seed)
    cutter = WindowCutter(frames(len(shot.trajectory)), window, overlap)
    while (piece := cutter.window()) is not None:
        start, end = piece[0].frame_index, piece[0].frame_index + len(piece)
        part = Reconstruction(
            shot.trajectory.sliced(start, end),
            shot.depth[start:end].copy(),
            shot.confidence[start:end],
            shot.semantic_mask[start:end].copy(),
            {"is_bridged": np.zeros(end - start, bool)},
        )
        if start:
            part = spoil(part, rng)
            scale = np.exp(rng.uniform(*np.log(scales)))
            gauge = np.eye(4)
            gauge[:3, :3], gauge[:3, 3] = (
                Rotation.random(random_state=int(rng.integers(1000))).as_matrix(),
                rng.normal(0, 3, 3),
            )
            world_from_camera = part.trajectory.world_from_camera.copy()
            world_from_camera[:, :3, 3] *= scale
            part = dataclasses.replace(
                part,
                depth=part.depth * np.float32(scale),
                trajectory=dataclasses.replace(part.trajectory, world_from_camera=gauge @ world_from_camera),
            )
        yield part
        cutter.done()


def whole(pieces):
    pieces = list(pieces)
    starts = [p.trajectory.first_frame for p in pieces]
    assert starts == [0, *np.cumsum([len(p.trajectory) for p in pieces])[:-1]]
    return (
        np.concatenate([p.trajectory.world_from_camera for p in pieces]),
        np.concatenate([p.depth for p in pieces]),
        pieces,
    )


@pytest.mark.parametrize(
    ("count", "window", "overlap"),
    [(120, 50, 10), (131, 50, 10), (9, 4, 1), (50, 50, 10), (51, 50, 10), (1, 50, 10), (7, 3, 2), (9, 4, 7)],
)
def test_every_frame_is_in_a_window_and_neighbours_share_the_overlap(count, window, overlap):
    cutter = WindowCutter(frames(count, first=5), window, overlap)
    spans = []
    while (piece := cutter.window()) is not None:
        spans.append((piece[0].frame_index, piece[0].frame_index + len(piece)))
        assert [f.frame_index for f in piece] == list(range(*spans[-1]))
        cutter.done()
    assert spans[0][0] == 5 and spans[-1][1] == 5 + count
    for (_, end), (start, further) in itertools.pairwise(spans):
        assert end - start == min(overlap, window - 1) and further > end


def test_a_shrunk_window_is_done_again_shorter_and_no_frame_is_lost():
    cutter = WindowCutter(frames(60), 20, 5)
    cutter.window()
    cutter.done()
    assert cutter.window()[0].frame_index == 15
    cutter.shrink()
    again = cutter.window()
    assert (again[0].frame_index, len(again)) == (15, 10)
    seen = set()
    while (piece := cutter.window()) is not None:
        seen |= {f.frame_index for f in piece}
        cutter.done()
    assert seen == set(range(15, 60))


@pytest.mark.parametrize("windows_before", [0, 1])
def test_a_window_is_shrunk_to_less_than_its_overlap_and_still_goes_on(windows_before):
    cutter, seen = WindowCutter(frames(60), 20, 15), set()
    for number in range(60):
        if number == windows_before:
            cutter.shrink()
        if (piece := cutter.window()) is None:
            break
        seen |= {f.frame_index for f in piece}
        cutter.done()
    assert seen == set(range(60))


@pytest.mark.parametrize("moves", [True, False])
def test_robust_joining_recovers_the_path_from_random_gauges_and_scales(moves):
    shot = shaky_shot(moves=moves)
    path, depth, pieces = whole(joined(cut(shot), "robust"))
    assert np.abs(path - shot.trajectory.world_from_camera).max() < 1e-3
    assert np.abs(depth / shot.depth - 1).max() < 1e-3
    assert pieces[-1].findings["seam_worst_deg"] < 1e-3
    assert np.concatenate([p.diagnostics["is_seam"] for p in pieces]).sum() == 20


def test_published_joining_recovers_the_path_within_its_scale_limits_and_not_beyond():
    shot = shaky_shot()
    path, _, _ = whole(joined(cut(shot, scales=(0.85, 1.2)), "published"))
    assert np.abs(path - shot.trajectory.world_from_camera).max() < 1e-3
    path, _, _ = whole(joined(cut(shot, scales=(2.9, 3.0)), "published"))
    assert np.abs(path - shot.trajectory.world_from_camera).max() > 0.05


def test_robust_joining_withstands_what_breaks_the_published_one():
    """A wrong first camera in the overlap, depth wrong by half on a quarter of the picture, and a near thing that
    moved."""

    def spoil(part, rng):
        world_from_camera = part.trajectory.world_from_camera.copy()
        world_from_camera[0, :3, :3] = world_from_camera[0, :3, :3] @ Rotation.from_euler("y", 2, degrees=True).as_matrix()
        world_from_camera[0, :3, 3] += 0.2
        part.depth[:, :12, :16] *= 0.5
        part.depth[:, 12:, 4:] *= 0.6
        part.semantic_mask[:, 12:, 4:] = True
        return dataclasses.replace(part, trajectory=dataclasses.replace(part.trajectory, world_from_camera=world_from_camera))

    shot = shaky_shot()
    errors = {}
    for joining in ("robust", "published"):
        path, _, _ = whole(joined(cut(shot, scales=(0.9, 1.1), spoil=spoil), joining))
        inside = np.r_[15:40, 55:80]
        errors[joining] = np.degrees(
            np.linalg.norm((inverse(path) @ shot.trajectory.world_from_camera)[inside][:, :3, :3] - np.eye(3), axis=(1, 2)).max()
        )
    assert errors["robust"] < 0.5 < 2 < errors["published"], errors


def test_seams_are_cross_faded_without_a_jump():
    def spoil(part, rng):
        drift = part.trajectory.world_from_camera.copy()
        drift[:, 0, 3] += np.linspace(0, 0.3, len(drift))
        return dataclasses.replace(part, trajectory=dataclasses.replace(part.trajectory, world_from_camera=drift))

    shot = shaky_shot()
    path, _, _ = whole(joined(cut(shot, scales=(1, 1.0001), spoil=spoil), "robust"))
    extra = np.diff(path[:, :3, 3] - shot.trajectory.world_from_camera[:, :3, 3], axis=0)
    assert np.linalg.norm(extra, axis=1).max() < 0.02


@pytest.mark.parametrize(("joining", "share"), [("robust", np.arange(1, 11) / 11), ("published", np.linspace(0, 1, 10))])
def test_in_the_overlap_the_later_window_comes_in_as_the_earlier_goes(joining, share):
    windows = []
    for window, confidence, zoom in zip(cut(shaky_shot(80)), (0.2, 0.8), (1, 1.1), strict=True):
        trajectory = dataclasses.replace(window.trajectory, K=window.trajectory.K * [[zoom], [zoom], [1]])
        windows.append(dataclasses.replace(window, trajectory=trajectory, confidence=np.full_like(window.confidence, confidence)))
    windows[0].depth[45, 2, 3] = windows[1].depth[6, 7, 8] = np.nan
    pieces = list(joined(windows, joining))
    assert [len(piece.trajectory) for piece in pieces] == [40, 40]
    overlap = pieces[1]
    np.testing.assert_allclose(overlap.confidence[:10, 0, 0], 0.2 + 0.6 * share, atol=1e-6)
    focal = np.full(10, 300.0) if joining == "published" else 300 * 1.1**share
    np.testing.assert_allclose(overlap.trajectory.K[:10, 0, 0], focal)
    np.testing.assert_allclose(overlap.trajectory.K[10:, 0, 0], 330)
    # What one of them does not know, the other does.
    assert np.isfinite(overlap.depth).all()


def test_the_worst_seam_is_told_and_how_far_its_cameras_disagree():
    windows = list(cut(shaky_shot(160)))
    cameras = windows[1].trajectory.world_from_camera
    swing = Rotation.from_euler("y", [[1], [-1]], degrees=True).as_matrix()
    cameras[:10, :3, :3] = cameras[:10, :3, :3] @ np.tile(swing, (5, 1, 1))
    findings = [piece.findings["seam_worst_deg"] for piece in list(joined(windows, "robust"))[1:]]
    assert findings == pytest.approx([1.0] * 3, abs=0.01)


def test_masks_are_united_in_the_overlap():
    shot = shaky_shot(80)
    windows = list(cut(shot))
    windows[0].semantic_mask[45, 3, 3] = windows[1].semantic_mask[5, 4, 4] = True
    masks = np.concatenate([p.semantic_mask for p in joined(windows, "robust")])
    assert masks[45, 3, 3] and masks[45, 4, 4] and masks.sum() == 2


def test_a_seam_maps_the_new_window_onto_the_known_one():
    shot = shaky_shot(60)
    first, second = list(cut(shot))[:2]
    known = Reconstruction(first.trajectory.sliced(40, 50), first.depth[40:], first.confidence[40:], first.semantic_mask[40:])
    new = Reconstruction(second.trajectory.sliced(40, 50), second.depth[:10], second.confidence[:10], second.semantic_mask[:10])
    for seam in (robust_seam(known, new),):
        assert np.abs(moved(new, seam).trajectory.world_from_camera - known.trajectory.world_from_camera).max() < 1e-6
        assert seam.rotation_rad < 1e-6 and seam.comparable > 1000
    assert published_seam(*of_scale(2.9)).scale == 0.8 and published_seam(*of_scale(0.31)).scale == 1.25


def of_scale(scale):
    """Ten frames, and the same in another scale."""
    shot = shaky_shot(10)
    world_from_camera = shot.trajectory.world_from_camera.copy()
    world_from_camera[:, :3, 3] *= scale
    trajectory = dataclasses.replace(shot.trajectory, world_from_camera=world_from_camera)
    return shot, dataclasses.replace(shot, trajectory=trajectory, depth=shot.depth * np.float32(scale))


def test_the_scale_of_a_seam_is_that_of_what_stands_still_and_is_sure():
    wrong = np.zeros((10, *SIZE), bool)
    wrong[:, :, :24] = True  # three quarters of the picture
    for side in (0, 1):
        pair = list(of_scale(1.1))
        pair[1].depth[:, :, :8] *= 3
        pair[1].depth[:, :, 8:24] /= 3
        pair[side] = dataclasses.replace(pair[side], semantic_mask=wrong)
        assert robust_seam(*pair).scale == pytest.approx(1 / 1.1, rel=1e-3)
        confidence = np.where(wrong, 0.05, 0.9).astype(np.float32)
        pair[side] = dataclasses.replace(pair[side], semantic_mask=np.zeros_like(wrong), confidence=confidence)
        assert robust_seam(*pair).scale == pytest.approx(1 / 1.1, rel=1e-3)
    # Where everything moves, it is all there is.
    known, new = of_scale(1.1)
    assert robust_seam(dataclasses.replace(known, semantic_mask=wrong | True), new).scale == pytest.approx(1 / 1.1, rel=1e-3)


def test_one_camera_that_strayed_hardly_moves_a_seam():
    known, new = of_scale(1.0)
    new.trajectory.world_from_camera[4, :3, 3] += 1.0
    assert np.abs(robust_seam(known, new).translation).max() < 0.01


def test_the_published_scale_leaves_out_what_is_beyond_the_quartiles():
    known, new = of_scale(1.1)
    spread = np.linspace(0.9, 1.1, 4 * SIZE[1] // 5)
    new.depth[..., : len(spread)] *= np.float32(spread)
    new.depth[..., len(spread) :] *= 9
    assert published_seam(known, new).scale == pytest.approx(1 / 1.1, rel=5e-3)


def test_smoothing_the_joined_path_commutes_with_the_choice_of_origin():
    shot = shaky_shot()
    path, _, _ = whole(joined(cut(shot), "robust"))
    trajectory = dataclasses.replace(shot.trajectory, world_from_camera=path)
    gauge = np.eye(4)
    gauge[:3, :3], gauge[:3, 3] = Rotation.from_euler("xyz", (0.4, -0.2, 1.0)).as_matrix(), (5, -2, 9)
    ways = [
        smooth(t, [FrameRange(0, 120)], Fraction(30), PathSettings()).world_from_camera
        for t in (trajectory, dataclasses.replace(trajectory, world_from_camera=gauge @ path))
    ]
    assert np.abs(gauge @ ways[0] - ways[1]).max() < 1e-9


def focal_windows(focals):
    for i, focal in enumerate(focals):
        shot = shaky_shot(50)
        K = shot.trajectory.K.copy()
        K[:, 0, 0], K[:, 1, 1] = focal, focal
        yield dataclasses.replace(shot, trajectory=dataclasses.replace(shot.trajectory, first_frame=40 * i, K=K))


def test_one_focal_length_holds_for_the_shot_unless_it_zooms():
    rng = np.random.default_rng(4)
    noisy = [300 * np.exp(rng.normal(0, 0.01, 50)) for _ in range(3)]
    steady = [w.trajectory.K[:, 0, 0] for w in steady_focal(focal_windows(noisy))]
    assert np.ptp(np.concatenate(steady)) < 1e-9 and abs(steady[0][0] - 300) < 3
    zoom = [300 * np.ones(50), np.linspace(300, 450, 50), 450 * np.ones(50)]
    strayed = zoom[1].copy()
    strayed[20] *= 1.5
    shown = list(steady_focal(focal_windows([zoom[0], strayed, zoom[2]])))
    assert np.abs(shown[1].trajectory.K[:, 0, 0] / zoom[1] - 1).max() < 0.04
    assert "zooms" in shown[1].findings and "zooms" not in shown[0].findings
    assert abs(shown[2].trajectory.K[0, 0, 0] / 450 - 1) < 0.04


@pytest.mark.parametrize(
    ("focals", "steady"),
    [
        ([300.0, 309.0], [300, 300]),  # a window's estimate is 3 % off
        ([300.0, 330.0, 333.0], [300, 330, 330]),  # the lens zoomed between windows, by 10 %
        ([np.linspace(300, 390, 50), 397.0], [None, 390]),  # what is held after a zoom is its end
    ],
)
def test_a_focal_length_is_held_from_window_to_window_within_a_twentieth(focals, steady):
    shown = list(steady_focal(focal_windows([np.broadcast_to(focal, 50) for focal in focals])))
    for window, focal_px in zip(shown, steady, strict=True):
        if focal_px is not None:
            assert np.abs(window.trajectory.K[:, (0, 1), (0, 1)] / focal_px - 1).max() < 0.015


def test_bad_frames_are_bridged_and_told():
    shot = shaky_shot(20)
    bad = np.zeros(20, bool)
    bad[[0, 7, 8, 19]] = True
    broken = shot.trajectory.world_from_camera.copy()
    broken[bad] = np.eye(4) * 5
    mended = bridged(dataclasses.replace(shot, trajectory=dataclasses.replace(shot.trajectory, world_from_camera=broken)), bad)
    truth, path = shot.trajectory.world_from_camera, mended.trajectory.world_from_camera
    assert np.abs(path - truth)[~bad].max() == 0 and np.abs(path - truth).max() < 0.2
    assert np.allclose(np.linalg.det(path[:, :3, :3]), 1)
    assert np.array_equal(mended.diagnostics["is_bridged"], bad)
    nearest = np.array([1, *range(1, 7), 6, 9, *range(9, 19), 18])
    assert np.array_equal(mended.depth, shot.depth[nearest])
    assert not mended.confidence[bad].any() and np.array_equal(mended.confidence[~bad], shot.confidence[~bad])
    assert not bridged(dataclasses.replace(shot, semantic_mask=np.ones(shot.depth.shape, bool)), bad).semantic_mask[bad].any()
    nothing = bridged(shot, np.ones(20, bool))
    assert np.array_equal(nothing.trajectory.world_from_camera, np.tile(np.eye(4), (20, 1, 1))) and (nothing.depth == 1).all()


def test_a_bridge_takes_the_shorter_way_round():
    shot = shaky_shot(3)
    cameras = np.tile(np.eye(4), (3, 1, 1))
    cameras[:, :3, :3] = Rotation.from_euler("y", [[178], [0], [-178]], degrees=True).as_matrix()
    path = bridged(
        dataclasses.replace(shot, trajectory=dataclasses.replace(shot.trajectory, world_from_camera=cameras)),
        np.array([False, True, False]),
    ).trajectory
    assert np.allclose(path.world_from_camera[1, :3, :3], Rotation.from_euler("y", 180, degrees=True).as_matrix(), atol=1e-6)
