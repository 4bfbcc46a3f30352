# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment over a window of frames and the tracks that cross it: camera rotations, and where the model has
them translations or zooms, together with every track's direction and inverse depth.

Frames are [f], tracks [m]. A track is a direction (unit vector in the window's reference frame) and an inverse depth
per length of that vector: camera f sees  rotation[f] @ direction[m] + inverse_depth[m] * translation[f].
"""

from dataclasses import dataclass, replace

import numpy as np

ROTATION, ROTATION_ZOOM, ROTATION_TRANSLATION = "rotation", "rotation+zoom", "rotation+translation"

_GOOD_SHARE_LOST = 0.06

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


def adjusted(
    window: Window,
    sightings: Sightings,
    model: str,
    iterations: int,
    scale_px: float = 1.0,
    first_scale_px: float = 3.0,
    hold: str = "",
) -> tuple[Window, np.ndarray]:
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
    scales = np.maximum(
        first_scale_px * (scale_px / first_scale_px) ** (np.arange(iterations) / max(iterations - 2, 1)), scale_px
    )
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
    return window, np.sqrt(_squared(sightings.xy - pixels))


def begun(window: Window, sightings: Sightings, is_quick: bool = False) -> tuple[Window, np.ndarray]:
    """The window with translations and depths found from nothing, as `adjusted` returns it.

    The right answer lies among wrong ones: relief turned inside out, a long window's far motion or a short one's little
    motion mistaken. So (unless is_quick) ways to begin are tried until one explains nearly everything, and the best is
    taken: growing from a third of the window, all at once with a strict and with a lenient loss, and the best turned
    inside out.
    """
    best = _grown(window, sightings)
    for begin in () if is_quick else (_at_once_strictly, _at_once_leniently, _inside_out):
        if _share_lost(best[1], sightings) < _GOOD_SHARE_LOST:
            break
        other = begin(window, best[0], sightings)
        best = min(best, other, key=lambda found: _share_lost(found[1], sightings))
    return best


def _at_once_strictly(window: Window, best: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    return adjusted(window, sightings, ROTATION_TRANSLATION, 14, first_scale_px=2.0)


def _at_once_leniently(window: Window, best: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    return adjusted(window, sightings, ROTATION_TRANSLATION, 14, first_scale_px=16.0)


def _inside_out(window: Window, best: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    usual = float(np.median(best.inverse_depth))
    turned = np.maximum(2 * usual - best.inverse_depth, 0.1 * usual)
    mirrored = replace(best, translation=2 * best.translation[:1] - best.translation, inverse_depth=turned)
    return adjusted(mirrored, sightings, ROTATION_TRANSLATION, 12, first_scale_px=4.0)


def _share_lost(error: np.ndarray, sightings: Sightings) -> float:
    """Share of the sightings that a Geman-McClure loss of one pixel gives up."""
    return float((sightings.seen * (1.0 - 1.0 / (1.0 + error**2))).sum() / max(sightings.seen.sum(), 1e-9))


def _grown(window: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    frames = len(window.rotation)
    known = int(window.is_fixed.sum())
    for share, steps in ((1 / 3, 8), (2 / 3, 6), (1.0, 6)):
        count = max(round(share * frames), min(frames, 4))
        if known >= 2:
            # On with the velocity so far, in the axes of each camera.
            centre = -np.matmul(window.rotation[:known].transpose(0, 2, 1), window.translation[:known, :, None])[..., 0]
            velocity = (centre[-1] - centre[max(known - 6, 0)]) / (known - 1 - max(known - 6, 0))
            ahead = centre[-1] + np.arange(1, count - known + 1)[:, None] * velocity
            translation = window.translation.copy()
            translation[known:count] = -np.matmul(window.rotation[known:count], ahead[..., None])[..., 0]
            window = replace(window, translation=translation)
        part = replace(
            window,
            rotation=window.rotation[:count],
            translation=window.translation[:count],
            focal_px=window.focal_px[:count],
            is_fixed=window.is_fixed[:count],
        )
        seen = Sightings(sightings.xy[:count], sightings.seen[:count])
        part, error = adjusted(part, seen, ROTATION_TRANSLATION, steps, first_scale_px=4.0)
        # The cameras still to come keep their turns relative to the last one found.
        turn = np.matmul(window.rotation[count:], window.rotation[count - 1].T)
        window = replace(
            window,
            rotation=np.concatenate([part.rotation, np.matmul(turn, part.rotation[-1])]),
            translation=np.concatenate([part.translation, window.translation[count:]]),
            direction=part.direction,
            inverse_depth=part.inverse_depth,
        )
        known = count
    return window, error


def _projected(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels [f, m, 2], points in the camera [3, f, m], turned directions [3, f, m])."""
    turned = _turned(window, window.direction)
    point = turned + window.translation.T[:, :, None] * window.inverse_depth
    np.maximum(point[2], 0.02, out=point[2])
    pixels = np.stack([point[0] / point[2], point[1] / point[2]], axis=-1) * window.focal_px[:, None, None]
    return pixels, point, turned


def _turned(window: Window, vectors: np.ndarray) -> np.ndarray:
    """[3, f, m] reference vectors [m, 3] in every camera's axes."""
    return (window.rotation.transpose(1, 0, 2).reshape(-1, 3) @ vectors.T).reshape(
        3, len(window.rotation), len(vectors)
    )


def _cost(window: Window, sightings: Sightings, pixels: np.ndarray, prior_depth: np.ndarray, scale: float) -> float:
    squared = _squared(sightings.xy - pixels)
    robust = sightings.seen * (squared / (1.0 + squared / scale**2))
    held = window.depth_weight * ((window.inverse_depth - prior_depth) / np.maximum(prior_depth, 1e-3)) ** 2
    return float(robust.sum() + held.sum())


def _squared(error: np.ndarray) -> np.ndarray:
    return error[..., 0] ** 2 + error[..., 1] ** 2


def _step(
    window: Window,
    sightings: Sightings,
    pixels: np.ndarray,
    point: np.ndarray,
    turned: np.ndarray,
    prior_depth: np.ndarray,
    scale: float,
    columns: list[int],
    has_depth: bool,
    damping: float,
    hold: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(camera step [f, c], point step [m, 2 or 3]) of one damped Gauss-Newton step.

    Arrays run [x or y, parameter, frame, track]; the normal equations' rows run parameter first, then frame or track.
    """
    frames, tracks = sightings.seen.shape
    error = sightings.xy - pixels
    root = np.sqrt(sightings.seen) / (1.0 + _squared(error) / scale**2)
    left = np.stack([error[..., 0] * root, error[..., 1] * root])
    x, y = point[0] / point[2], point[1] / point[2]
    lens = root * window.focal_px[:, None] / point[2]

    # The projection's derivative is lens * [1, 0, -x] and lens * [0, 1, -y], applied to each parameter's motion.
    first, second = _tangents(window.direction)
    motions = [_turned(window, first), _turned(window, second)]
    if has_depth:
        motions.append(np.broadcast_to(window.translation.T[:, :, None], (3, frames, tracks)))
    p, c = len(motions), len(columns)
    place = np.empty((2, p, frames, tracks))
    for k, motion in enumerate(motions):
        place[0, k], place[1, k] = lens * (motion[0] - x * motion[2]), lens * (motion[1] - y * motion[2])
    camera = np.zeros((2, c, frames, tracks))
    if hold != "cameras":
        tx, ty, tz = turned
        rho = lens * window.inverse_depth
        parts: dict[int, tuple[np.ndarray | float, np.ndarray | float]] = {
            0: (-lens * x * ty, -lens * (tz + y * ty)),
            1: (lens * (tz + x * tx), lens * y * tx),
            2: (-lens * ty, lens * tx),
            3: (rho, 0.0),
            4: (0.0, rho),
            5: (-rho * x, -rho * y),
            6: (root * pixels[..., 0], root * pixels[..., 1]),
        }
        for k, column in enumerate(columns):
            camera[0, k], camera[1, k] = parts[column]
        camera[:, :, window.is_fixed] = 0.0

    v = np.empty((p, p, tracks))
    for i in range(p):
        for j in range(i + 1):
            v[i, j] = v[j, i] = np.einsum("xfm,xfm->m", place[:, i], place[:, j])
    place_right = np.einsum("xpfm,xfm->pm", place, left)
    if has_depth:
        held = window.depth_weight / np.maximum(prior_depth, 1e-3) ** 2
        v[2, 2] += held
        place_right[2] += held * (prior_depth - window.inverse_depth)
    at = np.arange(p)
    v[at, at] = v[at, at] * (1.0 + damping) + 1e-6
    v_inverse = np.linalg.inv(v.transpose(2, 0, 1)).transpose(1, 2, 0)
    if hold == "cameras":
        return np.zeros((frames, c)), np.einsum("pqm,qm->mp", v_inverse, place_right)

    rows = camera.transpose(2, 1, 0, 3).reshape(frames, c, 2 * tracks)
    u = np.matmul(rows, rows.transpose(0, 2, 1))
    camera_right = np.matmul(rows, left.transpose(1, 0, 2).reshape(frames, 2 * tracks, 1))[..., 0]
    at = np.arange(c)
    u[:, at, at] = u[:, at, at] * (1.0 + damping) + 1e-6
    if hold == "points":
        return np.linalg.solve(u, camera_right[..., None])[..., 0], np.zeros((tracks, p))

    w = np.empty((c, frames, p, tracks))
    for i in range(p):
        w[:, :, i] = camera[0] * place[0, i] + camera[1] * place[1, i]
    coupled = np.empty_like(w)
    for i in range(p):
        coupled[:, :, i] = sum(w[:, :, j] * v_inverse[j, i] for j in range(p))
    wide, tall = coupled.reshape(c * frames, p * tracks), w.reshape(c * frames, p * tracks)
    reduced = -(wide @ tall.T)
    own = np.arange(c * frames).reshape(c, frames).T
    reduced[own[:, :, None], own[:, None, :]] += u
    fixed = np.tile(window.is_fixed, c)
    reduced[fixed, fixed] = 1.0
    solution = np.linalg.solve(reduced, camera_right.T.ravel() - wide @ place_right.ravel())
    place_step = np.einsum("pqm,qm->mp", v_inverse, place_right - (tall.T @ solution).reshape(p, tracks))
    return solution.reshape(c, frames).T, place_step


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
        # A point may come near or go far, but not behind the camera, and not all in one step.
        low, high = 0.4 * inverse_depth, 2.5 * inverse_depth + 0.05
        inverse_depth = np.clip(inverse_depth + place_step[:, 2], low, high) / length
    return replace(
        window,
        rotation=rotation,
        translation=window.translation + full[:, 3:6],
        focal_px=window.focal_px * np.exp(np.clip(full[:, 6], -0.2, 0.2)),
        direction=direction / length[:, None],
        inverse_depth=inverse_depth,
    )


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
    """Two unit vectors [m, 3] across each unit direction, without a branch (Duff et al., JCGT 2017)."""
    x, y, z = direction.T
    sign = np.where(z < 0, -1.0, 1.0)
    a = -1.0 / (sign + z)
    b = x * y * a
    return (
        np.stack([1.0 + sign * x * x * a, sign * b, -sign * x], axis=1),
        np.stack([b, sign + y * y * a, -y], axis=1),
    )
