# SPDX-License-Identifier: Apache-2.0
"""The paper's dual-stream video diffusion model: Wan2.2-I2V-A14B told the whole rendered sequence, with trained
adapters.

Nothing heavy is imported before the first frame is asked for: `preflight` and `vs3r --help` stay instant.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vs3r_engine.errors import InputError, SetupError, WeightsMissing
from vs3r_engine.methods import weights
from vs3r_engine.methods.devices import require_quantizer
from vs3r_engine.methods.diffusion import text
from vs3r_engine.methods.diffusion.completer import DiffusionCompleter, Installed, WanModel
from vs3r_engine.settings import FillSettings, Settings, stamp_of

if TYPE_CHECKING:
    import torch

    from vs3r_engine.methods.diffusion.sampling import Request
    from vs3r_engine.methods.diffusion.wan import Wan

BASE = "wan2.2-i2v-a14b"
ADAPTERS = "dvdm-lora"
DISTILLED = "wan2.2-lightning"
"""Names in the weights' manifest: the experts and autoencoder, the trained adapters, the 4-step adapters."""

UNTRAINED = "none"
"""Value of fill.lora that forces the base model without adapters."""

AREA_PX = {"480p": 832 * 480, "720p": 1280 * 720}
TINY_AREA_PX = 48 * 32


def preflight(settings: Settings, installed: Installed | None = None) -> None:
    """Nothing, if everything is there that this completer needs; imports nothing heavy.

    Raises: WeightsMissing naming all that is missing at once, InputError `lora-missing`, SetupError
    `prompt-not-prepared`, `torchao-missing`.
    """
    fill = settings.fill
    require_quantizer(fill.offload)
    if fill.lora not in ("", UNTRAINED):
        missing = [part for part in fill.lora.split(";") if not Path(part.strip()).expanduser().exists()]
        if missing:
            raise InputError("lora-missing", f"There is no LoRA at {missing[0]}.", "Give the folder that holds both experts' files.")
    if weights.random_seed(fill.weights) is None:
        text.require(require(_names(fill), installed)[BASE])


def _names(fill: FillSettings) -> list[str]:
    return [BASE] + ([ADAPTERS] if fill.lora == "" else []) + ([DISTILLED] if fill.sampler == "fast" else [])


def require(names: Iterable[str], installed: Installed | None = None) -> dict[str, Path]:
    """Where each of the named weights is. Raises: WeightsMissing, one message for all that are missing."""
    found: dict[str, Path] = {}
    missing: dict[str, WeightsMissing] = {}
    for name in names:
        try:
            found[name] = (installed or weights.installed)(name)[1]
        except WeightsMissing as error:
            missing[name] = error
    if missing:
        hints = [error.hint for error in missing.values()]
        prepared = [name for name in missing if weights.entry(name).prepare]
        hints += [f"Then, once, `vs3r-engine weights prepare {name}`." for name in prepared]
        if ADAPTERS in missing:
            hints.append(
                "Adapters: train them with `vs3r-engine train`, give fill.lora=FOLDER, or run the base model without: fill.lora=none."
            )
        raise WeightsMissing(next(iter(missing.values())).code, " ".join(error.message for error in missing.values()), " ".join(hints))
    return found


class DvdmCompleter(DiffusionCompleter):
    """Completer by the paper's model, its adapters and its sampling."""

    preflight = staticmethod(preflight)

    def _request(self) -> "tuple[Request, int]":
        from vs3r_engine.methods.diffusion.sampling import PRESETS, Request

        fill = self._settings.fill
        return Request(PRESETS[fill.sampler], fill.denoise, on_step=self._on_step), area_px(fill, "720p")

    def _model(self, area_px: int) -> "DvdmModel":
        return DvdmModel(load(self._settings, area_px, self._installed))


class DvdmModel(WanModel):
    """ShotModel: 36 channels in, 16 noisy latents | 4 mask channels, all ones | 16 latents of the render with black
    holes.

    Source: section 3.4; the mask of ones says that every frame is given, none is to be invented from nothing.
    """

    hole_value = 0.0

    def condition(self, pictures: Any, holes: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """(mask and latents [20, n, rows, columns], the latents alone); holes are black in the pictures already."""
        import torch

        given = self.latents(pictures)
        return torch.cat([torch.ones(4, *given.shape[1:]), given]), given

    def predict(self, is_high: bool, timestep: "torch.Tensor", latents: "torch.Tensor", condition: "torch.Tensor") -> "torch.Tensor":
        """One forward, no guidance. Source: eq. 8-9."""
        import torch

        return self._wan.velocity("high" if is_high else "low", torch.cat([latents, condition]), timestep, self._wan.prompt)


def area_px(fill: FillSettings, own: str) -> int:
    """Pixels of the reduced picture; `own` is the size a model is at home with."""
    source = weights.random_seed(fill.weights)
    if source is not None and source[1]:
        return TINY_AREA_PX
    return AREA_PX[own if fill.detail == "model" else fill.detail]


def load(settings: Settings, area: int, installed: Installed | None = None) -> "Wan":
    """The models for these settings, warm or new."""
    from vs3r_engine.methods.diffusion.wan import kept_warm

    fill = settings.fill
    key = (
        "dvdm",
        fill.weights,
        fill.lora,
        stamp_of(fill.lora),
        fill.sampler == "fast",
        fill.offload,
        fill.text_mode,
        fill.attention,
        fill.compiled,
        settings.analysis.device,
        area,
        fill.window_frames,
    )
    return kept_warm(key, lambda: _load(settings, area, installed))


def _load(settings: Settings, area: int, installed: Installed | None) -> "Wan":
    from vs3r_engine.methods.diffusion import lora, memory, random_weights, wan

    fill = settings.fill
    source = weights.random_seed(fill.weights)
    machine = memory.this_machine(settings.analysis.device)
    make: dict[str, Callable[[], Any]]
    if source is not None:
        where: dict[str, Path] = {}
        policy, make, vae, prompt = random_weights.dvdm(*source, fill.offload, machine, area, fill.window_frames)
    else:
        where = require(_names(fill), installed)
        base = where[BASE]
        needs = footprint(base, area, fill.window_frames)
        policy = memory.choose(fill.offload, machine, needs, memory.autoencoder_working_gib(1, area))
        make = {
            "high": lambda: wan.load_transformer(base, "transformer", "expert", policy.dtype),
            "low": lambda: wan.load_transformer(base, "transformer_2", "expert", policy.dtype),
        }
        vae, prompt = wan.load_autoencoder(base), text.load(base)[fill.text_mode]
    trained = where.get(ADAPTERS) if fill.lora == "" else None if fill.lora == UNTRAINED else fill.lora
    adapters = [lora.find(location) for location in (trained, where.get(DISTILLED)) if location is not None]
    experts, announced = {}, []
    # One after the other: each is at its smallest, and where it belongs, before the next is read.
    for name in ("high", "low"):
        experts[name] = make[name]()
        for files in adapters:
            lora.merge(experts[name], lora.read(files[name]))
        announced += memory.settle(experts[name], policy, fill.attention, fill.compiled)
    residence = memory.Residence(policy, {**experts, "autoencoder": vae})
    return wan.Wan(policy, residence, prompt.float(), announced=tuple(dict.fromkeys(announced)))


def footprint(base: Path, area: int, window_frames: int) -> Any:
    """What the installed model needs, from its files' headers and configuration. Raises: SetupError `weights-broken`."""
    import json

    from vs3r_engine.methods.diffusion.memory import Footprint, working_gib

    try:
        config = json.loads((base / "transformer" / "config.json").read_text())
        hidden, feed_forward = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
        # As they will be in memory; the files of the large models hold fp32.
        expert_gib, autoencoder_gib = _tensors_gib(base / "transformer", 2), _tensors_gib(base / "vae", 4)
    except Exception as error:
        raise SetupError("weights-broken", f"{base} cannot be read: {error}", "`vs3r-engine weights verify` says what is wrong.") from error
    experts = 2 if (base / "transformer_2").is_dir() else 1
    return Footprint(expert_gib, experts, autoencoder_gib, working_gib(16, area // 16, window_frames, hidden, feed_forward))


def _tensors_gib(folder: Path, bytes_each: int) -> float:
    """GiB of all numbers in a folder's safetensors at so many bytes each, whatever the files hold them in."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as stored:
            names = stored.keys()
            count += sum(math.prod(stored.get_slice(name).get_shape()) for name in names)
    return count * bytes_each / (1 << 30)
