# SPDX-License-Identifier: Apache-2.0
"""The deep path on a GPU that is only pretended: nothing is left behind on the CPU, and the answers are the CPU's."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests.engine.test_dvdm import NoViews, one_thread, rendered_frames  # noqa: E402, F401
from tests.pretended_gpu import NAME, pretended_gpu  # noqa: E402
from tests.synthetic import make_clip  # noqa: E402
from vs3r_engine.methods import dvdm, splat, vace  # noqa: E402
from vs3r_engine.methods.devices import Device  # noqa: E402
from vs3r_engine.methods.diffusion import memory, random_weights, sampling, wan  # noqa: E402
from vs3r_engine.methods.vggt4d import reconstructor  # noqa: E402
from vs3r_engine.scene import Target, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402


def test_the_pretended_gpu_refuses_what_a_real_one_refuses():
    with pretended_gpu():
        far, near = torch.ones(3, device=NAME), torch.ones(3)
        assert far.device.type == NAME and (far + 1).cpu().tolist() == [2, 2, 2] and (near.to(NAME) + far).sum().item() == 6
        with pytest.raises(RuntimeError, match="two devices"):
            far + near
        with pytest.raises(RuntimeError):
            far.numpy()


@pytest.mark.parametrize(
    ("completer", "values"),
    [
        (dvdm.DvdmCompleter, {}),
        (dvdm.DvdmCompleter, {"fill.blending": "cross-fade", "fill.denoise": 0.5, "fill.sampler": "vs3r-official"}),
        (vace.VaceCompleter, {"fill.denoise": 0.5}),
    ],
)
def test_the_completers_paint_there_what_they_paint_here(completer, values, monkeypatch):
    for name in ("vs3r", "vs3r-official"):
        monkeypatch.setitem(sampling.PRESETS, name, dataclasses.replace(sampling.PRESETS[name], steps=3))
    settings = Settings().with_values(
        {"fill.weights": "random:7:small", "fill.lora": "none", "fill.window_frames": 9, "fill.overlap_frames": 4} | values
    )

    def planes():
        wan.kept_warm("nothing", lambda: None)
        return [frame.planes[0] for frame in completer(settings).complete(rendered_frames(11), NoViews())]

    here = planes()
    policy = memory.Policy("model", NAME, torch.float32, None, "pretended")
    monkeypatch.setattr(random_weights, "_policy", lambda *given: policy)
    with pretended_gpu():
        there = planes()
    wan.kept_warm("nothing", lambda: None)
    assert np.abs(np.array(here, int) - np.array(there, int)).max() <= 1


def test_a_window_is_reconstructed_there_as_here(monkeypatch):
    clip = make_clip("crowd", frames=5, width=160, height=90)

    def found(device):
        monkeypatch.setattr(reconstructor, "choose_device", lambda setting: Device(device, 10**12, ""))
        settings = Settings().with_values({"analysis.weights": "random:1:small"})
        method = reconstructor.Vggt4dReconstructor(settings, device, longest_side_px=112)
        network = reconstructor.checkpoint.load("random:1:small", device).network
        return method.window(network, clip.frames, (112, 56))

    here = found("cpu")
    with pretended_gpu():
        monkeypatch.setattr(
            reconstructor.Vggt4dReconstructor, "window", torch.no_grad()(reconstructor.Vggt4dReconstructor.window.__wrapped__)
        )
        there = found(NAME)
    assert here.semantic_mask.any() and np.array_equal(here.semantic_mask, there.semantic_mask)
    np.testing.assert_allclose(there.depth, here.depth, rtol=1e-4)
    np.testing.assert_allclose(there.trajectory.world_from_camera, here.trajectory.world_from_camera, atol=1e-5)


@pytest.mark.parametrize("splatting", ["sharp", "published"])
def test_a_frame_is_rendered_there_as_here(splatting, monkeypatch):
    clip = make_clip("parallax", frames=5, width=160, height=90)

    def view(i):
        return View(clip.frame(i), clip.trajectory.camera(i), None, *clip.truth(i))

    def rendered(device):
        monkeypatch.setattr(splat, "choose_device", lambda setting: Device(device, 10**12, ""))
        renderer = splat.SplatRenderer(Settings().with_values({"frame.splatting": splatting}), device)
        return renderer.render(Target(2, clip.stable.camera(2), None), view(2), [view(1), view(3)])

    here = rendered("cpu")
    with pretended_gpu():
        there = rendered(NAME)
    assert np.array_equal(here.hole_mask, there.hole_mask)
    assert all(np.array_equal(a, b) for a, b in zip(here.frame.planes, there.frame.planes, strict=True))
