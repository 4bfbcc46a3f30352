# SPDX-License-Identifier: Apache-2.0
"""What a window of VGGT costs, pass by pass, and what the point renderers do."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vs3r_engine.evaluation.bench_gpu import Rates, Row, measured
from vs3r_engine.methods.points import composite, depth_buffer
from vs3r_engine.methods.vggt4d import checkpoint
from vs3r_engine.methods.vggt4d.masking import CueMasker, WindowEvidence
from vs3r_engine.methods.vggt4d.network import PATCH_PX, SPECIAL_TOKENS, VggtShape
from vs3r_engine.methods.vggt4d.reconstructor import decoded, first_pass, second_pass

RADIUS_PX = 1.5


def layer_flops(shape: VggtShape, frames: int, patches: int) -> float:
    """Multiply-adds, doubled, of the patch encoder and of all frame and global blocks over a window."""
    tokens = patches + SPECIAL_TOKENS
    dense = 24 * shape.dim**2 * frames * tokens
    within, across = 4 * shape.dim * frames * tokens**2, 4 * shape.dim * (frames * tokens) ** 2
    return shape.encoder_depth * (dense + within) + shape.depth * (2 * dense + within + across)


@torch.inference_mode()
def window_rows(device: str, small: bool, reached: Rates) -> Iterator[Row]:
    """Pass 1 with cues, cameras and depth, masks, pass 2: what the reconstructor does with a window."""
    shape, (width, height), frames = (checkpoint.SMALL, (112, 70), 4) if small else (VggtShape(), (518, 294), 50)
    network = checkpoint.random_network(shape, 0).eval().requires_grad_(False).to(device)
    grid = (height // PATCH_PX, width // PATCH_PX)
    images = torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    features, tokens, cue = first_pass(network, images)
    K, world_from_camera = decoded(network.cameras(tokens), (width, height))
    evidence = WindowEvidence(images, network.depth(tokens)[0], K, world_from_camera, features.float(), cue, grid)
    # What random weights see moving says nothing; a quarter of the picture is as much as a crowd.
    mask = torch.zeros_like(evidence.depth, dtype=torch.bool)
    mask[:, : height // 2, : width // 2] = True
    runs: tuple[tuple[str, Callable[[], object]], ...] = (
        ("pass 1 with motion cues", lambda: first_pass(network, images)),
        ("cameras and depth", lambda: (network.cameras(tokens), network.depth(tokens))),
        ("masks", lambda: CueMasker().mask(evidence)),
        ("pass 2", lambda: second_pass(network, features, grid, mask)),
    )
    for name, run in runs:
        seconds, peak = measured(run, device)
        floor_s = layer_flops(shape, frames, grid[0] * grid[1]) / reached.flops if name.startswith("pass 1") else 0.0
        yield Row(name, f"{frames} x {width}x{height}", "bf16" if device == "cuda" else "fp32", seconds, floor_s, peak)


@torch.inference_mode()
def render_rows(device: str, small: bool, reached: Rates) -> Iterator[Row]:
    """The point renderer's geometry at full size, the published discs, and PyTorch3D where it is installed."""
    width, height = (192, 108) if small else (1920, 1080)
    pixels, z, colours = _points(width, height, device)
    size, of = (height, width), f"{width}x{height}"
    seconds, peak = measured(lambda: depth_buffer(pixels, z, size), device)
    least_bytes = 5 * len(pixels) * (8 + 8 + 4) + 12 * width * height * 4
    yield Row("depth buffer", of, "", seconds, least_bytes / reached.bytes, peak)
    seconds, peak = measured(lambda: composite(pixels, z, colours, size, RADIUS_PX), device)
    yield Row(f"discs, radius {RADIUS_PX} px, 12 a pixel", of, "ours", seconds, 0.0, peak)
    try:
        from vs3r_engine.methods.pytorch3d import rasterized

        seconds, peak = measured(lambda: rasterized(pixels, z, colours, size, RADIUS_PX), device)
    except ImportError:
        yield Row("the same discs", of, "PyTorch3D", None, why="not installed")
    else:
        yield Row("the same discs", of, "PyTorch3D", seconds, 0.0, peak)


def _points(width: int, height: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """A point for every pixel of a picture, a little moved and enlarged: positions, depths 2 to 3, colours."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack((x, y), -1).flatten(0, 1) * 1.02 + 3.3
    z, colours = 2 + torch.rand(len(pixels), generator=generator), torch.rand(len(pixels), 3, generator=generator)
    return pixels.to(device), z.to(device), colours.to(device)
