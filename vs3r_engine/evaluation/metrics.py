# SPDX-License-Identifier: Apache-2.0
"""What each number means. Pure functions of homographies, matches and pictures; measure.py feeds them from files.

Every metric of the paper's section 4.1 comes as the authors' code computes it ("published", to compare with its
tables) and, where that has a fault, corrected (the default); the docstrings name the fault.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

MEASURED_WIDTH = 640
"""Corrected metrics in pixels are measured on pictures of this width, so that clips of all sizes compare."""

SPLIT_HZ = 0.5
"""Motion slower than this is taken to be meant, faster is jitter."""

INVISIBLE_PX = 0.25
"""RMS motion at MEASURED_WIDTH that nobody sees."""

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""[h, w, 2] float32 displacement in pixels from the first 8-bit BGR picture to the second."""


# --- Cropping ---------------------------------------------------------------------------------------------------------


def cropping_published(stabilized_from_original: Sequence[np.ndarray | None]) -> float | None:
    """Mean over frames of 1 / sqrt(h00^2 + h01^2), at most 1. Higher is better.

    Faults: a zoom-out cancels a zoom-in in the mean; a picture with black borders that was not zoomed scores 1.
    Source: DIFRINT's and the paper's evaluation code, section 4.1 "Cropping ratio".
    """
    ratios = [1.0 / math.hypot(H[0, 0], H[0, 1]) for H in stabilized_from_original if H is not None]
    return min(float(np.mean(ratios)), 1.0) if ratios else None


def cropping(zoom: Sequence[float | None], blank_share: Sequence[float]) -> float | None:
    """Linear share of the field of view that is kept: mean over frames of sqrt(1 - blank) * min(1, 1 / zoom).

    zoom: `zoom_of` every frame, blank_share: how much of the output is empty border. 1 = everything kept, 0.87 = a
    picture zoomed by 1.15. Higher is better.
    """
    kept = [
        math.sqrt(max(1.0 - blank, 0.0)) * min(1.0, 1.0 / scale)
        for scale, blank in zip(zoom, blank_share, strict=True)
        if scale is not None
    ]
    return float(np.mean(kept)) if kept else None


def zoom_of(H: np.ndarray, width: int, height: int) -> float:
    """How much larger the picture's centre is after target_from_source H: the root of its area scale there."""
    x, y = width / 2, height / 2
    w = H[2, 0] * x + H[2, 1] * y + H[2, 2]
    return math.sqrt(abs(np.linalg.det(H) / w**3))


# --- Stability --------------------------------------------------------------------------------------------------------


def stability_published(next_from_this: Sequence[np.ndarray | None]) -> float | None:
    """Share of the 5 lowest frequencies (without DC) in the energy of |translation| and of rotation, mean of the two.

    P_0 = 1, P_i = P_{i-1} M_i; frames without a homography are left out; half of the spectrum. Higher is better.
    Faults: the 5 lowest bins are 5 / duration Hz, so short clips score higher; P is not normalised by P22;
    |translation| folds a path that crosses zero; the jump from a path's end to its beginning leaks into all bins and
    outweighs jitter, so that the translation of a pan scores 0.89 whether it is steady or shakes.
    Source: the paper's evaluation code, section 4.1 "Stability".
    """
    path = np.eye(3)
    positions = [path]
    for M in next_from_this:
        if M is not None:
            path = path @ M
            positions.append(path)
    P = np.array(positions)
    shares = [_low_share(np.hypot(P[:, 0, 2], P[:, 1, 2])), _low_share(np.degrees(np.arctan2(P[:, 1, 0], P[:, 0, 0])))]
    return None if None in shares else float(np.mean(shares))  # type: ignore[arg-type]


def stability_older(next_from_this: Sequence[np.ndarray | None]) -> float | None:
    """The older, common form: the 2nd to 6th lowest frequencies (DC is the 1st) of tx, ty and rotation, their minimum.

    A frame without a homography repeats the one before. Higher is better.
    Source: Liu et al., "Bundled camera paths"; DIFRINT's evaluation code.
    """
    last = np.eye(3)
    positions = []
    path = np.eye(3)
    for M in next_from_this:
        last = last if M is None else M
        path = path @ last
        positions.append(path)
    if not positions:
        return None
    P = np.array(positions)
    shares = [_low_share(P[:, 0, 2]), _low_share(P[:, 1, 2]), _low_share(np.arctan2(P[:, 1, 0], P[:, 0, 0]))]
    return None if None in shares else float(min(shares))  # type: ignore[arg-type, type-var]


def _low_share(signal: np.ndarray) -> float | None:
    energy = np.abs(np.fft.fft(signal)) ** 2
    energy = energy[1 : (len(energy) + 1) // 2]  # without DC and, as published, without the highest of an even number
    if len(energy) < 6 or energy.sum() < 1e-20:
        return None if len(energy) < 6 else 1.0
    return float(energy[:5].sum() / energy.sum())


def picture_path_px(next_from_this: Sequence[np.ndarray | None], width: int, height: int) -> tuple[np.ndarray, int]:
    """The path of the picture: [n + 1, 4, 2] pixels, accumulated motion at four points half-way to the corners.

    next_from_this: similarities [2, 3] between consecutive frames of width x height. Missing ones are bridged by
    straight interpolation of the motion; the second value says how many.
    """
    points = np.array([(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]) * (width, height)
    steps = np.full((len(next_from_this), 4, 2), np.nan)
    for i, M in enumerate(next_from_this):
        if M is not None:
            steps[i] = points @ M[:2, :2].T + M[:2, 2] - points
    missing = np.isnan(steps[:, 0, 0])
    if missing.all():
        steps[:] = 0.0
    elif missing.any():
        flat = steps.reshape(len(steps), -1)
        known = np.flatnonzero(~missing)
        for column in flat.T:
            column[missing] = np.interp(np.flatnonzero(missing), known, column[known])
    return np.concatenate([np.zeros((1, 4, 2)), np.cumsum(steps, axis=0)]), int(missing.sum())


def jitter_px(path_px: np.ndarray, rate: float) -> float | None:
    """RMS over frames and points of the path above SPLIT_HZ, in the path's pixels. Lower is better.

    The slow part is taken out by a zero-phase fourth-order Butterworth filter; ends are mirrored oddly. None under two
    seconds, where half a hertz means nothing.
    """
    from scipy.signal import butter, sosfiltfilt

    count = len(path_px)
    if count < 2.0 * rate:
        return None
    sos = butter(4, SPLIT_HZ / (rate / 2.0), "highpass", output="sos")
    fast = sosfiltfilt(sos, path_px, axis=0, padtype="odd", padlen=min(count - 1, round(2 * rate)))
    return float(np.sqrt((fast**2).sum(axis=-1).mean()))


def acceleration_px(path_px: np.ndarray) -> float | None:
    """Mean length of the path's second difference, pixels per frame^2. Lower is better."""
    if len(path_px) < 3:
        return None
    return float(np.linalg.norm(np.diff(path_px, 2, axis=0), axis=-1).mean())


def stability(path_px: np.ndarray, rate: float) -> float | None:
    """Share of the path's energy below 0.625 Hz after taking out its straight line. Higher is better.

    As published where that is sound, and: a fixed frequency (5 bins of an 8 s clip) instead of 5 bins, each coordinate
    by itself instead of |translation|, no drift, so that neither a clip's length nor a pan hides jitter, and
    INVISIBLE_PX of motion counts as calm, so that a locked shot is not judged by its noise.
    """
    count = len(path_px)
    if count < 2.0 * rate:
        return None
    signal = path_px.reshape(count, -1)
    time = np.linspace(-1, 1, count)[:, None]
    line = (signal * time).sum(axis=0) / (time**2).sum() * time
    window = np.hanning(count)[:, None]
    spectrum = np.abs(np.fft.rfft((signal - signal.mean(axis=0) - line) * window, axis=0)[1:]) ** 2
    energy = 2.0 * spectrum.sum(axis=1) / (count * (window**2).sum()) / len(signal.T) * 2
    hertz = np.fft.rfftfreq(count, 1.0 / rate)[1:]
    unseen = INVISIBLE_PX**2
    return float((energy[hertz <= 0.625].sum() + unseen) / (energy.sum() + unseen))


# --- Epipolar Sampson error -------------------------------------------------------------------------------------------


def sampson(F: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n] squared Sampson distances, pixels^2, of matched points [n, 2] under second^T F first = 0."""
    ones = np.ones((len(first), 1))
    x1, x2 = np.hstack([first, ones]).astype(float), np.hstack([second, ones]).astype(float)
    Fx1, Ftx2 = x1 @ F.T, x2 @ F
    scale = Fx1[:, 0] ** 2 + Fx1[:, 1] ** 2 + Ftx2[:, 0] ** 2 + Ftx2[:, 1] ** 2
    return (x2 * Fx1).sum(axis=1) ** 2 / np.maximum(scale, 1e-8)


def epipolar_published(first: np.ndarray, second: np.ndarray) -> float | None:
    """Mean squared Sampson distance over all matches of two consecutive frames, pixels^2. Lower is better.

    F by RANSAC (1 px, 0.99) of at least 8 matches that pass ratio 0.75. Fault: the mean is over wrong matches too, so
    it mostly counts how often matching failed, and it grows with the picture's size.
    Source: the paper's evaluation code, section 4.1 "Epipolar Sampson error".
    """
    F = _fundamental(first, second, cv2.FM_RANSAC, 1.0, 0.99)
    return None if F is None else float(sampson(F, first, second).mean())


def epipolar(first: np.ndarray, second: np.ndarray) -> float | None:
    """Mean squared Sampson distance, each at most 25 px^2, at width MEASURED_WIDTH; F by MAGSAC. Lower is better.

    Bounding each match keeps one wrong match from outweighing a thousand right ones.
    """
    F = _fundamental(first, second, cv2.USAC_MAGSAC, 1.0, 0.999)
    return None if F is None else float(np.minimum(sampson(F, first, second), 25.0).mean())


def _fundamental(first: np.ndarray, second: np.ndarray, how: int, threshold_px: float, confidence: float) -> np.ndarray | None:
    if len(first) < 8:
        return None
    try:
        F, _ = cv2.findFundamentalMat(first, second, how, threshold_px, confidence)
    except cv2.error:
        return None
    return None if F is None or F.shape[0] < 3 else F[:3]


# --- Warping error ----------------------------------------------------------------------------------------------------


def warping_published(previous: np.ndarray, current: np.ndarray) -> float:
    """Mean squared difference of the current frame and the warped previous one, in [0, 1]^2. Lower is better.

    8-bit BGR pictures of at most 640 width, Farneback flow (0.5, 3, 15, 3, 5, 1.2). Faults: the previous frame is
    sampled at p + flow(previous -> current), which is the wrong direction and doubles the motion instead of removing
    it, so that any steady motion counts as an error; what is covered or uncovered counts too. Tables show 1e3 times it.
    Past the previous picture's edge is black, which adds 4 to 11 % on shaky clips.
    Source: the paper's evaluation code, section 4.1 "Warping error".
    """
    flow = cv2.calcOpticalFlowFarneback(_gray(previous), _gray(current), None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
    found = pulled(previous, flow, edge=cv2.BORDER_CONSTANT)
    return float(((found - current.astype(np.float32)) ** 2).mean() / 255.0**2)


def warping(previous: np.ndarray, current: np.ndarray, flow: Flow, within: np.ndarray | None = None) -> float | None:
    """Mean squared difference of the current frame and the previous one pulled by flow(current -> previous).

    In [0, 1]^2. Pixels whose flow there and back disagrees (covered, or out of the picture) do not count, nor those
    outside `within` [h, w] bool. None where too little is left. 8-bit BGR pictures. Lower is better.
    """
    difference, seen = flow_difference(previous, current, flow)
    seen = seen if within is None else seen & within
    if seen.sum() < 0.01 * seen.size:
        return None
    return float((difference[seen] ** 2).mean() / 255.0**2)


def flow_difference(previous: np.ndarray, current: np.ndarray, flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """([h, w, 3] float32 difference in code values, [h, w] bool where both frames see the same point)."""
    backward, forward = flow(current, previous), flow(previous, current)
    height, width = current.shape[:2]
    returned = backward + pulled(forward, backward)
    size = (backward**2).sum(axis=-1) + (forward**2).sum(axis=-1)
    seen = (returned**2).sum(axis=-1) <= 0.01 * size + 0.5
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + backward[..., 0], y + backward[..., 1]
    seen &= (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return pulled(previous, backward) - current.astype(np.float32), seen


def pulled(picture: np.ndarray, flow: np.ndarray, edge: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """float32 `picture` sampled at every pixel plus `flow`; edge: what OpenCV takes to lie beyond its own."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        picture.astype(np.float32),
        x + flow[..., 0],
        y + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=edge,
    )


def dis_flow(picture: np.ndarray, next_picture: np.ndarray) -> np.ndarray:
    """Flow from OpenCV's DIS, which needs no weights; pictures narrower than 32 px are not accepted by it."""
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return dis.calc(_gray(picture), _gray(next_picture), None)


def _gray(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if picture.ndim == 3 else picture


# --- Pictures of the common area --------------------------------------------------------------------------------------


def psnr(first: np.ndarray, second: np.ndarray, within: np.ndarray) -> float | None:
    """dB of 8-bit pictures over the pixels of `within`; at most 100 dB, which equal pictures get. Higher is better."""
    if not within.any():
        return None
    error = ((first[within].astype(np.float32) - second[within].astype(np.float32)) ** 2).mean()
    return float(min(100.0, 10.0 * math.log10(255.0**2 / max(error, 1e-12))))


def ssim(first: np.ndarray, second: np.ndarray, within: np.ndarray) -> float | None:
    """Mean structural similarity of two luma pictures over `within`. 1 = equal. Higher is better.

    Source: Wang et al. 2004, 11 x 11 Gaussian of 1.5 px, K1 = 0.01, K2 = 0.03, 255 levels.
    """
    within = cv2.erode(within.astype(np.uint8), np.ones((11, 11), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    if not within.any():
        return None

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    a, b = first.astype(np.float32), second.astype(np.float32)
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b, covariance = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    return float(values[within].mean())


def gradient_energy(luma: np.ndarray, within: np.ndarray) -> float | None:
    """Mean squared gradient (central differences, code values^2 per pixel^2) over `within`, one pixel inside it."""
    within = cv2.erode(within.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if not within.any():
        return None
    values = luma.astype(np.float32)
    across, down = np.zeros_like(values), np.zeros_like(values)
    across[:, 1:-1] = (values[:, 2:] - values[:, :-2]) / 2
    down[1:-1] = (values[2:] - values[:-2]) / 2
    return float((across**2 + down**2)[within].mean())
