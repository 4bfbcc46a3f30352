# SPDX-License-Identifier: Apache-2.0
"""Section 3.2, sliding windows: a shot is cut into overlapping windows, and the windows' reconstructions, each in a
gauge and scale of its own, are joined into one path and one scale. Only differences within the smoothing's reach
matter: no loops."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.scene import Reconstruction

PURE_ROTATION = 1e-3
"""Camera centres that spread by less than this share of the median depth carry no translation to fit."""
ZOOM = 0.05
"""A change of the focal length by more than this is a zoom; below, it is the estimate's noise (see ARCHITECTURE.md)."""
_FEWEST_PIXELS = 50
_MOST_PIXELS = 200_000


class WindowCutter:
    """Cuts a stream of frames into windows of at most `window_frames`, each sharing `overlap_frames` with the one
    before.

    Holds one window of frames at a time. Every frame is in a window; the last window may be short.
    """

    def __init__(self, frames: Iterable[Frame], window_frames: int, overlap_frames: int) -> None:
        self._frames = iter(frames)
        self._held: list[Frame] = []
        self._known = 0
        self.window_frames = window_frames
        self.overlap_frames = min(overlap_frames, window_frames - 1)

    def window(self) -> list[Frame] | None:
        """The frames of the window to do now, the same until `done`; None after the last."""
        while len(self._held) < self.window_frames:
            frame = next(self._frames, None)
            if frame is None:
                break
            self._held.append(frame)
        chosen = self._held[: self.window_frames]
        return chosen if len(chosen) > self._known else None

    def done(self) -> None:
        """The window has been reconstructed: the next one follows, `overlap_frames` of it known already."""
        size = min(len(self._held), self.window_frames)
        self._known = min(self.overlap_frames, size)
        del self._held[: size - self._known]

    def shrink(self) -> None:
        """From the present window on, windows are half as long (never fewer than two frames, never without a new
        one)."""
        self.window_frames = max(2, self._known + 1, self.window_frames // 2)
        self.overlap_frames = min(self.overlap_frames, self.window_frames - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Seam:
    """previous_from_current of two windows: X_previous = scale * rotation @ X_current + translation.

    rotation_rad, shift: what the overlap's cameras still disagree by, root mean square; shift as a share of the median
    depth.
    comparable: number of pixels the scale rests on.
    """

    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    rotation_rad: float
    shift: float
    comparable: int


def joined(windows: Iterable[Reconstruction], joining: str) -> Iterator[Reconstruction]:
    """Consecutive pieces that cover every frame once, in the first window's gauge and scale.

    Args:
        windows: in order, each overlapping the one before by at least one frame.
        joining: "robust" or "published" (see `robust_seam`, `published_seam`).

    Each piece's diagnostics gain "is_seam" (cross-faded frames), "seam_rotation_rad" and "seam_shift"; its findings the
    worst seam so far.
    """
    held: Reconstruction | None = None
    worst_deg = worst_shift = 0.0
    for window in windows:
        window = _with_seam(window)
        if held is None:
            held = window
            continue
        start, end = window.trajectory.first_frame, held.trajectory.first_frame + len(held.trajectory)
        known, new = _part(held, start, end), _part(window, start, end)
        seam = published_seam(known, new) if joining == "published" else robust_seam(known, new)
        worst_deg, worst_shift = max(worst_deg, float(np.degrees(seam.rotation_rad))), max(worst_shift, seam.shift)
        if start > held.trajectory.first_frame:
            yield _part(held, held.trajectory.first_frame, start)
        findings: dict[str, float | str] = {
            "seam_worst_deg": round(worst_deg, 4),
            "seam_worst_shift_percent": round(100 * worst_shift, 3),
        }
        held = _continued(known, moved(window, seam), seam, published=joining == "published")
        held = replace(held, findings=held.findings | findings)
    if held is not None:
        yield held


def robust_seam(known: Reconstruction, new: Reconstruction) -> Seam:
    """The seam from the whole overlap (two reconstructions of the same frames).

    Scale: confidence-weighted median of log depth ratios of static pixels. Rotation: chordal mean over the overlap's
    frames.
    Translation: Huber least squares on the camera centres; under pure rotation their median, as there is nothing to
    fit.
    """
    ratio, weight = _log_ratios(known, new, static_only=True)
    if len(ratio) < _FEWEST_PIXELS:
        ratio, weight = _log_ratios(known, new, static_only=False)
    scale = float(np.exp(_weighted_median(ratio, weight))) if len(ratio) >= _FEWEST_PIXELS else 1.0
    to, of = known.trajectory.world_from_camera, new.trajectory.world_from_camera
    rotation = _nearest_rotation((to[:, :3, :3] @ np.swapaxes(of[:, :3, :3], 1, 2)).sum(axis=0))
    offsets = to[:, :3, 3] - scale * of[:, :3, 3] @ rotation.T
    depth = float(np.nanmedian(known.depth)) if np.isfinite(known.depth).any() else 1.0
    spread = np.linalg.norm(to[:, :3, 3] - to[:, :3, 3].mean(axis=0), axis=1).max()
    translation = np.median(offsets, axis=0)
    if spread > PURE_ROTATION * depth:
        translation = _huber_mean(offsets, translation)
    return _measured(scale, rotation, translation, to, of, depth, len(ratio))


def published_seam(known: Reconstruction, new: Reconstruction) -> Seam:
    """The seam as the reference takes it: median depth ratio after trimming by the interquartile range, clipped to
    [0.8, 1.25]; rigid alignment by the overlap's first frame alone."""
    ratio = np.exp(_log_ratios(known, new, static_only=False)[0])
    scale = 1.0
    if len(ratio) >= _FEWEST_PIXELS:
        low, high = np.percentile(ratio, (25, 75))
        kept = ratio[(ratio >= low - 1.5 * (high - low)) & (ratio <= high + 1.5 * (high - low))]
        scale = float(np.clip(np.median(kept), 0.8, 1.25))
    to, of = known.trajectory.world_from_camera, new.trajectory.world_from_camera
    rotation = to[0, :3, :3] @ of[0, :3, :3].T
    translation = to[0, :3, 3] - scale * rotation @ of[0, :3, 3]
    depth = float(np.nanmedian(known.depth)) if np.isfinite(known.depth).any() else 1.0
    return _measured(scale, rotation, translation, to, of, depth, len(ratio))


def moved(window: Reconstruction, seam: Seam) -> Reconstruction:
    """The window in the gauge and scale the seam leads to."""
    of = window.trajectory.world_from_camera
    world_from_camera = of.copy()
    world_from_camera[:, :3, :3] = seam.rotation @ of[:, :3, :3]
    world_from_camera[:, :3, 3] = seam.scale * of[:, :3, 3] @ seam.rotation.T + seam.translation
    depth = (window.depth * np.float32(seam.scale)).astype(np.float32)
    return replace(window, trajectory=replace(window.trajectory, world_from_camera=world_from_camera), depth=depth)


def steady_focal(windows: Iterable[Reconstruction]) -> Iterator[Reconstruction]:
    """The same windows with one focal length for the shot, the median over the first window's frames, unless the lens
    zooms.

    A window zooms when its own median, or its beginning against its end, leaves what is held by more than ZOOM; its
    frames then keep their own focal lengths, smoothed over nine frames, and its end is what is held from there on.
    findings: "zooms".
    """
    held: np.ndarray | None = None
    for window in windows:
        log_focal = np.log(window.trajectory.K[:, (0, 1), (0, 1)])
        third = max(1, len(log_focal) // 3)
        change = np.median(log_focal[-third:], axis=0) - np.median(log_focal[:third], axis=0)
        middle = np.median(log_focal, axis=0)
        zooms = np.abs(change).max() > ZOOM or (held is not None and np.abs(middle - held).max() > ZOOM)
        if zooms:
            log_focal = _smoothed(log_focal)
            held = log_focal[-1]
        else:
            held = middle if held is None else held
            log_focal = np.tile(held, (len(log_focal), 1))
        K = window.trajectory.K.copy()
        K[:, (0, 1), (0, 1)] = np.exp(log_focal)
        findings = window.findings | ({"zooms": "yes"} if zooms else {})
        yield replace(window, trajectory=replace(window.trajectory, K=K), findings=findings)


def _log_ratios(known: Reconstruction, new: Reconstruction, static_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """log(known depth / new depth) of comparable pixels, and their weights."""
    usable = np.isfinite(known.depth) & np.isfinite(new.depth) & (known.depth > 1e-4) & (new.depth > 1e-4)
    if static_only:
        for side in (known, new):
            if side.semantic_mask is not None and side.semantic_mask.shape == usable.shape:
                usable &= ~side.semantic_mask
    at = np.flatnonzero(usable)
    at = at[:: -(-len(at) // _MOST_PIXELS) or 1]
    ratio = np.log(known.depth.ravel()[at].astype(np.float64) / new.depth.ravel()[at])
    return ratio, (known.confidence.ravel()[at] * new.confidence.ravel()[at]).astype(np.float64) + 1e-12


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """[3, 3] rotation nearest to a sum of rotations (chordal mean)."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def _huber_mean(points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Mean of [n, 3] that points beyond 1.5 median distances pull on less and less."""
    mean = start
    for _ in range(20):
        distance = np.linalg.norm(points - mean, axis=1)
        bound = 1.5 * np.median(distance) + 1e-12
        weight = np.minimum(1.0, bound / np.maximum(distance, 1e-12))
        mean = (weight[:, None] * points).sum(axis=0) / weight.sum()
    return mean


def _measured(
    scale: float,
    rotation: np.ndarray,
    translation: np.ndarray,
    to: np.ndarray,
    of: np.ndarray,
    depth: float,
    comparable: int,
) -> Seam:
    left = np.swapaxes(to[:, :3, :3], 1, 2) @ (rotation @ of[:, :3, :3])
    turn = np.linalg.norm(left - np.eye(3), axis=(1, 2)) / np.sqrt(2)
    shift = np.linalg.norm(to[:, :3, 3] - scale * of[:, :3, 3] @ rotation.T - translation, axis=1) / depth
    return Seam(scale, rotation, translation, float(np.sqrt((turn**2).mean())), float(np.sqrt((shift**2).mean())), comparable)


def _with_seam(window: Reconstruction) -> Reconstruction:
    n = len(window.trajectory)
    return replace(
        window,
        diagnostics=window.diagnostics
        | {
            "is_seam": np.zeros(n, bool),
            "seam_rotation_rad": np.zeros(n, np.float32),
            "seam_shift": np.zeros(n, np.float32),
        },
    )


def _part(window: Reconstruction, start: int, end_exclusive: int) -> Reconstruction:
    first = window.trajectory.first_frame
    part = slice(start - first, end_exclusive - first)
    return replace(
        window,
        trajectory=window.trajectory.sliced(start, end_exclusive),
        depth=window.depth[part],
        confidence=window.confidence[part],
        semantic_mask=None if window.semantic_mask is None else window.semantic_mask[part],
        diagnostics={name: values[part] for name, values in window.diagnostics.items()},
    )


def _continued(known: Reconstruction, window: Reconstruction, seam: Seam, published: bool) -> Reconstruction:
    """The window with its first len(known) frames cross-faded from what is known of them."""
    n = len(known.trajectory)
    share = np.linspace(0.0, 1.0, n) if published else np.arange(1, n + 1) / (n + 1)
    pictures = share[:, None, None].astype(np.float32)
    depth, confidence, K = window.depth.copy(), window.confidence.copy(), window.trajectory.K.copy()
    for array, before in ((depth, known.depth), (confidence, known.confidence)):
        mixed = (1 - pictures) * before + pictures * array[:n]
        array[:n] = np.where(np.isfinite(before), np.where(np.isfinite(mixed), mixed, before), array[:n])
    focal = np.exp((1 - share[:, None]) * np.log(known.trajectory.K[:, (0, 1), (0, 1)]) + share[:, None] * np.log(K[:n, (0, 1), (0, 1)]))
    K[:n, (0, 1), (0, 1)] = known.trajectory.K[:, (0, 1), (0, 1)] if published else focal
    mask = window.semantic_mask
    if mask is not None and known.semantic_mask is not None:
        mask = mask.copy()
        mask[:n] |= known.semantic_mask
    world_from_camera = window.trajectory.world_from_camera.copy()
    world_from_camera[:n] = _between(known.trajectory.world_from_camera, world_from_camera[:n], share)
    diagnostics = {name: values.copy() for name, values in window.diagnostics.items()}
    diagnostics["is_seam"][:n] = True
    diagnostics["seam_rotation_rad"][:n] = seam.rotation_rad
    diagnostics["seam_shift"][:n] = seam.shift
    return replace(
        window,
        trajectory=replace(window.trajectory, K=K, world_from_camera=world_from_camera),
        depth=depth,
        confidence=confidence,
        semantic_mask=mask,
        diagnostics=diagnostics,
    )


def _between(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[n, 4, 4] transforms `share` of the way from a to b: centres linearly, rotations by sign-aligned unit
    quaternions."""
    from scipy.spatial.transform import Rotation

    quat_a, quat_b = (Rotation.from_matrix(t[:, :3, :3]).as_quat() for t in (a, b))
    quat_b *= np.where((quat_a * quat_b).sum(axis=1, keepdims=True) < 0, -1, 1)
    mixed = b.copy()
    mixed[:, :3, :3] = Rotation.from_quat((1 - share[:, None]) * quat_a + share[:, None] * quat_b).as_matrix()
    mixed[:, :3, 3] = (1 - share[:, None]) * a[:, :3, 3] + share[:, None] * b[:, :3, 3]
    return mixed


def bridged(window: Reconstruction, is_bad: np.ndarray) -> Reconstruction:
    """The window with cameras of bad frames interpolated between the nearest good ones, their depth copied from the
    nearest, and "is_bridged" in its diagnostics. With no good frame the camera stands still at the origin and
    everything is 1 away."""
    diagnostics = window.diagnostics | {"is_bridged": is_bad.copy()}
    path = window.trajectory
    if not is_bad.any():
        return replace(window, diagnostics=diagnostics)
    if is_bad.all():
        return replace(
            window,
            trajectory=replace(path, world_from_camera=np.tile(np.eye(4), (len(path), 1, 1))),
            depth=np.ones_like(window.depth),
            confidence=np.zeros_like(window.confidence),
            diagnostics=diagnostics,
        )
    good = np.flatnonzero(~is_bad)
    before = good[np.clip(np.searchsorted(good, np.arange(len(path)), side="right") - 1, 0, len(good) - 1)]
    after = good[np.clip(np.searchsorted(good, np.arange(len(path))), 0, len(good) - 1)]
    share = (np.arange(len(path)) - before) / np.maximum(after - before, 1)
    nearest = np.where(share < 0.5, before, after)
    world_from_camera = np.where(
        is_bad[:, None, None],
        _between(path.world_from_camera[before], path.world_from_camera[after], np.clip(share, 0, 1)),
        path.world_from_camera,
    )
    K = np.where(is_bad[:, None, None], path.K[nearest], path.K)
    confidence = np.where(is_bad[:, None, None], 0, window.confidence).astype(np.float32)
    mask = window.semantic_mask
    if mask is not None:
        mask = mask & ~is_bad[:, None, None]
    return replace(
        window,
        trajectory=replace(path, K=K, world_from_camera=world_from_camera),
        depth=window.depth[nearest],
        confidence=confidence,
        semantic_mask=mask,
        diagnostics=diagnostics,
    )


def _smoothed(log_focal: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d, median_filter

    return gaussian_filter1d(median_filter(log_focal, size=(9, 1), mode="nearest"), 2.0, axis=0, mode="nearest")
