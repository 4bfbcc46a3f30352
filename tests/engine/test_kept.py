# SPDX-License-Identifier: Apache-2.0
"""A short clip is decoded once for both of its readings, a long one twice."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from vs3r_engine.errors import RangeError
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.media import kept
from vs3r_engine.media.kept import KeptSource
from vs3r_engine.media.source import VideoSource
from vs3r_engine.timeline import FrameRange

FRAME_BYTES = 64 * 32


class Counted(VideoSource):
    """20 frames; `decoded` lists every one that was asked for."""

    def __init__(self) -> None:
        self.info = SimpleNamespace(clip=SimpleNamespace(path="x", rate=Fraction(30), available_range=FrameRange.between(0, 20)))
        self.decoded: list[int] = []
        self.is_closed = False

    def _decode(self, frame_range):
        for index in frame_range:
            self.decoded.append(index)
            yield Frame(index, (np.full((32, 64), index, np.uint8),), PixelLayout("gray", 8))

    def close(self):
        self.is_closed = True


class Unearthly(Counted):
    """One float frame with what is no picture."""

    def _decode(self, frame_range):
        plane = np.full((16, 16), 0.5, np.float32)
        plane[0, :5] = np.nan, np.inf, -np.inf, 1e30, -3.0
        yield Frame(0, (plane, np.ones_like(plane)), PixelLayout("gray", 32, has_alpha=True))


def test_what_is_no_number_leaves_no_source():
    (frame,) = Unearthly().frames(FrameRange(0, 1))
    assert frame.planes[0][0, :6].tolist() == [0.0, 65504.0, -65504.0, 65504.0, -3.0, 0.5]
    assert frame.planes[1].min() == 1.0


def indices(source: VideoSource, start: int, end: int) -> list[int]:
    return [frame.frame_index for frame in source.frames(FrameRange.between(start, end))]


def test_what_was_read_first_is_not_decoded_again():
    inner = Counted()
    source = KeptSource(inner)
    assert indices(source, 2, 12) == list(range(2, 12))
    assert indices(source, 4, 15) == list(range(4, 15))
    assert inner.decoded == [*range(2, 12), *range(12, 15)]
    assert indices(source, 4, 6) == [4, 5] and inner.decoded[-2:] == [4, 5], "what was read twice is forgotten"
    assert indices(source, 12, 14) == [12, 13] and inner.decoded[-2:] == [12, 13], "only what was read first is kept"


@pytest.mark.parametrize(("start", "end"), [(2, 12), (2, 5), (4, 6), (11, 12)])
def test_any_part_of_what_was_read_first_comes_back_and_no_frame_more(start, end):
    inner = Counted()
    source = KeptSource(inner)
    indices(source, 2, 12)
    assert indices(source, start, end) == list(range(start, end))
    assert inner.decoded == list(range(2, 12))


def test_what_does_not_fit_is_not_kept(monkeypatch):
    monkeypatch.setattr(kept, "KEPT_BYTES", 10 * FRAME_BYTES - 1)
    inner = Counted()
    source = KeptSource(inner)
    assert indices(source, 0, 10) == indices(source, 0, 10)
    assert inner.decoded == [*range(10), *range(10)]


def test_it_refuses_and_closes_as_its_source_does():
    inner = Counted()
    with KeptSource(inner) as source, pytest.raises(RangeError):
        source.frames(FrameRange.between(15, 25))
    assert inner.is_closed
