# SPDX-License-Identifier: Apache-2.0
"""The fixed prompt's embedding, made once per installation so that the 11 GB text encoder is never loaded to work."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vs3r_engine.errors import SetupError

if TYPE_CHECKING:
    import torch

PROMPT = "high quality video, clean, stable, 3d render, point cloud restoration"
"""The authors' only prompt (the global semantic stream of section 3.4)."""
NEGATIVE = (
    "blurry, low quality, jpeg artifacts, overexposed, static, gray, subtitles, watermark, text, black borders, "
    "distorted, deformed, ghosting, flicker"
)
"""What guidance steers away from. Only `vace` is guided."""
FILE_NAME = "prompt.safetensors"


def encode(tokenizer: Any, encoder: Any, prompt: str, mode: str) -> "torch.Tensor":
    """[tokens, text_dim] embedding of one prompt.

    mode "vs3r": as the authors encode it: 226 tokens, no attention mask, padding left as the encoder made it.
    mode "diffusers": as Wan's pipelines do: 512 tokens, masked, padding zeroed. The two differ by 13 % in velocity,
    so a model must be run with the one it was trained with.
    """
    import torch

    tokens = tokenizer(
        [prompt],
        padding="max_length",
        max_length=226 if mode == "vs3r" else 512,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    ids, mask = tokens.input_ids, tokens.attention_mask
    with torch.no_grad():
        if mode == "vs3r":
            return encoder(ids).last_hidden_state[0]
        return (encoder(ids, mask).last_hidden_state * mask[..., None].to(encoder.dtype))[0]


def prepare(directory: Path, tell: Callable[[str], None]) -> Path:
    """Write `directory`/prompt.safetensors: the fixed prompt in both modes, and the negative prompt; returns its path.

    directory: an installed Wan model, with `tokenizer` and `text_encoder`. Raises: SetupError `text-encoder`.
    """
    import torch
    from safetensors.torch import save_file

    tell("loading the text encoder (11 GB)")
    tokenizer, encoder = load_encoder(directory)
    state = {"negative": encode(tokenizer, encoder, NEGATIVE, "diffusers")}
    for mode in ("vs3r", "diffusers"):
        tell(f"encoding the prompt as {mode} does")
        state[mode] = encode(tokenizer, encoder, PROMPT, mode)
    partial = directory / (FILE_NAME + ".part")
    half = {key: value.to(torch.bfloat16).contiguous() for key, value in state.items()}
    save_file(half, partial, metadata={"prompt": PROMPT, "negative": NEGATIVE})
    partial.replace(directory / FILE_NAME)
    return directory / FILE_NAME


def load_encoder(weights: Path) -> tuple[Any, Any]:
    """(tokenizer, UMT5 encoder in bf16). Raises: SetupError `text-encoder`."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, UMT5EncoderModel

    load: Any = UMT5EncoderModel.from_pretrained
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(weights), subfolder="tokenizer", local_files_only=True)
        encoder, found = load(str(weights), subfolder="text_encoder", local_files_only=True, dtype=torch.bfloat16, output_loading_info=True)
        if missing := found["missing_keys"]:
            raise ValueError(f"it lacks {len(missing)} of the model's tensors, such as {min(missing)}.")
    except (OSError, ValueError, SafetensorError) as error:
        raise SetupError(
            "text-encoder",
            f"The text encoder in {weights} cannot be loaded: {error}",
            "`vs3r-engine weights verify` says what is wrong.",
        ) from error
    return tokenizer, encoder.eval()


def require(folder: Path) -> None:
    """Raises: SetupError `prompt-not-prepared`. Reads nothing."""
    if not (folder / FILE_NAME).exists():
        raise _not_prepared(folder)


def _not_prepared(folder: Path) -> SetupError:
    return SetupError(
        "prompt-not-prepared",
        f"The prompt of the weights {folder.name} has not been prepared (once, some minutes).",
        f"Run `vs3r-engine weights prepare {folder.name}`.",
    )


def load(folder: Path) -> "dict[str, torch.Tensor]":
    """{"vs3r" | "diffusers" | "negative": [1, tokens, text_dim]}. Raises: SetupError `prompt-not-prepared`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {key: value[None] for key, value in load_file(folder / FILE_NAME).items()}
    except (OSError, SafetensorError) as error:
        raise _not_prepared(folder) from error
