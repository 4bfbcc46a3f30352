# SPDX-License-Identifier: Apache-2.0
"""The process that computes, seen from the server: the messages both send, and WorkerProcess, which keeps one running.

What happens inside it is in work.py. The pipe between them carries small messages, and frames as bytes.
"""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from vs3r_engine.job import JobState
from vs3r_engine.media.raw_frames import SAMPLE_BYTES
from vs3r_engine.service.protocol import Error, JobKind, ProbeReply, SampleFormat, SettingsChoice, Source

RESTART_PAUSE_S = (0.0, 1.0, 5.0, 15.0)
"""Pause before a worker is started again, by how many ended in the last minute."""


# --- orders, to the worker -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    ticket: int
    source: Source


@dataclass(frozen=True, slots=True)
class JobOrder:
    job_id: str
    kind: JobKind
    source: Source
    settings: SettingsChoice
    output: str | None
    overwrite: bool


@dataclass(frozen=True, slots=True)
class CancelOrder:
    job_id: str


@dataclass(frozen=True, slots=True)
class FrameKey:
    """One rendered frame: `clip` is a digest of source and settings."""

    clip: str
    format: SampleFormat
    reduction: int
    frame_index: int


@dataclass(frozen=True, slots=True)
class FrameOrder:
    key: FrameKey
    source: Source
    settings: SettingsChoice


# --- reports, from the worker ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    device: str


@dataclass(frozen=True, slots=True)
class Probed:
    ticket: int
    reply: ProbeReply | Error


@dataclass(frozen=True, slots=True)
class JobProgress:
    job_id: str
    stage: str
    done: int
    total: int
    fraction: float
    found: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """`state` is final."""

    job_id: str
    state: JobState
    result: dict[str, Any] | None = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class FrameDone:
    """The pixels follow (`send_pixels`): RGBA, rows of width * 4 * sample size."""

    key: FrameKey
    width: int
    height: int
    pixels: bytes | bytearray = b""


@dataclass(frozen=True, slots=True)
class FrameFailed:
    """`error` is None where the clip has no analysis yet."""

    key: FrameKey
    error: Error | None


@dataclass(frozen=True, slots=True)
class LogLine:
    level: int
    job_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The process ended by itself. exit_code: negative = killed by that signal."""

    exit_code: int | None


def send_pixels(pipe: Connection, pixels: memoryview) -> None:
    """To `receive_pixels`. Where the system lets us, past the Connection, which takes four times the CPU time for a picture."""
    if sys.platform == "win32":
        pipe.send_bytes(pixels)
        return
    while pixels:
        pixels = pixels[os.write(pipe.fileno(), pixels) :]


def receive_pixels(pipe: Connection, count: int) -> bytes | bytearray:
    """What `send_pixels` sent, `count` bytes. Raises: EOFError where the other end closed."""
    if sys.platform == "win32":
        return pipe.recv_bytes()
    pixels = bytearray(count)
    missing = memoryview(pixels)
    while missing:
        received = os.readv(pipe.fileno(), [missing])
        if not received:
            raise EOFError
        missing = missing[received:]
    return pixels


class WorkerProcess:
    """One worker, started again whenever it ends by itself.

    `report` is called from another thread with everything the worker says, and with Lost.
    """

    def __init__(self, pipeline: str, cache_root: str, cache_limit_bytes: int, report: Callable[[Any], None]) -> None:
        """pipeline: the module that computes, `vs3r_engine.pipeline` unless a test says otherwise."""
        self._arguments = (pipeline, cache_root, cache_limit_bytes)
        self._report = report
        self._process: Any = None
        self._pipe: Connection | None = None
        self._ends: list[float] = []
        self._start_at_s = 0.0
        self.is_ready = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        from vs3r_engine.service import work

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=work.main, args=(theirs, *self._arguments), name="vs3r-worker", daemon=True)
        self._process.start()
        theirs.close()
        self._pipe = ours
        threading.Thread(target=self._listen, args=(ours, self._process), name="worker-reports", daemon=True).start()

    def send(self, order: Any) -> bool:
        """False where there is no worker to take it."""
        try:
            if self._pipe is None:
                return False
            self._pipe.send(order)
            return True
        except OSError:
            return False

    def lost(self) -> None:
        """To be called on the server's thread after Lost: plans the next start."""
        now = time.monotonic()
        self._ends = [end for end in self._ends if now - end < 60] + [now]
        self._start_at_s = now + RESTART_PAUSE_S[min(len(self._ends), len(RESTART_PAUSE_S)) - 1]
        self._process = self._pipe = None
        self.is_ready = False
        self.restarts += 1

    def keep_running(self) -> None:
        """Starts the worker where none runs and its pause is over."""
        if self._process is None and time.monotonic() >= self._start_at_s:
            self.start()

    def kill(self) -> None:
        """The process ends now; Lost is reported, and another is started."""
        if self._process is not None:
            self._process.kill()

    def stop(self, patience_s: float) -> None:
        """No worker runs any more; one that does not end within `patience_s` is killed."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is None:
            return
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.send(None)
        process.join(patience_s)
        if process.is_alive():
            process.kill()
            process.join()

    def _listen(self, pipe: Connection, process: Any) -> None:
        try:
            while True:
                report = pipe.recv()
                if isinstance(report, FrameDone):
                    report = replace(
                        report, pixels=receive_pixels(pipe, report.width * report.height * 4 * SAMPLE_BYTES[report.key.format])
                    )
                self._report(report)
        except (EOFError, OSError):
            process.join(5)
            if self._process is process:
                self._report(Lost(process.exitcode))
