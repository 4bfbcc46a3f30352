# SPDX-License-Identifier: Apache-2.0
"""The server's book of jobs: who asked for what, what waits, what runs, how far it is. No sockets, no processes."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from vs3r_engine.errors import InputError, ResourceError
from vs3r_engine.job import JobState
from vs3r_engine.service.protocol import Error, JobReport
from vs3r_engine.service.worker import JobEnded, JobOrder, JobProgress, Lost

REMEMBERED = 256
WORKER_DEATHS = 3
"""Times the worker may die in one job before the job counts as the cause."""


@dataclass(slots=True)
class JobRecord:
    """A job and its state. `owners`: sessions that want it; None = detached, nobody's."""

    order: JobOrder
    shown_source: str
    """For people."""
    owners: set[str] | None
    created_unix_s: float = field(default_factory=time.time)
    state: JobState = JobState.QUEUED
    stage: str = ""
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    error: Error | None = None
    result: dict[str, Any] | None = None
    waits_for_files: bool = False
    """They have not answered yet. It does not run before they have, or it would hold up the others."""
    deaths: int = 0
    is_cancelling: bool = False
    cancelled_s: float = 0.0
    """When it was, in monotonic seconds."""
    progress_sent_s: float = 0.0
    """When hosts were last told how far it is, in monotonic seconds."""
    runs_again: bool = False
    """It was asked for anew while it was being cancelled."""
    started: tuple[float, float] | None = None
    """(monotonic seconds, fraction) at this run's first progress: what the time left is reckoned from."""

    @property
    def is_final(self) -> bool:
        return self.state.is_final

    @property
    def is_disowned(self) -> bool:
        """All who wanted it are gone."""
        return self.owners == set()

    def is_wanted_by(self, session: str) -> None:
        """One owner more. Where it was being cancelled for want of any, it runs again."""
        if self.is_cancelling and self.is_disowned:
            self.runs_again = True
        if self.owners is not None:
            self.owners.add(session)

    def eta_s(self) -> float | None:
        """Seconds left at this run's own speed; None while there is too little to tell."""
        if self.state is not JobState.RUNNING or self.started is None:
            return None
        elapsed_s, gained = time.monotonic() - self.started[0], self.fraction - self.started[1]
        return round(elapsed_s * (1 - self.fraction) / gained, 1) if gained > 0.005 and elapsed_s > 0.5 else None

    def report(self) -> JobReport:
        return JobReport(
            self.order.job_id,
            self.order.kind,
            self.state,
            self.stage,
            self.done,
            self.total,  # type: ignore[arg-type]
            self.fraction,
            self.eta_s(),
            self.found,
            self.shown_source,
            self.order.output,
            self.error,
            self.result,
            self.created_unix_s,
        )


class JobBook:
    """All jobs of this engine; one runs at a time."""

    def __init__(self, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._jobs: OrderedDict[str, JobRecord] = OrderedDict()
        self.running: JobRecord | None = None

    def submit(self, order: JobOrder, shown_source: str, session: str, detached: bool = False) -> JobRecord:
        """The job, queued; or as it stands where the same was submitted before.

        Raises: InputError `job-id-taken`, ResourceError `queue-full`.
        """
        record = self._jobs.get(order.job_id)
        if record is not None:
            if record.order != order:
                raise InputError("job-id-taken", f"The job id {order.job_id} belongs to another job.", "Choose another id.")
            if detached:
                record.owners = None
            elif record.owners is not None:
                record.owners.add(session)
            if record.state not in (JobState.FAILED, JobState.CANCELLED):
                record.runs_again = record.is_cancelling
                return record
            del self._jobs[order.job_id]
        if self.queued_count >= self._queue_limit:
            raise ResourceError("queue-full", f"{self.queued_count} jobs are waiting already.", "Try again when one is done.")
        record = JobRecord(order, shown_source, None if detached else {session})
        self._jobs[order.job_id] = record
        self._forget_oldest()
        return record

    def get(self, job_id: str) -> JobRecord:
        """Raises: InputError `unknown-job`."""
        if job_id not in self._jobs:
            raise InputError("unknown-job", f"There is no job {job_id}.", "`vs3r jobs` lists them.")
        return self._jobs[job_id]

    def newest_first(self) -> list[JobRecord]:
        return list(reversed(self._jobs.values()))

    @property
    def queued_count(self) -> int:
        return sum(record.state is JobState.QUEUED for record in self._jobs.values())

    def start_next(self) -> JobRecord | None:
        """The job that shall run now, if none runs and one waits for nothing else."""
        if self.running is not None:
            return None
        record = next((record for record in self._jobs.values() if record.state is JobState.QUEUED and not record.waits_for_files), None)
        if record is not None:
            record.state, record.started = JobState.RUNNING, None
            self.running = record
        return record

    def progressed(self, progress: JobProgress) -> JobRecord | None:
        """The record brought up to date; None where the job is no longer the running one."""
        record = self.running
        if record is None or record.order.job_id != progress.job_id:
            return None
        if record.started is None and progress.done > 0:
            record.started = (time.monotonic(), progress.fraction)
        record.stage, record.done, record.total = progress.stage, progress.done, progress.total
        record.fraction = min(1.0, max(record.fraction, progress.fraction))
        record.found = progress.found or record.found
        return record

    def ended(self, end: JobEnded) -> JobRecord | None:
        record = self.running
        if record is None or record.order.job_id != end.job_id:
            return None
        self.running = None
        if end.state is JobState.CANCELLED and record.runs_again:
            self._queue_first(record)
            return record
        record.state, record.error, record.result = end.state, end.error, end.result
        if record.state is JobState.DONE:
            record.fraction = 1.0
            record.found = (end.result or {}).get("findings") or record.found
        return record

    def worker_lost(self, lost: Lost) -> JobRecord | None:
        """The job that was running: queued again first in line, or failed where it keeps killing workers."""
        record = self.running
        if record is None:
            return None
        self.running = None
        record.deaths += 1
        if record.is_cancelling and not record.runs_again:
            record.state = JobState.CANCELLED
        elif record.deaths >= WORKER_DEATHS:
            record.state = JobState.FAILED
            record.error = Error(
                "worker-died",
                f"The computing process ended {record.deaths} times in this job (exit code {lost.exit_code}).",
                "Memory may have run out: try --draft, a shorter range, or close other programs. `vs3r engine logs` has the details.",
                "fault",
            )
        else:
            self._queue_first(record)
        return record

    def _queue_first(self, record: JobRecord) -> None:
        record.state, record.stage, record.is_cancelling, record.runs_again = JobState.QUEUED, "", False, False
        self._jobs.move_to_end(record.order.job_id, last=False)

    def cancel(self, record: JobRecord) -> bool:
        """True where the worker has to be told; a waiting job is cancelled at once."""
        if record.state is JobState.QUEUED:
            record.state = JobState.CANCELLED
        if not record.is_cancelling:
            record.cancelled_s = time.monotonic()
        record.is_cancelling, record.runs_again = not record.is_final, False
        return record is self.running

    def disowned(self, session: str) -> list[JobRecord]:
        """Unfinished jobs that nobody wants any more now that `session` is gone."""
        orphans = []
        for record in self._jobs.values():
            if record.owners is not None and session in record.owners:
                record.owners.discard(session)
                if not record.owners and not record.is_final:
                    orphans.append(record)
        return orphans

    def unfinished(self) -> list[JobRecord]:
        return [record for record in self._jobs.values() if not record.is_final]

    def _forget_oldest(self) -> None:
        finished = [job_id for job_id, record in self._jobs.items() if record.is_final]
        for job_id in finished[: max(0, len(finished) - REMEMBERED)]:
            del self._jobs[job_id]
