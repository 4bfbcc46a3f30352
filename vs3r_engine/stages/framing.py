# SPDX-License-Identifier: Apache-2.0
"""What the smoothed camera sees of each measured frame, and the zoom that keeps the unseen out of the picture."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.lens import Lens
from vs3r_engine.scene import PictureBounds
from vs3r_engine.settings import FrameSettings
from vs3r_engine.timeline import FrameRange

_LEAST_AHEAD = 1e-6
_GRID = 20
"""Cells per side whose centres stand for the picture when coverage is judged; no decision made of it is finer than 5 %."""
_KEPT_OFF_PX = 3
"""How close renderers read to lines without picture: a kernel's reach."""
_ROWS = 256
"""Frames looked at at once, so that a long shot takes no more memory than a byte a cell."""


def missing_share(measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None = None) -> np.ndarray:
    """[n] share of each output picture that its own source frame does not cover, in [0, 1]."""
    return _missing(measured, smoothed, plane_depth).mean(axis=1)


def unseen_share(measured: Trajectory, smoothed: Trajectory, offsets: Sequence[int], plane_depth: np.ndarray | None = None) -> np.ndarray:
    """[n] share of each output picture that neither its own source frame covers nor any of those `offsets` frames away."""
    frame, cell = np.nonzero(_missing(measured, smoothed, plane_depth))
    points = np.concatenate([_cell_centres(measured)[cell], np.ones((len(cell), 1))], axis=1)
    world_from_pixel = smoothed.world_from_camera[:, :3, :3] @ np.linalg.inv(smoothed.K)
    pixel_from_world = measured.K @ np.swapaxes(measured.world_from_camera[:, :3, :3], 1, 2)
    rays_world = np.einsum("kij,kj->ki", world_from_pixel[frame], points)
    for offset in offsets:
        there = frame + offset
        is_left = np.ones(len(frame), bool)
        asked = np.flatnonzero((there >= 0) & (there < len(measured)))
        here, there = frame[asked], there[asked]
        towards = rays_world[asked]
        if plane_depth is not None:
            step = smoothed.world_from_camera[here, :3, 3] - measured.world_from_camera[there, :3, 3]
            towards = towards + step / plane_depth[here, None]
        x, y, z = np.einsum("kij,kj->ik", pixel_from_world[there], towards)
        is_left[asked] = (z <= 1e-6) | (x < 0) | (y < 0) | (x > measured.width * z) | (y > measured.height * z)
        frame, rays_world = frame[is_left], rays_world[is_left]
    return np.bincount(frame, minlength=len(measured)) / _GRID**2


def framed(
    measured: Trajectory,
    smoothed: Trajectory,
    shots: Sequence[FrameRange],
    rate: Fraction,
    settings: FrameSettings,
    plane_depth: np.ndarray | None = None,
    bounds: PictureBounds = PictureBounds(),
) -> Trajectory:
    """`smoothed` with its focal lengths raised so that, up to the zoom limit, no output pixel between the clip's bars is unseen
    (framing "crop"); other framings come back as they are. Static: one zoom a shot; dynamic: a slowly varying one."""
    if settings.framing != "crop":
        return smoothed
    zoom = np.ones(len(smoothed))
    for shot in shots:
        part = slice(shot.start - measured.first_frame, shot.end_exclusive - measured.first_frame)
        depth = None if plane_depth is None else plane_depth[part]
        args = measured.sliced(shot.start, shot.end_exclusive), smoothed.sliced(shot.start, shot.end_exclusive)
        needed = _needed_zoom(*args, depth, settings.zoom_limit / 100.0, bounds)
        if settings.zoom == "static":
            zoom[part] = needed.max()
        else:
            hold_frames = float(rate)
            zoom[part] = np.maximum(softened(held(needed, round(3 * hold_frames)), hold_frames), needed)
    return zoomed(smoothed, zoom)


def held(values: np.ndarray, reach_frames: int) -> np.ndarray:
    """[n] at every frame the largest value of the frames up to reach_frames away."""
    padded = np.pad(values, reach_frames, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach_frames + 1).max(axis=1)


def softened(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    """[n] through a Gaussian that reaches 4 sigma to either side; the ends go on as they are."""
    radius = max(1, round(4 * sigma_frames))
    weight = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_frames) ** 2)
    return np.convolve(np.pad(values, radius, mode="edge"), weight / weight.sum(), mode="valid")


def zoomed(path: Trajectory, zoom: np.ndarray) -> Trajectory:
    """The same path through lenses `zoom` times as long; zoom: [n]."""
    K = path.K.copy()
    K[:, 0, 0] *= zoom
    K[:, 1, 1] *= zoom
    K[:, 0, 1] *= zoom
    return replace(path, K=K)


def moved_px(measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None = None) -> np.ndarray:
    """[n] how far at most each output picture moves a place of its source frame."""
    moved = np.empty(len(measured))
    pixels = _cell_centres(measured)
    for rows, there, here, depth in _in_rows(measured, smoothed, plane_depth):
        source, is_ahead = _source(there, here, depth, pixels)
        moved[rows] = np.where(is_ahead, np.linalg.norm(source - pixels, axis=-1), np.inf).max(axis=1)
    return moved


def _missing(measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None) -> np.ndarray:
    """[n, cells] bool: what of each output picture its own source frame does not cover."""
    missing = np.empty((len(measured), _GRID**2), bool)
    for rows, there, here, depth in _in_rows(measured, smoothed, plane_depth):
        missing[rows] = _excess(there, here, depth, _cell_centres(measured)) > 0
    return missing


def _in_rows(
    measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None
) -> Iterator[tuple[slice, Trajectory, Trajectory, np.ndarray | None]]:
    """(which frames, both paths there, the depth there) for _ROWS frames at a time."""
    for first in range(0, len(measured), _ROWS):
        rows, start = slice(first, first + _ROWS), measured.first_frame + first
        end = min(start + _ROWS, measured.first_frame + len(measured))
        yield rows, measured.sliced(start, end), smoothed.sliced(start, end), None if plane_depth is None else plane_depth[rows]


def _cell_centres(path: Trajectory) -> np.ndarray:
    """[cells, 2] the pixels that stand for the picture."""
    cells = (np.arange(_GRID) + 0.5) / _GRID
    return np.stack(np.meshgrid(cells * path.width, cells * path.height), axis=-1).reshape(-1, 2)


def _needed_zoom(
    measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None, limit: float, bounds: PictureBounds
) -> np.ndarray:
    """[n] smallest zoom in [1, limit] at which the whole border of the output, or of what its bars leave, is seen, by bisection."""
    left, top, right, bottom = bounds.bars_px
    across, down = np.linspace(left + 0.5, measured.width - right - 0.5, 33), np.linspace(top + 0.5, measured.height - bottom - 0.5, 33)
    border = np.concatenate(
        [
            np.stack(np.broadcast_arrays(x, y), axis=-1)
            for x, y in ((across, down[0]), (across, down[-1]), (across[0], down), (across[-1], down))
        ]
    )
    low, high = np.ones(len(measured)), np.full(len(measured), limit)
    is_seen_at_one = (_excess(measured, smoothed, plane_depth, border, bounds) <= 0).all(axis=1)
    for _ in range(14):
        middle = (low + high) / 2
        is_seen = (_excess(measured, zoomed(smoothed, middle), plane_depth, border, bounds) <= 0).all(axis=1)
        low, high = np.where(is_seen, low, middle), np.where(is_seen, middle, high)
    return np.where(is_seen_at_one, 1.0, high)


def _excess(
    measured: Trajectory,
    smoothed: Trajectory,
    plane_depth: np.ndarray | None,
    pixels: np.ndarray,
    bounds: PictureBounds = PictureBounds(),
) -> np.ndarray:
    """[n, m] how far (px) output pixels' sources lie outside the measured frame's picture; at most 0 inside."""
    source, is_ahead = _source(measured, smoothed, plane_depth, pixels)
    left, top, right, bottom = (inset + _KEPT_OFF_PX if inset else 0 for inset in bounds.inset_px)
    # Half a pixel is the reach of a pixel's own area: sampling its centre on the border is still inside.
    outside = np.maximum((left, top) - source, source - (measured.width - right, measured.height - bottom)).max(axis=-1)
    return np.where(is_ahead, outside, np.inf)


def _source(
    measured: Trajectory, smoothed: Trajectory, plane_depth: np.ndarray | None, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """([n, m, 2] where in the measured frames output pixels [m, 2] are found, [n, m] bool whether before the camera at all)."""
    n = len(measured)
    points = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    rays = np.matmul(points, np.swapaxes(np.linalg.inv(smoothed.K), 1, 2))
    for lens, here in _by_lens(smoothed):
        found = lens.rays_of_plane(rays[here, :, :2])
        rays[here] = found / np.where(found[..., 2:] > _LEAST_AHEAD, found[..., 2:], np.nan)
    source_from_world = np.swapaxes(measured.world_from_camera[:, :3, :3], 1, 2)
    seen = np.matmul(rays, np.swapaxes(source_from_world @ smoothed.world_from_camera[:, :3, :3], 1, 2))
    if plane_depth is not None:
        step = smoothed.world_from_camera[:, :3, 3] - measured.world_from_camera[:, :3, 3]
        seen += np.matmul(source_from_world, (step / plane_depth[:, None])[..., None])[:, None, :, 0]
    is_ahead = seen[..., 2] > _LEAST_AHEAD
    plane = seen[..., :2] / np.where(is_ahead, seen[..., 2], 1.0)[..., None]
    for lens, here in _by_lens(measured):
        plane[here] = lens.plane_of_rays(seen[here])
    is_ahead &= np.isfinite(plane).all(axis=-1)
    source = np.matmul(plane, np.swapaxes(measured.K[:, :2, :2], 1, 2)) + measured.K[:, None, :2, 2]
    if measured.residual_px is not None and smoothed.residual_px is not None:
        source = source + _residual_at(measured.residual_px - smoothed.residual_px, pixels, measured.width, measured.height).reshape(
            n, -1, 2
        )
    return source, is_ahead


def _by_lens(path: Trajectory) -> Iterator[tuple[Lens, np.ndarray]]:
    """Every lens of a path that is not perspective, and which of its frames have it."""
    for lens in {lens for lens in path.lenses if lens is not None}:
        yield lens, np.flatnonzero([other == lens for other in path.lenses])


def _residual_at(residual_px: np.ndarray, pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """[n, m, 2] vertex grids [n, rows, columns, 2] sampled bilinearly at pixels [m, 2]."""
    rows, columns = residual_px.shape[1:3]
    x = np.clip(pixels[:, 0] * ((columns - 1) / width), 0, columns - 1)
    y = np.clip(pixels[:, 1] * ((rows - 1) / height), 0, rows - 1)
    x0, y0 = np.minimum(x.astype(int), max(columns - 2, 0)), np.minimum(y.astype(int), max(rows - 2, 0))
    x1, y1 = np.minimum(x0 + 1, columns - 1), np.minimum(y0 + 1, rows - 1)
    fx, fy = (x - x0)[None, :, None], (y - y0)[None, :, None]
    top = residual_px[:, y0, x0] * (1 - fx) + residual_px[:, y0, x1] * fx
    bottom = residual_px[:, y1, x0] * (1 - fx) + residual_px[:, y1, x1] * fx
    return top * (1 - fy) + bottom * fy
