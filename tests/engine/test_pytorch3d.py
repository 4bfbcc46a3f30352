# SPDX-License-Identifier: Apache-2.0
"""PyTorch3D's rasterizer and its torch twin draw the same picture; without the package the way to get it is told."""

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vs3r_engine.camera import Camera  # noqa: E402
from vs3r_engine.errors import SetupError  # noqa: E402
from vs3r_engine.frame import Frame, PixelLayout  # noqa: E402
from vs3r_engine.methods import pytorch3d as adapter  # noqa: E402
from vs3r_engine.methods.points import composite  # noqa: E402
from vs3r_engine.scene import Target, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402

is_built = importlib.util.find_spec("pytorch3d") is not None
needs_package = pytest.mark.skipif(not is_built, reason="PyTorch3D is not installed")


def test_without_the_package_the_way_to_get_it_is_told():
    if is_built:
        pytest.skip("PyTorch3D is installed")
    with pytest.raises(SetupError) as error:
        adapter.Pytorch3dRenderer(Settings(), "cpu")
    assert error.value.code == "pytorch3d-missing" and "conda-forge" in error.value.hint and "splat" in error.value.hint


@needs_package
@pytest.mark.parametrize(("size", "radius_px"), [((40, 64), 1.5), ((64, 40), 3.2), ((33, 33), 0.9)])
def test_the_twin_draws_what_pytorch3d_draws(size, radius_px):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4000, 2, generator=generator) * torch.tensor([size[1] + 8.0, size[0] + 8.0]) - 4
    distance, colours = torch.rand(4000, generator=generator) * 3 + 0.1, torch.rand(4000, 3, generator=generator)
    ours, covered = composite(pixels, distance, colours, size, radius_px)
    theirs, theirs_covered = adapter.rasterized(pixels, distance, colours, size, radius_px)
    assert torch.equal(covered, theirs_covered)
    assert (ours - theirs).abs().max() < 2e-3 and (ours - theirs).abs().mean() < 1e-5


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
