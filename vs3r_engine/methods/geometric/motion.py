# SPDX-License-Identifier: Apache-2.0
"""The camera's motion between two pictures as one rotation and one zoom, by consensus over the whole picture, so that a
large moving object does not take the camera along.

Points here are "centred": pixels of the analysed picture relative to its middle, square (x right, y down).
"""

from dataclasses import dataclass

import numpy as np

_HYPOTHESES = 60
_STEPS = 6
_CONSENSUS_PX = 1.5
"""Scale of the consensus score, in pixels of the analysed picture."""
_LARGEST_LOG_ZOOM = 0.25
"""A change of focal length by more than this between two pictures is a false match, not a lens."""


@dataclass(frozen=True, slots=True, eq=False)
class PairMotion:
    """Motion from one picture to the next.

    to_from: [3, 3] rotation that takes a ray of the earlier camera to the later. log_zoom: of the focal length.
    predicted: [m, 2] where the motion takes the tracks. weights: [m] in [0, 1], how well each track agrees.
    inlier_share: of the votes. spread_px: robust scale of the disagreement of agreeing tracks.
    """

    to_from: np.ndarray
    log_zoom: float
    predicted: np.ndarray
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
    axis = 0.5 * np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(axis)), 0.5 * (float(np.trace(rotation)) - 1.0)
    return axis if sine < 1e-9 else axis * (np.arctan2(sine, cosine) / sine)


def turned(points: np.ndarray, focal_px: float, to_from: np.ndarray, log_zoom: float = 0.0) -> np.ndarray:
    """[m, 2] where centred points of the earlier picture are seen after a rotation and a zoom."""
    rays = points @ to_from[:, :2].T + focal_px * to_from[:, 2]
    depth = np.maximum(rays[:, 2:], 1e-3 * focal_px)
    return rays[:, :2] * (focal_px * np.exp(log_zoom) / depth)


def flow_basis(points: np.ndarray, focal_px: float) -> np.ndarray:
    """[m, 2, 4] pixels of motion per radian about x, y, z and per unit of log zoom, at centred points.

    Derivative of the perspective projection at a small rotation.
    """
    x, y = points[:, 0], points[:, 1]
    xy = x * y / focal_px
    basis = np.empty((len(points), 2, 4))
    basis[:, 0, 0], basis[:, 0, 1], basis[:, 0, 2], basis[:, 0, 3] = -xy, focal_px + x * x / focal_px, -y, x
    basis[:, 1, 0], basis[:, 1, 1], basis[:, 1, 2], basis[:, 1, 3] = -focal_px - y * y / focal_px, xy, x, y
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
    to_from, log_zoom = _consensus(points_from, points_to, votes, focal_px, expected, seed)
    predicted = turned(points_from, focal_px, to_from, log_zoom)
    scale = 3.0
    ridge = 1e-9 * np.eye(4) * focal_px**2
    for step in range(_STEPS):
        error = points_to - predicted
        squared = error[:, 0] ** 2 + error[:, 1] ** 2
        share = votes / (1.0 + squared / scale**2) ** 2
        basis = flow_basis(predicted, focal_px * np.exp(log_zoom)).reshape(-1, 4)
        weighted = basis * np.repeat(share, 2)[:, None]
        change = np.linalg.solve(weighted.T @ basis + ridge, weighted.T @ error.ravel())
        to_from = rotation_from_vector(change[:3]) @ to_from
        log_zoom = float(np.clip(log_zoom + change[3], -_LARGEST_LOG_ZOOM, _LARGEST_LOG_ZOOM))
        predicted = turned(points_from, focal_px, to_from, log_zoom)
        spread = _weighted_median(np.sqrt(squared), share)
        scale = min(max(2.5 * spread, 0.6), max(3.0 - 0.5 * step, 1.5))
        if step >= 2 and np.abs(change).max() * focal_px < 2e-3:
            break
    error = points_to - predicted
    squared = error[:, 0] ** 2 + error[:, 1] ** 2
    weights = 1.0 / (1.0 + squared / scale**2) ** 2
    inlier_share = float(votes[squared < (2.0 * max(scale, 1.0)) ** 2].sum())
    u, _, vt = np.linalg.svd(to_from)
    return PairMotion(u @ vt, log_zoom, predicted, weights, inlier_share, spread)


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
    ridge = 1e-9 * np.eye(4) * focal_px**2
    for _ in range(2):
        predicted = turned(points_from, focal_px, to_from, log_zoom)
        basis = flow_basis(predicted, focal_px * np.exp(log_zoom)).reshape(-1, 4)
        weighted = basis * np.repeat(weights, 2)[:, None]
        change = np.linalg.solve(weighted.T @ basis + ridge, weighted.T @ (points_to - predicted).ravel())
        to_from, log_zoom = rotation_from_vector(change[:3]) @ to_from, float(log_zoom + change[3])
    u, _, vt = np.linalg.svd(to_from)
    return u @ vt, log_zoom


def _consensus(
    points_from: np.ndarray,
    points_to: np.ndarray,
    votes: np.ndarray,
    focal_px: float,
    expected: tuple[np.ndarray, float],
    seed: int,
) -> tuple[np.ndarray, float]:
    """The best of many motions: the expected one, none, and those of random pairs of tracks."""
    before = turned(points_from, focal_px, *expected)
    flow = points_to - before
    basis = flow_basis(before, focal_px)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(votes), size=(_HYPOTHESES, 2), p=votes)
    chosen = chosen[chosen[:, 0] != chosen[:, 1]]
    system = basis[chosen].reshape(-1, 4, 4)
    solvable = np.abs(np.linalg.det(system)) > 1e-3 * focal_px**2 * (0.05 * np.abs(points_from).max() + 1) ** 2
    hypotheses = np.linalg.solve(system[solvable], flow[chosen[solvable]].reshape(-1, 4, 1))[..., 0]
    none = -np.append(vector_from_rotation(expected[0]), expected[1])
    hypotheses = np.concatenate(
        [np.zeros((1, 4)), none[None], hypotheses[np.abs(hypotheses[:, 3]) < _LARGEST_LOG_ZOOM]]
    )
    left = flow.reshape(-1, 1) - basis.reshape(-1, 4) @ hypotheses.T
    squared = (left * left).reshape(-1, 2, len(hypotheses)).sum(axis=1)
    score = votes @ (1.0 / (1.0 + squared / _CONSENSUS_PX**2))
    best = hypotheses[int(score.argmax())]
    return rotation_from_vector(best[:3]) @ expected[0], float(best[3] + expected[1])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, 0.5 * total[-1])]])
