# SPDX-License-Identifier: Apache-2.0
"""Section 3.2: frames in, cameras and scene out (eq. 1). A shot is reconstructed by itself; cuts end a trajectory."""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

import cv2
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import Reconstruction

SHORTEST_SHOT_FRAMES = 5
"""A shot that another cut would make shorter than this is a flash, a wipe or a glitch, and stays whole."""

_TINY_WIDTH_PX = 96
_AFTER_FRAMES = 4
"""Frames seen on either side of a possible cut before it is decided: a picture that comes back was never left."""
_COMES_BACK = 0.5
"""A flash is over when the picture differs from one before it by less than this share of the jump."""
_LEAST_LIKENESS = 0.6
"""Correlation of fine detail from which two pictures are one in another light: 0.79 and more between neighbouring frames of nine clips,
also with exposure changed by 1.8 or 0.3; at most 0.38 between frames of different ones."""
_SHIFT_PX = 3
"""Of tiny pictures, how far one frame may move."""


class Reconstructor(Protocol):
    """Finds camera and scene over one shot, streaming: memory does not grow with the shot."""

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """Consecutive pieces, in order, that together cover every frame of the shot once, in one gauge and scale.

        A piece is yielded as soon as it is final. Frames come in order without gaps; their size never changes.
        Trajectories are for the frames' own size. Bad frames (black, blurred, textureless, repeated) are bridged and
        reported in `diagnostics["is_bridged"]`, the repeated ones also in `diagnostics["is_repeated"]`, never raised.
        A frame is in `diagnostics["is_apart"]`, if that is there, where nothing shows how the camera moved since the frames before.
        """
        ...


def shots(frames: Iterable[Frame]) -> Iterator[Iterator[Frame]]:
    """The frames as shots: every frame once, in order, a new iterator at every scene cut.

    Lazy: a handful of frames are read ahead. What the caller leaves of one shot is skipped when the next is asked for.
    Cuts are those of PySceneDetect's adaptive detector on tiny pictures, without the flashes and glitches that a shot
    survives.
    """
    marked = _marked(frames)
    ahead = next(marked, None)

    def one_shot(first: Frame) -> Iterator[Frame]:
        nonlocal ahead
        yield first
        for ahead in marked:
            if ahead[1]:
                return
            yield ahead[0]
        ahead = None

    while ahead is not None:
        shot = one_shot(ahead[0])
        yield shot
        deque(shot, maxlen=0)


def _marked(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Every frame with whether a shot begins there."""
    with _no_programs():
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

    # The detector's own shortest scene only counts from the last cut it reported, which may be one we refuse.
    detector = AdaptiveDetector(min_scene_len=1)
    waiting: deque[tuple[int, Frame, np.ndarray]] = deque()
    earlier: deque[np.ndarray] = deque(maxlen=_AFTER_FRAMES)
    cuts: set[int] = set()
    last_cut = 0
    number = -1

    def released() -> tuple[Frame, bool]:
        nonlocal last_cut
        position, frame, picture = waiting.popleft()
        is_cut = (
            position in cuts
            and position - last_cut >= SHORTEST_SHOT_FRAMES
            and not _is_relit(earlier[-1], picture)
            and not _comes_back(list(earlier), [picture, *(later for _, _, later in waiting)])
        )
        earlier.append(picture)
        if is_cut:
            last_cut = position
        return frame, is_cut

    for number, frame in enumerate(frames):
        picture = _tiny(frame)
        cuts.update(cut.frame_num for cut in detector.process_frame(FrameTimecode(number, fps=30.0), picture))
        waiting.append((number, frame, picture))
        if len(waiting) > _AFTER_FRAMES:
            yield released()
    cuts.update(cut.frame_num for cut in detector.post_process(FrameTimecode(max(number, 0), fps=30.0)))
    while waiting:
        yield released()


@contextlib.contextmanager
def _no_programs() -> Iterator[None]:
    """No program is found by its name: PySceneDetect starts ffmpeg when it is imported, to know whether it could."""
    path = os.environ.get("PATH")
    os.environ["PATH"] = os.devnull  # an empty one would mean the working directory
    try:
        yield
    finally:
        os.environ.pop("PATH") if path is None else os.environ.update(PATH=path)


def _tiny(frame: Frame) -> np.ndarray:
    """[h, w, 3] uint8 BGR about 96 pixels wide, from a sparse sample of the frame's pixels."""
    stride = max(1, min(frame.width // (2 * _TINY_WIDTH_PX), frame.height // 32))
    width = min(_TINY_WIDTH_PX, frame.width)
    size = width, max(1, round(frame.height * width / frame.width))
    sparse = (np.ascontiguousarray(plane[::stride, ::stride]) for plane in frame.planes)
    planes = tuple(cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in sparse)
    rgb = Frame(frame.frame_index, planes, replace(frame.layout, chroma_shift_x=0, chroma_shift_y=0), frame.colour).to_rgb()
    return np.ascontiguousarray(np.clip(rgb[..., ::-1] * 255.0, 0, 255).astype(np.uint8))


def _is_relit(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether both show the same in nearly the same place: what exposure, a lamp or lightning changes from one frame to the next is
    no cut."""
    before, after = _detail(before), _detail(after)
    if min(before.shape) <= 2 * _SHIFT_PX:
        return False
    inner = before[_SHIFT_PX:-_SHIFT_PX, _SHIFT_PX:-_SHIFT_PX]
    return float(cv2.matchTemplate(after, inner, cv2.TM_CCOEFF_NORMED).max()) > _LEAST_LIKENESS


def _detail(picture: np.ndarray) -> np.ndarray:
    """[h, w] float32 fine detail of a tiny picture, equally strong everywhere, whatever the light."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    detail = cv2.GaussianBlur(grey, (0, 0), 1) - cv2.GaussianBlur(grey, (0, 0), 6)
    return detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 6)) + 1.0)


def _comes_back(earlier: list[np.ndarray], later: list[np.ndarray]) -> bool:
    """Whether a picture from before a jump (the last of `earlier` to the first of `later`) is seen again after it, up
    to the motion that a few frames bring."""
    before, after = ([cv2.GaussianBlur(p, (0, 0), 3).astype(np.float32) for p in side] for side in (earlier, later))
    jump = float(np.abs(after[0] - before[-1]).mean())
    return any(float(np.abs(a - b).mean()) < _COMES_BACK * jump for b in before for a in after)
