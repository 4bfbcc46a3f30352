# SPDX-License-Identifier: Apache-2.0
"""Cameras: intrinsics, pose, lens, and the path they take. OpenCV axes (x right, y down, z forward); pixels have their
origin in the picture's corner, the first pixel's centre is (0.5, 0.5), so resizing a picture by s is exactly K[:2] *= s."""

from dataclasses import dataclass, replace

import numpy as np

from vs3r_engine.errors import EngineFault
from vs3r_engine.lens import Lens, output_lens, rays_of_pixels


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """One camera at one moment.

    K: [3, 3], for a picture of exactly width x height pixels. world_from_camera: [4, 4], rotation det +1, scene units.
    lens: None = perspective; else the model between rays and the plane that K maps to pixels (see lens.py).
    """

    K: np.ndarray
    width: int
    height: int
    world_from_camera: np.ndarray
    lens: Lens | None = None

    def resized(self, width: int, height: int) -> "Camera":
        K = self.K.copy()
        K[0] *= width / self.width
        K[1] *= height / self.height
        return replace(self, K=K, width=width, height=height)


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The path of a camera over the consecutive frames first_frame .. first_frame + len - 1.

    K: [n, 3, 3] float64 for width x height pictures. world_from_camera: [n, 4, 4] float64.
    residual_px: [n, rows, columns, 2] float32 or None: the path of the picture itself that K and world_from_camera do
    not explain (parallax without depth, rolling shutter, lens errors), as an (x, y) displacement in pixels at a grid of
    vertices that spans the picture from corner to corner: the sum, up to each frame, of the unexplained motion seen at
    that place. It grows without bound in a long walk; only differences between two frames at one place mean anything.
    lenses: [n] each frame's (see Camera), or empty where all are perspective: shots of one clip may be from different cameras.
    """

    first_frame: int
    width: int
    height: int
    K: np.ndarray
    world_from_camera: np.ndarray
    residual_px: np.ndarray | None = None
    lenses: tuple[Lens | None, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.K)
        if self.K.shape != (n, 3, 3) or self.world_from_camera.shape != (n, 4, 4):
            raise EngineFault("trajectory-shape", f"K is {self.K.shape}, world_from_camera is {self.world_from_camera.shape}.")
        if len(self.lenses) not in (0, n):
            raise EngineFault("trajectory-shape", f"There are {len(self.lenses)} lenses for {n} frames.")
        if self.residual_px is not None and (self.residual_px.ndim != 4 or len(self.residual_px) != n):
            raise EngineFault("trajectory-shape", f"residual_px is {self.residual_px.shape} for {n} frames.")

    def __len__(self) -> int:
        return len(self.K)

    def camera(self, frame_index: int) -> Camera:
        i = frame_index - self.first_frame
        return Camera(self.K[i], self.width, self.height, self.world_from_camera[i], self.lens(frame_index))

    def lens(self, frame_index: int) -> Lens | None:
        """One frame's lens."""
        return self.lenses[frame_index - self.first_frame] if self.lenses else None

    def residual(self, frame_index: int) -> np.ndarray | None:
        """[rows, columns, 2] at one frame, or None."""
        return None if self.residual_px is None else self.residual_px[frame_index - self.first_frame]

    def sliced(self, start: int, end_exclusive: int) -> "Trajectory":
        a, b = start - self.first_frame, end_exclusive - self.first_frame
        if not 0 <= a < b <= len(self):
            raise EngineFault("trajectory-slice", f"Frames {start}..{end_exclusive} of a path of {len(self)} from {self.first_frame}.")
        residual = None if self.residual_px is None else self.residual_px[a:b]
        poses = self.K[a:b], self.world_from_camera[a:b]
        return Trajectory(start, self.width, self.height, *poses, residual, self.lenses[a:b])


def output_camera(camera: Camera, name: str) -> Camera:
    """The camera with the output lens `name` (see FrameSettings.lens) in place of its own; as-shot leaves it as it is."""
    if name == "as-shot":
        return camera
    K, lens = output_lens(name, camera.K, camera.width, camera.height)
    return replace(camera, K=K, lens=lens)


def inverse(target_from_source: np.ndarray) -> np.ndarray:
    """source_from_target of rigid [..., 4, 4] transforms."""
    source_from_target = np.zeros_like(target_from_source)
    rotation = np.swapaxes(target_from_source[..., :3, :3], -1, -2)
    source_from_target[..., :3, :3] = rotation
    source_from_target[..., :3, 3] = -(rotation @ target_from_source[..., :3, 3, None])[..., 0]
    source_from_target[..., 3, 3] = 1.0
    return source_from_target


def points_of_pixels(pixels_xy: np.ndarray, camera: Camera, depth: np.ndarray | float) -> np.ndarray:
    """Points [..., 3] in camera space at z-depth `depth` (scene units) seen at corner-origin pixels [..., 2].

    NaN where no ray of the camera's lens leads to a pixel, or only one at right angles to the axis or beyond.
    """
    rays = rays_of_pixels(pixels_xy, camera.K, camera.lens)
    if camera.lens is not None:
        with np.errstate(invalid="ignore"):
            rays = rays / np.where(rays[..., 2:] > 0.02, rays[..., 2:], np.nan)
    return rays * np.broadcast_to(depth, rays.shape[:-1])[..., None]
