# SPDX-License-Identifier: Apache-2.0
"""Engines as processes, for tests: started in a directory of their own, always ended with the test."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import zmq

from host_bridge.client import EngineClient
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Connection, connection_file, read_connection

ROOT = Path(__file__).resolve().parents[2]


def command(directory: Path, **options: Any) -> list[str]:
    """The command line of a fake engine; limits={"sessions": 2} and the like become JSON."""
    words = [sys.executable, "-m", "tests.fakes.engine", "--directory", str(directory)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


class EngineProcess:
    """A fake engine that runs until the end of the `with`."""

    def __init__(self, **options: Any) -> None:
        # Not pytest's directory: a local socket's path must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="vs3r-"))
        self.command = command(self.directory, **options)
        self.process = self._start()
        try:
            self.connection = self._connection()
        except BaseException:
            self.__exit__()
            raise

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(self.command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def _connection(self) -> Connection:
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            connection = read_connection(connection_file(self.directory))
            if connection is not None and connection.pid == self.process.pid:
                return connection
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stderr.read())
            time.sleep(0.01)
        raise TimeoutError("the engine did not start")

    def restart(self) -> None:
        self.process = self._start()
        self.connection = self._connection()

    def client(self) -> EngineClient:
        return EngineClient(self.connection, "test")

    @property
    def worker_pid(self) -> int | None:
        with self.client() as client:
            return client.status().worker.pid

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stderr.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class RawPeer:
    """A bare DEALER with whatever credentials, for messages that no client would send."""

    def __init__(self, connection: Connection, token: str | None = "right", socket: str = "request", **curve: bytes) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if curve:
            for name, value in curve.items():
                setattr(self.socket, name, value)
        elif token is not None:
            self.socket.plain_username = b"vs3r"
            self.socket.plain_password = (connection.token if token == "right" else token).encode()
        self.socket.connect(getattr(connection, socket))

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def receive(self, wait_s: float = 3.0) -> p.Reply | None:
        if not self.socket.poll(round(wait_s * 1000)):
            return None
        return p.decode(self.socket.recv_multipart()[0], p.Reply, "reply")

    def ask(self, kind: str, body: Any, *buffers: bytes, session: str = "raw", wait_s: float = 3.0) -> p.Reply | None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(
            b'{"v":"1.0","type":"%s","id":"1","session":"%s","body":%s}' % (kind.encode(), session.encode(), text),
            *buffers,
        )
        return self.receive(wait_s)

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_until(condition: Callable[[], Any], within_s: float = 10.0) -> float:
    """Seconds until the condition held. Raises: TimeoutError."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > within_s:
            raise TimeoutError("it never happened")
        time.sleep(0.02)
    return time.monotonic() - begun_s


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def memory_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


def kill(pid: int) -> None:
    os.kill(pid, 9)


def kill_with_worker(pid: int) -> None:
    """Neither the engine nor its worker runs: one that has only begun would make its folders again once they are removed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        engine = psutil.Process(pid)
        family = [*engine.children(recursive=True), engine]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, 10)
