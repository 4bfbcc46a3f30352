# SPDX-License-Identifier: Apache-2.0
"""Scene cuts: a clip as shots, each with a trajectory of its own. What a shot survives (a flash, a glitch, other light) is no cut."""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from vs3r_engine.frame import Frame

_FAR_FRAMES = 5
"""From the last cut, where PySceneDetect sees a cut as it is; nearer ones are mixed with the last, and have to show more."""

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
_LEAST_PART_LIKENESS = 0.65
"""The same of the most alike parts, wherever they went: 0.77 and more between neighbouring frames of nine clips, also at six times
their speed (but a crowd), in a whip pan and in strong noise; 0.35 mostly and 0.64 at most between frames of different ones."""
_LEAST_LATER_LIKENESS = 0.5
"""The same some frames later."""
_LEAST_DETAIL = 3.0
"""Grey levels of a tiny picture that shows something; 9 and more in nine clips."""
_STILL = 0.5
"""Grey levels between pictures that are the same."""
_LEAST_JUMP = 8.0
"""Grey levels between two tiny pictures that may be of different shots."""
_JUMP_RATIO = 3.0
"""The least share of such a jump in those of the calm frames around it: PySceneDetect's own."""
_CALM_FRAMES = 3
"""How many of the frames around a jump are calm at least."""
_REPEATS = 12
"""How often each picture of a slower camera may be repeated: 5 pictures a second in a clip of 60. Between repeats, every motion looks
like a cut."""


def shots(frames: Iterable[Frame]) -> Iterator[Iterator[Frame]]:
    """The frames as shots: every frame once, in order, a new iterator at every scene cut.

    Lazy: a handful of frames are read ahead. What the caller leaves of one shot is skipped when the next is asked for.
    Cuts are those of PySceneDetect's adaptive detector on tiny pictures, without the flashes and glitches that a shot
    survives, and where shots are only a frame or a few long, those that look like it. Dissolves and fades are no cuts.
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
    earlier: deque[np.ndarray] = deque(maxlen=_AFTER_FRAMES)  # of the same shot
    jumps: deque[float] = deque(maxlen=_AFTER_FRAMES)  # up to the first that waits
    cuts: set[int] = set()
    last_cut = back = 0  # the last one's position; that of the first frame after the last flash
    last_motion = -_REPEATS, 0.0  # the last frame's that was no repeat, and its jump
    number = -1

    def released() -> tuple[Frame, bool]:
        nonlocal last_cut, back, last_motion
        position, frame, picture = waiting.popleft()
        later = [picture, *(coming for _, _, coming in waiting)]
        is_cut = False
        if earlier:
            jump, after = _jump(earlier[-1], picture), [_jump(a, b) for a, b in pairwise(later)]
            if position in cuts and position - last_cut >= _FAR_FRAMES:
                is_cut = not _is_relit(earlier[-1], picture)
                is_near = position - last_motion[0] <= _REPEATS
                if is_cut and _is_step(jump, [*jumps, *after], last_motion[1] * is_near):
                    is_cut = _is_another_scene(earlier[-1], picture)
            else:
                is_cut = _stands_out(jump, [*jumps, *after]) and _is_another_scene(earlier[-1], picture)
            jumps.append(jump)
            if jump > _STILL:
                last_motion = position, jump
        if is_cut and (frames_away := _comes_back(list(earlier), later)) is not None:
            back = max(back, position + frames_away)
        if is_cut := is_cut and position > back:
            last_cut = position
            earlier.clear()
        earlier.append(picture)
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


def _is_another_scene(before: np.ndarray, after: np.ndarray, likeness: float = _LEAST_PART_LIKENESS) -> bool:
    """Whether both show something, and no part of one is seen anywhere in the other, also not as a negative."""
    if not (_shows_something(before) and _shows_something(after)) or min(before.shape[:2]) <= 4 * _SHIFT_PX:
        return False
    pictures = _detail(before), _detail(after)
    h, w = pictures[0].shape
    parts = np.s_[:, : w // 2], np.s_[:, w // 2 :], np.s_[: h // 2], np.s_[h // 2 :], np.s_[h // 4 : -(h // 4), w // 4 : -(w // 4)]
    return all(
        np.abs(cv2.matchTemplate(other, one[part], cv2.TM_CCOEFF_NORMED)).max() <= likeness
        for one, other in (pictures, pictures[::-1])
        for part in parts
    )


def _shows_something(picture: np.ndarray) -> bool:
    return _detail_levels(picture) >= _LEAST_DETAIL


def _jump(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference, grey levels."""
    return float(cv2.norm(before, after, cv2.NORM_L1)) / before.size


def _stands_out(jump: float, around: list[float]) -> bool:
    """Whether a jump is one against the calmest of those between the frames around it, of which some may be cuts too."""
    return jump >= _LEAST_JUMP and len(around) >= _CALM_FRAMES and jump >= _JUMP_RATIO * sorted(around)[_CALM_FRAMES - 1]


def _is_step(jump: float, around: list[float], last_motion: float) -> bool:
    """Whether a jump between repeated pictures may be one step of a motion: steps near it are about as large."""
    return min(around, default=jump) <= _STILL and jump < _JUMP_RATIO * max([last_motion, *around])


def _band(picture: np.ndarray) -> np.ndarray:
    """[h, w] float32 fine detail of a tiny picture, grey levels."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return cv2.GaussianBlur(grey, (0, 0), 1) - cv2.GaussianBlur(grey, (0, 0), 6)


def _detail_levels(picture: np.ndarray) -> float:
    return float(np.abs(_band(picture)).mean())


def _detail(picture: np.ndarray) -> np.ndarray:
    """[h, w] float32 fine detail of a tiny picture, equally strong everywhere, whatever the light."""
    detail = _band(picture)
    return detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 6)) + 1.0)


def _comes_back(earlier: list[np.ndarray], later: list[np.ndarray]) -> int | None:
    """How many frames after a jump (the last of `earlier` to the first of `later`) a picture from before it is seen again, up to the
    motion that a few frames bring; None where it is not, or where another shot was between."""
    before, after = ([cv2.GaussianBlur(p, (0, 0), 3).astype(np.float32) for p in side] for side in (earlier, later))
    jump = float(np.abs(after[0] - before[-1]).mean())
    for count, (sharp, picture) in enumerate(zip(later, after, strict=True)):
        alike = [b for b, a in zip(earlier, before, strict=True) if float(np.abs(picture - a).mean()) < _COMES_BACK * jump]
        # After a flash, its light is enough to know it by.
        if alike and not (_shows_something(later[0]) and all(_is_another_scene(b, sharp, _LEAST_LATER_LIKENESS) for b in alike)):
            return None if _is_shot(earlier[-1], later[:count], sharp) else count
    return None


def _is_shot(before: np.ndarray, between: list[np.ndarray], after: np.ndarray) -> bool:
    """Whether what is between is a shot of its own: one scene, filmed for more than one frame, as sharp, and another one."""
    return (
        len(between) > 1
        and all(_is_relit(a, b) and _jump(a, b) > _STILL for a, b in pairwise(between))
        and 2 * _detail_levels(between[0]) > _detail_levels(before)
        and _is_another_scene(before, between[0])
        and _is_another_scene(between[-1], after)
    )
