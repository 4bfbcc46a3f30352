# SPDX-License-Identifier: Apache-2.0
"""Rolling shutter: rows are exposed one after the other, so a moving picture is skewed by its own motion. The readout
time is found from what rotations leave over, and tracks are straightened to the moment of the middle row.

Source: the row-wise rotation model of Ringaby & Forssén (2012), here to second order in time and for track pairs.
"""

import numpy as np

from vs3r_engine.methods.geometric.chain import Link
from vs3r_engine.methods.geometric.motion import flow_basis, motion_explaining, refitted, turned, vector_from_rotation

_ROUNDS = 3
_SHORTEST, _LONGEST = 0.08, 1.1
"""Readout times believed, as shares of the frame period."""
_LEAST_GAIN = 0.06
"""Share of the squared left-over motion that the row term has to explain, in both halves of the links: parallax or
moving things give a little by chance, a real shutter under shake a third and more."""
_SMALLEST_GAIN_PX = 0.02
"""Root mean square of what it explains, analysed pixels: less is not worth a term."""


def skew_at(points: np.ndarray, pace: np.ndarray, readout: float, focal_px: float, height: float) -> np.ndarray:
    """[m, 2] how far a shutter of this readout time (share of a frame) displaces centred points [m, 2].

    pace: [2, 4] velocity and acceleration of the camera (radians about x, y, z and log zoom; per frame and its square).
    """
    if readout == 0.0:
        return np.zeros_like(points)
    late = (readout / height) * points[:, 1]
    moved = late * pace[0][:, None] + 0.5 * late**2 * pace[1][:, None]
    return (flow_basis(points, focal_px) * moved[:, None]).sum(axis=0).T


class Shutter:
    """Straightens links one after the other. A link is straight once the next two have told how the camera moved on."""

    def __init__(self, readout: float, focal_px: float, height: float) -> None:
        """readout: share of the frame period; 0 changes nothing. focal_px, height: of analysed pixels."""
        self.readout, self._focal, self._height = readout, focal_px, height
        self._start: Link | None = None
        self._late: list[Link] = []
        self._steps: list[np.ndarray] = []
        """Motions per frame of the link before the late ones, and of those."""
        self._pace = np.zeros((2, 4))

    def add(self, link: Link) -> list[Link]:
        """Links that became straight through this one, changed in place."""
        if self.readout == 0.0:
            return [link]
        if link.kind == "start":
            done = self.finish()
            self._start = link
            return [*done, link]
        self._late.append(link)
        self._steps.append(_step(link))
        return [self._straightened()] if len(self._late) > 2 else []

    def finish(self) -> list[Link]:
        """The links still waiting: nothing follows them."""
        done = [self._straightened() for _ in range(len(self._late))]
        self._steps, self._start = [], None
        return done

    def skew_grid(self, pace: np.ndarray, points: np.ndarray) -> np.ndarray:
        """[..., 2] analysed pixels by which the shutter displaced centred points [..., 2] (see `skew_at`)."""
        return skew_at(points.reshape(-1, 2), pace, self.readout, self._focal, self._height).reshape(points.shape)

    def _straightened(self) -> Link:
        link = self._late.pop(0)
        if self._start is not None:
            self._pace = self._start.pace = _pace_at(self._steps[:1] + self._steps, 0)
        at = len(self._steps) - len(self._late) - 1
        pace = _pace_at(self._steps, at)
        link.xy_from = link.xy_from - skew_at(link.xy_from, self._pace, self.readout, self._focal, self._height)
        link.xy_to = link.xy_to - skew_at(link.xy_to, pace, self.readout, self._focal, self._height)
        link.to_from, link.log_zoom = refitted(
            link.to_from, link.log_zoom, link.xy_from, link.xy_to, link.votes * link.weights, self._focal
        )
        link.pace = self._pace = pace
        self._start = None
        self._steps = self._steps[at:]
        return link


def _pace_at(steps: list[np.ndarray], at: int) -> np.ndarray:
    """[2, 4] velocity and acceleration at the end of step `at`: those of a cubic through the path around it."""
    last, here, following, later = (steps[min(max(at + k, 0), len(steps) - 1)] for k in (-1, 0, 1, 2))
    return np.stack([(7.0 * (here + following) - last - later) / 12.0, following - here])


def found_readout(links: list[Link], focal_px: float, height: float) -> float:
    """The readout time (share of the frame period) that the links show, or 0 where they do not clearly show one."""
    linked = [link for link in links if link.kind == "linked"]
    if len(linked) < 12:
        return 0.0
    steps = [_step(link) for link in linked]
    at = [_pace_at([steps[0], *steps], k) for k in range(len(steps) + 1)]
    readout = explained_px = 0.0
    for round_number in range(_ROUNDS):
        sums = np.zeros((2, 3))
        weight = 0.0
        for k, link in enumerate(linked):
            xy_from = link.xy_from - skew_at(link.xy_from, at[k], readout, focal_px, height)
            xy_to = link.xy_to - skew_at(link.xy_to, at[k + 1], readout, focal_px, height)
            weights = link.votes * link.weights
            to_from, log_zoom = refitted(link.to_from, link.log_zoom, xy_from, xy_to, weights, focal_px)
            left = xy_to - turned(xy_from, focal_px, to_from, log_zoom)
            row = skew_at(link.xy_to, at[k + 1], 1.0, focal_px, height) - skew_at(link.xy_from, at[k], 1.0, focal_px, height)
            row = _without_motion(row, xy_to, weights, focal_px)
            sums[k % 2] += [(weights[:, None] * part).sum() for part in (row * row, row * left, left * left)]
            weight += float(weights.sum())
        if round_number == 0:
            gains = sums[:, 1] * np.abs(sums[:, 1]) / np.maximum(sums[:, 0] * sums[:, 2], 1e-12)
            if gains.min() <= _LEAST_GAIN:
                return 0.0
        total = sums.sum(axis=0)
        readout = float(np.clip(readout + total[1] / max(total[0], 1e-12), -0.2, _LONGEST))
        explained_px = readout * float(np.sqrt(total[0] / max(weight, 1e-12)))
    is_seen = _SHORTEST < readout < _LONGEST and explained_px > _SMALLEST_GAIN_PX
    return readout if is_seen else 0.0


def _step(link: Link) -> np.ndarray:
    """[4] motion per frame."""
    return np.append(vector_from_rotation(link.to_from), link.log_zoom) / max(link.span_frames, 1)


def _without_motion(field: np.ndarray, points: np.ndarray, weights: np.ndarray, focal_px: float) -> np.ndarray:
    """`field` [m, 2] less the rotation and zoom that explain it best."""
    motion = motion_explaining(field, points, weights, focal_px)
    return field - (motion @ flow_basis(points, focal_px).reshape(4, -1)).reshape(2, -1).T
