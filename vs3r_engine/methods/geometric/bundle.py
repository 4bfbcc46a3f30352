# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment over a window of frames and the tracks that cross it: camera rotations, and where the model has them
translations or zooms, together with every track's direction and inverse depth.

Frames are [f], tracks [m]. A track is a direction (unit vector in the window's reference frame) and an inverse depth per
length of that vector: camera f sees  rotation[f] @ direction[m] + inverse_depth[m] * translation[f].
"""

from dataclasses import dataclass, replace

import numpy as np

ROTATION, ROTATION_ZOOM, ROTATION_TRANSLATION = "rotation", "rotation+zoom", "rotation+translation"

_CAMERA_COLUMNS = {ROTATION: [0, 1, 2], ROTATION_ZOOM: [0, 1, 2, 6], ROTATION_TRANSLATION: [0, 1, 2, 3, 4, 5]}


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """What was seen: xy [f, m, 2] centred pixels, seen [f, m] weights >= 0 (0 = not seen)."""

    xy: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Cameras and points of a window, before or after adjustment.

    rotation: [f, 3, 3] camera from reference. translation: [f, 3] reference centre in the camera. focal_px: [f].
    direction: [m, 3]. inverse_depth: [m]. depth_weight: [m] how firmly inverse_depth is held (pixels squared per
    squared relative change). is_fixed: [f] cameras that an earlier window has settled.
    """

    rotation: np.ndarray
    translation: np.ndarray
    focal_px: np.ndarray
    direction: np.ndarray
    inverse_depth: np.ndarray
    depth_weight: np.ndarray
    is_fixed: np.ndarray


def predicted(window: Window) -> np.ndarray:
    """[f, m, 2] centred pixels where every camera sees every track."""
    return _projected(window)[0]


def adjusted(window: Window, sightings: Sightings, model: str, iterations: int, scale_px: float = 1.0,
             first_scale_px: float = 3.0, hold: str = "") -> tuple[Window, np.ndarray]:
    """The window after robust (Geman-McClure) Levenberg-Marquardt steps on the parameters of `model`, and the error
    [f, m] in pixels of every sighting (whatever its weight).

    The scale of the robust loss falls from first_scale_px to scale_px. Points are eliminated (Schur complement), so the
    cost is that of a few dense matrix products. hold: "points" moves cameras alone (each by itself), "cameras" points.
    """
    columns = _CAMERA_COLUMNS[model]
    has_depth = model == ROTATION_TRANSLATION
    if not has_depth:
        window = replace(window, inverse_depth=np.zeros_like(window.inverse_depth))
    prior_depth = window.inverse_depth
    damping = 1e-3
    scales = np.maximum(first_scale_px * (scale_px / first_scale_px) ** (np.arange(iterations) / max(iterations - 2, 1)), scale_px)
    pixels, point, turned = _projected(window)
    for scale in scales:
        cost = _cost(window, sightings, pixels, prior_depth, scale)
        step = _step(window, sightings, pixels, point, turned, prior_depth, scale, columns, has_depth, damping, hold)
        trial = _moved(window, step, columns, has_depth)
        trial_pixels, trial_point, trial_turned = _projected(trial)
        if _cost(trial, sightings, trial_pixels, prior_depth, scale) < cost:
            window, pixels, point, turned = trial, trial_pixels, trial_point, trial_turned
            damping = max(damping * 0.2, 1e-7)
        else:
            damping = min(damping * 20.0, 1e3)
    error = sightings.xy - pixels
    return window, np.sqrt(np.einsum("fmc,fmc->fm", error, error))


def _projected(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels [f, m, 2], points in the camera [3, f, m], turned directions [3, f, m])."""
    turned = np.matmul(window.rotation, window.direction.T).transpose(1, 0, 2)
    point = turned + window.translation.T[:, :, None] * window.inverse_depth
    depth = np.maximum(point[2], 0.02)
    pixels = np.stack([point[0] / depth, point[1] / depth], axis=-1) * window.focal_px[:, None, None]
    return pixels, np.stack([point[0], point[1], depth]), turned


def _cost(window: Window, sightings: Sightings, pixels: np.ndarray, prior_depth: np.ndarray, scale: float) -> float:
    error = sightings.xy - pixels
    squared = np.einsum("fmc,fmc->fm", error, error)
    robust = sightings.seen * (squared / (1.0 + squared / scale**2))
    held = window.depth_weight * ((window.inverse_depth - prior_depth) / np.maximum(prior_depth, 1e-3)) ** 2
    return float(robust.sum() + held.sum())


def _step(window: Window, sightings: Sightings, pixels: np.ndarray, point: np.ndarray, turned: np.ndarray,
          prior_depth: np.ndarray, scale: float, columns: list[int], has_depth: bool, damping: float, hold: str) -> tuple[np.ndarray, np.ndarray]:
    """(camera step [f, c], point step [m, 2 or 3]) of one damped Gauss-Newton step."""
    frames, tracks = sightings.seen.shape
    error = sightings.xy - pixels
    squared = np.einsum("fmc,fmc->fm", error, error)
    root = np.sqrt(sightings.seen) / (1.0 + squared / scale**2)
    x, y = point[0] / point[2], point[1] / point[2]
    lens = root * window.focal_px[:, None] / point[2]
    # Rows of the projection's derivative: lens * [1, 0, -x] and lens * [0, 1, -y], applied to each parameter's motion.
    tx, ty, tz = turned
    rho = lens * window.inverse_depth
    zero = np.zeros_like(x)
    all_x = [-lens * x * ty, lens * (tz + x * tx), -lens * ty, rho, zero, -rho * x, root * pixels[..., 0]]
    all_y = [-lens * (tz + y * ty), lens * y * tx, lens * tx, zero, rho, -rho * y, root * pixels[..., 1]]
    camera = np.stack([np.stack([all_x[c] for c in columns], axis=-1), np.stack([all_y[c] for c in columns], axis=-1)], axis=2)
    first, second = _tangents(window.direction)
    motions = [np.matmul(window.rotation, axis.T).transpose(1, 0, 2) for axis in (first, second)]
    if has_depth:
        motions.append(np.broadcast_to(window.translation.T[:, :, None], (3, frames, tracks)))
    place = np.stack([np.stack([lens * (m[0] - x * m[2]) for m in motions], axis=-1),
                      np.stack([lens * (m[1] - y * m[2]) for m in motions], axis=-1)], axis=2)
    camera[window.is_fixed] = 0.0
    left = error * root[..., None]

    c, p = len(columns), len(motions)
    rows = camera.reshape(frames, tracks * 2, c)
    u = np.matmul(rows.transpose(0, 2, 1), rows)
    camera_right = np.matmul(rows.transpose(0, 2, 1), left.reshape(frames, tracks * 2, 1))[..., 0]
    by_track = place.transpose(1, 0, 2, 3).reshape(tracks, frames * 2, p)
    v = np.matmul(by_track.transpose(0, 2, 1), by_track)
    place_right = np.matmul(by_track.transpose(0, 2, 1), left.transpose(1, 0, 2).reshape(tracks, frames * 2, 1))[..., 0]
    if has_depth:
        held = window.depth_weight / np.maximum(prior_depth, 1e-3) ** 2
        v[:, 2, 2] += held
        place_right[:, 2] += held * (prior_depth - window.inverse_depth)
    at = np.arange(p)
    v[:, at, at] = v[:, at, at] * (1.0 + damping) + 1e-6
    if hold == "cameras":
        return np.zeros((frames, c)), np.linalg.solve(v, place_right[..., None])[..., 0]
    if hold == "points":
        at = np.arange(c)
        u[:, at, at] = u[:, at, at] * (1.0 + damping) + 1e-6
        return np.linalg.solve(u, camera_right[..., None])[..., 0], np.zeros((tracks, p))
    w = np.matmul(camera.transpose(0, 1, 3, 2), place)
    v_inverse = np.linalg.inv(v)
    coupled = np.matmul(w, v_inverse)
    wide = coupled.transpose(0, 2, 1, 3).reshape(frames * c, tracks * p)
    tall = w.transpose(0, 2, 1, 3).reshape(frames * c, tracks * p)
    reduced = -(wide @ tall.T)
    at = np.arange(frames * c).reshape(frames, c)
    reduced[at[:, :, None], at[:, None, :]] += u
    diagonal = np.arange(frames * c)
    reduced[diagonal, diagonal] += damping * u[:, np.arange(c), np.arange(c)].ravel() + 1e-6
    right = camera_right.ravel() - wide @ place_right.ravel()
    fixed = np.repeat(window.is_fixed, c)
    reduced[fixed, fixed] = 1.0
    camera_step = np.linalg.solve(reduced, right).reshape(frames, c)
    place_step = np.matmul(v_inverse, (place_right - (tall.T @ camera_step.ravel()).reshape(tracks, p))[..., None])[..., 0]
    return camera_step, place_step


def _moved(window: Window, step: tuple[np.ndarray, np.ndarray], columns: list[int], has_depth: bool) -> Window:
    camera_step, place_step = step
    full = np.zeros((len(camera_step), 7))
    full[:, columns] = camera_step
    rotation = np.matmul(rotations_from_vectors(full[:, :3]), window.rotation)
    first, second = _tangents(window.direction)
    direction = window.direction + first * place_step[:, :1] + second * place_step[:, 1:2]
    length = np.linalg.norm(direction, axis=1)
    inverse_depth = window.inverse_depth
    if has_depth:
        # A point may come near or go to infinity, not behind the camera; and no step more than doubles a distance's change.
        low, high = 0.4 * inverse_depth, 2.5 * inverse_depth + 0.05
        inverse_depth = np.clip(inverse_depth + place_step[:, 2], low, high) / length
    return replace(window, rotation=rotation, translation=window.translation + full[:, 3:6],
                   focal_px=window.focal_px * np.exp(np.clip(full[:, 6], -0.2, 0.2)),
                   direction=direction / length[:, None], inverse_depth=inverse_depth)


def rotations_from_vectors(vectors: np.ndarray) -> np.ndarray:
    """[n, 3, 3] rotations by |vector| radians about vectors [n, 3]."""
    angle = np.linalg.norm(vectors, axis=1)
    safe = np.maximum(angle, 1e-12)
    cross = np.zeros((len(vectors), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -vectors[:, 2], vectors[:, 1], -vectors[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sine = np.where(angle < 1e-6, 1.0, np.sin(safe) / safe)
    cosine = np.where(angle < 1e-6, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + sine[:, None, None] * cross + cosine[:, None, None] * (cross @ cross)


def _tangents(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two [m, 3] unit vectors across each direction."""
    helper = np.where(np.abs(direction[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(direction, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first, np.cross(direction, first)
