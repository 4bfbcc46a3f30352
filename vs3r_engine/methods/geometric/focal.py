# SPDX-License-Identifier: Apache-2.0
"""Focal self-calibration: the focal length at which windows of tracks are explained best by cameras that turn and move.

A wrong focal length bends rotations and parallax in ways that no camera path makes good. The scan tells how sharply:
that is the confidence. Windows that only zoom, or hardly turn and show no parallax, tell nothing.
"""

from dataclasses import dataclass

import numpy as np

from vs3r_engine.methods.geometric.bundle import (
    ROTATION_TRANSLATION,
    Sightings,
    Window,
    adjusted,
    begun,
    rotations_from_vectors,
)
from vs3r_engine.methods.geometric.chain import Link
from vs3r_engine.methods.geometric.motion import vector_from_rotation
from vs3r_engine.methods.geometric.windows import depth_spread, robust_cost, table

WINDOW_FRAMES = 36
CALIBRATION_FRAMES = 2 * WINDOW_FRAMES
"""Good frames looked at: the first ones of a shot."""
CONFIDENT = 0.45
"""Confidence from which the focal length is within 3 % on every synthetic clip it was tried on."""

_FRAME_STEP = 3
_TRACKS = 60
_FEWEST_TRACKS = 30
_LOW, _HIGH, _STEPS = 0.42, 2.9, 7
"""Focal lengths tried, over the picture's longer side: a 122 degree to a 22 degree lens."""
_UNUSUAL = 0.5
"""Cost per squared log ratio to the assumed focal length: among lenses that explain a clip equally, the usual one."""
_NEAR = 0.2
"""Log ratio of focal lengths up to which one's explanation is a start for the other's."""
_NEIGHBOUR = 1.15
"""The valley's depth is measured at this ratio to either side of its bottom."""
_WORST_COST = 3.0
_POOR_COST = 1.2
"""Lowest cost of a quick scan over which it is done again with more patience."""
_LEAST_TURN_RAD = 0.12
_LEAST_SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Calibration:
    """focal_px: of analysed pixels. confidence: in [0, 1]."""

    focal_px: float
    confidence: float


def calibrated(links: list[Link], assumed_px: float, long_side_px: float) -> Calibration:
    """What the first linked frames of a shot say about the focal length.

    links: the first is a "start", all others "linked". assumed_px: the one their rotations were found with.
    """
    windows = [links[k : k + WINDOW_FRAMES] for k in range(0, max(len(links) - WINDOW_FRAMES // 2, 1), WINDOW_FRAMES)]
    scans = [scan for scan in (_Scan.of(window, assumed_px) for window in windows) if scan is not None]
    tried = np.log(long_side_px) + np.linspace(np.log(_LOW), np.log(_HIGH), _STEPS)
    kept: list[_Scan] = []
    lowest = 0
    for scan in scans:
        if not kept:
            costs = [scan.cost(log_focal, is_quick=True) for log_focal in tried]
            if min(costs) > _POOR_COST:
                scan.forget()
                costs = [scan.cost(log_focal) for log_focal in tried]
            lowest = int(np.argmin(costs))
        else:
            scan.cost(tried[lowest])
        if scan.says_something():
            kept.append(scan)
    if not kept or lowest in (0, _STEPS - 1):
        return Calibration(assumed_px, 0.0)

    def cost(log_focal: float) -> float:
        return float(np.mean([scan.cost(log_focal) for scan in kept]))

    centre = tried[lowest]
    for width in (0.14, 0.07, 0.04):
        left, bottom, right = (cost(centre + k * width) for k in (-1, 0, 1))
        bend = left + right - 2 * bottom
        centre += width * float(
            np.clip(0.5 * (left - right) / bend if bend > 1e-9 else np.sign(left - right), -1.0, 1.0)
        )
    bottom, *sides = (cost(centre + k * np.log(_NEIGHBOUR)) for k in (0, -1, 1))
    valley = max(min(sides) - bottom, 0.0) / (bottom + 0.3)
    return Calibration(float(np.exp(centre)), float(valley / (valley + 0.25)))


class _Scan:
    """One window explained with one focal length after the other, each from the nearest one's explanation."""

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
        self._assumed = np.log(assumed_px)
        self._start = (np.array(rotation)[frames], np.zeros((len(frames), 3)), np.ones(tracks))
        self._solved: dict[float, tuple[Window, float]] = {}

    @classmethod
    def of(cls, links: list[Link], assumed_px: float) -> "_Scan | None":
        """None where there are too few frames or tracks."""
        if len(links) < WINDOW_FRAMES // 2:
            return None
        _, xy, seen = table(links)
        life = seen.sum(axis=0)
        tracks = np.argsort(-life, kind="stable")
        # A spread over the longest lived ones, not the very longest: those crowd where the picture moves least.
        tracks = tracks[life[tracks] >= 0.4 * len(links)][: 2 * _TRACKS : 2]
        return (
            cls(links, Sightings(xy[:, tracks], seen[:, tracks]), assumed_px) if len(tracks) >= _FEWEST_TRACKS else None
        )

    def forget(self) -> None:
        """Drops all explanations."""
        self._solved = {}

    def cost(self, log_focal: float, is_quick: bool = False) -> float:
        """Mean robust cost of a track with this focal length (log of analysed pixels)."""
        known = self._solved.get(log_focal)
        if known is None:
            nearest = min(self._solved, key=lambda other: abs(other - log_focal), default=None)
            if nearest is None or abs(nearest - log_focal) > _NEAR:
                window, error = begun(self._window(*self._start, self._assumed, log_focal), self._sightings, is_quick)
            else:
                near = self._solved[nearest][0]
                window = self._window(near.rotation, near.translation, near.inverse_depth, nearest, log_focal)
                window, error = adjusted(window, self._sightings, ROTATION_TRANSLATION, 8, first_scale_px=3.0)
            unusual = _UNUSUAL * (log_focal - self._assumed) ** 2
            known = self._solved[log_focal] = window, float(robust_cost(error, self._sightings.seen).mean()) + unusual
        return known[1]

    def says_something(self) -> bool:
        """Whether the best explanation so far is good, and turns enough or shows parallax."""
        window, cost = min(self._solved.values(), key=lambda solved: solved[1])
        cosine = 0.5 * (np.trace(window.rotation, axis1=1, axis2=2) - 1)
        turn = float(np.arccos(np.clip(cosine, -1, 1)).max())
        return cost < _WORST_COST and (turn > _LEAST_TURN_RAD or depth_spread(window.inverse_depth) > _LEAST_SPREAD)

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
