# SPDX-License-Identifier: Apache-2.0
"""The camera's motion between two pictures as one rotation and one zoom, by consensus over the whole picture, so that a
large moving object does not take the camera along.

Points here are "centred": pixels of the analysed picture relative to its middle, square (x right, y down).
"""

from dataclasses import dataclass

import cv2
import numpy as np

_HYPOTHESES = 60
"""Random pairs of tracks whose motions are tried where no motion is sure of a majority."""
_STEPS = 4
_SETTLED_PX = 5e-3
_MAJORITY = 0.65
"""Share of the votes with which a motion found from the expected one is taken."""
_CONSENSUS_PX = 1.5
"""Scale of the consensus score, in pixels of the analysed picture."""
_RIDGE = 1e-9 * np.eye(4)
_LARGEST_LOG_ZOOM = 0.25
"""A change of focal length by more than this between two pictures is a false match, not a lens."""


@dataclass(frozen=True, slots=True, eq=False)
class PairMotion:
    """Motion from one picture to the next.

    to_from: [3, 3] rotation that takes a ray of the earlier camera to the later. log_zoom: of the focal length.
    weights: [m] in [0, 1], how well each track agrees.
    inlier_share: of the votes. spread_px: robust scale of the disagreement of agreeing tracks.
    """

    to_from: np.ndarray
    log_zoom: float
    weights: np.ndarray
    inlier_share: float
    spread_px: float


def rotation_from_vector(vector: np.ndarray) -> np.ndarray:
    """[3, 3] rotation by |vector| radians about it (Rodrigues)."""
    angle = float(np.sqrt(vector @ vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-8:
        return np.eye(3) + cross
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * (cross @ cross)


def vector_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """[3] axis times angle (radians) of a rotation by less than half a turn."""
    axis = 0.5 * np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine, cosine = float(np.linalg.norm(axis)), 0.5 * (float(np.trace(rotation)) - 1.0)
    return axis if sine < 1e-9 else axis * (np.arctan2(sine, cosine) / sine)


def nearest_rotation(nearly: np.ndarray) -> np.ndarray:
    """[..., 3, 3] what products of rotations, [..., 3, 3], were before rounding."""
    u, _, vt = np.linalg.svd(nearly)
    return u @ vt


def turned(points: np.ndarray, focal_px: float, to_from: np.ndarray, log_zoom: float = 0.0) -> np.ndarray:
    """[m, 2] where centred points of the earlier picture are seen after a rotation and a zoom."""
    rays = points @ to_from[:, :2].T + focal_px * to_from[:, 2]
    depth = np.maximum(rays[:, 2:], 1e-3 * focal_px)
    return rays[:, :2] * (focal_px * np.exp(log_zoom) / depth)


def flow_basis(points: np.ndarray, focal_px: float) -> np.ndarray:
    """[4, 2, m] pixels of motion (x, y) per radian about x, y, z and per unit of log zoom, at centred points [m, 2].

    Derivative of the perspective projection at a small rotation.
    """
    x, y = points.T
    basis = np.empty((4, 2, len(points)))
    bent = x * y / focal_px
    basis[0, 0], basis[0, 1] = -bent, -focal_px - y * y / focal_px
    basis[1, 0], basis[1, 1] = focal_px + x * x / focal_px, bent
    basis[2, 0], basis[2, 1] = -y, x
    basis[3, 0], basis[3, 1] = x, y
    return basis


def votes_of(points: np.ndarray, trust: np.ndarray, width: float, height: float) -> np.ndarray:
    """[m] weights with sum 1: tracks in crowded parts of the picture count less each, long trusted ones more."""
    column = np.clip(((points[:, 0] / width + 0.5) * 6).astype(np.int64), 0, 5)
    row = np.clip(((points[:, 1] / height + 0.5) * 4).astype(np.int64), 0, 3)
    block = row * 6 + column
    crowd = np.bincount(block, minlength=24)[block]
    votes = (0.15 + trust) / np.sqrt(crowd)
    return votes / votes.sum()


def pair_motion(
    points_from: np.ndarray,
    points_to: np.ndarray,
    votes: np.ndarray,
    focal_px: float,
    expected: tuple[np.ndarray, float],
    seed: int,
) -> PairMotion:
    """The rotation and zoom that most votes agree with, refined by iteratively reweighted least squares.

    expected: (to_from, log_zoom) to start from, the motion of the pair before. seed: equal seeds, equal results.
    Needs at least 4 tracks.
    """
    before = turned(points_from, focal_px, *expected)
    flow, basis = points_to - before, flow_basis(before, focal_px)
    none = -np.append(vector_from_rotation(expected[0]), expected[1])
    likely = np.stack([np.zeros(4), none])
    motion = _reweighted(_best(likely, flow, basis, votes, expected), points_from, points_to, votes, focal_px)
    if motion.inlier_share >= _MAJORITY:
        # No other motion can have more votes.
        return motion
    tried = np.concatenate([likely, _random_motions(flow, basis, votes, focal_px, seed)])
    return _reweighted(_best(tried, flow, basis, votes, expected), points_from, points_to, votes, focal_px)


def _reweighted(
    start: tuple[np.ndarray, float], points_from: np.ndarray, points_to: np.ndarray, votes: np.ndarray, focal_px: float
) -> PairMotion:
    """The motion that iteratively reweighted least squares lead to from `start`."""
    to_from, log_zoom = start
    predicted = turned(points_from, focal_px, to_from, log_zoom)
    scale = 3.0
    for step in range(_STEPS):
        error = points_to - predicted
        squared = error[:, 0] ** 2 + error[:, 1] ** 2
        share = votes / (1.0 + squared / scale**2) ** 2
        change = motion_explaining(error, predicted, share, focal_px * float(np.exp(log_zoom)))
        to_from = rotation_from_vector(change[:3]) @ to_from
        log_zoom = float(np.clip(log_zoom + change[3], -_LARGEST_LOG_ZOOM, _LARGEST_LOG_ZOOM))
        predicted = turned(points_from, focal_px, to_from, log_zoom)
        spread = _weighted_median(np.sqrt(squared), share)
        scale = min(max(2.5 * spread, 0.6), max(3.0 - 0.5 * step, 1.5))
        if step >= 2 and np.abs(change).max() * focal_px < _SETTLED_PX:
            break
    error = points_to - predicted
    squared = error[:, 0] ** 2 + error[:, 1] ** 2
    weights = 1.0 / (1.0 + squared / scale**2) ** 2
    inlier_share = float(votes[squared < (2.0 * max(scale, 1.0)) ** 2].sum())
    return PairMotion(nearest_rotation(to_from), log_zoom, weights, inlier_share, spread)


def refitted(
    motion_to_from: np.ndarray,
    log_zoom: float,
    points_from: np.ndarray,
    points_to: np.ndarray,
    weights: np.ndarray,
    focal_px: float,
) -> tuple[np.ndarray, float]:
    """(to_from, log_zoom) for another focal length, from a motion near it and the weights it gave the tracks."""
    to_from = motion_to_from
    for _ in range(2):
        predicted = turned(points_from, focal_px, to_from, log_zoom)
        change = motion_explaining(points_to - predicted, predicted, weights, focal_px * float(np.exp(log_zoom)))
        to_from, log_zoom = rotation_from_vector(change[:3]) @ to_from, float(log_zoom + change[3])
    return nearest_rotation(to_from), log_zoom


def motion_explaining(flow: np.ndarray, points: np.ndarray, weights: np.ndarray, focal_px: float) -> np.ndarray:
    """[4] turn (radians about x, y, z) and log zoom that explain flow [m, 2] at centred points best in least squares."""
    basis = flow_basis(points, focal_px)
    weighted = (basis * weights).reshape(4, -1)
    normal = weighted @ basis.reshape(4, -1).T + _RIDGE * focal_px**2
    return cv2.solve(normal, weighted @ flow.T.reshape(-1, 1), flags=cv2.DECOMP_CHOLESKY)[1].ravel()


def _random_motions(flow: np.ndarray, basis: np.ndarray, votes: np.ndarray, focal_px: float, seed: int) -> np.ndarray:
    """[k, 4] the motions that explain random pairs of tracks exactly."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(votes), size=(_HYPOTHESES, 2), p=votes)
    chosen = chosen[chosen[:, 0] != chosen[:, 1]]
    system = basis[:, :, chosen].transpose(2, 3, 1, 0).reshape(-1, 4, 4)
    reach = np.abs(basis[3]).max()
    solvable = np.abs(np.linalg.det(system)) > 1e-3 * focal_px**2 * (0.05 * reach + 1) ** 2
    motions = np.linalg.solve(system[solvable], flow[chosen[solvable]].reshape(-1, 4, 1))[..., 0]
    return motions[np.abs(motions[:, 3]) < _LARGEST_LOG_ZOOM]


def _best(
    hypotheses: np.ndarray, flow: np.ndarray, basis: np.ndarray, votes: np.ndarray, expected: tuple[np.ndarray, float]
) -> tuple[np.ndarray, float]:
    """The motion that most votes agree with. hypotheses: [k, 4] relative to the expected one, after which `flow` is left."""
    left = flow.T - (hypotheses @ basis.reshape(4, -1)).reshape(-1, 2, len(flow))
    squared = left[:, 0] ** 2 + left[:, 1] ** 2
    score = (1.0 / (1.0 + squared / _CONSENSUS_PX**2)) @ votes
    best = hypotheses[int(score.argmax())]
    return rotation_from_vector(best[:3]) @ expected[0], float(best[3] + expected[1])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, 0.5 * total[-1])]])
