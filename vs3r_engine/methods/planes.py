# SPDX-License-Identifier: Apache-2.0
"""From one position per luma pixel to every plane of a frame: where its samples are read."""

import numpy as np

from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.warp import resampled


def read_planes(frame: Frame, at: np.ndarray) -> tuple[np.ndarray, ...]:
    """The frame's planes read once at luma positions [h, w, 2] (corner-origin); where a position is NaN, the border's
    values."""
    height, width = at.shape[:2]
    shapes = [frame.layout.plane_shape(i, width, height) for i in range(len(frame.planes))]
    return tuple(
        resampled(plane, plane_indices(at, frame.layout, i, shape), frame.layout)
        for i, (plane, shape) in enumerate(zip(frame.planes, shapes, strict=True))
    )


def plane_indices(at: np.ndarray, layout: PixelLayout, plane: int, shape: tuple[int, ...]) -> np.ndarray:
    """[rows, columns, 2] float32 (x, y) indices into a source plane, from luma positions [h, w, 2]; NaN becomes far
    outside."""
    factor_x, factor_y = (1 << shift for shift in layout.shifts(plane))
    sited = at[::factor_y, ::factor_x]
    if factor_y == 2:
        # A chroma row lies between two luma rows, whose positions may be on two surfaces.
        below = at[1::2, ::factor_x]
        between = (sited[: len(below)] + below) / 2
        apart = np.abs(sited[: len(below)] - below).max(axis=-1, keepdims=True) < 2
        sited = sited + np.array([0, 0.5], np.float32)
        sited[: len(below)] = np.where(apart, between, sited[: len(below)])
    indices = (sited[: shape[0], : shape[1]] - np.array([0.5, 0.5 * factor_y])) / np.array([factor_x, factor_y])
    return np.ascontiguousarray(np.nan_to_num(indices, nan=-1e6), np.float32)
