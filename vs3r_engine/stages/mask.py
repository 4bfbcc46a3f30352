# SPDX-License-Identifier: Apache-2.0
"""Section 3.3, eq. 4-5: what moves by itself. The union of what the network says and what the flow contradicts."""

from typing import Protocol

import cv2
import numpy as np

from vs3r_engine.camera import Camera, inverse, project, unproject
from vs3r_engine.frame import Frame


class FlowEstimator(Protocol):
    """Dense optical flow."""

    def flow(self, frame: Frame, next_frame: Frame) -> np.ndarray:
        """[h, w, 2] float32 displacement (x, y) in pixels of the given frames, from `frame` to `next_frame`."""
        ...


def pixel_centres(width: int, height: int) -> np.ndarray:
    """[h, w, 2] float64 corner-origin coordinates of every pixel's centre."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


def grid_at(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, c] float32: a corner-to-corner vertex grid [rows, columns, c] sampled bilinearly at pixel centres."""
    rows, columns = grid.shape[:2]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * ((columns - 1) / width)).astype(np.float32)
    y = ((np.arange(height, dtype=np.float32) + 0.5) * ((rows - 1) / height)).astype(np.float32)
    return cv2.remap(grid.astype(np.float32), np.tile(x, (height, 1)), np.tile(y[:, None], (1, width)), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


def rigid_flow(depth: np.ndarray, camera: Camera, next_camera: Camera) -> np.ndarray:
    """Flow every pixel would have if the whole scene stood still.

    Args:
        depth: [h, w] z-depth of this frame, scene units; NaN where unknown. The cameras are for this size.

    Returns:
        [h, w, 2] displacement in pixels towards the next frame; NaN where depth is NaN or the point falls behind the
        next camera.

    Source: eq. 4, with the perspective division the equation leaves implicit, and each frame's own K.
    """
    height, width = depth.shape
    pixels = pixel_centres(width, height)
    next_from_camera = inverse(next_camera.world_from_camera) @ camera.world_from_camera
    points = unproject(pixels, camera.K, depth.astype(np.float64)) @ next_from_camera[:3, :3].T + next_from_camera[:3, 3]
    return project(points, next_camera.K) - pixels


def flow_mask(optical_flow: np.ndarray, rigid: np.ndarray, threshold_px: float) -> np.ndarray:
    """[h, w] bool, True where observed and rigid flow disagree by more than tau; unknown rigid flow counts as agreeing.

    Source: eq. 5.
    """
    disagreement = np.linalg.norm(optical_flow - rigid, axis=-1)
    return np.nan_to_num(disagreement, nan=0.0) > threshold_px


def dynamic_mask(semantic_mask: np.ndarray | None, flow_says: np.ndarray) -> np.ndarray:
    """[h, w] bool: CM = M or FM, at the flow's size."""
    if semantic_mask is None:
        return flow_says
    if semantic_mask.shape != flow_says.shape:
        semantic_mask = cv2.resize(semantic_mask.astype(np.uint8), flow_says.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return semantic_mask | flow_says
