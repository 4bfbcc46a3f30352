# SPDX-License-Identifier: Apache-2.0
"""Metrics that need the truth, which only synthetic clips have: of path, picture and mask."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vs3r_engine.camera import Trajectory
from vs3r_engine.errors import EngineFault
from vs3r_engine.evaluation.metrics import psnr


@dataclass(frozen=True, slots=True)
class PathError:
    """How far an estimated path is from the true one after the best similarity between their worlds.

    rotation_deg: RMS angle. position: RMS distance of camera centres in true scene units; position_share: the same as a
    share of the true path's extent, None for a camera that stays where it is. focal_percent: RMS error of K.
    relative_rotation_deg: RMS error of the rotation from each frame to the next, which no alignment flatters.
    """

    rotation_deg: float
    relative_rotation_deg: float
    position: float
    position_share: float | None
    focal_percent: float


def path_error(estimate: Trajectory, truth: Trajectory) -> PathError:
    """Both paths over the same frames, of pictures of any size. Raises: EngineFault `path-length`."""
    if len(estimate) != len(truth):
        raise EngineFault("path-length", f"The estimate has {len(estimate)} frames, the truth {len(truth)}.")
    ours, true = (
        Rotation.from_matrix(estimate.world_from_camera[:, :3, :3]),
        Rotation.from_matrix(truth.world_from_camera[:, :3, :3]),
    )
    truth_from_estimate = (true * ours.inv()).mean()
    angle = (truth_from_estimate * ours * true.inv()).magnitude()
    step = (ours[:-1].inv() * ours[1:]) * (true[:-1].inv() * true[1:]).inv() if len(estimate) > 1 else Rotation.identity(1)

    here, there = truth_from_estimate.apply(estimate.world_from_camera[:, :3, 3]), truth.world_from_camera[:, :3, 3]
    here, there = here - here.mean(axis=0), there - there.mean(axis=0)
    spread = (here**2).sum()
    scale = (here * there).sum() / spread if spread > 1e-18 else 0.0
    position = float(np.sqrt(((scale * here - there) ** 2).sum(axis=1).mean()))
    extent = float(np.sqrt((there**2).sum(axis=1).mean()))
    focal = estimate.K[:, 0, 0] / estimate.width / (truth.K[:, 0, 0] / truth.width)
    return PathError(
        float(np.degrees(np.sqrt((angle**2).mean()))),
        float(np.degrees(np.sqrt((step.magnitude() ** 2).mean()))),
        position,
        position / extent if extent > 1e-9 else None,
        float(100 * np.sqrt(((focal - 1) ** 2).mean())),
    )


def point_jitter_px(pixels: np.ndarray) -> float:
    """RMS acceleration, pixels per frame^2, of points [n frames, points, 2] in a clip; NaN where a point is not seen.

    0 for points that stand still or move steadily: what a perfect stabilizer makes of the standing scene.
    """
    acceleration = (np.diff(pixels, 2, axis=0) ** 2).sum(axis=-1)
    return float(np.sqrt(np.nanmean(acceleration)))


def psnr_to_truth(picture: np.ndarray, truth: np.ndarray, within: np.ndarray | None = None) -> float | None:
    """dB between a stabilized frame and the true stable picture, both [h, w, 3] float in 0..1."""
    everywhere = np.ones(truth.shape[:2], bool) if within is None else within
    return psnr(255.0 * picture, 255.0 * truth, everywhere)


def mask_iou(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks [..., h, w]; 1 where both are empty."""
    union = (estimate | truth).sum()
    return float((estimate & truth).sum() / union) if union else 1.0
