# SPDX-License-Identifier: Apache-2.0
"""`vs3r-engine train`: making the completion model's adapters from a folder of stable videos."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vs3r_engine.errors import InputError

if TYPE_CHECKING:
    from vs3r_engine.training.curate import Parts

app = typer.Typer(no_args_is_help=True, help="Curate training pairs and train the adapters of dvdm.")

Weights = Annotated[str, typer.Option(help="installed, or (tests only) random:SEED:small.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Seed = Annotated[int, typer.Option(help="Same seed, same data and same training.")]


@app.command()
def curate(
    videos: Annotated[Path, typer.Argument(help="Folder of stable videos; searched through.")],
    output: Annotated[Path, typer.Argument(help="Folder of the data set; an unfinished one is gone on with.")],
    window: Annotated[int, typer.Option(help="Frames of a sample, one more than a multiple of four.")] = 81,
    detail: Annotated[str, typer.Option(help="480p (as published) or 720p.")] = "480p",
    method: Annotated[str, typer.Option(help="Reconstruction: geometric or vggt4d.")] = "geometric",
    per_clip: Annotated[int, typer.Option(min=1, help="At most this many samples of one video.")] = 24,
    seed: Seed = 0,
    device: Device = "auto",
    weights: Weights = "installed",
) -> None:
    """Build pairs: stable clips, and what stabilization would have left of them after a shake."""
    from vs3r_engine.methods.dvdm import AREA_PX, TINY_AREA_PX
    from vs3r_engine.methods.weights import random_seed
    from vs3r_engine.training.curate import CurateSettings
    from vs3r_engine.training.curate import curate as run

    if detail not in AREA_PX:
        raise InputError("bad-detail", f"--detail cannot be {detail!r}.", f"Give one of {', '.join(AREA_PX)}.")
    area = AREA_PX[detail] if random_seed(weights) is None else TINY_AREA_PX
    settings = CurateSettings(window, area, seed, per_clip, method)
    total = 0
    for done in run(videos, output, _parts(method, device, weights, area), settings):
        total += done.samples
        reasons = ", ".join(f"{count} {reason}" for reason, count in done.rejected.items())
        print(f"{done.source}: {done.samples} samples{f' (left out: {reasons})' if reasons else ''}", file=sys.stderr)
    print(f"{total} new samples", file=sys.stderr)
    print(output)


@app.command()
def lora(
    data: Annotated[Path, typer.Argument(help="Folder that `curate` made.")],
    output: Annotated[Path, typer.Argument(help="Folder of the run; an unfinished one is gone on with.")],
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps; 0 = what --epochs makes.")] = 0,
    epochs: Annotated[float, typer.Option(min=0, help="Times every sample is seen.")] = 10.0,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-4,
    rank: Annotated[int, typer.Option(min=1)] = 32,
    accumulate: Annotated[int, typer.Option(min=1, help="Samples per step and process.")] = 1,
    switch_every: Annotated[int, typer.Option(min=1, help="Steps an expert is kept; above 1 the other waits in main memory.")] = 1,
    held_out: Annotated[int, typer.Option(min=0, help="Samples kept for validation, from the end.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints and between validations.")] = 250,
    keep: Annotated[int, typer.Option(min=1, help="Latest checkpoints that are kept; each is gigabytes.")] = 3,
    text_mode: Annotated[str, typer.Option(help="vs3r or diffusers: how the prompt is encoded; run the result with the same.")] = "vs3r",
    seed: Seed = 0,
    device: Device = "auto",
    weights: Weights = "installed",
) -> None:
    """Train both experts' adapters. Several GPUs: `accelerate launch -m vs3r_engine.app.cli train lora ...`."""
    import os

    from vs3r_engine.training.adapters import TrainSettings, epochs_to_steps, train
    from vs3r_engine.training.samples import Dataset
    from vs3r_engine.training.validation import watch

    if text_mode not in ("vs3r", "diffusers"):
        raise InputError("bad-text-mode", f"--text-mode cannot be {text_mode!r}.", "Give vs3r or diffusers.")
    samples = Dataset(data)
    kept = min(held_out, len(samples) - 1)
    learned = _Part(samples, len(samples) - kept)
    precision, experts, prompt, decode = _models(device, weights, text_mode)
    settings = TrainSettings(
        steps or epochs_to_steps(epochs, len(learned), int(os.environ.get("WORLD_SIZE", "1")), accumulate),
        rank,
        rank,
        learning_rate=learning_rate,
        accumulate=accumulate,
        switch_every=switch_every,
        seed=seed,
        precision=precision,
        checkpoint_every=every,
        checkpoints_kept=keep,
        validate_every=every,
    )
    validate = watch([samples[len(samples) - 1 - i] for i in range(kept)] or [samples[0]], prompt, output, decode=decode)
    for step in train(experts, prompt, learned, output, settings, validate, device):
        print(f"{step.step}/{settings.steps} {step.expert} loss {step.loss:.4f}", file=sys.stderr)
    print(output / "adapters")


class _Part:
    """The first `count` samples of a data set."""

    def __init__(self, samples: Any, count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Any:
        return self._samples[position]


def _parts(method: str, device: str, weights: str, area_px: int) -> "Parts":
    """The methods and the encoder that curation works with."""
    from vs3r_engine.media.decode import open_source
    from vs3r_engine.methods.choice import choose_methods
    from vs3r_engine.methods.devices import choose_device
    from vs3r_engine.methods.diffusion import autoencoder, memory
    from vs3r_engine.settings import Settings
    from vs3r_engine.training.curate import Parts

    settings = Settings().with_values({"analysis.method": method, "analysis.device": device})
    vae = _autoencoder(weights).to(choose_device(device).name)
    free_gib = memory.this_machine(device).free_gib
    tiling = autoencoder.Tiling(256, 64) if memory.autoencoder_working_gib(1, area_px) > 0.9 * free_gib else None
    any_rate = choose_methods(settings, Fraction(30))

    @contextmanager
    def open_clip(path: Path) -> Iterator[Any]:
        with open_source(str(path)) as source:
            yield source.frames(source.info.clip.available_range), source.info.clip.rate

    return Parts(
        lambda rate: choose_methods(settings, rate).reconstructor,
        any_rate.flow,
        any_rate.renderer,
        settings.analysis,
        open_clip,
        lambda pictures: autoencoder.encode(vae, pictures(), tiling)[0],
    )


def _autoencoder(weights: str) -> Any:
    from vs3r_engine.methods import weights as manifest
    from vs3r_engine.methods.diffusion import random_weights, wan
    from vs3r_engine.methods.dvdm import BASE, require

    source = manifest.random_seed(weights)
    return wan.load_autoencoder(require([BASE])[BASE]) if source is None else random_weights.autoencoder(source[0], source[1])


def _models(device: str, weights: str, text_mode: str) -> tuple[str, dict[str, Any], Any, Any]:
    """(precision, experts, prompt, decoder of latents) to train with."""
    import torch

    from vs3r_engine.methods import weights as manifest
    from vs3r_engine.methods.devices import choose_device
    from vs3r_engine.methods.diffusion import autoencoder, random_weights, text, wan
    from vs3r_engine.methods.dvdm import BASE, require

    source = manifest.random_seed(weights)
    chosen = choose_device(device)
    is_gpu = chosen.name == "cuda"
    dtype = torch.bfloat16 if is_gpu else torch.float32
    if source is not None:
        seed, small = source
        experts = {
            name: random_weights.expert(seed + i, small, "cpu" if small else chosen.name, dtype) for i, name in enumerate(("high", "low"))
        }
        prompt = random_weights.prompt(seed, small)
    else:
        base = require([BASE])[BASE]
        prompt = text.load(base)[text_mode].float()
        experts = {
            "high": wan.load_transformer(base, "transformer", "expert", dtype),
            "low": wan.load_transformer(base, "transformer_2", "expert", dtype),
        }
    vae = _autoencoder(weights)

    def decode(latents: torch.Tensor) -> Iterator[torch.Tensor]:
        vae.to(chosen.name)
        yield from autoencoder.decode_stream(vae, latents)
        vae.to("cpu")

    return "bf16" if is_gpu else "no", experts, prompt, decode
