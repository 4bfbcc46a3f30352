# SPDX-License-Identifier: Apache-2.0
"""The engine as the plug-in meets it: absent, started by it, killed, of another version, refusing; and Analyze."""

import contextlib
import gc
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.fakes.engine import make_media
from tests.fakes.engine_process import EngineProcess, kill, wait_until
from tests.plugin.ofx_host import FAILED, OK, Arguments, Instance, Layout
from tests.plugin.test_render import effect, gray, index_of

ROOT = Path(__file__).resolve().parents[2]
START = """import subprocess, sys, time, pathlib
directory = pathlib.Path(sys.argv[1])
program = [sys.executable, "-m", "tests.fakes.engine", "--directory", str(directory), "--idle-exit", "5"]
subprocess.Popen(program, cwd=sys.argv[2], start_new_session=True)
for _ in range(1000):
    if (directory / "engine.json").exists(): sys.exit(0)
    time.sleep(0.02)
sys.exit(3)"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(runtime, configuration) folders, where no engine runs and none is installed. Short: sockets lie there."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vs3r-") as root:
        runtime, config = Path(root) / "run", Path(root) / "config"
        runtime.mkdir(mode=0o700)
        config.mkdir()
        monkeypatch.setenv("VS3R_RUNTIME_DIR", str(runtime))
        monkeypatch.setenv("VS3R_CONFIG_DIR", str(config))
        yield runtime, config


def install(config, *program):
    (config / "launch.json").write_text(json.dumps({"program": list(program)}))


def test_without_an_engine_there_is_a_slate_and_a_status_and_never_a_hang(spec_host, places, tmp_path):
    instance = effect(spec_host, "/media/a.mov", picture=gray(size=(120, 240)))
    begun_s = time.monotonic()
    for _ in range(4):
        status, pixels = instance.render(Arguments(1, interactive=True))
        assert status == OK and (pixels[0] == 0.5).all() and (pixels == 0.875).any()
        time.sleep(0.1)
    assert time.monotonic() - begun_s < 3
    instance.sync()
    assert "not installed" in instance.value("status")
    status, pixels = instance.render(Arguments(1))
    assert status == FAILED and "not installed" in instance.messages[-1]
    # Some hosts go on with what lies in the output: it is not the original.
    assert not pixels[0].any() and (pixels == 0.875).any()


def test_a_render_without_an_engine_fails_frame_by_frame_at_once(spec_host, places, tmp_path):
    """A start is tried again after a longer and longer pause, which no frame of a batch waits for."""
    instance = effect(spec_host, "/media/a.mov")
    begun_s = time.monotonic()
    assert [instance.render(Arguments(at))[0] for at in range(20)] == [FAILED] * 20
    assert time.monotonic() - begun_s < 10 and len(instance.messages) == 20


def test_an_engine_that_does_not_start_is_said_to(spec_host, places, tmp_path):
    install(places[1], sys.executable, "-c", "raise SystemExit(3)")
    instance = effect(spec_host, "/media/a.mov")
    assert instance.render(Arguments(1))[0] == FAILED and "vs3r doctor" in instance.messages[-1]


@pytest.mark.parametrize(("change", "said"), [({"protocol": "2.0"}, "different versions"), ({"token": "wrong"}, "refuses")])
def test_an_engine_that_will_not_talk_is_explained(spec_host, running_engine, places, tmp_path, change, said):
    connection = json.loads((running_engine.directory / "engine.json").read_text())
    (places[0] / "engine.json").write_text(json.dumps(connection | change))
    instance = effect(spec_host, make_media(tmp_path / "a.json"))
    assert instance.render(Arguments(1))[0] == FAILED and said in instance.messages[-1]


def test_an_engine_that_accepts_nobody_any_more_does_not_hang_the_host(spec_host, places):
    """One that is stopped, say, while its line of connections fills up."""
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no local sockets")
    line = socket.socket(socket.AF_UNIX)
    line.bind(str(places[0] / "full"))
    line.listen(0)
    waiting = []
    with contextlib.suppress(BlockingIOError):
        while len(waiting) < 5000:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect(str(places[0] / "full"))
    endpoint = f"ipc://{places[0] / 'full'}"
    connection = {"protocol": "1.0", "engine": "e", "pid": os.getpid(), "request": endpoint, "control": endpoint, "token": "t"}
    (places[0] / "engine.json").write_text(json.dumps(connection))
    instance = effect(spec_host, "/media/a.mov")
    rendered = []
    thread = threading.Thread(target=lambda: rendered.append(instance.render(Arguments(1, interactive=True))), daemon=True)
    thread.start()
    thread.join(5)
    for each in (line, *waiting):
        each.close()
    assert rendered and rendered[0][0] == OK


def test_the_engine_is_started_and_after_its_death_started_again(spec_host, places, tmp_path, monkeypatch):
    install(places[1], sys.executable, "-c", START, str(places[0]), str(ROOT))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/the/hosts/own")
    path = make_media(tmp_path / "a.json", step_s=0.1)
    instance = effect(spec_host, path)
    status, pixels = instance.render(Arguments(42))
    assert status == OK and index_of(pixels) == 42
    first = json.loads((places[0] / "engine.json").read_text())
    assert "LD_LIBRARY_PATH" not in psutil.Process(first["pid"]).environ()
    rendered = []
    instance.edit("smoothness", 77.0)
    thread = threading.Thread(target=lambda: rendered.append(instance.render(Arguments(60))))
    thread.start()
    time.sleep(0.05)
    kill(first["pid"])
    (places[0] / "engine.json").unlink()
    thread.join(40)
    assert rendered and rendered[0][0] == OK and index_of(rendered[0][1]) == 60
    second = json.loads((places[0] / "engine.json").read_text())
    assert second["engine"] != first["engine"]
    assert instance.render(Arguments(61))[0] == OK
    kill(second["pid"])


@pytest.mark.slow
def test_a_final_render_waits_for_a_file_that_takes_long_to_read(spec_host, engine, tmp_path):
    status, pixels = effect(spec_host, make_media(tmp_path / "a.json", read_s=11)).render(Arguments(42))
    assert status == OK and index_of(pixels) == 42


def test_nothing_is_asked_of_the_engine_before_the_first_frame(spec_host, places):
    """No file is read, no thread started, nothing launched by describing and creating."""
    install(places[1], sys.executable, "-c", f"open({str(places[0] / 'launched')!r}, 'w')")
    before = threads()
    instance = Instance(spec_host)
    instance.edit("smoothness", 10.0)
    assert instance.destroy() == OK and threads() == before
    time.sleep(0.2)
    assert not (places[0] / "launched").exists()


def threads():
    return psutil.Process().num_threads()


def test_two_hundred_instances_leave_no_memory_and_no_thread(library, engine, tmp_path):
    from tests.plugin.ofx_host import Host

    def resident_kib():
        gc.collect()
        return psutil.Process().memory_info().rss // 1024

    path = make_media(tmp_path / "a.json")
    with Host(library) as host:
        before_threads = threads()
        for cycle in range(200):
            if cycle == 50:
                before_kib = resident_kib()
            instance = effect(host, path)
            assert instance.render(Arguments(cycle % 100))[0] == OK
            assert instance.destroy() == OK
        # The test host itself keeps its Python objects.
        assert resident_kib() - before_kib < 20_000 and threads() <= before_threads + 1
    assert threads() <= before_threads


def upload(host, frames, layout=None, first=10):
    instance = Instance(host, layout=layout)
    instance.connect(
        lambda at: frames[int(at) - first] if 0 <= int(at) - first < len(frames) else None,
        (first, first + len(frames) - 1),
    )
    return instance


@pytest.fixture
def film():
    rng = np.random.default_rng(4)
    return np.concatenate([rng.random((5, 18, 24, 3)), np.ones((5, 18, 24, 1))], axis=-1).astype(np.float32)


def test_analyze_reads_the_clip_and_its_frames_come_back(spec_host, engine, film):
    instance = upload(spec_host, film)
    assert instance.render(Arguments(12))[0] == FAILED and "Press Analyze" in instance.messages[-1]
    instance.edit("analyze")
    assert instance.progress == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    for at in (14, 10, 12):
        status, pixels = instance.render(Arguments(at))
        assert status == OK
        np.testing.assert_allclose(pixels, film[at - 10], atol=1e-6)
    status, pixels = instance.render(Arguments(12, size=(9, 12)))
    assert status == OK and abs(float(pixels.mean()) - float(film[2].mean())) < 0.01
    saved = instance.saved()
    assert json.loads(saved["state"])["upload"].startswith("u-") and len(saved["state"]) < 1000
    other = Instance(spec_host, state=saved)
    other.connect(lambda at: np.flip(film, 1)[int(at) - 10] * 0.3, (10, 14))
    assert other.render(Arguments(12))[0] == FAILED and "another one" in other.messages[-1]
    copy = upload(spec_host, film)
    copy.parameters["state"].value = saved["state"]
    assert copy.render(Arguments(12))[0] == OK


def test_nan_pixels_become_black_and_nothing_else_changes(spec_host, engine, film):
    film[2, 5, 7] = np.nan
    instance = upload(spec_host, film)
    instance.edit("analyze")
    status, pixels = instance.render(Arguments(12))
    assert status == OK and not pixels[5, 7].any()
    film[2, 5, 7] = 0
    np.testing.assert_allclose(pixels, film[2], atol=1e-6)


def test_reading_can_be_cancelled(spec_host, engine, film):
    instance = upload(spec_host, film)
    instance.cancel_progress_after = 2
    instance.edit("analyze")
    assert "cancelled" in instance.value("status") and instance.render(Arguments(12))[0] == FAILED


def test_pressed_again_the_analysis_is_cancelled_and_once_more_begun_anew(resolve_host, engine, tmp_path):
    instance = effect(resolve_host, make_media(tmp_path / "a.json", step_s=0.5))

    def shown(words):
        assert instance.render(Arguments(3, source_frame=3, interactive=True))[0] == OK
        instance.sync()
        return words in instance.value("status")

    instance.edit("analyze")
    assert instance.value("status") == "Analysing."
    wait_until(lambda: shown("analysing"))
    instance.edit("analyze")
    assert "cancelled" in instance.value("status")
    for _ in range(10):
        wait_until(lambda: shown("cancelled"))
        time.sleep(0.2)
    instance.edit("analyze")
    status, pixels = instance.render(Arguments(3, source_frame=3))
    assert status == OK and index_of(pixels) == 3, instance.messages


def test_a_host_without_other_frames_is_told_to_name_the_file(library, engine, film):
    from tests.plugin.ofx_host import Host

    with Host(library, "mlt") as host:
        instance = upload(host, film)
        status, _ = instance.render(Arguments(12))
        assert status == FAILED and "file" in instance.messages[-1]


def test_values_survive_saving_and_presets_set_numbers(spec_host, engine):
    instance = Instance(spec_host)
    instance.edit("preset", 3)
    assert (instance.value("smoothness"), instance.value("strength")) == (30.0, 80.0)
    instance.edit("smoothness", 50.0)
    again = Instance(spec_host, state=instance.saved())
    assert (again.value("preset"), again.value("smoothness"), again.value("strength")) == (3, 50.0, 80.0)
    assert json.loads(again.value("state")) == {"v": 1, "preset": "subtle"}


@pytest.mark.parametrize("size", [(16, 16), pytest.param((4320, 8192), marks=pytest.mark.slow)])
def test_the_smallest_and_the_largest_pictures(spec_host, engine, tmp_path, size):
    instance = effect(
        spec_host,
        make_media(tmp_path / "a.json", width=size[1], height=size[0]),
        Layout(np.uint8),
        lambda at: np.full((*size, 4), 9, np.uint8),
    )
    status, pixels = instance.render(Arguments(99))
    assert status == OK and pixels.shape == (*size, 4) and (pixels == np.uint8([25, 0, 255, 255])).all()


def test_a_tcp_engine_is_as_good(spec_host, tmp_path, monkeypatch):
    with EngineProcess(tcp=True) as engine:
        monkeypatch.setenv("VS3R_RUNTIME_DIR", str(engine.directory))
        assert engine.connection.request.startswith("tcp://127.0.0.1:")
        assert index_of(effect(spec_host, make_media(tmp_path / "a.json")).render(Arguments(42))[1]) == 42


def test_connections_to_an_engine_that_is_gone_are_made_anew(spec_host, tmp_path, monkeypatch):
    with EngineProcess() as engine:
        monkeypatch.setenv("VS3R_RUNTIME_DIR", str(engine.directory))
        instance = effect(spec_host, make_media(tmp_path / "a.json"))
        assert index_of(instance.render(Arguments(42))[1]) == 42
        engine.process.kill()
        engine.process.wait()
        engine.process.stderr.close()
        engine.restart()
        assert index_of(instance.render(Arguments(43))[1]) == 43
