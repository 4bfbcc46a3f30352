# SPDX-License-Identifier: Apache-2.0
"""From noise to latents: sampling presets, which expert a timestep belongs to, and one denoising loop over all windows.

Flow matching in sigma: z = (1 - sigma) z0 + sigma noise, velocity = noise - z0, timestep = 1000 sigma (eq. 8-9 with
t = 1 - sigma).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from vs3r_engine.stages.composite import window_weights

TRAIN_STEPS = 1000
BOUNDARY = 0.9
"""Share of the timesteps from which the high-noise expert is used: t >= 900 of 1000."""

Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Preset:
    """steps: evaluations of the model. solver: "euler", or "unipc" (second order, Wan's own). shift: of the noise
    schedule.

    own_grid: take Wan's timesteps (linear sigmas, then shifted); without, diffusers' Euler default, which ends near 0.
    """

    steps: int
    solver: str
    shift: float
    own_grid: bool = True


PRESETS = {
    "vs3r": Preset(40, "unipc", 5.0),
    # As published: the scheduler is read from a UniPC configuration by an Euler class that ignores its flow_shift,
    # so 4 steps go to the high-noise expert and 36 to the other, although training shifts by 5.
    "vs3r-official": Preset(40, "euler", 1.0, own_grid=False),
    # For a step-distilled adapter on top of the trained one: 2 + 2 steps.
    "fast": Preset(4, "euler", 5.0),
}


def scheduler(preset: Preset, steps: int | None = None) -> Any:
    """A diffusers scheduler with its timesteps set."""
    steps = steps or preset.steps
    if preset.solver == "unipc":
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        made = UniPCMultistepScheduler(
            num_train_timesteps=TRAIN_STEPS,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=preset.shift,
        )
        made.set_timesteps(steps)
        return made
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_STEPS, shift=preset.shift)
    if preset.own_grid:
        made.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1].tolist())
    else:
        made.set_timesteps(steps)
    return made


def noise_for(latent_frames: int, window: int, overlap: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """[z, latent_frames, rows, columns] float32 from the seed alone, whatever the device.

    Up to one window it is plain noise. Beyond, each window's new frames get the noise of those that left it, shuffled:
    every window then sees the same set, which keeps invented content together across windows (on a toy model, amplitude
    left in averaged holes 0.72 instead of 0.62, drift 0.52 instead of 0.94).
    """
    generator = torch.Generator().manual_seed(seed)
    channels, rows, columns = shape
    noise = torch.randn(channels, min(window, latent_frames), rows, columns, generator=generator)
    step = window - overlap
    while noise.shape[1] < latent_frames:
        left = noise[:, noise.shape[1] - window : noise.shape[1] - window + step]
        noise = torch.cat([noise, left[:, torch.randperm(step, generator=generator)]], dim=1)
    return noise[:, :latent_frames].contiguous()


class Predict(Protocol):
    """The model: velocity of one window's latents."""

    def __call__(self, is_high: bool, timestep: torch.Tensor, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[z, n, rows, columns] float32 for latents of that shape; condition: [channels, n, rows, columns]."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """How to sample. denoise: share of the steps to run; below 1, sampling begins from a given start.

    boundary: None for a single model. on_step: told (done, total) after every step; may raise to stop.
    """

    preset: Preset
    denoise: float = 1.0
    boundary: float | None = BOUNDARY
    on_step: Callable[[int, int], None] | None = None

    def is_high(self, timestep: float) -> bool:
        """Whether a timestep belongs to the high-noise expert, or to the only one."""
        return self.boundary is None or timestep >= self.boundary * TRAIN_STEPS


def sample_together(
    noise: torch.Tensor,
    condition: torch.Tensor,
    given: torch.Tensor,
    start: torch.Tensor | None,
    windows: Sequence[Window],
    predict: Predict,
    request: Request,
) -> torch.Tensor:
    """[z, n, rows, columns]: one sampling of the whole shot whose windows agree at every step.

    Overlapping windows' velocities are averaged with linear ramps before the solver moves, so there is one solver state
    and nothing to cross-fade afterwards. With one window this is plain sampling, exactly. Places that no window reaches
    come out as `given`, the latents of what was rendered: they have nothing to complete.
    """
    solver, timesteps, latents = _begin(noise, start, request)
    weights = [torch.from_numpy(w)[None, :, None, None] for w in window_weights(windows, noise.shape[1])]
    reached = torch.zeros(noise.shape[1], dtype=torch.bool)
    for begin, end in windows:
        reached[begin:end] = True
    for done, timestep in enumerate(timesteps):
        velocity = torch.zeros_like(latents)
        high = request.is_high(float(timestep))
        for (begin, end), weight in zip(windows, weights, strict=True):
            part = predict(high, timestep, latents[:, begin:end], condition[:, begin:end])
            velocity[:, begin:end] += part if len(windows) == 1 else weight * part
        latents = solver.step(velocity[None], timestep, latents[None], return_dict=False)[0][0]
        if request.on_step is not None:
            request.on_step(done + 1, len(timesteps))
    if not reached.all():
        latents[:, ~reached] = given[:, ~reached]
    return latents


def sample_apart(
    noise: Sequence[torch.Tensor],
    condition: Sequence[torch.Tensor],
    start: Sequence[torch.Tensor] | None,
    predict: Predict,
    request: Request,
) -> list[torch.Tensor]:
    """Each window sampled by itself, as published. Steps go round the windows, so that experts change places once."""
    begun = [_begin(one, None if start is None else start[i], request) for i, one in enumerate(noise)]
    timesteps = begun[0][1]
    solvers, latents = [b[0] for b in begun], [b[2] for b in begun]
    for done, timestep in enumerate(timesteps):
        high = request.is_high(float(timestep))
        for i, solver in enumerate(solvers):
            velocity = predict(high, timestep, latents[i], condition[i])
            latents[i] = solver.step(velocity[None], timestep, latents[i][None], return_dict=False)[0][0]
        if request.on_step is not None:
            request.on_step(done + 1, len(timesteps))
    return latents


def _begin(noise: torch.Tensor, start: torch.Tensor | None, request: Request) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """(solver, timesteps left, first latents). Below full strength, sampling starts from `start` with noise added."""
    solver = scheduler(request.preset)
    if start is None or request.denoise >= 1.0:
        return solver, solver.timesteps, noise.clone()
    count = len(solver.timesteps)
    first = count - max(1, round(request.denoise * count))
    solver.set_begin_index(first)
    sigma = float(solver.sigmas[first])
    return solver, solver.timesteps[first:], (1.0 - sigma) * start + sigma * noise
