# SPDX-License-Identifier: Apache-2.0
"""Single stabilized frames, in the worker: clips kept open between requests, rendering that goes on where it stopped,
and the pixels as the protocol sends them. Also: what a Source and a SettingsChoice come to as a Job."""

import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vs3r_engine.ahead import ahead
from vs3r_engine.errors import RangeError
from vs3r_engine.frame import Frame
from vs3r_engine.job import Job, analysis_range_of
from vs3r_engine.media.edit import job_of_clip, read_clip
from vs3r_engine.media.info import refuse_rate_of_file
from vs3r_engine.service.protocol import SampleFormat, SettingsChoice, Source
from vs3r_engine.service.worker import FrameOrder
from vs3r_engine.timeline import Clip, FrameRange, exact_rate, parse_range

OPEN_CLIPS = 4
"""Clips whose source and analysis stay open."""
IDLE_S = 60.0
"""Seconds after which a clip that nobody plays is closed: its disk can be ejected, and its memory is free."""
OPEN_RUNS = 3
"""Renderings per clip that can be continued: one forward play per viewer."""
SKIP_FRAMES = 3
"""A frame this little ahead of an open rendering is reached by rendering on; further ahead a new one is begun."""
_DTYPES: dict[SampleFormat, type] = {"uint8": np.uint8, "uint16": np.uint16, "half": np.float16, "float32": np.float32}


def job_of(pipeline: Any, source: Source, choice: SettingsChoice, job_id: str, output: str, overwrite: bool) -> Job:
    """The Job meant by a request. Raises: MediaError, RangeError, SettingsError, InputError."""
    stated_rate = None if source.rate is None else exact_rate(source.rate)

    def probe(path: str, sequence_rate: Fraction | None = None) -> Clip:
        info = pipeline.probe(path, stated_rate or sequence_rate)
        refuse_rate_of_file(info, stated_rate)
        return info.clip

    if source.clip is not None:
        from vs3r_engine.settings import preset

        job = job_of_clip(read_clip(source.clip), probe, job_id, output, preset(choice.preset))
        job = replace(job, overwrite=overwrite, settings=job.settings.with_values(choice.values))
    else:
        assert source.path is not None  # an upload is the path of its directory here
        clip = probe(source.path)
        whole = clip.available_range
        job = Job(job_id, clip, whole, whole, output, choice.settings(), overwrite)
    clip = job.clip
    if source.range is not None:
        if isinstance(source.range, str):
            render_range = parse_range(source.range, clip.rate, clip.available_range, clip.start_timecode)
        else:
            render_range = _within(FrameRange.between(*source.range), clip.available_range)
        job = replace(job, render_range=render_range, analysis_range=analysis_range_of(render_range, clip))
    if source.analysis_range is not None:
        analysis_range = _within(FrameRange.between(*source.analysis_range), clip.available_range)
        if not analysis_range.contains_range(job.render_range):
            raise RangeError(
                "bad-range",
                f"The frames to look at, {analysis_range}, do not hold {job.render_range}.",
                "Leave the analysis range out.",
            )
        job = replace(job, analysis_range=analysis_range)
    return job


def _within(wanted: FrameRange, available: FrameRange) -> FrameRange:
    if not available.contains_range(wanted):
        raise RangeError(
            "range-past-media",
            f"The range {wanted} asks for frames that do not exist: the media holds {available}.",
            "Trim the range, or relink the full-length file.",
        )
    return wanted


class Playback:
    """One clip with one choice of settings, open for frames in any order."""

    def __init__(self, pipeline: Any, job: Job, analysis: Any, entries: Sequence[tuple[str, str]] = ()) -> None:
        """entries: what of the store the analysis is read from, piece by piece."""
        self._pipeline, self.job, self._analysis, self.entries = pipeline, job, analysis, entries
        self._path = pipeline.smoothed_path(job, analysis)
        self._methods = pipeline.choose_methods(job.settings, job.clip.rate)
        self._runs: list[tuple[int, Any, Iterator[Frame]]] = []
        """(next frame, source, frames), least recently used first."""
        self.used_s = time.monotonic()
        self._recent: OrderedDict[int, Frame] = OrderedDict()

    def frame(self, frame_index: int) -> Frame:
        """The stabilized frame, one of `job.render_range`. Raises: what rendering raises."""
        if frame_index not in self._recent:
            self._render(frame_index)
        self.used_s = time.monotonic()
        return self._recent[frame_index]

    def close(self) -> None:
        for _, source, frames in self._runs:
            frames.close()  # type: ignore[attr-defined]
            source.close()
        self._runs.clear()

    def _render(self, frame_index: int) -> None:
        run = next((run for run in self._runs if 0 <= frame_index - run[0] <= SKIP_FRAMES), None)
        if run is not None:
            self._runs.remove(run)
            position, source, frames = run
        else:
            position, source = frame_index, self._pipeline.open_source(self.job.clip.path, self.job.clip.rate)
            wanted = FrameRange.between(frame_index, self.job.render_range.end_exclusive)
            frames = self._pipeline.render_frames(self.job, self._analysis, self._path, wanted, source, self._methods)
            completer = self._methods.completer
            if completer is None or not completer.whole_shots:  # the next frame of those may take minutes
                frames = _played(frames)
        try:
            for frame in frames:
                self._remember(frame)
                position += 1
                if frame.frame_index == frame_index:
                    break
        except BaseException:
            source.close()
            raise
        self._runs.append((position, source, frames))
        for _, old_source, old_frames in self._runs[:-OPEN_RUNS]:
            old_frames.close()  # type: ignore[attr-defined]
            old_source.close()
        del self._runs[:-OPEN_RUNS]

    def _remember(self, frame: Frame) -> None:
        self._recent[frame.frame_index] = frame
        while len(self._recent) > SKIP_FRAMES + 1:
            self._recent.popitem(last=False)


def _played(frames: Generator[Frame, None, None]) -> Iterator[Frame]:
    """The same frames. From the second one on the next is rendered while one is used: what a host asks for after the first is
    mostly the rest."""
    with closing(frames):
        yield from islice(frames, 1)
        with closing(ahead(frames, 1)) as rest:
            yield from rest


class Playbacks:
    """The clips that are open, least recently used closed first."""

    def __init__(self, pipeline: Any, store: Any) -> None:
        self._pipeline, self._store = pipeline, store
        self._open: OrderedDict[str, Playback] = OrderedDict()

    def entries(self) -> list[tuple[str, str]]:
        """(kind, key) of what the open clips use of the store."""
        return [entry for playback in self._open.values() for entry in playback.entries]

    def close_idle(self) -> None:
        """Clips that nobody has asked for a frame of for a while are closed."""
        for digest, playback in list(self._open.items()):
            if time.monotonic() - playback.used_s > IDLE_S:
                self._open.pop(digest).close()

    def frame(self, order: FrameOrder) -> tuple[int, int, memoryview] | None:
        """(width, height, RGBA pixels) of one frame; None where its clip has not been analysed.

        Raises: RangeError `range-past-media`, and what opening and rendering raise.
        """
        playback = self._open.get(order.key.clip)
        if playback is None:
            job = job_of(self._pipeline, order.source, order.settings, "", "-", False)
            finds = _Finds(self._store)
            analysis = self._pipeline.open_analysis(job, finds)
            if analysis is None:
                return None
            playback = self._open[order.key.clip] = Playback(self._pipeline, job, analysis, finds.entries)
        self._open.move_to_end(order.key.clip)
        while len(self._open) > OPEN_CLIPS:
            self._open.popitem(last=False)[1].close()
        if order.key.frame_index not in playback.job.render_range:
            raise RangeError(
                "range-past-media",
                f"Frame {order.key.frame_index} is outside the range {playback.job.render_range}.",
                "Ask for a frame of the range.",
            )
        try:
            frame = playback.frame(order.key.frame_index)
        except BaseException:
            # Nothing of a clip that failed is used again: its file or its analysis may have gone.
            self._open.pop(order.key.clip).close()
            raise
        return rgba_pixels(frame, order.key.format, order.key.reduction)


class _Finds:
    """A store that is read from, and remembers what was."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.entries: list[tuple[str, str]] = []

    def find(self, kind: str, key: str) -> Path | None:
        self.entries.append((kind, key))
        return self._store.find(kind, key)


def rgba_pixels(frame: Frame, format: SampleFormat, reduction: int) -> tuple[int, int, memoryview]:
    """(width, height, interleaved RGBA rows from the top) at 1 / reduction of the size, rounded up."""
    width, height = -(-frame.width // reduction), -(-frame.height // reduction)
    pixels = frame.resized(width, height).to_rgba(_DTYPES[format])
    return width, height, pixels.reshape(-1).view(np.uint8).data
