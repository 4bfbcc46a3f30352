# SPDX-License-Identifier: Apache-2.0
"""Runs a plan's jobs on an engine, one after the other; a clip that fails does not stop the others."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from host_bridge.timelines.plan import Plan
from vs3r_engine.errors import Cancelled, EngineFault, VS3RError
from vs3r_engine.job import Job, Progress, RenderResult
from vs3r_engine.timeline import Clip


class Engine(Protocol):
    """What timelines need of an engine."""

    def probe(self, path: str, sequence_rate: Fraction | None = None) -> Clip:
        """What the file is; an image sequence with the rate that is stated for it. Raises: MediaError."""

    def submit(self, job: Job) -> Iterator[Progress | RenderResult]:
        """Progress, then the result, at the rate of `job.clip`. Raises: VS3RError."""


@dataclass(frozen=True, slots=True)
class ClipProgress:
    """One step of one clip, and where the timeline is. `index` counts jobs from 1 to `total`; `fraction` is of all frames."""

    name: str
    index: int
    total: int
    progress: Progress
    fraction: float


@dataclass
class Outcome:
    """What became of each job, by job_id. Every planned job is in exactly one of the two."""

    results: dict[str, RenderResult] = field(default_factory=dict)
    failures: dict[str, VS3RError] = field(default_factory=dict)


def run(plan: Plan, engine: Engine) -> Generator[ClipProgress, None, Outcome]:
    """Every job ran; those whose file an earlier run finished are results at once.

    Raises: Cancelled; what is finished then stays on disk, and the same plan made again takes it from there.
    """
    outcome = Outcome()
    names: dict[str, str] = {}
    for planned in plan.clips:
        names.setdefault(planned.job.job_id, planned.place.clip.name)
        if planned.state == "finished":
            outcome.results[planned.job.job_id] = RenderResult(planned.job.output, "", planned.job.render_range, {}, {})
    jobs = plan.jobs
    frames_total = sum(job.render_range.duration for job in jobs)
    frames_before = 0
    for index, job in enumerate(jobs, 1):
        try:
            for event in engine.submit(job):
                if isinstance(event, RenderResult):
                    outcome.results[job.job_id] = event
                else:
                    fraction = (frames_before + event.fraction * job.render_range.duration) / frames_total
                    yield ClipProgress(names[job.job_id], index, len(jobs), event, fraction)
            _check(job, outcome.results.get(job.job_id))
        except Cancelled:
            raise
        except VS3RError as error:
            outcome.results.pop(job.job_id, None)
            outcome.failures[job.job_id] = error
        frames_before += job.render_range.duration
    return outcome


def _check(job: Job, result: RenderResult | None) -> None:
    if result is None:
        raise EngineFault("no-result", f"The engine ended the job for {job.output} without a result.", "See the engine's log.")
    if result.render_range != job.render_range:
        raise EngineFault(
            "wrong-range", f"{result.output} holds frames {result.render_range}, not {job.render_range}.", "See the engine's log."
        )
