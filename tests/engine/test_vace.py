# SPDX-License-Identifier: Apache-2.0
"""The zero-shot completer: what it is told about holes, and that it samples as the library's own pipeline does."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from vs3r_engine.methods import vace  # noqa: E402
from vs3r_engine.methods.diffusion import memory, random_weights, sampling, wan  # noqa: E402

HEIGHT, WIDTH, FRAMES = 32, 48, 17


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ready() -> wan.Wan:
    models = {"high": random_weights.vace_transformer(1), "autoencoder": random_weights.autoencoder(2)}
    policy = memory.Policy("none", "cpu", torch.float32, None, "")
    return wan.Wan(policy, memory.Residence(policy, models), random_weights.prompt(3), random_weights.prompt(4))


def streams(holes: np.ndarray):
    pictures = torch.rand(FRAMES, 1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return pictures, lambda: iter(pictures), lambda: iter(holes)


def test_a_group_of_four_frames_has_the_union_of_their_holes_dilated():
    holes = np.zeros((9, HEIGHT, WIDTH), bool)
    holes[0, 4, 4] = holes[2, 20, 20] = holes[4, 20, 40] = True
    masks = list(vace.group_masks(holes))
    assert len(masks) == 3
    assert masks[0][4, 4] and masks[0][4, 5] and not masks[0][20, 20]
    assert masks[1][20, 20] and masks[1][20, 40] and not masks[1][4, 4] and not masks[1][20, 30]
    assert not masks[2].any()


def test_what_is_missing_is_grey_in_every_frame_of_its_group_and_marked(ready, monkeypatch):
    holes = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    holes[6, 8:24, 8:24] = True
    told = []
    monkeypatch.setattr(wan.Wan, "encode", lambda self, pictures: told.extend(pictures()) or torch.zeros(2, 16, 5, 4, 6))
    pictures, picture_stream, hole_stream = streams(holes)
    condition, _ = vace.VaceModel(ready).condition(picture_stream, hole_stream)
    for frame in (5, 6, 7, 8):
        kept, replaced = told[frame]
        assert (kept[:, 8:24, 8:24] == 0).all() and (replaced == 0).all()
        assert torch.equal(kept[:, :4], pictures[frame, 0, :, :4])
    assert torch.equal(told[4][0], pictures[4, 0]) and torch.equal(told[9][0], pictures[9, 0])
    cells = condition[32:]
    assert condition.shape == (96, 5, 4, 6)
    assert (cells[:, 2, 1:3, 1:3] == 1).all() and (cells[:, [0, 1, 3, 4]] == 0).all() and (cells[:, 2, :, 5] == 0).all()


def test_sampling_is_the_pipelines_own_when_one_window_covers_the_clip(ready):
    """Against diffusers' WanVACEPipeline with the same video and a still mask: no difference."""
    from diffusers import UniPCMultistepScheduler, WanVACEPipeline

    holes = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    holes[:, :, :11] = True
    pictures, picture_stream, hole_stream = streams(holes)
    model = vace.VaceModel(ready)
    condition, given = model.condition(picture_stream, hole_stream)
    noise = sampling.noise_for(5, 21, 5, (16, 4, 6), 7)
    ours = sampling.sample_together(
        noise,
        condition,
        given,
        None,
        [(0, 5)],
        model.predict,
        sampling.Request(sampling.Preset(4, "unipc", 3.0), boundary=None),
    )
    mask = next(vace.group_masks(holes))
    grey = torch.where(mask, torch.zeros(()), pictures[:, 0])
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanVACEPipeline(None, None, ready.residence._models["autoencoder"], solver, ready.residence._models["high"])
    pipeline.set_progress_bar_config(disable=True)
    # A video processor's input is [0, 1]; its own scaling back to [-1, 1] costs one rounding.
    theirs = pipeline(
        video=(grey / 2 + 0.5)[None],
        mask=mask.float().expand(FRAMES, 1, HEIGHT, WIDTH)[None],
        prompt_embeds=ready.prompt,
        negative_prompt_embeds=ready.negative,
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=4,
        guidance_scale=vace.GUIDANCE,
        latents=noise[None],
        output_type="latent",
    ).frames[0]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max(), (ours - theirs).abs().max()
