# SPDX-License-Identifier: Apache-2.0
"""Where a diffusion model's weights live while it runs: chosen by free memory, said aloud, never by trial and error."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vs3r_engine.errors import DeviceError, OutOfMemory
from vs3r_engine.methods.devices import choose_device, memory_errors, require_quantizer

log = logging.getLogger(__name__)
_GIB = 1 << 30
_LESS_MEMORY = "Try fill.offload=group, or fill.detail=480p."


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to work with. kind: "cuda", "mps" or "cpu". free_gib: of the device; host_free_gib: main memory."""

    kind: str
    free_gib: float
    host_free_gib: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model needs, in GiB: one expert's weights in bf16, how many experts, autoencoder, and working memory."""

    expert_gib: float
    experts: int
    autoencoder_gib: float
    working_gib: float


@dataclass(frozen=True, slots=True)
class Policy:
    """mode: none (everything on the device) | model (one expert at a time) | group (blocks stream through) | int8 |
    fp8 (one expert at a time, weights quantized). reason: for people."""

    mode: str
    device: str
    dtype: torch.dtype
    tile_px: int | None
    reason: str


def this_machine(device: str) -> Machine:
    """Measure the device that a setting means (auto, cuda, mps, cpu). Raises: DeviceError."""
    import psutil

    chosen = choose_device(device)
    return Machine(chosen.name, chosen.free_gib, psutil.virtual_memory().available / _GIB)


def working_gib(width: int, height: int, window_frames: int, hidden: int, feed_forward: int) -> float:
    """Estimate of activations for one window in bf16: about six hidden and two feed-forward tensors, in part fp32."""
    tokens = ((window_frames - 1) // 4 + 1) * (width // 16) * (height // 16)
    return 1.0 + tokens * (hidden * 24 + feed_forward * 4) / _GIB


def autoencoder_working_gib(width: int, height: int) -> float:
    """Estimate of what decoding one group of four frames in fp32 holds: 96 channels at full size, a dozen times."""
    return 12 * 4 * width * height * 96 * 4 / _GIB


def choose(offload: str, machine: Machine, needs: Footprint, autoencoder_work_gib: float) -> Policy:
    """The policy for a wish ("auto" or a mode) on this machine.

    auto takes the first that fits: none, model, group, int8. Quantized weights come last because they change the
    picture (int8 by 0.7 %, fp8 by 2.6 % of the velocity).

    Raises: OutOfMemory `diffusion-memory` where nothing fits, DeviceError `diffusion-needs-gpu` on a bare CPU.
    """
    both, work = needs.expert_gib * needs.experts, needs.working_gib
    if machine.kind == "cpu":
        if offload not in ("auto", "none"):
            raise DeviceError(
                "diffusion-needs-gpu",
                f"Without a GPU there is nothing to offload from (fill.offload={offload}).",
                "Use fill.offload=auto.",
            )
        if both > 1:
            raise DeviceError(
                "diffusion-needs-gpu",
                f"A video diffusion model of {both:.0f} GiB would take days per clip without a GPU.",
                "Use fill.completer=temporal here, or run this job on a machine with a GPU.",
            )
        return Policy("none", "cpu", torch.float32, None, "a model this small runs on the CPU in fp32")
    device_needs = {
        "none": both + needs.autoencoder_gib + work,
        "model": needs.expert_gib + work,
        "group": 2.0 + work,
        "int8": needs.expert_gib / 2 + work,
        "fp8": needs.expert_gib / 2 + work,
    }
    host_needs = {
        "none": needs.expert_gib,
        "model": both,
        "group": both,
        "int8": both / 2 + needs.expert_gib / 2,
        "fp8": both / 2 + needs.expert_gib / 2,
    }
    # Apple's GPU shares main memory: nothing is gained by moving weights out of it, only by making them smaller.
    order = ("none", "int8") if machine.kind == "mps" else ("none", "model", "group", "int8")
    fits = [mode for mode in order if device_needs[mode] <= 0.95 * machine.free_gib and host_needs[mode] <= 0.95 * machine.host_free_gib]
    mode = offload if offload != "auto" else next(iter(fits), None)
    if mode is None:
        least = min(order, key=lambda m: device_needs[m])
        raise OutOfMemory(
            "diffusion-memory",
            f"The model needs at least {device_needs[least]:.0f} GiB of GPU memory and {host_needs[least]:.0f} GiB of "
            f"main memory; {machine.free_gib:.0f} and {machine.host_free_gib:.0f} GiB are free.",
            "Use fill.detail=480p, the smaller fill.vace_model, or close other programs.",
        )
    left = 0.95 * machine.free_gib - (both if mode == "none" else 2.0 if mode == "group" else 0.0)
    tile_px = None if autoencoder_work_gib + needs.autoencoder_gib <= left else 256
    why = "asked for" if offload != "auto" else f"needs {device_needs[mode]:.1f} of {machine.free_gib:.1f} GiB free on the device"
    return Policy(mode, machine.kind, torch.bfloat16, tile_px, why)


def settle(model: Any, policy: Policy, attention: str, compile_blocks: bool) -> list[str]:
    """Bring a loaded expert, its adapters merged, into the form and place the policy wants; returns what was
    announced.
    """
    if policy.mode in ("int8", "fp8"):
        quantize(model, policy.mode)
    if policy.mode == "none":
        model.to(policy.device)
    if compile_blocks and policy.mode == "group":
        said = speed_up(model, attention, False)
        said.append("blocks that stream through the device are not compiled")
        log.warning("video diffusion: %s", said[-1])
        return said
    return speed_up(model, attention, compile_blocks)


class Residence:
    """Keeps each model of a set where the policy wants it. One at a time is in use."""

    def __init__(self, policy: Policy, models: dict[str, Any]) -> None:
        self._policy, self._models = policy, models
        self._inside: str | None = None
        with memory_errors("The video diffusion model", _LESS_MEMORY):
            if policy.mode == "none":
                for model in models.values():
                    model.to(policy.device)
            elif policy.mode == "group":
                _stream_blocks({name: model for name, model in models.items() if name != "autoencoder"}, policy.device)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[Any]:
        """The named model, ready on the device; it stays there until another is needed.

        Raises: OutOfMemory; what did not fit is back in main memory then.
        """
        with memory_errors("Generating", _LESS_MEMORY):
            if self._policy.mode != "none" and self._inside != name:
                leaving, self._inside = self._inside, None
                if leaving is not None and not self._streams(leaving):
                    self._models[leaving].to("cpu")
                if not self._streams(name):
                    try:
                        self._models[name].to(self._policy.device)
                    except Exception:
                        self._models[name].to("cpu")
                        raise
                self._inside = name
            yield self._models[name]

    def _streams(self, name: str) -> bool:
        return self._policy.mode == "group" and name != "autoencoder"


def _stream_blocks(models: dict[str, Any], device: str) -> None:
    import psutil
    from diffusers.hooks import apply_group_offloading

    pages = [_page_locked_bytes(model) for model in models.values()]
    # A model's first copy goes when all of it is page-locked; the last one's is still there at the peak.
    freed = sum(parameter.nbytes for model in list(models.values())[:-1] for parameter in model.parameters())
    is_tight = sum(pages) - freed > 0.9 * psutil.virtual_memory().available
    for model in models.values():
        apply_group_offloading(
            model,
            onload_device=torch.device(device),
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device == "cuda",
            low_cpu_mem_usage=device == "cuda" and is_tight,
        )


def _page_locked_bytes(model: Any) -> int:
    """What a model takes in page-locked memory, from which blocks stream fastest: torch rounds every tensor up to a power of
    two."""
    return sum(1 << max(0, parameter.nbytes - 1).bit_length() for parameter in model.parameters())


def quantize(model: Any, mode: str) -> None:
    """Weights to int8 or fp8 in place, compute stays in bf16. Adapters must have been merged before.

    Raises: SetupError `torchao-missing`.
    """
    require_quantizer(mode)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig() if mode == "int8" else Float8WeightOnlyConfig())


def speed_up(model: Any, attention: str, compile_blocks: bool) -> list[str]:
    """Choose the attention back end and compile the repeated blocks; returns what was announced.

    attention: "auto" keeps PyTorch's own. What cannot be had is announced and left as it was: the result is the same
    picture, later.
    """
    said = []
    if attention != "auto":
        try:
            model.set_attention_backend(attention)
            said.append(f"attention back end {attention}")
        except (RuntimeError, ValueError, ImportError) as error:
            said.append(f"attention back end {attention} cannot be used ({str(error).splitlines()[0]}); PyTorch's own is")
            model.set_attention_backend("native")
    if compile_blocks:
        try:
            model.compile_repeated_blocks(fullgraph=True)
            said.append("blocks are compiled at their first use")
        except (RuntimeError, ValueError, ImportError) as error:
            said.append(f"blocks cannot be compiled ({str(error).splitlines()[0]})")
    for line in said:
        log.warning("video diffusion: %s", line)
    return said
