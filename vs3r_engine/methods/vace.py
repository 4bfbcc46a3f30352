# SPDX-License-Identifier: Apache-2.0
"""Completion without training: Wan2.1-VACE, a video diffusion model made for inpainting, told which pixels are missing.

Nothing heavy is imported before the first frame is asked for: `preflight` and `vs3r --help` stay instant.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vs3r_engine.errors import SettingsError
from vs3r_engine.methods import weights
from vs3r_engine.methods.devices import require_quantizer
from vs3r_engine.methods.diffusion import text
from vs3r_engine.methods.diffusion.completer import DiffusionCompleter, Installed, WanModel
from vs3r_engine.methods.dvdm import area_px, footprint, require
from vs3r_engine.settings import FillSettings, Settings

if TYPE_CHECKING:
    import torch

    from vs3r_engine.methods.diffusion.sampling import Request
    from vs3r_engine.methods.diffusion.wan import Wan

BASES = {"1.3b": "wan2.1-vace-1.3b", "14b": "wan2.1-vace-14b"}
"""Names in the weights' manifest, by fill.vace_model."""
OWN_DETAIL = {"1.3b": "480p", "14b": "720p"}
FLOW_SHIFT = {"480p": 3.0, "720p": 5.0}
GUIDANCE = 5.0
_DILATE_PX_AT_832 = 12
"""The model paints better in loose masks than in tight ones; 8 to 16 px work at its own size."""


def preflight(settings: Settings, installed: Installed | None = None) -> None:
    """Nothing, if everything is there that this completer needs; imports nothing heavy.

    Raises: WeightsMissing naming all that is missing at once, SettingsError `bad-setting`, SetupError
    `prompt-not-prepared`, `torchao-missing`.
    """
    fill = settings.fill
    require_quantizer(fill.offload)
    if fill.sampler != "vs3r":
        raise SettingsError("bad-setting", f"fill.sampler={fill.sampler} belongs to dvdm.", "Use fill.sampler=vs3r with vace.")
    if weights.random_seed(fill.weights) is None:
        base = BASES[fill.vace_model]
        text.require(require([base], installed)[base])


class VaceCompleter(DiffusionCompleter):
    """Completer by a model that needs no adapters."""

    preflight = staticmethod(preflight)

    def _request(self) -> "tuple[Request, int]":
        from vs3r_engine.methods.diffusion.sampling import PRESETS, Request

        fill = self._settings.fill
        own = OWN_DETAIL[fill.vace_model]
        shift = FLOW_SHIFT[own if fill.detail == "model" else fill.detail]
        request = Request(replace(PRESETS["vs3r"], shift=shift), fill.denoise, boundary=None, on_step=self._on_step)
        return request, area_px(fill, own)

    def _model(self, area_px: int) -> "VaceModel":
        return VaceModel(load(self._settings, area_px, self._installed))


class VaceModel(WanModel):
    """ShotModel: 96 control channels, 16 latents of what is kept | 16 of what is replaced | 64 of the mask's own
    pixels.
    """

    hole_value = 0.5
    """Grey stands for missing; black would be taken for content."""

    def condition(self, pictures: Any, holes: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """(control [96, n, rows, columns], latents of what is kept [16, n, rows, columns]).

        A mask counts for four frames, so it is the union of the group's holes; all of it is grey in each of them.
        """
        import torch

        masks = torch.stack(list(group_masks(holes())))

        def kept_and_replaced() -> "Iterator[torch.Tensor]":
            for i, picture in enumerate(pictures()):
                mask = masks[-(-i // 4)]
                video = torch.where(mask, torch.zeros(()), picture)
                yield torch.cat([video * ~mask, video * mask])

        kept, replaced = self._wan.encode(kept_and_replaced)
        count, height, width = masks.shape
        cells = masks.float().view(count, height // 8, 8, width // 8, 8).permute(2, 4, 0, 1, 3).flatten(0, 1)
        return torch.cat([kept, replaced, cells]), kept

    def predict(self, is_high: bool, timestep: "torch.Tensor", latents: "torch.Tensor", condition: "torch.Tensor") -> "torch.Tensor":
        """Two forwards, guided away from the negative prompt."""
        control = condition[None]
        wanted = self._wan.velocity("high", latents, timestep, self._wan.prompt, control_hidden_states=control)
        unwanted = self._wan.velocity("high", latents, timestep, self._wan.negative, control_hidden_states=control)
        return unwanted + GUIDANCE * (wanted - unwanted)


def group_masks(holes: Iterable[Any]) -> "Iterator[torch.Tensor]":
    """[h, w] bool per latent frame: the holes of its pixel frames (1, then groups of 4) together, dilated."""
    import cv2
    import numpy as np
    import torch

    together, size = None, 1
    for i, hole in enumerate(holes):
        together = hole if together is None else together | hole
        if i + 1 == size:
            radius = max(1, round(_DILATE_PX_AT_832 * hole.shape[1] / 832))
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            yield torch.from_numpy(cv2.dilate(together.astype(np.uint8), kernel).astype(bool))
            together, size = None, size + 4


def load(settings: Settings, area: int, installed: Installed | None = None) -> "Wan":
    """The models for these settings, warm or new."""
    from vs3r_engine.methods.diffusion.wan import kept_warm

    fill = settings.fill
    key = (
        "vace",
        fill.weights,
        fill.vace_model,
        fill.offload,
        fill.attention,
        fill.compiled,
        settings.analysis.device,
        area,
        fill.window_frames,
    )
    return kept_warm(key, lambda: _load(settings.analysis.device, fill, area, installed))


def _load(device: str, fill: FillSettings, area: int, installed: Installed | None) -> "Wan":
    from vs3r_engine.methods.diffusion import memory, random_weights, wan

    source = weights.random_seed(fill.weights)
    machine = memory.this_machine(device)
    if source is not None:
        policy, model, vae, prompt, negative = random_weights.vace(
            *source, fill.vace_model, fill.offload, machine, area, fill.window_frames
        )
    else:
        base = require([BASES[fill.vace_model]], installed)[BASES[fill.vace_model]]
        policy = memory.choose(fill.offload, machine, footprint(base, area, fill.window_frames), memory.autoencoder_working_gib(1, area))
        model, vae = wan.load_transformer(base, "transformer", "vace", policy.dtype), wan.load_autoencoder(base)
        prompts = text.load(base)
        prompt, negative = prompts["diffusers"], prompts["negative"]
    announced = memory.settle(model, policy, fill.attention, fill.compiled)
    residence = memory.Residence(policy, {"high": model, "autoencoder": vae})
    return wan.Wan(policy, residence, prompt.float(), negative.float(), tuple(announced))
