# SPDX-License-Identifier: Apache-2.0
"""Any Reconstructor behind a lens profile: it sees straight pictures, the rest of the engine sees the clip's own
lens."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.errors import InputError
from vs3r_engine.frame import Frame
from vs3r_engine.lens import pixels_of_points, rays_of_pixels, read_profile
from vs3r_engine.methods.planes import read_planes
from vs3r_engine.scene import Reconstruction
from vs3r_engine.settings import Settings
from vs3r_engine.stages.mask import pixel_centres
from vs3r_engine.stages.reconstruct import Reconstructor

WIDEST_HALF_ANGLE_RAD = math.radians(60)
"""A straight picture of a wider lens would stretch its border more than four times."""
_SAME_SHAPE = 0.01
"""Log ratio of a clip's and its profile's aspect ratios that rounding explains."""


class RectifiedReconstructor:
    """Reconstructor around another one, for clips with a lens profile (AnalysisSettings.input_lens).

    The inner one gets the frames as a perspective lens would have taken them, at the same size. Its trajectory comes
    out with the clip's lens; depth, confidence and masks come out on the clip's own picture. Where the straight picture
    does not reach, depth goes on as at its border with a confidence of 0, and nothing moves.
    """

    def __init__(self, settings: Settings, inner: Callable[[Settings], Reconstructor]) -> None:
        """inner: makes the other reconstructor, from settings that tell the straight pictures' focal length.

        Raises: InputError `bad-lens-profile`.
        """
        self._K, self._lens, self._width, self._height = read_profile(settings.analysis.input_lens)
        self._focal_share = self._covering_focal_share()
        focal_mm = 36.0 * self._focal_share * self._width / max(self._width, self._height)
        self._inner = inner(settings.with_values({"analysis.focal_mm": focal_mm, "analysis.input_lens": "perspective"}))

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """See `Reconstructor.reconstruct`. Raises: InputError `bad-lens-profile` where the profile is for pictures of another shape."""
        straight_from_own: np.ndarray | None = None

        def straight() -> Iterator[Frame]:
            nonlocal straight_from_own
            for frame in frames:
                if straight_from_own is None:
                    self._refuse_other_shape(frame.width, frame.height)
                    straight_from_own = self._own_positions(frame.width, frame.height)
                yield replace(frame, planes=read_planes(frame, straight_from_own))

        for piece in self._inner.reconstruct(straight(), rate):
            yield self._own(piece)

    def _covering_focal_share(self) -> float:
        """Focal length over width at which the straight picture reaches the middle of every side of the clip's own one,
        or its limit."""
        shares = []
        for edge, half in (((0.0, self._height / 2), self._width / 2), ((self._width / 2, 0.0), self._height / 2)):
            ray = rays_of_pixels(np.array(edge), self._K, self._lens)
            angle = float(np.arccos(ray[2] / np.linalg.norm(ray))) if np.isfinite(ray).all() else math.pi
            shares.append(half / math.tan(min(angle, WIDEST_HALF_ANGLE_RAD)))
        return min(shares) / self._width

    def _refuse_other_shape(self, width: int, height: int) -> None:
        if abs(math.log(width * self._height / (height * self._width))) > _SAME_SHAPE:
            raise InputError(
                "bad-lens-profile",
                f"The lens profile is for pictures of {self._width} x {self._height}, and the clip's are {width} x {height}.",
                "Choose the profile of the camera's mode with the clip's shape.",
            )

    def _own_K(self, width: int, height: int) -> np.ndarray:
        return self._K * np.array([[width / self._width], [height / self._height], [1]])

    def _straight_K(self, width: int, height: int) -> np.ndarray:
        focal = self._focal_share * width
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def _own_positions(self, width: int, height: int) -> np.ndarray:
        """[h, w, 2] where the clip's own picture shows what belongs at each pixel of the straight one."""
        rays = rays_of_pixels(pixel_centres(width, height), self._straight_K(width, height), None)
        return pixels_of_points(rays, self._own_K(width, height), self._lens).astype(np.float32)

    def _own(self, piece: Reconstruction) -> Reconstruction:
        path = piece.trajectory
        own_K, straight_K = self._own_K(path.width, path.height), self._straight_K(path.width, path.height)
        rows, columns = piece.depth.shape[1:]
        step = np.array([path.width / columns, path.height / rows])
        rays = rays_of_pixels(pixel_centres(columns, rows) * step, own_K, self._lens)
        at = pixels_of_points(rays, straight_K, None) / step - 0.5
        x, y = (np.ascontiguousarray(np.nan_to_num(at[..., i], nan=-1e6), np.float32) for i in (0, 1))

        def moved(pictures: np.ndarray, border: int) -> np.ndarray:
            return np.stack([cv2.remap(picture, x, y, cv2.INTER_NEAREST, borderMode=border) for picture in pictures])

        mask = piece.semantic_mask
        if mask is not None:
            sized = np.stack([cv2.resize(m.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST) for m in mask])
            mask = moved(sized, cv2.BORDER_CONSTANT) > 0
        residual = (
            None if path.residual_px is None else np.stack([self._own_residual(r, path, own_K, straight_K) for r in path.residual_px])
        )
        trajectory = replace(path, K=np.tile(own_K, (len(path), 1, 1)), residual_px=residual, lenses=(self._lens,) * len(path))
        depth = np.where(np.isfinite(rays[..., 0]), moved(piece.depth.astype(np.float32), cv2.BORDER_REPLICATE), np.float32(math.nan))
        return replace(
            piece,
            trajectory=trajectory,
            depth=depth,
            confidence=moved(piece.confidence.astype(np.float32), cv2.BORDER_CONSTANT),
            semantic_mask=mask,
        )

    def _own_residual(self, residual_px: np.ndarray, path: Trajectory, own_K: np.ndarray, straight_K: np.ndarray) -> np.ndarray:
        """The residual grid's displacements, in the clip's own picture."""
        rows, columns = residual_px.shape[:2]
        vertices = np.stack(np.meshgrid(np.linspace(0, path.width, columns), np.linspace(0, path.height, rows)), -1)
        straight = pixels_of_points(rays_of_pixels(vertices, own_K, self._lens), straight_K, None)
        x, y = (
            (np.nan_to_num(straight[..., i]) * (count - 1) / side).astype(np.float32)
            for i, (count, side) in enumerate(((columns, path.width), (rows, path.height)))
        )
        shift = cv2.remap(residual_px.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        moved = pixels_of_points(rays_of_pixels(straight + shift, straight_K, None), own_K, self._lens)
        return np.where(np.isfinite(moved), moved - vertices, 0).astype(np.float32)
