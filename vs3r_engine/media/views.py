# SPDX-License-Identifier: Apache-2.0
"""What can be seen around a frame: source frames as they are decoded, each with all that its analysis knows of it."""

from collections.abc import Iterator, Sequence

from vs3r_engine.errors import EngineFault
from vs3r_engine.frame import Frame
from vs3r_engine.media.analysis import Analysis
from vs3r_engine.media.source import VideoSource
from vs3r_engine.scene import View
from vs3r_engine.stages.complete import Completer
from vs3r_engine.timeline import FrameRange


class SourceViews:
    """The source frames around the one being rendered, decoded once and forgotten when nothing can ask for them again."""

    def __init__(self, source: VideoSource, analysis: Analysis, completer: Completer | None, neighbours: Sequence[int]) -> None:
        self._source, self._analysis, self._completer = source, analysis, completer
        self._near_frames = max([1, *(abs(offset) for offset in neighbours)])
        self._reach_frames = max(self._near_frames, completer.reach_frames if completer else 0)
        self._held: dict[int, View] = {}
        self._frames: Iterator[Frame] = iter(())
        self._first = self._next = 0

    def move_to(self, frame_index: int) -> None:
        """Make `frame_index`, the first or the one after the last, the frame around which views are asked for."""
        self._shot = self._analysis.shot_of(frame_index)
        self._first = first = max(self._shot.start, frame_index - self._reach_frames)
        if not self._held:
            self._next = first
            self._frames = self._source.frames(FrameRange.between(first, self._analysis.frame_range.end_exclusive))
        for old in [index for index in self._held if index < first or not self._is_wanted(index, frame_index)]:
            del self._held[old]

    def _is_wanted(self, index: int, frame_index: int) -> bool:
        """Frames just behind may be neighbours; of the older ones, a completer keeps only some."""
        return (
            index >= frame_index - self._near_frames
            or index == self._shot.start
            or (self._completer is not None and self._completer.keeps(index))
        )

    def required(self, frame_index: int) -> View:
        """The view of a frame that must be there."""
        view = self.view(frame_index)
        if view is None:
            raise EngineFault("view-missing", f"Frame {frame_index} is outside the analysed range {self._analysis.frame_range}.")
        return view

    def view(self, frame_index: int) -> View | None:
        """The view of a frame of the same shot within reach; None elsewhere."""
        if frame_index not in self._shot or frame_index < self._first:
            return None
        while self._next <= frame_index:
            frame = next(self._frames, None)
            if frame is None:
                raise EngineFault("source-ended", f"The source ended before frame {self._next}, which its index lists.")
            self._held[self._next] = self._seen(frame)
            self._next += 1
        return self._held[frame_index]

    def _seen(self, frame: Frame) -> View:
        analysis, frame_index = self._analysis, frame.frame_index
        return View(
            frame,
            analysis.trajectory.camera(frame_index),
            analysis.trajectory.residual(frame_index),
            analysis.depth(frame_index),
            analysis.dynamic_mask(frame_index),
            analysis.bounds.inset_px,
            bool(analysis.is_bad[frame_index - analysis.frame_range.start]),
            analysis.overlay_mask,
            analysis.own_motion(frame_index),
        )
