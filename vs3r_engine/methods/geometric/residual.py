# SPDX-License-Identifier: Apache-2.0
"""The motion of the picture that the camera model leaves over, as one smooth field a picture: bicubic splines with a
bending energy, fitted robustly to what tracks of static points still show.

A bending energy keeps the field locally affine, so straight lines stay straight; where there are no tracks the field
becomes the picture-wide affine fit.
"""

import cv2
import numpy as np

_CONTROL_COLUMNS, _CONTROL_ROWS = 10, 7
_BENDING = 0.02
"""Weight of the mean squared second difference of control points against one vote-average of squared pixels."""
_SHRINK = 3e-4


class SmoothField:
    """Fits smooth fields for pictures of one size; the vertices span the picture from corner to corner."""

    def __init__(self, size: np.ndarray, vertex_rows: int, vertex_columns: int) -> None:
        """size: width and height in analysed pixels."""
        self._size = np.asarray(size, np.float64)
        second = []
        for rows, columns, axis in ((_CONTROL_ROWS, _CONTROL_COLUMNS, 0), (_CONTROL_ROWS, _CONTROL_COLUMNS, 1)):
            index = np.arange(rows * columns).reshape(rows, columns)
            triple = [index[:-2], index[1:-1], index[2:]] if axis == 0 else [index[:, :-2], index[:, 1:-1], index[:, 2:]]
            difference = np.zeros((triple[0].size, index.size))
            line = np.arange(triple[0].size)
            for part, value in zip(triple, (1.0, -2.0, 1.0), strict=True):
                difference[line, part.ravel()] = value
            second.append(difference)
        index = np.arange(_CONTROL_ROWS * _CONTROL_COLUMNS).reshape(_CONTROL_ROWS, _CONTROL_COLUMNS)
        twist = np.zeros(((_CONTROL_ROWS - 1) * (_CONTROL_COLUMNS - 1), index.size))
        line = np.arange(len(twist))
        for part, value in (
            (index[:-1, :-1], 1.0),
            (index[1:, 1:], 1.0),
            (index[:-1, 1:], -1.0),
            (index[1:, :-1], -1.0),
        ):
            twist[line, part.ravel()] = value * np.sqrt(2.0)
        second.append(twist)
        bending = np.concatenate(second)
        self._penalty = _BENDING * bending.T @ bending + _SHRINK * np.eye(index.size)
        y, x = np.meshgrid(np.linspace(-0.5, 0.5, vertex_rows), np.linspace(-0.5, 0.5, vertex_columns), indexing="ij")
        vertices = np.stack([x.ravel(), y.ravel()], axis=1) * self._size
        self._vertex_basis = self._basis(vertices)
        self._vertex_affine = self._affine(vertices)
        self._shape = (vertex_rows, vertex_columns)

    def fit(self, points: np.ndarray, flow: np.ndarray, votes: np.ndarray, scale_px: float) -> np.ndarray:
        """[rows, columns, c] at the vertices, of values `flow` [m, c] seen at centred points [m, 2].

        votes: [m] >= 0, how much each track is taken to be static. scale_px: disagreement that quarters a vote.
        """
        votes = votes / max(float(votes.sum()), 1e-12)
        affine, basis = self._affine(points), self._basis(points)
        left = flow
        slope = np.zeros((3, flow.shape[1]))
        coefficients = np.zeros((basis.shape[1], flow.shape[1]))
        for factor in (2.0, 1.3, 1.0):
            share = votes / (1.0 + (left * left).sum(axis=1) / (factor * scale_px) ** 2) ** 2
            weighted = affine * share[:, None]
            slope = _solution(weighted.T @ affine + 1e-6 * np.eye(3), weighted.T @ flow)
            rest = flow - affine @ slope
            if factor < 2.0:
                root = np.sqrt(share)[:, None]
                weighted = basis * root
                coefficients = _solution(weighted.T @ weighted + self._penalty, weighted.T @ (rest * root))
                left = rest - basis @ coefficients
            else:
                left = rest
        return (self._vertex_affine @ slope + self._vertex_basis @ coefficients).reshape(*self._shape, -1)

    def _affine(self, points: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(points), 1)), points / self._size], axis=1)

    def _basis(self, points: np.ndarray) -> np.ndarray:
        """[m, control points] uniform cubic B-spline weights."""
        columns = _spline(points[:, 0] / self._size[0] + 0.5, _CONTROL_COLUMNS)
        rows = _spline(points[:, 1] / self._size[1] + 0.5, _CONTROL_ROWS)
        return (rows[:, :, None] * columns[:, None, :]).reshape(len(points), -1)


def _solution(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n, c] x of normal [n, n] @ x = right [n, c], for a positive definite matrix; OpenCV's takes half of numpy's time."""
    return cv2.solve(normal, right, flags=cv2.DECOMP_CHOLESKY)[1]


def _spline(position: np.ndarray, count: int) -> np.ndarray:
    """[m, count] weights of `count` control points at positions in [0, 1]; each row sums to 1."""
    at = np.clip(position, 0.0, 1.0) * (count - 3)
    first = np.minimum(at.astype(np.int64), count - 4)
    late = at - first
    early = 1.0 - late
    weights = np.zeros((len(at), count))
    line = np.arange(len(at))
    weights[line, first], weights[line, first + 3] = early * early * early / 6.0, late * late * late / 6.0
    weights[line, first + 1] = 2.0 / 3.0 - late * late * (1.0 - 0.5 * late)
    weights[line, first + 2] = 2.0 / 3.0 - early * early * (1.0 - 0.5 * early)
    return weights
