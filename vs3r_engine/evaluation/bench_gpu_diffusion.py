# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of the video diffusion model on this GPU, at full size with random weights, against the floor
that its arithmetic and the measured matrix multiplication rate allow: `python -m
vs3r_engine.evaluation.bench_gpu_diffusion`."""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vs3r_engine.errors import SetupError
from vs3r_engine.methods.devices import choose_device
from vs3r_engine.methods.diffusion import autoencoder, memory, random_weights, wan

SIZES = ((832, 480), (1280, 720))
WINDOW_FRAMES = 81


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One measurement. seconds: median of the repetitions. floor_s: arithmetic / measured rate.

    peak_gib: of the device.
    """

    what: str
    size: str
    mode: str
    seconds: float
    floor_s: float
    peak_gib: float


def window_flops(width: int, height: int, frames: int, shape: dict[str, int], text_tokens: int = 512) -> float:
    """Floating point operations of one forward of one expert: linear layers and attention of every block.

    Equal to torch's own FLOP counter to three digits. A14B: 1.678e15 at 832 x 480 x 81, 6.523e15 at 1280 x 720.
    """
    tokens = ((frames - 1) // 4 + 1) * (width // 16) * (height // 16)
    d, f = shape["num_attention_heads"] * shape["attention_head_dim"], shape["ffn_dim"]
    linear = 12 * tokens * d * d + 4 * text_tokens * d * d + 4 * tokens * d * f
    attention = 4 * tokens * tokens * d + 4 * tokens * text_tokens * d
    return float(shape["num_layers"] * (linear + attention))


def matmul_rate(device: str, dtype: torch.dtype, side: int) -> float:
    """Floating point operations per second of square matrix products, the best of five."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(_timed(lambda: a @ b, device) for _ in range(6))


def measure(device: str, modes: tuple[str, ...], repeats: int, small: bool, rate: float) -> Iterator[Row]:
    """Rows for every mode and size: one forward of each expert, then the autoencoder both ways.

    rate: operations per second that the floor is computed from. small: tiny models and pictures, to see that the
    measurement itself runs.
    """
    dtype = torch.float32 if small else torch.bfloat16
    shape = random_weights.TINY if small else random_weights.A14B
    sizes = ((64, 48),) if small else SIZES
    frames = 17 if small else WINDOW_FRAMES
    for mode in modes:
        policy = memory.Policy(mode, device, dtype, None, "measured")
        where = device if mode == "none" else "cpu"
        models: dict[str, Any] = {"high": random_weights.expert(0, small, where, dtype)}
        announced = memory.settle(models["high"], policy, "auto", False)
        ready = wan.Wan(policy, memory.Residence(policy, models), random_weights.prompt(0, small), announced=tuple(announced))
        for width, height in sizes:
            hidden = torch.randn(36, (frames - 1) // 4 + 1, height // 8, width // 8)
            forward = partial(ready.velocity, "high", hidden, torch.tensor(900.0), ready.prompt)
            seconds, peak = _median(forward, device, repeats)
            floor = window_flops(width, height, frames, shape, ready.prompt.shape[1]) / rate
            yield Row("one forward of one expert", f"{width}x{height}x{frames}", mode, seconds, floor, peak)
        del ready, models
        _empty(device)
    vae = random_weights.autoencoder(0, small, device)
    for width, height in sizes:
        pictures = [torch.zeros(1, 3, height, width)] * frames
        seconds, peak = _median(partial(autoencoder.encode, vae, pictures), device, 1)
        yield Row("autoencoder, encode", f"{width}x{height}x{frames}", "fp32", seconds, 0.0, peak)
        latents = torch.zeros(16, (frames - 1) // 4 + 1, height // 8, width // 8)
        seconds, peak = _median(partial(_decoded, vae, latents), device, 1)
        yield Row("autoencoder, decode", f"{width}x{height}x{frames}", "fp32", seconds, 0.0, peak)


def _decoded(vae: Any, latents: torch.Tensor) -> None:
    for _ in autoencoder.decode_stream(vae, latents):
        pass


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | size | weights | s | floor s | x floor | peak GiB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        times = f"{row.seconds / row.floor_s:.2f}" if row.floor_s else ""
        floor = f"{row.floor_s:.2f}" if row.floor_s else ""
        lines.append(f"| {row.what} | {row.size} | {row.mode} | {row.seconds:.3f} | {floor} | {times} | {row.peak_gib:.1f} |")
    return "\n".join(lines)


def _median(run: Callable[[], Any], device: str, repeats: int) -> tuple[float, float]:
    """(median seconds after one warm-up, peak GiB of the device)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run()
    seconds = statistics.median(_timed(run, device) for _ in range(repeats))
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def _timed(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _empty(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def main(arguments: list[str] | None = None) -> None:
    """Print the table; with --json also write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", default="none,group,model,int8,fp8", help="offload modes, by comma")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--small", action="store_true", help="tiny models on any device: does the measurement run?")
    chosen = parser.parse_args(arguments)
    device = choose_device("auto").name
    if device != "cuda" and not chosen.small:
        raise SystemExit(
            str(SetupError("diffusion-needs-gpu", "There is no CUDA device to measure.", "Run this on a machine that has one."))
        )
    rate = matmul_rate(device, torch.float32 if chosen.small else torch.bfloat16, 256 if chosen.small else 8192)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{name}: matrix products at {rate / 1e12:.1f} TFLOP/s\n")
    rows = []
    for row in measure(device, tuple(chosen.modes.split(",")), chosen.repeats, chosen.small, rate):
        print(f"{row.what} {row.size} {row.mode}: {row.seconds:.3f}", file=sys.stderr)
        rows.append(row)
    print(as_table(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
