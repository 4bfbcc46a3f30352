# SPDX-License-Identifier: Apache-2.0
"""What a window of the video diffusion model costs: one forward of one expert, and the autoencoder both ways."""

from collections.abc import Iterator
from functools import partial

import torch

from vs3r_engine.errors import VS3RError
from vs3r_engine.evaluation.bench_gpu import Rates, Row, measured
from vs3r_engine.methods.devices import memory_errors
from vs3r_engine.methods.diffusion import autoencoder, memory, random_weights, wan

WINDOW_FRAMES = 81


def window_flops(width: int, height: int, frames: int, shape: dict[str, int], text_tokens: int = 512) -> float:
    """Floating point operations of one forward of one expert: linear layers and attention of every block.

    Equal to torch's own FLOP counter to three digits. A14B: 1.678e15 at 832 x 480 x 81, 6.523e15 at 1280 x 720.
    """
    tokens = ((frames - 1) // 4 + 1) * (width // 16) * (height // 16)
    d, f = shape["num_attention_heads"] * shape["attention_head_dim"], shape["ffn_dim"]
    linear = 12 * tokens * d * d + 4 * text_tokens * d * d + 4 * tokens * d * f
    attention = 4 * tokens * tokens * d + 4 * tokens * text_tokens * d
    return float(shape["num_layers"] * (linear + attention))


def forward_rows(device: str, small: bool, reached: Rates, modes: list[str]) -> Iterator[Row]:
    """One forward of one expert in every mode and size; a mode that cannot be had is said and passed over."""
    what = "one forward of one expert"
    for mode in modes:
        try:
            for size, seconds, floor_s, peak in _forwards(device, small, reached, mode):
                yield Row(what, size, mode, seconds, floor_s, peak)
        except VS3RError as error:
            yield Row(what, "", mode, None, why=error.message)
        if device == "cuda":
            torch.cuda.empty_cache()


def _forwards(device: str, small: bool, reached: Rates, mode: str) -> Iterator[tuple[str, float, float, float]]:
    dtype, shape = (torch.float32, random_weights.TINY) if small else (torch.bfloat16, random_weights.A14B)
    policy = memory.Policy(mode, device, dtype, None, "measured")
    with memory_errors(f"The expert, {mode},", ""):
        expert = random_weights.expert(0, small, device if mode == "none" else "cpu", dtype)
        memory.settle(expert, policy, "auto", False)
    ready = wan.Wan(policy, memory.Residence(policy, {"high": expert}), random_weights.prompt(0, small))
    for width, height, frames in _windows(small):
        hidden = torch.randn(36, (frames - 1) // 4 + 1, height // 8, width // 8)
        seconds, peak = measured(partial(ready.velocity, "high", hidden, torch.tensor(900.0), ready.prompt), device)
        floor_s = window_flops(width, height, frames, shape, ready.prompt.shape[1]) / reached.flops
        yield f"{width}x{height}x{frames}", seconds, floor_s, peak


def autoencoder_rows(device: str, small: bool) -> Iterator[Row]:
    """A window encoded and decoded in float32, without tiles."""
    vae = random_weights.autoencoder(0, small, device)
    for width, height, frames in _windows(small):
        pictures = [torch.zeros(1, 3, height, width)] * frames
        latents = torch.zeros(16, (frames - 1) // 4 + 1, height // 8, width // 8)
        for what, run in (
            ("autoencoder, encode", lambda: autoencoder.encode(vae, pictures)),  # noqa: B023 - called at once
            ("autoencoder, decode", lambda: list(autoencoder.decode_stream(vae, latents))),  # noqa: B023
        ):
            seconds, peak = measured(run, device)
            yield Row(what, f"{width}x{height}x{frames}", "fp32", seconds, 0.0, peak)


def _windows(small: bool) -> tuple[tuple[int, int, int], ...]:
    """(width, height, frames) of what is measured."""
    return ((64, 48, 17),) if small else ((832, 480, WINDOW_FRAMES), (1280, 720, WINDOW_FRAMES))
