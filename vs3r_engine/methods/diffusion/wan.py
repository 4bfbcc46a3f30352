# SPDX-License-Identifier: Apache-2.0
"""Loading Wan's models from verified folders, and running one where the memory policy wants it.

Loaded once per engine.
"""

import gc
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vs3r_engine.errors import SetupError
from vs3r_engine.methods.devices import memory_errors
from vs3r_engine.methods.diffusion import autoencoder
from vs3r_engine.methods.diffusion.memory import Policy, Residence

AUTOENCODER = "autoencoder"


@dataclass(frozen=True, slots=True, eq=False)
class Wan:
    """A set of models ready to run. high is the only expert of models that have one; prompt: [1, tokens, text_dim].

    negative: what guidance steers away from, empty for models that are not guided.
    """

    policy: Policy
    residence: Residence
    prompt: torch.Tensor
    negative: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    announced: tuple[str, ...] = ()

    @property
    def tiling(self) -> autoencoder.Tiling | None:
        side = self.policy.tile_px
        return None if side is None else autoencoder.Tiling(side, side // 4)

    def encode(self, pictures: Callable[[], Iterator[torch.Tensor]]) -> torch.Tensor:
        """[b, z, n, rows, columns] float32 normalised latents of pictures [b, 3, h, w] in [-1, 1], on the CPU."""
        with self.residence.inside(AUTOENCODER) as vae:
            return autoencoder.encode(vae, pictures(), self.tiling)

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Pictures [k, 3, h, w] in [-1, 1] of latents [z, n, rows, columns]."""
        with self.residence.inside(AUTOENCODER) as vae:
            yield from autoencoder.decode_stream(vae, latents, self.tiling)

    @torch.no_grad()
    def velocity(
        self, expert: str, latents: torch.Tensor, timestep: torch.Tensor, prompt: torch.Tensor, **control: torch.Tensor
    ) -> torch.Tensor:
        """[z, n, rows, columns] float32 on the CPU: the expert's answer to hidden states [channels, n, rows, columns]."""
        with self.residence.inside(expert) as model:
            device, dtype = self.policy.device, self.policy.dtype
            given = {name: value.to(device, dtype) for name, value in control.items()}
            out = model(
                hidden_states=latents[None].to(device, dtype),
                timestep=timestep.to(device).expand(1),
                encoder_hidden_states=prompt.to(device, dtype),
                return_dict=False,
                **given,
            )
        return out[0][0].float().cpu()


_warm: tuple[Hashable, Any] | None = None
_lock = threading.Lock()


def kept_warm(key: Hashable, load: Callable[[], Any]) -> Any:
    """What `load` made for this key, made again only when the key has changed. One set of models stays in memory.

    Raises: OutOfMemory, and what `load` raises.
    """
    global _warm
    with _lock:
        if _warm is None or _warm[0] != key:
            _warm = None
            gc.collect()
            torch.cuda.empty_cache()
            with memory_errors("The video diffusion model", "Close other programs, or use the smaller fill.vace_model."):
                _warm = (key, load())
        return _warm[1]


def load_autoencoder(folder: Path) -> Any:
    """The video autoencoder in fp32 (bf16 shifts colours). Raises: SetupError `weights-broken`."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    return _from_folder(AutoencoderKLWan, folder, "vae", torch.float32)


def load_transformer(folder: Path, subfolder: str, kind: str, dtype: torch.dtype) -> Any:
    """kind: "expert" (36 input channels) or "vace". Raises: SetupError `weights-broken`, `wrong-base-model`."""
    if kind == "vace":
        from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

        return _from_folder(WanVACETransformer3DModel, folder, subfolder, dtype)
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    model = _from_folder(WanTransformer3DModel, folder, subfolder, dtype)
    if model.config.in_channels != 36:
        raise SetupError(
            "wrong-base-model",
            f"{folder / subfolder} takes {model.config.in_channels} channels, not 36.",
            "The image-to-video model is needed (Wan2.2-I2V-A14B), not text-to-video.",
        )
    return model


def _from_folder(kind: Any, folder: Path, subfolder: str, dtype: torch.dtype) -> Any:
    try:
        with memory_errors(f"{folder.name}/{subfolder}", "Close other programs, or use the smaller fill.vace_model."):
            model, found = kind.from_pretrained(folder, subfolder=subfolder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _broken(folder / subfolder, f"cannot be loaded: {str(error).splitlines()[0]}") from error
    if missing := found["missing_keys"]:
        raise _broken(folder / subfolder, f"lacks {len(missing)} of the model's tensors, such as {min(missing)}.")
    return model.eval().requires_grad_(False)


def _broken(folder: Path, fault: str) -> SetupError:
    return SetupError("weights-broken", f"{folder} {fault}", "`vs3r-engine weights verify` says what is wrong.")
