# SPDX-License-Identifier: Apache-2.0
"""What settings choose: named parts are never replaced, automatic ones say why, and the whole paper's path runs end to
end."""

import json
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from synthetic import make_clip  # noqa: E402

from vs3r_engine.errors import DeviceError, SetupError, VS3RError, WeightsMissing  # noqa: E402
from vs3r_engine.methods import choice, devices, weights  # noqa: E402
from vs3r_engine.methods.geometric.reconstructor import GeometricReconstructor  # noqa: E402
from vs3r_engine.methods.rectified import RectifiedReconstructor  # noqa: E402
from vs3r_engine.methods.splat import SplatRenderer  # noqa: E402
from vs3r_engine.methods.temporal import TemporalCompleter  # noqa: E402
from vs3r_engine.methods.vggt4d.reconstructor import Vggt4dReconstructor  # noqa: E402
from vs3r_engine.methods.warp import WarpRenderer  # noqa: E402
from vs3r_engine.settings import DESCRIPTORS, Settings  # noqa: E402


def settings(**values):
    return Settings().with_values({name.replace("__", "."): value for name, value in values.items()})


def test_automatic_choices_say_why():
    chosen = choice.choose_reconstructor(Settings())
    assert isinstance(chosen.part, GeometricReconstructor) and (chosen.name, chosen.reason) == (
        "geometric",
        "no weights are installed",
    )
    assert choice.choose_flow(Settings()).name == "dis" and choice.choose_flow(Settings()).reason == "no weights are installed"
    renderer = choice.choose_renderer(Settings())
    assert isinstance(renderer.part, WarpRenderer) and renderer.reason == "the depth is smooth"


def test_weights_without_a_gpu_do_not_start_a_network_by_themselves(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    weights.import_files("vggt-1b", tmp_path)
    monkeypatch.setattr(choice, "_gpu", lambda: None)
    assert choice.method_name(Settings()) == ("geometric", "no GPU is there")
    monkeypatch.setattr(choice, "_gpu", lambda: "cuda")
    assert choice.method_name(Settings())[0] == "vggt4d"
    assert choice.method_name(settings(analysis__device="cpu"))[0] == "geometric"
    # Each network asks for its own weights; dense depth asks for points.
    assert choice.choose_flow(Settings()).name == "dis"
    monkeypatch.setattr(choice, "method_name", lambda _: ("vggt4d", "its weights and a GPU are there"))
    assert choice.choose_renderer(Settings()).name == "splat"


def test_edges_that_are_to_show_are_not_filled_and_drafts_are_filled_without_diffusion():
    chosen = choice.choose_methods(Settings(), Fraction(30))
    assert (chosen.name, chosen.neighbours) == ("geometric-dis", ()) and isinstance(chosen.completer, TemporalCompleter)
    assert choice.choose_methods(settings(frame__framing="show-edges"), Fraction(30)).completer is None
    draft = settings(fill__completer="dvdm", fill__quality="draft")
    assert isinstance(choice.choose_methods(draft, Fraction(30)).completer, TemporalCompleter)


@pytest.mark.parametrize(("has_cuda", "has_mps", "name"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_a_device_is_the_best_there_is_or_the_one_asked_for_or_an_error(monkeypatch, has_cuda, has_mps, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    monkeypatch.setattr(devices, "free_memory", lambda name: 3 * 2**30)
    found = devices.choose_device("auto")
    assert (found.name, found.free_gib) == (name, 3) and choice._gpu() == (found if name != "cpu" else None)
    for asked, is_there in (("cuda", has_cuda), ("mps", has_mps), ("cpu", True)):
        if is_there:
            assert devices.choose_device(asked).reason == f"asked for {asked}"
        else:
            with pytest.raises(DeviceError) as error:
                devices.choose_device(asked)
            assert error.value.code == f"no-{asked}"


def test_memory_that_torch_holds_and_does_not_use_is_free(monkeypatch):
    for name, value in (("mem_get_info", (100, 1000)), ("memory_reserved", 70), ("memory_allocated", 30)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert devices.free_memory("cuda") == 140


def test_what_a_network_needs_besides_weights_decides_too(monkeypatch):
    monkeypatch.setattr(choice, "_missing", lambda *_: None)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    flow = choice.choose_flow(Settings())
    assert (flow.name, flow.reason) == ("dis", "torchvision is not installed")


@pytest.mark.parametrize("completer", ["dvdm", "vace"])
def test_quantizing_without_its_package_is_refused_before_anything_is_read(monkeypatch, completer):
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    chosen = settings(fill__completer=completer, fill__offload="int8", fill__weights="random:1", fill__lora="untrained")
    with pytest.raises(SetupError, match="torchao-missing"):
        choice.choose_methods(chosen, Fraction(30))


def test_what_is_asked_for_by_name_is_never_replaced():
    with pytest.raises(WeightsMissing):
        choice.choose_reconstructor(settings(analysis__method="vggt4d"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            choice.choose_reconstructor(settings(analysis__method="vggt4d", analysis__weights="random:1:small", analysis__device="cuda"))
    chosen = choice.choose_reconstructor(settings(analysis__method="vggt4d", analysis__weights="random:1:small"))
    assert isinstance(chosen.part, Vggt4dReconstructor) and chosen.reason == "asked for"


CHOOSE = {
    "analysis.method": lambda given: choice.choose_reconstructor(given).part,
    "analysis.flow": lambda given: choice.choose_flow(given).part,
    "frame.renderer": lambda given: choice.choose_renderer(given).part,
    "fill.completer": lambda given: choice.choose_methods(given, Fraction(30)).completer,
}


@pytest.mark.parametrize("key", CHOOSE)
def test_every_word_of_a_choice_means_a_part_of_its_own(key):
    def meant(word):
        seeded = settings(analysis__weights="random:1:small", fill__weights="random:1:small", fill__lora="untrained")
        try:
            return type(CHOOSE[key](seeded.with_values({key: word})))
        except VS3RError as error:
            return error.code

    words = [word for descriptor in DESCRIPTORS if descriptor.key == key for word in descriptor.choices if word != "auto"]
    assert len({meant(word) for word in words}) == len(words) > 1


def test_dense_depth_is_rendered_by_points_and_lens_profiles_wrap_the_reconstructor(tmp_path):
    for values in ({"analysis__method": "vggt4d", "analysis__weights": "random:1:small"}, {"frame__renderer": "splat"}):
        assert isinstance(choice.choose_renderer(settings(**values)).part, SplatRenderer)
    assert isinstance(choice.choose_renderer(settings(frame__lens="fisheye")).part, WarpRenderer)
    path = tmp_path / "lens.json"
    path.write_text(json.dumps({"model": "fisheye", "width": 320, "height": 180, "fx": 200, "fy": 200, "cx": 160, "cy": 90}))
    chosen = choice.choose_reconstructor(settings(analysis__input_lens=str(path)))
    assert isinstance(chosen.part, RectifiedReconstructor)


def test_far_frames_are_looked_at_only_by_wide_lenses():
    assert choice.offsets(Settings(), "splat") == (-1, 1) and choice.offsets(Settings(), "warp") == ()
    assert choice.offsets(settings(frame__lens="wide", frame__neighbours=2), "splat") == (-1, 1, -2, 2)
    for renderer in ("warp", "splat"):
        for lens in ("fisheye", "omnidirectional", "double-sphere", "equirectangular"):
            assert choice.offsets(settings(frame__lens=lens), renderer) == (-1, 1, -10, 10)
            assert choice.offsets(settings(frame__lens=lens, frame__neighbours=0), renderer) == ()
        assert len(choice.offsets(settings(frame__lens="fisheye", frame__neighbours=10), renderer)) == 20


def test_an_analysis_remembers_the_clips_lens(tmp_path):
    from vs3r_engine.camera import Trajectory
    from vs3r_engine.lens import Lens
    from vs3r_engine.media.analysis import Analysis, AnalysisWriter
    from vs3r_engine.scene import Moving, Reconstruction

    lens = Lens("fisheye", tuple(0.01 * i for i in range(12)), 1.2)
    path = Trajectory(0, 32, 18, np.tile(np.eye(3), (2, 1, 1)), np.tile(np.eye(4), (2, 1, 1)), lenses=(lens, lens))
    depth = np.ones((2, 9, 16), np.float32)
    writer = AnalysisWriter(tmp_path, {})
    writer.add(Reconstruction(path, depth, depth), Moving(np.zeros((2, 9, 16), bool), np.zeros((2, 9, 16), np.float32)), True)
    writer.finish()
    assert Analysis(tmp_path).trajectory.lenses == (lens, lens) and Analysis(tmp_path).trajectory.camera(1).lens == lens


@pytest.mark.parametrize("category", ["crowd"])
def test_the_papers_path_runs_on_random_weights(category):
    """Reconstruct in windows, mask by flow, render from a smoothed path: every line of it, on nonsense weights."""
    from fractions import Fraction

    from vs3r_engine.scene import Target, View
    from vs3r_engine.stages.mask import moving_of
    from vs3r_engine.stages.smooth import smooth
    from vs3r_engine.timeline import FrameRange

    clip = make_clip(category, frames=6, width=160, height=90)
    chosen = settings(
        analysis__method="vggt4d",
        analysis__weights="random:2:small",
        analysis__window_frames=4,
        analysis__overlap_frames=1,
    )
    frames, flow = clip.frames, choice.choose_flow(chosen).part
    for piece in choice.choose_reconstructor(chosen).part.reconstruct(iter(frames), Fraction(30)):
        path = piece.trajectory
        first = path.first_frame
        seen = [frames[first + i] for i in range(len(path))]
        masks = moving_of(piece, [flow.prepared(f) for f in seen], flow, chosen.analysis).mask
        calm = smooth(path, [FrameRange(first, len(path))], Fraction(30), chosen.path)
        views = [View(f, path.camera(f.frame_index), None, piece.depth[i], masks[i]) for i, f in enumerate(seen)]
        rendered = choice.choose_renderer(chosen).part.render(Target(first, calm.camera(first), None), views[0], views[1:2])
        assert rendered.frame.planes[0].shape == (90, 160)
