# SPDX-License-Identifier: Apache-2.0
"""Who gets in, what they can do to the engine, and what lies around on disk."""

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import zmq
from zmq.utils import z85

from host_bridge.client import EngineClient
from tests.engine.protocol_examples import examples
from tests.fakes.engine import make_media
from tests.fakes.engine_process import ROOT, EngineProcess, RawPeer, command, is_running, kill_with_worker, memory_mib, wait_until
from vs3r_engine.errors import DiskFull, ProtocolError, SetupError
from vs3r_engine.service import auth
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import connection_file, read_connection


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def engine():
    with EngineProcess() as engine:
        yield engine


@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize("socket", ["request", "control"])
def test_without_the_right_token_there_is_silence(engine, token, socket):
    with RawPeer(engine.connection, token, socket) as peer:
        kind = "status" if socket == "request" else "ping"
        assert peer.ask(kind, {}, wait_s=0.7) is None
    with RawPeer(engine.connection, "right", socket) as peer:
        assert peer.ask(kind, {}).status == "ok"


def test_events_need_the_token_too(engine, tmp_path):
    heard = []

    def listen(token: str) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.linger, socket.plain_username, socket.plain_password = 0, b"vs3r", token.encode()
        socket.subscribe(b"")
        socket.connect(engine.connection.events)
        if socket.poll(1500):
            heard.append(token)
        socket.close()
        context.term()

    threads = [threading.Thread(target=listen, args=(token,)) for token in ("wrong", engine.connection.token)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    with engine.client() as client:
        client.submit(p.Stabilize(p.Source(path=make_media(tmp_path / "a.json")), str(tmp_path / "out")))
        for thread in threads:
            thread.join()
    assert heard == [engine.connection.token]


def test_a_client_with_a_stale_token_is_told_so(engine):
    import msgspec

    with (
        EngineClient(msgspec.structs.replace(engine.connection, token="stale")) as client,
        pytest.raises(ProtocolError, match="not-allowed"),
    ):
        client.hello()


def test_only_the_user_can_read_what_lies_around(engine):
    assert mode(engine.directory) == 0o700
    assert mode(connection_file(engine.directory)) == 0o600
    assert mode(engine.directory / "engine.log") == 0o600
    for path in engine.directory.glob("*.request"):
        assert mode(path) == 0o600
    assert mode(engine.directory / "store") == 0o700


@pytest.mark.parametrize("tcp", [False, True])
def test_by_default_nothing_listens_beyond_this_machine(tcp):
    with EngineProcess(tcp=tcp) as engine:
        with engine.client() as client:
            client.hello()
        process = psutil.Process(engine.process.pid)
        listening = [
            c.laddr
            for each in [process, *process.children(recursive=True)]
            for c in each.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        ]
        assert all(address.ip == "127.0.0.1" for address in listening)
        assert len(listening) == (3 if tcp else 0)
        assert all(address.port != 15000 and address.port < 49152 for address in listening)


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:21000", "tcp://*:21000", "tcp://127.0.0.1:21000"])
def test_listening_on_an_address_needs_keys(tmp_path, address):
    refused = subprocess.run(command(tmp_path / "run", listen=address), cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0 and "[keys-required]" in refused.stderr
    refused = subprocess.run(command(tmp_path / "run", listen=address, keys=tmp_path / "none"), cwd=ROOT, capture_output=True, text=True)
    assert "[keys-required]" in refused.stderr


def test_every_secret_key_is_the_users_alone(tmp_path):
    keys = tmp_path / "keys"
    auth.create_keys(keys)
    auth.create_keys(keys / "hosts", "laptop")
    assert mode(keys) == mode(keys / "hosts") == 0o700
    for secret in keys.rglob("*.key_secret"):
        assert mode(secret) == 0o600
    (keys / "server.key_secret").chmod(0o644)
    with pytest.raises(SetupError, match="keys-exposed"):
        auth.KeyAuthority(keys)


def test_a_secret_key_is_not_taken_for_a_hosts_public_one(tmp_path):
    auth.create_keys(tmp_path / "keys")
    auth.create_keys(tmp_path / "host", "laptop")
    with pytest.raises(SetupError, match="key-unreadable"):
        auth.allow_client(tmp_path / "keys", "laptop", tmp_path / "host" / "laptop.key_secret")
    with pytest.raises(SetupError, match="keys-exist"):
        auth.create_keys(tmp_path / "keys")


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_directory_that_cannot_be_the_users_own_is_refused_and_left_as_it_is(tmp_path, monkeypatch, is_shared):
    from host_bridge.launcher import Launcher, write_launch_file
    from vs3r_engine.service.server import ServerOptions, serve

    place = tmp_path / "place"
    if is_shared:
        place.mkdir()
        place.chmod(0o1777)
    else:
        place.write_text("a file")
    before = mode(place)
    monkeypatch.setenv("VS3R_CONFIG_DIR", str(place))
    for use in (
        lambda: serve(ServerOptions(directory=place)),
        lambda: Launcher(place).ensure(),
        write_launch_file,
        lambda: auth.create_keys(place),
    ):
        with pytest.raises(SetupError, match=r"place cannot be used.*directory-unusable"):
            use()
    assert mode(place) == before


def test_an_engine_without_a_cache_leaves_no_sockets(tmp_path):
    from vs3r_engine.service.server import ServerOptions, serve

    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match="cache-unusable"):
        serve(ServerOptions(directory=tmp_path / "run", cache_root=tmp_path / "cache", log=tmp_path / "log"))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["engine.lock"]


def test_a_hosts_new_key_takes_the_place_of_its_old_one_at_once(tmp_path):
    auth.create_keys(tmp_path / "keys")
    authority = auth.KeyAuthority(tmp_path / "keys")
    old, new = (auth.create_keys(tmp_path / name, "laptop") for name in ("old", "new"))

    def is_allowed(public_file):
        return authority.user([z85.decode(auth.load_key(public_file)[0])]) is not None

    auth.allow_client(tmp_path / "keys", "laptop", old)
    assert is_allowed(old)
    auth.allow_client(tmp_path / "keys", "laptop", new)
    assert is_allowed(new) and not is_allowed(old)
    (tmp_path / "keys" / "clients" / "laptop.key").write_bytes(old.read_bytes())  # as cp does it
    assert not is_allowed(new)
    shutil.rmtree(tmp_path / "keys" / "clients")
    (tmp_path / "keys" / "clients").write_text("no directory")
    assert not is_allowed(old)
    with pytest.raises(SetupError, match="keys-required"):
        auth.allow_client(tmp_path / "keys", "laptop", old)
    (tmp_path / "keys" / "server.key_secret").write_text("nonsense")
    with pytest.raises(SetupError, match="key-unreadable"):
        auth.KeyAuthority(tmp_path / "keys")


def free_ports() -> int:
    import socket

    for first in range(30000, 40000, 10):
        try:
            for port in range(first, first + 3):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


def test_curve_admits_allowed_keys_only_and_a_revoked_one_at_once(tmp_path):
    keys, hosts = tmp_path / "keys", tmp_path / "hosts"
    auth.create_keys(keys)
    pairs = {}
    for name in ("friend", "stranger", "former"):
        public = auth.create_keys(hosts, name)
        pairs[name] = auth.load_key(hosts / f"{name}.key_secret")
        if name != "stranger":
            auth.allow_client(keys, name, public)
    server_key = auth.load_key(keys / "server.key")[0]
    with EngineProcess(listen=f"tcp://127.0.0.1:{free_ports()}", keys=keys) as engine:
        assert engine.connection.token == "" and engine.connection.server_key == server_key.decode()

        def peer(name: str, server: bytes = server_key) -> RawPeer:
            public, secret = pairs[name]
            return RawPeer(engine.connection, None, curve_serverkey=server, curve_publickey=public, curve_secretkey=secret)

        with peer("friend") as friend, peer("former") as former:
            assert friend.ask("jobs", {}).status == "ok"
            assert former.ask("jobs", {}).status == "ok"
            with peer("stranger") as stranger:
                assert stranger.ask("jobs", {}, wait_s=0.7) is None
            with peer("friend", server=zmq.curve_keypair()[0]) as misled:
                assert misled.ask("jobs", {}, wait_s=0.7) is None
            with RawPeer(engine.connection, "a token") as plain:
                assert plain.ask("jobs", {}, wait_s=0.7) is None
            with RawPeer(engine.connection, None) as nobody:
                assert nobody.ask("jobs", {}, wait_s=0.7) is None
            (keys / "clients" / "former.key").unlink()
            assert former.ask("jobs", {}, wait_s=0.7) is None
            assert friend.ask("jobs", {}).status == "ok"
        with peer("former") as again:
            assert again.ask("jobs", {}, wait_s=0.7) is None
        import msgspec

        public, secret = pairs["friend"]
        named = msgspec.structs.replace(engine.connection, public_key=public.decode(), secret_key=secret.decode())
        with EngineClient(named) as client:
            assert client.hello().protocol == p.VERSION
        assert is_running(engine.process.pid)


# --- nonsense --------------------------------------------------------------------------------------------------------


def nonsense(rng: random.Random, golden: list[tuple[bytes, ...]]) -> list[bytes]:
    """Random bytes, or a real message with some of it broken. Never a shutdown, never an upload of size."""
    if rng.random() < 0.3:
        return [rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 5))]
    parts = [bytearray(part) for part in rng.choice(golden)]
    part = rng.choice(parts)
    for _ in range(rng.randrange(1, 6)):
        action = rng.randrange(4)
        at = rng.randrange(max(1, len(part)))
        if action == 0 and part:
            part[at] = rng.randrange(256)
        elif action == 1:
            del part[at : at + rng.randrange(20)]
        elif action == 2:
            part[at:at] = rng.choice([b"null", b"1e999", b"-1", b'"', b"{", b"[[[[", b"\xff\xfe", b"99999999999999999999", b"NaN"])
        else:
            parts.insert(rng.randrange(len(parts) + 1), bytearray(rng.randbytes(rng.randrange(50))))
    return [bytes(part) for part in parts[:70]]


def fuzz(engine: EngineProcess, count: int, seed: int, tmp_path: Path) -> None:
    golden = [example.parts for example in examples() if example.kind == "request" and example.type not in ("shutdown", "cancel", "bye")]
    rng = random.Random(seed)
    path = make_media(tmp_path / "a.json", frames=max(100, count // 100), step_s=0.01)
    with (
        engine.client() as client,
        RawPeer(engine.connection) as request,
        RawPeer(engine.connection, socket="control") as control,
        RawPeer(engine.connection, "wrong") as stranger,
    ):
        client.submit(p.Stabilize(p.Source(path=path), str(tmp_path / "out"), job_id="undisturbed"))

        def send(first: int, until: int) -> None:
            for i in range(first, until):
                peer = request if i % 3 else control
                assert peer.socket.poll(60_000, zmq.POLLOUT), "the engine stopped reading"
                peer.socket.send_multipart(nonsense(rng, golden))
                if i % 50 == 0:
                    with contextlib.suppress(zmq.Again):  # the engine has hung up on it
                        stranger.socket.send_multipart([b"x" * 100], zmq.NOBLOCK, copy=True)
                for each in (request, control):
                    while each.socket.poll(0):
                        each.socket.recv_multipart()

        send(0, count // 4)
        wait_until(lambda: client.status() is not None)
        before = memory_mib(engine.process.pid)
        send(count // 4, count)
        wait_until(lambda: client.status("undisturbed").job.is_final, 60 + count / 500)
        assert client.status("undisturbed").job.state == "done"
        grown = memory_mib(engine.process.pid) - before
        assert grown < 24, f"{grown:.1f} MiB more after {count} messages"
    assert (tmp_path / "out").read_text().count("\n") == max(100, count // 100)
    assert is_running(engine.process.pid)


def test_3000_random_and_mutated_messages_change_nothing(tmp_path):
    with EngineProcess() as engine:
        fuzz(engine, 3000, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_100000_random_and_mutated_messages_change_nothing(tmp_path):
    with EngineProcess() as engine:
        fuzz(engine, 100_000, 2, tmp_path)


def test_bytes_that_are_no_zeromq_at_all_change_nothing():
    import socket

    with EngineProcess(tcp=True) as engine:
        host, port = engine.connection.request.removeprefix("tcp://").split(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, bytes(1000), b""):
            with socket.create_connection((host, int(port))) as peer:
                peer.sendall(data)
        with engine.client() as client:
            assert client.hello().protocol == p.VERSION


def test_part_0_beyond_1_mib_is_an_error_and_a_control_message_beyond_it_is_silence(engine):
    with RawPeer(engine.connection) as peer:
        assert peer.ask("hello", {"client": "x" * (1 << 20)}).error.code == "bad-message"
    with RawPeer(engine.connection, socket="control") as peer:
        assert peer.ask("ping", {"x": "x" * (1 << 20)}, wait_s=0.7) is None
    with engine.client() as client:
        client.ping()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([b"not json"], "bad-message"),
        ([b"[]"], "bad-message"),
        ([b"{}"], "bad-message"),
        ([b'{"v":"1.0","type":"hello","id":"1"}'], "bad-message"),
        ([b'{"v":"1.0","type":"hello","id":"1","session":"../x"}'], "bad-message"),
        ([b'{"v":"2.0","type":"hello","id":"1","session":"s"}'], "protocol-version"),
        ([b'{"v":"1.0","type":"nonsense","id":"1","session":"s"}'], "unknown-type"),
        ([b'{"v":"1.0","type":"ping","id":"1","session":"s"}'], "unknown-type"),
        ([b'{"v":"1.0","type":"hello","id":"1","session":"s","body":{}}'], "bad-field"),
        ([b'{"v":"1.0","type":"hello","id":"1","session":"s","body":{"client":7}}'], "bad-field"),
    ],
)
def test_malformed_messages_get_typed_errors(engine, parts, code):
    with RawPeer(engine.connection) as peer:
        peer.send(*parts)
        reply = peer.receive()
        assert reply.status == "error" and reply.error.code == code and reply.error.message
        assert reply.id == ("" if code == "bad-message" else "1")


def test_an_empty_message_gets_silence_and_no_harm(engine):
    with RawPeer(engine.connection) as peer:
        peer.send(b"")
        assert peer.receive().error.code == "bad-message"


# --- life ------------------------------------------------------------------------------------------------------------


def test_a_second_engine_in_the_same_directory_finds_the_first_and_ends(engine):
    second = subprocess.run(engine.command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert "[already-running]" in second.stderr
    with engine.client() as client:
        client.ping()


def test_a_graceful_stop_leaves_neither_files_nor_processes(tmp_path):
    with EngineProcess() as engine, engine.client() as client:
        worker = client.status().worker.pid
        client.submit(p.Stabilize(p.Source(path=make_media(tmp_path / "a.json", step_s=0.05)), str(tmp_path / "out")))
        client.shutdown()
        assert engine.process.wait(8) == 0
        assert not is_running(worker)
        assert sorted(path.name for path in engine.directory.iterdir()) == ["engine.lock", "engine.log", "store"]
        assert not (tmp_path / "out").exists()


def test_shutdown_when_idle_lets_the_job_finish_and_takes_no_more(tmp_path):
    from vs3r_engine.errors import ResourceError

    with EngineProcess() as engine:
        with engine.client() as client:
            job = p.Stabilize(p.Source(path=make_media(tmp_path / "a.json", step_s=0.02)), str(tmp_path / "out"), detached=True)
            client.submit(job)
            client.shutdown(when_idle=True)
            with pytest.raises(ResourceError, match="engine-stopping"):
                client.submit(p.Stabilize(job.source, str(tmp_path / "other")))
            with pytest.raises(ResourceError, match="engine-stopping"):
                client.frame(p.FrameRequest(p.Source(path=make_media(tmp_path / "new.json")), 3, wait_s=5))
        assert engine.process.wait(15) == 0
    assert (tmp_path / "out").exists()


def test_an_idle_engine_ends_by_itself():
    with EngineProcess(idle_exit=0.5) as engine:
        assert engine.process.wait(8) == 0


def test_an_engine_ends_with_the_process_it_is_tied_to():
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent,
        EngineProcess(parent=parent.pid) as engine,
    ):
        with engine.client() as client:
            client.ping()
        parent.kill()
        parent.wait()
        assert engine.process.wait(8) == 0


def test_the_worker_ends_with_a_killed_engine():
    with EngineProcess() as engine:
        worker = engine.worker_pid
        engine.process.kill()
        assert wait_until(lambda: not is_running(worker), 5) < 5


def test_a_killed_engines_connection_file_does_not_hinder_the_next():
    with EngineProcess() as engine:
        kill_with_worker(engine.process.pid)
        engine.process.wait()
        engine.process.stderr.close()
        assert connection_file(engine.directory).exists()
        engine.restart()
        with engine.client() as client:
            client.ping()
        sockets = [file.name for file in engine.directory.iterdir() if file.is_socket()]
        assert all(name.startswith(engine.connection.engine) for name in sockets), "the dead one's are gone"


def test_a_connection_file_of_another_major_version_is_refused(tmp_path):
    connection = json.loads(next(example.parts[0] for example in examples() if example.kind == "connection"))
    (tmp_path / "engine.json").write_text(json.dumps({**connection, "protocol": "2.0"}))
    with pytest.raises(ProtocolError, match=r"2\.0.*1\.0.*protocol-version"):
        read_connection(tmp_path / "engine.json")
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(ProtocolError, match="connection-file"):
        read_connection(tmp_path / "engine.json")


# --- disks and media -------------------------------------------------------------------------------------------------


def test_a_full_disk_fails_the_job_with_disk_full_and_leaves_no_broken_file(tmp_path, small_disk):
    disk = small_disk("4m")
    with EngineProcess(cache=disk / "store") as engine, engine.client() as client:
        path = make_media(tmp_path / "a.json", analysis_mib=8)
        job = client.submit(p.Stabilize(p.Source(path=path), str(tmp_path / "out")))
        wait_until(lambda: client.status(job.job_id).job.is_final)
        report = client.status(job.job_id).job
        assert report.state == "failed" and report.error.code == "disk-full" and report.error.hint
        left = [file for file in disk.rglob("*") if file.is_file() and file.parent.name not in ("locks",) and "leases" not in file.parts]
        assert left == [] and not (tmp_path / "out").exists()
        client.put_frames(p.PutFrames("up", 512, 512, [p.UploadedFrame(0, "float32", "gray")]), [bytes(512 * 512 * 4)])
        with pytest.raises(DiskFull, match="disk-full"):
            for index in range(1, 9):
                client.put_frames(p.PutFrames("up", 512, 512, [p.UploadedFrame(index, "float32", "gray")]), [bytes(512 * 512 * 4)])
        wait_until(lambda: not list((disk / "store" / "uploads").iterdir()))


def test_media_that_cannot_be_read_are_errors_that_name_the_file(tmp_path):
    """With the real pipeline's reader."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(20_000))
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\x10\0moov" + bytes(100))
    (tmp_path / "text.txt").write_text("hello")
    with EngineProcess(pipeline="vs3r_engine.pipeline") as engine, engine.client() as client:
        wait_until(lambda: client.status().worker.state == "idle", 30)
        for name in ("empty.mp4", "noise.mp4", "cut.mp4", "text.txt", "missing.mp4"):
            path = str(tmp_path / name)
            with pytest.raises(Exception, match=r"\[media-") as caught:
                client.probe(p.Source(path=path))
            assert name in caught.value.message, caught.value
            job = client.submit(p.Stabilize(p.Source(path=path), str(tmp_path / "out.mp4")))
            wait_until(lambda job=job: client.status(job.job_id).job.is_final)
            error = client.status(job.job_id).job.error
            assert error.code.startswith("media-") and name in error.message
        assert not (tmp_path / "out.mp4").exists()
        assert os.listdir(engine.directory / "store" / "tmp") == []
