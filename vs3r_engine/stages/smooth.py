# SPDX-License-Identifier: Apache-2.0
"""Section 3.3, eq. 2-3: the measured camera path in, a calm one out. Each shot is smoothed by itself.

Camera centre, sign-aligned quaternion, log focal length and the picture's residual path all pass the same Gaussian
filter, so what the camera model explains and what it does not become equally calm.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain

import numpy as np

from vs3r_engine.camera import Trajectory
from vs3r_engine.settings import PathSettings, sigma_s
from vs3r_engine.stages.framing import held, missing_share, moved_px, softened, unseen_share
from vs3r_engine.stages.reframe import reframes
from vs3r_engine.timeline import FrameRange

LARGEST_MISSING_SHARE = 0.18
"""Where a pan, taken without its fast shake, would leave more of the picture uncovered than this, the path is smoothed less: it would
end outside the picture. Shake may reach LARGEST_MISSING_SHARE_SHAKEN, for the frames around cover what it uncovers: a camera shaken by
3 degrees needs a third of the picture filled for a moment, and can have that.
"""
LARGEST_MISSING_SHARE_SHAKEN = 0.5
LARGEST_UNSEEN_SHARE = 0.03
"""The same for what no frame near enough to fill from has seen, as beyond the ends of a shot that begins or ends in a pan."""
STILL_SHARE = 1 / 4000
"""Of the picture's width: a shot none of whose pictures would be moved further than this stays as it was filmed."""
_MEANT_LIGHTER = 4
"""A filter so many times lighter takes fast shake out of a path and leaves pans in: what the camera was meant to do."""
_LIGHTEST_UNSEEN = 4
"""Where something is unseen the path is smoothed up to this many times lighter; a lighter filter yet would only shake more."""
_SEEN_WITHIN_S, _SEEN_PER_S = 1, 6

_ROWS = 128
"""Frames filtered at once: memory does not grow with the square of a shot's length."""


def smooth(
    measured: Trajectory, shots: Sequence[FrameRange], rate: Fraction, settings: PathSettings, plane_depth: np.ndarray | None = None
) -> Trajectory:
    """The path the output is rendered from, for the same frames as `measured`.

    A path of constant velocity comes out unchanged, also at its ends, and so does a shot that stands still; strength 0 gives
    `measured` back, and so does smoothness 0 without a horizon lock.
    plane_depth: [n] median scene depth in scene units, to judge how far a moved camera sees; None = rotation only.

    Source: eq. 2-3, applied to world_from_camera. The end rule is ours: a Gaussian-weighted straight line instead of a
    weighted mean, which is the same thing wherever the window is whole.
    """
    mix = settings.strength / 100.0
    is_followed = settings.mode == "smooth" and settings.smoothness == 0.0
    if mix == 0.0 or (is_followed and not settings.horizon_lock):
        return measured
    pieces = []
    for shot in shots:
        part = measured.sliced(shot.start, shot.end_exclusive)
        depth = None if plane_depth is None else plane_depth[shot.start - measured.first_frame : shot.end_exclusive - measured.first_frame]
        calm = part if is_followed else _calmed_between_reframes(part, rate, settings, depth)
        if settings.horizon_lock:
            calm = _levelled(calm)
        calm = blended(part, calm, np.full(len(part), mix))
        # A tripod's pictures are not resampled for what measuring alone lets tremble.
        is_still = moved_px(part, calm, depth).max() < STILL_SHARE * part.width
        pieces.append(part if is_still else calm)
    return _concatenated(pieces)


def filtered(path: Trajectory, sigma_frames: float) -> Trajectory:
    """One shot's path through the Gaussian of eq. 3 with a support of 3 sigma on either side."""
    quaternions = _aligned(quat_wxyz_from_matrix(path.world_from_camera[:, :3, :3]))
    world_from_camera = np.tile(np.eye(4), (len(path), 1, 1))
    world_from_camera[:, :3, :3] = matrix_from_quat_wxyz(local_line(quaternions, sigma_frames))
    world_from_camera[:, :3, 3] = local_line(path.world_from_camera[:, :3, 3], sigma_frames)
    K = path.K.copy()
    for axis in (0, 1):
        K[:, axis, axis] = np.exp(local_line(np.log(path.K[:, axis, axis]), sigma_frames))
    residual = None if path.residual_px is None else local_line(path.residual_px, sigma_frames).astype(np.float32)
    return replace(path, K=K, world_from_camera=world_from_camera, residual_px=residual)


def local_line(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    """[n, ...] float64: at each index the value there of the straight line fitted to the neighbourhood with the weights of
    eq. 3. With a whole window this is the weighted mean of eq. 2; at an end it neither lags nor bends a steady motion."""
    n = len(values)
    radius = max(1, round(3 * sigma_frames))
    flat = np.asarray(values, np.float64).reshape(n, -1)
    centre = flat.mean(axis=0)
    moved = flat - centre
    found = np.empty_like(flat)
    for first in range(0, n, _ROWS):
        here = np.arange(first, min(first + _ROWS, n))
        near = np.arange(max(0, here[0] - radius), min(n, here[-1] + radius + 1))
        distance = (near - here[:, None]).astype(np.float64)
        weight = np.exp(-(distance**2) / (2 * sigma_frames**2)) * (np.abs(distance) <= radius)
        s0, s1, s2 = ((weight * distance**power).sum(axis=1, keepdims=True) for power in range(3))
        spread = s0 * s2 - s1**2
        is_line = spread > 1e-9 * s0**2
        # The line's value here is one weighted sum: its weights fall off and lean against the side that has more frames.
        lean = np.where(is_line, (s2 - s1 * distance) / np.where(is_line, spread, 1.0), 1.0 / s0)
        found[here] = (weight * lean) @ moved[near]
    return (found + centre).reshape(values.shape)


def blended(a: Trajectory, b: Trajectory, share_of_b: np.ndarray) -> Trajectory:
    """The path that goes from `a` (share 0) to `b` (share 1), per frame; share_of_b: [n]."""
    share = share_of_b[:, None]
    quaternions = np.stack([quat_wxyz_from_matrix(path.world_from_camera[:, :3, :3]) for path in (a, b)])
    quaternions[1] *= np.where((quaternions[0] * quaternions[1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    world_from_camera = np.tile(np.eye(4), (len(a), 1, 1))
    world_from_camera[:, :3, :3] = matrix_from_quat_wxyz((1 - share) * quaternions[0] + share * quaternions[1])
    world_from_camera[:, :3, 3] = (1 - share) * a.world_from_camera[:, :3, 3] + share * b.world_from_camera[:, :3, 3]
    K = (1 - share[..., None]) * a.K + share[..., None] * b.K
    residual = None
    if a.residual_px is not None and b.residual_px is not None:
        weight = share_of_b[:, None, None, None].astype(np.float32)
        residual = (1 - weight) * a.residual_px + weight * b.residual_px
    return replace(a, K=K, world_from_camera=world_from_camera, residual_px=residual)


def _calmed_between_reframes(shot: Trajectory, rate: Fraction, settings: PathSettings, plane_depth: np.ndarray | None) -> Trajectory:
    """The calmest path of every stretch of a shot between two reframes, which themselves are followed as they were filmed."""
    pieces, start = [], 0
    for before, after in [*reframes(shot, rate, LARGEST_MISSING_SHARE), (len(shot) - 1, len(shot))]:
        stretch = shot.sliced(shot.first_frame + start, shot.first_frame + before + 1)
        pieces.append(_calmed(stretch, rate, settings, None if plane_depth is None else plane_depth[start : before + 1]))
        if after > before + 1:
            pieces.append(shot.sliced(shot.first_frame + before + 1, shot.first_frame + after))
        start = after
    return _concatenated(pieces)


def _calmed(part: Trajectory, rate: Fraction, settings: PathSettings, plane_depth: np.ndarray | None) -> Trajectory:
    """The calmest path that still sees enough: the wanted one, locally eased towards lighter filters where it does not."""
    is_locked = settings.mode == "locked"
    sigma_frames = (2.0 if is_locked else sigma_s(settings.smoothness)) * float(rate)
    levels = [_stilled(part) if is_locked else filtered(part, sigma_frames)]
    lighter_frames = sigma_frames if is_locked else sigma_frames / 2
    meant = None if is_locked else filtered(part, sigma_frames / _MEANT_LIGHTER)
    needed = np.zeros(len(part))
    while lighter_frames > 1.0:
        too_far = missing_share(part, levels[-1], plane_depth) > LARGEST_MISSING_SHARE_SHAKEN
        if meant is not None:
            too_far |= missing_share(meant, levels[-1], plane_depth) > LARGEST_MISSING_SHARE
            if lighter_frames * _LIGHTEST_UNSEEN >= sigma_frames:
                too_far |= unseen_share(part, levels[-1], _offsets_seen(rate), plane_depth) > LARGEST_UNSEEN_SHARE
        if not too_far.any():
            break
        needed[too_far] = len(levels)
        levels.append(filtered(part, lighter_frames))
        lighter_frames /= 2
    if not needed.any():
        return levels[0]
    # The change of filter must itself be slow, or it would be the new shake: hold the need, then soften it.
    hold_frames = 0.5 * float(rate)
    needed = softened(held(needed, round(2 * hold_frames)), hold_frames)
    calm = levels[0]
    for i in range(1, len(levels)):
        share = np.clip(needed - (i - 1), 0.0, 1.0)
        if share.any():
            calm = blended(calm, levels[i], share)
    return calm


def _offsets_seen(rate: Fraction) -> list[int]:
    """How many frames away the frames are that may fill another, nearest first."""
    every = max(1, round(rate / _SEEN_PER_S))
    return [sign * away for away in range(every, round(_SEEN_WITHIN_S * rate) + 1, every) for sign in (1, -1)]


def _stilled(part: Trajectory) -> Trajectory:
    """A tripod: the shot's mean orientation, centre, focal length and residual, for every frame."""
    n = len(part)
    quaternion = _aligned(quat_wxyz_from_matrix(part.world_from_camera[:, :3, :3])).mean(axis=0, keepdims=True)
    world_from_camera = np.tile(np.eye(4), (n, 1, 1))
    world_from_camera[:, :3, :3] = matrix_from_quat_wxyz(quaternion)
    world_from_camera[:, :3, 3] = part.world_from_camera[:, :3, 3].mean(axis=0)
    K = np.tile(part.K.mean(axis=0), (n, 1, 1))
    residual = None if part.residual_px is None else np.repeat(part.residual_px.mean(axis=0, keepdims=True), n, axis=0)
    return replace(part, K=K, world_from_camera=world_from_camera, residual_px=residual)


def _levelled(part: Trajectory) -> Trajectory:
    """The same viewing directions without roll, where "level" is the shot's average up direction."""
    up_world = -part.world_from_camera[:, :3, 1].mean(axis=0)
    forward = part.world_from_camera[:, :3, 2]
    right = np.cross(forward, np.broadcast_to(up_world, forward.shape))
    length = np.linalg.norm(right, axis=1, keepdims=True)
    is_defined = length[:, 0] > 0.1 * np.linalg.norm(up_world)
    right = np.where(is_defined[:, None], right / np.maximum(length, 1e-12), part.world_from_camera[:, :3, 0])
    world_from_camera = part.world_from_camera.copy()
    world_from_camera[:, :3, 0] = right
    world_from_camera[:, :3, 1] = np.cross(forward, right)
    return replace(part, world_from_camera=world_from_camera)


def _concatenated(pieces: Sequence[Trajectory]) -> Trajectory:
    if len(pieces) == 1:
        return pieces[0]
    residual = None if pieces[0].residual_px is None else np.concatenate([piece.residual_px for piece in pieces])
    return replace(
        pieces[0],
        K=np.concatenate([piece.K for piece in pieces]),
        residual_px=residual,
        world_from_camera=np.concatenate([piece.world_from_camera for piece in pieces]),
        lenses=tuple(chain.from_iterable(piece.lenses for piece in pieces)),
    )


def quat_wxyz_from_matrix(rotation: np.ndarray) -> np.ndarray:
    """[n, 4] unit quaternions of [n, 3, 3] rotations; each sign is arbitrary."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.moveaxis(np.asarray(rotation, np.float64), 0, -1)
    # Four times the quaternion's product with itself: every row is the quaternion, the one of the largest square the safest.
    products = np.array(
        [
            [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx],
            [xz - zx, yx + xy, 1 - xx + yy - zz, zy + yz],
            [yx - xy, xz + zx, zy + yz, 1 - xx - yy + zz],
        ]
    )
    safest = np.einsum("iin->ni", products).argmax(axis=1)
    quat_wxyz = products[safest, :, np.arange(len(safest))]
    return quat_wxyz / np.linalg.norm(quat_wxyz, axis=1, keepdims=True)


def matrix_from_quat_wxyz(quat_wxyz: np.ndarray) -> np.ndarray:
    """[n, 3, 3] rotations of [n, 4] quaternions of any length but zero."""
    w, x, y, z = (quat_wxyz / np.linalg.norm(quat_wxyz, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), -1, 0))


def _aligned(quat_wxyz: np.ndarray) -> np.ndarray:
    """The same rotations with every sign such that neighbours in the sequence are near each other."""
    flips = np.where((quat_wxyz[1:] * quat_wxyz[:-1]).sum(axis=-1) < 0, -1.0, 1.0)
    return quat_wxyz * np.concatenate([[1.0], np.cumprod(flips)])[:, None]
