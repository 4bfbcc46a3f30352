# SPDX-License-Identifier: Apache-2.0
"""Training the adapters, on tiny models: the loss falls, a stopped run goes on exactly, what is saved improves
sampling.
"""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")

from vs3r_engine.errors import InputError  # noqa: E402
from vs3r_engine.methods import dvdm  # noqa: E402
from vs3r_engine.methods.diffusion import lora, random_weights  # noqa: E402
from vs3r_engine.training import adapters, samples, validation  # noqa: E402

PROMPT = random_weights.prompt(5)
SETTINGS = adapters.TrainSettings(
    steps=24,
    rank=8,
    alpha=8,
    learning_rate=3e-2,
    precision="no",
    save_memory=False,
    checkpoint_every=8,
    validate_every=1000,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class OnePair:
    """One clip and a damaged copy, in latents."""

    def __init__(self, count: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        clean = [torch.randn(16, 2, 4, 4, generator=generator) * 0.3 + 1.0 for _ in range(count)]
        self.pairs = [samples.Sample(one, one * 0.5) for one in clean]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> samples.Sample:
        return self.pairs[position]


def experts() -> dict:
    return {"high": random_weights.expert(1), "low": random_weights.expert(2)}


def run(output: Path, settings: adapters.TrainSettings = SETTINGS, data=None, stop_after: int | None = None, **more) -> list[adapters.Step]:
    done = []
    for step in adapters.train(experts(), PROMPT, data or OnePair(), output, settings, device="cpu", **more):
        done.append(step)
        if step.step == stop_after:
            break
    return done


def test_the_loss_falls_and_the_saved_adapters_bring_sampling_closer_to_the_target(tmp_path):
    pair = OnePair()[0]
    held = validation.watch([pair], PROMPT, tmp_path)
    plain = experts()
    for model in plain.values():
        model.add_adapter(lora.config(), "default")  # no effect before training: its second matrix is zero
    before = held(0, plain)
    run(tmp_path)
    trained = experts()
    for expert, path in lora.find(tmp_path / "adapters").items():
        lora.merge(trained[expert], lora.read(path))
        trained[expert].add_adapter(lora.config(), "default")  # what is watched has adapters; this one has no effect
    after = held(1, trained)
    for name in before:
        assert after[name] < 0.9 * before[name], (name, before[name], after[name])
    errors = [float(((validation.sampled(models, pair, PROMPT, 6) - pair.clean) ** 2).mean()) for models in (plain, trained)]
    assert errors[1] < 0.7 * errors[0], errors


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    settings = adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 12, "checkpoint_every": 5, "dropout": 0.1})
    data = OnePair(3)
    whole = run(tmp_path / "whole", settings, data)
    first = run(tmp_path / "parts", settings, data, stop_after=7)
    rest = run(tmp_path / "parts", settings, data)
    assert rest[0].step == 6
    assert first[:5] + rest == whole
    for expert in ("high", "low"):
        one, other = (lora.read(tmp_path / run_name / "adapters" / lora.FILE_NAMES[expert]) for run_name in ("whole", "parts"))
        assert one.layers.keys() == other.layers.keys()
        for name, layer in one.layers.items():
            assert torch.equal(layer.down, other.layers[name].down) and torch.equal(layer.up, other.layers[name].up)
    with pytest.raises(InputError, match="train-settings-changed"):
        run(tmp_path / "parts", adapters.TrainSettings(**{**vars_of(settings), "learning_rate": 1.0}), data)


def test_the_latest_checkpoints_are_kept_and_no_more(tmp_path):
    settings = adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 7, "checkpoint_every": 2, "checkpoints_kept": 2})
    run(tmp_path / "run", settings, OnePair(1))
    assert [path.name for path in adapters.checkpoints(tmp_path / "run")] == ["checkpoint-0000006", "checkpoint-0000007"]


def vars_of(settings) -> dict:
    import dataclasses

    return dataclasses.asdict(settings)


def test_only_the_adapter_of_the_steps_expert_moves(tmp_path):
    state = dict(experts().items())
    iterator = adapters.train(state, PROMPT, OnePair(), tmp_path, SETTINGS, device="cpu")
    before = None
    for _ in range(6):
        step = next(iterator)
        now = {name: [p.detach().clone() for n, p in model.named_parameters() if "lora_" in n] for name, model in state.items()}
        if before is not None:
            for name in state:
                same = all(torch.equal(a, b) for a, b in zip(before[name], now[name], strict=True))
                assert same == (name != step.expert)
        before = now
    assert all(not p.requires_grad for model in state.values() for n, p in model.named_parameters() if "lora_" not in n)
    iterator.close()


def test_experts_are_drawn_as_often_as_uniform_noise_levels_would():
    settings = adapters.TrainSettings(steps=4000)
    share = sum(adapters.expert_of_step(step, settings) == "high" for step in range(4000)) / 4000
    assert share == pytest.approx(0.357, abs=0.025)
    levels = {name: [adapters.sigma_of_draw(u / 100, name, 5.0) for u in range(100)] for name in ("high", "low")}
    assert min(levels["high"]) == pytest.approx(0.9) and max(levels["high"]) < 1
    assert min(levels["low"]) == 0 and max(levels["low"]) < 0.9
    kept = adapters.TrainSettings(steps=4000, switch_every=10)
    drawn = [adapters.expert_of_step(step, kept) for step in range(400)]
    assert all(len(set(drawn[i : i + 10])) == 1 for i in range(0, 400, 10)) and len(set(drawn)) == 2


def test_the_loss_is_that_of_the_sign_consistent_equations():
    """A model that answers noise - clean has no loss; the model is told noisy | ones | condition and 1000 sigma."""
    pair = OnePair()[0]
    noise = torch.randn(pair.clean.shape, generator=torch.Generator().manual_seed(3))
    told = {}

    class Right(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = torch.nn.Linear(1, 1)

        def named_parameters(self, *args, **kwargs):
            yield "x.base_layer.weight", self.base_layer.weight

        def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict):
            told.update(hidden=hidden_states, timestep=timestep)
            return ((noise - pair.clean)[None],)

    assert float(adapters.flow_loss(Right(), pair, PROMPT, 0.25, noise, "cpu")) == 0
    assert float(told["timestep"]) == 250
    assert torch.equal(told["hidden"][0, :16], 0.75 * pair.clean + 0.25 * noise)
    assert torch.equal(told["hidden"][0, 16:20], torch.ones(4, 2, 4, 4)) and torch.equal(told["hidden"][0, 20:], pair.condition)


def test_every_epoch_sees_every_sample_once_in_its_own_order():
    orders = [[adapters._shuffled(epoch * 7 + i, 7, 1) for i in range(7)] for epoch in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders) and len({tuple(order) for order in orders}) == 3


def test_accumulated_micro_batches_are_the_mean_of_their_gradients(tmp_path, monkeypatch):
    settings = adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 1, "dropout": 0.0})
    seed = adapters._seed
    # All micro-batches with the same noise: their mean is one of them.
    monkeypatch.setattr(adapters, "_seed", lambda *parts: seed(*(p.rstrip("012") if isinstance(p, str) else p for p in parts)))
    (one,) = run(tmp_path / "one", settings)
    (three,) = run(tmp_path / "three", adapters.TrainSettings(**{**vars_of(settings), "accumulate": 3}))
    assert (three.loss, three.gradient_norm) == pytest.approx((one.loss, one.gradient_norm), rel=1e-5)


def test_processes_share_gradients_once_a_step(tmp_path, monkeypatch):
    """`no_sync` has to be around the forward: afterwards the gradients are shared whatever it says."""
    import contextlib

    from accelerate import Accelerator

    is_quiet, said = [False], []

    @contextlib.contextmanager
    def no_sync(self, model):
        is_quiet[0] = True
        yield
        is_quiet[0] = False

    loss = adapters.flow_loss
    monkeypatch.setattr(Accelerator, "no_sync", no_sync)
    monkeypatch.setattr(adapters, "flow_loss", lambda *given: (said.append(is_quiet[0]), loss(*given))[1])
    run(tmp_path, adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 1, "accumulate": 3}))
    assert said == [True, True, False]


class Moved:
    """A model that remembers where it is."""

    place = "cpu"

    def to(self, place: str) -> None:
        self.place = place


def test_the_expert_that_is_looked_at_is_on_the_device_and_the_other_is_not(tmp_path):
    models = {"high": Moved(), "low": Moved()}
    placed = adapters.OneAtATime(models, "cuda")
    for name, other in (("high", "low"), ("low", "high"), ("low", "high")):
        assert placed[name].place == "cuda" and models[other].place == "cpu"
    assert list(placed) == ["high", "low"] and len(placed) == 2
    given = []
    settings = adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 2, "switch_every": 2, "validate_every": 1})
    run(tmp_path, settings, validate=lambda step, given_experts: given.append(given_experts) or {})
    assert len(given) == 2 and all(isinstance(one, adapters.OneAtATime) for one in given)


def test_memory_saving_changes_no_gradient(tmp_path):
    plain = run(tmp_path / "a", adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 2}))
    saving = run(tmp_path / "b", adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 2, "save_memory": True}))
    assert [s.loss for s in plain] == pytest.approx([s.loss for s in saving], rel=1e-6)


def test_the_log_and_the_validation_picture_are_written(tmp_path):
    from vs3r_engine.methods.diffusion import autoencoder

    vae = random_weights.autoencoder(3)
    watch = validation.watch([OnePair()[0]], PROMPT, tmp_path, steps=2, decode=lambda z: autoencoder.decode_stream(vae, z))
    run(tmp_path, adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 2, "validate_every": 2}), validate=watch)
    assert list(tmp_path.glob("log/events*")) and (tmp_path / "validation" / "0000002.png").stat().st_size > 500


def test_trained_adapters_run_in_the_completer(tmp_path, monkeypatch):
    """From `train` to `fill.lora`, through the settings a user has."""
    from tests.engine.test_dvdm import NoViews, rendered_frames, same
    from vs3r_engine.settings import Settings

    run(tmp_path, adapters.TrainSettings(**{**vars_of(SETTINGS), "steps": 6}))

    def completed(chosen: str):
        settings = Settings().with_values(
            {"fill.weights": "random:1:small", "fill.lora": chosen, "fill.sampler": "fast"} | {"fill.area": "full-frame"}
        )
        return list(dvdm.DvdmCompleter(settings, installed=lambda name: (None, tmp_path)).complete(rendered_frames(5), NoViews()))

    assert not same(completed(str(tmp_path / "adapters")), completed("none"))


def test_a_data_set_is_whole_clips_and_goes_on(tmp_path):
    pair = OnePair(2)
    writer = samples.DatasetWriter(tmp_path, {"window": 5})
    writer.add("a", "a.mp4", [(pair[0], {"start": 0}), (pair[1], {"start": 5})], {"blurred": 1})
    with (tmp_path / samples.MANIFEST).open("a") as stream:
        stream.write('{"clip": "torn')
    again = samples.DatasetWriter(tmp_path, {"window": 5})
    assert again.has("a") and not again.has("torn")
    again.add("b", "b.mp4", [(pair[1], {"start": 0})], {})
    data = samples.Dataset(tmp_path)
    assert len(data) == 3
    torch.testing.assert_close(data[2].clean, pair[1].clean, atol=2e-3, rtol=0)
    assert [json.loads(line)["clip"] for line in (tmp_path / samples.MANIFEST).read_text().splitlines()[1:]] == [
        "a",
        "b",
    ]
    with pytest.raises(InputError, match="data-settings-changed"):
        samples.DatasetWriter(tmp_path, {"window": 9})
    with pytest.raises(InputError, match="no-training-data"):
        samples.Dataset(tmp_path / "nowhere")
