# SPDX-License-Identifier: Apache-2.0
"""The sidecar: what lies beside every result and says how it came about."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vs3r_engine import __version__, native
from vs3r_engine.camera import Trajectory
from vs3r_engine.job import Job
from vs3r_engine.media.analysis import Analysis


def sidecar_of(output: str | Path) -> Path:
    """Where the sidecar of a result lies."""
    return Path(f"{output}.vs3r.json")


def write_sidecar(
    job: Job, analysis: Analysis, path: Trajectory, hole_shares: Sequence[float], findings: dict[str, Any], timings_s: dict[str, float]
) -> str:
    """Write `OUTPUT.vs3r.json`: settings, versions, both paths and diagnostics per frame; returns its path."""
    render = job.render_range
    measured, smoothed = (p.sliced(render.start, render.end_exclusive) for p in (analysis.trajectory, path))
    part = slice(render.start - analysis.frame_range.start, render.end_exclusive - analysis.frame_range.start)

    def rounded(array: np.ndarray) -> list:
        return np.round(np.asarray(array, np.float64), 9).tolist()

    kernels = native.VERSION if native.is_available else None
    sidecar = {
        "schema": 1,
        "versions": {"vs3r": __version__, "python": platform.python_version(), "numpy": np.__version__, "kernels": kernels},
        "source": {
            "path": job.clip.path,
            "rate": str(job.clip.rate),
            "width": job.clip.width,
            "height": job.clip.height,
            "start_timecode": job.clip.start_timecode,
        },
        "render_range": [render.start, render.end_exclusive],
        "analysis_range": [job.analysis_range.start, job.analysis_range.end_exclusive],
        "settings": job.settings.values(),
        "findings": findings,
        "timings_s": {stage: round(seconds, 3) for stage, seconds in timings_s.items()},
        "shots": [[shot.start, shot.end_exclusive] for shot in analysis.shots],
        "measured": {"K": rounded(measured.K), "world_from_camera": rounded(measured.world_from_camera[:, :3])},
        "smoothed": {"K": rounded(smoothed.K), "world_from_camera": rounded(smoothed.world_from_camera[:, :3])},
        "hole_percent": [round(100 * share, 3) for share in hole_shares],
        "moving_percent": rounded(100 * analysis.moving_share[part]),
        "diagnostics": {name: np.asarray(values[part]).tolist() for name, values in analysis.diagnostics.items()},
    }
    target = sidecar_of(job.output)
    temporary = target.with_suffix(".part")
    temporary.write_text(json.dumps(sidecar))
    temporary.replace(target)
    return str(target)
