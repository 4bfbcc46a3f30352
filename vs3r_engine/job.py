# SPDX-License-Identifier: Apache-2.0
"""A piece of work and what is told about it. Everything here is plain data that msgspec can write as JSON."""

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from vs3r_engine.settings import Settings
from vs3r_engine.timeline import Clip, FrameRange


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the engine needs to stabilize one range of one clip.

    render_range: the frames to return. analysis_range: the frames to look at, at least render_range (handles make the
    path right at the ends of a cut). output: where the result goes; never the source itself.
    """

    job_id: str
    clip: Clip
    render_range: FrameRange
    analysis_range: FrameRange
    output: str
    settings: Settings = Settings()
    overwrite: bool = False


HANDLES_S = 6
"""Seconds looked at on either side of what is returned: three standard deviations of the calmest path filter (2 s)."""


def analysis_range_of(render_range: FrameRange, clip: Clip) -> FrameRange:
    """The frames to look at for `render_range` of a clip, where nobody says which."""
    return render_range.padded(math.ceil(HANDLES_S * clip.rate), clip.available_range)


class JobState(enum.StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    """Accepted, waiting for the device."""
    RUNNING = "running"
    """A worker has it."""
    DONE = "done"
    """The result is complete under its final name."""
    FAILED = "failed"
    """It ended with an error; finished chunks are kept."""
    CANCELLED = "cancelled"
    """The user stopped it; finished chunks are kept."""

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step forward. `done` and `total` are frames of this stage; `fraction` is of the whole job, never falls.

    found: facts about this clip learned so far, such as {"shake_deg": 2.9, "moving_percent": 12.0}.
    """

    stage: str
    done: int
    total: int
    fraction: float
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderResult:
    """A complete result: it exists in full under `output`, or there is none of this.

    sidecar: path of the JSON with settings, trajectories, versions, per-frame diagnostics.
    findings: facts about the clip. timings_s: wall seconds by stage.
    """

    output: str
    sidecar: str
    render_range: FrameRange
    findings: dict[str, Any]
    timings_s: dict[str, float]
