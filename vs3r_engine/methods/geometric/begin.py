# SPDX-License-Identifier: Apache-2.0
"""A window's translations and depths from nothing: adjustment alone would settle on one of many wrong answers, like relief turned
inside out, or a long window's far motion mistaken."""

from dataclasses import replace

import cv2
import numpy as np

from vs3r_engine.methods.geometric.bundle import ROTATION_TRANSLATION, Sightings, Window, adjusted, rotations_from_vectors
from vs3r_engine.methods.geometric.motion import vector_from_rotation

_NEARLY_ALL_EXPLAINED = 0.06
"""Share of the sightings given up under which nothing better is looked for."""
_FEWEST_SHARED = 40
"""Tracks that two pictures have to share for one to be the first's counterpart."""
_SURE, _THRESHOLD_PX = 0.999, 1.0
"""RANSAC's confidence, and how far a track may lie from its epipolar line."""
_LARGEST_RATIO = 20.0
"""Of a depth to the usual one: what two pictures say of more is noise."""


def begun(window: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    """The window with translations and depths, whatever it had of them, as `adjusted` returns it: from two of its pictures, or
    grown from its first third where that explains more."""
    seen = _from_two_views(window, sightings)
    if seen is not None and _share_lost(seen[1], sightings) < _NEARLY_ALL_EXPLAINED:
        return seen
    grown = _grown(window, sightings)
    return grown if seen is None else min(seen, grown, key=lambda found: _share_lost(found[1], sightings))


def _from_two_views(window: Window, sightings: Sightings) -> tuple[Window, np.ndarray] | None:
    """From the first picture, whose camera is the reference, and the last one that shares enough tracks with it, or one halfway;
    None if they tell nothing."""
    shared = (sightings.seen[0] > 0) & (sightings.seen > 0)
    far = int(np.flatnonzero(shared.sum(axis=1) >= _FEWEST_SHARED).max(initial=0))
    trials = [_by_essential_matrix(window, sightings, other, np.flatnonzero(shared[other])) for other in {far, far // 2} - {0}]
    placed = [adjusted(trial, sightings, ROTATION_TRANSLATION, 6, first_scale_px=8.0, hold="points") for trial in trials if trial]
    if not placed:
        return None
    best = min(placed, key=lambda found: _share_lost(found[1], sightings))[0]
    return adjusted(best, sightings, ROTATION_TRANSLATION, 10, first_scale_px=4.0)


def _by_essential_matrix(window: Window, sightings: Sightings, other: int, tracks: np.ndarray) -> Window | None:
    """The window with the camera of picture `other` and the depths of `tracks` as the two pictures have them, and all other cameras
    evenly on the way; None if they have none."""
    before, after = (np.ascontiguousarray(sightings.xy[picture, tracks]) for picture in (0, other))
    lens = np.diag([window.focal_px[0], window.focal_px[0], 1.0])
    essential, agrees = cv2.findEssentialMat(before, after, lens, cv2.RANSAC, _SURE, _THRESHOLD_PX)
    if essential is None or essential.shape != (3, 3):
        return None
    _, turn, shift, agrees, points = cv2.recoverPose(essential, before, after, lens, distanceThresh=_LARGEST_RATIO**2, mask=agrees)
    tracks, points = tracks[agrees.ravel() > 0], points[:, agrees.ravel() > 0]
    length = np.linalg.norm(points[:3], axis=0)
    nearness = np.abs(points[3]) / length
    usual = float(np.median(nearness)) if len(tracks) else 0.0
    if usual == 0.0:
        return None
    scale = float(np.median(window.inverse_depth)) / usual
    inverse_depth = np.full_like(window.inverse_depth, scale * usual)
    inverse_depth[tracks] *= np.clip(nearness / usual, 1 / _LARGEST_RATIO, _LARGEST_RATIO)
    direction = window.direction.copy()
    direction[tracks] = (points[:3] / np.where(points[3] < 0, -length, length)).T
    on_the_way = np.arange(len(window.rotation))[:, None] / other
    correction = vector_from_rotation(turn @ window.rotation[0] @ window.rotation[other].T)
    rotation = np.matmul(rotations_from_vectors(on_the_way * correction), window.rotation)
    centre = -on_the_way * (turn.T @ shift).T / scale
    translation = -np.matmul(rotation, centre[..., None])[..., 0]
    return replace(window, rotation=rotation, translation=translation, direction=direction, inverse_depth=inverse_depth)


def _grown(window: Window, sightings: Sightings) -> tuple[Window, np.ndarray]:
    """From a third of the frames on: the ones to come go on with the velocity so far."""
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


def _share_lost(error: np.ndarray, sightings: Sightings) -> float:
    """Share of the sightings that a Geman-McClure loss of one pixel gives up."""
    return float((sightings.seen * (1.0 - 1.0 / (1.0 + error**2))).sum() / max(sightings.seen.sum(), 1e-9))
