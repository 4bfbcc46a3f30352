# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters for both experts: found, read from every layout in use, checked, merged, and saved in diffusers' own.

Nothing here loads without effect: an adapter that touches no layer, or lands in the wrong expert, is an error.
"""

import filecmp
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vs3r_engine.errors import InputError

HIGH, LOW = "high", "low"
RANK = 32
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""The published targets: every linear layer inside the blocks, 10 per block, and none outside."""
FILE_NAMES = {HIGH: "pytorch_lora_weights_high_noise.safetensors", LOW: "pytorch_lora_weights_low_noise.safetensors"}
_EXPERT_KEY = "vs3r.expert"
_DIFFUSERS_KEY = "lora_adapter_metadata"
_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer_2.",
    "transformer.",
    "pipe.dit.",
)
_NAMES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
"""Wan's original layer names, as trainers other than diffusers write them, and diffusers' own."""
_SIDE = re.compile(r"\.(?:lora_)?(A|B|down|up)(?:\.[A-Za-z]\w*)?\.weight$")
_IS_HIGH = re.compile(r"(^|[^a-z])(high|highnoise)([^a-z]|$)", re.IGNORECASE)
_IS_LOW = re.compile(r"(^|[^a-z])(low|lownoise)([^a-z]|$)|transformer_2", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's adapter: weight + scale * up @ down, with down [rank, inputs] and up [outputs, rank]."""

    down: Any
    up: Any
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What one file holds: layers by diffusers' module name, and the expert it says it is for (None where it does
    not say).
    """

    path: Path
    layers: dict[str, Layer]
    expert: str | None


def find(location: str | Path) -> dict[str, Path]:
    """The file for each expert: {"high": ..., "low": ...}.

    location: a folder in any of the known layouts, or two files joined by ";", the high-noise one first. Which file is
    for which expert is told by its own metadata and keys, else by names ("high", "low", "transformer_2"), else by the
    layout that a `transformer_2` folder implies. Nothing is guessed.

    Raises: InputError `lora-missing`, `lora-incomplete`, `lora-ambiguous`, `lora-wrong-expert`.
    """
    parts = [Path(part.strip()).expanduser() for part in str(location).split(";")]
    for part in parts:
        if not part.exists():
            raise InputError("lora-missing", f"There is no LoRA at {part}.", "Give the folder that holds both experts' files.")
    if len(parts) == 2:
        found = {HIGH: _the_file(parts[0]), LOW: _the_file(parts[1])}
        for expert, path in found.items():
            said = _said_expert(path, path.name)
            if said not in (None, expert):
                raise _wrong_expert(path, said, expert)
    elif len(parts) == 1 and parts[0].is_dir():
        found = _in_folder(parts[0])
    else:
        raise InputError(
            "lora-incomplete",
            f"{location} is one file; the model has two experts and each needs its own.",
            "Give the folder that holds both, or both files joined by a semicolon, the high-noise one first.",
        )
    if filecmp.cmp(found[HIGH], found[LOW], shallow=False):
        raise InputError(
            "lora-wrong-expert",
            f"The same adapter is given for both experts: {found[HIGH]}.",
            "Each expert was trained by itself; give each its own file.",
        )
    return found


def _the_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(
            "lora-ambiguous" if files else "lora-missing",
            f"{path} holds {len(files)} .safetensors files, not one.",
            "Name the file itself.",
        )
    return files[0]


def _in_folder(folder: Path) -> dict[str, Path]:
    files = sorted({*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")})
    by_expert: dict[str, list[Path]] = {HIGH: [], LOW: []}
    unsaid = []
    for path in files:
        said = _said_expert(path, str(path.relative_to(folder)))
        by_expert[said].append(path) if said else unsaid.append(path)
    # The published training code writes the high-noise expert at the root, its inference code into `transformer`.
    if len(unsaid) == 1 and not by_expert[HIGH] and len(by_expert[LOW]) == 1 and by_expert[LOW][0].parent.name == "transformer_2":
        by_expert[HIGH] = unsaid
        unsaid = []
    names = ", ".join(str(path.relative_to(folder)) for path in files) or "no .safetensors file"
    if unsaid or any(len(paths) > 1 for paths in by_expert.values()):
        raise InputError(
            "lora-ambiguous",
            f"It is not clear which file in {folder} is for which expert: {names}.",
            "Keep two files, with `high` and `low` in their names, or name both, joined by a semicolon.",
        )
    for expert, paths in by_expert.items():
        if not paths:
            raise InputError(
                "lora-incomplete",
                f"{folder} has no adapter for the {expert}-noise expert (it holds {names}).",
                "Both experts need one: without it, half of the steps would run the untrained model.",
            )
    return {expert: paths[0] for expert, paths in by_expert.items()}


def _said_expert(path: Path, name: str) -> str | None:
    """The expert a file says it is for, by metadata, keys and name.

    Raises: InputError `lora-wrong-expert` if they differ.
    """
    keys, metadata = _header(path)
    said = set()
    if metadata.get(_EXPERT_KEY) in (HIGH, LOW):
        said.add(metadata[_EXPERT_KEY])
    if any(key.startswith("transformer_2.") for key in keys):
        said.add(LOW)
    for expert, pattern in ((HIGH, _IS_HIGH), (LOW, _IS_LOW)):
        if pattern.search(name):
            said.add(expert)
    if len(said) > 1:
        raise InputError(
            "lora-wrong-expert",
            f"{path} contradicts itself: its name and its contents are for different experts.",
            "Rename it back, or take the right file.",
        )
    if not said and Path(name).parent.name == "transformer":
        return HIGH
    return said.pop() if said else None


def _wrong_expert(path: Path, said: str, wanted: str) -> InputError:
    return InputError(
        "lora-wrong-expert",
        f"{path} is the {said}-noise expert's adapter, given for the {wanted}-noise one.",
        "Swap the two.",
    )


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Tensor names and metadata of a safetensors file. Raises: InputError `lora-unreadable`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            return list(stored.keys()), dict(stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError("lora-unreadable", f"{path} cannot be read: {error}.", "Download or export it again.") from error


def read(path: Path) -> Adapter:
    """The adapter in one file, whatever trainer wrote it: diffusers, PEFT folder, original names, musubi, DiffSynth.

    Raises: InputError `lora-unreadable`, `lora-unsupported`.
    """
    from safetensors.torch import load_file

    keys, metadata = _header(path)
    halves: dict[str, dict[str, Any]] = {}
    alphas: dict[str, float] = {}
    strange = []
    tensors = load_file(path)
    for key in keys:
        bare = _musubi_key(key) if key.startswith("lora_unet_") else key
        side = _SIDE.search(bare)
        if side:
            halves.setdefault(_module_name(bare[: side.start()]), {})["down" if side[1] in ("A", "down") else "up"] = tensors[key].float()
        elif bare.endswith(".alpha"):
            alphas[_module_name(bare.removesuffix(".alpha"))] = float(tensors[key])
        else:
            strange.append(key)
    if strange or not halves or any(len(half) != 2 for half in halves.values()):
        broken = next((name for name, half in halves.items() if len(half) != 2), None)
        what = f"tensors such as {strange[0]!r}" if strange else f"half an adapter for {broken}" if broken else "no LoRA at all"
        raise InputError(
            "lora-unsupported",
            f"{path} holds {what}.",
            "Only LoRA (down and up matrices) can be loaded, all of it or none.",
        )
    declared = _declared_alpha(path, metadata)
    layers = {}
    for name, half in halves.items():
        rank = half["down"].shape[0]
        layers[name] = Layer(half["down"], half["up"], alphas.get(name, declared(name, rank)))
    return Adapter(path, layers, _said_expert(path, path.name))


def _musubi_key(key: str) -> str:
    """`lora_unet_blocks_3_self_attn_q.lora_down.weight` with its dots back."""
    module, _, rest = key.removeprefix("lora_unet_").partition(".")
    module = re.sub(r"^blocks_(\d+)_", r"blocks.\1.", module)
    module = re.sub(r"(self_attn|cross_attn)_(\w+)$", r"\1.\2", module)
    module = re.sub(r"(ffn|time_embedding|text_embedding|time_projection|head)_(\w+)$", r"\1.\2", module)
    return f"{module}.{rest}"


def _module_name(name: str) -> str:
    """diffusers' name of a layer named in any layout."""
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    block, _, layer = name.rpartition("blocks.")[2].partition(".") if name.startswith("blocks.") else ("", "", name)
    layer = _NAMES.get(layer, layer)
    return f"blocks.{block}.{layer}" if block else layer


def _declared_alpha(path: Path, metadata: Mapping[str, str]) -> Any:
    """A function (module, rank) -> alpha, from diffusers' metadata or PEFT's adapter_config.json; else alpha = rank."""
    config: dict[str, Any] = {}
    if _DIFFUSERS_KEY in metadata:
        config = {
            key.split(".", 1)[1] if key.startswith("transformer") else key: value
            for key, value in json.loads(metadata[_DIFFUSERS_KEY]).items()
        }
    elif (path.parent / "adapter_config.json").exists():
        config = json.loads((path.parent / "adapter_config.json").read_text())
    if config.get("use_dora"):
        raise InputError("lora-unsupported", f"{path} is a DoRA.", "Train or export a plain LoRA.")
    patterns: dict[str, float] = config.get("alpha_pattern") or {}

    def alpha(module: str, rank: int) -> float:
        value = next(
            (value for pattern, value in patterns.items() if re.search(rf"(^|\.){pattern.lstrip('^')}$", module)),
            config.get("lora_alpha", rank),
        )
        return float(value) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)

    return alpha


def merge(model: Any, adapter: Adapter) -> None:
    """Add the adapter's products to the weights they are for, in float32: no cost per step, and ready to be quantized.

    Raises: InputError `lora-mismatch` where a layer is not in the model or of another size, `lora-no-effect` where all of it is zero;
    nothing is changed then.
    """
    import torch

    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, layer in adapter.layers.items():
        module, wanted_size = linears.get(name), (layer.down.shape[1], layer.up.shape[0])
        if module is None or (module.in_features, module.out_features) != wanted_size:
            sizes = "" if module is None else f" of {wanted_size[0]} to {wanted_size[1]} features"
            raise InputError(
                "lora-mismatch",
                f"{adapter.path} is for another model: there is no layer {name}{sizes}.",
                "Use an adapter trained on the same base model.",
            )
    if not any(bool(layer.up.any()) and bool(layer.down.any()) for layer in adapter.layers.values()):
        raise InputError(
            "lora-no-effect",
            f"{adapter.path} is all zeros: it would change nothing.",
            "It was saved before training; take a later one.",
        )
    with torch.no_grad():
        for name, layer in adapter.layers.items():
            weight = linears[name].weight
            up, down = layer.up.to(weight.device), layer.down.to(weight.device)
            weight.copy_(weight.float() + layer.alpha / layer.rank * (up @ down))


def config(rank: int = RANK, alpha: int = RANK, dropout: float = 0.05) -> Any:
    """The published adapter, for training."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=list(TARGETS))


def save(folder: Path, expert: str, model: Any, name: str) -> Path:
    """Write one expert's adapter in diffusers' layout, with its alpha and its expert in the metadata; returns the file.

    Both diffusers' `load_lora_weights` and `read` give it back without a difference.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"transformer.{key}": value.detach().float().cpu().contiguous()
        for key, value in get_peft_model_state_dict(model, adapter_name=name).items()
    }
    declared = {
        f"transformer.{key}": sorted(value) if isinstance(value, set) else value for key, value in model.peft_config[name].to_dict().items()
    }
    metadata = {"format": "pt", _EXPERT_KEY: expert, _DIFFUSERS_KEY: json.dumps(declared, sort_keys=True, default=str)}
    path = folder / FILE_NAMES[expert]
    partial = path.with_suffix(".part")
    save_file(state, partial, metadata=metadata)
    partial.replace(path)
    return path
