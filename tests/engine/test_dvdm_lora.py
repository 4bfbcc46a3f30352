# SPDX-License-Identifier: Apache-2.0
"""Adapters: every layout in use loads without a difference, every wrong file is refused, full-size counts are right."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from safetensors.torch import save_file  # noqa: E402

from vs3r_engine.errors import InputError  # noqa: E402
from vs3r_engine.methods.diffusion import lora, random_weights  # noqa: E402

ORIGINAL = {new: old for old, new in lora._NAMES.items()}
EXPERTS = (lora.HIGH, lora.LOW)


def trained(seed: int, rank: int = 4, alpha: float = 4):
    """A tiny expert with a non-zero adapter called "default", as training leaves it."""
    model = random_weights.expert(1)
    model.add_adapter(lora.config(rank, alpha, 0.0), "default")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def velocity(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(1, 36, 2, 4, 4, generator=generator), torch.tensor([500.0]), random_weights.prompt(0)).sample


def halves(model) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """diffusers' module name -> (down, up)."""
    return {
        name: (module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach())
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and module.lora_A
    }


def original_name(module: str) -> str:
    block, _, layer = module.removeprefix("blocks.").partition(".")
    return f"blocks.{block}.{ORIGINAL[layer]}"


def write_diffusers(folder: Path, models) -> None:
    for expert, model in zip(EXPERTS, models, strict=True):
        lora.save(folder, expert, model, "default")


def write_peft(folder: Path, models, high: str) -> None:
    for place, model in zip((folder / high, folder / "transformer_2"), models, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        state = {
            f"base_model.model.{name}.lora_{side}.weight": tensor.contiguous()
            for name, pair in halves(model).items()
            for side, tensor in zip("AB", pair, strict=True)
        }
        save_file(state, place / "adapter_model.safetensors")
        settings = model.peft_config["default"].to_dict() | {"target_modules": list(lora.TARGETS)}
        (place / "adapter_config.json").write_text(json.dumps(settings, default=str))


def write_original(folder: Path, models, up_down: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for expert, model in zip(EXPERTS, models, strict=True):
        state = {}
        for name, (down, up) in halves(model).items():
            key = f"diffusion_model.{original_name(name)}"
            sides = ("lora_down", "lora_up") if up_down else ("lora_A", "lora_B")
            state |= {f"{key}.{sides[0]}.weight": down.contiguous(), f"{key}.{sides[1]}.weight": up.contiguous()}
            if up_down:
                state[f"{key}.alpha"] = torch.tensor(float(model.peft_config["default"].lora_alpha))
        save_file(state, folder / f"{expert}_noise_model.safetensors")


def write_musubi(folder: Path, models) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for expert, model in zip(EXPERTS, models, strict=True):
        state = {}
        for name, (down, up) in halves(model).items():
            key = "lora_unet_" + original_name(name).replace(".", "_")
            state |= {
                f"{key}.lora_down.weight": down.contiguous(),
                f"{key}.lora_up.weight": up.contiguous(),
                f"{key}.alpha": torch.tensor(float(model.peft_config["default"].lora_alpha)),
            }
        save_file(state, folder / f"stab_{expert}.safetensors")


def write_diffsynth(folder: Path, models) -> None:
    for expert, model in zip(EXPERTS, models, strict=True):
        (folder / f"{expert}_noise").mkdir(parents=True, exist_ok=True)
        state = {
            f"{original_name(name)}.lora_{side}.default.weight": tensor.contiguous()
            for name, pair in halves(model).items()
            for side, tensor in zip("AB", pair, strict=True)
        }
        save_file(state, folder / f"{expert}_noise" / "epoch-4.safetensors")


LAYOUTS = {
    "diffusers": (write_diffusers, 8),
    "authors' training folder": (lambda folder, models: write_peft(folder, models, "."), 8),
    "authors' inference folder": (lambda folder, models: write_peft(folder, models, "transformer"), 8),
    "original names, A and B": (lambda folder, models: write_original(folder, models, False), 4),
    "original names, down, up and alpha": (lambda folder, models: write_original(folder, models, True), 8),
    "musubi": (write_musubi, 8),
    "DiffSynth": (write_diffsynth, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_into_both_experts_without_a_difference(layout, tmp_path):
    write, alpha = LAYOUTS[layout]
    models = [trained(seed, alpha=alpha) for seed in (1, 2)]
    write(tmp_path / "lora", models)
    for expert, model in zip(EXPERTS, models, strict=True):
        adapter, there = lora.read(lora.find(tmp_path / "lora")[expert]), halves(model)
        assert adapter.layers.keys() == there.keys()
        for name, layer in adapter.layers.items():
            assert torch.equal(layer.down, there[name][0]) and torch.equal(layer.up, there[name][1]) and layer.alpha == alpha
        loaded = random_weights.expert(1)
        lora.merge(loaded, adapter)
        torch.testing.assert_close(velocity(loaded), velocity(model), atol=1e-5, rtol=0)
        assert (velocity(loaded) - velocity(random_weights.expert(1))).abs().max() > 1e-3


def test_what_we_save_loads_through_diffusers_itself_without_a_difference(tmp_path):
    from diffusers import WanImageToVideoPipeline

    models = [trained(seed, rank=4, alpha=8) for seed in (1, 2)]
    write_diffusers(tmp_path, models)
    pipeline = WanImageToVideoPipeline(
        None,
        None,
        random_weights.autoencoder(1),
        None,
        transformer=random_weights.expert(1),
        transformer_2=random_weights.expert(1),
        boundary_ratio=0.9,
    )
    for expert, is_low in zip(EXPERTS, (False, True), strict=True):
        pipeline.load_lora_weights(str(tmp_path), weight_name=lora.FILE_NAMES[expert], adapter_name="dvdm", load_into_transformer_2=is_low)
    assert set(pipeline.get_list_adapters()) == {"transformer", "transformer_2"}
    assert (velocity(pipeline.transformer) - velocity(models[0])).abs().max() == 0.0
    assert (velocity(pipeline.transformer_2) - velocity(models[1])).abs().max() == 0.0


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_adapters_stack_and_merge_into_the_weights(tmp_path):
    """As diffusers adds them while it computes."""
    from diffusers import WanImageToVideoPipeline

    write_diffusers(tmp_path / "a", [trained(1), trained(2)])
    write_original(tmp_path / "b", [trained(3, alpha=8), trained(4, alpha=8)], True)
    stacked, merged = random_weights.expert(1), random_weights.expert(1)
    pipeline = WanImageToVideoPipeline(None, None, random_weights.autoencoder(1), None, transformer=stacked)
    for name in ("a", "b"):
        file = lora.find(tmp_path / name)[lora.HIGH]
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
        lora.merge(merged, lora.read(file))
    pipeline.set_adapters(["a", "b"])
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(velocity(merged), velocity(stacked), atol=1e-5, rtol=0)
    assert (velocity(merged) - velocity(random_weights.expert(1))).abs().max() > 1e-3


def test_an_adapter_is_rounded_once_where_the_weights_have_half_precision(tmp_path):
    files = both(tmp_path)
    exact, rounded = random_weights.expert(1).bfloat16().float(), random_weights.expert(1).bfloat16()
    for model in (exact, rounded):
        lora.merge(model, lora.read(files["high"]))
    for wanted, got in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(wanted.bfloat16(), got)


def refused(location, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        for path in lora.find(location).values():
            lora.merge(random_weights.expert(1), lora.read(path))
    assert caught.value.code == code, caught.value
    return caught.value


def both(tmp_path) -> dict[str, Path]:
    write_diffusers(tmp_path, [trained(1), trained(2)])
    return {expert: tmp_path / lora.FILE_NAMES[expert] for expert in EXPERTS}


def test_files_given_the_wrong_way_round_are_refused(tmp_path):
    files = both(tmp_path)
    refused(f"{files['low']};{files['high']}", "lora-wrong-expert")
    assert lora.find(f"{files['high']};{files['low']}") == files


def test_a_file_renamed_to_the_other_expert_is_refused(tmp_path):
    files = both(tmp_path)
    files["high"].rename(tmp_path / "spare")
    files["low"].rename(files["high"])
    (tmp_path / "spare").rename(files["low"])
    refused(tmp_path, "lora-wrong-expert")


def test_keys_of_the_second_transformer_in_the_first_expert_are_refused(tmp_path):
    state = {
        f"transformer_2.{name}.lora_{side}.weight": tensor.contiguous()
        for name, pair in halves(trained(1)).items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    save_file(state, tmp_path / "high_noise.safetensors")
    save_file({key: tensor + 1 for key, tensor in state.items()}, tmp_path / "low_noise.safetensors")
    refused(tmp_path, "lora-wrong-expert")


def test_one_file_for_both_experts_is_refused(tmp_path):
    files = both(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(files["high"].read_bytes())
    refused(files["high"], "lora-incomplete")
    write_musubi(tmp_path / "same", [trained(1), trained(1)])
    refused(tmp_path / "same", "lora-wrong-expert")


def test_a_missing_expert_is_refused(tmp_path):
    both(tmp_path)["low"].unlink()
    refused(tmp_path, "lora-incomplete")
    refused(tmp_path / "nowhere", "lora-missing")


def test_files_that_do_not_say_their_expert_are_refused(tmp_path):
    write_musubi(tmp_path, [trained(1), trained(2)])
    for expert in EXPERTS:
        (tmp_path / f"stab_{expert}.safetensors").rename(tmp_path / f"epoch{len(expert)}.safetensors")
    assert "semicolon" in refused(tmp_path, "lora-ambiguous").hint


def test_an_adapter_of_another_model_is_refused(tmp_path):
    files = both(tmp_path)
    for path in files.values():
        with lora_file(path) as (state, metadata):
            for key in list(state):
                if "attn1.to_q.lora_A" in key:
                    state[key] = torch.zeros(4, 48)
            save_file(state, path, metadata)
    assert "48 to 32" in refused(tmp_path, "lora-mismatch").message


def test_layers_the_model_does_not_have_are_refused(tmp_path):
    files = both(tmp_path)
    with lora_file(files["high"]) as (state, metadata):
        save_file({key.replace("blocks.1.", "blocks.7."): tensor for key, tensor in state.items()}, files["high"], metadata)
    assert "blocks.7" in refused(tmp_path, "lora-mismatch").message


def test_an_adapter_that_would_change_nothing_is_refused(tmp_path):
    files = both(tmp_path)
    with lora_file(files["high"]) as (state, metadata):
        save_file(
            {key: torch.zeros_like(tensor) if "lora_B" in key else tensor for key, tensor in state.items()},
            files["high"],
            metadata,
        )
    refused(tmp_path, "lora-no-effect")


@pytest.mark.parametrize("spoil", ["half", "diff", "nothing", "garbage"])
def test_what_is_not_a_whole_lora_is_refused(spoil, tmp_path):
    files = both(tmp_path)
    with lora_file(files["low"]) as (state, metadata):
        if spoil == "half":
            state.pop(next(key for key in state if "lora_B" in key))
        elif spoil == "diff":
            state["transformer.blocks.0.norm1.diff"] = torch.zeros(3)
        elif spoil == "nothing":
            state = {"blocks.0.attn1.to_q.weight": torch.zeros(3)}
        save_file(state, files["low"], metadata)
    if spoil == "garbage":
        files["low"].write_bytes(b"not tensors")
    refused(tmp_path, "lora-unreadable" if spoil == "garbage" else "lora-unsupported")


class lora_file:  # noqa: N801 - reads as a function
    """The tensors and metadata of a file."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        self.state = load_file(path)
        with safe_open(path, "pt") as stored:
            self.metadata = stored.metadata()

    def __enter__(self):
        return self.state, self.metadata

    def __exit__(self, *exception) -> None:
        return None


def test_the_published_adapter_has_its_published_size():
    """r = 32 on the six targets of every block: 400 layers, 153.35 M parameters per expert, none outside the blocks."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(in_channels=36, **random_weights.A14B)
        model.requires_grad_(False).add_adapter(lora.config())
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    layers = {name.split(".lora_")[0] for name in trainable}
    assert len(layers) == 400 and all(name.startswith("blocks.") for name in layers)
    assert round(sum(trainable.values()) / 1e6, 2) == 153.35
