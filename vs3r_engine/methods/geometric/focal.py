# SPDX-License-Identifier: Apache-2.0
"""Self-calibration of the lens: the focal length, and the bend, with which windows of tracks are explained best.

A wrong focal length bends rotations and parallax in ways that no camera path makes good. A scan over focal lengths tells
which is right, and how sharply: that is the confidence. Windows that only zoom, or hardly turn and show no parallax,
tell nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vs3r_engine.methods.geometric.begin import begun
from vs3r_engine.methods.geometric.bend import straight
from vs3r_engine.methods.geometric.bundle import (
    ROTATION,
    ROTATION_TRANSLATION,
    Sightings,
    Window,
    adjusted,
    rotations_from_vectors,
)
from vs3r_engine.methods.geometric.chain import Link
from vs3r_engine.methods.geometric.motion import vector_from_rotation
from vs3r_engine.methods.geometric.windows import depth_spread, robust_cost, table

WINDOW_FRAMES = 36
CALIBRATION_FRAMES = 2 * WINDOW_FRAMES
"""Good frames looked at: the first ones of a shot."""
CONFIDENT = 0.45
"""Confidence from which the focal length was within 3 % on every synthetic clip it was tried on."""

_FRAME_STEP = 3
_TRACKS = 60
_FEWEST_TRACKS = 30
_FEWEST_FRAMES = 20
_LOW, _HIGH = 0.42, 2.9
"""Focal lengths tried, over the picture's longer side: a 100 degree to a 20 degree lens."""
_TURNING_FOCALS, _MOVING_FOCALS = 9, 7
_UNUSUAL = 0.5
"""Cost per squared log ratio to the assumed focal length: among lenses that explain a clip equally, the usual one."""
_NEAR = 0.2
"""Log ratio of focal lengths up to which one's explanation nearly is the other's."""
_USUAL, _WELL_EXPLAINED = 0.6, 1.5
"""Lenses up to this log ratio from the assumed one are worth an explanation from nothing, where what the nearest focal
length suggests costs more than this."""
_FAR = 0.35
"""Log ratio to the assumed focal length that one window alone is not believed."""
_LEAST_BEND = 0.08
"""Share by which the cost rises towards both neighbours of the best focal length tried, where there is a valley."""
_NEIGHBOUR = 1.15
"""The valley's depth is measured at this ratio to either side of its bottom."""
_WORST_COST = 3.0
_WORST_TURNING_COST, _WORST_TURNING_BOTTOM = 2.5, 1.0
"""Robust cost of a track under which turns alone explain a window: on the coarse grid, and at the bottom."""
_HOPELESS_TURNING_COST = 5.0
"""Where no focal length of a sparse selection costs less, turns alone explain the window with none."""
_LEAST_TURN_RAD = 0.12
_LEAST_SPREAD = 0.2
_BEND_STEP = 0.03
"""Bends tried, as the share by which the lens moves a corner: those of barrels, as lenses of cameras and phones have them where they
have any. The other way, walkers were explained on exact crowds."""
_MOST_BENDS = 4
"""So many steps away nothing is believed: a lens of its kind needs a profile."""
_LEAST_GAIN = 0.07
"""Share of the cost that a bend has to take away. Exact clips of straight lenses lost 0.02 to one, and four real ones of a camera that
bends lines 0.09 to 0.4."""

Cost = Callable[[float], float]
"""Mean robust cost of a track, of a log focal length in analysed pixels."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """focal_px: of analysed pixels. confidence: in [0, 1]."""

    focal_px: float
    confidence: float


def calibrated(links: list[Link], assumed_px: float, long_side_px: float) -> Calibration:
    """What the first linked frames of a shot say about the focal length.

    links: the first is a "start", all others "linked". assumed_px: the one their rotations were found with.
    """
    starts = range(0, max(len(links) - _FEWEST_FRAMES, 1), WINDOW_FRAMES)
    found = (_Scan.of(links[k : k + WINDOW_FRAMES], assumed_px) for k in starts)
    scans = [scan for scan in found if scan is not None]
    low, high = np.log(long_side_px * np.array([_LOW, _HIGH]))
    # Turns alone tell most sharply, where they are all there is.
    tried = np.linspace(low, high, _TURNING_FOCALS)
    turning: list[Cost] = [scan.turned for scan in scans if scan.turns(tried)]
    calibration, bottom = _valley(turning, tried, assumed_px)
    if turning and calibration.confidence > 0 and bottom < _WORST_TURNING_BOTTOM:
        return calibration
    tried = np.linspace(low, high, _MOVING_FOCALS)
    outward = sorted(tried, key=lambda log_focal: abs(log_focal - np.log(assumed_px)))
    moving: list[Cost] = []
    for scan in scans:
        scan.moved(np.log(assumed_px))
        for log_focal in [min(tried, key=moving[0])] if moving else outward:
            scan.moved(log_focal)
        if scan.moves():
            moving.append(scan.moved)
            if len(moving) == 1 and not _bends(moving[0], tried):
                break
    return _valley(moving, tried, assumed_px)[0]


def found_bend(links: list[Link], focal_px: float, corner_px: float) -> float:
    """How the lens bends lines (see `straight`), at most 0, and 0 where windows are explained nearly as well without.

    links: as they were filmed; the first is a "start", all others "linked". focal_px, corner_px: of analysed pixels; the latter is a
    corner's distance from the centre.
    """
    starts = range(0, max(len(links) - _FEWEST_FRAMES, 1), WINDOW_FRAMES)
    found = (_Scan.of(links[k : k + WINDOW_FRAMES], focal_px) for k in starts)
    scans = [scan for scan in found if scan is not None]
    step_bend = -_BEND_STEP / corner_px**2
    if not any(scan.bent(1, step_bend) < scan.bent(0, step_bend) for scan in scans):
        return 0.0
    # What no bend explains tells nothing of the lens: the scene moves.
    cost = np.array([[scan.bent(step, step_bend) for step in range(_MOST_BENDS + 1)] for scan in scans])
    cost = cost[cost.min(axis=1) < _WORST_COST]
    if not len(cost):
        return 0.0
    mean = cost.mean(axis=0)
    lowest = int(mean.argmin())
    contradicted = bool((cost[:, lowest] > 1.05 * cost[:, 0] + 0.03).any())
    if lowest in (0, _MOST_BENDS) or contradicted or mean[0] - mean[lowest] < _LEAST_GAIN * (mean[lowest] + 0.3):
        return 0.0
    before, bottom, after = mean[lowest - 1 : lowest + 2]
    return float(lowest + 0.5 * (before - after) / (before + after - 2 * bottom)) * step_bend


def _bends(cost: Cost, tried: np.ndarray) -> bool:
    """Whether the cost has a valley between the focal lengths tried that is worth a closer look."""
    costs = [cost(log_focal) for log_focal in tried]
    lowest = int(np.argmin(costs))
    if lowest in (0, len(tried) - 1):
        return False
    return min(costs[lowest - 1], costs[lowest + 1]) - costs[lowest] > _LEAST_BEND * (costs[lowest] + 0.3)


def _valley(costs: list[Cost], tried: np.ndarray, assumed_px: float) -> tuple[Calibration, float]:
    """(the focal length of lowest mean cost, that cost). Confidence 0 and the assumed one where there is no clear valley.

    The first of `costs` says where to look, all of them together where exactly.
    """
    nothing = Calibration(assumed_px, 0.0), np.inf
    if not costs or not _bends(costs[0], tried):
        return nothing

    def mean(log_focal: float) -> float:
        return float(np.mean([cost(log_focal) for cost in costs]))

    centre = float(min(tried, key=costs[0]))
    for width in (0.14, 0.07, 0.04):
        left, bottom, right = (mean(centre + k * width) for k in (-1, 0, 1))
        bend = left + right - 2 * bottom
        shift = 0.5 * (left - right) / bend if bend > 1e-9 else np.sign(left - right)
        centre += width * float(np.clip(shift, -1.0, 1.0))
    if len(costs) == 1 and abs(centre - np.log(assumed_px)) > _FAR:
        return nothing
    if any(cost(centre) > 1.05 * cost(float(np.log(assumed_px))) + 0.03 for cost in costs):
        # Windows that contradict each other were explained by accident.
        return nothing
    bottom, *sides = (mean(centre + k * np.log(_NEIGHBOUR)) for k in (0, -1, 1))
    depth = max(min(sides) - bottom, 0.0) / (bottom + 0.3)
    return Calibration(float(np.exp(centre)), float(depth / (depth + 0.25))), bottom


class _Scan:
    """One window explained with one focal length after the other."""

    def __init__(self, links: list[Link], sightings: Sightings, assumed_px: float) -> None:
        rotation = [np.eye(3)]
        for link in links[1:]:
            rotation.append(link.to_from @ rotation[-1])
        frames = np.arange(0, len(links), _FRAME_STEP)
        self._sightings = Sightings(sightings.xy[frames], sightings.seen[frames])
        tracks = self._sightings.seen.shape[1]
        self._first = self._sightings.seen.argmax(axis=0)
        self._first_xy = self._sightings.xy[self._first, np.arange(tracks)]
        self._is_fixed = np.arange(len(frames)) == 0
        self._depth_weight = np.full(tracks, 0.3)
        self._assumed = float(np.log(assumed_px))
        self._start = (np.array(rotation)[frames], np.zeros((len(frames), 3)), np.ones(tracks))
        self._turned: dict[float, tuple[Window, float]] = {}
        self._moved: dict[float, tuple[Window, float]] = {}
        self._bent: dict[int, tuple[Window, float]] = {}

    @classmethod
    def of(cls, links: list[Link], assumed_px: float) -> "_Scan | None":
        """None where there are too few frames or tracks."""
        if len(links) < _FEWEST_FRAMES:
            return None
        _, xy, seen = table(links)
        life = seen.sum(axis=0)
        tracks = np.argsort(-life, kind="stable")
        # A spread over the longest lived ones, not the very longest: those crowd where the picture moves least.
        tracks = tracks[life[tracks] >= 0.4 * len(links)][: 2 * _TRACKS : 2]
        if len(tracks) < _FEWEST_TRACKS:
            return None
        return cls(links, Sightings(xy[:, tracks], seen[:, tracks]), assumed_px)

    def turned(self, log_focal: float) -> float:
        """Cost where the camera only turns."""
        if log_focal not in self._turned:
            start = self._window(*self._start, self._assumed, log_focal)
            window, error = adjusted(start, self._sightings, ROTATION, 5, first_scale_px=4.0)
            self._turned[log_focal] = window, self._cost(error, log_focal)
        return self._turned[log_focal][1]

    def turns(self, tried: np.ndarray) -> bool:
        """Whether turns alone, and enough of them, explain the window with one of these focal lengths."""
        if min(self.turned(log_focal) for log_focal in tried[1::2]) > _HOPELESS_TURNING_COST:
            return False
        best = min(tried, key=self.turned)
        best = min((best, *(best + np.array([-0.3, 0.3]) * (tried[1] - tried[0]))), key=self.turned)
        return self.turned(best) < _WORST_TURNING_COST and _turn_rad(self._turned[best][0]) > _LEAST_TURN_RAD

    def moved(self, log_focal: float) -> float:
        """Cost where the camera turns and moves; explained from what is known for the nearest focal length."""
        if log_focal in self._moved:
            return self._moved[log_focal][1]
        start = self._window(*self._start, self._assumed, log_focal)
        nearest = min(self._moved, key=lambda other: abs(other - log_focal), default=None)
        if nearest is None:
            window, error = begun(start, self._sightings)
        else:
            near = self._moved[nearest][0]
            window = self._window(near.rotation, near.translation, near.inverse_depth, nearest, log_focal)
            is_near = abs(nearest - log_focal) < _NEAR
            steps, first_scale_px = (5, 1.5) if is_near else (7, 3.0)
            window, error = adjusted(window, self._sightings, ROTATION_TRANSLATION, steps, 1.0, first_scale_px)
            is_usual = abs(log_focal - self._assumed) < _USUAL
            if not is_near and is_usual and self._cost(error, log_focal) > _WELL_EXPLAINED:
                fresh, fresh_error = begun(start, self._sightings)
                if self._cost(fresh_error, log_focal) < self._cost(error, log_focal):
                    window, error = fresh, fresh_error
        self._moved[log_focal] = window, self._cost(error, log_focal)
        return self._moved[log_focal][1]

    def bent(self, step: int, step_bend: float) -> float:
        """Cost where the camera turns and moves, and its lens bends lines by so many steps; explained from what is known for the step
        nearer to a straight lens."""
        if step not in self._bent:
            if step == 0:
                self.moved(self._assumed)
                start = self._moved[self._assumed][0]
            else:
                self.bent(step - 1, step_bend)
                start = self._bent[step - 1][0]
            sightings = Sightings(straight(self._sightings.xy, step * step_bend), self._sightings.seen)
            window, error = adjusted(start, sightings, ROTATION_TRANSLATION, 6, 1.0, 2.0)
            self._bent[step] = window, float(robust_cost(error, sightings.seen).mean())
        return self._bent[step][1]

    def moves(self) -> bool:
        """Whether the best explanation so far is good, and turns enough or shows parallax."""
        window, cost = min(self._moved.values(), key=lambda moved: moved[1])
        is_telling = _turn_rad(window) > _LEAST_TURN_RAD or depth_spread(window.inverse_depth) > _LEAST_SPREAD
        return cost < _WORST_COST and is_telling

    def _cost(self, error: np.ndarray, log_focal: float) -> float:
        unusual = _UNUSUAL * (log_focal - self._assumed) ** 2
        return float(robust_cost(error, self._sightings.seen).mean()) + unusual

    def _window(
        self,
        rotation: np.ndarray,
        translation: np.ndarray,
        inverse_depth: np.ndarray,
        log_from: float,
        log_focal: float,
    ) -> Window:
        """The same picture motion through another lens: motion across the picture scales, about the axis it stays."""
        across = float(np.exp(log_from - log_focal))
        vectors = np.array([vector_from_rotation(r) for r in rotation]) * [across, across, 1.0]
        turned = rotations_from_vectors(vectors)
        focal = float(np.exp(log_focal))
        moved = translation * [across, across, 1.0]
        ray = np.concatenate([self._first_xy / focal, np.ones((len(inverse_depth), 1))], axis=1)
        ray -= moved[self._first] * inverse_depth[:, None]
        direction = np.einsum("mji,mj->mi", turned[self._first], ray)
        length = np.linalg.norm(direction, axis=1)
        return Window(
            turned,
            moved,
            np.full(len(turned), focal),
            direction / length[:, None],
            inverse_depth / length,
            self._depth_weight,
            self._is_fixed,
        )


def _turn_rad(window: Window) -> float:
    """The largest turn away from the first camera."""
    cosine = 0.5 * (np.trace(window.rotation, axis1=1, axis2=2) - 1)
    return float(np.arccos(np.clip(cosine, -1, 1)).max())
