# SPDX-License-Identifier: Apache-2.0
"""A pipeline that stabilizes nothing, quickly and predictably, and an engine that runs it.

Its media are JSON files ({"frames": 100, "step_s": 0.01, ...}); its frames are coloured by their index; its output
is one line per frame, made in durable chunks as the real one's. `python -m tests.fakes.engine --directory D` serves it.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import opentimelineio as otio

from vs3r_engine.errors import MediaError
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.job import Job, Progress, RenderResult
from vs3r_engine.media import raw_frames
from vs3r_engine.timeline import Clip, FrameRange

CHUNK_FRAMES = 20


@dataclass(frozen=True)
class FakeInfo:
    clip: Clip
    rotation_deg: int = 0
    pixel_aspect: Fraction = Fraction(1)
    sequence: str | None = None


def make_media(path: Path, **facts: Any) -> str:
    """A fake clip. frames, width, height; step_s per frame; read_s: it is examined that long after it was made;
    die_once / die_always: the worker is killed at that frame;
    fail_at: rendering it raises; ballast_mib: allocated while running; rotation_deg, pixel_aspect; ramp: green and blue
    grow with column and row; sequence: its rate can be stated, as an image sequence's."""
    path.write_text(json.dumps({"frames": 100, "width": 32, "height": 16, "step_s": 0.0, **facts}))
    return str(path)


def otio_clip(path: str) -> dict[str, Any]:
    """An edit's clip that shows the first second of a fake one."""
    clip = otio.schema.Clip(media_reference=otio.schema.ExternalReference(path))
    clip.source_range = otio.opentime.TimeRange(duration=otio.opentime.RationalTime(25, 25))
    return json.loads(clip.to_json_string())


def facts_of(path: str) -> dict[str, Any]:
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise MediaError("media-missing", f"{path} does not exist.", "Check the path.") from error
    except ValueError as error:
        raise MediaError("media-unreadable", f"{path} is no fake clip.", "Make one.") from error


def probe(path: str, sequence_rate: Fraction | None = None) -> FakeInfo:
    if raw_frames.is_raw_frames(path):
        return FakeInfo(open_source(path).info.clip)
    facts = facts_of(path)
    time.sleep(max(0, facts.get("read_s", 0) - (time.time() - os.path.getmtime(path))))
    sequence = path if facts.get("sequence") else None
    rate = sequence_rate if sequence and sequence_rate else Fraction(25)
    clip = Clip(path, rate, facts["width"], facts["height"], FrameRange(0, facts["frames"]))
    return FakeInfo(clip, facts.get("rotation_deg", 0), Fraction(facts.get("pixel_aspect", "1")), sequence)


class FakeSource:
    def __init__(self, path: str, sequence_rate: Fraction | None) -> None:
        self.path, self.facts, self.info = path, facts_of(path), probe(path, sequence_rate)

    def frames(self, frame_range: FrameRange) -> Iterator[Frame]:
        height, width = self.facts["height"], self.facts["width"]
        green, blue = np.full((height, width), -0.25, np.float32), np.full((height, width), 1.5, np.float32)
        if self.facts.get("ramp"):
            green[:], blue[:] = np.arange(width) / width, np.arange(height)[:, None] / height
        for index in frame_range:
            planes = (np.full((height, width), index / 1000, np.float32), green, blue)
            yield Frame(index, planes, PixelLayout("rgb", 32))

    def close(self) -> None:
        pass


def open_source(path: str, sequence_rate: Fraction | None = None) -> Any:
    if raw_frames.is_raw_frames(path):
        from vs3r_engine.media.raw_source import RawFramesSource

        return RawFramesSource(path)
    return FakeSource(path, sequence_rate)


def choose_methods(settings: Any, rate: Fraction) -> Any:
    return SimpleNamespace(completer=None)


def analyze(job: Job, store: Any) -> Iterator[Any]:
    yield from _analyzed(job, store)
    yield open_analysis(job, store)


def open_analysis(job: Job, store: Any) -> Any:
    found = store.find("analysis", _key(job, "analysis"))
    return None if found is None else SimpleNamespace(findings=json.loads((found / "findings.json").read_text()))


def smoothed_path(job: Job, analysis: Any) -> None:
    return None


def render_frames(job: Job, analysis: Any, path: None, frame_range: FrameRange, source: Any, methods: Any) -> Iterator[Frame]:
    facts = {} if raw_frames.is_raw_frames(job.clip.path) else facts_of(job.clip.path)
    for frame in source.frames(frame_range):
        time.sleep(facts.get("step_s", 0))
        _accidents(job, facts, frame.frame_index)
        yield frame


def stabilize(job: Job, store: Any) -> Iterator[Any]:
    facts = facts_of(job.clip.path)
    ballast = bytearray(facts.get("ballast_mib", 0) << 20)
    yield from _analyzed(job, store)
    with store.workspace("chunks", _key(job, "analysis", "path", "frame", "fill")) as workspace:
        total = job.render_range.duration
        for chunk in job.render_range.chunks(CHUNK_FRAMES):
            segment = workspace / f"{chunk.start:08d}"
            if segment.exists():
                continue
            lines = []
            for index in chunk:
                time.sleep(facts["step_s"])
                _accidents(job, facts, index)
                lines.append(f"frame {index} smoothness {job.settings.path.smoothness}\n")
                done = index + 1 - job.render_range.start
                yield Progress("render", done, total, 0.2 + 0.8 * done / total, {"moving_percent": 12.0, "ballast": len(ballast)})
            segment.with_suffix(".part").write_text("".join(lines))
            segment.with_suffix(".part").rename(segment)
        Path(job.output + ".part").write_text("".join(path.read_text() for path in sorted(workspace.iterdir())))
        os.replace(job.output + ".part", job.output)
    store.discard("chunks", _key(job, "analysis", "path", "frame", "fill"))
    yield RenderResult(job.output, job.output + ".vs3r.json", job.render_range, {"moving_percent": 12.0}, {"render": 0.1})


def _analyzed(job: Job, store: Any) -> Iterator[Progress]:
    if store.find("analysis", _key(job, "analysis")) is not None:
        return
    facts = {"step_s": 0} if raw_frames.is_raw_frames(job.clip.path) else facts_of(job.clip.path)
    with store.writing("analysis", _key(job, "analysis")) as directory:
        for step in range(5):
            time.sleep(facts["step_s"])
            _accidents(job, facts, -1 - step)
            yield Progress("analyze", step + 1, 5, 0.04 * (step + 1), {"shake_deg": 2.9})
        (directory / "ballast").write_bytes(bytes(facts.get("analysis_mib", 0) << 20))
        (directory / "findings.json").write_text(json.dumps({"shake_deg": 2.9}))


def _accidents(job: Job, facts: dict[str, Any], index: int) -> None:
    if index == facts.get("fail_at"):
        raise RuntimeError("on purpose")
    mark = Path(job.clip.path + ".died")
    if index == facts.get("die_always") or (index == facts.get("die_once") and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), 9)


def _key(job: Job, *groups: str) -> str:
    content = hashlib.sha256(f"{job.clip.path} {job.render_range} {job.settings.digest(*groups)}".encode())
    return content.hexdigest()[:24]


def main() -> None:
    from vs3r_engine.service import engine
    from vs3r_engine.service.protocol import Limits
    from vs3r_engine.service.server import ServerOptions, serve

    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--pipeline", default="tests.fakes.engine")
    parser.add_argument("--listen")
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--idle-exit", type=float, default=60)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--cache-limit", type=int, default=1 << 30)
    parser.add_argument("--session-timeout", type=float, default=15.0)
    parser.add_argument("--limits", type=json.loads, default={})
    parser.add_argument("--cancel-limit", type=float, default=engine.CANCEL_LIMIT_S)
    given = parser.parse_args()
    engine.CANCEL_LIMIT_S = given.cancel_limit
    serve(
        ServerOptions(
            directory=given.directory,
            listen=given.listen,
            keys=given.keys,
            tcp=given.tcp,
            idle_exit_s=given.idle_exit,
            parent=given.parent,
            cache_root=given.cache or given.directory / "store",
            cache_limit_bytes=given.cache_limit,
            log=given.directory / "engine.log",
            pipeline=given.pipeline,
            session_timeout_s=given.session_timeout,
            limits=Limits(**given.limits),
        )
    )


if __name__ == "__main__":
    from vs3r_engine.errors import VS3RError

    try:
        main()
    except VS3RError as error:
        raise SystemExit(str(error)) from error
