# SPDX-License-Identifier: Apache-2.0
"""Measuring the networks on a GPU: the floor is the real model's arithmetic, and the measurement itself runs."""

import importlib.util

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from vs3r_engine.evaluation import bench_gpu, bench_gpu_diffusion  # noqa: E402
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
    counted = bench_gpu_diffusion.window_flops(width, height, 81, random_weights.A14B)
    assert counted / 1e15 == pytest.approx(petaflops, rel=1e-3)
    assert 40 * block == pytest.approx(counted, rel=1e-3)
    assert 21 * (height // 16) * (width // 16) == {832: 32760, 1280: 75600}[width]


def table(page: str, part: str) -> list[list[str]]:
    measured = page.partition(f"PARTS={part}: begin")[2].partition("<!--")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in measured.splitlines() if line.startswith("| ")]


def test_the_measurement_runs_small_and_fills_its_parts_of_the_page(tmp_path, capsys):
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("# Benchmarks\n\nby hand\n")
    assert bench_gpu.main(["--small", "--modes", "none,group,model", "--report", str(page)]) == 0
    first = page.read_text()
    assert "by hand" in first and "| pass 2 | 4 x 112x70 |" in capsys.readouterr().out
    header, *passes = table(first, "reconstruction")
    assert header[:4] == ["what", "size", "how", "s"] and {len(row) for row in passes} == {len(header)}
    assert [row[0] for row in passes[:4]] == ["pass 1 with motion cues", "cameras and depth", "masks", "pass 2"]
    forwards = table(first, "diffusion")[1:]
    assert [row[2] for row in forwards] == ["none", "group", "model", "fp32", "fp32"]
    assert all(float(row[3]) > 0 for row in forwards) and all(float(row[4]) >= 0 for row in forwards[:3])
    assert bench_gpu.main(["diffusion", "--small", "--modes", "none", "--report", str(page)]) == 0
    assert table(page.read_text(), "reconstruction") == [header, *passes] and len(table(page.read_text(), "diffusion")) == 4


def test_a_mode_that_cannot_be_had_is_said_and_the_others_are_measured(tmp_path):
    if importlib.util.find_spec("torchao") is not None:
        pytest.skip("torchao is installed")
    page = tmp_path / "BENCHMARKS.md"
    assert bench_gpu.main(["diffusion", "--small", "--modes", "int8,none", "--report", str(page)]) == 0
    _, refused, forward, *_ = table(page.read_text(), "diffusion")
    assert "torchao" in refused[3] and float(forward[3]) > 0


def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert bench_gpu.main(["--report", str(tmp_path / "BENCHMARKS.md")]) == 3
    assert "no-cuda" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_large_random_models_have_every_number_in_its_precision(monkeypatch):
    """The full-size way of making them, on a small shape and few draws."""
    monkeypatch.setattr(random_weights, "A14B", random_weights.TINY)
    monkeypatch.setattr(random_weights, "_DRAWN", 1009)
    one, again, other = (random_weights.expert(seed, False, "cpu", torch.bfloat16) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.proj_out.weight, other.proj_out.weight)
    assert one.proj_out.weight.dtype is torch.bfloat16 and one.condition_embedder.time_embedder.linear_1.weight.dtype is torch.float32
    ready = one(torch.zeros(1, 36, 1, 2, 2, dtype=torch.bfloat16), torch.tensor([500.0]), random_weights.prompt(1).bfloat16())
    assert ready.sample.isfinite().all()
    vae = random_weights.autoencoder(1, True)
    assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for model in (one, vae) for parameter in model.parameters())
