# SPDX-License-Identifier: Apache-2.0
"""Extrapolation: a smooth continuation of a picture into what nothing has ever shown, by averaging down until every
place is known and interpolating back up (push-pull)."""

import cv2
import numpy as np


def extrapolated(plane: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[h, w] float32: the plane where it is known, and beyond a blend of its surroundings that grows smoother with
    distance. known: [h, w] float32 in [0, 1]; where nothing is known at all, mid-grey 128."""
    weighted, weight = plane * known, known
    levels = []
    while True:
        levels.append((weighted, weight))
        if min(weight.shape) <= 2 or float(weight.min()) > 0.25:
            break
        weighted, weight = cv2.pyrDown(weighted), cv2.pyrDown(weight)
    total = float(weight.sum())
    filled = np.full(weight.shape, weighted.sum() / total if total > 0 else 128, np.float32)
    for weighted, weight in reversed(levels):
        coarse = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        # Known in a quarter is known: a border continues itself before it fades into what lies further away.
        filled = np.minimum(weight * 4, 1) * (weighted / np.maximum(weight, 1e-6) - coarse) + coarse
    return filled
