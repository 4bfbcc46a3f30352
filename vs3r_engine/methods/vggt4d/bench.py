# SPDX-License-Identifier: Apache-2.0
"""What the deep path costs: seconds and memory of a window of VGGT and of the point renderer, against floors.

`python -m vs3r_engine.methods.vggt4d.bench` prints a Markdown table; `make bench-gpu` runs it on the GPU.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vs3r_engine.methods.devices import choose_device
from vs3r_engine.methods.vggt4d import checkpoint
from vs3r_engine.methods.vggt4d.cues import MotionCues
from vs3r_engine.methods.vggt4d.masking import CueMasker, WindowEvidence
from vs3r_engine.methods.vggt4d.network import PATCH_PX, SPECIAL_TOKENS, Vggt, VggtShape
from vs3r_engine.methods.vggt4d.reconstructor import decoded


def layer_flops(shape: VggtShape, frames: int, patches: int) -> float:
    """Multiply-adds, doubled, of the patch encoder and of all frame and global blocks over a window."""
    tokens = patches + SPECIAL_TOKENS
    dense = 24 * shape.dim**2 * frames * tokens
    within, across = 4 * shape.dim * frames * tokens**2, 4 * shape.dim * (frames * tokens) ** 2
    return shape.encoder_depth * (dense + within) + shape.depth * (2 * dense + within + across)


def timed(run: Callable[[], object], device: str, repeats: int = 3) -> tuple[float, float]:
    """(seconds of the fastest run, peak GiB): on a GPU wall seconds and its memory, on a CPU CPU seconds and the
    process's peak."""
    best, peak = float("inf"), 0.0
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = _seconds(device)
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, _seconds(device) - start)
        peak = (
            torch.cuda.max_memory_allocated() / 1024**3
            if device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        )
    return best, peak


def row(name: str, of: str, seconds: float, peak_gib: float, rate: str) -> str:
    """One line of the Markdown table."""
    time_text = f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
    return f"| {name} | {of} | {time_text} | {peak_gib:.1f} GiB | {rate} |"


def bench_window(device: str, frames: int, size: tuple[int, int], shape: VggtShape, compiled: bool = False) -> list[str]:
    """Rows: pass 1 with cues, dense depth, masks, pass 2, on random weights."""
    network = checkpoint.random_network(shape, 0).eval().requires_grad_(False).to(device)
    if compiled:
        compile_blocks(network)
    grid = (size[1] // PATCH_PX, size[0] // PATCH_PX)
    images = torch.rand(frames, 3, size[1], size[0], generator=torch.Generator().manual_seed(0)).to(device)
    last = shape.depth - 1
    kept: dict[str, Tensor] = {}

    def first() -> None:
        cues = MotionCues(shape, frames)
        kept["features"] = network.aggregator.encode(images)
        kept["tokens"] = network.aggregator(kept["features"], grid, (*shape.dpt_layers, last), observe=cues)  # type: ignore[assignment]
        kept["cue"] = cues.fused()

    def dense() -> None:
        kept["encoding"] = network.cameras(kept["tokens"])  # type: ignore[arg-type]
        kept["depth"] = network.depth(kept["tokens"])[0]  # type: ignore[arg-type]

    def masks() -> None:
        K, world_from_camera = decoded(kept["encoding"], size)
        kept["mask"] = CueMasker().mask(
            WindowEvidence(images, kept["depth"], K, world_from_camera, kept["features"].float(), kept["cue"], grid)
        )

    def second() -> None:
        patches = torch.nn.functional.max_pool2d(kept["mask"].float()[:, None], PATCH_PX)[:, 0].flatten(1) > 0.5
        network.cameras(network.aggregator(kept["features"], grid, (last,), dynamic_patches=patches))

    tera = layer_flops(shape, frames, grid[0] * grid[1]) / 1e12
    rows = []
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        for name, run in (
            ("pass 1 with motion cues", first),
            ("cameras and depth", dense),
            ("masks", masks),
            ("pass 2", second),
        ):
            seconds, peak = timed(run, device, repeats=2)
            rate = f"{tera / seconds:.1f} TFLOP/s of {tera:.0f} TFLOP" if name.startswith("pass 1") else ""
            rows.append(row(f"{name}{', compiled' if compiled else ''}", f"{frames} x {size[0]}x{size[1]}", seconds, peak, rate))
    return rows


def bench_renderer(device: str, width: int = 1920, height: int = 1080) -> list[str]:
    """Rows: the point renderer's geometry at full size, the published discs, and PyTorch3D where it is installed."""
    from vs3r_engine.methods.points import composite, depth_buffer

    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = (torch.stack((x, y), -1).flatten(0, 1) * 1.02 + 3.3).to(device)
    z = (2 + torch.rand(len(pixels), generator=generator)).to(device)
    colours = torch.rand(len(pixels), 3, generator=generator).to(device)
    of = f"{width}x{height}"
    floor_bytes = 5 * len(pixels) * (8 + 8 + 4) + 12 * width * height * 4
    rows = []
    with torch.inference_mode():
        seconds, peak = timed(lambda: depth_buffer(pixels, z, (height, width)), device)
        traffic = f"{floor_bytes / seconds / 1e9:.0f} GB/s of its least traffic"
        rows.append(row("depth buffer", of, seconds, peak, traffic))
        seconds, peak = timed(lambda: composite(pixels, z, colours, (height, width), 1.5), device)
        rows.append(row("discs, radius 1.5 px, 12 a pixel", of, seconds, peak, f"{1 / seconds:.1f} frames/s"))
        try:
            from vs3r_engine.methods.pytorch3d import rasterized

            seconds, peak = timed(lambda: rasterized(pixels, z, colours, (height, width), 1.5), device, repeats=1)
        except ImportError:
            rows.append(f"| PyTorch3D, same points | {of} | not installed | | |")
        else:
            rows.append(row("PyTorch3D, same points", of, seconds, peak, f"{1 / seconds:.1f} frames/s"))
    return rows


def compile_blocks(network: Vggt) -> None:
    """Compile every transformer block by itself, once per input size."""
    for blocks in (network.aggregator.patch_embed.blocks, network.aggregator.frame_blocks):
        for block in blocks:
            block.compile()


def _seconds(device: str) -> float:
    if device != "cpu":
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--small", action="store_true", help="the small network of the tests, to try the script")
    options = parser.parse_args()
    device = choose_device(options.device).name
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"| Deep path on {name}, torch {torch.__version__} | size | time | peak memory | rate |\n|---|---|---|---|---|")
    shape, size = (checkpoint.SMALL, (112, 70)) if options.small else (VggtShape(), (518, 294))
    for line in (
        *bench_window(device, options.frames, size, shape),
        *(bench_window(device, options.frames, size, shape, compiled=True) if device == "cuda" else ()),
        *bench_renderer(device, *((192, 108) if options.small else ())),
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
