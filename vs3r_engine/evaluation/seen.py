# SPDX-License-Identifier: Apache-2.0
"""A frame while it is measured, everything that several metrics need of it found once; and the path of such frames."""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.reading import VideoFacts, luma
from vs3r_engine.evaluation.registration import Features, features, homography, similarity, tracks


def small(picture: np.ndarray) -> np.ndarray:
    """At MEASURED_WIDTH."""
    height, width = picture.shape[:2]
    if width == metrics.MEASURED_WIDTH:
        return picture
    size = metrics.MEASURED_WIDTH, max(round(height * metrics.MEASURED_WIDTH / width), 32)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if width > size[0] else cv2.INTER_LINEAR)


class Seen:
    """One frame of a video at the size that `size_of` has, and what metrics need of it, found when first asked for."""

    def __init__(self, give: Callable[[], np.ndarray], size_of: VideoFacts, feature_limit: int) -> None:
        self._give, self._size_of, self._feature_limit = give, size_of, feature_limit

    @functools.cached_property
    def full(self) -> np.ndarray:
        picture, width, height = self._give(), self._size_of.width, self._size_of.height
        if picture.shape[:2] == (height, width):
            return picture
        how = cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_CUBIC
        return cv2.resize(picture, (width, height), interpolation=how)

    @functools.cached_property
    def small(self) -> np.ndarray:
        return small(self.full)

    @functools.cached_property
    def luma(self) -> np.ndarray:
        return luma(self.small)

    @functools.cached_property
    def features(self) -> Features:
        return features(self.luma, self._feature_limit)

    @functools.cached_property
    def full_features(self) -> Features:
        return self.features if self.small is self.full else features(luma(self.full), self._feature_limit)


class PicturePath:
    """The accumulated motion of a video. published: also as the paper has it, from homographies of the same tracks."""

    def __init__(self, rate: float, *, published: bool) -> None:
        self._rate, self._published = rate, published
        self._before: np.ndarray | None = None
        self._steps: list[np.ndarray | None] = []
        self._homographies: list[np.ndarray | None] = []

    def add(self, luma: np.ndarray) -> None:
        """The next frame."""
        if self._before is not None:
            moved = tracks(self._before, luma)
            self._steps.append(similarity(*moved))
            if self._published:
                self._homographies.append(homography(*moved, published=True))
        self._before = luma

    def values(self) -> dict[str, float | None]:
        """The path's metrics by name."""
        if self._before is None:
            return {}
        height, width = self._before.shape
        path, _ = metrics.picture_path_px(self._steps, width, height)
        values = {
            "stability": metrics.stability(path, self._rate),
            "jitter_px": metrics.jitter_px(path, self._rate),
            "acceleration_px": metrics.acceleration_px(path),
        }
        if self._published:
            values["stability_published"] = metrics.stability_published(self._homographies)
            values["stability_older"] = metrics.stability_older(self._homographies)
        return values

    @property
    def bridged(self) -> int:
        """Frames whose motion was not found."""
        return sum(step is None for step in self._steps)
