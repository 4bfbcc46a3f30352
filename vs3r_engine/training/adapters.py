# SPDX-License-Identifier: Apache-2.0
"""Training both experts' LoRA adapters (section 3.4, eq. 9). Every random choice follows from (seed, step, process),
so a run that was stopped and taken up again is the run that was never stopped."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vs3r_engine.errors import InputError
from vs3r_engine.methods.diffusion import lora
from vs3r_engine.methods.diffusion.sampling import BOUNDARY, TRAIN_STEPS
from vs3r_engine.training.samples import Sample

ADAPTER = "default"
EXPERTS = (lora.HIGH, lora.LOW)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The published recipe. steps: optimizer steps over both experts. switch_every: steps an expert is kept for, so
    that the other may wait in main memory. checkpoints_kept: the latest ones; each is gigabytes. What may change between a run
    and its continuation: steps, checkpoint_every, checkpoints_kept, validate_every."""

    steps: int
    rank: int = lora.RANK
    alpha: int = lora.RANK
    dropout: float = 0.05
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    clip: float = 1.0
    shift: float = 5.0
    accumulate: int = 1
    switch_every: int = 1
    seed: int = 0
    precision: str = "bf16"
    save_memory: bool = True
    checkpoint_every: int = 250
    checkpoints_kept: int = 3
    validate_every: int = 250


_MAY_CHANGE = ("steps", "checkpoint_every", "checkpoints_kept", "validate_every")


class Samples(Protocol):
    """Pairs by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Sample: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: which expert, mean loss, gradient norm before clipping."""

    step: int
    expert: str
    loss: float
    gradient_norm: float


Validate = Callable[[int, Mapping[str, Any]], dict[str, float]]
"""Told (step, experts by name); returns scalars for the log. An expert taken from the mapping is on the device."""


class OneAtATime(Mapping[str, Any]):
    """Experts by name. The one asked for last is on the device, the others wait in main memory."""

    def __init__(self, experts: Mapping[str, Any], device: Any) -> None:
        self._experts, self._device = experts, device
        self._resident: str | None = None

    def __getitem__(self, name: str) -> Any:
        if name != self._resident:
            for other in self._experts:
                if other != name:
                    self._experts[other].to("cpu")
            self._experts[name].to(self._device)
            self._resident = name
        return self._experts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._experts)

    def __len__(self) -> int:
        return len(self._experts)


def train(
    experts: dict[str, Any],
    prompt: torch.Tensor,
    samples: Samples,
    output: Path,
    settings: TrainSettings,
    validate: Validate | None = None,
    device: str | None = None,
) -> Iterator[Step]:
    """Train until `settings.steps`, one item per step; `output`/adapters then holds both experts' files.

    experts: base models by name ("high", "low"), without adapters. prompt: [1, tokens, text_dim]. Goes on from the
    latest checkpoint in `output`. Under `accelerate launch`, every process runs this and all take the same expert at
    each step. Raises: InputError `train-settings-changed`.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        cpu=device == "cpu",
        log_with="tensorboard",
        project_dir=str(output),
    )
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("log", config=asdict(settings))
    optimizers = {}
    for name, model in experts.items():
        model.requires_grad_(False)
        torch.manual_seed(_seed(settings.seed, 0, 0, name))
        model.add_adapter(lora.config(settings.rank, settings.alpha, settings.dropout), ADAPTER)
        for parameter in _trainable(model):
            parameter.data = parameter.data.float()
        if settings.save_memory:
            model.enable_gradient_checkpointing()
        model.train()
        optimizers[name] = torch.optim.AdamW(_trainable(model), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    step = _resume(output, experts, optimizers, settings)
    # Only a lone process may keep the idle expert in main memory: processes that share gradients need both in place.
    swaps = settings.switch_every > 1 and accelerator.num_processes == 1
    prepared = {name: accelerator.prepare_model(model, device_placement=not swaps) for name, model in experts.items()}
    placed = OneAtATime(prepared, accelerator.device) if swaps else prepared
    _to_device(optimizers, accelerator.device)
    try:
        while step < settings.steps:
            expert = expert_of_step(step, settings)
            loss, norm = _one_step(accelerator, placed[expert], optimizers[expert], expert, prompt, samples, step, settings)
            step += 1
            is_last = step == settings.steps
            accelerator.log({f"loss/{expert}": loss, f"gradient/{expert}": norm}, step=step)
            if accelerator.is_main_process:
                if validate is not None and (is_last or step % settings.validate_every == 0):
                    accelerator.log(_validated(validate, step, experts, placed if swaps else experts), step=step)
                if is_last or step % settings.checkpoint_every == 0:
                    _save(output, step, experts, optimizers, settings)
            accelerator.wait_for_everyone()
            yield Step(step, expert, loss, norm)
        if accelerator.is_main_process:
            for name, model in experts.items():
                lora.save(output / "adapters", name, model, ADAPTER)
    finally:
        accelerator.end_training()


def _one_step(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    expert: str,
    prompt: torch.Tensor,
    samples: Samples,
    step: int,
    settings: TrainSettings,
) -> tuple[float, float]:
    """(mean loss over micro-batches and processes, gradient norm)."""
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    total = torch.zeros((), device=device)
    torch.manual_seed(_seed(settings.seed, step, rank, "dropout"))
    for micro in range(settings.accumulate):
        position = (step * settings.accumulate + micro) * world + rank
        sample = samples[_shuffled(position, len(samples), settings.seed)]
        generator = torch.Generator().manual_seed(_seed(settings.seed, step, rank, f"noise{micro}"))
        sigma = sigma_of_draw(float(torch.rand((), generator=generator)), expert, settings.shift)
        noise = torch.randn(sample.clean.shape, generator=generator)
        # Around the forward too: that is where a process decides to share the gradients.
        context = accelerator.no_sync(model) if micro + 1 < settings.accumulate else _nothing()
        with context:
            with accelerator.autocast():
                loss = flow_loss(model, sample, prompt, sigma, noise, device)
            accelerator.backward(loss / settings.accumulate)
        total += loss.detach() / settings.accumulate
    norm = accelerator.clip_grad_norm_(_trainable(model), settings.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(accelerator.reduce(total, reduction="mean")), float(norm)


def flow_loss(model: Any, sample: Sample, prompt: torch.Tensor, sigma: float, noise: torch.Tensor, device: Any) -> torch.Tensor:
    """Mean squared error of the velocity at one noise level. Source: eq. 8-9 in sigma = 1 - t: z = (1 - sigma) z0 +
    sigma noise and v = noise - z0, the one reading in which both equations agree; model input as in inference."""
    clean, noise = sample.clean[None].to(device), noise[None].to(device)
    ones = torch.ones(1, 4, *clean.shape[2:], device=device)
    noisy = (1.0 - sigma) * clean + sigma * noise
    timestep = torch.full((1,), TRAIN_STEPS * sigma, device=device)
    hidden = torch.cat([noisy, ones, sample.condition[None].to(device)], dim=1)
    velocity = model(
        hidden_states=hidden.to(_dtype(model)),
        timestep=timestep,
        encoder_hidden_states=prompt.to(device, _dtype(model)),
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(velocity.float(), noise - clean)


def sigma_of_draw(draw: float, expert: str, shift: float) -> float:
    """The noise level of a uniform draw within an expert's part: sigma = shift u / (1 + (shift - 1) u).

    u is uniform in [u*, 1) for the high-noise expert and [0, u*) for the other, where u* maps to the boundary; with
    experts drawn as `expert_of_step` does, u over both is uniform, as published.
    """
    border = _border(shift)
    u = border + draw * (1.0 - border) if expert == lora.HIGH else draw * border
    return shift * u / (1.0 + (shift - 1.0) * u)


def expert_of_step(step: int, settings: TrainSettings) -> str:
    """The expert every process trains at this step: high-noise in 1 - u* of the steps (35.7 % with shift 5)."""
    generator = torch.Generator().manual_seed(_seed(settings.seed, step // settings.switch_every, 0, "expert"))
    return lora.HIGH if float(torch.rand((), generator=generator)) >= _border(settings.shift) else lora.LOW


def _border(shift: float) -> float:
    """u* whose shifted noise level is the experts' boundary."""
    return BOUNDARY / (shift - (shift - 1.0) * BOUNDARY)


def _seed(*parts: int | str) -> int:
    """A 63-bit seed of these parts."""
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


def _shuffled(position: int, count: int, seed: int) -> int:
    """Which sample stands at a position of endless epochs, each in its own order."""
    epoch, place = divmod(position, count)
    return int(np.random.default_rng([seed, epoch]).permutation(count)[place])


def _trainable(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _dtype(model: Any) -> torch.dtype:
    return next(parameter.dtype for name, parameter in model.named_parameters() if "base_layer.weight" in name)


def _validated(validate: Validate, step: int, experts: dict[str, Any], placed: Mapping[str, Any]) -> dict[str, float]:
    for model in experts.values():
        model.eval()
    try:
        return validate(step, placed)
    finally:
        for model in experts.values():
            model.train()


def checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in output.glob("checkpoint-*") if not path.suffix)


def _save(output: Path, step: int, experts: dict[str, Any], optimizers: dict[str, Any], settings: TrainSettings) -> None:
    final = output / f"checkpoint-{step:07d}"
    partial = final.with_suffix(".part")
    for name, model in experts.items():
        lora.save(partial, name, model, ADAPTER)
    torch.save(
        {"step": step, **{name: optimizer.state_dict() for name, optimizer in optimizers.items()}},
        partial / "optimizers.pt",
    )
    (partial / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    for old in checkpoints(output)[: -settings.checkpoints_kept]:
        shutil.rmtree(old)


def _resume(output: Path, experts: dict[str, Any], optimizers: dict[str, Any], settings: TrainSettings) -> int:
    """The step to go on from, with adapters and optimizers as they were there; 0 for a new run."""
    found: Sequence[Path] = checkpoints(output)
    if not found:
        return 0
    before = json.loads((found[-1] / "settings.json").read_text())
    changed = [key for key, value in asdict(settings).items() if key not in _MAY_CHANGE and before[key] != value]
    if changed:
        raise InputError(
            "train-settings-changed",
            f"{output} was begun with other settings ({', '.join(changed)}).",
            "Use the same, or another folder.",
        )
    state = torch.load(found[-1] / "optimizers.pt", map_location="cpu", weights_only=True)
    for name, model in experts.items():
        stored = lora.read(found[-1] / lora.FILE_NAMES[name])
        modules = dict(model.named_modules())
        with torch.no_grad():
            for key, layer in stored.layers.items():
                modules[key].lora_A[ADAPTER].weight.copy_(layer.down)
                modules[key].lora_B[ADAPTER].weight.copy_(layer.up)
        optimizers[name].load_state_dict(state[name])
    return int(state["step"])


def _to_device(optimizers: dict[str, Any], device: torch.device) -> None:
    """Restored moments go where the adapters are."""
    for optimizer in optimizers.values():
        for moments in optimizer.state.values():
            for key, value in moments.items():
                if isinstance(value, torch.Tensor) and key != "step":
                    moments[key] = value.to(device)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def epochs_to_steps(epochs: float, samples: int, processes: int, accumulate: int) -> int:
    """Optimizer steps in which every sample is seen `epochs` times."""
    return max(1, math.ceil(epochs * samples / (processes * accumulate)))
