# SPDX-License-Identifier: Apache-2.0
"""Extrapolation: a smooth continuation of a picture into what nothing has ever shown, by averaging down until every
place is known and interpolating back up (push-pull)."""

import cv2
import numpy as np


def extrapolated(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[h, w, planes] float32: the picture where it is known, and beyond a blend of its surroundings that grows smoother
    with distance. known: [h, w] float32 in [0, 1]; where nothing is known at all, mid-grey 128."""
    weighted, weight = picture * known[..., None], known
    levels = []
    while True:
        levels.append((weighted, weight))
        if min(weight.shape) <= 2 or float(weight.min()) > 0.25:
            break
        weighted, weight = cv2.pyrDown(weighted), cv2.pyrDown(weight)
        weighted = weighted.reshape(*weight.shape, -1)
    total = float(weight.sum())
    mean = weighted.sum(axis=(0, 1)) / total if total > 0 else np.full(picture.shape[2], 128.0, np.float32)
    filled = np.broadcast_to(mean, weighted.shape)
    for weighted, weight in reversed(levels):
        height, width = weight.shape
        coarse = cv2.resize(np.ascontiguousarray(filled, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        coarse = coarse.reshape(height, width, -1)
        # Known in a quarter is known: a border continues itself before it fades into what lies further away.
        share = np.minimum(weight * 4, 1)[..., None]
        filled = share * (weighted / np.maximum(weight, 1e-6)[..., None] - coarse) + coarse
    return filled
