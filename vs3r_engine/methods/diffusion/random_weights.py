# SPDX-License-Identifier: Apache-2.0
"""Randomly initialised models of the very classes that the real weights fill: tiny ones for tests, full-size ones for
measuring time and memory. What they paint is noise, and everything around them runs as it does with real weights."""

from collections.abc import Callable
from typing import Any

import torch

from vs3r_engine.methods.diffusion import memory

TEXT_DIM, TOKENS = 16, 6
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "out_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
A14B = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
}
B1_3 = {**A14B, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
"""The published configurations of Wan2.2-A14B (and Wan2.1-14B) and Wan2.1-1.3B."""
_DRAWN = 16_777_213
"""Numbers drawn for a large model; a prime, so that no two rows of a matrix are the same."""
VACE_LAYERS = {"1.3b": list(range(0, 30, 2)), "14b": list(range(0, 40, 5))}


def expert(seed: int, small: bool = True, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """WanTransformer3DModel with 36 input channels: 0.04 M parameters when small, else 14.29 B."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    return _made(lambda: WanTransformer3DModel(in_channels=36, **(TINY if small else A14B)), seed, small, device, dtype)


def vace_transformer(seed: int, model: str = "1.3b", small: bool = True, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """WanVACETransformer3DModel with 96 control channels: 0.07 M parameters when small, else 2.15 B or 17.34 B."""
    from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

    shape = TINY if small else {"1.3b": B1_3, "14b": A14B}[model]
    layers = [0, 1] if small else VACE_LAYERS[model]
    return _made(
        lambda: WanVACETransformer3DModel(in_channels=16, vace_in_channels=96, vace_layers=layers, **shape),
        seed,
        small,
        device,
        dtype,
    )


def autoencoder(seed: int, small: bool = True, device: str = "cpu") -> Any:
    """AutoencoderKLWan in fp32, 16 latent channels, strides 4, 8, 8: 0.02 M parameters when small, else 127 M."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    shape = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} if small else {}
    return _made(lambda: AutoencoderKLWan(z_dim=16, **shape), seed, small, device, torch.float32)


def prompt(seed: int, small: bool = True) -> torch.Tensor:
    """[1, tokens, text_dim]: a stand-in for an encoded prompt."""
    return torch.randn(
        1,
        TOKENS if small else 226,
        TEXT_DIM if small else A14B["text_dim"],
        generator=torch.Generator().manual_seed(seed),
    )


def dvdm(
    seed: int, small: bool, offload: str, machine: memory.Machine, area_px: int, window_frames: int
) -> tuple[memory.Policy, dict[str, Callable[[], Any]], Any, torch.Tensor]:
    """(policy, what makes each expert, autoencoder, prompt)."""
    policy = _policy(offload, machine, small, 2, 28.6, area_px, window_frames, A14B)
    device = policy.device if policy.mode == "none" else "cpu"
    make: dict[str, Callable[[], Any]] = {
        "high": lambda: expert(seed, small, device, policy.dtype),
        "low": lambda: expert(seed + 1, small, device, policy.dtype),
    }
    return policy, make, autoencoder(seed + 2, small, device), prompt(seed, small)


def vace(
    seed: int, small: bool, model: str, offload: str, machine: memory.Machine, area_px: int, window_frames: int
) -> tuple[Any, Any, Any, torch.Tensor, torch.Tensor]:
    """(policy, transformer, autoencoder, prompt, negative prompt)."""
    policy = _policy(
        offload,
        machine,
        small,
        1,
        {"1.3b": 4.3, "14b": 34.7}[model],
        area_px,
        window_frames,
        {"1.3b": B1_3, "14b": A14B}[model],
    )
    device = policy.device if policy.mode == "none" else "cpu"
    return (
        policy,
        vace_transformer(seed, model, small, device, policy.dtype),
        autoencoder(seed + 2, small, device),
        prompt(seed, small),
        prompt(seed + 1, small),
    )


def _policy(
    offload: str,
    machine: memory.Machine,
    small: bool,
    experts: int,
    expert_gb: float,
    area_px: int,
    window_frames: int,
    shape: dict[str, int],
) -> memory.Policy:
    if small:
        machine = memory.Machine("cpu", machine.host_free_gib, machine.host_free_gib)
        return memory.choose(offload, machine, memory.Footprint(0, experts, 0, 0), 0)
    hidden = shape["num_attention_heads"] * shape["attention_head_dim"]
    work = memory.working_gib(16, area_px // 16, window_frames, hidden, shape["ffn_dim"])
    needs = memory.Footprint(expert_gb * 1e9 / 2**30, experts, 0.5, work)
    return memory.choose(offload, machine, needs, memory.autoencoder_working_gib(1, area_px))


def _made(build: Callable[[], Any], seed: int, small: bool, device: str, dtype: torch.dtype) -> Any:
    """The model with seeded weights. In large ones numbers repeat: to draw 14 B on a CPU takes minutes."""
    if small:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build().eval().requires_grad_(False)
    with torch.device("meta"):
        model = build()
    kept = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    drawn = torch.randn(_DRAWN, generator=torch.Generator(device).manual_seed(seed), device=device) * 0.02
    state = {}
    for name, like in model.state_dict().items():
        numbers = drawn.to(torch.float32 if any(part in name for part in kept) else dtype)
        times, rest = divmod(like.numel(), _DRAWN)
        state[name] = torch.cat([numbers] * times + [numbers[:rest]]).view(like.shape)
    model.load_state_dict(state, assign=True)
    if hasattr(model, "rope"):
        # Position tables are buffers: computed, not learned, and not there yet.
        rope = type(model.rope)(model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len)
        model.rope = rope.to(device)
    return model.eval().requires_grad_(False)
