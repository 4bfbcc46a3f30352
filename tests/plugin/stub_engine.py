# SPDX-License-Identifier: Apache-2.0
"""An engine that answers as a test wants it to, also wrongly: ZMTP with PLAIN by hand, one thread per connection."""

import contextlib
import json
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01PLAIN" + bytes(15) + bytes(32)
SHAPE = {"width": 32, "height": 16, "rotation_deg": 0, "pixel_aspect": "1"}


class Line:
    """One host's connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return data

    def frame(self) -> tuple[int, bytes]:
        """(flags, body)"""
        flags, size = self.take(2)
        if flags & 2:
            size = struct.unpack(">Q", bytes([size]) + self.take(7))[0]
        return flags, self.take(size)

    def greet(self) -> None:
        self.socket.sendall(GREETING)
        self.take(64)
        for answer in (b"\x07WELCOME", b"\x05READY"):
            self.frame()
            self.socket.sendall(bytes([4, len(answer)]) + answer)

    def request(self) -> dict[str, Any]:
        """The next one; its buffers are read and forgotten, answers to heartbeats passed over."""
        flags, text = self.frame()
        while flags & 4:
            flags, text = self.frame()
        more = flags & 1
        while more:
            more = self.frame()[0] & 1
        return json.loads(text)

    def send(self, *parts: bytes) -> None:
        for index, part in enumerate(parts):
            self.socket.sendall(struct.pack(">BQ", 2 | (index + 1 < len(parts)), len(part)) + part)

    def reply(self, request: dict[str, Any], body: dict[str, Any] | None = None, *buffers: bytes, **fields: Any) -> None:
        head = {"v": "1.0", "type": request["type"], "id": request["id"], "engine": "stub", "status": "ok", "body": body or {}}
        self.send(json.dumps(head | fields).encode(), *buffers)


def bound(directory: Path) -> tuple[socket.socket, str]:
    """(a socket, its endpoint): a local one where the system has such."""
    if not hasattr(socket, "AF_UNIX"):
        port = socket.socket()
        port.bind(("127.0.0.1", 0))
        return port, f"tcp://127.0.0.1:{port.getsockname()[1]}"
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(directory / "s"))
    return local, f"ipc://{directory / 's'}"


class StubEngine:
    """Runs until the end of the `with`. answer: what becomes of each request; greet: what a connection begins with."""

    def __init__(self, answer: Callable[[Line, dict], None], greet: Callable[["StubEngine", Line], None] | None = None) -> None:
        self.answer, self.greet = answer, greet or (lambda engine, line: line.greet())
        self.asked: list[str] = []
        self.lines: list[Line] = []

    def __enter__(self) -> "StubEngine":
        self._folder = tempfile.TemporaryDirectory(prefix="vs3r-")  # short: a local socket lies there
        self.directory = Path(self._folder.name)
        self.listening, endpoint = bound(self.directory)
        self.listening.listen(16)
        facts = {"protocol": "1.0", "engine": "stub", "pid": os.getpid(), "request": endpoint, "control": endpoint, "token": "t"}
        (self.directory / "engine.json").write_text(json.dumps(facts))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        (self.directory / "engine.json").unlink(missing_ok=True)
        self._close(self.listening)
        self._accepting.join(5)  # who was let in at the last moment is among the lines
        for line in self.lines:
            self._close(line.socket)
        self._folder.cleanup()

    @staticmethod
    def _close(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

    def _connections(self) -> Iterator[socket.socket]:
        with contextlib.suppress(OSError):
            while True:
                yield self.listening.accept()[0]

    def _accept(self) -> None:
        for connected in self._connections():
            self.lines.append(Line(connected))
            threading.Thread(target=self._serve, args=(self.lines[-1],), daemon=True).start()

    def _serve(self, line: Line) -> None:
        with contextlib.suppress(OSError):
            self.greet(self, line)
            while True:
                request = line.request()
                self.asked.append(request["type"])
                self.answer(line, request)
