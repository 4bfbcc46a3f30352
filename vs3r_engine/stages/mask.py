# SPDX-License-Identifier: Apache-2.0
"""Section 3.3, eq. 4-5: what moves by itself. The union of what the network says and what the flow contradicts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from vs3r_engine.camera import Camera, inverse, points_of_pixels
from vs3r_engine.frame import Frame
from vs3r_engine.lens import pixels_of_points
from vs3r_engine.scene import Moving, Reconstruction
from vs3r_engine.settings import AnalysisSettings

STEP_FRAMES = 2
LEAST_ADVANTAGE_LEVELS = 3.0
"""8-bit luma levels; coding noise moves the difference of two errors by about one."""


OWN_MOTION_COLUMNS = 48
"""How finely own motion is kept: what moves is larger than a 48th of the picture, or matters little."""


class FlowEstimator(Protocol):
    """Dense optical flow."""

    def prepared(self, frame: Frame) -> Frame:
        """What of a frame the flow is found on: smaller, perhaps without colour. Kept while a window is being understood."""
        ...

    def flow(self, frame: Frame, next_frame: Frame) -> np.ndarray:
        """[h, w, 2] float32 displacement (x, y) in pixels of the given prepared frames, from `frame` to `next_frame`."""
        ...


def pixel_centres(width: int, height: int) -> np.ndarray:
    """[h, w, 2] float64 corner-origin coordinates of every pixel's centre."""
    centres = np.empty((height, width, 2))
    centres[..., 0], centres[..., 1] = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    return centres


def grid_at(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, c] float32: a corner-to-corner vertex grid [rows, columns, c] sampled bilinearly at pixel centres."""
    rows, columns = grid.shape[:2]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * ((columns - 1) / width)).astype(np.float32)
    y = ((np.arange(height, dtype=np.float32) + 0.5) * ((rows - 1) / height)).astype(np.float32)
    return cv2.remap(
        grid.astype(np.float32), np.tile(x, (height, 1)), np.tile(y[:, None], (1, width)), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


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
    points = points_of_pixels(pixels, camera, depth.astype(np.float64)) @ next_from_camera[:3, :3].T + next_from_camera[:3, 3]
    return pixels_of_points(points, next_camera.K, next_camera.lens) - pixels


def flow_mask(optical_flow: np.ndarray, rigid: np.ndarray, threshold_px: float) -> np.ndarray:
    """[h, w] bool, True where observed and rigid flow disagree by more than tau; where either is unknown they agree.

    Source: eq. 5.
    """
    difference = optical_flow - rigid
    difference *= difference
    return difference[..., 0] + difference[..., 1] > threshold_px**2


def dynamic_mask(semantic_mask: np.ndarray | None, flow_says: np.ndarray) -> np.ndarray:
    """[h, w] bool: CM = M or FM, at the flow's size."""
    if semantic_mask is None:
        return flow_says
    if semantic_mask.shape != flow_says.shape:
        semantic_mask = cv2.resize(semantic_mask.astype(np.uint8), flow_says.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return semantic_mask | flow_says


def moving_of(piece: Reconstruction, frames: Sequence[Frame], flow: FlowEstimator, settings: AnalysisSettings) -> Moving:
    """The dynamic masks of a reconstructed piece, at the size of the prepared `frames` given, and how fast what they mark moves.

    Each frame is compared with the one STEP_FRAMES on (eq. 4-5 over two frames, so that slow walkers are seen), with `published`
    the next one; the last ones of a piece with the one as far back, which sees the same motion backwards. A piece of one frame has
    no flow mask.
    """
    n, height, width = len(frames), frames[0].height, frames[0].width
    semantic, masks = piece.semantic_mask, np.zeros((n, height, width), bool)
    if settings.mask == "semantic" or n == 1:
        return Moving(masks if semantic is None else np.stack([dynamic_mask(*both) for both in zip(semantic, masks, strict=True)]), None)
    columns = min(width, OWN_MOTION_COLUMNS)
    own_motion = np.zeros((n, max(1, round(height * columns / width)), columns), np.float32)
    threshold_px = settings.flow_threshold_px or threshold_of_sensitivity(settings.moving_sensitivity, width)
    is_published = settings.mask == "published"
    step = 1 if is_published else min(STEP_FRAMES, n - 1)
    for i in range(n):
        j = i + step if i + step < n else i - step if i >= step else n - 1
        predicted, observed = predicted_flow(piece, i, j, width, height), flow.flow(frames[i], frames[j])
        says_moving = flow_mask(observed, predicted, threshold_px)
        if not is_published and says_moving.any():
            says_moving = cleaned(says_moving & explains_better(observed, predicted, frames[i], frames[j]))
        masks[i] = dynamic_mask(None if semantic is None else semantic[i], says_moving)
        if masks[i].any():
            own_motion[i] = mean_lengths(observed - predicted, masks[i], own_motion[i].shape) / (width * abs(j - i))
    return Moving(masks, own_motion)


def mean_lengths(vectors: np.ndarray, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[rows, columns] float32 of this shape: the mean length of vectors [h, w, 2] where the mask is True, 0 in cells where it is nowhere.
    Unknown ones (NaN) count as far: as the picture's width."""
    here = mask.astype(np.float32)
    lengths = cv2.magnitude(*cv2.split(vectors.astype(np.float32, copy=False)))
    cv2.patchNaNs(lengths, float(mask.shape[1]))
    total, share = (cv2.resize(terms, shape[::-1], interpolation=cv2.INTER_AREA) for terms in (lengths * here, here))
    return np.asarray(total / np.maximum(share, 1e-6), np.float32)


def explains_better(observed: np.ndarray, predicted: np.ndarray, frame: Frame, later: Frame) -> np.ndarray:
    """[h, w] bool: the observed flow finds the pixel in the later frame, and the prediction of a still scene does not.

    Flow invents motion in plain sky and spills over the outline of what moves; the picture there agrees with both. On exact crowd
    clips this takes the overlap of mask and truth (IoU) from 0.45 to 0.70.
    """
    (as_still, still_at), (as_observed, _) = (found_differences(frame, later, motion) for motion in (predicted, observed))
    # What would leave the picture cannot be missed in it.
    as_still = cv2.bitwise_and(as_still, cv2.inRange(still_at, (0.0, 0.0), (frame.width - 1.0, frame.height - 1.0)))
    return advantage_levels(as_still, as_observed) > LEAST_ADVANTAGE_LEVELS


def found_differences(frame: Frame, later: Frame, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] uint8 8-bit luma levels between each pixel and where `motion` [h, w, 2] (px; NaN: unknown) finds it in the later frame;
    [h, w, 2] float32 that place, as column and row, -1 where it is unknown."""
    at = _pixel_indices(frame.width, frame.height) + motion
    cv2.patchNaNs(at, -1.0)
    found = cv2.remap(later.luma8(), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return cv2.absdiff(frame.luma8(), found), at


def advantage_levels(differences: np.ndarray, smaller_differences: np.ndarray) -> np.ndarray:
    """[h, w] float32: by how many levels the second differences are smaller than the first, meaned over 3 x 3 pixels."""
    return cv2.boxFilter(cv2.subtract(differences, smaller_differences, dtype=cv2.CV_32F), -1, (3, 3))


@lru_cache(maxsize=4)
def _pixel_indices(width: int, height: int) -> np.ndarray:
    """[h, w, 2] float32 column and row of every pixel."""
    return (pixel_centres(width, height) - 0.5).astype(np.float32)


def threshold_of_sensitivity(sensitivity: float, width: int) -> float:
    """tau of eq. 5 in pixels: 0.2 % of the picture's width at 50 %, doubling every 25 % less."""
    return width * 0.002 * 2 ** ((50.0 - sensitivity) / 25.0)


def predicted_flow(piece: Reconstruction, i: int, j: int, width: int, height: int) -> np.ndarray:
    """[h, w, 2] motion (px at this size) of static points from frame i to frame j of the piece: eq. 4 and the change of the
    residual path. Computed at the depth's size where that is smaller: it is as smooth as the depth is."""
    path, depth = piece.trajectory, piece.depth[i]
    rows, columns = min(height, depth.shape[0]), min(width, depth.shape[1])
    if depth.shape != (rows, columns):
        depth = cv2.resize(depth, (columns, rows), interpolation=cv2.INTER_NEAREST)
    cameras = [path.camera(path.first_frame + k).resized(columns, rows) for k in (i, j)]
    predicted = rigid_flow(depth, *cameras).astype(np.float32)
    if path.residual_px is not None:
        change = (path.residual_px[j] - path.residual_px[i]) * np.array([columns / path.width, rows / path.height], np.float32)
        predicted += grid_at(change, columns, rows)
    predicted *= np.array([width / columns, height / rows], np.float32)
    if (columns, rows) != (width, height):
        predicted = np.asarray(cv2.resize(predicted, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return predicted


def cleaned(mask: np.ndarray) -> np.ndarray:
    """Gaps closed, specks and lines removed, a margin added: moving things are areas, flow errors are dots and edges."""
    width = mask.shape[1]
    sizes = max(3, width // 85 | 1), max(3, width // 64 | 1)
    small, thin = (cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)) for size in sizes)
    area = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, small, iterations=2)
    area = cv2.morphologyEx(area, cv2.MORPH_OPEN, thin)
    return cv2.dilate(area, small) > 0
