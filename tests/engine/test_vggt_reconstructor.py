# SPDX-License-Identifier: Apache-2.0
"""The adapter around the network: windows, memory, conventions. Random weights run every line of the real path."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.spatial.transform import Rotation  # noqa: E402

from vs3r_engine.camera import inverse  # noqa: E402
from vs3r_engine.errors import DeviceError, OutOfMemory, WeightsMissing  # noqa: E402
from vs3r_engine.frame import ColourTags, Frame, PixelLayout  # noqa: E402
from vs3r_engine.methods import devices  # noqa: E402
from vs3r_engine.methods.vggt4d import reconstructor as adapter  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402

RGB8 = PixelLayout("rgb", 8)


def settings(**values):
    return Settings().with_values(
        {"analysis.weights": "random:1:small", "analysis.window_frames": 6, "analysis.overlap_frames": 2}
        | {f"analysis.{name}": value for name, value in values.items()}
    )


def clip(count, width=96, height=62, first=0):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (height, width + 4 * count, 3)).astype(np.uint8)
    return [
        Frame(
            first + i,
            tuple(np.ascontiguousarray(wide[:, 4 * i : 4 * i + width, c]) for c in range(3)),
            RGB8,
            ColourTags(),
        )
        for i in range(count)
    ]


def reconstructed(frames, **values):
    method = adapter.Vggt4dReconstructor(settings(**values), "cpu", longest_side_px=112)
    return list(method.reconstruct(iter(frames), Fraction(30)))


@pytest.mark.parametrize("count", [1, 2, 3, 13])
def test_every_frame_comes_once_with_finite_cameras_depth_and_masks(count):
    pieces = reconstructed(clip(count, first=7))
    assert sum(len(p.trajectory) for p in pieces) == count and pieces[0].trajectory.first_frame == 7
    for a, b in itertools.pairwise(pieces):
        assert b.trajectory.first_frame == a.trajectory.first_frame + len(a.trajectory)
    for piece in pieces:
        n = len(piece.trajectory)
        assert (piece.trajectory.width, piece.trajectory.height) == (96, 62)
        assert piece.depth.shape == piece.confidence.shape == piece.semantic_mask.shape == (n, 70, 112)
        assert np.isfinite(piece.depth).all() and (piece.depth > 0).all()
        assert (piece.confidence >= 0).all() and (piece.confidence <= 1).all()
        assert np.allclose(np.linalg.det(piece.trajectory.world_from_camera[:, :3, :3]), 1)
        assert np.array_equal(piece.trajectory.K[:, :2, 2], np.tile([48.0, 31.0], (n, 1))), (
            "the principal point is the picture's exact centre"
        )
        assert piece.findings["weights"] == "random:1:small" and piece.findings["device"] == "cpu"


def test_two_runs_are_identical():
    a, b = (reconstructed(clip(8)) for _ in range(2))
    assert all(
        np.array_equal(x.depth, y.depth) and np.array_equal(x.trajectory.world_from_camera, y.trajectory.world_from_camera)
        for x, y in zip(a, b, strict=True)
    )


def test_the_second_pass_runs_only_where_something_moves_and_changes_only_the_cameras(monkeypatch):
    class Everything:
        def mask(self, evidence):
            mask = torch.zeros(evidence.depth.shape, dtype=torch.bool)
            mask[:, :40, :40] = True
            return mask

    class Nothing:
        def mask(self, evidence):
            return torch.zeros(evidence.depth.shape, dtype=torch.bool)

    found = [
        next(iter(adapter.Vggt4dReconstructor(settings(), "cpu", masker=m, longest_side_px=112).reconstruct(iter(clip(5)), Fraction(30))))
        for m in (Everything(), Nothing())
    ]
    assert np.array_equal(found[0].depth, found[1].depth)
    assert np.abs(found[0].trajectory.world_from_camera - found[1].trajectory.world_from_camera).max() > 1e-7


def test_black_frames_are_bridged():
    frames = clip(6)
    black = Frame(3, tuple(np.zeros((62, 96), np.uint8) for _ in range(3)), RGB8)
    frames[3] = black
    (piece,) = reconstructed(frames)
    assert piece.diagnostics["is_bridged"].tolist() == [False, False, False, True, False, False]
    assert piece.confidence[3].max() == 0 and np.isfinite(piece.trajectory.world_from_camera).all()


def test_pose_encodings_become_world_from_camera_and_corner_origin_intrinsics():
    rng = np.random.default_rng(3)
    rotation, shift = Rotation.random(4, random_state=5), rng.normal(0, 1, (4, 3))
    encoding = np.concatenate([shift, rotation.as_quat() * rng.uniform(0.5, 2, (4, 1)), np.tile([0.8, 1.2], (4, 1))], 1)
    K, world_from_camera = adapter.decoded(torch.from_numpy(encoding), (112, 70))
    camera_from_world = np.tile(np.eye(4), (4, 1, 1))
    camera_from_world[:, :3, :3], camera_from_world[:, :3, 3] = rotation.as_matrix(), shift
    assert np.abs(world_from_camera.numpy() - inverse(camera_from_world)).max() < 1e-5
    assert K[0, 0, 0].item() == pytest.approx(56 / np.tan(0.6), rel=1e-6) and K[0, 1, 1].item() == pytest.approx(35 / np.tan(0.4), rel=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1920, 1080, (518, 294)), (1080, 1920, (294, 518)), (640, 640, (518, 518)), (4096, 100, (518, 14))],
)
def test_the_network_sees_the_whole_picture_also_upright(width, height, expected):
    assert adapter.network_size(width, height) == expected


@pytest.mark.parametrize(("width", "height"), [(96, 62), (201, 113), (1001, 301)])
def test_preparing_a_picture_shifts_nothing(width, height):
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    ramp = np.stack([np.tile(x / width, (height, 1)), np.tile(y[:, None] / height, (1, width)), np.zeros((height, width))]).astype(
        np.float32
    )
    frame = Frame(0, tuple(ramp), PixelLayout("rgb", 32))
    seen = adapter.prepared(frame, (112, 70), "cpu").numpy()
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(seen[0][inner] - np.tile((np.arange(112) + 0.5) / 112, (70, 1))[inner]).max() < 1e-4
    assert np.abs(seen[1][inner] - np.tile(((np.arange(70) + 0.5) / 70)[:, None], (1, 112))[inner]).max() < 1e-4


def test_running_out_of_memory_halves_the_window_once_says_so_then_fails(monkeypatch):
    right, limit = adapter.Vggt4dReconstructor.window, [4]

    def tight(self, network, window, size):
        if len(window) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return right(self, network, window, size)

    monkeypatch.setattr(adapter.Vggt4dReconstructor, "window", tight)
    pieces = reconstructed(clip(9))
    assert sum(len(p.trajectory) for p in pieces) == 9
    assert pieces[-1].findings["window_note"] == "out of memory with 6 frames at once, 3 from there on"
    limit[0] = 2
    with pytest.raises(OutOfMemory) as error:
        reconstructed(clip(9))
    assert error.value.code == "out-of-memory" and "window_frames" in error.value.hint


def test_the_window_is_chosen_by_free_memory(monkeypatch):
    assert adapter.fitting_window(50, (518, 294), 40 * 10**9) == 50
    assert 2 <= adapter.fitting_window(50, (518, 294), 5 * 10**9) < 50
    with pytest.raises(OutOfMemory):
        adapter.fitting_window(50, (518, 294), 10**9)
    monkeypatch.setattr(adapter, "free_memory", lambda device: adapter.FIXED_BYTES + 4 * 8 * 5 * adapter.BYTES_PER_PATCH)
    pieces = reconstructed(clip(7))
    assert pieces[-1].findings["window_frames"] == 4 and "4 instead of 6" in pieces[0].findings["window_note"]


def test_missing_weights_stop_before_any_work():
    with pytest.raises(WeightsMissing):
        adapter.Vggt4dReconstructor(Settings(), "cpu")


def test_published_joining_keeps_every_frames_own_focal_length():
    focal = np.concatenate([p.trajectory.K[:, 0, 0] for p in reconstructed(clip(13), joining="published")])
    assert np.ptp(focal) > 0


def test_a_device_that_is_not_there_is_refused_not_replaced():
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError) as error:
            devices.choose_device("cuda")
        assert error.value.code == "no-cuda"
    device = devices.choose_device("cpu")
    assert device.name == "cpu" and device.free_bytes > 0 and device.reason == "asked for cpu"
    assert devices.choose_device("auto").reason


def test_memory_errors_of_every_kind_become_ours():
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(OutOfMemory), devices.memory_errors("This", "hint"):
            raise error
    with pytest.raises(RuntimeError, match="shape"), devices.memory_errors("This", "hint"):
        raise RuntimeError("shape mismatch")
