# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment over a window of frames and the tracks that cross it: camera rotations, and where the model has
them translations or zooms, together with every track's direction and inverse depth.

Frames are [f], tracks [m]. A track is a direction (unit vector in the window's reference frame) and an inverse depth
per length of that vector: camera f sees  rotation[f] @ direction[m] + inverse_depth[m] * translation[f].
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
    prior = _Prior(window.inverse_depth, window.depth_weight / np.maximum(window.inverse_depth, 1e-3) ** 2)
    xy = np.ascontiguousarray(sightings.xy.transpose(0, 2, 1))
    damping = 1e-3
    scales = np.maximum(first_scale_px * (scale_px / first_scale_px) ** (np.arange(iterations) / max(iterations - 2, 1)), scale_px)
    view = _seen_by(window, xy)
    for scale in scales:
        cost = _cost(view, sightings.seen, prior, scale)
        tangents = _tangents(window.direction)
        step = _step(view, sightings.seen, prior, tangents, scale, columns, has_depth, damping, hold)
        trial = _seen_by(_moved(window, step, tangents, columns, has_depth), xy)
        if _cost(trial, sightings.seen, prior, scale) < cost:
            window, view = trial.window, trial
            damping = max(damping * 0.2, 1e-7)
        else:
            damping = min(damping * 20.0, 1e3)
    return window, np.sqrt(view.squared)


@dataclass(frozen=True, slots=True, eq=False)
class _Prior:
    """What is known of the points' depths: inverse_depth [m], and weight [m] of squared differences from it."""

    inverse_depth: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A window as its cameras see it: turned [f, 3, m] directions in the camera, plane [f, 2, m] and z [f, 1, m] of the
    points, error [f, 2, m] and its square [f, m] in pixels."""

    window: Window
    turned: np.ndarray
    plane: np.ndarray
    z: np.ndarray
    error: np.ndarray
    squared: np.ndarray


def _seen_by(window: Window, xy: np.ndarray) -> _View:
    """xy: [f, 2, m] where the points were seen."""
    turned = _turned(window, window.direction)
    point = turned + window.translation[:, :, None] * window.inverse_depth
    z = np.maximum(point[:, 2:], 0.02)
    plane = point[:, :2] / z
    error = xy - plane * window.focal_px[:, None, None]
    return _View(window, turned, plane, z, error, error[:, 0] ** 2 + error[:, 1] ** 2)


def _turned(window: Window, vectors: np.ndarray) -> np.ndarray:
    """[f, 3, m] reference vectors [m, 3] in every camera's axes."""
    return (window.rotation.reshape(-1, 3) @ vectors.T).reshape(len(window.rotation), 3, len(vectors))


def _cost(view: _View, seen: np.ndarray, prior: _Prior, scale: float) -> float:
    robust = view.squared / (1.0 + view.squared * scale**-2)
    strayed = view.window.inverse_depth - prior.inverse_depth
    return float(np.vdot(seen, robust) + np.vdot(prior.weight, strayed * strayed))


def _step(
    view: _View,
    seen: np.ndarray,
    prior: _Prior,
    tangents: np.ndarray,
    scale: float,
    columns: list[int],
    has_depth: bool,
    damping: float,
    hold: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(camera step [f, c], point step [m, 2 or 3]) of one damped Gauss-Newton step.

    Derivatives run [frame, parameter, x or y, track].
    """
    frames, tracks = seen.shape
    root = (np.sqrt(seen) / (1.0 + view.squared * scale**-2))[:, None]
    left = view.error * root
    lens = root * view.window.focal_px[:, None, None] / view.z
    c, p = len(columns), 3 if has_depth else 2
    if hold != "cameras":
        camera = _camera_derivatives(view, lens, root, columns)
        camera_right = np.matmul(camera.reshape(frames, c, -1), left.reshape(frames, -1, 1))[..., 0]
        u = np.matmul(camera.reshape(frames, c, -1), camera.reshape(frames, c, -1).transpose(0, 2, 1))
        at = np.arange(c)
        u[:, at, at] = u[:, at, at] * (1.0 + damping) + 1e-6
        if hold == "points":
            return np.linalg.solve(u, camera_right[..., None])[..., 0], np.zeros((tracks, p))

    place = _place_derivatives(view, lens, tangents, has_depth)
    v = np.einsum("fpxm,fqxm->pqm", place, place)
    right = np.einsum("fpxm,fxm->pm", place, left)
    if has_depth:
        v[2, 2] += prior.weight
        right[2] += prior.weight * (prior.inverse_depth - view.window.inverse_depth)
    at = np.arange(p)
    v[at, at] = v[at, at] * (1.0 + damping) + 1e-6
    # In coordinates in which every track's own normal matrix is one, eliminating it is a plain product.
    root_inverse = _inverse_of_root(v)
    right = np.einsum("pqm,qm->pm", root_inverse, right)
    if hold == "cameras":
        return np.zeros((frames, c)), np.einsum("pqm,pm->mq", root_inverse, right)
    white = np.empty_like(place)
    for i in range(p):
        white[:, i] = sum(root_inverse[i, j] * place[:, j] for j in range(i + 1))
    w = camera[:, :, None, 0] * white[:, None, :, 0]
    w += camera[:, :, None, 1] * white[:, None, :, 1]
    w = w.reshape(frames * c, p * tracks)
    reduced = -(w @ w.T)
    own = np.arange(c * frames).reshape(frames, c)
    reduced[own[:, :, None], own[:, None, :]] += u
    fixed = np.repeat(view.window.is_fixed, c)
    reduced[fixed, fixed] = 1.0
    solution = np.linalg.solve(reduced, camera_right.ravel() - w @ right.ravel())
    place_step = np.einsum("pqm,pm->mq", root_inverse, right - (solution @ w).reshape(p, tracks))
    return solution.reshape(frames, c), place_step


def _camera_derivatives(view: _View, lens: np.ndarray, root: np.ndarray, columns: list[int]) -> np.ndarray:
    """[f, c, 2, m] of the pixels by turns about x, y, z, moves along them and log zoom; zero for fixed cameras."""
    tx, ty, tz = view.turned[:, 0], view.turned[:, 1], view.turned[:, 2]
    x, y = view.plane[:, 0], view.plane[:, 1]
    lens, root = lens[:, 0], root[:, 0]
    camera = np.empty((len(x), len(columns), 2, x.shape[1]))
    lens_x, lens_y = lens * x, lens * y
    camera[:, 0, 0], camera[:, 0, 1] = -lens_x * ty, -lens * tz - lens_y * ty
    camera[:, 1, 0], camera[:, 1, 1] = lens * tz + lens_x * tx, lens_y * tx
    camera[:, 2, 0], camera[:, 2, 1] = -lens * ty, lens * tx
    if len(columns) == 6:
        inverse_depth = view.window.inverse_depth
        camera[:, 3, 0], camera[:, 3, 1] = lens * inverse_depth, 0.0
        camera[:, 4, 0], camera[:, 4, 1] = 0.0, camera[:, 3, 0]
        camera[:, 5, 0], camera[:, 5, 1] = -lens_x * inverse_depth, -lens_y * inverse_depth
    elif len(columns) == 4:
        focal_px = view.window.focal_px[:, None, None]
        camera[:, 3] = view.plane * (focal_px * root[:, None])
    camera[view.window.is_fixed] = 0.0
    return camera


def _place_derivatives(view: _View, lens: np.ndarray, tangents: np.ndarray, has_depth: bool) -> np.ndarray:
    """[f, p, 2, m] of the pixels by moves of the direction along its tangents [2, m, 3], and by inverse depth."""
    frames, _, tracks = view.z.shape
    place = np.empty((frames, 3 if has_depth else 2, 2, tracks))
    for k, tangent in enumerate(tangents):
        motion = _turned(view.window, tangent)
        place[:, k] = lens * (motion[:, :2] - view.plane * motion[:, 2:])
    if has_depth:
        translation = view.window.translation[:, :, None]
        place[:, 2] = lens * (translation[:, :2] - view.plane * translation[:, 2:])
    return place


def _inverse_of_root(v: np.ndarray) -> np.ndarray:
    """[p, p, m] lower triangular: the inverses of the Cholesky factors of positive definite v [p, p, m], p = 2 or 3."""
    inverse = np.zeros_like(v)
    inverse[0, 0] = 1.0 / np.sqrt(v[0, 0])
    l10 = v[1, 0] * inverse[0, 0]
    inverse[1, 1] = 1.0 / np.sqrt(v[1, 1] - l10 * l10)
    inverse[1, 0] = -l10 * inverse[0, 0] * inverse[1, 1]
    if len(v) == 3:
        l20 = v[2, 0] * inverse[0, 0]
        l21 = v[2, 0] * inverse[1, 0] + v[2, 1] * inverse[1, 1]
        inverse[2, 2] = 1.0 / np.sqrt(v[2, 2] - l20 * l20 - l21 * l21)
        inverse[2, 0] = -(l20 * inverse[0, 0] + l21 * inverse[1, 0]) * inverse[2, 2]
        inverse[2, 1] = -l21 * inverse[1, 1] * inverse[2, 2]
    return inverse


def _moved(window: Window, step: tuple[np.ndarray, np.ndarray], tangents: np.ndarray, columns: list[int], has_depth: bool) -> Window:
    camera_step, place_step = step
    full = np.zeros((len(camera_step), 7))
    full[:, columns] = camera_step
    rotation = np.matmul(rotations_from_vectors(full[:, :3]), window.rotation)
    direction = window.direction + tangents[0] * place_step[:, :1] + tangents[1] * place_step[:, 1:2]
    length = np.sqrt(np.einsum("mi,mi->m", direction, direction))
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


def _tangents(direction: np.ndarray) -> np.ndarray:
    """[2, m, 3] two unit vectors across each unit direction, without a branch (Duff et al., JCGT 2017)."""
    x, y, z = direction.T
    sign = np.where(z < 0, -1.0, 1.0)
    a = -1.0 / (sign + z)
    b = x * y * a
    tangents = np.empty((2, *direction.shape))
    tangents[0, :, 0], tangents[0, :, 1], tangents[0, :, 2] = 1.0 + sign * x * x * a, sign * b, -sign * x
    tangents[1, :, 0], tangents[1, :, 1], tangents[1, :, 2] = b, sign + y * y * a, -y
    return tangents
