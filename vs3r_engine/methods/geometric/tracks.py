# SPDX-License-Identifier: Apache-2.0
"""Feature tracks: corners spread evenly over a small luma picture, followed from frame to frame by pyramidal
Lucas-Kanade. Everything is arrays over tracks; nothing loops over one track."""

from dataclasses import dataclass

import cv2
import numpy as np

_CELL_PX = 28
"""Side of the square cells that hold one track each: 23 x 13 = 299 tracks on a 640 x 360 picture."""
_SMALLEST_CELL_PX = 10
_WANTED_TRACKS = 240
"""Smaller pictures get smaller cells, so that about as many tracks remain."""
_WINDOW_PX, _WINDOW_BACK_PX = 13, 9
_ROUND_TRIP_PX = 0.7
"""A track followed back to the earlier picture has to land this close to where it came from."""
_FLAT_EIGENVALUE = 2e-5
"""Smaller eigenvalue of the 3 x 3 structure tensor (picture scaled to 0..1 by OpenCV) under which a corner is noise."""

_FEW_SHARE = 0.8
"""Of the tracks: where fewer are found again, they are looked for with the light of both pictures evened out, too."""
_RELIT_LOG_GAIN = 0.08
"""So much more or less light than in the picture before is another light, if dark and bright parts of it agree in that."""
_PERCENTILES, _EVERY_PX = (20, 40, 60, 80), 4
_DARK_LEVEL = 26
"""Luma up to which lines at the picture's edge hold no tracks: there lies a bar, or dark picture, which has no corners to lose."""
_BAR_KEEP_OFF_PX = 1 + _WINDOW_PX // 2
"""A track closer than this to a bar would be followed by the bar's edge, which stands still."""


@dataclass(frozen=True, slots=True, eq=False)
class PairTracks:
    """Tracks between two pictures. `ids` [m] name a scene point while it is followed; `xy_from`, `xy_to` [m, 2] float64
    are corner-origin pixels of the small picture."""

    ids: np.ndarray
    xy_from: np.ndarray
    xy_to: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Tracker:
    """Follows corners through pictures of one size. `follow` is called once per picture that is worth following."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        cell = min(max((width * height / _WANTED_TRACKS) ** 0.5, _SMALLEST_CELL_PX), _CELL_PX)
        self._columns, self._rows = max(2, round(width / cell)), max(2, round(height / cell))
        self._levels = max(0, min(2, int(np.log2(max(min(width, height) / 24.0, 1.0)))))
        self._picture: np.ndarray | None = None
        self._xy = np.zeros((0, 2), np.float32)
        self._ids = np.zeros(0, np.int64)
        self._next_id = 0

    @property
    def picture(self) -> np.ndarray | None:
        """The picture that the tracks were last seen in."""
        return self._picture

    def begin(self, picture: np.ndarray) -> int:
        """Forgets all tracks and finds new ones in `picture`; returns how many."""
        self._xy, self._ids = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        self._picture = picture
        self._detect()
        return len(self._ids)

    def follow(self, picture: np.ndarray, xy_expected: np.ndarray | None = None) -> PairTracks:
        """Tracks from the last accepted picture to `picture`; nothing is accepted yet (see `accept`).

        xy_expected: [m, 2] corner-origin positions of the current tracks expected in `picture`, or None for no motion.
        """
        if len(self._xy) == 0 or self._picture is None:
            nothing = np.zeros((0, 2))
            return PairTracks(np.zeros(0, np.int64), nothing, nothing)
        start = self._xy if xy_expected is None else (xy_expected - 0.5).astype(np.float32)
        start = np.clip(start, 0, np.array([self._width - 1, self._height - 1], np.float32))
        kept, found = self._found(self._picture, picture, start)
        if np.count_nonzero(kept) < _FEW_SHARE * len(kept) and (evened := _in_one_light(self._picture, picture)) is not None:
            kept_evened, found_evened = self._found(*evened, start)
            if np.count_nonzero(kept_evened) > np.count_nonzero(kept):
                kept, found = kept_evened, found_evened
        low, high = _without_bars(picture)
        kept &= np.all((found > low + 1.0) & (found < high - 2.0), axis=1)
        return PairTracks(self._ids[kept], self._xy[kept].astype(np.float64) + 0.5, found[kept].astype(np.float64) + 0.5)

    def _found(self, before: np.ndarray, after: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([m] bool whether a track is found there and back, [m, 2] where in `after`)."""
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            before,
            after,
            self._xy,
            start.copy(),
            winSize=(_WINDOW_PX, _WINDOW_PX),
            maxLevel=self._levels,
            criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 12, 0.01),
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        back, status_back, _ = cv2.calcOpticalFlowPyrLK(
            after,
            before,
            found,
            self._xy.copy(),
            winSize=(_WINDOW_BACK_PX, _WINDOW_BACK_PX),
            maxLevel=0,
            criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 4, 0.02),
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        return (status.ravel() > 0) & (status_back.ravel() > 0) & (np.abs(back - self._xy).max(axis=1) < _ROUND_TRIP_PX), found

    def accept(self, picture: np.ndarray, pair: PairTracks) -> None:
        """Makes `picture` the one to follow from, with the tracks of `pair` and new corners where cells are empty."""
        self._picture = picture
        cells = self._cell_of(pair.xy_to)
        order = np.lexsort((pair.ids, cells))
        eldest = np.ones(len(order), bool)
        eldest[1:] = cells[order][1:] != cells[order][:-1]
        keep = np.sort(order[eldest])
        self._xy, self._ids = (pair.xy_to[keep] - 0.5).astype(np.float32), pair.ids[keep]
        self._detect()

    @property
    def xy(self) -> np.ndarray:
        """[m, 2] where the current tracks are in `picture`, corner-origin."""
        return self._xy.astype(np.float64) + 0.5

    def _cell_of(self, xy: np.ndarray) -> np.ndarray:
        column = np.clip((xy[:, 0] * (self._columns / self._width)).astype(np.int64), 0, self._columns - 1)
        row = np.clip((xy[:, 1] * (self._rows / self._height)).astype(np.int64), 0, self._rows - 1)
        return row * self._columns + column

    def _detect(self) -> None:
        """Adds the strongest corner of every cell that holds no track."""
        assert self._picture is not None
        half = max(1, min(2, min(self._width, self._height) // 32))
        small = (
            self._picture
            if half == 1
            else cv2.resize(self._picture, (self._width // half, self._height // half), interpolation=cv2.INTER_AREA)
        )
        strength = cv2.cornerMinEigenVal(small, 3)
        rim, per_px = 2, np.array([small.shape[1] / self._width, small.shape[0] / self._height])
        low, high = (np.ceil(side * per_px).astype(int) for side in _without_bars(self._picture))
        strength[: low[1] + rim], strength[max(high[1] - rim, 0) :] = 0, 0
        strength[:, : low[0] + rim], strength[:, max(high[0] - rim, 0) :] = 0, 0
        (y_of, is_y), (x_of, is_x) = (_by_cell(size, count) for size, count in zip(small.shape, (self._rows, self._columns), strict=True))
        blocks = strength[y_of.reshape(-1, 1), x_of.reshape(1, -1)] * (is_y.reshape(-1, 1) & is_x.reshape(1, -1))
        blocks = blocks.reshape(*y_of.shape, *x_of.shape).swapaxes(1, 2).reshape(self._rows * self._columns, -1)
        best = blocks.argmax(axis=1)
        cell = np.arange(len(best))
        y = y_of[cell // self._columns, best // x_of.shape[1]]
        x = x_of[cell % self._columns, best % x_of.shape[1]]
        xy = np.stack(
            [(x + 0.5) * (self._width / small.shape[1]) - 0.5, (y + 0.5) * (self._height / small.shape[0]) - 0.5],
            axis=1,
        )
        wanted = blocks[cell, best] > _FLAT_EIGENVALUE
        occupied = np.zeros(len(best), bool)
        occupied[self._cell_of(self._xy.astype(np.float64) + 0.5)] = True
        wanted &= ~occupied[self._cell_of(xy + 0.5)]
        count = int(wanted.sum())
        self._xy = np.concatenate([self._xy, xy[wanted].astype(np.float32)])
        self._ids = np.concatenate([self._ids, np.arange(self._next_id, self._next_id + count)])
        self._next_id += count


def _by_cell(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """([count, most in one], [count, most in one] bool): the indices of the `size` pixels whose middles lie in each of `count` cells,
    and which of them do; the others belong to the next cell."""
    edges = np.ceil(np.arange(count + 1) * (size / count) - 0.5).astype(np.int64)
    index = edges[:-1, None] + np.arange(max(int(np.diff(edges).max()), 1))
    return np.minimum(index, size - 1), index < edges[1:, None]


def _in_one_light(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The pictures, the brighter one as dark as the other: what follows tracks takes a point to be as bright as it was. None where
    the light is the same, or where not all of the picture says that it is another one."""
    levels = [np.percentile(picture[::_EVERY_PX, ::_EVERY_PX], _PERCENTILES) + 1.0 for picture in (before, after)]
    log_gains = np.log(levels[1] / levels[0])
    log_gain = float(log_gains.mean())
    if abs(log_gain) < _RELIT_LOG_GAIN or np.ptp(log_gains) > abs(log_gain):
        return None
    if log_gain < 0:
        return cv2.convertScaleAbs(before, None, np.exp(log_gain), 0.0), after
    return before, cv2.convertScaleAbs(after, None, np.exp(-log_gain), 0.0)


def _without_bars(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[2], [2] (x, y) of the part of a picture in which tracks are not led by letterbox or pillarbox bars."""
    low, high = [0, 0], [picture.shape[1], picture.shape[0]]
    for axis in (0, 1):
        lit = np.flatnonzero(picture.max(axis=axis) > _DARK_LEVEL)
        if len(lit):
            low[axis] = int(lit[0]) + _BAR_KEEP_OFF_PX if lit[0] else 0
            high[axis] = int(lit[-1]) + 1 - _BAR_KEEP_OFF_PX if lit[-1] + 1 < high[axis] else high[axis]
    return np.array(low), np.array(high)
