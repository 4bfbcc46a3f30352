# SPDX-License-Identifier: Apache-2.0
"""The engine's three sockets: where they are bound, how they are guarded, and the file that says so."""

import contextlib
import os
import re
from pathlib import Path

import psutil
import zmq

from vs3r_engine import __version__
from vs3r_engine.errors import SetupError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.auth import Authority, KeyAuthority
from vs3r_engine.service.rendezvous import Connection, connection_file, patiently, write_private

PORTS = (20000, 49000)
"""Ports for loopback TCP: clear of Resolve's 15000 (which is below) and of the ephemeral ones from 49152."""
_SOCKET = re.compile(r"[0-9a-f]{16}\.(request|control|events)")
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS, _HANDSHAKE_MS, _LINGER_MS = 1000, 3000, 5000, 500


class Doors:
    """Bound sockets `request`, `control` and `events`. Nothing is told to anybody before `announce`."""

    def __init__(self, directory: Path, engine: str, authority: Authority, listen: str | None, tcp: bool) -> None:
        """listen: tcp://ADDRESS:PORT beyond this machine. tcp: loopback TCP even where ipc exists. No other engine runs in
        `directory`: what dead ones left there is gone.

        Raises: SetupError `cannot-listen`.
        """
        self._directory, self._engine, self._authority = directory, engine, authority
        for left in directory.iterdir():
            if _SOCKET.fullmatch(left.name) and left.is_socket():
                left.unlink(missing_ok=True)
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4096)
        authority.start(self._context)
        self.request = self._context.socket(zmq.ROUTER)
        self.control = self._context.socket(zmq.ROUTER)
        self.events = self._context.socket(zmq.PUB)
        self.endpoints: dict[str, str] = {}
        try:
            for offset, (name, socket) in enumerate(self._sockets().items()):
                self._prepare(name, socket)
                self.endpoints[name] = self._bind(name, socket, listen, offset, tcp)
        except (zmq.ZMQError, ValueError) as error:
            self.close()
            raise SetupError(
                "cannot-listen",
                f"The engine cannot listen on {listen or directory}: {error}.",
                "Choose another address or port.",
            ) from error

    def admits(self, part: zmq.Frame) -> bool:
        """Whether the sender of this part of a message may still talk."""
        return self._authority.admits(part)

    def announce(self) -> None:
        """The connection file says where this engine is."""
        key = self._authority.public_key.decode() if isinstance(self._authority, KeyAuthority) else None
        connection = Connection(
            p.VERSION,
            self._engine,
            __version__,
            os.getpid(),
            psutil.Process().create_time(),
            **self.endpoints,
            token=self._authority.token,
            server_key=key,
            boot_unix_s=psutil.boot_time(),
        )
        write_private(connection_file(self._directory), p.encode(connection))

    def withdraw(self) -> None:
        """The connection file no longer names this engine."""
        file = connection_file(self._directory)
        with contextlib.suppress(FileNotFoundError):
            if self._engine.encode() in patiently(file.read_bytes):
                patiently(file.unlink)

    def close(self) -> None:
        self._authority.stop()
        for name, socket in self._sockets().items():
            socket.close(linger=_LINGER_MS)
            (self._directory / f"{self._engine}.{name}").unlink(missing_ok=True)
        self._context.term()

    def _sockets(self) -> dict[str, zmq.Socket]:
        return {"request": self.request, "control": self.control, "events": self.events}

    def _prepare(self, name: str, socket: zmq.Socket) -> None:
        self._authority.guard(socket)
        socket.linger = _LINGER_MS
        socket.heartbeat_ivl, socket.heartbeat_timeout = _HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS
        socket.handshake_ivl = _HANDSHAKE_MS
        socket.maxmsgsize = p.PART_BYTES if name == "request" else p.JSON_BYTES
        socket.rcvhwm = 8 if name == "request" else 64
        socket.sndhwm = 1000 if name == "events" else 64

    def _bind(self, name: str, socket: zmq.Socket, listen: str | None, offset: int, tcp: bool) -> str:
        if listen is not None:
            address, _, port = listen.rpartition(":")
            endpoint = f"{address}:{int(port) + offset}"
            socket.bind(endpoint)
            return endpoint
        path = self._directory / f"{self._engine}.{name}"
        if zmq.has("ipc") and not tcp and len(os.fsencode(path)) < zmq.IPC_PATH_MAX_LEN:
            socket.bind(f"ipc://{path}")
            path.chmod(0o600)
            return f"ipc://{path}"
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1', *PORTS)}"
