# SPDX-License-Identifier: Apache-2.0
"""An engine for timelines that renders nothing: facts from a table, results as empty files, faults where asked."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.job import Job, Progress, RenderResult
from vs3r_engine.timeline import Clip, FrameRange


@dataclass
class TimelineEngine:
    """media: what each path is, images at the rate that is stated. faults: raised for jobs whose source has that path.
    Records what was asked of it."""

    media: dict[str, Clip] = field(default_factory=dict)
    faults: dict[str, VS3RError] = field(default_factory=dict)
    probed: list[str] = field(default_factory=list)
    submitted: list[Job] = field(default_factory=list)

    def add(self, path: str, frames: int = 1000, rate: Fraction = Fraction(24), start_timecode: str | None = None) -> str:
        """A file that exists, holding this."""
        with open(path, "w"):
            pass
        self.media[path] = Clip(path, rate, 64, 48, FrameRange(0, frames), start_timecode)
        return path

    def probe(self, path: str, sequence_rate: Fraction | None = None) -> Clip:
        self.probed.append(path)
        if path not in self.media:
            raise MediaError("media-not-video", f"{path} is not a video.", "")
        found = self.media[path]
        return replace(found, rate=sequence_rate) if sequence_rate and path.endswith((".png", ".exr")) else found

    def submit(self, job: Job) -> Iterator[Progress | RenderResult]:
        self.submitted.append(job)
        yield Progress("reconstruct", 1, 2, 0.5, {"shake_deg": 2.5})
        if fault := self.faults.get(job.clip.path):
            raise fault
        yield Progress("encode", 2, 2, 1.0)
        os.makedirs(os.path.dirname(job.output), exist_ok=True)
        stem, suffix = os.path.splitext(job.output)
        paths = [f"{stem[:-7]}{number:07d}{suffix}" for number in job.render_range] if suffix == ".exr" else [job.output]
        for path in paths:
            with open(path, "w") as file:
                file.write(str(job.render_range))
        yield RenderResult(job.output, f"{job.output}.json", job.render_range, {}, {})
