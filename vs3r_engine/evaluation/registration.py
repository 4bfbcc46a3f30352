# SPDX-License-Identifier: Apache-2.0
"""How two pictures lie on each other: features, matches, homographies, the picture's own motion, and what is blank."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

FEATURES = 2000
QUICK_FEATURES = 1000
"""Strongest SIFT features kept. The published code keeps all; that makes matching quadratic in the picture's area."""

_FEWEST_MATCHES = 10
_BLANK_LEVEL = 10
"""BGR level up to which a pixel can be a border: black after any 8-bit codec."""

_SHADOW_LEVEL = 24
"""Luma up to which the original itself may look like a border."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """points: [n, 2] float32 corner-origin pixels. descriptors: [n, 128] float32."""

    points: np.ndarray
    descriptors: np.ndarray


def features(luma: np.ndarray, limit: int) -> Features:
    """SIFT features of an 8-bit picture."""
    sift: Any = cv2.SIFT.create(nfeatures=limit)  # type: ignore[attr-defined]
    keypoints, descriptors = sift.detectAndCompute(luma, None)
    if descriptors is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    return Features(np.array([k.pt for k in keypoints], np.float32) + 0.5, descriptors)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Nearest neighbours: source, target [n, 2] points, and Lowe's ratio [n] of the nearest to the second distance."""

    source: np.ndarray
    target: np.ndarray
    ratio: np.ndarray

    def better_than(self, ratio: float) -> tuple[np.ndarray, np.ndarray]:
        kept = self.ratio < ratio
        return self.source[kept], self.target[kept]


def matches(source: Features, target: Features) -> Matches:
    """Every source feature with its nearest target feature."""
    if len(source.points) < 2 or len(target.points) < 2:
        return Matches(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), np.zeros(0))
    nearest = cv2.BFMatcher(cv2.NORM_L2).knnMatch(source.descriptors, target.descriptors, k=2)
    index = np.array([(m.queryIdx, m.trainIdx) for m, _ in nearest])
    ratio = np.array([m.distance / max(second.distance, 1e-9) for m, second in nearest])
    return Matches(source.points[index[:, 0]], target.points[index[:, 1]], ratio)


def homography(source: np.ndarray, target: np.ndarray, *, published: bool) -> np.ndarray | None:
    """target_from_source [3, 3] with H[2, 2] = 1, or None.

    published: RANSAC at 5 px, more than 10 matches, as in DIFRINT's and the paper's evaluation code. Otherwise MAGSAC
    at 2 px, at least half of the matches agreeing or 40 of them.
    """
    if len(source) <= _FEWEST_MATCHES:
        return None
    if published:
        found, _ = cv2.findHomography(source, target, cv2.RANSAC, 5.0)
        return found
    found, inliers = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 2.0, maxIters=4000, confidence=0.999)
    if found is None or inliers is None or inliers.sum() < min(40, max(_FEWEST_MATCHES, 0.5 * len(source))):
        return None
    return found if _is_sane(found) else None


def _is_sane(H: np.ndarray) -> bool:
    scale = np.linalg.det(H[:2, :2])
    return bool(np.isfinite(H).all() and 0.05 < scale < 20 and abs(H[2, 0]) < 0.01 and abs(H[2, 1]) < 0.01)


def tracks(luma: np.ndarray, next_luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where up to 500 corners of the picture are in it and in the next, [n, 2] each; only what is found there and back."""
    corners = cv2.goodFeaturesToTrack(luma, 500, 0.003, max(luma.shape[1] / 50, 5.0))
    if corners is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.003)
    track: Any = cv2.calcOpticalFlowPyrLK
    there, found, _ = track(luma, next_luma, corners, None, winSize=(21, 21), maxLevel=4, criteria=until)
    back, returned, _ = track(next_luma, luma, there, None, winSize=(21, 21), maxLevel=4, criteria=until)
    kept = (found[:, 0] > 0) & (returned[:, 0] > 0) & (np.abs(back - corners).reshape(-1, 2).max(axis=1) < 0.5)
    return corners.reshape(-1, 2)[kept].astype(float) + 0.5, there.reshape(-1, 2)[kept].astype(float) + 0.5


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """target_from_source [2, 3] that most of the tracks [n, 2] share; None where nothing holds on.

    Refined by iteratively reweighted least squares (Geman-McClure, 1 px), so that moving objects and wrong tracks do
    not pull it.
    """
    if len(source) < 8:
        return None
    start, _ = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=3.0, maxIters=2000, refineIters=0)
    if start is None:
        return None
    middle = source.mean(axis=0)
    x, y = (source - middle).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    design = np.stack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)], axis=1)
    a, b = start[0, 0], start[1, 0]
    solution = np.array([a, b, *(start[:, :2] @ middle + start[:, 2])])
    for _ in range(12):
        residual = target - design @ solution
        weight = 1.0 / (1.0 + (residual**2).sum(axis=1)) ** 2
        weighted = design * weight[:, None, None]
        solution = np.linalg.solve(np.einsum("nki,nkj->ij", weighted, design) + 1e-9 * np.eye(4), np.einsum("nki,nk->i", weighted, target))
    linear = np.array([[solution[0], -solution[1]], [solution[1], solution[0]]])
    return np.hstack([linear, (solution[2:] - linear @ middle)[:, None]])


def blank(picture: np.ndarray, original_luma: np.ndarray | None = None, H: np.ndarray | None = None) -> np.ndarray:
    """[h, w] bool: black that reaches in from the picture's edge where something should be.

    original_luma lies under the picture by H (picture_from_original). Where the original is dark too, black is picture,
    not border; past its edge its last pixels are taken to go on, unless the black is as even as only a border is.
    Without an original every black border counts.
    """
    dark = (picture.max(axis=2) <= _BLANK_LEVEL).astype(np.uint8)
    if not dark.any():
        return dark > 0
    ringed = cv2.copyMakeBorder(dark, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels = cv2.connectedComponents(ringed, connectivity=4)
    border = (labels == labels[0, 0])[1:-1, 1:-1].astype(np.uint8)
    border = cv2.copyMakeBorder(border, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    border = cv2.morphologyEx(border, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))[2:-2, 2:-2] > 0
    if original_luma is None or H is None:
        return border
    height, width = dark.shape
    expected = laid_on(original_luma, H, width, height, cv2.INTER_LINEAR, edge=cv2.BORDER_REPLICATE)
    outside = laid_on(np.ones_like(original_luma), H, width, height, cv2.INTER_NEAREST) == 0
    return border & ((expected > _SHADOW_LEVEL) | (outside & (picture.max(axis=2) <= 2)))


def laid_on(
    picture: np.ndarray,
    target_from_source: np.ndarray,
    width: int,
    height: int,
    how: int,
    edge: int = cv2.BORDER_CONSTANT,
) -> np.ndarray:
    """`picture` warped by a homography between corner-origin pixels; 0 outside it, or as `edge` says."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    between_indices = np.linalg.inv(half) @ target_from_source @ half
    return cv2.warpPerspective(picture, between_indices, (width, height), flags=how, borderMode=edge)
