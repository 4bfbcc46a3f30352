# SPDX-License-Identifier: Apache-2.0
"""How much the lens bends straight lines, in the division model of one parameter (Fitzgibbon 2001): where a straight lens would show a
point at s from the centre, the clip shows it at p, and s = p / (1 + bend |p|^2). Barrels have bend < 0."""

import numpy as np


def straight(xy: np.ndarray, bend: float) -> np.ndarray:
    """[m, 2] where a straight lens shows what the clip shows at centred points [m, 2]."""
    return xy / (1 + bend * (xy**2).sum(axis=-1, keepdims=True)) if bend else xy


def bent(xy: np.ndarray, bend: float) -> np.ndarray:
    """[m, 2] where the clip shows what a straight lens shows at centred points [m, 2]."""
    return xy * (2 / (1 + np.sqrt(np.maximum(1 - 4 * bend * (xy**2).sum(axis=-1, keepdims=True), 0)))) if bend else xy
