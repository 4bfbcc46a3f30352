# SPDX-License-Identifier: Apache-2.0
"""The dual-stream video diffusion model, end to end, on tiny models of the real classes."""

import dataclasses
import subprocess
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from vs3r_engine.camera import Camera  # noqa: E402
from vs3r_engine.errors import InputError, OutOfMemory, SettingsError, SetupError, WeightsMissing  # noqa: E402
from vs3r_engine.frame import ColourTags, Frame, PixelLayout  # noqa: E402
from vs3r_engine.methods import dvdm, vace, weights  # noqa: E402
from vs3r_engine.methods.diffusion import autoencoder, memory, random_weights, sampling, shots, wan  # noqa: E402
from vs3r_engine.scene import Rendered, Target  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402
from vs3r_engine.stages import composite  # noqa: E402

RANDOM = {"fill.weights": "random:7:small", "fill.lora": "none"}
YUV420 = PixelLayout("yuv", 8, 1, 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class NoViews:
    """Views of a source in which nothing but cuts is known: the previous frame is in view unless a cut is between."""

    def __init__(self, cuts: tuple[int, ...] = ()) -> None:
        self.cuts, self.now = cuts, 0

    def view(self, frame_index: int):
        return None if frame_index + 1 in self.cuts else object()


def rendered_frames(count: int, width: int = 46, height: int = 30, first: int = 0, holes: bool = True) -> Iterator[Rendered]:
    rng = np.random.default_rng(11)
    base = rng.uniform(0.2, 0.8, (height, width, 3)).astype(np.float32)
    for i in range(first, first + count):
        empty = tuple(np.zeros(YUV420.plane_shape(p, width, height), np.uint8) for p in range(3))
        hole = np.zeros((height, width), bool)
        if holes:
            hole[:, : 6 + i % 3] = True
        picture = np.roll(base, i, axis=1)
        picture[hole] = 0
        frame = Frame(i, empty, YUV420, ColourTags(1, 1, 1)).with_rgb(picture)
        yield Rendered(frame, hole, Target(i, Camera(np.eye(3), width, height, np.eye(4)), None))


def completed(count: int, completer=dvdm.DvdmCompleter, views=None, frames=None, **values) -> list[Frame]:
    settings = Settings().with_values(RANDOM | {"fill.window_frames": 21, "fill.overlap_frames": 4} | values)
    frames = rendered_frames(count) if frames is None else frames
    return list(completer(settings).complete(frames, views or NoViews()))


def same(a: list[Frame], b: list[Frame]) -> bool:
    return len(a) == len(b) and all((p == q).all() for x, y in zip(a, b, strict=True) for p, q in zip(x.planes, y.planes, strict=True))


@pytest.mark.parametrize("count", [1, 4, 5, 80, 81, 82, 200])
def test_every_length_comes_out_with_its_own_frames(count, monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=2))
    frames = completed(count, **{"fill.window_frames": 81, "fill.overlap_frames": 20})
    assert [frame.frame_index for frame in frames] == list(range(count))
    assert {(frame.width, frame.height) for frame in frames} == {(46, 30)}
    for one, frame in zip(rendered_frames(count), frames, strict=True):
        np.testing.assert_array_equal(frame.planes[0][:, 14:], one.frame.planes[0][:, 14:])
        assert (frame.planes[0][:, :5] != one.frame.planes[0][:, :5]).any()


@pytest.mark.parametrize("completer", [dvdm.DvdmCompleter, vace.VaceCompleter])
@pytest.mark.parametrize("blending", ["per-step", "cross-fade"])
def test_equal_seeds_give_identical_frames_and_others_do_not(completer, blending, monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=3))
    first, again, other = (completed(30, completer, **{"fill.blending": blending, "fill.seed": seed}) for seed in (3, 3, 4))
    assert same(first, again) and not same(first, other)


def test_the_model_is_told_36_channels_bit_for_bit(monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=1))
    told = []
    original = wan.Wan.velocity
    monkeypatch.setattr(
        wan.Wan,
        "velocity",
        lambda self, expert, latents, *rest: told.append(latents.clone()) or original(self, expert, latents, *rest),
    )
    completed(17, frames=list(rendered_frames(17, 48, 32)))
    (hidden,) = told
    pictures = []
    for one in rendered_frames(17, 48, 32):
        picture = np.where(one.hole_mask[..., None], 0.0, np.clip(one.frame.to_rgb(), 0, 1))
        pictures.append(torch.from_numpy(picture.astype(np.float16).astype(np.float32)).permute(2, 0, 1) * 2 - 1)
    vae = random_weights.autoencoder(9)
    with torch.no_grad():
        mode = vae.encode(torch.stack(pictures, 1)[None]).latent_dist.mode()[0]
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    noise = torch.randn(16, 5, 4, 6, generator=torch.Generator().manual_seed(42))
    assert hidden.shape == (36, 5, 4, 6)
    assert torch.equal(hidden[:16], noise)
    assert torch.equal(hidden[16:20], torch.ones(4, 5, 4, 6))
    assert torch.equal(hidden[20:], (mode - mean) * (1.0 / std))


@pytest.mark.parametrize(("sampler", "high"), [("vs3r", 15), ("vs3r-official", 4), ("fast", 2)])
def test_each_timestep_goes_to_its_expert(sampler, high, monkeypatch):
    used = []
    original = wan.Wan.velocity
    monkeypatch.setattr(
        wan.Wan,
        "velocity",
        lambda self, expert, latents, timestep, *rest: (
            used.append((expert, float(timestep))) or original(self, expert, latents, timestep, *rest)
        ),
    )
    completed(1, **{"fill.sampler": sampler})
    assert [expert for expert, _ in used] == ["high" if t >= 900 else "low" for _, t in used]
    assert sum(expert == "high" for expert, _ in used) == high
    assert len(used) == sampling.PRESETS[sampler].steps


def test_the_sampling_grids_are_wans_own_and_the_published_one():
    def grid(name):
        return np.array([float(t) for t in sampling.scheduler(sampling.PRESETS[name]).timesteps])

    u = 1 - np.arange(40) / 40
    assert np.abs(grid("vs3r") - 1000 * 5 * u / (1 + 4 * u)).max() < 3.5
    np.testing.assert_allclose(grid("fast"), [1000, 937.5, 833.333, 625], atol=0.01)
    np.testing.assert_allclose(grid("vs3r-official")[[0, -2, -1]], [1000, 26.6, 1], atol=0.1)


def test_sampling_is_the_pipelines_own_when_one_window_covers_the_clip():
    """Against diffusers' WanImageToVideoPipeline, told the same condition: no difference at all."""
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline

    experts, vae = [random_weights.expert(s) for s in (1, 2)], random_weights.autoencoder(3)
    generator = torch.Generator().manual_seed(0)
    noise, condition = torch.randn(16, 5, 4, 6, generator=generator), torch.randn(20, 5, 4, 6, generator=generator)

    class Told(WanImageToVideoPipeline):
        def prepare_latents(self, *args, **kwargs):
            return noise[None].clone(), condition[None]

    preset = sampling.Preset(6, "unipc", 5.0)
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    pipeline = Told(None, None, vae, solver, transformer=experts[0], transformer_2=experts[1], boundary_ratio=0.9)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        torch.zeros(1, 3, 32, 48),
        prompt_embeds=random_weights.prompt(1),
        num_frames=17,
        height=32,
        width=48,
        num_inference_steps=6,
        guidance_scale=1.0,
        output_type="latent",
    ).frames[0]

    def predict(is_high, timestep, latents, told):
        with torch.no_grad():
            return experts[0 if is_high else 1](
                hidden_states=torch.cat([latents, told])[None],
                timestep=timestep.expand(1),
                encoder_hidden_states=random_weights.prompt(1),
                return_dict=False,
            )[0][0]

    request = sampling.Request(preset)
    ours = sampling.sample_together(noise, condition, noise, None, [(0, 5)], predict, request)
    assert torch.equal(ours, theirs)
    assert torch.equal(sampling.sample_apart([noise], [condition], None, predict, request)[0], theirs)


def _inventing(is_high, timestep, latents, condition):
    """Velocity towards what a window invents from its own latents, place by place: a hole's content."""
    invented = torch.tanh(4 * latents.mean(dim=1, keepdim=True))
    return (latents - invented) / (timestep / 1000).clamp(min=1e-3)


def test_windows_that_agree_at_every_step_ghost_and_jump_less_than_cross_faded_ones():
    windows = [(0, 11), (8, 19)]
    request = sampling.Request(sampling.Preset(20, "euler", 5.0))
    left, jumps = [], []
    for seed in range(8):
        noise = torch.randn(4, 19, 4, 4, generator=torch.Generator().manual_seed(seed))
        condition = torch.zeros(1, 19, 4, 4)
        together = sampling.sample_together(noise, condition, noise, None, windows, _inventing, request)
        parts = [noise[:, a:b] for a, b in windows]
        apart = sampling.sample_apart(parts, [condition[:, a:b] for a, b in windows], None, _inventing, request)
        faded = torch.zeros_like(noise)
        for (a, b), share, part in zip(windows, composite.window_weights(windows, 19), apart, strict=True):
            faded[:, a:b] += torch.from_numpy(share)[None, :, None, None] * part
        left.append([float(z[:, 8:11].abs().mean()) for z in (together, faded)])
        jumps.append([float(z.diff(dim=1).abs().mean()) for z in (together, faded)])
    amplitude, jump = np.mean(left, axis=0), np.mean(jumps, axis=0)
    assert amplitude[0] > 1.05 * amplitude[1] and jump[0] < 0.85 * jump[1], (amplitude, jump)


def test_noise_is_one_tensor_and_every_window_sees_the_same_set():
    noise = sampling.noise_for(51, 21, 5, (2, 3, 3), 5)
    assert noise.shape == (2, 51, 3, 3)
    first = {tuple(noise[:, i].flatten().tolist()) for i in range(21)}
    for start in (16, 30):
        seen = {tuple(noise[:, i].flatten().tolist()) for i in range(start, start + 21)}
        assert seen == first if start == 16 else seen < first  # the last window is moved back into the one before
    assert torch.equal(noise[:, :21], sampling.noise_for(21, 21, 5, (2, 3, 3), 5))


def test_the_autoencoder_streams_to_the_last_bit():
    vae = random_weights.autoencoder(3)
    video = torch.rand(2, 3, 17, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        whole = (vae.encode(video).latent_dist.mode() - mean) * (1.0 / std)
        back = vae.decode(whole[:1] / (1.0 / std) + mean).sample[0]
    streamed = autoencoder.encode(vae, video.unbind(2))
    assert torch.equal(streamed, whole)
    assert torch.equal(torch.cat(list(autoencoder.decode_stream(vae, streamed[0]))), back.transpose(0, 1))


def test_tiles_blend_into_one_picture():
    vae = random_weights.autoencoder(3)
    flat = torch.full((1, 3, 48, 80), 0.25)
    whole = autoencoder.encode(vae, [flat] * 5)
    tiled = autoencoder.encode(vae, [flat] * 5, autoencoder.Tiling(32, 16))
    inner = (slice(None), slice(None), slice(None), slice(2, 4), slice(2, 8))
    assert tiled.shape == whole.shape and (tiled[inner] - whole[inner]).abs().mean() < 0.2 * whole[inner].abs().mean()
    assert torch.cat(list(autoencoder.decode_stream(vae, tiled[0], autoencoder.Tiling(32, 16)))).shape == (5, 3, 48, 80)


@pytest.mark.parametrize("tiling", [None, autoencoder.Tiling(32, 8)])
def test_the_autoencoder_runs_on_a_device_of_its_own(tiling):
    """On a device that only pretends: tensors have its name and no numbers, and mixing devices is an error as on a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        with torch.device("lazy"):
            vae = random_weights.autoencoder(3)
        latents = autoencoder.encode(vae, [torch.zeros(1, 3, 48, 64)] * 9, tiling)
        pictures = list(autoencoder.decode_stream(vae, latents[0], tiling))
    assert latents.shape == (1, 16, 3, 6, 8) and [len(part) for part in pictures] == [1, 4, 4]
    assert latents.device.type == pictures[-1].device.type == "cpu"


def test_a_shot_ends_at_a_cut_and_at_a_jump(monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=2))
    both = [*rendered_frames(6), *rendered_frames(7, first=6)]
    cut = completed(0, views=NoViews(cuts=(6,)), frames=both)
    alone = completed(0, frames=both[:6]) + completed(0, frames=both[6:])
    assert same(cut, alone) and not same(cut, completed(0, frames=both))
    jumped = [*both[:6], *rendered_frames(7, first=20)]
    assert same(completed(0, frames=jumped)[:6], alone[:6])


def test_frames_without_holes_stay_and_cost_nothing(monkeypatch):
    calls = []
    monkeypatch.setattr(wan.Wan, "velocity", lambda *a: calls.append(1))
    frames = list(rendered_frames(9, holes=False))
    assert same(completed(9, frames=frames), [one.frame for one in frames]) and not calls


def test_only_windows_with_holes_are_sampled(monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=1))
    calls = []
    original = wan.Wan.velocity
    monkeypatch.setattr(wan.Wan, "velocity", lambda self, *a: calls.append(1) or original(self, *a))
    frames = [*rendered_frames(80, holes=False), *rendered_frames(5, first=80)]
    for blending in ("per-step", "cross-fade"):
        out = completed(0, frames=frames, **{"fill.blending": blending})
        assert same(out[:80], [one.frame for one in frames[:80]]) and not same(out[80:], [one.frame for one in frames[80:]])
        assert 0 < len(calls) < 3
        calls.clear()


def test_full_frame_replaces_the_picture_and_holes_do_not(monkeypatch):
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=1))
    holes, full = (completed(5, **{"fill.area": area}) for area in ("holes", "full-frame"))
    before = [one.frame for one in rendered_frames(5)]
    assert all((a.planes[0][:, 14:] == b.planes[0][:, 14:]).all() for a, b in zip(holes, before, strict=True))
    assert all((a.planes[0][:, 14:] != b.planes[0][:, 14:]).mean() > 0.3 for a, b in zip(full, before, strict=True))


def test_little_denoising_stays_near_the_start(monkeypatch):
    """With the velocity of the true clean picture, denoise 0.1 from the render is nearer to it than noise is."""
    seen = []
    original = sampling._begin
    monkeypatch.setattr(
        sampling,
        "_begin",
        lambda noise, start, request: seen.append((start, *original(noise, start, request)[1:])) or original(noise, start, request),
    )
    completed(5, **{"fill.denoise": 0.1})
    start, timesteps, first = seen[0]
    sigma = float(timesteps[0]) / 1000
    assert len(timesteps) == 4 and sigma < 0.5
    noise = torch.randn(16, 2, 2, 6, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(first, (1 - sigma) * start + sigma * noise[:, :, : start.shape[2], : start.shape[3]], atol=2e-3, rtol=0)


class _White:
    """A prior that paints everything white."""

    reach_frames = 3

    def complete(self, rendered, views):
        for one in rendered:
            yield one.frame.with_rgb(np.ones((one.frame.height, one.frame.width, 3), np.float32))


def test_the_prior_fills_the_start_and_sets_the_reach(monkeypatch):
    starts = []
    original = sampling._begin
    monkeypatch.setattr(sampling, "_begin", lambda noise, start, request: starts.append(start) or original(noise, start, request))
    settings = Settings().with_values(RANDOM | {"fill.denoise": 0.1})
    completer = dvdm.DvdmCompleter(settings, prior=_White())
    assert completer.reach_frames == 3
    assert len(list(completer.complete(rendered_frames(5), NoViews()))) == 5
    white = autoencoder.encode(random_weights.autoencoder(9), [torch.ones(1, 3, *[16 * round(n / 16) for n in (16, 48)])] * 5)[0]
    assert starts[0].shape == white.shape
    torch.testing.assert_close(starts[0], white, atol=0.05, rtol=0.02)


def test_steps_are_told_and_can_stop_everything():
    told = []

    def step(done, total):
        told.append((done, total))
        if done == 3:
            raise InterruptedError

    settings = Settings().with_values(RANDOM)
    with pytest.raises(InterruptedError):
        list(dvdm.DvdmCompleter(settings, on_step=step).complete(rendered_frames(5), NoViews()))
    assert told == [(1, 40), (2, 40), (3, 40)]


def test_models_are_loaded_once_and_stay_warm(monkeypatch):
    wan.kept_warm("nothing", lambda: None)
    loads = []
    monkeypatch.setattr(random_weights, "expert", lambda *a, original=random_weights.expert: loads.append(1) or original(*a))
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=1))
    completed(1)
    completed(1)
    assert len(loads) == 2  # two experts, once


def test_adapters_that_were_trained_on_are_loaded_again(tmp_path, monkeypatch):
    made = iter(range(5))
    monkeypatch.setattr(dvdm, "_load", lambda *given: next(made))
    settings = Settings().with_values({"fill.lora": str(tmp_path)})
    (tmp_path / "high.safetensors").write_bytes(b"before")
    first, again = (dvdm.load(settings, 1000) for _ in range(2))
    (tmp_path / "high.safetensors").write_bytes(b"trained on")
    assert first == again != dvdm.load(settings, 1000)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(SettingsError, match="bad-window"):
        completed(1, **{"fill.window_frames": 80})


@pytest.mark.parametrize(
    ("completer", "wanted"),
    [
        (
            "vace",
            [
                "wan2.1-vace-1.3b",
                "16 GiB",
                "Apache-2.0",
                "huggingface.co/Wan-AI/Wan2.1-VACE-1.3B-diffusers",
                "weights fetch wan2.1-vace-1.3b",
                "weights prepare wan2.1-vace-1.3b",
            ],
        ),
        (
            "dvdm",
            [
                "wan2.2-i2v-a14b",
                "118 GiB",
                "Apache-2.0",
                "huggingface.co/Wan-AI/Wan2.2-I2V-A14B-Diffusers",
                "dvdm-lora",
                "fill.lora=none",
                "weights fetch wan2.2-i2v-a14b",
            ],
        ),
    ],
)
def test_missing_weights_are_named_in_one_message(completer, wanted, monkeypatch, tmp_path):
    monkeypatch.setenv("VS3R_WEIGHTS", str(tmp_path))
    module = {"vace": vace, "dvdm": dvdm}[completer]
    with pytest.raises(WeightsMissing) as caught:
        module.preflight(Settings())
    assert caught.value.code == "weights-missing" and all(part in str(caught.value) for part in wanted), str(caught.value)


def test_preflight_imports_nothing_heavy():
    code = (
        "import sys; from vs3r_engine.methods import dvdm, vace; from vs3r_engine.settings import Settings\n"
        "for module in (dvdm, vace):\n"
        "    try: module.preflight(Settings())\n"
        "    except Exception as error: assert error.code == 'weights-missing', error\n"
        "assert not {'torch', 'diffusers', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lora_that_is_not_there_and_an_unprepared_prompt_are_said_before_any_work(tmp_path):
    there = lambda name: (weights.entry(name), tmp_path)  # noqa: E731
    with pytest.raises(InputError, match="lora-missing"):
        dvdm.preflight(Settings().with_values({"fill.lora": str(tmp_path / "nowhere")}), there)
    with pytest.raises(SetupError, match=r"prompt-not-prepared") as caught:
        vace.preflight(Settings(), there)
    assert "weights prepare" in caught.value.hint
    with pytest.raises(SettingsError, match="belongs to dvdm"):
        vace.preflight(Settings().with_values({"fill.sampler": "fast"}))


def test_real_folders_load_and_give_what_the_same_models_give_in_memory(tmp_path, monkeypatch):
    """The loading code of the real weights, on saved tiny models in the hub's layout."""
    from safetensors.torch import save_file

    base = tmp_path / dvdm.BASE
    random_weights.expert(7).save_pretrained(base / "transformer")
    random_weights.expert(8).save_pretrained(base / "transformer_2")
    random_weights.autoencoder(9).save_pretrained(base / "vae")
    save_file({mode: random_weights.prompt(7)[0] for mode in ("vs3r", "diffusers", "negative")}, base / "prompt.safetensors")
    monkeypatch.setattr(dvdm, "area_px", lambda fill, own: dvdm.TINY_AREA_PX)
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=2))
    settings = Settings().with_values({"fill.lora": "none", "analysis.device": "cpu", "fill.window_frames": 21, "fill.overlap_frames": 4})
    loaded = list(dvdm.DvdmCompleter(settings, installed=lambda name: (None, tmp_path / name)).complete(rendered_frames(5), NoViews()))
    assert same(loaded, completed(5))
    random_weights.vace_transformer(1).save_pretrained(base / "transformer_2")
    with pytest.raises(SetupError, match=r"wrong-base-model|weights-broken"):
        wan.load_transformer(base, "transformer_2", "expert", torch.float32)


@pytest.mark.parametrize("damage", ["cut short", "tensors missing"])
def test_half_a_model_is_not_run(damage, tmp_path):
    """diffusers itself would fill what is missing with noise."""
    from safetensors.torch import load_file, save_file

    random_weights.expert(7).save_pretrained(tmp_path / "transformer")
    path = next((tmp_path / "transformer").glob("*.safetensors"))
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        save_file({name: tensor for name, tensor in load_file(path).items() if "blocks.1." not in name}, path, {"format": "pt"})
    with pytest.raises(SetupError, match="weights-broken"):
        wan.load_transformer(tmp_path, "transformer", "expert", torch.float32)


def test_memory_policies_follow_what_is_free():
    needs = memory.Footprint(26.6, 2, 0.5, 14.0)

    def mode(gpu, host, wish="auto"):
        return memory.choose(wish, memory.Machine("cuda", gpu, host), needs, 12).mode

    assert [mode(gpu, 128) for gpu in (139, 80, 48, 24)] == ["none", "none", "model", "group"]
    assert mode(48, 44) == "int8" and mode(139, 128, "group") == "group"
    with pytest.raises(Exception, match="diffusion-memory"):
        mode(12, 128)
    with pytest.raises(Exception, match="diffusion-needs-gpu"):
        memory.choose("auto", memory.Machine("cpu", 256, 256), needs, 12)
    assert memory.choose("auto", memory.Machine("cuda", 24, 128), needs, 22).tile_px == 256
    assert memory.choose("auto", memory.Machine("cuda", 139, 128), needs, 12).tile_px is None
    assert memory.choose("auto", memory.Machine("cuda", 139, 128), needs, 12).dtype is torch.bfloat16


def test_a_models_size_is_what_it_takes_in_memory_whatever_its_files_hold(tmp_path):
    expert, vae = random_weights.expert(1), random_weights.autoencoder(2)
    numbers = [sum(parameter.numel() for parameter in model.parameters()) for model in (expert, vae)]
    vae.save_pretrained(tmp_path / "vae")
    for dtype in (torch.float32, torch.bfloat16):
        expert.to(dtype).save_pretrained(tmp_path / "transformer")
        needs = dvdm.footprint(tmp_path, 1000, 21)
        assert (needs.expert_gib * 2**30, needs.autoencoder_gib * 2**30) == (2 * numbers[0], 4 * numbers[1]) and needs.experts == 1
    (tmp_path / "transformer" / "config.json").unlink()
    with pytest.raises(SetupError, match="weights-broken"):
        dvdm.footprint(tmp_path, 1000, 21)


@pytest.mark.parametrize(("available_gib", "is_tight"), [(1, False), (0, True)])
def test_blocks_stream_from_page_locked_memory_only_where_it_fits(available_gib, is_tight, monkeypatch):
    import diffusers.hooks
    import psutil

    asked = []
    monkeypatch.setattr(diffusers.hooks, "apply_group_offloading", lambda model, **how: asked.append(how))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available_gib << 30))
    policy = memory.Policy("group", "cuda", torch.float32, None, "")
    memory.Residence(
        policy, {"high": random_weights.expert(1), "low": random_weights.expert(2), "autoencoder": random_weights.autoencoder(3)}
    )
    assert len(asked) == 2 and all(how["use_stream"] and how["low_cpu_mem_usage"] == is_tight for how in asked)


class Moved:
    """A model that remembers where it is, and does not fit on the device while `is_full`."""

    def __init__(self) -> None:
        self.place, self.is_full = "cpu", False

    def to(self, place: str) -> None:
        self.place = "half" if self.is_full and place != "cpu" else place
        if self.place == "half":
            raise torch.OutOfMemoryError("out of memory")


def test_a_model_that_does_not_fit_leaves_everything_in_order():
    policy = memory.Policy("model", "cuda", torch.bfloat16, None, "")
    models = {"high": Moved(), "low": Moved()}
    residence = memory.Residence(policy, models)
    with residence.inside("high"):
        assert models["high"].place == "cuda"
    models["low"].is_full = True
    with pytest.raises(OutOfMemory), residence.inside("low"):
        pass
    assert models["low"].place == models["high"].place == "cpu"
    with residence.inside("high"):
        assert models["high"].place == "cuda"
    models["low"].is_full = False
    with residence.inside("low"):
        assert models["low"].place == "cuda" and models["high"].place == "cpu"


def test_running_out_of_memory_while_loading_is_said(tmp_path, monkeypatch):
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    def full(*given, **how):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(WanTransformer3DModel, "from_pretrained", full)
    with pytest.raises(OutOfMemory):
        wan.load_transformer(tmp_path, "transformer", "expert", torch.float32)
    model = Moved()
    model.is_full = True
    with pytest.raises(OutOfMemory):
        wan.kept_warm("full", lambda: model.to("cuda"))
    with pytest.raises(OutOfMemory):
        memory.Residence(memory.Policy("none", "cuda", torch.float32, None, ""), {"high": model})


def test_blocks_that_stream_are_not_compiled_and_that_is_said():
    policy = memory.Policy("group", "cpu", torch.float32, None, "")
    model = random_weights.expert(1)
    assert "not compiled" in memory.settle(model, policy, "auto", True)[0]
    ready = wan.Wan(policy, memory.Residence(policy, {"high": model}), random_weights.prompt(1))
    assert ready.velocity("high", torch.zeros(36, 1, 2, 2), torch.tensor(500.0), ready.prompt).shape == (16, 1, 2, 2)


@pytest.mark.parametrize("mode", ["none", "model", "group"])
def test_every_offload_mode_gives_the_same_picture(mode):
    """Moved between places that are all the CPU: the hooks and moves run, the numbers may not change."""
    policy = memory.Policy(mode, "cpu", torch.float32, None, "")
    models = {
        "high": random_weights.expert(1),
        "low": random_weights.expert(2),
        "autoencoder": random_weights.autoencoder(3),
    }
    ready = wan.Wan(policy, memory.Residence(policy, models), random_weights.prompt(1))
    latents = torch.randn(36, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    out = [ready.velocity(expert, latents, torch.tensor(500.0), ready.prompt) for expert in ("high", "low", "high")]
    with torch.no_grad():
        plain = random_weights.expert(1)(latents[None], torch.tensor([500.0]), random_weights.prompt(1)).sample[0]
    assert torch.equal(out[0], plain) and torch.equal(out[2], plain) and not torch.equal(out[1], plain)


def test_an_attention_back_end_that_cannot_be_had_is_announced():
    said = memory.speed_up(random_weights.expert(1), "flash", False)
    assert len(said) == 1 and "cannot be used" in said[0]
    assert memory.speed_up(random_weights.expert(1), "auto", False) == []


def test_int8_weights_change_the_velocity_by_a_percent():
    pytest.importorskip("torchao")
    model, plain = random_weights.expert(1), random_weights.expert(1)
    memory.quantize(model, "int8")
    hidden = torch.randn(1, 36, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (m(hidden, torch.tensor([500.0]), random_weights.prompt(1)).sample for m in (model, plain))
    assert 0 < (a - b).norm() / b.norm() < 0.02


def test_full_size_models_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        counts = {}
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
        from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel

        counts["expert"] = WanTransformer3DModel(in_channels=36, **random_weights.A14B)
        counts["vace-1.3b"] = WanVACETransformer3DModel(vace_layers=random_weights.VACE_LAYERS["1.3b"], **random_weights.B1_3)
        counts["vace-14b"] = WanVACETransformer3DModel(vace_layers=random_weights.VACE_LAYERS["14b"], **random_weights.A14B)
        counts["autoencoder"] = AutoencoderKLWan()
    billions = {name: round(sum(p.numel() for p in model.parameters()) / 1e9, 3) for name, model in counts.items()}
    assert billions == {"expert": 14.289, "vace-1.3b": 2.154, "vace-14b": 17.338, "autoencoder": 0.127}, billions


def test_shots_are_read_lazily_and_held_on_disk(monkeypatch, tmp_path):
    """No more than the frame in hand is taken from the renderer before it is on disk."""
    monkeypatch.setitem(sampling.PRESETS, "vs3r", dataclasses.replace(sampling.PRESETS["vs3r"], steps=1))
    sizes = []
    original = shots.Spool.add
    monkeypatch.setattr(shots.Spool, "add", lambda self, *a: original(self, *a) or sizes.append(len(self)))
    pulled = []

    def counted():
        for one in rendered_frames(12):
            pulled.append(len(sizes))
            yield one

    assert len(completed(0, frames=counted())) == 12
    assert all(i - stored <= 1 for i, stored in enumerate(pulled))


def test_doctor_is_told_what_is_missing_and_where_the_weights_would_live(monkeypatch):
    from vs3r_engine.methods.diffusion.outlook import outlook

    monkeypatch.setattr(memory, "this_machine", lambda device: memory.Machine("cuda", 46.0, 128.0))
    told = outlook(Settings())
    assert set(told) == {"dvdm", "vace 1.3b", "vace 14b"}
    assert "weights fetch wan2.2-i2v-a14b" in told["dvdm"][0] and told["dvdm"][1].startswith("model on cuda, bfloat16")
    assert told["vace 1.3b"][1].startswith("none on cuda")
    monkeypatch.setattr(memory, "this_machine", lambda device: memory.Machine("cpu", 64.0, 64.0))
    assert "without a GPU" in outlook(Settings())["vace 14b"][1]
