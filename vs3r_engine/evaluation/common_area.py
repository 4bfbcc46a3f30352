# SPDX-License-Identifier: Apache-2.0
"""Errors where several results show the same part of the original, so that none gains by what it fills or cuts: epipolar
error, and warping error as they are and all as soft as the softest of them, so that none gains by detail it lost."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.reading import decoded, facts, luma
from vs3r_engine.evaluation.registration import blank, homography, laid_on, matches
from vs3r_engine.evaluation.seen import Seen, small

KEYS = "warping_common_e3", "warping_equal_e3"
LARGEST_BLUR_PX, NO_BLUR_PX = 4.0, 0.2
"""A Gaussian of 0.2 pixels changes nothing in 8 bits."""


def warping_in_common(
    results: Mapping[str, Path], measured: Mapping[str, Measurement], choice: Choice | None = None
) -> dict[str, dict[str, float | None]]:
    """Of each result 1e3 x its warping error inside the area of the current original frame that all of them show:
    `warping_common_e3`, and `warping_equal_e3`, for which both frames of every result are blurred by the Gaussian that
    leaves the gradient energy of the softest result there.

    measured: what `measure` found for these results. A pair of frames counts where every result was recognised.
    """
    choice = choice or Choice()
    sums: dict[str, list[tuple[float, float]]] = {name: [] for name in results}
    before: dict[str, np.ndarray] = {}
    for index, now in enumerate(zip(*(decoded(path) for path in results.values()), strict=False)):
        wanted = index % choice.every == 0 and index > 0
        if not wanted and (index + 1) % choice.every:
            continue
        shown = {name: small(give()) for name, give in zip(results, now, strict=True)}
        H = {name: measured[name].registration[index] if index < len(measured[name].registration) else None for name in results}
        if wanted and all(H.values()):
            for name, value in _differences(shown, before, {n: np.reshape(h, (3, 3)) for n, h in H.items() if h}, choice.flow).items():
                sums[name].append(value)
        before = shown
    means = {name: np.mean(values, axis=0) if values else (None, None) for name, values in sums.items()}
    return {name: dict(zip(KEYS, (v if v is None else float(v) for v in pair), strict=True)) for name, pair in means.items()}


def epipolar_in_common(clip: Path, results: Mapping[str, Path], choice: Choice | None = None) -> dict[str, float | None]:
    """px^2: the mean epipolar error of each result over every pair of frames, of the matches inside the area of the
    current original frame that all of them show. Twenty pairs would leave a third of chance in it."""
    choice, size = choice or Choice(), facts(clip)
    errors: dict[str, list[float]] = {name: [] for name in results}
    before: dict[str, tuple[Seen, np.ndarray]] = {}
    for gives in zip(decoded(clip), *(decoded(path) for path in results.values()), strict=False):
        original, *others = (Seen(give, size, choice.feature_limit) for give in gives)
        seen = dict(zip(results, others, strict=True))
        H = {name: homography(*matches(original.features, s.features).better_than(0.7), published=False) for name, s in seen.items()}
        known = {name: h for name, h in H.items() if h is not None}
        here = _shown_by_all({name: s.small for name, s in seen.items()}, known) if len(known) == len(seen) else {}
        now = {name: (seen[name], here[name]) for name in here}
        for name in now if before else ():
            (earlier, shown_before), (later, shown_now) = before[name], now[name]
            first, second = matches(earlier.features, later.features).better_than(0.75)
            inside = _at(shown_before, first) & _at(shown_now, second)
            error = metrics.epipolar(first[inside], second[inside])
            if error is not None:
                errors[name].append(error)
        before = now
    return {name: float(np.mean(values)) if values else None for name, values in errors.items()}


def _at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[n] bool of corner-origin points [n, 2]."""
    column, row = np.clip(points.astype(int), 0, (mask.shape[1] - 1, mask.shape[0] - 1)).T
    return mask[row, column]


def _shown_by_all(shown: Mapping[str, np.ndarray], H: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[h, w] bool in each result: what all of them show of the current original. H: result from original."""
    height, width = next(iter(shown.values())).shape[:2]
    kept = [laid_on((~blank(shown[n])).astype(np.uint8), np.linalg.inv(H[n]), width, height, cv2.INTER_NEAREST) for n in shown]
    common, around = np.minimum.reduce(kept), np.ones((5, 5), np.uint8)
    laid = {name: laid_on(common, H[name], width, height, cv2.INTER_NEAREST) for name in shown}
    return {name: cv2.erode(m, around, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0 for name, m in laid.items()}


def _differences(
    shown: dict[str, np.ndarray], before: dict[str, np.ndarray], H: dict[str, np.ndarray], flow: metrics.Flow
) -> dict[str, tuple[float, float]]:
    here = _shown_by_all(shown, H)
    energies = {name: metrics.gradient_energy(luma(picture), here[name]) for name, picture in shown.items()}
    known = [energy for energy in energies.values() if energy is not None]
    if len(known) < len(shown):
        return {}
    values = {}
    for name, picture in shown.items():
        sigma_px = _softening(luma(picture), here[name], min(known))
        as_is = metrics.warping(before[name], picture, flow, here[name])
        as_soft = metrics.warping(_blurred(before[name], sigma_px), _blurred(picture, sigma_px), flow, here[name])
        if as_is is None or as_soft is None:
            return {}
        values[name] = 1e3 * as_is, 1e3 * as_soft
    return values


def _softening(picture: np.ndarray, within: np.ndarray, energy: float) -> float:
    """The Gaussian, in pixels, that leaves a luma picture this gradient energy; 0 where it has no more."""
    low, high = 0.0, LARGEST_BLUR_PX
    for _ in range(8):
        middle = (low + high) / 2
        left = metrics.gradient_energy(_blurred(picture, middle), within)
        low, high = (middle, high) if left is not None and left > energy else (low, middle)
    return low


def _blurred(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma_px) if sigma_px > NO_BLUR_PX else picture
