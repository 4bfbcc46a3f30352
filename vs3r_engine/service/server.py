# SPDX-License-Identifier: Apache-2.0
"""The engine as a process: `serve` is its whole life. One thread answers on three sockets; it never computes, decodes
or waits for a disk, so that control is answered at once whatever the worker does."""

import contextlib
import math
import os
import signal
import socket as sockets
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import psutil
import zmq

from vs3r_engine import __version__
from vs3r_engine.errors import EngineFault, ProtocolError, SetupError, VS3RError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.auth import Authority, KeyAuthority, TokenAuthority
from vs3r_engine.service.cache import DEFAULT_LIMIT_BYTES, DiskStore, default_root
from vs3r_engine.service.doors import Doors
from vs3r_engine.service.engine import Engine, ReplyTo
from vs3r_engine.service.logs import engine_log, log_file
from vs3r_engine.service.rendezvous import connection_file, make_private, runtime_directory

IDLE_EXIT_S = 900.0
TICK_S = 0.25
CONTROL_MESSAGES, REQUEST_MESSAGES = 64, 8
"""Most messages taken from a socket before the others have their turn."""
CANCEL_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How an engine runs.

    directory: of the connection file; None = the user's. listen: tcp://ADDRESS:PORT, with keys, to be reachable from
    other machines; None = this machine only. tcp: loopback TCP even where local sockets exist. idle_exit_s: 0 = never.
    parent: a process to die with. pipeline: the module that computes.
    """

    directory: Path | None = None
    listen: str | None = None
    keys: Path | None = None
    tcp: bool = False
    idle_exit_s: float = IDLE_EXIT_S
    parent: int | None = None
    cache_root: Path | None = None
    cache_limit_bytes: int = DEFAULT_LIMIT_BYTES
    log: Path | None = None
    pipeline: str = "vs3r_engine.pipeline"
    limits: p.Limits = field(default_factory=p.Limits)
    session_timeout_s: float = p.SESSION_TIMEOUT_S


def serve(options: ServerOptions) -> None:
    """Run an engine until it is told to stop, has been idle long enough, or its parent is gone.

    Raises: SetupError `already-running`, `keys-required`, `cannot-listen`, `cache-unusable`, `directory-unusable`.
    """
    directory = options.directory or runtime_directory()
    make_private(directory)
    lock = filelock.FileLock(directory / "engine.lock", timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        place = connection_file(directory)
        raise SetupError(
            "already-running",
            f"An engine is running already; {place} says where.",
            "Use it, or stop it with `vs3r engine stop`.",
        ) from error
    try:
        server = Server(directory, options)
        try:
            server.run()
        finally:
            server.close()
    finally:
        lock.release()


class Server:
    """Sockets bound; `run` answers until the end, `close` leaves nothing behind."""

    def __init__(self, directory: Path, options: ServerOptions) -> None:
        store = DiskStore(options.cache_root or default_root(), options.cache_limit_bytes)
        self._options = options
        self._name = uuid.uuid4().hex[:16]
        self._log = engine_log(self._name, options.log or log_file())
        self._stopping: str | None = None
        self._idle_since_s = time.monotonic()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_out, self._wake_in = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._doors = Doors(directory, self._name, _authority(options), options.listen, options.tcp)
        self._engine = Engine(self._name, self, store, options.limits, options.session_timeout_s, options.pipeline, self._log)

    def run(self) -> None:
        with _signals(lambda name: self.post(lambda: self.stop(f"signal {name}"))):
            self._engine.start()
            self._doors.announce()
            self._log.info("started: version %s, protocol %s, pid %d", __version__, p.VERSION, os.getpid())
            poller = zmq.Poller()
            for socket in (self._doors.control, self._doors.request, self._wake_in):
                poller.register(socket, zmq.POLLIN)
            next_tick_s = 0.0
            while self._stopping is None:
                poller.poll(self._poll_timeout_ms())
                self._drain_inbox()
                self._receive(self._doors.control, p.CONTROLS, CONTROL_MESSAGES)
                self._receive(self._doors.request, p.REQUESTS, REQUEST_MESSAGES)
                self._engine.answer_due()
                if time.monotonic() >= next_tick_s:
                    next_tick_s = time.monotonic() + TICK_S
                    self._engine.tick()
                    self._consider_stopping()
            self._log.info("stopping: %s", self._stopping)
            self._engine.cancel_everything()
            until_s = time.monotonic() + CANCEL_PATIENCE_S
            while self._engine.is_working and time.monotonic() < until_s:
                time.sleep(0.01)
                self._drain_inbox()

    def close(self) -> None:
        self._doors.withdraw()
        self._engine.close()
        self._doors.close()
        self._wake_in.close()
        self._wake_out.close()
        self._log.info("stopped")

    # --- what the engine asks of the server (engine.Outside) ---

    def reply(self, to: ReplyTo, body: Any, pixels: bytes | bytearray | None = None) -> None:
        self._send(to, p.encode_reply(to.type, to.id, self._name, body), pixels)

    def fail(self, to: ReplyTo, error: VS3RError) -> None:
        self._send(to, p.encode_error(to.type, to.id, self._name, error), None)

    def publish(self, kind: str, job_id: str | None, body: Any) -> None:
        with contextlib.suppress(zmq.Again):
            self._doors.events.send_multipart(p.encode_event(kind, self._name, job_id, body), zmq.NOBLOCK)

    def post(self, task: Callable[[], None]) -> None:
        self._inbox.append(task)
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def stop(self, why: str) -> None:
        self._stopping = self._stopping or why

    # --- inside ---

    def _send(self, to: ReplyTo, header: bytes, pixels: bytes | bytearray | None) -> None:
        parts = [to.identity, header] if pixels is None else [to.identity, header, pixels]
        with contextlib.suppress(zmq.Again):  # a peer that does not read its replies loses them
            to.socket.send_multipart(parts, zmq.NOBLOCK, copy=pixels is None)

    def _receive(self, socket: zmq.Socket, types: dict[str, Any], most: int) -> None:
        for _ in range(most):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if len(parts) >= 2 and self._doors.admits(parts[1]):
                self._take(socket, types, parts[0].bytes, parts[1].buffer, [part.buffer for part in parts[2:]])

    def _take(self, socket: zmq.Socket, types: dict[str, Any], identity: bytes, header: memoryview, buffers: list[memoryview]) -> None:
        """One message is answered, or will be."""
        reply_to = ReplyTo(socket, identity, "error", "")
        try:
            request = p.decode_request(header)
            reply_to = ReplyTo(socket, identity, request.type, request.id)
            p.refuse_other_version(request)
            if request.type not in types:
                raise ProtocolError("unknown-type", f"There is no message {request.type!r} on this socket.", "PROTOCOL.md, section 6.")
            if len(buffers) > p.BUFFERS or sum(buffer.nbytes for buffer in buffers) > p.PART_BYTES:
                raise ProtocolError("bad-message", "The buffers are too many or too large.", "PROTOCOL.md, section 9.")
            if buffers and request.type != "put_frames":
                raise ProtocolError("bad-buffer", f"A {request.type} message has no buffers.", "Use put_frames.")
            body = p.decode(request.body, types[request.type], request.type)
            reply = self._engine.handle(request.type, body, request.session, reply_to, buffers)
            if reply is not None:
                self.reply(reply_to, reply)
        except VS3RError as error:
            self.fail(reply_to, error)
        except Exception as error:
            self._log.exception("a %s message failed", reply_to.type)
            fault = EngineFault("engine-fault", f"{type(error).__name__}: {error}", "`vs3r engine logs` has more.")
            self.fail(reply_to, fault)

    def _drain_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        while self._inbox:
            task = self._inbox.popleft()
            try:
                task()
            except Exception:
                self._log.exception("a report of the worker could not be handled")

    def _poll_timeout_ms(self) -> int:
        deadline_s = self._engine.next_deadline_s()
        wait_s = TICK_S if deadline_s is None else min(TICK_S, deadline_s - time.monotonic())
        return max(0, math.ceil(wait_s * 1000))

    def _consider_stopping(self) -> None:
        now, idle_exit_s, parent = time.monotonic(), self._options.idle_exit_s, self._options.parent
        if self._engine.takes_no_more and not self._engine.has_jobs:
            self.stop("shutdown when idle")
        elif self._engine.is_busy:
            self._idle_since_s = now
        elif idle_exit_s and now - self._idle_since_s > idle_exit_s:
            self.stop(f"idle for {idle_exit_s:.0f} s")
        if parent is not None and not psutil.pid_exists(parent):
            self.stop("its parent is gone")


def _authority(options: ServerOptions) -> Authority:
    """Raises: SetupError `keys-required` where the engine would be reachable without keys."""
    if options.listen is None:
        return TokenAuthority()
    if not options.listen.startswith("tcp://"):
        raise SetupError("cannot-listen", f"{options.listen} is not tcp://ADDRESS:PORT.", "Give an address and a port.")
    if options.keys is None:
        raise SetupError(
            "keys-required",
            f"Listening on {options.listen} needs CURVE keys.",
            "Run `vs3r-engine keys create DIRECTORY` and pass --keys DIRECTORY.",
        )
    return KeyAuthority(options.keys)


@contextlib.contextmanager
def _signals(stop: Callable[[str], None]) -> Any:
    """SIGTERM, SIGINT and SIGHUP stop the engine gracefully, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [signal.SIGTERM, signal.SIGINT] + ([signal.SIGHUP] if sys.platform != "win32" else [])
    before = {name: signal.signal(name, lambda number, _: stop(signal.Signals(number).name)) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
