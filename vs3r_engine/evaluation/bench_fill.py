# SPDX-License-Identifier: Apache-2.0
"""`make bench-fill`: what the weight-free fill makes of real picture that is hidden from it, against what was there."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vs3r_engine.errors import InputError, VS3RError
from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.pairs import videos
from vs3r_engine.frame import Frame
from vs3r_engine.media.decode import open_source
from vs3r_engine.methods.dis import DisFlow
from vs3r_engine.methods.geometric import GeometricReconstructor
from vs3r_engine.methods.temporal import TemporalCompleter
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import AnalysisSettings, FillSettings
from vs3r_engine.stages.mask import moving_of
from vs3r_engine.timeline import FrameRange

FRAMES, EVERY = 72, 6
"""How many of a clip's first frames are looked at, and every how manieth has a rim hidden."""
HIDDEN_WIDTH, HIDDEN_HEIGHT = 1 / 9, 1 / 7
"""How much of the picture, of two sides that meet: each of the four corners in turn."""


@dataclass(frozen=True, slots=True)
class HiddenRim:
    """How near the filled rims came: means over frames, of luma, over what was hidden and does not move."""

    psnr_db: float
    ssim: float


def measured(path: Path) -> HiddenRim:
    """Hide, fill and compare. The clip's first shot is taken to be FRAMES long. Raises: MediaError."""
    settings, flow = AnalysisSettings(), DisFlow()
    with open_source(str(path)) as source:
        clip = source.info.clip
        start = clip.available_range.start
        frames = list(source.frames(FrameRange(start, min(FRAMES, clip.available_range.duration))))
    views: dict[int, View] = {}
    for piece in GeometricReconstructor(settings).reconstruct(iter(frames), clip.rate):
        trajectory = piece.trajectory
        seen = frames[trajectory.first_frame - start :][: len(trajectory)]
        moving = moving_of(piece, [flow.prepared(frame) for frame in seen], flow, settings)
        for k, (frame, depth, mask) in enumerate(zip(seen, piece.depth, moving.mask, strict=True)):
            i, own_motion = trajectory.first_frame + k, None if moving.own_motion is None else moving.own_motion[k]
            views[i] = View(frame, trajectory.camera(i), trajectory.residual(i), depth, mask, own_motion=own_motion)
    chosen = range(start, start + len(frames), EVERY)
    outputs = TemporalCompleter(FillSettings(), clip.rate).complete((_hidden(views[i]) for i in chosen), _Held(views))
    values = [_compared(output, views[output.frame_index]) for output in outputs]
    return HiddenRim(*(float(value) for value in np.nanmean(values, axis=0)))


class _Held:
    """Views of a dictionary."""

    def __init__(self, views: dict[int, View]) -> None:
        self._views = views

    def view(self, frame_index: int) -> View | None:
        return self._views.get(frame_index)


def _hidden(view: View) -> Rendered:
    """The view's frame, seen from its own camera, without a rim."""
    frame, hole_mask = view.frame, _rim(view.frame)
    planes = []
    for i, plane in enumerate(frame.planes):
        shift_x, shift_y = frame.layout.shifts(i)
        hole = hole_mask[:: 1 << shift_y, :: 1 << shift_x]
        planes.append(np.where(hole, plane.dtype.type(frame.layout.peak / 2), plane))
    target = Target(frame.frame_index, view.camera, view.residual_px)
    return Rendered(replace(frame, planes=tuple(planes)), hole_mask, target)


def _rim(frame: Frame) -> np.ndarray:
    """[h, w] bool: two sides that meet, at another corner from one chosen frame to the next."""
    across, down = round(HIDDEN_WIDTH * frame.width), round(HIDDEN_HEIGHT * frame.height)
    turn = frame.frame_index // EVERY % 4
    rim = np.zeros((frame.height, frame.width), bool)
    rim[:, : across if turn in (1, 2) else 0] = rim[: down if turn in (2, 3) else 0] = True
    rim[:, frame.width - across if turn in (0, 3) else frame.width :] = True
    rim[frame.height - down if turn in (0, 1) else frame.height :] = True
    return rim


def _compared(filled: Frame, view: View) -> tuple[float, float]:
    """(PSNR in dB, SSIM) of one filled frame."""
    rows, columns = view.dynamic_mask.shape
    y, x = (np.arange(side) * count // side for side, count in ((filled.height, rows), (filled.width, columns)))
    where = _rim(filled) & ~view.dynamic_mask[y[:, None], x]
    pictures = filled.luma8(), view.frame.luma8()
    values = metrics.psnr(*pictures, where), metrics.ssim(*pictures, where)
    return tuple(np.nan if value is None else value for value in values)  # type: ignore[return-value]


def _rows(folder: Path) -> Iterator[str]:
    clips = videos(folder)
    if not clips:
        raise InputError("no-videos", f"{folder} holds no video.", "Give a folder of videos.")
    yield "| clip | PSNR, dB | SSIM |\n|---|---:|---:|"
    found = []
    for name, path in clips.items():
        rim = measured(path)
        found.append((rim.psnr_db, rim.ssim))
        yield f"| {name} | {rim.psnr_db:.2f} | {rim.ssim:.4f} |"
    psnr_db, ssim = np.mean(found, axis=0)
    yield f"| mean | {psnr_db:.2f} | {ssim:.4f} |"


def main() -> int:
    if len(sys.argv) != 2:
        print("make bench-fill CLIPS=FOLDER", file=sys.stderr)
        return 2
    try:
        for row in _rows(Path(sys.argv[1])):
            print(row, flush=True)
    except VS3RError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
