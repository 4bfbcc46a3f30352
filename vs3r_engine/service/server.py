# SPDX-License-Identifier: Apache-2.0
"""The engine as a process: three sockets, one thread that answers, one worker that computes.

`serve` is the whole life of an engine. The thread never computes, decodes or waits for a disk, so that control is
answered at once whatever the worker does.
"""

import contextlib
import logging
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import psutil
import zmq

from vs3r_engine import __version__
from vs3r_engine.errors import DiskFull, EngineFault, ProtocolError, ResourceError, SetupError, VS3RError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.auth import Authority, KeyAuthority, TokenAuthority
from vs3r_engine.service.cache import DEFAULT_LIMIT_BYTES, DiskStore, default_root
from vs3r_engine.service.doors import Doors
from vs3r_engine.service.frames import Answer, FrameDesk
from vs3r_engine.service.jobs import JobBook, JobRecord
from vs3r_engine.service.logs import engine_log, log_file
from vs3r_engine.service.uploads import Uploads
from vs3r_engine.service.worker import (
    CancelOrder,
    FrameDone,
    FrameFailed,
    JobEnded,
    JobProgress,
    LogLine,
    Lost,
    Probed,
    ProbeOrder,
    Ready,
    WorkerProcess,
)

IDLE_EXIT_S = 900.0
TICK_S = 0.25
PROGRESS_INTERVAL_S = 0.1
STOP_PATIENCE_S = 5.0
UPLOADS_IN_FLIGHT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where and to what a reply goes."""

    socket: zmq.Socket
    identity: bytes
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """listen: tcp://ADDRESS:PORT to be reachable from other machines, with keys; None = this machine only.
    tcp: loopback TCP even where ipc exists. idle_exit_s 0 = never. parent: a process to die with.
    pipeline: the module that computes."""

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


def serve(options: ServerOptions = ServerOptions()) -> None:
    """Run an engine until it is told to stop, has been idle long enough, or its parent is gone.

    Raises: SetupError `already-running`, `keys-required`, `cannot-listen`, `cache-unusable`.
    """
    directory = options.directory or p.runtime_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    lock = filelock.FileLock(directory / "engine.lock", timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise SetupError("already-running", f"An engine is running already; {p.connection_file(directory)} says where.",
                         "Use it, or stop it with `vs3r engine stop`.") from error
    try:
        server = Server(directory, options)
        try:
            server.run()
        finally:
            server.close()
    finally:
        lock.release()


class Server:
    """Sockets bound, worker starting; `run` answers until the end, `close` leaves nothing behind."""

    def __init__(self, directory: Path, options: ServerOptions) -> None:
        self._options, self._directory = options, directory
        self._limits = options.limits
        self._engine = uuid.uuid4().hex[:16]
        self._log = engine_log(self._engine, options.log or log_file())
        self._started_s = time.monotonic()
        self._store = DiskStore(options.cache_root or default_root(), options.cache_limit_bytes)
        self._uploads = Uploads(self._store, self._engine, self._limits.upload_bytes)
        self._jobs = JobBook(self._limits.jobs_queued)
        self._sessions: dict[str, float] = {}
        self._probes: dict[int, tuple[ReplyTo, float]] = {}
        self._probe_ticket = 0
        self._progress_sent_s: dict[str, float] = {}
        self._idle_since_s = time.monotonic()
        self._stopping: str | None = None
        self._stop_when_idle = False
        self._device = "starting"
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_out, self._wake_in = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._disk = ThreadPoolExecutor(1, "uploads")
        self._in_flight_bytes = 0
        self._worker = WorkerProcess(options.pipeline, str(self._store.root), options.cache_limit_bytes,
                                     lambda report: self._post(lambda: self._reported(report)))
        self._desk = FrameDesk(self._limits, self._worker.send, self._analyze_for_frames)
        self._doors = Doors(directory, self._engine, _authority(options), options.listen, options.tcp)

    # --- life ---

    def run(self) -> None:
        with _signals(lambda name: self._post(lambda: self._stop(f"signal {name}"))):
            self._worker.start()
            self._doors.announce()
            self._log.info("started: version %s, protocol %s, pid %d", __version__, p.VERSION, os.getpid())
            poller = zmq.Poller()
            for socket in (self._doors.control, self._doors.request, self._wake_in):
                poller.register(socket, zmq.POLLIN)
            next_tick_s = 0.0
            while self._stopping is None:
                ready = dict(poller.poll(self._poll_timeout_ms()))
                if self._wake_in.fileno() in ready:
                    self._drain_inbox()
                self._receive(self._doors.control, p.CONTROLS, 64)
                self._receive(self._doors.request, p.REQUESTS, 8)
                for reply_to, answer in self._desk.due():
                    self._answer_frame(reply_to, answer)
                if time.monotonic() >= next_tick_s:
                    next_tick_s = time.monotonic() + TICK_S
                    self._tick()
            self._log.info("stopping: %s", self._stopping)
            self._finish_jobs()

    def close(self) -> None:
        self._doors.withdraw()
        self._worker.stop(STOP_PATIENCE_S)
        self._disk.shutdown(cancel_futures=True)
        for session in list(self._sessions):
            self._uploads.session_ended(session)
        self._doors.close()
        self._wake_in.close()
        self._wake_out.close()
        self._log.info("stopped")

    def _stop(self, why: str) -> None:
        self._stopping = self._stopping or why

    def _finish_jobs(self) -> None:
        """Cancelled jobs get a moment to end between two steps; chunks are safe either way."""
        for record in self._jobs.unfinished():
            self._cancel(record)
        until_s = time.monotonic() + 2
        while self._jobs.running is not None and time.monotonic() < until_s:
            time.sleep(0.01)
            self._drain_inbox()

    def _poll_timeout_ms(self) -> int:
        deadline_s = self._desk.next_deadline_s()
        wait_s = TICK_S if deadline_s is None else min(TICK_S, deadline_s - time.monotonic())
        return max(0, math.ceil(wait_s * 1000))

    def _tick(self) -> None:
        now = time.monotonic()
        for session, seen_s in list(self._sessions.items()):
            if now - seen_s > self._options.session_timeout_s:
                self._end_session(session)
        for ticket, (reply_to, until_s) in list(self._probes.items()):
            if now > until_s:
                del self._probes[ticket]
                self._fail(reply_to, EngineFault("worker-died", "The file was not examined in time.", "Try again."))
        self._worker.keep_running()
        self._start_job()
        self._desk.dispatch()
        busy = self._sessions or self._jobs.unfinished()
        if busy:
            self._idle_since_s = now
        elif self._stop_when_idle:
            self._stop("shutdown when idle")
        elif self._options.idle_exit_s and now - self._idle_since_s > self._options.idle_exit_s:
            self._stop(f"idle for {self._options.idle_exit_s:.0f} s")
        if self._options.parent is not None and not psutil.pid_exists(self._options.parent):
            self._stop("its parent is gone")

    # --- messages in ---

    def _receive(self, socket: zmq.Socket, types: dict[str, Any], most: int) -> None:
        for _ in range(most):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if len(parts) < 2 or not self._doors.admits(parts[1]):
                continue
            reply_to = ReplyTo(socket, parts[0].bytes, "error", "")
            try:
                request = p.decode_request(parts[1].buffer)
                reply_to = ReplyTo(socket, parts[0].bytes, request.type, request.id)
                body_type = types.get(request.type)
                if body_type is None:
                    raise ProtocolError("unknown-type", f"There is no message {request.type!r} on this socket.",
                                        "PROTOCOL.md, section 6.")
                buffers = [part.buffer for part in parts[2:]]
                if len(buffers) > p.BUFFERS or sum(buffer.nbytes for buffer in buffers) > p.PART_BYTES:
                    raise ProtocolError("bad-message", "The message has too many or too large buffers.", "PROTOCOL.md, section 9.")
                if buffers and request.type != "put_frames":
                    raise ProtocolError("bad-buffer", f"A {request.type} message has no buffers.", "Send them with put_frames.")
                body = p.decode(request.body, body_type, request.type)
                self._touch(request.session)
                reply = getattr(self, f"_on_{request.type}")(body, request.session, reply_to, buffers)
                if reply is not None:
                    self._reply(reply_to, reply)
            except VS3RError as error:
                self._fail(reply_to, error)
            except Exception as error:
                self._log.exception("a %s message failed", reply_to.type)
                self._fail(reply_to, EngineFault("engine-fault", f"{type(error).__name__}: {error}", "`vs3r engine logs` has more."))

    def _touch(self, session: str) -> None:
        if session not in self._sessions and len(self._sessions) >= self._limits.sessions:
            raise ResourceError("too-many-sessions", f"{len(self._sessions)} hosts are connected already.", "Close some of them.")
        self._sessions[session] = time.monotonic()

    def _on_hello(self, body: p.Hello, session: str, *_: Any) -> p.HelloReply:
        self._log.info("session %s is %s", session, body.client)
        return p.HelloReply(__version__, p.VERSION, os.getpid(), self._device, self._limits, self._options.session_timeout_s)

    def _on_probe(self, body: p.Probe, session: str, reply_to: ReplyTo, _: Any) -> None:
        self._probe_ticket += 1
        if len(self._probes) >= self._limits.jobs_queued:
            raise ResourceError("queue-full", f"{len(self._probes)} probes are waiting already.", "Try again.")
        self._probes[self._probe_ticket] = (reply_to, time.monotonic() + p.REPLY_DEADLINE_S["probe"])
        if not self._worker.send(ProbeOrder(self._probe_ticket, self._uploads.resolved(session, body.source))):
            del self._probes[self._probe_ticket]
            raise EngineFault("worker-died", "The computing process is being started again.", "Try again in a moment.")

    def _on_analyze(self, body: p.Analyze, session: str, *_: Any) -> p.JobReport:
        return self._submit("analyze", body, None, False, session)

    def _on_stabilize(self, body: p.Stabilize, session: str, *_: Any) -> p.JobReport:
        return self._submit("stabilize", body, body.output, body.overwrite, session)

    def _submit(self, kind: str, body: Any, output: str | None, overwrite: bool, session: str) -> p.JobReport:
        if self._stop_when_idle:
            raise ResourceError("engine-stopping", "The engine is stopping.", "Start another when it is gone.")
        body.settings.settings()
        source = self._uploads.resolved(session, body.source)
        record = self._jobs.submit(kind, body.job_id, source, body.source, body.settings, output, overwrite, session, body.detached)
        self._log.info("%s of %s is %s", kind, body.source.name(), record.state, extra={"job_id": record.order.job_id})
        self._announce(record)
        self._start_job()
        return record.report()

    def _on_frame(self, body: p.FrameRequest, session: str, reply_to: ReplyTo, _: Any) -> None:
        body.settings.settings()
        answer = self._desk.ask(body, self._uploads.resolved(session, body.source), session, reply_to)
        if answer is not None:
            self._answer_frame(reply_to, answer)

    def _on_put_frames(self, body: p.PutFrames, session: str, reply_to: ReplyTo, buffers: list[memoryview]) -> None:
        upload = self._uploads.admit(session, body, buffers)
        size = sum(buffer.nbytes for buffer in buffers)
        if self._in_flight_bytes + size > UPLOADS_IN_FLIGHT_BYTES:
            raise ResourceError("queue-full", "Too many frames are on their way to the disk.", "Wait for the last reply before sending more.")
        self._in_flight_bytes += size

        def write() -> None:
            try:
                reply: Any = self._uploads.write(upload, body, buffers)
            except VS3RError as error:
                reply = error
            except OSError as error:
                reply = DiskFull("disk-error", f"An uploaded frame could not be written: {error}.", "Check the cache disk.")
            self._post(lambda: written(reply))

        def written(reply: Any) -> None:
            self._in_flight_bytes -= size
            if isinstance(reply, VS3RError):
                self._fail(reply_to, reply)
            else:
                self._reply(reply_to, reply)

        self._disk.submit(write)

    def _on_status(self, body: p.Status, *_: Any) -> p.StatusReply:
        job = self._jobs.get(body.job_id).report() if body.job_id else None
        running = self._jobs.running is not None
        state = "stopping" if self._stop_when_idle else "busy" if running or self._desk.waiting_count else "idle"
        worker_state = "lost" if self._worker.pid is None else "starting" if not self._worker.is_ready else "busy" if running else "idle"
        memory = sum(_memory_bytes(pid) for pid in (os.getpid(), self._worker.pid) if pid)
        return p.StatusReply(
            state, round(time.monotonic() - self._started_s, 3), len(self._sessions), self._jobs.queued_count, int(running),  # type: ignore[arg-type]
            self._desk.waiting_count, p.WorkerReport(self._worker.pid, worker_state, self._worker.restarts),  # type: ignore[arg-type]
            round(memory / 2**20, 1), round(self._desk.rendered_bytes / 2**20, 1), job)

    def _on_jobs(self, *_: Any) -> p.JobsReply:
        return p.JobsReply([record.report() for record in self._jobs.newest_first()[:256]])

    def _on_ping(self, *_: Any) -> p.Empty:
        return p.Empty()

    def _on_cancel(self, body: p.Cancel, *_: Any) -> p.JobReport:
        record = self._jobs.get(body.job_id)
        self._cancel(record)
        return record.report()

    def _on_bye(self, body: p.Bye, session: str, *_: Any) -> p.Empty:
        self._end_session(session)
        return p.Empty()

    def _on_shutdown(self, body: p.Shutdown, session: str, reply_to: ReplyTo, _: Any) -> None:
        self._reply(reply_to, p.Empty())
        if body.when_idle:
            self._stop_when_idle = True
            self._sessions.pop(session, None)
        else:
            self._stop("asked to")

    # --- messages out ---

    def _reply(self, to: ReplyTo, body: Any, pixels: bytes | None = None) -> None:
        self._send(to, p.encode_reply(to.type, to.id, self._engine, body), pixels)

    def _fail(self, to: ReplyTo, error: VS3RError) -> None:
        self._send(to, p.encode_error(to.type, to.id, self._engine, error), None)

    def _send(self, to: ReplyTo, header: bytes, pixels: bytes | None) -> None:
        parts = [to.identity, header] if pixels is None else [to.identity, header, pixels]
        with contextlib.suppress(zmq.Again):  # a peer that does not read its replies loses them
            to.socket.send_multipart(parts, zmq.NOBLOCK, copy=pixels is None)

    def _answer_frame(self, to: ReplyTo, answer: Answer | VS3RError) -> None:
        if isinstance(answer, VS3RError):
            self._fail(to, answer)
        else:
            self._reply(to, answer.reply, answer.pixels)

    def _publish(self, kind: str, job_id: str | None, body: Any) -> None:
        with contextlib.suppress(zmq.Again):
            self._doors.events.send_multipart(p.encode_event(kind, self._engine, job_id, body), zmq.NOBLOCK)

    def _announce(self, record: JobRecord) -> None:
        self._publish("state", record.order.job_id, record.report())

    # --- the worker ---

    def _post(self, task: Callable[[], None]) -> None:
        """From any thread: `task` runs on the server's thread."""
        self._inbox.append(task)
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def _drain_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        while self._inbox:
            self._inbox.popleft()()

    def _reported(self, report: Any) -> None:
        match report:
            case Ready():
                self._worker.is_ready, self._device = True, report.device
                self._start_job()
                self._desk.dispatch()
            case JobProgress():
                self._progressed(report)
            case JobEnded():
                self._ended(report)
            case FrameDone():
                self._desk.rendered(report)
            case FrameFailed():
                self._desk.failed(report)
            case Probed():
                reply_to, _ = self._probes.pop(report.ticket, (None, 0))
                if reply_to is not None and isinstance(report.reply, p.Error):
                    self._fail(reply_to, p.exception_of(report.reply))
                elif reply_to is not None:
                    self._reply(reply_to, report.reply)
            case LogLine():
                self._log.log(report.level, report.message, extra={"job_id": report.job_id})
                if report.level == logging.WARNING:  # an error comes with the job's or the frame's own triple
                    job_id = None if report.job_id == "-" else report.job_id
                    self._publish("log", job_id, p.LogEvent("warning", report.message[:2000]))
            case Lost():
                self._worker_lost(report)

    def _worker_lost(self, lost: Lost) -> None:
        if self._stopping is not None:
            return
        self._log.error("the worker ended with exit code %s", lost.exit_code)
        self._publish("log", None, p.LogEvent("warning", f"The computing process ended (exit code {lost.exit_code}); another is started."))
        self._worker.lost()
        record = self._jobs.worker_lost(lost)
        if record is not None:
            self._announce(record)
            if record.is_final:
                self._desk.analysis_ended(record)
        self._desk.worker_lost()
        for reply_to, _ in self._probes.values():
            self._fail(reply_to, EngineFault("worker-died", "The computing process ended while it examined the file.",
                                             "`vs3r engine logs` has the details."))
        self._probes.clear()
        self._worker.keep_running()

    def _start_job(self) -> None:
        if self._worker.is_ready:
            record = self._jobs.start_next()
            if record is not None:
                self._worker.send(record.order)
                self._announce(record)

    def _progressed(self, progress: JobProgress) -> None:
        record = self._jobs.progressed(progress)
        now = time.monotonic()
        if record is not None and now - self._progress_sent_s.get(progress.job_id, 0) >= PROGRESS_INTERVAL_S:
            self._progress_sent_s = {progress.job_id: now}
            self._publish("progress", progress.job_id, p.ProgressEvent(
                record.stage, record.done, record.total, record.fraction, record.eta_s(), record.found))

    def _ended(self, end: JobEnded) -> None:
        record = self._jobs.ended(end)
        if record is None:
            return
        problem = f": {end.error.message} [{end.error.code}]" if end.error else ""
        self._log.info("%s is %s%s", record.order.kind, end.state, problem, extra={"job_id": end.job_id})
        self._announce(record)
        self._desk.analysis_ended(record)
        self._start_job()

    def _cancel(self, record: JobRecord) -> None:
        if record.is_final:
            return
        if self._jobs.cancel(record):
            self._worker.send(CancelOrder(record.order.job_id))
        else:
            self._announce(record)
            self._desk.analysis_ended(record)

    def _analyze_for_frames(self, source: p.Source, settings: p.SettingsChoice, session: str) -> JobRecord:
        """The analysis that a frame waits for; one job for all clips that need the same."""
        digest = settings.settings().digest("analysis")
        for record in self._jobs.unfinished():
            order = record.order
            if order.kind == "analyze" and order.source == source and order.settings.settings().digest("analysis") == digest:
                if record.owners is not None:
                    record.owners.add(session)
                return record
        record = self._jobs.submit("analyze", None, source, source, settings, None, False, session, False)
        self._announce(record)
        self._start_job()
        return record

    def _end_session(self, session: str) -> None:
        self._log.info("session %s ended", session)
        del self._sessions[session]
        for record in self._jobs.disowned(session):
            self._cancel(record)
        self._desk.session_ended(session)
        self._uploads.session_ended(session)


def _authority(options: ServerOptions) -> Authority:
    """Raises: SetupError `keys-required` where the engine would be reachable without keys."""
    if options.listen is None:
        return TokenAuthority()
    if not options.listen.startswith("tcp://"):
        raise SetupError("cannot-listen", f"{options.listen} is not tcp://ADDRESS:PORT.", "Give an address and a port.")
    if options.keys is None:
        raise SetupError("keys-required", f"Listening on {options.listen} needs CURVE keys.",
                         "Run `vs3r-engine keys create DIRECTORY` and pass --keys DIRECTORY.")
    return KeyAuthority(options.keys)


def _memory_bytes(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


@contextlib.contextmanager
def _signals(stop: Callable[[str], None]) -> Any:
    """SIGTERM and SIGINT stop the engine gracefully, where this is the main thread."""
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
