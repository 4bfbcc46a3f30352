# SPDX-License-Identifier: Apache-2.0
"""The fixed prompt, encoded once in both ways, on a tiny text encoder of the real class."""

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from vs3r_engine.errors import SetupError  # noqa: E402
from vs3r_engine.methods.diffusion import random_weights, text  # noqa: E402


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("wan")
    words = sorted(set(f"{text.PROMPT} {text.NEGATIVE}".replace(",", " , ").split()))
    tokenizer = Tokenizer(Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)], 2))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_the_prepared_prompt_holds_both_encodings_and_they_differ(encoder_folder):
    told = []
    with pytest.raises(SetupError, match="prompt-not-prepared"):
        text.require(encoder_folder)
    path = text.prepare(encoder_folder, told.append)
    text.require(encoder_folder)
    prompts = text.load(encoder_folder)
    assert path == encoder_folder / "prompt.safetensors" and len(told) == 3
    assert {key: tuple(value.shape) for key, value in prompts.items()} == {
        "vs3r": (1, 226, 16),
        "diffusers": (1, 512, 16),
        "negative": (1, 512, 16),
    }
    words = int(prompts["diffusers"][0].any(dim=1).sum())
    assert 10 < words < 20 and prompts["vs3r"][0].any(dim=1).all()
    assert not torch.allclose(prompts["vs3r"][0, 0].float(), prompts["diffusers"][0, 0].float(), rtol=0.01)
    assert not torch.equal(prompts["diffusers"], prompts["negative"])


def test_the_diffusers_encoding_is_the_pipelines_own(encoder_folder):
    pytest.importorskip("ftfy")  # the pipeline's own cleaning needs it; ours takes the prompt as it is
    from diffusers import WanVACEPipeline

    tokenizer, encoder = text.load_encoder(encoder_folder)
    pipeline = WanVACEPipeline(tokenizer, encoder, random_weights.autoencoder(1), None, random_weights.vace_transformer(1))
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(text.PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    assert torch.equal(text.encode(tokenizer, encoder, text.PROMPT, "diffusers"), theirs[0])


def test_a_broken_text_encoder_is_said(encoder_folder, tmp_path):
    with pytest.raises(SetupError, match="text-encoder"):
        text.prepare(tmp_path, lambda told: None)
    whole = load_file(encoder_folder / "text_encoder" / "model.safetensors")
    for name in ("cut short", "tensors missing"):
        folder = shutil.copytree(encoder_folder, tmp_path / name)
        path = folder / "text_encoder" / "model.safetensors"
        if name == "cut short":
            path.write_bytes(path.read_bytes()[:-10])
        else:
            save_file({key: tensor for key, tensor in whole.items() if "SelfAttention" not in key}, path, {"format": "pt"})
        with pytest.raises(SetupError, match="text-encoder"):
            text.prepare(folder, lambda told: None)
