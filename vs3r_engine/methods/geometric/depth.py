# SPDX-License-Identifier: Apache-2.0
"""The depth of a shot as a small map that moves with the camera: smooth in the picture, steady in time, pulled towards
what the tracks of known depth say."""

import cv2
import numpy as np

from vs3r_engine.methods.geometric.motion import turned
from vs3r_engine.methods.geometric.residual import SmoothField

DEPTH_ROWS, DEPTH_COLUMNS = 36, 64

_RENEWAL = 0.12
"""Share of the map that one frame's tracks renew: tracks come and go, the map must not flicker with them."""
_FLATTENING = 0.01
"""Share by which the map loses its relief a frame, where no parallax is seen."""


class DepthMap:
    """Inverse z-depth [rows, columns] of the latest node, and how well it is known."""

    def __init__(self, width: float, height: float) -> None:
        """Of pictures of width x height analysed pixels."""
        self._size = np.array([width, height])
        self._field = SmoothField(width, height, DEPTH_ROWS, DEPTH_COLUMNS)
        self.inverse = np.ones((DEPTH_ROWS, DEPTH_COLUMNS))
        self.confidence = np.zeros((DEPTH_ROWS, DEPTH_COLUMNS))
        self._is_known = False
        y, x = np.meshgrid((np.arange(DEPTH_ROWS) + 0.5) / DEPTH_ROWS - 0.5, (np.arange(DEPTH_COLUMNS) + 0.5) / DEPTH_COLUMNS - 0.5, indexing="ij")
        self._centres = np.stack([x.ravel(), y.ravel()], axis=1) * self._size

    def at(self, points: np.ndarray) -> np.ndarray:
        """[m] inverse depth at centred points [m, 2], constant beyond the border."""
        return _sampled(self.inverse, points, self._size)

    def carry(self, to_from: np.ndarray, focal_from: float, focal_to: float) -> None:
        """Moves the map along with a camera that turned by to_from and zoomed."""
        before = turned(self._centres, focal_to, to_from.T) * (focal_from / focal_to)
        shape = self.inverse.shape
        self.inverse = _sampled(self.inverse, before, self._size).reshape(shape)
        self.confidence = _sampled(self.confidence, before, self._size).reshape(shape)

    def learn(self, points: np.ndarray, inverse_depth: np.ndarray, agreement: np.ndarray) -> None:
        """Pulls the map towards tracks of known depth [m] at centred points [m, 2]."""
        if len(points) < 12:
            return
        usual = float(np.median(inverse_depth))
        fitted = self._field.fit(points, (inverse_depth / usual)[:, None], agreement, 0.5)[..., 0]
        low, high = np.percentile(inverse_depth, [2, 98])
        fitted = np.clip(fitted * usual, 0.7 * low, 1.3 * high)
        renewal = _RENEWAL if self._is_known else 1.0
        self.inverse += renewal * (fitted - self.inverse)
        self.confidence += renewal * (0.7 - self.confidence)
        self._is_known = True

    def flatten(self) -> None:
        """Forgets a little relief: nothing was learnt this time."""
        self.inverse += _FLATTENING * (np.median(self.inverse) - self.inverse)
        self.confidence *= 1.0 - _FLATTENING


def _sampled(grid: np.ndarray, points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[m] a map of cell centres, sampled bilinearly at centred points."""
    rows, columns = grid.shape
    at = ((points / size + 0.5) * [columns, rows] - 0.5).astype(np.float32)
    return cv2.remap(grid.astype(np.float32), at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(np.float64)
