# SPDX-License-Identifier: Apache-2.0
"""PyTorch3D's rasterizer and its torch twin draw the same picture; without the package the way to get it is told."""

import importlib.util
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vs3r_engine.app import doctor  # noqa: E402
from vs3r_engine.camera import Camera  # noqa: E402
from vs3r_engine.errors import SetupError  # noqa: E402
from vs3r_engine.frame import Frame, PixelLayout  # noqa: E402
from vs3r_engine.methods import pytorch3d as adapter  # noqa: E402
from vs3r_engine.methods import pytorch3d_build  # noqa: E402
from vs3r_engine.methods.points import composite  # noqa: E402
from vs3r_engine.scene import Target, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402

is_built = importlib.util.find_spec("pytorch3d") is not None
needs_package = pytest.mark.skipif(not is_built, reason="PyTorch3D is not installed")


def test_without_the_package_the_way_to_get_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    monkeypatch.delitem(sys.modules, "pytorch3d._C", raising=False)
    with pytest.raises(SetupError) as error:
        adapter.Pytorch3dRenderer(Settings(), "cpu")
    assert error.value.code == "pytorch3d-missing" and "splat" in error.value.hint
    assert pytorch3d_build.build_steps() in error.value.hint


@pytest.mark.parametrize(("system", "needed"), [("Linux", "apt install"), ("Darwin", "clang++"), ("Windows", "/std:c++20")])
def test_every_platform_has_its_build_steps(system, needed):
    steps = pytorch3d_build.build_steps(system)
    assert needed in steps and pytorch3d_build.RELEASE in steps and "pip install --no-build-isolation" in steps


def test_the_doctor_tells_the_steps_and_what_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "pytorch3d" else object())
    (missing,) = doctor._pytorch3d()
    assert missing.state == "off" and missing.hint == pytorch3d_build.build_steps()
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(pytorch3d_build, "fault", lambda: "undefined symbol")
    (broken,) = doctor._pytorch3d()
    assert broken.state == "wrong" and "undefined symbol" in broken.found and broken.hint


def points(size, count, generator):
    pixels = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] + 8.0, size[0] + 8.0]) - 4
    return pixels, torch.rand(count, generator=generator) * 3 + 0.1, torch.rand(count, 3, generator=generator)


@needs_package
@pytest.mark.parametrize(("size", "radius_px"), [((40, 64), 1.5), ((64, 40), 3.2), ((33, 33), 0.9)])
@pytest.mark.parametrize("is_flat", [False, True])
def test_the_twin_draws_what_pytorch3d_draws(size, radius_px, is_flat):
    pixels, distance, colours = points(size, 4000, torch.Generator().manual_seed(0))
    if is_flat:  # all equally near: the first points win
        distance = torch.ones_like(distance)
    ours, covered = composite(pixels, distance, colours, size, radius_px)
    theirs, theirs_covered = adapter.rasterized(pixels, distance, colours, size, radius_px)
    assert torch.equal(covered, theirs_covered)
    assert (ours - theirs).abs().max() < 1e-4


@needs_package
def test_tiles_change_nothing():
    size = (30, 47)
    drawn = points(size, 3000, torch.Generator().manual_seed(1))
    whole, covered = adapter.rasterized(*drawn, size, 2.1, tile_px=47)
    for tile_px in (7, 16):
        tiled, tiled_covered = adapter.rasterized(*drawn, size, 2.1, tile_px=tile_px)
        assert torch.equal(covered, tiled_covered) and (tiled - whole).abs().max() < 1e-4


@needs_package
@pytest.mark.parametrize("splatting", ["sharp", "published"])
def test_its_renderer_shifts_nothing_and_keeps_the_current_frames_pixels(splatting):
    rng = np.random.default_rng(0)
    planes = tuple(rng.integers(0, 255, (36, 50)).astype(np.uint8) for _ in range(3))
    camera = Camera(np.array([[40.0, 0, 25], [0, 40, 18], [0, 0, 1]]), 50, 36, np.eye(4))
    view = View(
        Frame(0, planes, PixelLayout("rgb", 8)),
        camera,
        None,
        np.full((36, 50), 2.0, np.float32),
        np.zeros((36, 50), bool),
    )
    K = camera.K.copy()
    K[0, 2] += 1e-9
    renderer = adapter.Pytorch3dRenderer(Settings().with_values({"frame.splatting": splatting}), "cpu")
    same = renderer.render(Target(0, camera, None), view, [])
    assert same.frame is view.frame
    nearly = renderer.render(Target(0, Camera(K, 50, 36, np.eye(4)), None), view, [])
    assert not nearly.hole_mask.any()
    if splatting == "sharp":
        assert all(np.array_equal(a, b) for a, b in zip(nearly.frame.planes, planes, strict=True))
