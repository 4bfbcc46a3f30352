# SPDX-License-Identifier: Apache-2.0
"""The real engine in this process, behind what timelines need of one. Slow, and nothing faked but the wire."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from vs3r_engine import pipeline
from vs3r_engine.job import Job, Progress, RenderResult
from vs3r_engine.media import decode
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.timeline import Clip


@dataclass
class LocalEngine:
    store: Path
    submitted: list[Job] = field(default_factory=list)

    def probe(self, path: str, sequence_rate: Fraction | None = None) -> Clip:
        return decode.probe(path, sequence_rate).clip

    def submit(self, job: Job) -> Iterator[Progress | RenderResult]:
        self.submitted.append(job)
        return pipeline.stabilize(job, DiskStore(self.store))
