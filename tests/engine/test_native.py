# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels against what numpy and OpenCV do where there are none."""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import panorama
import pytest

from vs3r_engine import native
from vs3r_engine.camera import Camera
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.lens import Lens
from vs3r_engine.methods.temporal import TemporalCompleter, alignment, completer
from vs3r_engine.methods.warp import WarpRenderer
from vs3r_engine.scene import Target, View
from vs3r_engine.settings import FillSettings
from vs3r_engine.stages.render import source_positions

needs_kernels = pytest.mark.skipif(not native.is_available, reason="no compiled kernels here: no C compiler, or VS3R_KERNELS=off")
LAYOUTS = {
    "yuv420p": PixelLayout("yuv", 8, 1, 1),
    "yuv422p10": PixelLayout("yuv", 10, 1, 0),
    "yuv411p": PixelLayout("yuv", 8, 2, 0),
    "yuva444p16": PixelLayout("yuv", 16, has_alpha=True),
    "gray": PixelLayout("gray", 8),
    "rgb-float": PixelLayout("rgb", 32),
}

FIELDS = ("shift_small_px", "gain", "bias", "mismatch")


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "is_available", False)


def noise_frame(layout: PixelLayout, width: int, height: int, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    pictures = [cv2.GaussianBlur(rng.random(layout.plane_shape(i, width, height)), (0, 0), 1.5) for i in range(layout.plane_count)]
    return Frame(seed, tuple((picture * layout.peak).astype(layout.dtype) for picture in pictures), layout)


def deep_view(layout: PixelLayout, width: int, height: int, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    camera = Camera(np.array([[300.0, 4.0, width / 2], [0, 300.0, height / 2], [0, 0, 1]]), width, height, np.eye(4))
    residual = rng.normal(size=(5, 9, 2)).astype(np.float32)
    depth = (2 + rng.random((12, 20))).astype(np.float32)
    return View(noise_frame(layout, width, height, seed), camera, residual, depth, np.zeros((4, 4), bool))


def turned(camera: Camera) -> Target:
    a = np.radians(2.0)
    world_from_camera = np.eye(4)
    world_from_camera[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    world_from_camera[:3, 3] = 0.03, -0.02, 0.05
    return Target(0, replace(camera, world_from_camera=world_from_camera), None)


@needs_kernels
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(161, 97), (16, 16), (640, 360)])
def test_a_warp_is_the_same_within_rounding(monkeypatch, name, size):
    view = deep_view(LAYOUTS[name], *size)
    fast = WarpRenderer().render(turned(view.camera), view, ()).frame
    without_kernels(monkeypatch)
    slow = WarpRenderer().render(turned(view.camera), view, ()).frame
    peak = LAYOUTS[name].peak
    for a, b in zip(fast.planes, slow.planes, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        difference = np.abs(a.astype(np.float64) - b) / peak
        # OpenCV places samples on a grid of 1/32 pixel and rounds before it sharpens.
        assert difference.mean() < 0.002 and difference.max() < 0.012


@needs_kernels
@pytest.mark.parametrize("name", [*LAYOUTS, "yuv-float", "graya16", "rgba"])
@pytest.mark.parametrize("size", [(161, 97), (1, 1), (2, 3), (64, 36)])
def test_colours_are_the_same_in_every_type_of_sample(monkeypatch, name, size):
    more = {
        "yuv-float": PixelLayout("yuv", 32, 1, 1),
        "graya16": PixelLayout("gray", 16, has_alpha=True),
        "rgba": PixelLayout("rgb", 8, has_alpha=True),
    }
    frame = noise_frame((LAYOUTS | more)[name], *size)
    dtypes = np.float32, np.float16, np.uint8, np.uint16
    fast = [frame.to_rgb(), *(frame.to_rgba(dtype) for dtype in dtypes)]
    without_kernels(monkeypatch)
    slow = [frame.to_rgb(), *(frame.to_rgba(dtype) for dtype in dtypes)]
    for a, b, tolerance in zip(fast, slow, (1e-6, 1e-6, 1e-3, 1, 1), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.abs(a.astype(np.float64) - b).max() <= tolerance


@needs_kernels
def test_half_floats_are_rounded_as_numpy_rounds_them():
    values = np.array([0, 1, 6e-8, 2.9e-8, 3.1e-8, 6.1e-5, 65504, 65519, 65520, 7e4, -1e9, 1 / 3, 1 + 2**-11, 1 + 3 * 2**-11])
    values = np.concatenate([values, np.random.default_rng(0).normal(size=4000) * 10.0 ** np.arange(-8, 0).repeat(500)]).astype(np.float32)
    frame = Frame(0, (values[None],) * 3, PixelLayout("rgb", 32))
    with np.errstate(over="ignore"):
        assert np.array_equal(frame.to_rgba(np.float16)[0, :, 0].view(np.uint16), values.astype(np.float16).view(np.uint16))
    not_numbers = Frame(0, (np.full((1, 8), np.nan, np.float32),) * 3, PixelLayout("rgb", 32))
    assert np.isnan(not_numbers.to_rgba(np.float16)[..., :3]).all() and not not_numbers.to_rgba(np.uint8)[..., :3].any()


@needs_kernels
@pytest.mark.parametrize("lens", [None, Lens("division", (-0.1,)), Lens("division", (0.02,))])
def test_source_positions_are_the_same_to_a_billionth_of_a_pixel(monkeypatch, lens):
    view = deep_view(LAYOUTS["gray"], 160, 96)
    pixels = np.random.default_rng(1).uniform(-40, 200, (37, 11, 2))
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = -0.04, 0.03, 0.02
    target = Target(0, replace(view.camera, world_from_camera=elsewhere, lens=lens), None)
    view = replace(view, camera=replace(turned(view.camera).camera, lens=lens))
    fast = source_positions(target, view, pixels)
    without_kernels(monkeypatch)
    slow = source_positions(target, view, pixels)
    assert np.isfinite(slow).all() and np.abs(fast - slow).max() < 1e-9


@needs_kernels
def test_rays_away_from_the_source_camera_are_nowhere_in_both(monkeypatch):
    view = deep_view(LAYOUTS["gray"], 160, 96)
    behind = np.diag([-1.0, 1, -1, 1])
    target = Target(0, replace(view.camera, world_from_camera=behind), None)
    pixels = np.array([[80.0, 48.0], [10.0, 90.0]])
    assert np.isnan(source_positions(target, replace(view, residual_px=None), pixels)).all()
    without_kernels(monkeypatch)
    assert np.isnan(source_positions(target, replace(view, residual_px=None), pixels)).all()


def completed(layout: PixelLayout) -> list[Frame]:
    """Frames 6 to 8 of a shaken panorama, part of which is taken to move, with their holes filled."""
    views, targets, _ = panorama.shaken(14, layout=layout)
    moving = np.zeros((9, 16), bool)
    moving[2:5, 1:3] = True
    views = {i: replace(view, dynamic_mask=moving) for i, view in views.items()}
    rendered = [WarpRenderer().render(targets[i], views[i], ()) for i in range(6, 9)]
    assert max(item.hole_mask.mean() for item in rendered) > 0.01
    return list(TemporalCompleter(FillSettings(), Fraction(30)).complete(rendered, panorama.Held(views)))


@needs_kernels
@pytest.mark.parametrize("name", ["yuv420p", "rgb-float", "yuva444p16"])
def test_a_filling_is_the_same_within_rounding(monkeypatch, name):
    fast = completed(LAYOUTS[name])
    without_kernels(monkeypatch)
    for a, b in zip(fast, completed(LAYOUTS[name]), strict=True):
        for one, other in zip(a.planes, b.planes, strict=True):
            difference = np.abs(one.astype(np.float64) - other) / a.layout.peak
            assert difference.mean() < 0.002 and np.percentile(difference, 99.9) < 0.02


@needs_kernels
@pytest.mark.parametrize("name", ["yuv420p", "rgb-float", "gray"])
def test_alignment_is_the_same_in_place_and_exposure(monkeypatch, name):
    differences = []

    def both(*what):
        fast = alignment.aligned(*what)
        with pytest.MonkeyPatch.context() as patch:
            without_kernels(patch)
            slow = alignment.aligned(*what)
        differences.append([float(np.abs(getattr(fast, field) - getattr(slow, field)).max()) for field in FIELDS])
        assert all(np.ptp(getattr(slow, field)) > 0 for field in FIELDS)
        return fast

    monkeypatch.setattr(completer, "aligned", both)
    completed(LAYOUTS[name])
    shift_small_px, gain, bias_levels, mismatch_levels = np.max(differences, axis=0)
    assert shift_small_px < 1e-4 and gain < 3e-4 and bias_levels < 0.03 and mismatch_levels < 2e-3


@needs_kernels
@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf, -1e5, 1e30])
def test_positions_that_are_nowhere_read_the_border(lost):
    plane = np.full((40, 48), 7, np.uint8)
    indices = np.full((4, 5, 2), lost)
    assert (native.warp_plane(plane, indices, (16, 16), 255.0, 0.09) == 7).all()


def test_planes_the_kernels_cannot_address_are_left_to_numpy():
    assert native.takes(np.zeros((8, 8), np.uint8)) == native.is_available
    assert not native.takes(np.zeros((7, 64), np.uint8))
    assert not native.takes(np.broadcast_to(np.uint16(0), (32768, 32768)))


def test_a_library_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert native._loaded() is None


def test_a_file_that_is_no_library_is_not_used(monkeypatch, tmp_path):
    broken = tmp_path / "kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "LIBRARY", broken)
    assert native._loaded() is None


def test_without_a_compiler_the_build_says_so_and_goes_on(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    sys.modules.pop("hatch_build", None)
    import hatch_build

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(hatch_build.shutil, "which", lambda name: None)
    assert hatch_build.compiled() is None
    assert "no C compiler" in capsys.readouterr().err
    for useless in (f"{sys.executable} -c raise(SystemExit('broken'))", "/no/such/compiler"):
        monkeypatch.setenv("CC", useless)
        assert hatch_build.compiled() is None
        assert "cannot compile" in capsys.readouterr().err
