# SPDX-License-Identifier: Apache-2.0
"""What the engine does with each message: sessions, jobs, frames, uploads and the worker in one place, without sockets.

All of it runs on the server's thread and never waits; what takes time happens in the worker or on the disk's thread.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import psutil

from vs3r_engine import __version__
from vs3r_engine.errors import DiskFull, EngineFault, ResourceError, VS3RError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.service.frames import Answer, FrameDesk, named_files, stamp_of_files
from vs3r_engine.service.glances import Glances
from vs3r_engine.service.jobs import JobBook, JobRecord
from vs3r_engine.service.uploads import Uploads
from vs3r_engine.service.worker import (
    CancelOrder,
    FrameDone,
    FrameFailed,
    JobEnded,
    JobOrder,
    JobProgress,
    LogLine,
    Lost,
    Probed,
    ProbeOrder,
    Ready,
    WorkerProcess,
)

PROGRESS_INTERVAL_S = 0.1
STOP_PATIENCE_S = 5.0
CANCEL_LIMIT_S = 30.0
"""How long a cancelled job may go on, in a file that does not answer or a long step, before its worker is ended."""
STOOD_STILL_S = 2.0
"""Between two ticks, which come four times a second: longer, and the machine slept. That is no host's silence."""
UPLOADS_IN_FLIGHT_BYTES = 1 << 30
PROBE_PATIENCE_S = p.PROBE_REPLY_S - 1
"""How long a file may take to be examined before its host is told to ask again: sooner than the host gives up."""
GLANCE_PATIENCE_S = 0.5
"""How much longer than its host would wait a frame's file may take to be looked at: less than the host's two seconds."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where and to what a reply goes; `socket` and `identity` are the server's business."""

    socket: Any
    identity: bytes
    type: str
    id: str


class Outside(Protocol):
    """What the engine needs of the server around it."""

    def reply(self, to: ReplyTo, body: Any, pixels: bytes | bytearray | None = None) -> None: ...

    def fail(self, to: ReplyTo, error: VS3RError) -> None: ...

    def publish(self, kind: str, job_id: str | None, body: Any) -> None: ...

    def post(self, task: Callable[[], None]) -> None:
        """From any thread: `task` runs on the server's thread."""
        ...

    def stop(self, why: str) -> None: ...


class Engine:
    def __init__(
        self,
        name: str,
        outside: Outside,
        store: DiskStore,
        limits: p.Limits,
        session_timeout_s: float,
        pipeline: str,
        log: logging.Logger,
    ) -> None:
        self._outside, self._limits, self._session_timeout_s, self._log = outside, limits, session_timeout_s, log
        self._started_s = time.monotonic()
        self._device = "starting"
        self._disk = ThreadPoolExecutor(1, "uploads")
        self._uploads = Uploads(store, name, limits.upload_bytes, self._disk.submit)
        self._in_flight_bytes = 0
        self._jobs = JobBook(limits.jobs_queued)
        self._sessions: dict[str, float] = {}
        self._ticked_s = self._started_s
        self._probes: dict[int, tuple[ReplyTo, float]] = {}
        self._probe_ticket = 0
        self._glances = Glances(outside.post)
        self._is_stopping = False
        self._worker = WorkerProcess(
            pipeline, str(store.root), store.limit_bytes, lambda report: outside.post(lambda: self._reported(report))
        )
        self._desk = FrameDesk(limits, self._worker.send, self._analyze_for_frames)

    def start(self) -> None:
        self._worker.start()

    def close(self) -> None:
        """No worker runs, no upload is left."""
        self._worker.stop(STOP_PATIENCE_S)
        self._disk.shutdown(cancel_futures=True)
        self._uploads.close()

    @property
    def is_busy(self) -> bool:
        """Somebody is connected, or a job is not finished."""
        return bool(self._sessions) or self.has_jobs

    @property
    def has_jobs(self) -> bool:
        """A job waits or runs."""
        return bool(self._jobs.unfinished())

    @property
    def takes_no_more(self) -> bool:
        """A shutdown when idle is under way."""
        return self._is_stopping

    @property
    def is_working(self) -> bool:
        return self._jobs.running is not None

    def next_deadline_s(self) -> float | None:
        """When `answer_due` has something to do at the latest, in monotonic seconds."""
        deadlines_s = (self._desk.next_deadline_s(), self._glances.next_deadline_s())
        return min((deadline_s for deadline_s in deadlines_s if deadline_s is not None), default=None)

    def answer_due(self) -> None:
        """Held-back requests whose frame has come, or whose time is over, are answered."""
        self._glances.give_up_late()
        for reply_to, answer in self._desk.due():
            self._answer_frame(reply_to, answer)

    def tick(self) -> None:
        """To be called a few times a second: silent sessions end, a lost worker comes back."""
        now = time.monotonic()
        stood_still_s, self._ticked_s = now - self._ticked_s, now
        if stood_still_s > STOOD_STILL_S:
            self._sessions = {session: min(now, seen_s + stood_still_s) for session, seen_s in self._sessions.items()}
        for session, seen_s in list(self._sessions.items()):
            if now - seen_s > self._session_timeout_s:
                self._end_session(session)
        for ticket, (reply_to, until_s) in list(self._probes.items()):
            if now > until_s:
                del self._probes[ticket]
                text = "The file is still being read: it is large and has no table of its frames, or its disk is slow."
                self._outside.fail(reply_to, ResourceError("still-reading", text, "Ask again; the reading goes on."))
        running = self._jobs.running
        if running is not None and running.is_cancelling and now - running.cancelled_s > CANCEL_LIMIT_S:
            self._log.warning("the job does not stop, so the worker is ended", extra={"job_id": running.order.job_id})
            running.cancelled_s = now
            self._worker.kill()
        self._worker.keep_running()
        self._start_job()
        self._desk.dispatch()

    def cancel_everything(self) -> None:
        """Jobs get the word to end between two steps; finished chunks are safe either way."""
        self._is_stopping = True
        for record in self._jobs.unfinished():
            self._cancel(record)

    # --- messages: the reply's body, or None where it follows later ---

    def handle(self, kind: str, body: Any, session: str, reply_to: ReplyTo, buffers: list[memoryview]) -> Any:
        """Raises: VS3RError."""
        if session not in self._sessions and len(self._sessions) >= self._limits.sessions:
            raise ResourceError("too-many-sessions", f"{len(self._sessions)} hosts are connected already.", "Close some of them.")
        self._sessions[session] = time.monotonic()
        return getattr(self, f"_on_{kind}")(body, session, reply_to, buffers)

    def _on_hello(self, body: p.Hello, session: str, *_: Any) -> p.HelloReply:
        self._log.info("session %s is %s", session, body.client)
        return p.HelloReply(__version__, p.VERSION, os.getpid(), self._device, self._limits, self._session_timeout_s)

    def _on_probe(self, body: p.Probe, session: str, reply_to: ReplyTo, _: Any) -> None:
        if len(self._probes) >= self._limits.jobs_queued:
            raise ResourceError("queue-full", f"{len(self._probes)} probes are waiting already.", "Try again.")
        self._probe_ticket += 1
        order = ProbeOrder(self._probe_ticket, self._uploads.resolved(session, body.source))
        if not self._worker.send(order):
            raise EngineFault("worker-died", "The computing process is being started again.", "Try again in a moment.")
        self._probes[order.ticket] = (reply_to, time.monotonic() + PROBE_PATIENCE_S)

    def _on_analyze(self, body: p.Analyze, session: str, *_: Any) -> p.JobReport:
        record = self._submit("analyze", body, None, False, session)
        self._desk.analysis_submitted(record.order.source)
        return record.report()

    def _on_stabilize(self, body: p.Stabilize, session: str, *_: Any) -> p.JobReport:
        return self._submit("stabilize", body, body.output, body.overwrite, session).report()

    def _submit(self, kind: p.JobKind, body: p.Analyze | p.Stabilize, output: str | None, overwrite: bool, session: str) -> JobRecord:
        body.settings.settings()
        order = JobOrder(
            body.job_id or p.new_job_id(), kind, self._uploads.resolved(session, body.source), body.settings, output, overwrite
        )
        record = self._begin(order, body.source.name(), session, body.detached)
        self._log.info("%s of %s is %s", kind, record.shown_source, record.state, extra={"job_id": order.job_id})
        return record

    def _on_frame(self, body: p.FrameRequest, session: str, reply_to: ReplyTo, _: Any) -> None:
        body.settings.settings()
        source = self._uploads.resolved(session, body.source)

        def ask(stamp: str) -> None:
            if session not in self._sessions:
                return
            try:
                answer: Any = self._desk.ask(body, source, stamp, session, reply_to)
            except VS3RError as error:
                answer = error
            if answer is not None:
                self._answer_frame(reply_to, answer)

        def tell_unseen() -> None:
            waiting = p.FrameReply("pending", body.frame_index, stage="open", fraction=0.0, job_id=None, retry_s=1.0)
            self._outside.reply(reply_to, waiting)

        look = partial(stamp_of_files, source, body.settings)
        self._glances.at(named_files(source, body.settings), look, body.wait_s + GLANCE_PATIENCE_S, ask, tell_unseen)

    def _on_put_frames(self, body: p.PutFrames, session: str, reply_to: ReplyTo, buffers: list[memoryview]) -> None:
        upload = self._uploads.admit(session, body, buffers, {record.order.source.path for record in self._jobs.unfinished()})
        size = sum(buffer.nbytes for buffer in buffers)
        if self._in_flight_bytes + size > UPLOADS_IN_FLIGHT_BYTES:
            raise ResourceError(
                "queue-full",
                "Too many frames are on their way to the disk.",
                "Wait for the last reply before sending more.",
            )
        self._in_flight_bytes += size

        def write() -> None:
            try:
                reply: Any = self._uploads.write(upload, body, buffers)
            except VS3RError as error:
                reply = error
            except OSError as error:
                reply = DiskFull("disk-error", f"An uploaded frame could not be written: {error}.", "Check the cache disk.")
            self._outside.post(lambda: written(reply))

        def written(reply: Any) -> None:
            self._in_flight_bytes -= size
            if isinstance(reply, DiskFull):
                self._uploads.failed(session, body)
            if isinstance(reply, VS3RError):
                self._outside.fail(reply_to, reply)
            else:
                self._outside.reply(reply_to, reply)

        self._disk.submit(write)

    def _on_status(self, body: p.Status, *_: Any) -> p.StatusReply:
        job = self._jobs.get(body.job_id).report() if body.job_id else None
        worker, is_busy = self._worker, self.is_working or self._desk.waiting_count > 0
        worker_state = "lost" if worker.pid is None else "starting" if not worker.is_ready else "busy" if is_busy else "idle"
        memory = sum(_memory_bytes(pid) for pid in (os.getpid(), worker.pid) if pid)
        return p.StatusReply(
            state="stopping" if self._is_stopping else "busy" if is_busy else "idle",
            uptime_s=round(time.monotonic() - self._started_s, 3),
            sessions=len(self._sessions),
            jobs_queued=self._jobs.queued_count,
            jobs_running=int(self.is_working),
            frames_waiting=self._desk.waiting_count,
            worker=p.WorkerReport(worker.pid, worker_state, worker.restarts),  # type: ignore[arg-type]
            memory_mib=round(memory / 2**20, 1),
            frame_cache_mib=round(self._desk.rendered_bytes / 2**20, 1),
            job=job,
        )

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

    def _on_shutdown(self, body: p.Shutdown, session: str, *_: Any) -> p.Empty:
        if body.when_idle:
            self._is_stopping = True
        else:
            self._outside.post(lambda: self._outside.stop("asked to"))
        return p.Empty()

    def _answer_frame(self, to: ReplyTo, answer: Answer | VS3RError) -> None:
        if isinstance(answer, VS3RError):
            self._outside.fail(to, answer)
        else:
            self._outside.reply(to, answer.reply, answer.pixels)

    def _announce(self, record: JobRecord) -> None:
        self._outside.publish("state", record.order.job_id, record.report())

    def _end_session(self, session: str) -> None:
        self._log.info("session %s ended", session)
        del self._sessions[session]
        for record in self._jobs.disowned(session):
            self._cancel(record)
        self._desk.session_ended(session)
        self._uploads.session_ended(session)

    # --- what the worker reports ---

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
                    self._outside.fail(reply_to, p.exception_of(report.reply))
                elif reply_to is not None:
                    self._outside.reply(reply_to, report.reply)
            case LogLine():
                self._log.log(report.level, "%s", report.message, extra={"job_id": report.job_id})
                if report.level == logging.WARNING:  # an error comes with the job's or the frame's own triple
                    job_id = None if report.job_id == "-" else report.job_id
                    self._outside.publish("log", job_id, p.LogEvent("warning", report.message[:2000]))
            case Lost():
                self._worker_lost(report)

    def _worker_lost(self, lost: Lost) -> None:
        self._log.error("the worker ended with exit code %s", lost.exit_code)
        text = f"The computing process ended (exit code {lost.exit_code}); another is started."
        self._outside.publish("log", None, p.LogEvent("warning", text))
        self._worker.lost()
        record = self._jobs.worker_lost(lost)
        if record is not None:
            self._announce(record)
            if record.is_final:
                self._desk.analysis_ended(record)
        self._desk.worker_lost()
        for reply_to, _ in self._probes.values():
            error = EngineFault(
                "worker-died",
                "The computing process ended while it examined the file.",
                "`vs3r engine logs` has the details.",
            )
            self._outside.fail(reply_to, error)
        self._probes.clear()
        self._worker.keep_running()

    def _progressed(self, progress: JobProgress) -> None:
        record = self._jobs.progressed(progress)
        now = time.monotonic()
        if record is None or now - record.progress_sent_s < PROGRESS_INTERVAL_S:
            return
        record.progress_sent_s = now
        event = p.ProgressEvent(record.stage, record.done, record.total, record.fraction, record.eta_s(), record.found)
        self._outside.publish("progress", progress.job_id, event)

    def _ended(self, end: JobEnded) -> None:
        record = self._jobs.ended(end)
        if record is None:
            return
        problem = f": {end.error.message} [{end.error.code}]" if end.error else ""
        self._log.info("%s is %s%s", record.order.kind, end.state, problem, extra={"job_id": end.job_id})
        self._announce(record)
        if record.is_final:
            self._desk.analysis_ended(record)
        self._start_job()

    # --- jobs ---

    def _start_job(self) -> None:
        if self._worker.is_ready:
            record = self._jobs.start_next()
            if record is not None:
                self._worker.send(record.order)
                self._announce(record)

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
            same = order.kind == "analyze" and order.source == source
            if same and order.settings.settings().digest("analysis") == digest:
                record.is_wanted_by(session)
                return record
        return self._begin(JobOrder(p.new_job_id(), "analyze", source, settings, None, False), source.name(), session)

    def _begin(self, order: JobOrder, shown_source: str, session: str, detached: bool = False) -> JobRecord:
        """Raises: ResourceError `engine-stopping`, `queue-full`; InputError `job-id-taken`."""
        if self._is_stopping:
            raise ResourceError("engine-stopping", "The engine is stopping.", "Start another when it is gone.")
        record = self._jobs.submit(order, shown_source, session, detached)
        self._announce(record)

        def seen(_: str) -> None:
            record.waits_for_files = False
            self._start_job()

        record.waits_for_files = True
        look = partial(stamp_of_files, order.source, order.settings)
        self._glances.at(named_files(order.source, order.settings), look, math.inf, seen, lambda: None)
        return record


def _memory_bytes(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
