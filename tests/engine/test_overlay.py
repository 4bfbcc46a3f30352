# SPDX-License-Identifier: Apache-2.0
"""What is burnt into the frames is told from the scene behind it, and is never taken for scene."""

from dataclasses import replace

import cv2
import numpy as np
import panorama
import pytest

from tests.synthetic import make_clip
from vs3r_engine.frame import Frame
from vs3r_engine.methods.dis import DisFlow
from vs3r_engine.methods.temporal import TemporalCompleter
from vs3r_engine.methods.warp import WarpRenderer
from vs3r_engine.scene import PictureBounds, Reconstruction
from vs3r_engine.settings import FillSettings
from vs3r_engine.stages.overlay import OverlayObserver


def found(clip, frames) -> np.ndarray | None:
    """What is seen over the clip, cut into two pieces as a reconstructor does."""
    observer, flow = OverlayObserver(), DisFlow()
    depth = np.stack([clip.truth(i)[0] for i in range(len(clip))])
    half = len(clip) // 2
    for piece in (slice(0, half), slice(half, len(clip))):
        path = clip.trajectory.sliced(piece.start, piece.stop)
        reconstruction = Reconstruction(path, depth[piece], np.ones_like(depth[piece]))
        observer.look(reconstruction, [flow.prepared(frame) for frame in frames[piece]])
    return observer.mask(PictureBounds(), clip.width)


def burnt_in(frame: Frame, text: str, x: int, y: int) -> tuple[Frame, np.ndarray]:
    """The frame with white text in it, and [h, w] bool, where that is."""
    ink = np.zeros(frame.planes[0].shape, np.uint8)
    cv2.putText(ink, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    luma = np.where(ink > 0, np.uint8(235), frame.planes[0])
    return replace(frame, planes=(luma, *frame.planes[1:])), ink > 0


@pytest.mark.parametrize("kind", ["regular", "crowd"])
def test_a_logo_is_found_and_plain_footage_has_none(kind):
    clip = make_clip(kind, frames=30, width=256, height=144, seed=4)
    assert found(clip, clip.frames) is None
    frames, inks = zip(*(burnt_in(frame, "VIEW 7", 150, 40) for frame in clip.frames), strict=True)
    mask = found(clip, list(frames))
    assert mask is not None
    rows, columns = np.nonzero(inks[0])
    around = np.zeros_like(mask)
    around[rows.min() - 12 : rows.max() + 12, columns.min() - 12 : columns.max() + 12] = True
    assert mask[inks[0]].mean() > 0.95 and not mask[~around].any()


def test_a_clock_that_counts_is_found():
    clip = make_clip("regular", frames=30, width=256, height=144, seed=4)
    frames, inks = zip(*(burnt_in(frame, f"00:{i:02d}", 30, 120) for i, frame in enumerate(clip.frames)), strict=True)
    mask = found(clip, list(frames))
    assert mask is not None and mask[np.any(inks, axis=0)].mean() > 0.9


def test_what_is_burnt_in_fills_nothing():
    views, targets, _ = panorama.shaken(24)
    mark = np.zeros((180, 320), bool)
    mark[12:40, 12:60] = mark[-40:-12, -60:-12] = True
    white = {}
    for i, view in views.items():
        luma = np.where(mark, np.uint8(255), view.frame.planes[0])
        white[i] = replace(view, frame=replace(view.frame, planes=(luma, *view.frame.planes[1:])), dynamic_mask=mark, overlay_mask=mark)
    taken = []
    for shown in (white, {i: replace(view, overlay_mask=None) for i, view in white.items()}):
        rendered = [WarpRenderer().render(targets[i], shown[i], ()) for i in sorted(shown)]
        filled = TemporalCompleter(FillSettings(), 30).complete(iter(rendered), panorama.Held(shown))
        taken.append(sum(int((frame.planes[0] > 235)[item.hole_mask].sum()) for frame, item in zip(filled, rendered, strict=True)))
    assert taken[0] == 0 < taken[1]
