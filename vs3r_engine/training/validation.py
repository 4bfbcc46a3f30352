# SPDX-License-Identifier: Apache-2.0
"""How training is doing: the loss at fixed noise levels on held-out pairs, and a picture of what sampling now makes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vs3r_engine.methods.diffusion import lora
from vs3r_engine.methods.diffusion.sampling import BOUNDARY, PRESETS, Request, sample_together
from vs3r_engine.training.adapters import flow_loss
from vs3r_engine.training.samples import Sample

LEVELS = (0.98, 0.92, 0.7, 0.3)
"""Noise levels the loss is watched at: two of each expert's."""


def watch(
    held_out: Sequence[Sample],
    prompt: torch.Tensor,
    output: Path,
    *,
    steps: int = 12,
    decode: Callable[[torch.Tensor], Iterator[torch.Tensor]] | None = None,
) -> Callable[[int, Mapping[str, Any]], dict[str, float]]:
    """A validation for `train`: scalars by name, and (with `decode`: latents to pictures) `output`/validation/STEP.png.

    The picture shows the first, middle and last frame of the first pair: rendered, made, true.
    """

    @torch.no_grad()
    def validate(step: int, experts: Mapping[str, Any]) -> dict[str, float]:
        scalars = {}
        for level in LEVELS:
            model = experts[lora.HIGH if level >= BOUNDARY else lora.LOW]
            device = next(model.parameters()).device
            losses = [float(flow_loss(model, sample, prompt, level, _noise(sample, i), device)) for i, sample in enumerate(held_out)]
            scalars[f"validation/loss at {level}"] = float(np.mean(losses))
        if decode is not None:
            made = sampled(experts, held_out[0], prompt, steps)
            scalars["validation/latent error"] = float(((made - held_out[0].clean) ** 2).mean())
            _write(output / "validation" / f"{step:07d}.png", [held_out[0].condition, made, held_out[0].clean], decode)
        return scalars

    return validate


@torch.no_grad()
def sampled(experts: Mapping[str, Any], sample: Sample, prompt: torch.Tensor, steps: int) -> torch.Tensor:
    """[16, n, rows, columns] what the model makes of a pair's condition, from fixed noise."""

    def predict(is_high: bool, timestep: torch.Tensor, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        model = experts[lora.HIGH if is_high else lora.LOW]
        weight = next(parameter for name, parameter in model.named_parameters() if "base_layer.weight" in name)
        hidden = torch.cat([latents, condition])[None].to(weight.device, weight.dtype)
        velocity = model(
            hidden_states=hidden,
            timestep=timestep.to(weight.device).expand(1),
            encoder_hidden_states=prompt.to(weight.device, weight.dtype),
            return_dict=False,
        )[0]
        return velocity[0].float().cpu()

    told = torch.cat([torch.ones(4, *sample.condition.shape[1:]), sample.condition])
    request = Request(replace(PRESETS["vs3r"], steps=steps))
    return sample_together(_noise(sample, 0), told, sample.condition, None, [(0, sample.condition.shape[1])], predict, request)


def _noise(sample: Sample, number: int) -> torch.Tensor:
    return torch.randn(sample.clean.shape, generator=torch.Generator().manual_seed(number))


def _write(path: Path, latents: Sequence[torch.Tensor], decode: Callable[[torch.Tensor], Iterator[torch.Tensor]]) -> None:
    columns = []
    for one in latents:
        frames = torch.cat(list(decode(one)))
        shown = [frames[i] for i in (0, len(frames) // 2, len(frames) - 1)]
        columns.append(
            np.vstack([((frame.permute(1, 2, 0).numpy()[..., ::-1] + 1) * 127.5).clip(0, 255).astype(np.uint8) for frame in shown])
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.hstack(columns))
