# SPDX-License-Identifier: Apache-2.0
"""What timelines ask of an engine, answered through the protocol."""

import os
from collections.abc import Iterator
from fractions import Fraction

from host_bridge.launcher import Launcher
from vs3r_engine.errors import Cancelled, EngineFault
from vs3r_engine.job import Job, Progress, RenderResult
from vs3r_engine.media.edit import IMAGE_SUFFIXES
from vs3r_engine.service import protocol as p
from vs3r_engine.timeline import Clip, FrameRange


class TimelineEngine:
    """The launcher's engine as host_bridge.timelines.run.Engine."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def probe(self, path: str, sequence_rate: Fraction | None = None) -> Clip:
        """What the file is. Raises: MediaError."""
        rate = None if sequence_rate is None else str(sequence_rate)
        with self._launcher.ensure() as client:
            found = client.probe(p.Source(path=path, rate=rate))
        return Clip(
            path,
            Fraction(found.rate),
            found.width,
            found.height,
            FrameRange.between(*found.available_range),
            found.start_timecode,
        )

    def submit(self, job: Job) -> Iterator[Progress | RenderResult]:
        """Progress, then the result, through engines that die. Raises: the job's error; Cancelled."""
        is_sequence = os.path.splitext(job.clip.path)[1].lower() in IMAGE_SUFFIXES
        request = p.Stabilize(
            p.Source(
                path=job.clip.path,
                range=(job.render_range.start, job.render_range.end_exclusive),
                analysis_range=(job.analysis_range.start, job.analysis_range.end_exclusive),
                rate=str(job.clip.rate) if is_sequence else None,
            ),
            job.output,
            p.SettingsChoice(values=job.settings.changed()),
            None,
            False,
            job.overwrite,
        )
        report = None
        for event in self._launcher.run(request):
            report = event.job or report
            if report is not None and event.kind in ("progress", "state") and not report.is_final:
                yield Progress(report.stage, report.done, report.total, report.fraction, report.found)
        if report is None or report.state == "cancelled":
            raise Cancelled()
        if report.error is not None:
            raise p.exception_of(report.error)
        if report.result is None:
            raise EngineFault("no-result", f"The engine ended the job for {job.output} without a result.", "See the engine's log.")
        result = report.result
        yield RenderResult(
            result["output"],
            result["sidecar"],
            FrameRange.between(*result["render_range"]),
            result["findings"],
            result["timings_s"],
        )
