# SPDX-License-Identifier: Apache-2.0
"""Warping error where several results show the same part of the original, so that none gains by what it fills or cuts; as
they are, and all as soft as the softest of them, so that none gains by detail it lost."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.reading import decoded, luma
from vs3r_engine.evaluation.registration import blank, laid_on
from vs3r_engine.evaluation.seen import small

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


def _differences(
    shown: dict[str, np.ndarray], before: dict[str, np.ndarray], H: dict[str, np.ndarray], flow: metrics.Flow
) -> dict[str, tuple[float, float]]:
    height, width = next(iter(shown.values())).shape[:2]
    kept = [laid_on((~blank(shown[n])).astype(np.uint8), np.linalg.inv(H[n]), width, height, cv2.INTER_NEAREST) for n in shown]
    common = np.minimum.reduce(kept)
    here = {}
    for name in shown:
        here[name] = (
            cv2.erode(
                laid_on(common, H[name], width, height, cv2.INTER_NEAREST),
                np.ones((5, 5), np.uint8),
                borderType=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            > 0
        )
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
