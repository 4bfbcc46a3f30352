# SPDX-License-Identifier: Apache-2.0
"""A wall far away that cameras look at from one place: what rotation shows, known exactly, at any layout and size."""

from collections.abc import Mapping

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from vs3r_engine.camera import Camera
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.lens import rays_of_pixels
from vs3r_engine.scene import Target, View

YUV420 = PixelLayout("yuv", 8, 1, 1)


def texture(width: int = 900, height: int = 600, seed: int = 3) -> np.ndarray:
    """[h, w, 3] float32 in [0.1, 0.9]: smooth noise at every scale with a few hard edges, three different channels."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 4, 12, 40):
        layer = cv2.GaussianBlur(rng.normal(size=(height, width, 3)).astype(np.float32), (0, 0), sigma)
        picture += layer / layer.std() * (0.5 + 0.1 * sigma**0.5)
    for _ in range(60):
        x, y = rng.integers(0, width), rng.integers(0, height)
        cv2.rectangle(
            picture, (int(x), int(y)), (int(x + rng.integers(10, 80)), int(y + rng.integers(10, 80))), rng.normal(size=3).tolist(), -1
        )
    return np.clip(0.5 + 0.12 * cv2.GaussianBlur(picture, (0, 0), 0.8), 0.1, 0.9)


def camera(yaw_deg: float = 0.0, pitch_deg: float = 0.0, roll_deg: float = 0.0, *, width: int = 320, height: int = 180) -> Camera:
    """A camera of normal focal length turned about its own place."""
    K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]])
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = Rotation.from_euler("YXZ", [yaw_deg, pitch_deg, roll_deg], degrees=True).as_matrix()
    return Camera(K, width, height, world_from_camera)


def seen(wall: np.ndarray, at: Camera, layout: PixelLayout = YUV420, frame_index: int = 0, gain: float = 1.0) -> Frame:
    """What a camera films, each sample where the layout sites it."""
    planes = []
    for i in range(layout.plane_count):
        rows, columns = layout.plane_shape(i, at.width, at.height)
        is_chroma = layout.model == "yuv" and i in (1, 2)
        step_x, step_y = (1 << layout.chroma_shift_x, 1 << layout.chroma_shift_y) if is_chroma else (1, 1)
        x, y = np.meshgrid(np.arange(columns) * step_x + 0.5, (np.arange(rows) + 0.5) * step_y)
        rays = rays_of_pixels(np.stack([x, y], -1), at.K, at.lens) @ at.world_from_camera[:3, :3].T
        scale = 0.9 * 320
        onto = rays[..., :2] / rays[..., 2:] * scale + (wall.shape[1] / 2, wall.shape[0] / 2) - 0.5
        values = cv2.remap(
            np.ascontiguousarray(wall[..., i % 3]), onto.astype(np.float32), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        if i == 0 or not is_chroma:
            values = values * gain
        code = values * layout.peak
        planes.append(code.astype(np.float32) if layout.bit_depth == 32 else np.clip(np.rint(code), 0, layout.peak).astype(layout.dtype))
    return Frame(frame_index, tuple(planes), layout)


def view(frame: Frame, at: Camera, dynamic_mask: np.ndarray | None = None) -> View:
    """The view of a frame of a still wall."""
    mask = np.zeros((45, 80), bool) if dynamic_mask is None else dynamic_mask
    return View(frame, at, None, np.full((18, 32), 5.0, np.float32), mask)


class Held:
    """Views of a dictionary."""

    def __init__(self, views: Mapping[int, View]) -> None:
        self.views = views

    def view(self, frame_index: int) -> View | None:
        return self.views.get(frame_index)


def shaken(
    count: int,
    *,
    amplitude_deg: float = 2.0,
    error_deg: float = 0.0,
    gain: float = 0.0,
    layout: PixelLayout = YUV420,
    width: int = 320,
    height: int = 180,
    seed: int = 0,
) -> tuple[dict[int, View], dict[int, Target], dict[int, Frame]]:
    """(views, targets, truths) of a hand-held shot before the wall, stabilized to a camera that stands still.

    error_deg: how wrong the measured cameras are; the truth is what is right beside the frame's own picture. gain: how
    much the exposure breathes.
    """
    rng = np.random.default_rng(seed)
    shake = gaussian_filter1d(rng.normal(size=(max(count, 30) + 40, 3)), 2.0, axis=0)[20:-20]
    shake = (shake - shake.mean(axis=0)) / shake.std(axis=0) * amplitude_deg * (1, 0.7, 0.3)
    error = gaussian_filter1d(rng.normal(size=(count, 3)), 1.0, axis=0) * error_deg
    wall, still = texture(), camera(width=width, height=height)
    views, targets, truths = {}, {}, {}
    for i in range(count):
        real, measured = (camera(*angles, width=width, height=height) for angles in (shake[i], shake[i] + error[i]))
        exposure = 1 + gain * np.sin(i / 5)
        views[i] = view(seen(wall, real, layout, i, exposure), measured)
        targets[i] = Target(i, still, None)
        world_from_truth = np.eye(4)
        world_from_truth[:3, :3] = real.world_from_camera[:3, :3] @ measured.world_from_camera[:3, :3].T @ still.world_from_camera[:3, :3]
        truth = Camera(still.K, width, height, world_from_truth)
        truths[i] = seen(wall, truth, layout, i, exposure)
    return views, targets, truths
