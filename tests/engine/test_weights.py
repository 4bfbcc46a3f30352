# SPDX-License-Identifier: Apache-2.0
"""Weights arrive only when asked for, only as described, and never run code."""

import hashlib
import http.server
import json
import os
import pickle
import threading
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vs3r_engine.app.weights import app
from vs3r_engine.errors import DiskFull, InputError, SetupError, WeightsMissing
from vs3r_engine.methods import weights
from vs3r_engine.methods.tensors import load_tensors


class FakeHub:
    """The part of huggingface_hub the engine uses, on a directory; remembers what was asked."""

    def __init__(self, files: dict[str, bytes], sha: str = "abc123") -> None:
        self.files, self.sha, self.downloads, self.error, self.corrupt = files, sha, [], None, False

    def HfApi(self):
        return self

    def model_info(self, repository, revision, files_metadata):
        if self.error:
            raise self.error
        siblings = [
            types.SimpleNamespace(rfilename=name, size=len(data), lfs=types.SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()))
            for name, data in self.files.items()
        ]
        return types.SimpleNamespace(sha=self.sha, siblings=siblings)

    def hf_hub_download(self, repository, file, revision, local_dir):
        assert revision == self.sha, "a fetch is pinned to one commit"
        self.downloads.append(file)
        path = Path(local_dir) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[file] if not self.corrupt else b"something else")
        return str(path)


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub({"model.safetensors": b"tensors" * 100, "model.pt": b"pickle", "README.md": b"hello"})
    monkeypatch.setattr(weights, "_hub", lambda: fake)
    return fake


def test_every_entry_says_where_from_how_large_and_under_which_licence():
    for entry in weights.manifest().values():
        assert entry.purpose and entry.licence and entry.files and entry.gib > 0
        assert entry.commercial in ("yes", "no", "unclear")
        assert bool(entry.repository) + bool(entry.url) <= 1
    assert weights.entry("vggt-1b").commercial == "no" and weights.entry("vggt-1b-commercial").gated


def test_fetching_takes_only_the_named_files_pins_the_commit_and_records_hashes(hub):
    directory = weights.fetch("vggt-1b")
    assert hub.downloads == ["model.safetensors"]
    record = json.loads((directory / "installed.json").read_text())
    assert record["revision"] == "abc123" and record["commercial"] == "no"
    assert record["files"]["model.safetensors"]["sha256"] == hashlib.sha256(b"tensors" * 100).hexdigest()
    assert weights.installed("vggt4d", "vggt-1b")[0].name == "vggt-1b"
    assert weights.verify("vggt-1b") == []
    weights.fetch("vggt-1b")
    assert len(hub.downloads) == 1, "what is installed is not fetched again"


def test_a_file_that_is_not_what_its_source_lists_is_removed(hub):
    hub.corrupt = True
    with pytest.raises(WeightsMissing) as error:
        weights.fetch("vggt-1b")
    assert error.value.code == "weights-mismatch"
    assert not (weights.weights_root() / "vggt-1b" / "model.safetensors").exists()
    assert weights.record("vggt-1b") is None


def test_missing_weights_are_named_with_size_licence_source_and_command():
    with pytest.raises(WeightsMissing) as error:
        weights.installed("vggt-1b", "vggt4d")
    text = str(error.value)
    for part in (
        "vggt-1b",
        "4.7 GiB",
        "non-commercial",
        "huggingface.co/facebook/VGGT-1B",
        "weights fetch vggt-1b",
        "vggt4d would do too",
    ):
        assert part in text


def test_a_gated_repository_is_explained(hub):
    from huggingface_hub.errors import GatedRepoError

    hub.error = GatedRepoError.__new__(GatedRepoError)
    with pytest.raises(SetupError) as error:
        weights.fetch("vggt-1b-commercial")
    assert error.value.code == "weights-gated" and "hf auth login" in error.value.hint


def test_without_a_network_the_way_to_import_is_told(hub):
    hub.error = ConnectionError("no route")
    with pytest.raises(SetupError) as error:
        weights.fetch("vggt-1b")
    assert error.value.code == "weights-unreachable" and "weights import vggt-1b" in error.value.hint


def test_unpublished_weights_can_only_be_imported():
    with pytest.raises(SetupError) as error:
        weights.fetch("dvdm-lora")
    assert error.value.code == "weights-unpublished"


def test_a_full_disk_is_noticed_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=10))
    with pytest.raises(DiskFull):
        weights.fetch("vggt-1b")
    assert hub.downloads == []


def test_importing_copies_and_damage_is_found(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"some tensors")
    directory = weights.import_files("vggt-1b", tmp_path)
    assert weights.verify("vggt-1b") == []
    (directory / "model.safetensors").write_bytes(b"Some tensors")
    assert "another content" in weights.verify("vggt-1b")[0]
    (directory / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsMissing) as error:
        weights.installed("vggt-1b")
    assert error.value.code == "weights-damaged"
    assert weights.remove("vggt-1b") > 0 and weights.record("vggt-1b") is None


def test_importing_the_wrong_place_says_what_is_wanted(tmp_path):
    with pytest.raises(InputError) as error:
        weights.import_files("vggt-1b", tmp_path)
    assert "model.safetensors" in str(error.value)


class Malice:
    """A pickle that would run a command when loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "ran"
    bad = tmp_path / "model_tracker_fixed_e20.pt"
    for write in (
        lambda: torch.save({"w": torch.zeros(2), "m": Malice(marker)}, bad),
        lambda: bad.write_bytes(pickle.dumps(Malice(marker))),
    ):
        write()
        with pytest.raises(WeightsMissing):
            weights.import_files("vggt4d", bad)
        assert not marker.exists() and weights.record("vggt4d") is None
    torch.save({"model": {"w": torch.ones(2)}}, bad)
    assert load_tensors(weights.import_files("vggt4d", bad) / bad.name)["w"].sum() == 2


def test_downloads_from_a_plain_address_continue_where_they_stopped(tmp_path, monkeypatch):
    data = bytes(range(256)) * 40
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            start = int(asked[-1].split("=")[1].rstrip("-")) if asked[-1] else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[start:])

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = weights.Entry(
        "raft-large",
        "test",
        ("flow.dat",),
        0.1,
        "test",
        "yes",
        url=f"http://127.0.0.1:{server.server_port}/flow.dat",
        sha256={"flow.dat": hashlib.sha256(data).hexdigest()[:8]},
    )
    monkeypatch.setattr(weights, "manifest", lambda: {"raft-large": entry})
    partial = weights.weights_root() / "raft-large" / "flow.dat.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:1000])
    try:
        directory = weights.fetch("raft-large")
    finally:
        server.shutdown()
        server.server_close()
    assert (directory / "flow.dat").read_bytes() == data and asked[-1] == "bytes=1000-"


class Breaking(http.server.BaseHTTPRequestHandler):
    """Answers with `data`, of which one answer brings only the half before the line goes dead."""

    data = bytes(range(256)) * 40
    breaks = True

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        if start >= len(self.data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : len(self.data) // 2 if type(self).breaks else None])
        type(self).breaks = False

    def log_message(self, *arguments):
        pass


@pytest.fixture
def breaking(monkeypatch):
    monkeypatch.setattr(Breaking, "breaks", True)
    server = http.server.HTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sha256 = {"flow.dat": hashlib.sha256(Breaking.data).hexdigest()}
    url = f"http://127.0.0.1:{server.server_port}/flow.dat"
    entry = weights.Entry("raft-large", "test", ("flow.dat",), 0.1, "test", "yes", url=url, sha256=sha256)
    monkeypatch.setattr(weights, "manifest", lambda: {"raft-large": entry})
    yield weights.weights_root() / "raft-large" / "flow.dat.partial"
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_is_said_and_goes_on(breaking):
    with pytest.raises(SetupError) as error:
        weights.fetch("raft-large")
    assert error.value.code == "weights-unreachable" and "fetch raft-large" in error.value.hint
    assert breaking.read_bytes() == Breaking.data[: len(Breaking.data) // 2], "what arrived is kept"
    assert (weights.fetch("raft-large") / "flow.dat").read_bytes() == Breaking.data


def test_a_connection_that_dies_is_not_a_fault_of_ours(breaking, monkeypatch):
    def reset(answer):
        yield answer.read(100)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(weights, "_blocks", reset)
    with pytest.raises(SetupError) as error:
        weights.fetch("raft-large")
    assert error.value.code == "weights-unreachable" and breaking.stat().st_size == 100


def test_a_download_that_was_whole_when_it_was_stopped_can_be_fetched(breaking, monkeypatch):
    monkeypatch.setattr(Breaking, "breaks", False)
    breaking.parent.mkdir(parents=True)
    breaking.write_bytes(Breaking.data)
    assert (weights.fetch("raft-large") / "flow.dat").read_bytes() == Breaking.data


@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_fetching_again_mends_what_is_damaged(damage, hub):
    path = weights.fetch("vggt-1b") / "model.safetensors"
    whole = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(whole[:10] if damage == "short" else whole[::-1])
    weights.fetch("vggt-1b")
    assert path.read_bytes() == whole and weights.verify("vggt-1b") == [] and len(hub.downloads) == 2


def test_files_that_lie_where_they_belong_can_be_imported_from_there():
    directory = weights.weights_root() / "vggt-1b"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"some tensors")
    weights.import_files("vggt-1b", directory)
    assert weights.installed("vggt-1b")[1] == directory and (directory / "model.safetensors").read_bytes() == b"some tensors"


def test_the_only_file_of_an_entry_may_have_another_name_and_no_other_kind(tmp_path):
    (tmp_path / "model (1).safetensors").write_bytes(b"some tensors")
    (tmp_path / "notes.txt").write_text("hello")
    assert (weights.import_files("vggt-1b", tmp_path / "model (1).safetensors") / "model.safetensors").exists()
    with pytest.raises(InputError) as error:
        weights.import_files("vggt-1b", tmp_path / "notes.txt")
    assert error.value.code == "weights-not-found"


def test_half_a_model_is_not_imported(tmp_path):
    for folder in ("scheduler", "text_encoder", "tokenizer", "transformer", "vae"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "transformer" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "transformer" / shards["a"]).write_bytes(b"some tensors")
    with pytest.raises(InputError) as error:
        weights.import_files("wan2.2-i2v-a14b", tmp_path)
    assert error.value.code == "weights-incomplete" and weights.record("wan2.2-i2v-a14b") is None
    assert "transformer_2" in error.value.message and shards["b"] in error.value.message and shards["a"] not in error.value.message


def test_the_published_adapters_come_with_what_says_their_strength(tmp_path):
    for folder in (tmp_path, tmp_path / "transformer_2"):
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"some tensors")
        (folder / "adapter_config.json").write_text('{"lora_alpha": 64}')
    directory = weights.import_files("dvdm-lora", tmp_path)
    assert (directory / "adapter_config.json").exists() and (directory / "transformer_2" / "adapter_config.json").exists()


def test_a_file_without_named_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(3), tmp_path / "model_tracker_fixed_e20.pt")
    with pytest.raises(WeightsMissing) as error:
        weights.import_files("vggt4d", tmp_path)
    assert error.value.code == "weights-damaged"


def test_random_weights_exist_for_tests_and_nothing_else_is_taken_for_them():
    assert weights.random_seed("random:7") == (7, False) and weights.random_seed("random:7:small") == (7, True)
    assert weights.random_seed("installed") is None
    for bad in ("random:", "random:x", "random:3:huge"):
        with pytest.raises(InputError):
            weights.random_seed(bad)


def test_the_command_line_lists_fetches_verifies_and_removes(hub):
    run = CliRunner()
    rows = json.loads(run.invoke(app, ["list", "--json"]).stdout)
    assert {"vggt-1b", "raft-large", "dvdm-lora"} <= {row["name"] for row in rows} and not any(row["installed"] for row in rows)
    assert run.invoke(app, ["fetch", "vggt-1b"]).exit_code == 0
    listing = run.invoke(app, ["list"]).stdout
    assert "installed" in listing and "non-commercial" in listing
    assert "as installed" in run.invoke(app, ["verify"]).stdout
    (weights.weights_root() / "vggt-1b" / "model.safetensors").unlink()
    result = run.invoke(app, ["verify", "vggt-1b"])
    assert isinstance(result.exception, WeightsMissing) and "missing" in result.stdout
    assert "freed" in run.invoke(app, ["remove", "vggt-1b"]).stdout


def test_a_network_checkpoint_loads_strictly_after_one_key_filter(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from vs3r_engine.methods.vggt4d import checkpoint

    network = checkpoint.random_network(checkpoint.SMALL, 3)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    published = {f"module.{name}": tensor for name, tensor in state.items()} | {"module.track_head.feature.weight": torch.zeros(4)}
    save_file(published, tmp_path / "model.safetensors")
    read = checkpoint.built(checkpoint.filtered(load_tensors(tmp_path / "model.safetensors")), checkpoint.SMALL)
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.state_dict().items())
    for wrong in ({k: v for k, v in state.items() if "pos_embed" not in k}, state | {"extra.weight": torch.zeros(1)}):
        with pytest.raises(WeightsMissing) as error:
            checkpoint.built(wrong, checkpoint.SMALL)
        assert error.value.code == "weights-foreign"


def test_a_preparation_that_is_stopped_or_out_of_date_is_not_used(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import safetensors.torch

    from vs3r_engine.methods.vggt4d import checkpoint

    monkeypatch.setattr(checkpoint, "VggtShape", lambda: checkpoint.SMALL)
    save = safetensors.torch.save_file
    save(checkpoint.random_network(checkpoint.SMALL, 3).state_dict(), tmp_path / "model.safetensors")

    def stopped(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prepare(tmp_path, lambda text: None)
    token = "aggregator.camera_token"
    before = checkpoint.state_of(tmp_path)[token]
    monkeypatch.setattr(safetensors.torch, "save_file", save)
    prepared = checkpoint.prepare(tmp_path, lambda text: None)
    assert (checkpoint.state_of(tmp_path)[token] == before).all()
    save(checkpoint.random_network(checkpoint.SMALL, 4).state_dict(), tmp_path / "model.safetensors")
    os.utime(prepared, (1, 1))
    assert (checkpoint.state_of(tmp_path)[token] != before).any()


def test_equal_seeds_make_equal_networks():
    torch = pytest.importorskip("torch")
    from vs3r_engine.methods.vggt4d import checkpoint

    a, b, c = (checkpoint.load(f"random:{seed}:small", "cpu").network.state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a) and not torch.equal(a["aggregator.camera_token"], c["aggregator.camera_token"])
