# SPDX-License-Identifier: Apache-2.0
"""What every part behind a stage's Protocol promises. Those that need weights or are slow keep the same promises in tests of their
own: RAFT in tests/engine/test_raft.py, the diffusion completers in test_dvdm.py."""

import dataclasses
import importlib.util
from fractions import Fraction

import cv2
import numpy as np
import pytest
from synthetic import make_clip

from vs3r_engine.camera import inverse, output_camera
from vs3r_engine.frame import Frame
from vs3r_engine.lens import pixels_of_points, rays_of_pixels
from vs3r_engine.scene import Target, View
from vs3r_engine.settings import Settings
from vs3r_engine.stages.mask import pixel_centres

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
needs_pytorch3d = pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="PyTorch3D is not installed")


def geometric():
    from vs3r_engine.methods.geometric.reconstructor import GeometricReconstructor

    return GeometricReconstructor(Settings().analysis)


def vggt4d():
    from vs3r_engine.methods.vggt4d.reconstructor import Vggt4dReconstructor

    chosen = Settings().with_values({"analysis.weights": "random:1:small", "analysis.window_frames": 5, "analysis.overlap_frames": 2})
    return Vggt4dReconstructor(chosen, "cpu", longest_side_px=112)


def warp():
    from vs3r_engine.methods.warp import WarpRenderer

    return WarpRenderer()


def splat(splatting="sharp"):
    from vs3r_engine.methods.splat import SplatRenderer

    return SplatRenderer(Settings().with_values({"frame.splatting": splatting}), "cpu")


def pytorch3d():
    from vs3r_engine.methods.pytorch3d import Pytorch3dRenderer

    return Pytorch3dRenderer(Settings(), "cpu")


RECONSTRUCTORS = [pytest.param(geometric, id="geometric"), pytest.param(vggt4d, id="vggt4d", marks=needs_torch)]
RENDERERS = [
    pytest.param(warp, id="warp"),
    pytest.param(splat, id="splat", marks=needs_torch),
    pytest.param(lambda: splat("published"), id="published", marks=needs_torch),
    pytest.param(pytorch3d, id="pytorch3d", marks=[needs_torch, needs_pytorch3d]),
]


def temporal():
    from vs3r_engine.methods.temporal import TemporalCompleter

    return TemporalCompleter(Settings().fill, Fraction(30))


COMPLETERS = [pytest.param(temporal, id="temporal")]


@pytest.fixture(scope="module")
def clip():
    return make_clip("regular", frames=12, width=160, height=91)


def with_indices(frames, first):
    return [dataclasses.replace(frame, frame_index=first + i) for i, frame in enumerate(frames)]


def check_cover(pieces, first, count, width, height):
    at = first
    for piece in pieces:
        path = piece.trajectory
        n = len(path)
        assert path.first_frame == at and (path.width, path.height) == (width, height)
        assert np.isfinite(path.K).all() and np.isfinite(path.world_from_camera).all()
        assert np.allclose(np.linalg.det(path.world_from_camera[:, :3, :3]), 1, atol=1e-6)
        assert len(piece.depth) == len(piece.confidence) == n and piece.depth.shape == piece.confidence.shape
        assert not (piece.depth <= 0).any() and (piece.confidence >= 0).all() and (piece.confidence <= 1).all()
        assert piece.semantic_mask is None or len(piece.semantic_mask) == n
        assert piece.diagnostics["is_bridged"].shape == (n,)
        assert {name: len(values) for name, values in piece.diagnostics.items()} == dict.fromkeys(piece.diagnostics, n)
        at += n
    assert at == first + count


@pytest.mark.parametrize("make", RECONSTRUCTORS)
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_reconstructor_covers_every_frame_once_in_order(make, count, clip):
    frames = with_indices(clip.frames[:count], 40)
    check_cover(list(make().reconstruct(iter(frames), Fraction(30))), 40, count, 160, 91)


@pytest.mark.parametrize("make", RECONSTRUCTORS)
def test_a_reconstructor_bridges_frames_that_show_nothing(make, clip):
    frames = list(clip.frames[:9])
    dark = tuple(np.full_like(plane, 16 if i == 0 else 128) for i, plane in enumerate(frames[4].planes))
    frames[4] = dataclasses.replace(frames[4], planes=dark)
    pieces = list(make().reconstruct(iter(frames), Fraction(30)))
    check_cover(pieces, 0, 9, 160, 91)
    assert np.concatenate([piece.diagnostics["is_bridged"] for piece in pieces])[4]


@pytest.mark.parametrize("make", RECONSTRUCTORS)
def test_a_reconstructor_gives_the_same_twice_and_reads_lazily(make, clip):
    read = []

    def frames():
        for frame in clip.frames:
            read.append(frame.frame_index)
            yield frame

    first, second = (list(make().reconstruct(frames(), Fraction(30))) for _ in range(2))
    assert read == [*range(12), *range(12)]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.trajectory.world_from_camera, b.trajectory.world_from_camera) and np.array_equal(a.depth, b.depth)


def view(clip, i):
    depth, moves = clip.truth(i)
    return View(clip.frame(i), clip.trajectory.camera(i), None, depth, moves)


@pytest.mark.parametrize("make", RENDERERS)
def test_a_renderer_returns_the_current_frame_untouched_from_its_own_camera(make, clip):
    current = view(clip, 4)
    rendered = make().render(Target(4, current.camera, None), current, [view(clip, 3), view(clip, 5)])
    assert all(np.array_equal(a, b) for a, b in zip(rendered.frame.planes, current.frame.planes, strict=True))
    assert not rendered.hole_mask.any()


@pytest.mark.parametrize("make", RENDERERS)
def test_a_renderer_keeps_size_layout_number_and_colour_and_shifts_nothing(make, clip):
    current = view(clip, 4)
    K = current.camera.K.copy()
    K[0, 0] *= 1 + 1e-7
    rendered = make().render(Target(4, dataclasses.replace(current.camera, K=K), None), current, [])
    frame = rendered.frame
    assert (frame.frame_index, frame.layout, frame.colour) == (4, current.frame.layout, current.frame.colour)
    assert [plane.shape for plane in frame.planes] == [plane.shape for plane in current.frame.planes]
    assert frame.planes[0].dtype == current.frame.planes[0].dtype and rendered.hole_mask.shape == (91, 160)
    window = cv2.createHanningWindow((160, 91), cv2.CV_64F)
    shift, _ = cv2.phaseCorrelate(current.frame.planes[0].astype(np.float64), frame.planes[0].astype(np.float64), window)
    assert np.abs(shift).max() < 0.02


@pytest.mark.parametrize("make", RENDERERS)
def test_a_renderer_marks_what_nobody_saw_and_takes_static_points_from_neighbours(make, clip):
    target = Target(4, clip.stable.camera(4), None)
    turned = np.eye(4)
    turned[:3, :3] = cv2.Rodrigues(np.array([0, 0.12, 0.0]))[0]
    camera = dataclasses.replace(target.camera, world_from_camera=target.camera.world_from_camera @ turned)
    alone = make().render(Target(4, camera, None), view(clip, 4), [])
    shown = make().render(Target(4, camera, None), view(clip, 4), [view(clip, 3), view(clip, 5)])
    assert 0.02 < shown.hole_mask.mean() <= alone.hole_mask.mean() + 1e-9 < 0.4
    assert not (shown.hole_mask & ~alone.hole_mask).any()


@pytest.mark.parametrize("make", [case for case in RENDERERS if case.id != "published"])  # whose small discs leave pinholes when magnified
@pytest.mark.parametrize("name", ["wide", "ultra-wide", "telephoto", "fisheye", "omnidirectional", "double-sphere", "equirectangular"])
def test_a_renderer_takes_every_output_lens(make, name, clip):
    camera = output_camera(clip.stable.camera(4), name)
    rendered = make().render(Target(4, camera, None), view(clip, 4), [view(clip, 3), view(clip, 5)])
    rays = rays_of_pixels(pixel_centres(160, 91), camera.K, camera.lens)
    source_from_target = inverse(clip.trajectory.camera(4).world_from_camera) @ camera.world_from_camera
    seen = pixels_of_points(rays @ source_from_target[:3, :3].T, clip.trajectory.K[4], None)
    is_inside = ((seen > 6) & (seen < (154, 85))).all(-1)
    is_outside = ~((seen > -40) & (seen < (200, 131))).all(-1)
    assert rendered.hole_mask[is_inside].mean() < 0.03 and rendered.hole_mask[is_outside].sum() >= 0.99 * is_outside.sum()


class Views:
    def __init__(self, clip):
        self._clip = clip

    def view(self, frame_index):
        return view(self._clip, frame_index) if 0 <= frame_index < 12 else None


@pytest.mark.parametrize("make", COMPLETERS)
def test_a_completer_returns_every_frame_once_in_order_and_touches_none_without_a_hole(make, clip):
    turned = np.eye(4)
    turned[:3, :3] = cv2.Rodrigues(np.array([0, 0.12, 0.0]))[0]
    targets = [clip.trajectory.camera(i) for i in range(6)]
    targets[3] = dataclasses.replace(targets[3], world_from_camera=targets[3].world_from_camera @ turned)
    rendered = [warp().render(Target(i, camera, None), view(clip, i), []) for i, camera in enumerate(targets)]
    assert [item.hole_mask.any() for item in rendered] == [i == 3 for i in range(6)]
    frames = list(make().complete(iter(rendered), Views(clip)))
    assert [frame.frame_index for frame in frames] == list(range(6))
    assert all(frame is item.frame for frame, item in zip(frames, rendered, strict=True) if not item.hole_mask.any())
    filled, given = frames[3], rendered[3].frame
    assert (filled.layout, filled.colour) == (given.layout, given.colour)
    assert [(plane.shape, plane.dtype) for plane in filled.planes] == [(plane.shape, plane.dtype) for plane in given.planes]
    assert not np.array_equal(filled.planes[0], given.planes[0])
    alone = next(iter(make().complete(iter(rendered[3:4]), Views(clip))))
    assert make().whole_shots or all(np.array_equal(a, b) for a, b in zip(alone.planes, filled.planes, strict=True))


def flows():
    from vs3r_engine.methods.dis import DisFlow

    return [DisFlow()]


@pytest.mark.parametrize("shift", [(3, 0), (0, -2), (2, 1)])
def test_a_flow_estimator_points_from_the_frame_to_the_next(shift, clip):
    texture = cv2.GaussianBlur(np.random.default_rng(0).random((120, 200)).astype(np.float32), (0, 0), 2)
    texture = ((texture - texture.min()) / np.ptp(texture) * 255).astype(np.uint8)
    layout = dataclasses.replace(clip.frame(0).layout, model="gray", chroma_shift_x=0, chroma_shift_y=0)
    frames = [Frame(i, (np.ascontiguousarray(p),), layout) for i, p in enumerate((texture, np.roll(texture, shift[::-1], (0, 1))))]
    for flow in flows():
        found = flow.flow(*(flow.prepared(frame) for frame in frames))
        assert found.shape[2] == 2 and found.dtype == np.float32
        assert np.abs(np.median(found[15:-15, 15:-15], axis=(0, 1)) - shift).max() < 0.3
