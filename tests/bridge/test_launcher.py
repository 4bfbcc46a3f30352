# SPDX-License-Identifier: Apache-2.0
"""The engine found, started, watched, started again; and jobs that live through all of it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
from filelock import FileLock

from host_bridge.client import EngineClient, EngineLost
from host_bridge.launcher import EngineState, Launcher, write_launch_file
from tests.fakes.engine import make_media
from tests.fakes.engine_process import ROOT, EngineProcess, command, is_running, kill, kill_with_worker, wait_until
from vs3r_engine.errors import ProtocolError, SetupError
from vs3r_engine.service import protocol as p
from vs3r_engine.service import rendezvous
from vs3r_engine.service.command import serve
from vs3r_engine.service.rendezvous import Connection, Launch, connection_file, launch_file, read_connection


@pytest.fixture
def directory(monkeypatch):
    """A runtime directory with a short path; whatever engine runs in it is ended."""
    monkeypatch.chdir(ROOT)
    path = Path(tempfile.mkdtemp(prefix="vs3r-"))
    yield path
    connection = read_connection(connection_file(path), of_any_protocol=True)
    if connection is not None and is_running(connection.pid):
        kill_with_worker(connection.pid)
    shutil.rmtree(path, ignore_errors=True)


def launcher_for(directory: Path, **options) -> Launcher:
    return Launcher(directory, command=command(directory, **options))


def job(tmp_path, name="clip", **facts) -> p.Stabilize:
    return p.Stabilize(p.Source(path=make_media(tmp_path / f"{name}.json", **facts)), str(tmp_path / f"{name}.out"))


def lines(count: int) -> str:
    return "".join(f"frame {i} smoothness 50.0\n" for i in range(count))


def test_the_engine_is_started_once_and_found_warm_afterwards(directory):
    launcher = launcher_for(directory)
    assert launcher.find() is None and launcher.state is EngineState.ABSENT
    with launcher.ensure() as client:
        first = client.connection.engine
    assert launcher.state is EngineState.RUNNING
    with launcher_for(directory).ensure() as client:
        assert client.connection.engine == first
    assert launcher.stop() and launcher.state is EngineState.ABSENT
    assert not launcher.stop()
    assert not list(directory.glob("start-*"))


def test_what_a_running_engine_keeps_open_stands_in_no_ones_way_and_is_removed_once_it_is_gone(directory, monkeypatch):
    left = directory / f"start-{2**22 + 1}.log"  # of a process that is gone
    left.touch()

    def refused_by_windows(path, missing_ok=False):
        if path.name == f"start-{os.getpid()}.log":
            raise PermissionError(13, "used by another process")
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", refused_by_windows)
    with launcher_for(directory).ensure() as client:
        client.ping()
    assert [path.name for path in directory.glob("start-*")] == [f"start-{os.getpid()}.log"]


def test_an_engine_keeps_the_disk_free_from_which_it_was_started(directory, tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("VS3R_CACHE_DIR", "cache")
    monkeypatch.setattr("vs3r_engine.service.server.serve", lambda options: seen.append((Path.cwd(), options.keys)))
    serve(key_directory=Path("keys"))
    assert seen == [(directory, tmp_path / "keys")] and os.environ["VS3R_CACHE_DIR"] == str(tmp_path / "cache")


def test_on_windows_the_engine_and_its_worker_have_no_window(directory, monkeypatch):
    started = []
    monkeypatch.setattr("host_bridge.launcher.subprocess.Popen", lambda *_, **how: started.append(how) or SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr("host_bridge.launcher.sys.platform", "win32")
    launcher_for(directory)._start(directory / "start.log")
    (how,) = started
    assert how["creationflags"] == 0x08000200, "no window, no Ctrl-C, and not detached: then its worker would open a window"
    assert "start_new_session" not in how


def test_on_windows_a_file_that_somebody_reads_is_replaced_a_moment_later(directory, monkeypatch):
    replace, refusals = Path.replace, [PermissionError(13, "in use")] * 3

    def refused_at_first(path, target):
        if refusals:
            raise refusals.pop()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refused_at_first)
    with pytest.raises(SetupError):
        rendezvous.write_private(directory / "a.json", b"a")
    monkeypatch.setattr("vs3r_engine.service.rendezvous.sys.platform", "win32")
    rendezvous.write_private(directory / "a.json", b"a")
    assert (directory / "a.json").read_bytes() == b"a" and not refusals


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process keeps the time it was started at")
def test_an_engine_is_found_after_the_clock_was_set(directory, monkeypatch):
    """As a network's time, or the end of a virtual machine's pause, sets it; another process of its number is still none."""
    from psutil import _pslinux

    with launcher_for(directory).ensure() as client:
        boot_unix_s = psutil.boot_time()
        for set_s in (3600, -86400):
            monkeypatch.setattr(_pslinux, "boot_time", lambda set_s=set_s: boot_unix_s + set_s)
            monkeypatch.setattr(psutil, "boot_time", _pslinux.boot_time)
            assert client.is_alive
            with launcher_for(directory).find() as found:
                assert found.connection.engine == client.connection.engine
        monkeypatch.undo()
        stale = msgspec.structs.replace(client.connection, started_unix_s=client.connection.started_unix_s - 3600)
        assert not rendezvous.is_running(stale)


def test_launchers_that_start_at_once_end_up_with_one_engine(directory):
    def engine(_):
        with launcher_for(directory).ensure() as client:
            return client.connection.engine

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(engine, range(3)))) == 1


def test_an_engine_is_started_once_the_one_that_ends_is_gone(directory):
    """It has withdrawn its connection file and still waits for its worker."""
    ending = FileLock(directory / "engine.lock", thread_local=False)
    ending.acquire()
    release = threading.Timer(1.5, ending.release)
    release.start()
    with launcher_for(directory).ensure() as client:
        assert client.is_alive
    release.join()
    assert not list(directory.glob("start-*"))


def test_an_engine_that_cannot_start_says_why(directory):
    with pytest.raises(SetupError, match=r"keys.*engine-not-started"):
        launcher_for(directory, listen="tcp://127.0.0.1:21000").ensure()
    with pytest.raises(SetupError, match="engine-not-started"):
        Launcher(directory, command=["/no/such/program"]).ensure()


@pytest.mark.parametrize("left", [b"", b"\0" * 374, b"{}"])
def test_a_connection_file_that_a_crash_spoiled_is_none(directory, left):
    file = connection_file(directory)
    file.write_bytes(left)
    launcher = launcher_for(directory)
    assert launcher.find() is None and launcher.state is EngineState.ABSENT and not launcher.stop()
    with pytest.raises(ProtocolError, match="connection-file"):
        Launcher(endpoint_file=file).find()
    with launcher.ensure() as client:
        assert client.is_alive


def test_an_engine_that_cannot_even_say_that_the_disk_is_full_ends_with_those_words(directory, monkeypatch):
    monkeypatch.setattr("host_bridge.launcher.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(SetupError, match=r"The disk of .* is full\."):
        Launcher(directory, command=[sys.executable, "-c", "raise SystemExit(3)"]).ensure()


def test_a_private_file_that_cannot_be_written_leaves_nothing_half_written(directory):
    (directory / "engine.json").mkdir()
    with pytest.raises(SetupError, match="directory-unusable"):
        rendezvous.write_private(directory / "engine.json", b"{}")
    assert [file.name for file in directory.iterdir()] == ["engine.json"]
    (directory / "engine.json").rmdir()


def test_an_engine_that_is_not_ours_is_never_started(directory):
    with pytest.raises(SetupError, match="engine-absent"):
        Launcher(endpoint_file=directory / "engine.json").ensure()


def test_an_engine_of_another_version_is_refused(directory):
    with EngineProcess() as engine:
        content = json.loads(connection_file(engine.directory).read_text())
        (directory / "engine.json").write_text(json.dumps({**content, "protocol": "9.0"}))
        launcher = launcher_for(directory)
        with pytest.raises(ProtocolError, match="protocol-version"):
            launcher.ensure()
        assert launcher.state is EngineState.REFUSED
    (directory / "engine.json").unlink()


def test_an_engine_of_another_version_is_ours_to_stop(directory):
    with launcher_for(directory).ensure() as client:
        connection = client.connection
    file = connection_file(directory)
    file.write_text(json.dumps({**json.loads(file.read_text()), "protocol": "9.0"}))
    with pytest.raises(ProtocolError, match="protocol-version"):
        Launcher(endpoint_file=file).stop()
    assert rendezvous.is_running(connection)
    assert launcher_for(directory).stop() and not rendezvous.is_running(connection)


def test_an_engine_outlives_its_launcher(directory):
    code = (
        "import sys; from pathlib import Path; from host_bridge.launcher import Launcher\n"
        "from tests.fakes.engine_process import command\n"
        "d = Path(sys.argv[1]); c = Launcher(d, command=command(d)).ensure()\n"
        "print(c.connection.pid); c.close()"
    )
    launched = subprocess.run([sys.executable, "-c", code, str(directory)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert is_running(int(launched.stdout))


def test_the_launch_file_tells_other_hosts_how_to_start_an_engine_from_any_folder(tmp_path):
    write_launch_file()
    launch = p.decode(launch_file().read_bytes(), Launch, "launch")
    assert launch.program == [sys.executable, "-P", "-m", "host_bridge", "engine", "start"]
    (tmp_path / "typer.py").write_text("raise SystemExit(9)")
    subprocess.run([*launch.program[:-2], "--help"], cwd=tmp_path, check=True, capture_output=True)
    assert launch_file().stat().st_mode & 0o777 == 0o600


def kill_engine(directory: Path) -> int:
    connection = read_connection(connection_file(directory))
    kill(connection.pid)
    return connection.pid


def run_with_kills(directory: Path, tmp_path: Path, kills: int, frames: int, step_s: float, seed: int) -> list[float]:
    """Seconds until each kill of the engine was noticed; the result equals an undisturbed run's."""
    rng = random.Random(seed)
    request = job(tmp_path, frames=frames, step_s=step_s)
    noticed, killed_s, survived = [], 0.0, False
    last = None
    at = sorted(rng.uniform(0.05, 0.95) for _ in range(kills))
    for event in launcher_for(directory).run(request):
        if event.kind == "engine":
            noticed.append(time.monotonic() - killed_s)
        last = event.job or last
        survived = last is not None and last.is_final
        if at and event.kind == "progress" and event.job.fraction >= at[0]:
            at.pop(0)
            killed_s = time.monotonic()
            kill_engine(directory)
    assert survived and last.state == "done" and len(noticed) == kills
    assert (tmp_path / "clip.out").read_text() == lines(frames)
    return noticed


def test_a_job_goes_on_when_its_engine_is_killed(directory, tmp_path):
    noticed = run_with_kills(directory, tmp_path, kills=1, frames=100, step_s=0.01, seed=3)
    assert max(noticed) < 5


@pytest.mark.slow
def test_a_300_frame_job_lives_through_five_kills_at_random_moments(directory, tmp_path):
    noticed = run_with_kills(directory, tmp_path, kills=5, frames=300, step_s=0.02, seed=11)
    print("noticed after", [round(seconds, 2) for seconds in noticed], "s")
    assert max(noticed) < 5


def test_a_frozen_engine_is_noticed_within_5_s(directory):
    with EngineProcess() as engine, engine.client() as client:
        client.hello()
        engine.process.send_signal(signal.SIGSTOP)
        try:
            begun_s = time.monotonic()
            with pytest.raises(EngineLost):
                while True:
                    client.status()
            assert time.monotonic() - begun_s < 5
            assert wait_until(lambda: not client.is_alive, 6) < 5
        finally:
            engine.process.send_signal(signal.SIGCONT)
        wait_until(lambda: client.is_alive, 10)
        assert client.hello().protocol == p.VERSION


def test_an_engine_that_froze_for_good_is_replaced(directory):
    launcher = launcher_for(directory)
    with launcher.ensure() as client:
        frozen = client.connection.pid
    os.kill(frozen, signal.SIGSTOP)
    begun_s = time.monotonic()
    with launcher.ensure() as client:
        assert client.connection.pid != frozen and client.hello().protocol == p.VERSION
    assert time.monotonic() - begun_s < 20
    wait_until(lambda: not is_running(frozen))


def test_an_engine_that_keeps_dying_is_given_up(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("host_bridge.launcher.RESTARTS", 1)
    with pytest.raises(EngineLost, match="engine-lost"):
        for event in launcher_for(directory).run(job(tmp_path, step_s=0.05)):
            if event.kind == "progress":
                kill_engine(directory)


def test_everything_of_a_killed_client_is_freed(directory, tmp_path):
    path = make_media(tmp_path / "clip.json", step_s=0.05, frames=2000)
    code = (
        "import sys; from pathlib import Path; from host_bridge.client import EngineClient\n"
        "from vs3r_engine.service import protocol as p; from vs3r_engine.service.rendezvous import read_connection\n"
        "c = EngineClient(read_connection(Path(sys.argv[1]) / 'engine.json'))\n"
        "c.put_frames(p.PutFrames('up', 16, 16, [p.UploadedFrame(0, 'uint8', 'gray')]), [bytes(256)])\n"
        "c.submit(p.Stabilize(p.Source(path=sys.argv[2]), sys.argv[2] + '.out', job_id='orphan'))\n"
        "c.frame(p.FrameRequest(p.Source(path=sys.argv[2]), 7))\n"
        "print('ready', flush=True); input()"
    )
    with EngineProcess(session_timeout=5) as engine, engine.client() as client:
        host = subprocess.Popen(
            [sys.executable, "-c", code, str(engine.directory), path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert host.stdout.readline() == "ready\n"
        uploads = engine.directory / "store" / "uploads"
        assert client.status("orphan").sessions == 2 and len(list(uploads.iterdir())) == 1
        kill(host.pid)
        host.communicate()
        took_s = wait_until(
            lambda: (
                client.status().sessions == 1
                and client.status("orphan").job.is_final
                and client.status().frames_waiting == 0
                and not list(uploads.iterdir())
            ),
            30,
        )
        assert client.status("orphan").job.state == "cancelled" and took_s < 30


def test_a_client_waits_no_longer_than_its_deadline(directory):
    """Nobody listens at all: the socket of a directory where no engine is."""
    connection = Connection(
        "1.0",
        "x",
        "0",
        os.getpid(),
        psutil.Process().create_time(),
        f"ipc://{directory}/none",
        f"ipc://{directory}/none",
        f"ipc://{directory}/none",
        token="x",
    )
    with EngineClient(connection) as client:
        begun_s = time.monotonic()
        with pytest.raises(EngineLost):
            client.hello()
        assert time.monotonic() - begun_s < 4
