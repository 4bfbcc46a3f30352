# SPDX-License-Identifier: Apache-2.0
"""What a person sees while a job runs: one bar over all stages with the time left and what was learned, on standard
error; a line per stage where that is no terminal; NDJSON on standard output where a program asked."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from host_bridge.client import Event
from vs3r_engine.service.protocol import JobReport

_FINDINGS: dict[str, Callable[[Any], str]] = {
    "shake_deg": lambda value: f"shake {value:.1f}° rms",
    "moving_percent": lambda value: f"{value:.0f} % moving",
    "shots": lambda value: f"{value} shots" if value != 1 else "",
    "breaks": lambda value: f"motion lost at {value} places" if value > 1 else "motion lost once" if value else "",
    "overlay_percent": lambda value: f"{value:.0f} % overlay",
    "hole_percent": lambda value: f"{value:.1f} % filled",
    "method": lambda value: str(value),
}

ROOM_FOR_FACTS = 80
"""Columns below which the bar would lose its percentage and time to the facts."""


def findings_text(found: dict[str, Any]) -> str:
    """The facts worth a word, such as "shake 2.9° rms, 12 % moving"."""
    texts = [_FINDINGS[name](found[name]) for name in _FINDINGS if isinstance(found.get(name), int | float | str)]
    return ", ".join(text for text in texts if text)


class Display(Protocol):
    """Shows a job's events. `close` takes the bar away."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


def display(as_json: bool, quiet: bool) -> Display:
    if as_json:
        return JsonDisplay()
    if quiet:
        return LineDisplay(lambda _: None)
    if sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):  # in those a bar shows nothing at all
        return BarDisplay()
    return LineDisplay(lambda line: print(line, file=sys.stderr, flush=True))


class JsonDisplay:
    """One JSON object a line on standard output."""

    def show(self, event: Event) -> None:
        if event.kind in ("log", "engine"):
            write_json({"type": event.kind, "message": event.text})
        elif event.job is not None and not event.job.is_final:
            job = event.job
            write_json(
                {
                    "type": "progress",
                    "job_id": job.job_id,
                    "state": job.state,
                    "stage": job.stage,
                    "done": job.done,
                    "total": job.total,
                    "fraction": job.fraction,
                    "eta_s": job.eta_s,
                    "found": job.found,
                }
            )

    def close(self) -> None:
        pass


class LineDisplay:
    """A line at the beginning of each stage."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._last = write, ""

    def show(self, event: Event) -> None:
        if event.job is None:
            self._write(event.text)
            return
        stage = _stage(event.job)
        if stage != self._last and not event.job.is_final:
            self._last = stage
            facts = findings_text(event.job.found)
            self._write(f"{event.job.fraction:4.0%} {stage}" + (f" - {facts}" if facts else ""))

    def close(self) -> None:
        pass


class BarDisplay:
    """One bar over the whole job, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[left]}"),
            *([TextColumn("[dim]{task.fields[facts]}")] if console.width >= ROOM_FOR_FACTS else []),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=1.0, left="", facts="")
        self._progress.start()

    def show(self, event: Event) -> None:
        if event.job is None:
            self._progress.console.print(event.text, style="yellow", markup=False, highlight=False)
            return
        job = event.job
        frames = f" {job.done}/{job.total}" if job.total else ""
        left = f"{int(job.eta_s // 60)}:{int(job.eta_s % 60):02d} left" if job.eta_s is not None else ""
        self._progress.update(
            self._task,
            completed=job.fraction,
            description=_stage(job) + frames,
            left=left,
            facts=findings_text(job.found),
        )

    def close(self) -> None:
        self._progress.stop()


def write_json(value: Any) -> None:
    """A line on standard output, in ASCII: pipes have another encoding on every system."""
    print(json.dumps(msgspec.to_builtins(value)), flush=True)


def _stage(job: JobReport) -> str:
    return "waiting for the engine" if job.state == "queued" else job.stage or "start"
