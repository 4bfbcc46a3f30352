# SPDX-License-Identifier: Apache-2.0
"""Measuring the diffusion model on a GPU: the floor is the real model's arithmetic, and the measurement itself runs."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from vs3r_engine.evaluation import bench_gpu_diffusion as bench  # noqa: E402
from vs3r_engine.methods.diffusion import random_weights  # noqa: E402


@pytest.mark.parametrize(("size", "petaflops"), [((832, 480), 1.678), ((1280, 720), 6.523)])
def test_the_floor_is_what_torch_counts_in_the_full_size_model(size, petaflops):
    """On the meta device, one block of the published configuration for 81 frames; the forty blocks are alike."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from torch.utils.flop_counter import FlopCounterMode

    width, height = size
    with torch.device("meta"):
        model = WanTransformer3DModel(in_channels=36, **(random_weights.A14B | {"num_layers": 1}))
        hidden, prompt = torch.empty(1, 36, 21, height // 8, width // 8), torch.empty(1, 512, 4096)
        with FlopCounterMode(display=False, depth=3) as counter, torch.no_grad():
            model(hidden, torch.empty(1), prompt)
    block = sum(counter.get_flop_counts()["WanTransformer3DModel.blocks.0"].values())
    counted = bench.window_flops(width, height, 81, random_weights.A14B)
    assert counted / 1e15 == pytest.approx(petaflops, rel=1e-3)
    assert 40 * block == pytest.approx(counted, rel=1e-3)
    assert 21 * (height // 16) * (width // 16) == {832: 32760, 1280: 75600}[width]


def test_the_measurement_runs_small(tmp_path, capsys):
    bench.main(["--small", "--modes", "none,group,model", "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["mode"] for row in rows] == ["none", "group", "model", "fp32", "fp32"]
    assert all(row["seconds"] > 0 for row in rows) and all(row["floor_s"] > 0 for row in rows[:3])
    assert "| one forward of one expert | 64x48x17 | group |" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="diffusion-needs-gpu"):
        bench.main([])
