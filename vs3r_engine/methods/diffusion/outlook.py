# SPDX-License-Identifier: Apache-2.0
"""What video diffusion would do on this machine, for `doctor`: what is installed, and where the weights would live."""

from vs3r_engine.errors import VS3RError
from vs3r_engine.methods import dvdm, vace
from vs3r_engine.methods.diffusion import memory, random_weights
from vs3r_engine.settings import Settings

_SIZES_GIB = {
    "dvdm": (26.6, 2, random_weights.A14B),
    "vace 1.3b": (4.0, 1, random_weights.B1_3),
    "vace 14b": (32.3, 1, random_weights.A14B),
}
"""bf16 weights of one expert, experts, configuration."""


def outlook(settings: Settings) -> dict[str, tuple[str, str]]:
    """By completer ("dvdm", "vace 1.3b", "vace 14b"): (what is missing, or "ready"; where its weights would live and
    why).
    """
    report = {}
    for name, (expert_gib, experts, shape) in _SIZES_GIB.items():
        module, _, model = name.partition(" ")
        chosen = settings.with_values({"fill.vace_model": model or settings.fill.vace_model, "fill.sampler": "vs3r"})
        try:
            (dvdm if module == "dvdm" else vace).preflight(chosen)
            state = "ready"
        except VS3RError as error:
            state = f"{error.message} {error.hint}"
        own = "720p" if module == "dvdm" else vace.OWN_DETAIL[model]
        area = dvdm.area_px(chosen.fill, own)
        hidden = shape["num_attention_heads"] * shape["attention_head_dim"]
        work = memory.working_gib(16, area // 16, chosen.fill.window_frames, hidden, shape["ffn_dim"])
        try:
            machine = memory.this_machine(chosen.analysis.device)
            needs = memory.Footprint(expert_gib, experts, 0.5, work)
            policy = memory.choose(chosen.fill.offload, machine, needs, memory.autoencoder_working_gib(1, area))
            tiles = f", autoencoder in tiles of {policy.tile_px} px" if policy.tile_px else ""
            where = f"{policy.mode} on {policy.device}, {str(policy.dtype).removeprefix('torch.')}{tiles}: {policy.reason}"
        except VS3RError as error:
            where = f"{error.message} {error.hint}"
        report[name] = (state, where)
    return report
