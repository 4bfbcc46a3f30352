# SPDX-License-Identifier: Apache-2.0
"""The deep path on a CUDA device: opt-in with `-m gpu`."""

from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from synthetic import make_clip  # noqa: E402

from vs3r_engine.evaluation.bench_gpu import rates  # noqa: E402
from vs3r_engine.evaluation.bench_gpu_reconstruction import window_rows  # noqa: E402
from vs3r_engine.methods import devices  # noqa: E402
from vs3r_engine.methods.points import composite  # noqa: E402
from vs3r_engine.methods.splat import SplatRenderer  # noqa: E402
from vs3r_engine.methods.vggt4d.reconstructor import Vggt4dReconstructor  # noqa: E402
from vs3r_engine.scene import Target, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def test_auto_takes_the_gpu():
    device = devices.choose_device("auto")
    assert device.name == "cuda" and device.free_bytes > 10**9


def test_splatting_on_the_gpu_equals_the_cpu():
    clip = make_clip("parallax", frames=6, width=320, height=180)

    def view(i):
        depth, moves = clip.truth(i)
        return View(clip.frame(i), clip.trajectory.camera(i), None, depth, moves)

    target = Target(3, clip.stable.camera(3), None)
    ours, theirs = (SplatRenderer(Settings(), device).render(target, view(3), [view(2), view(4)]) for device in ("cpu", "cuda"))
    assert (ours.hole_mask != theirs.hole_mask).mean() < 1e-3
    assert np.mean(np.abs(ours.frame.planes[0].astype(int) - theirs.frame.planes[0]) > 2) < 1e-3


def test_discs_on_the_gpu_equal_the_cpu():
    generator = torch.Generator().manual_seed(0)
    pixels, z, colours = (
        torch.rand(5000, 2, generator=generator) * 100,
        torch.rand(5000, generator=generator) + 0.1,
        torch.rand(5000, 3, generator=generator),
    )
    ours, _ = composite(pixels, z, colours, (90, 100), 2.2)
    theirs, _ = composite(pixels.cuda(), z.cuda(), colours.cuda(), (90, 100), 2.2)
    assert (ours - theirs.cpu()).abs().max() < 1e-4


def test_the_small_network_reconstructs_on_the_gpu_as_on_the_cpu():
    clip = make_clip("regular", frames=6, width=160, height=90)
    chosen = Settings().with_values({"analysis.weights": "random:1:small"})
    ours, theirs = (list(Vggt4dReconstructor(chosen, device).reconstruct(iter(clip.frames), Fraction(30))) for device in ("cpu", "cuda"))
    # The GPU runs the blocks in bfloat16.
    assert np.median(np.abs(ours[0].depth / theirs[0].depth - 1)) < 0.05
    assert np.abs(ours[0].trajectory.world_from_camera - theirs[0].trajectory.world_from_camera).max() < 0.1


def test_a_full_window_of_the_full_network_fits_and_is_measured():
    rows = list(window_rows("cuda", False, rates("cuda", 8192)))
    print("\n".join(row.line() for row in rows))
    assert len(rows) == 4
