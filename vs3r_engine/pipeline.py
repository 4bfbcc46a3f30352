# SPDX-License-Identifier: Apache-2.0
"""VS3R as a whole: reconstruct camera and scene, mask what moves, smooth the path, render from the smooth path, complete.

`stabilize` is the product; `analyze` and `render_frames` are its two halves, for hosts that ask frame by frame. All are
generators: they never print and never touch a socket, and closing one stops the work and leaves nothing half-written.
"""

import json
import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vs3r_engine import __version__, native
from vs3r_engine.ahead import ahead
from vs3r_engine.camera import Trajectory, output_camera
from vs3r_engine.errors import EngineFault
from vs3r_engine.frame import Frame
from vs3r_engine.job import Job, Progress, RenderResult, analysis_range_of
from vs3r_engine.media.analysis import SCHEMA as ANALYSIS_SCHEMA
from vs3r_engine.media.analysis import Analysis, AnalysisWriter, source_key
from vs3r_engine.media.decode import VideoSource, open_source, probe
from vs3r_engine.media.encode import Encoding, SegmentWriter, assemble, resolve_encoding
from vs3r_engine.media.info import refuse_rate_of_file
from vs3r_engine.media.kept import KeptSource
from vs3r_engine.media.sidecar import write_sidecar
from vs3r_engine.media.views import SourceViews
from vs3r_engine.methods.choice import Methods, choose_methods
from vs3r_engine.scene import Reconstruction, Rendered, Target
from vs3r_engine.settings import GROUPS, Settings
from vs3r_engine.stages.bounds import BoundsObserver, between_bars, blackened, look_every_frames, with_bars
from vs3r_engine.stages.framing import framed
from vs3r_engine.stages.mask import moving_of
from vs3r_engine.stages.overlay import OverlayObserver, bounds_and_overlay, with_overlay, without_overlay
from vs3r_engine.stages.shots import shots
from vs3r_engine.stages.smooth import smooth
from vs3r_engine.timeline import FrameRange, parse_range

CHUNK_FRAMES = 120
"""Frames of one durable piece of output; what an interrupted job loses at most."""
RENDERED_AHEAD_FRAMES = 2
"""Frames rendered while one is encoded."""
ANALYSIS_SHARE = 0.35
"""Share of a job's time that analysis takes; measured on the embedded default at 1080p (see BENCHMARKS.md)."""


class Store(Protocol):
    """Where intermediate results live between and during jobs."""

    def find(self, kind: str, key: str) -> Path | None:
        """The directory of a complete entry, or None."""
        ...

    def writing(self, kind: str, key: str) -> AbstractContextManager[Path]:
        """An empty directory that becomes the entry if the block ends well, and vanishes if it does not."""
        ...

    def workspace(self, kind: str, key: str) -> AbstractContextManager[Path]:
        """A directory that keeps its content until discarded, for one writer at a time."""
        ...

    def discard(self, kind: str, key: str) -> None:
        """Remove an entry or workspace."""
        ...


def plan(
    source: str,
    output: str,
    settings: Settings,
    *,
    range_text: str | None = None,
    overwrite: bool = False,
    sequence_rate: Fraction | None = None,
) -> Job:
    """The job that stabilizes `source`, or the given range of it, into `output`.

    sequence_rate: what the user states as the rate of an image sequence. Raises: MediaError, RangeError, InputError `rate-of-file`.
    """
    info = probe(source, sequence_rate)
    refuse_rate_of_file(info, sequence_rate)
    clip = info.clip
    render_range = clip.available_range
    if range_text:
        render_range = parse_range(range_text, clip.rate, clip.available_range, clip.start_timecode)
    return Job(uuid.uuid4().hex[:12], clip, render_range, analysis_range_of(render_range, clip), output, settings, overwrite)


def stabilize(job: Job, store: Store) -> Iterator[Progress | RenderResult]:
    """Stabilize `job.render_range` of a clip into `job.output`; the last item is the RenderResult.

    Whatever was finished before an interruption (the analysis, chunks of output) is used again, and the result is the
    same as if nothing had happened. Raises: VS3RError; nothing is then left under the output's name.
    """
    methods = choose_methods(job.settings, job.clip.rate)
    with KeptSource(open_source(job.clip.path, job.clip.rate)) as source:
        encoding = resolve_encoding(source.info, job.output, job.settings.output, overwrite=job.overwrite)
        started_s = time.monotonic()
        key = _chunks_key(job)  # of the file that was opened: another may take its place meanwhile
        analysis = yield from _analyzed(job, store, methods, source)
        analyzed_s = time.monotonic()
        path = smoothed_path(job, analysis)
        with store.workspace("chunks", key) as workspace:
            segments, holes = yield from _rendered(job, analysis, path, source, methods, encoding, workspace)
            findings: dict[str, Any] = analysis.findings | {"hole_percent": round(100 * float(np.mean(holes)), 2)}
            source.refuse_replaced()
            findings["notes"] = assemble(
                segments,
                job.output,
                source.info,
                encoding,
                job.render_range,
                overwrite=job.overwrite,
                extra_metadata={"comment": f"Stabilized by VS3R {__version__}"},
            )
            timings_s = {"analyze": analyzed_s - started_s, "render": time.monotonic() - analyzed_s}
            sidecar = write_sidecar(job, analysis, path, holes, findings, timings_s)
    store.discard("chunks", key)
    yield RenderResult(job.output, sidecar, job.render_range, findings, timings_s)


def analyze(job: Job, store: Store) -> Iterator[Progress | Analysis]:
    """Find camera, scene and moving objects over `job.analysis_range`; the last item is the Analysis."""
    methods = choose_methods(job.settings, job.clip.rate)
    with open_source(job.clip.path, job.clip.rate) as source:
        analysis = yield from _analyzed(job, store, methods, source)
    yield analysis


def open_analysis(job: Job, store: Store) -> Analysis | None:
    """The finished analysis of `job.analysis_range`, or None where `analyze` has to find it first."""
    found = store.find("analysis", _analysis_key(job, choose_methods(job.settings, job.clip.rate)))
    return None if found is None else Analysis(found)


def smoothed_path(job: Job, analysis: Analysis) -> Trajectory:
    """Section 3.3: the path the output is seen from, for every analysed frame: smoothed, then framed."""
    rate, settings = job.clip.rate, job.settings
    path = smooth(analysis.trajectory, analysis.shots, rate, settings.path, analysis.plane_depth)
    return framed(analysis.trajectory, path, analysis.shots, rate, settings.frame, analysis.plane_depth, analysis.bounds)


def render_frames(
    job: Job,
    analysis: Analysis,
    path: Trajectory,
    frame_range: FrameRange,
    source: VideoSource,
    methods: Methods,
    hole_shares: dict[int, float] | None = None,
) -> Iterator[Frame]:
    """Sections 3.3 and 3.4: the frames of `frame_range`, rendered from the smooth path and completed, in order.

    What a frame looks like does not depend on where the range began.
    hole_shares: told, by frame index, the share of each picture that had to be completed, without its bars and what an overlay hides.
    """
    completer, neighbours = methods.completer, methods.neighbours
    needs_whole_shot = completer is not None and completer.whole_shots
    # Whole shots come back when their views are long forgotten.
    overlay_stays = job.settings.frame.overlay == "stay" and completer is not None and not needs_whole_shot
    first = max(job.render_range.start, analysis.shot_of(frame_range.start).start) if needs_whole_shot else frame_range.start
    views = SourceViews(source, analysis, completer, neighbours)

    def rendered() -> Iterator[Rendered]:
        for frame_index in range(first, frame_range.end_exclusive):
            views.move_to(frame_index)
            target = Target(frame_index, output_camera(path.camera(frame_index), job.settings.frame.lens), path.residual(frame_index))
            current = views.required(frame_index)
            around = [views.view(frame_index + offset) for offset in neighbours]
            result = methods.renderer.render(target, current, [view for view in around if view is not None and not view.is_bad])
            if hole_shares is not None:
                holes = between_bars(result.hole_mask, analysis.bounds)
                hole_shares[frame_index] = round(np.count_nonzero(holes) / holes.size, 5)
            yield without_overlay(result, current) if overlay_stays else result

    def with_edges() -> Iterator[Frame]:
        return (blackened(result.frame, result.hole_mask) for result in rendered())

    for frame in with_edges() if completer is None else completer.complete(rendered(), views):
        if frame.frame_index >= frame_range.start:
            frame = with_bars(frame, analysis.bounds)
            yield with_overlay(frame, views.required(frame.frame_index)) if overlay_stays else frame


def _analyzed(job: Job, store: Store, methods: Methods, source: VideoSource) -> Generator[Progress, None, Analysis]:
    key = _analysis_key(job, methods)
    found = store.find("analysis", key)
    if found is None:
        with store.writing("analysis", key) as directory:
            yield from _write_analysis(job, methods, source, directory)
        found = store.find("analysis", key)
    if found is None:
        raise EngineFault("analysis-lost", "The analysis was deleted while it was written.", "Run the same command again.")
    return Analysis(found)


def _write_analysis(job: Job, methods: Methods, source: VideoSource, directory: Path) -> Iterator[Progress]:
    """Sections 3.2 and 3.3: reconstruct every shot and mask what moves, piece by piece.

    While a piece is masked, the next one is reconstructed.
    """
    writer = AnalysisWriter(directory, {"method": methods.name, "chosen": methods.reason})
    total = job.analysis_range.duration
    small: dict[int, Frame] = {}
    observer, overlays, look_every = BoundsObserver(), OverlayObserver(), look_every_frames(total)

    def remembered(frames: Iterable[Frame]) -> Iterator[Frame]:
        # The mask looks at frames again, small, once the reconstructor has understood them.
        for frame in frames:
            small[frame.frame_index] = methods.flow.prepared(frame)
            if (frame.frame_index - job.analysis_range.start) % look_every == 0:
                observer.look(frame)
            yield frame

    def pieces() -> Iterator[tuple[bool, Reconstruction]]:
        for shot in shots(source.frames(job.analysis_range)):
            for number, piece in enumerate(methods.reconstructor.reconstruct(remembered(shot), job.clip.rate)):
                yield number == 0, piece

    yield Progress("analyze", 0, total, 0.0, writer.findings)  # the first piece takes a while
    with closing(ahead(pieces(), 1)) as coming:
        for starts_shot, piece in coming:
            first = piece.trajectory.first_frame
            frames = [small.pop(first + i) for i in range(len(piece.trajectory))]
            moving = moving_of(piece, frames, methods.flow, job.settings.analysis)
            overlays.look(piece, frames)
            writer.add(piece, moving, starts_shot)
            done = first + len(frames) - job.analysis_range.start
            yield Progress("analyze", done, total, ANALYSIS_SHARE * done / total, writer.findings)
    writer.finish(*bounds_and_overlay(observer, overlays, job.clip.width))


def _rendered(
    job: Job, analysis: Analysis, path: Trajectory, source: VideoSource, methods: Methods, encoding: Encoding, workspace: Path
) -> Generator[Progress, None, tuple[list[Path], list[float]]]:
    """Render, complete and encode chunk by chunk what `workspace` does not hold yet: the segments, and per frame the share
    that was completed. While a chunk is encoded, its next frames are rendered."""
    chunks = job.render_range.chunks(CHUNK_FRAMES)
    segments = [workspace / f"{chunk.start:08d}.segment" for chunk in chunks]
    reports = [segment.with_suffix(".json") for segment in segments]
    is_there = [segment.exists() and report.exists() for segment, report in zip(segments, reports, strict=True)]
    done = (*is_there, False).index(False)
    holes: list[float] = [share for report in reports[:done] for share in json.loads(report.read_text())]
    if len(holes) == job.render_range.duration:
        return segments, holes  # what was interrupted, or failed, was joining them
    rest = FrameRange.between(job.render_range.start + len(holes), job.render_range.end_exclusive)
    shares: dict[int, float] = {}
    frames = ahead(render_frames(job, analysis, path, rest, source, methods, shares), RENDERED_AHEAD_FRAMES)
    with closing(frames):
        for chunk, segment, report in zip(chunks[done:], segments[done:], reports[done:], strict=True):
            writer = SegmentWriter(segment, source.info, encoding)
            try:
                for frame_index, frame in zip(chunk, frames, strict=False):
                    writer.write(frame)
                    count, total = frame_index + 1 - job.render_range.start, job.render_range.duration
                    yield Progress("render", count, total, ANALYSIS_SHARE + (1 - ANALYSIS_SHARE) * count / total, analysis.findings)
            except BaseException:
                writer.abort()
                raise
            holes += [shares.pop(frame_index) for frame_index in chunk]
            report.write_text(json.dumps(holes[-len(chunk) :]))
            writer.close()
    return segments, holes


def _source_key(job: Job) -> str:
    """Of the pictures and their rate: the same images at another rate are another clip."""
    return f"{source_key(job.clip.path)}-{job.clip.rate.numerator}_{job.clip.rate.denominator}"


def _analysis_key(job: Job, methods: Methods) -> str:
    span = f"{job.analysis_range.start}-{job.analysis_range.end_exclusive}"
    return f"{_source_key(job)}-{job.settings.digest('analysis')}-{methods.name}-{span}-{ANALYSIS_SCHEMA}-{__version__}"


def _chunks_key(job: Job) -> str:
    return (
        f"{_source_key(job)}-{job.settings.digest(*GROUPS)}-{job.render_range.start}-{job.render_range.end_exclusive}"
        f"-{job.analysis_range.start}-{job.analysis_range.end_exclusive}-{Path(job.output).suffix.lstrip('.')}-{__version__}"
        f"-{native.VERSION if native.is_available else 'numpy'}"
    )
