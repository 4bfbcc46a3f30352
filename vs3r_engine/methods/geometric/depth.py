# SPDX-License-Identifier: Apache-2.0
"""The depth of a shot as a small map that moves with the camera: smooth in the picture, steady in time, pulled towards
what the tracks of known depth say."""

import cv2
import numpy as np

from vs3r_engine.methods.geometric.bend import straight

DEPTH_ROWS, DEPTH_COLUMNS = 36, 64

_MEMORY = 0.9
"""Share of what was learnt that is left a frame later: tracks come and go, the map must not flicker with them."""
_BLURS_CELLS = (9.0, 3.0, 1.0)
_TRUST_IN_COARSER = (0.003, 0.02, 0.08)
"""Tracks a cell (of full agreement) as which the next coarser blur counts."""
_QUICKENING = 0.1
"""How much faster a frame a map without relief gets to what is learnt: relief that comes at once is a jolt."""
_FLATTENING = 0.04
"""Share by which the map loses its relief a frame, where no parallax is seen: what was near may have moved on, and a relief that
stays behind bends the lines that come to lie there."""


class DepthMap:
    """Inverse z-depth [rows, columns] of the latest node, and how well it is known."""

    def __init__(self, size: np.ndarray) -> None:
        """size: width and height of the pictures in analysed pixels."""
        self._size = np.asarray(size, np.float64)
        self.inverse = np.ones((DEPTH_ROWS, DEPTH_COLUMNS))
        self._pace = 1.0
        """Share of the way to what is known now that the map goes in a frame."""
        self._sum = np.zeros((2, DEPTH_ROWS, DEPTH_COLUMNS))
        """Inverse depth times weight, and weight, of the tracks seen in each cell, of late."""
        y, x = np.meshgrid(
            (np.arange(DEPTH_ROWS) + 0.5) / DEPTH_ROWS - 0.5,
            (np.arange(DEPTH_COLUMNS) + 0.5) / DEPTH_COLUMNS - 0.5,
            indexing="ij",
        )
        self._centres = np.stack([x.ravel(), y.ravel(), np.ones(x.size)]) * [[self._size[0]], [self._size[1]], [1.0]]

    def at(self, points: np.ndarray) -> np.ndarray:
        """[m] inverse depth at centred points [m, 2], constant beyond the border."""
        return _sampled(self.inverse, points, self._size)

    def carry(self, to_from: np.ndarray, offset: np.ndarray, focal_from: float, focal_to: float) -> None:
        """Moves the map along with the camera: a point p of the earlier one is at to_from @ p + offset now."""
        rays_to_before = to_from.T / [focal_to, focal_to, 1.0]
        x, y, z = rays_to_before @ self._centres - np.outer(to_from.T @ offset, self.inverse)
        nearness = focal_from / np.maximum(z, 1e-3)
        before = np.stack([x * nearness, y * nearness], axis=1)
        carried = _sampled(np.dstack([self.inverse, *self._sum]), before, self._size).T
        self.inverse = carried[0].reshape(self.inverse.shape)
        is_inside = (np.abs(before) < 0.5 * self._size).all(axis=1)
        self._sum = (carried[1:] * is_inside).reshape(self._sum.shape)

    def learn(self, points: np.ndarray, inverse_depth: np.ndarray, agreement: np.ndarray) -> None:
        """Adds tracks of known depth [m] at centred points [m, 2]."""
        at = (points / self._size + 0.5) * [DEPTH_COLUMNS, DEPTH_ROWS] - 0.5
        low = np.floor(at).astype(np.int64)
        across, down = (at - low).T
        columns, rows = (np.clip([part, part + 1], 0, n - 1) for part, n in zip(low.T, (DEPTH_COLUMNS, DEPTH_ROWS), strict=True))
        cells = (rows[:, None] * DEPTH_COLUMNS + columns).ravel()
        weight = np.stack([1 - down, down])[:, None] * np.stack([1 - across, across]) * agreement
        self._sum *= _MEMORY
        for total, part in zip(self._sum, (weight * inverse_depth, weight), strict=True):
            total += np.bincount(cells, part.ravel(), total.size).reshape(total.shape)
        if self._sum[1].sum() < 1.0:
            return
        filled = np.full_like(self.inverse, self._sum[0].sum() / self._sum[1].sum())
        known = self._sum.transpose(1, 2, 0).astype(np.float32)
        for blur, trust in zip(_BLURS_CELLS, _TRUST_IN_COARSER, strict=True):
            side = 2 * round(2.5 * blur) + 1
            near = cv2.GaussianBlur(known, (side, side), blur, borderType=cv2.BORDER_CONSTANT)
            filled = (near[..., 0] + trust * filled) / (near[..., 1] + trust)
        self._pace = min(self._pace + _QUICKENING, 1.0)
        self.inverse += self._pace * (filled - self.inverse)

    @property
    def confidence(self) -> np.ndarray:
        """[rows, columns] in [0, 1): how much is known about each cell."""
        weight = cv2.GaussianBlur(self._sum[1], (0, 0), 1.5, borderType=cv2.BORDER_CONSTANT)
        return weight / (weight + 0.1)

    def bent(self, bend: float) -> tuple[np.ndarray, np.ndarray]:
        """(z-depth, confidence) [rows, columns] on the clip's own picture, which its lens has bent (see `straight`)."""
        if not bend:
            return 1.0 / self.inverse, self.confidence
        inverse, confidence = _sampled(np.dstack([self.inverse, self.confidence]), straight(self._centres[:2].T, bend), self._size).T
        return 1.0 / inverse.reshape(self.inverse.shape), confidence.reshape(self.inverse.shape)

    def flatten(self) -> None:
        """Forgets a little relief: nothing was learnt this time."""
        self._pace = 0.0
        self._sum *= _MEMORY
        self.inverse += _FLATTENING * (np.median(self.inverse) - self.inverse)


def _sampled(grid: np.ndarray, points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[m] or [m, c] a map of cell centres, sampled bilinearly at centred points."""
    rows, columns = grid.shape[:2]
    at = ((points / size + 0.5) * [columns, rows] - 0.5).astype(np.float32)
    return cv2.remap(grid.astype(np.float32), at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(
        np.float64
    )
