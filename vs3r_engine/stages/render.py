# SPDX-License-Identifier: Apache-2.0
"""Section 3.3, eq. 6-7: the hybrid reprojection of a frame onto its target camera, and the geometry renderers share."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vs3r_engine import native
from vs3r_engine.camera import Camera, inverse
from vs3r_engine.lens import bend_of, pixels_of_points, rays_of_pixels
from vs3r_engine.scene import Rendered, Target, View

NEGLIGIBLE_PX = 0.01
"""Displacements below this are not worth an iteration: a third of the 1/32 px step of the resampling that follows."""


class Surface(NamedTuple):
    """A view's depth as it is looked up: nearness [h, w], see `inverse_depth`; its mean; and how much of it there is between
    the nearest and the furthest."""

    nearness: np.ndarray
    mean: float
    range: float

    @classmethod
    def of(cls, view: View) -> "Surface":
        nearness = inverse_depth(view.depth)
        return cls(nearness, float(nearness.mean()), float(nearness.max() - nearness.min()))


_FLAT = Surface(np.ones((1, 1)), 1.0, 0.0)
"""Where depth is not looked at: between cameras in one place, none counts."""


class Renderer(Protocol):
    """Renders the point set of eq. 6 from a target camera, at the frame's own size, layout and bit depth."""

    def render(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        """The current frame wherever it covers the picture; static points of the neighbours where it does not; dynamic
        points of the current frame alone; holes marked. With target camera = current camera and equal residuals, the
        current frame comes back untouched and without holes."""
        ...


def is_identity(target: Target, view: View) -> bool:
    """Whether the target sees exactly what the view's own camera saw."""
    a, b = target.camera, view.camera
    if a is not b and not (
        np.array_equal(a.K, b.K)
        and np.array_equal(a.world_from_camera, b.world_from_camera)
        and (a.width, a.height, a.lens) == (b.width, b.height, b.lens)
    ):
        return False
    if target.residual_px is view.residual_px:
        return True
    if target.residual_px is None or view.residual_px is None:
        given = view.residual_px if target.residual_px is None else target.residual_px
        return not np.any(given)
    return np.array_equal(target.residual_px, view.residual_px)


def source_positions(target: Target, view: View, pixels: np.ndarray, surface: Surface | None = None) -> np.ndarray:
    """Where in a view's picture the target's pixels are found.

    Args:
        pixels: [..., 2] corner-origin (x, y) in the target's picture, outside of it too.
        surface: the view's own, from callers that ask again and again.

    Returns:
        [..., 2] float64 corner-origin positions in the view's picture, possibly outside of it; NaN where the ray
        points away from the view's camera. The surface is the view's own depth, held constant beyond its border.

    Source: eq. 7 turned round (target to source), plus how far the residual path moved the picture there.
    """
    camera, source = target.camera, view.camera
    distance = math.dist(camera.world_from_camera[:3, 3], source.world_from_camera[:3, 3])
    nearness, usual, between = (surface or Surface.of(view)) if distance else _FLAT
    iterations = 3 if source.K[0, 0] * distance * between > NEGLIGIBLE_PX else 0
    change_px = residual_change(target.residual_px, view.residual_px)
    bends = bend_of(camera.lens), bend_of(source.lens)
    if native.is_available and bends[0] is not None and bends[1] is not None:
        cameras = camera.K, camera.world_from_camera, source.K, source.world_from_camera
        return native.source_positions(
            pixels, cameras, (bends[0], bends[1]), (source.width, source.height), nearness, usual, iterations, change_px
        )
    source_from_target = inverse(source.world_from_camera) @ camera.world_from_camera
    offset = source_from_target[:3, 3]
    directions = rays_of_pixels(pixels, camera.K, camera.lens) @ source_from_target[:3, :3].T
    seen = pixels_of_points(displaced(directions, offset, usual), source.K, source.lens)
    per_pixel = np.array([nearness.shape[1] / source.width, nearness.shape[0] / source.height])
    for _ in range(iterations):
        # The depth that counts is that of where the ray lands, which depends on it.
        landed = bilinear(nearness, seen * per_pixel - 0.5)
        seen = pixels_of_points(displaced(directions, offset, landed), source.K, source.lens)
    return seen if change_px is None else seen + residual_at(change_px, seen, source)


def displaced(directions: np.ndarray, offset: np.ndarray, nearness: np.ndarray | float) -> np.ndarray:
    """[..., 3]: `directions` [..., 3] from a point `offset` away, bent to the same points seen from the origin, where
    the surface met has inverse z-depth `nearness`. What lies beside or behind is taken to be far away."""
    per_length = np.maximum(directions[..., 2], 0) * nearness / np.maximum(1 - offset[..., 2] * nearness, 0.05)
    return directions + offset * per_length[..., None]


def residual_change(target_residual_px: np.ndarray | None, view_residual_px: np.ndarray | None) -> np.ndarray | None:
    """What the residual path adds from the target to the view, per vertex; None, which means zero, where neither has one. Residual paths
    belong to places of the picture and grow without bound in a long walk: only their difference at one place is a
    displacement."""
    if target_residual_px is None:
        return view_residual_px
    return -target_residual_px if view_residual_px is None else view_residual_px - target_residual_px


def residual_at(residual_px: np.ndarray, pixels: np.ndarray, camera: Camera) -> np.ndarray:
    """[..., 2]: a corner-to-corner vertex grid of displacements at pixels, held constant outside the picture."""
    rows, columns = residual_px.shape[:2]
    # x + iy, so that one pass over the pixels interpolates both.
    plane = np.ascontiguousarray(residual_px, np.float64).view(np.complex128)[..., 0]
    found = bilinear(plane, pixels * ((columns - 1) / camera.width, (rows - 1) / camera.height))
    return found[..., None].view(np.float64)


def bilinear(samples: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[...]: samples [rows, columns] (real or complex) between their integer indices, read at (x, y) indices [..., 2].

    Held constant outside; NaN reads the first. In full precision: cv2.remap rounds positions to 1/32 of a sample,
    which is many pixels of a coarse grid.
    """
    rows, columns = samples.shape
    flat = samples.ravel()
    x = np.fmin(np.fmax(at[..., 0], 0), columns - 1)
    y = np.fmin(np.fmax(at[..., 1], 0), rows - 1)
    left = np.minimum(x.astype(np.int32), max(columns - 2, 0))
    top = np.minimum(y.astype(np.int32), max(rows - 2, 0))
    x -= left
    y -= top
    corner = top * columns + left
    step_x, step_y = (1 if columns > 1 else 0), (columns if rows > 1 else 0)
    upper = flat.take(corner)
    upper += (flat.take(corner + step_x) - upper) * x
    lower = flat.take(corner + step_y)
    lower += (flat.take(corner + (step_y + step_x)) - lower) * x
    lower -= upper
    lower *= y
    upper += lower
    return upper


def inverse_depth(depth: np.ndarray) -> np.ndarray:
    """[h, w] float64 1 / depth; unknown (NaN) or impossible depth is the median of the rest, 1 if all is unknown."""
    known = np.isfinite(depth) & (depth > 0)
    if known.all():
        return 1.0 / depth.astype(np.float64)
    nearness = np.full(depth.shape, 1.0)
    if known.any():
        nearness[known] = 1.0 / depth[known]
        nearness[~known] = np.median(nearness[known])
    return nearness
