# SPDX-License-Identifier: Apache-2.0
"""EngineClient: a host's end of PROTOCOL.md. Every wait has a deadline, every failure is an error triple, and whatever
happens to a job arrives as one type of event."""

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from vs3r_engine.errors import ProtocolError, ResourceError, VS3RError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Connection, is_running

REPLY_S = {"probe": p.PROBE_REPLY_S, "put_frames": p.PUT_FRAMES_REPLY_S}
POLL_S = 0.25
STATUS_INTERVAL_S = 2.0
PROBE_S = 600.0
"""Most that a file may take to be examined: tens of gigabytes are read where nothing says where their frames are."""


class EngineLost(VS3RError):
    """The engine does not answer any more: its process is gone, or it is silent."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a host is told about a job: its state as it is now, and for `log` and `engine` a line of text."""

    kind: Literal["progress", "state", "log", "engine"]
    job: p.JobReport | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class StabilizedFrame:
    """RGBA samples of one frame, rows from the top, `row_bytes` apart."""

    reply: p.FrameReply
    pixels: memoryview


class EngineClient:
    """A connection to one engine, and a session with it. Close it, or use it in a `with`.

    May be used from several threads. A thread of its own pings the engine, so that what the session owns lives on while
    the host is busy, and so that a dead engine is noticed within seconds.
    """

    def __init__(self, connection: Connection, name: str = "vs3r") -> None:
        self.connection, self._name = connection, name
        self.session = uuid.uuid4().hex[:16]
        self._context = zmq.Context()
        self._ids = itertools.count(1)
        self._request = _Line(self._context, connection, connection.request)
        self._control = _Line(self._context, connection, connection.control)
        self._heard_s, self._is_known = time.monotonic(), False
        self._closed = threading.Event()
        self._pings = threading.Thread(target=self._ping_always, name="engine-pings", daemon=True)
        self._pings.start()

    def close(self) -> None:
        self._closed.set()
        self._pings.join()
        with contextlib.suppress(VS3RError):
            if self._is_known and self.is_alive:
                self._ask(self._control, "bye", p.Bye())
        self._request.close()
        self._control.close()
        self._context.term()

    def __enter__(self) -> "EngineClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """False once the engine's process is gone or it has been silent for too long."""
        if time.monotonic() - self._heard_s > p.ENGINE_SILENCE_S:
            return False
        if self.connection.server_key is not None:
            return True  # another machine's process
        return is_running(self.connection)

    # --- requests: each raises the engine's error, or EngineLost ---

    def hello(self) -> p.HelloReply:
        return self._ask(self._request, "hello", p.Hello(self._name))[0]

    def probe(self, source: p.Source) -> p.ProbeReply:
        """What the source is; asked again for as long as the engine still reads it, PROBE_S at most."""
        until_s = time.monotonic() + PROBE_S
        while True:
            try:
                return self._ask(self._request, "probe", p.Probe(source))[0]
            except ResourceError as error:
                if error.code != "still-reading" or time.monotonic() > until_s:
                    raise

    def submit(self, job: p.Stabilize | p.Analyze) -> p.JobReport:
        """Raises: besides the engine's errors, EngineLost."""
        return self._ask(self._request, "stabilize" if isinstance(job, p.Stabilize) else "analyze", job)[0]

    def frame(self, request: p.FrameRequest) -> StabilizedFrame | p.FrameReply:
        """The frame, or that it is pending."""
        reply, buffers = self._ask(self._request, "frame", request, extra_s=request.wait_s)
        return StabilizedFrame(reply, buffers[0].buffer) if reply.state == "ready" else reply

    def put_frames(self, request: p.PutFrames, buffers: Sequence[Any]) -> p.PutReply:
        return self._ask(self._request, "put_frames", request, buffers)[0]

    def status(self, job_id: str | None = None) -> p.StatusReply:
        return self._ask(self._request, "status", p.Status(job_id))[0]

    def jobs(self) -> list[p.JobReport]:
        return self._ask(self._request, "jobs", p.Jobs())[0].jobs

    def cancel(self, job_id: str) -> p.JobReport:
        return self._ask(self._control, "cancel", p.Cancel(job_id))[0]

    def shutdown(self, when_idle: bool = False) -> None:
        self._ask(self._control, "shutdown", p.Shutdown(when_idle))

    def ping(self) -> None:
        self._ask(self._control, "ping", p.Ping())

    def follow(self, job_id: str) -> Iterator[Event]:
        """Everything that happens to a job, until it is final: the last event is its final state.

        Raises: EngineLost; InputError `unknown-job`.
        """
        with self._subscribed(job_id) as events:
            job = self._report_on(job_id)
            yield Event("state", job)
            asked_s, interval_s = time.monotonic(), POLL_S  # what happens before the subscription has joined is not heard
            while not job.is_final:
                body = self._event_within(events, POLL_S)
                if body is not None:
                    interval_s = STATUS_INTERVAL_S
                if isinstance(body, p.LogEvent):
                    yield Event("log", text=body.message)
                elif isinstance(body, p.ProgressEvent):
                    job = msgspec.structs.replace(job, **msgspec.structs.asdict(body))
                    yield Event("progress", job)
                elif isinstance(body, p.JobReport):
                    job = body
                    yield Event("state", job)
                elif not self.is_alive:
                    raise self._lost()
                elif time.monotonic() - asked_s > interval_s:
                    # An event may be lost; the status is the truth.
                    asked_s, job = time.monotonic(), self._report_on(job_id)
                    yield Event("state", job)

    # --- inside ---

    @contextlib.contextmanager
    def _subscribed(self, job_id: str) -> Iterator[zmq.Socket]:
        socket = self._context.socket(zmq.SUB)
        _secure(socket, self.connection)
        socket.maxmsgsize = p.JSON_BYTES
        socket.subscribe(p.topic_of(job_id))
        socket.connect(self.connection.events)
        try:
            yield socket
        finally:
            socket.close()

    def _event_within(self, events: zmq.Socket, wait_s: float) -> msgspec.Struct | None:
        """The body of the next event; None where none comes, and for one of a type that is not known."""
        if not events.poll(round(wait_s * 1000)):
            return None
        parts = events.recv_multipart()
        self._heard_s = time.monotonic()
        envelope = p.decode(parts[-1], p.Event, "An event")
        body_type = p.EVENTS.get(envelope.type)
        return None if body_type is None else p.decode(envelope.body, body_type, envelope.type)

    def _report_on(self, job_id: str) -> p.JobReport:
        job = self.status(job_id).job
        assert job is not None  # one that is not known is an error
        return job

    def _ask(
        self, line: "_Line", kind: str, body: msgspec.Struct, buffers: Sequence[Any] = (), extra_s: float = 0.0
    ) -> tuple[Any, list[zmq.Frame]]:
        request_id = str(next(self._ids))
        deadline_s = time.monotonic() + REPLY_S.get(kind, p.REPLY_S) + extra_s
        parts = [p.encode_request(kind, request_id, self.session, body), *buffers]
        answer = line.ask(parts, request_id, deadline_s, lambda: self.connection.server_key is not None or is_running(self.connection))
        if answer is None:
            raise self._lost(kind)
        self._heard_s, self._is_known = time.monotonic(), True
        reply, rest = answer
        if reply.status == "error" and isinstance(reply.error, p.Error):
            raise p.exception_of(reply.error)
        return p.decode(reply.body, p.REPLIES[kind], f"The reply to {kind}"), rest

    def _lost(self, kind: str = "") -> EngineLost:
        what = f"did not answer to {kind}" if kind else "is gone"
        return EngineLost(
            "engine-lost",
            f"The engine (process {self.connection.pid}) {what}.",
            "`vs3r engine status` says more; the same command again continues where it was.",
        )

    def _ping_always(self) -> None:
        line = _Line(self._context, self.connection, self.connection.control)
        try:
            while not self._closed.wait(p.PING_INTERVAL_S):
                request_id = f"ping-{next(self._ids)}"
                parts = [p.encode_request("ping", request_id, self.session, p.Ping())]
                if line.ask(parts, request_id, time.monotonic() + p.PING_INTERVAL_S, lambda: not self._closed.is_set()):
                    self._heard_s = time.monotonic()
        except VS3RError:
            pass  # whoever asks next is told
        finally:
            line.close()


class _Line:
    """A DEALER for one question at a time."""

    def __init__(self, context: zmq.Context, connection: Connection, endpoint: str) -> None:
        self._lock = threading.Lock()
        self._socket = context.socket(zmq.DEALER)
        _secure(self._socket, connection)
        self._socket.maxmsgsize = p.PART_BYTES
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def ask(self, parts: list[Any], request_id: str, deadline_s: float, is_hopeful: Any) -> tuple[p.Reply, list[zmq.Frame]] | None:
        """The reply and its buffers; None when the deadline passes or `is_hopeful` says that waiting is of no use.

        Raises: ProtocolError `not-allowed`, `protocol-version`, `bad-message`.
        """
        with self._lock:
            while not self._socket.poll(20, zmq.POLLOUT):  # not connected yet
                self._refused()
                if time.monotonic() > deadline_s or not is_hopeful():
                    return None
            self._socket.send_multipart(parts, copy=sum(memoryview(part).nbytes for part in parts) < 65536)
            while (left_s := deadline_s - time.monotonic()) > 0:
                ready = dict(self._poller.poll(round(min(left_s, POLL_S) * 1000) + 1))
                if self._monitor in ready:
                    self._refused()
                if self._socket in ready:
                    frames = self._socket.recv_multipart(copy=False)
                    reply = p.decode_reply(frames[0].buffer)
                    if reply.id in (request_id, ""):
                        return reply, frames[1:]
                elif not is_hopeful():
                    return None
            return None

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _refused(self) -> None:
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                raise ProtocolError(
                    "not-allowed",
                    "The engine refused the connection: wrong token or key.",
                    "Read the connection file again; beyond this machine, have your public key allowed there.",
                )


def _secure(socket: zmq.Socket, connection: Connection) -> None:
    socket.linger = 0
    socket.immediate = True
    socket.heartbeat_ivl, socket.heartbeat_timeout = 1000, 3000
    if connection.server_key is not None:
        socket.curve_serverkey = connection.server_key.encode()
        socket.curve_publickey = (connection.public_key or "").encode()
        socket.curve_secretkey = (connection.secret_key or "").encode()
    else:
        socket.plain_username = connection.username.encode()
        socket.plain_password = connection.token.encode()
