# SPDX-License-Identifier: Apache-2.0
"""Warping error where several results show the same part of the original, so that none gains by what it fills or cuts."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.reading import decoded
from vs3r_engine.evaluation.registration import blank, laid_on
from vs3r_engine.evaluation.seen import small


def warping_in_common(
    results: Mapping[str, Path], measured: Mapping[str, Measurement], choice: Choice | None = None
) -> dict[str, float | None]:
    """1e3 x warping error of each result inside the area of the current original frame that all of them show.

    measured: what `measure` found for these results. A pair of frames counts where every result was recognised.
    """
    choice = choice or Choice()
    sums: dict[str, list[float]] = {name: [] for name in results}
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
    return {name: float(np.mean(values)) if values else None for name, values in sums.items()}


def _differences(
    shown: dict[str, np.ndarray], before: dict[str, np.ndarray], H: dict[str, np.ndarray], flow: metrics.Flow
) -> dict[str, float]:
    height, width = next(iter(shown.values())).shape[:2]
    kept = [laid_on((~blank(shown[n])).astype(np.uint8), np.linalg.inv(H[n]), width, height, cv2.INTER_NEAREST) for n in shown]
    common = np.minimum.reduce(kept)
    values = {}
    for name, picture in shown.items():
        here = (
            cv2.erode(
                laid_on(common, H[name], width, height, cv2.INTER_NEAREST),
                np.ones((5, 5), np.uint8),
                borderType=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            > 0
        )
        value = metrics.warping(before[name], picture, flow, here)
        if value is None:
            return {}
        values[name] = 1e3 * value
    return values
