# SPDX-License-Identifier: Apache-2.0
"""Inside the worker process: one job at a time, step by step, and single frames between the steps.

The reading thread takes orders and cancels at once, each probe has one of its own: a file on a share that is gone may take for
ever. The main thread computes. The worker ends with its pipe.
"""

import importlib
import importlib.util
import logging
import math
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vs3r_engine.errors import DiskFull, EngineFault, OutOfMemory, VS3RError
from vs3r_engine.job import JobState, Progress, RenderResult
from vs3r_engine.service.cache import OUT_OF_SPACE, DiskStore
from vs3r_engine.service.protocol import Error, ProbeReply, SettingsChoice, encode, error_of
from vs3r_engine.service.worker import (
    CancelOrder,
    FrameDone,
    FrameFailed,
    FrameOrder,
    JobEnded,
    JobOrder,
    JobProgress,
    LogLine,
    Probed,
    ProbeOrder,
    Ready,
    send_pixels,
)

PROBES_AT_ONCE = 16


def main(pipe: Connection, pipeline: str, cache_root: str, cache_limit_bytes: int) -> None:
    """The worker process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the server's to handle
    worker = Worker(pipe, pipeline, cache_root, cache_limit_bytes)
    try:
        worker.run()
    except Exception:
        logging.getLogger("vs3r").exception("the worker cannot go on")  # nobody reads its standard error
        raise


class Worker:
    def __init__(self, pipe: Connection, pipeline: str, cache_root: str, cache_limit_bytes: int) -> None:
        from vs3r_engine.service.playback import Playbacks  # not for the server, which loads this file too

        self._pipe = pipe
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._probes: dict[bytes, list[int]] = {}
        """Tickets that wait for what is being examined, by the encoded source."""
        self._probing = threading.Lock()
        self._cancelled: set[str] = set()
        self._job: JobOrder | None = None
        self._steps: Iterator[JobProgress | JobEnded] = iter(())
        logging.getLogger().addHandler(_ToServer(self))
        logging.getLogger().setLevel(logging.INFO)
        self._pipeline: Any = importlib.import_module(pipeline)
        self._store = DiskStore(Path(cache_root), cache_limit_bytes)
        self._playbacks = Playbacks(self._pipeline, self._store)

    def run(self) -> None:
        threading.Thread(target=self._read, name="orders", daemon=True).start()
        self.send(Ready(device_name()))
        while True:
            try:
                order = self._orders.get(block=self._job is None, timeout=1.0)
            except queue.Empty:
                self._playbacks.close_idle()
                self._step()
            else:
                if isinstance(order, JobOrder):
                    self._job, self._steps = order, self._run(order)
                else:
                    self._render(order)

    @property
    def job_id(self) -> str:
        return self._job.job_id if self._job else "-"

    def send(self, report: Any, pixels: memoryview | None = None) -> None:
        with self._sending:
            self._pipe.send(report)
            if pixels is not None:
                send_pixels(self._pipe, pixels)

    def _read(self) -> None:
        try:
            while (order := self._pipe.recv()) is not None:
                if isinstance(order, CancelOrder):
                    self._cancelled.add(order.job_id)
                elif isinstance(order, ProbeOrder):
                    self._begin_probe(order)
                else:
                    if isinstance(order, JobOrder):  # a cancel that came after its job's end was not meant for this run
                        self._cancelled.discard(order.job_id)
                    self._orders.put(order)
        except (EOFError, OSError):
            pass
        os._exit(0)  # the server is gone or wants us gone; finished chunks are already safe

    def _begin_probe(self, order: ProbeOrder) -> None:
        """It is examined, once for all who ask for it meanwhile; where too much is, its ticket runs out."""
        source = encode(order.source)
        with self._probing:
            if source in self._probes:
                self._probes[source].append(order.ticket)
            elif len(self._probes) < PROBES_AT_ONCE:
                self._probes[source] = [order.ticket]
                threading.Thread(target=self._answer_probe, args=(order, source), name="probe", daemon=True).start()

    def _answer_probe(self, order: ProbeOrder, source: bytes) -> None:
        reply = self._probe(order)
        with self._probing:
            tickets = self._probes.pop(source)
        for ticket in tickets:
            self.send(Probed(ticket, reply))

    def _probe(self, order: ProbeOrder) -> ProbeReply | Error:
        from vs3r_engine.service.playback import job_of

        infos: list[Any] = []

        def probe(path: str, sequence_rate: Any) -> Any:
            infos.append(self._pipeline.probe(path, sequence_rate))
            return infos[-1]

        try:
            job = job_of(SimpleNamespace(probe=probe), order.source, SettingsChoice(), "", "-", False)
        except Exception as error:
            return error_of(translated(error))
        clip = job.clip
        available, render = clip.available_range, job.render_range
        return ProbeReply(
            order.source.name(),
            clip.width,
            clip.height,
            str(clip.rate),
            (available.start, available.end_exclusive),
            (render.start, render.end_exclusive),
            clip.start_timecode,
            round(infos[-1].rotation_deg / 90) % 4 * 90,
            str(infos[-1].pixel_aspect),
        )

    def _step(self) -> None:
        """One step of the job, or its end."""
        if self._job is None:
            return
        if self._job.job_id in self._cancelled:
            self._steps.close()  # type: ignore[attr-defined]
            self._end(JobEnded(self._job.job_id, JobState.CANCELLED))
            return
        report = next(self._steps)
        if isinstance(report, JobEnded):
            self._end(report)
        else:
            self.send(report)

    def _end(self, report: JobEnded) -> None:
        self._cancelled.discard(report.job_id)
        self._store.release(self._playbacks.entries())
        self._job, self._steps = None, iter(())
        self.send(report)

    def _run(self, order: JobOrder) -> Iterator[JobProgress | JobEnded]:
        from vs3r_engine.service.playback import job_of

        try:
            yield JobProgress(order.job_id, "open", 0, 0, 0.0, {})
            job = job_of(self._pipeline, order.source, order.settings, order.job_id, order.output or "-", order.overwrite)
            work = self._pipeline.stabilize if order.kind == "stabilize" else self._pipeline.analyze
            for item in work(job, self._store):
                if isinstance(item, Progress):
                    yield JobProgress(order.job_id, item.stage, item.done, item.total, item.fraction, _plain(item.found))
                elif isinstance(item, RenderResult):
                    yield JobEnded(
                        order.job_id,
                        JobState.DONE,
                        _plain(
                            {
                                "output": item.output,
                                "sidecar": item.sidecar,
                                "findings": item.findings,
                                "timings_s": item.timings_s,
                                "render_range": [item.render_range.start, item.render_range.end_exclusive],
                            }
                        ),
                    )
                else:
                    yield JobEnded(order.job_id, JobState.DONE, _plain({"findings": item.findings}))
        except Exception as error:
            yield JobEnded(order.job_id, JobState.FAILED, error=error_of(translated(error)))

    def _render(self, order: FrameOrder) -> None:
        try:
            found = self._playbacks.frame(order)
        except Exception as error:
            self.send(FrameFailed(order.key, error_of(translated(error))))
            return
        if found is None:
            self.send(FrameFailed(order.key, None))
        else:
            width, height, pixels = found
            self.send(FrameDone(order.key, width, height), pixels)


def device_name() -> str:
    """What networks run on here by default: the GPU's name, "mps", or "cpu". Loads torch only where a GPU is likely."""
    has_driver = sys.platform == "darwin" or shutil.which("nvidia-smi") is not None
    if not has_driver or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "mps" if torch.backends.mps.is_available() else "cpu"


def translated(error: Exception) -> VS3RError:
    """`error` as one of ours; what nobody expected is an EngineFault, with its traceback in the log."""
    if isinstance(error, VS3RError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("out-of-memory", "Memory ran out.", "Close other programs, or use --draft.")
    if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        return DiskFull("disk-full", f"The disk of {error.filename or 'the output'} is full.", "Free some space and run again.")
    logging.getLogger("vs3r").error("".join(traceback.format_exception(error)))
    return EngineFault("engine-fault", f"{type(error).__name__}: {error}", "`vs3r engine logs` has the details; please report it.")


def _plain(value: Any) -> Any:
    """`value` with numbers, texts, lists and dicts only, ready for JSON; numpy scalars and NaN included."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class _ToServer(logging.Handler):
    """Every log record of the worker becomes a line of the engine's log."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._worker.send(LogLine(record.levelno, self._worker.job_id, self.format(record)))
        except OSError:
            self.handleError(record)
