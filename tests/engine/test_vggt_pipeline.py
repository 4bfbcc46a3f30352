# SPDX-License-Identifier: Apache-2.0
"""The paper's path from the command line: file in, file out, on random weights, through every line of the real
thing."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from synthetic import make_clip  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from vs3r_engine.app.cli import app  # noqa: E402
from vs3r_engine.errors import WeightsMissing  # noqa: E402
from vs3r_engine.media.decode import open_source  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip("crowd", frames=14, width=160, height=90, seed=5).write(tmp_path_factory.mktemp("clip") / "crowd.mp4")


def stabilized(source: Path, output: Path, *settings: str) -> tuple[list[np.ndarray], dict]:
    arguments = [
        "stabilize",
        str(source),
        "-o",
        str(output),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    with open_source(str(output)) as made:
        frames = [frame.planes[0].copy() for frame in made.frames(made.info.clip.available_range)]
    return frames, json.loads(Path(f"{output}.vs3r.json").read_text())


def test_the_papers_method_stabilizes_a_file_and_the_sidecar_tells_which_weights(clip, tmp_path):
    frames, sidecar = stabilized(
        clip,
        tmp_path / "out.mkv",
        "analysis.method=vggt4d",
        "analysis.weights=random:1:small",
        "analysis.window_frames=8",
        "analysis.overlap_frames=3",
    )
    assert len(frames) == 14 and frames[0].shape == (90, 160)
    findings = sidecar["findings"]
    assert findings["method"] == "vggt4d-dis" and findings["weights"] == "random:1:small" and findings["weights_licence"]
    assert findings["window_frames"] == 8 and "seam_worst_deg" in findings


@pytest.mark.parametrize(
    "values",
    [
        ("analysis.mask=semantic", "frame.framing=show-edges"),
        ("analysis.mask=hybrid", "frame.framing=show-edges"),
        ("analysis.mask=semantic",),
        ("analysis.mask=hybrid", "frame.splatting=published", "analysis.joining=published"),
    ],
)
def test_the_ablations_rows_are_settings(clip, tmp_path, values):
    """Baseline, without completion, without the hybrid mask, and the published low-resolution form of the whole."""
    frames, _ = stabilized(clip, tmp_path / "out.mkv", "analysis.method=vggt4d", "analysis.weights=random:1:small", *values)
    assert len(frames) == 14


@pytest.mark.parametrize("lens", ["perspective", "fisheye", "equirectangular"])
def test_every_camera_model_is_one_command(clip, tmp_path, lens):
    frames, sidecar = stabilized(clip, tmp_path / "out.mkv", f"frame.lens={lens}", "frame.framing=show-edges")
    assert len(frames) == 14 and sidecar["settings"]["frame.lens"] == lens
    # 180 x 90 degrees hold the picture several times over.
    assert (sidecar["findings"]["hole_percent"] > 60) == (lens == "equirectangular")


def test_a_lens_profile_is_taken_through_the_whole_engine(clip, tmp_path):
    profile = tmp_path / "lens.json"
    profile.write_text(json.dumps({"model": "fisheye", "width": 160, "height": 90, "fx": 128, "fy": 128, "cx": 80, "cy": 45}))
    frames, _ = stabilized(clip, tmp_path / "out.mkv", f"analysis.input_lens={profile}", "frame.framing=show-edges")
    straight, _ = stabilized(
        clip,
        tmp_path / "straight.mkv",
        f"analysis.input_lens={profile}",
        "frame.lens=perspective",
        "frame.framing=show-edges",
    )
    assert len(frames) == 14 and np.mean(frames[6] != straight[6]) > 0.2


def test_without_weights_nothing_is_done(clip, tmp_path):
    with pytest.raises(WeightsMissing):
        stabilized(clip, tmp_path / "out.mkv", "analysis.method=vggt4d")
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_full_size_network_stabilizes_eight_frames_on_a_cpu(tmp_path):
    source = make_clip("regular", frames=8, width=518, height=294).write(tmp_path / "clip.mp4")
    frames, sidecar = stabilized(source, tmp_path / "out.mkv", "analysis.method=vggt4d", "analysis.weights=random:1", "analysis.device=cpu")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{usage.ru_utime + usage.ru_stime:.0f} CPU-s, {usage.ru_maxrss / 1024**2:.1f} GiB, {sidecar['findings']}")
    assert len(frames) == 8 and sidecar["findings"]["weights"] == "random:1"
