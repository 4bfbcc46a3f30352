# SPDX-License-Identifier: Apache-2.0
"""One original and any number of its results, read side by side, frame by frame: every metric of each result.

Memory is a few frames whatever the length. Results are brought to the original's size; another rate is refused; a
result that is up to a tenth shorter or longer is measured over the common frames and says so.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.perceptual import Lpips
from vs3r_engine.evaluation.reading import VideoFacts, facts, luma, pictures
from vs3r_engine.evaluation.registration import Features, blank, features, homography, laid_on, matches, motion

SAMPLE_EVERY = 5
"""PSNR, SSIM, sharpness and LPIPS look at every fifth frame, as LPIPS does in the paper."""

_LENGTH_TOLERANCE = 0.1
_EDGE_PX = 4
"""Pixels this near to the edge of what the original shows count neither as kept nor as filled."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one result: values by metric name (None where there is none, and then a reason), notes.

    registration: per frame the homography result_from_original at MEASURED_WIDTH, row by row; None where the result was
    not recognised or not looked at.
    """

    values: dict[str, float | None]
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    registration: list[list[float] | None] = field(default_factory=list)
    frames: int = 0
    flow: str = "DIS"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure.

    published: the paper's own definitions too (SIFT of every frame at full size: slow on large pictures). every: all
    metrics but those of the path look at every n-th frame and the one before it; the published definitions mean 1, and
    of them only cropping and warping error follow this. published_small: the published definitions on pictures of
    MEASURED_WIDTH too, which changes the epipolar error of larger pictures and saves most of the time they take.
    """

    published: bool = True
    every: int = 1
    flow: metrics.Flow = metrics.dis_flow
    flow_name: str = "DIS"
    lpips: Lpips | None = None
    lpips_reason: str = "LPIPS was not asked for."
    published_small: bool = False


def measure(
    original: Path, results: Mapping[str, Path], choice: Choice | None = None, *, with_input: bool = True
) -> dict[str, Measurement]:
    """Every result by name, and with_input the original itself as "input" (its path metrics alone).

    A result that cannot be read or does not belong to the original gets `error`. Raises: MediaError when the original
    itself cannot be read.
    """
    choice = choice or Choice()
    source = facts(original)
    failed: dict[str, Measurement] = {}
    running: dict[str, _Result] = {}
    for name, path in results.items():
        try:
            running[name] = _Result(_checked(facts(path), source), source, choice)
        except VS3RError as error:
            failed[name] = Measurement({}, error=str(error))
    itself = _Path(source)
    count = 0
    for count, picture in enumerate(pictures(original), 1):
        seen = _Seen(picture)
        if with_input:
            itself.add(seen.luma)
        for name in list(running):
            try:
                running[name].advance(seen, count - 1)
            except VS3RError as error:
                failed[name] = Measurement({}, error=str(error))
                del running[name]
    if not count:
        raise MediaError("unreadable", f"{original} holds no frame that can be decoded.", "Check that the file is complete.")
    measured = {name: running[name].finished(count) for name in running}
    measured = {name: measured.get(name) or failed[name] for name in results}
    return {"input": Measurement(itself.values(), frames=count), **measured} if with_input else measured


def _checked(result: VideoFacts, source: VideoFacts) -> VideoFacts:
    if abs(result.rate / source.rate - 1) > 0.005:
        raise MediaError(
            "rate-mismatch",
            f"{result.path} runs at {float(result.rate):.3f} frames/s, its original at {float(source.rate):.3f}.",
            "Measure a result of the original's own rate.",
        )
    if result.frame_count and source.frame_count and not _same_length(result.frame_count, source.frame_count):
        raise MediaError(
            "length-mismatch",
            f"{result.path} has {result.frame_count} frames, its original {source.frame_count}.",
            "Measure a result of the whole original.",
        )
    return result


def _same_length(first: int, second: int) -> bool:
    return abs(first - second) <= max(2, _LENGTH_TOLERANCE * max(first, second))


def small(picture: np.ndarray) -> np.ndarray:
    """At MEASURED_WIDTH."""
    height, width = picture.shape[:2]
    if width == metrics.MEASURED_WIDTH:
        return picture
    size = metrics.MEASURED_WIDTH, max(round(height * metrics.MEASURED_WIDTH / width), 32)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if width > size[0] else cv2.INTER_LINEAR)


class _Seen:
    """One frame of a video, and what several metrics need of it, found when first asked for."""

    def __init__(self, picture: np.ndarray) -> None:
        self.full = picture
        self.small = small(picture)
        self.luma = luma(self.small)

    @functools.cached_property
    def features(self) -> Features:
        return features(self.luma)

    @functools.cached_property
    def full_features(self) -> Features:
        return self.features if self.small is self.full else features(luma(self.full))


class _Path:
    """The accumulated motion of a video."""

    def __init__(self, source: VideoFacts) -> None:
        self._rate = float(source.rate)
        self._before: np.ndarray | None = None
        self._steps: list[np.ndarray | None] = []

    def add(self, luma_: np.ndarray) -> None:
        if self._before is not None:
            self._steps.append(motion(self._before, luma_))
        self._before = luma_

    def values(self) -> dict[str, float | None]:
        if self._before is None:
            return {}
        height, width = self._before.shape
        path, _ = metrics.picture_path_px(self._steps, width, height)
        return {
            "stability": metrics.stability(path, self._rate),
            "jitter_px": metrics.jitter_px(path, self._rate),
            "acceleration_px": metrics.acceleration_px(path),
        }

    @property
    def bridged(self) -> int:
        return sum(step is None for step in self._steps)


class _Result:
    """One result while it is being measured."""

    def __init__(self, result: VideoFacts, source: VideoFacts, choice: Choice) -> None:
        self._facts, self._source, self._choice = result, source, choice
        self._pictures: Iterator[np.ndarray] = pictures(result.path)
        self._before: _Seen | None = None
        self._now: _Seen | None = None
        self._H: np.ndarray | None = None
        self._path = _Path(source)
        self._frames = 0
        self._registered: list[np.ndarray | None] = []
        self._steps: list[np.ndarray | None] = []
        self._zoom: list[float | None] = []
        self._blank: list[float] = []
        self._registration: list[list[float] | None] = []
        self._series: dict[str, list[float]] = {}

    def advance(self, original: _Seen, frame_index: int) -> None:
        """Measure the next frame against the original's; nothing when the result has ended."""
        picture = next(self._pictures, None)
        if picture is None:
            self._now = None
            return
        height, width = original.full.shape[:2]
        if picture.shape != original.full.shape:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_CUBIC)
        self._before, self._now = self._now, _Seen(picture)
        self._frames += 1
        self._path.add(self._now.luma)
        if self._choice.published:
            self._published(original, register=frame_index % self._choice.every == 0)
        turn, rest = divmod(frame_index, self._choice.every)
        if rest:
            self._registration.append(None)
            return
        self._areas(original)
        if self._before is not None:
            self._against_before(self._before, self._now)
        if turn % max(1, round(SAMPLE_EVERY / self._choice.every)) == 0 and self._H is not None:
            self._against_original(original)

    def finished(self, original_count: int) -> Measurement:
        """The values over all frames."""
        extra = sum(1 for _ in self._pictures)
        total = self._frames + extra
        if not self._frames:
            return Measurement({}, error=f"{self._facts.path} holds no frame that can be decoded. [unreadable]")
        if not _same_length(total, original_count):
            return Measurement(
                {},
                error=f"{self._facts.path} has {total} frames, its original {original_count}. "
                "Measure a result of the whole original. [length-mismatch]",
            )
        choice = self._choice
        values: dict[str, float | None] = {"cropping": metrics.cropping(self._zoom, self._blank), **self._path.values()}
        for name in (
            "epipolar_px2",
            "warping_e3",
            "psnr_db",
            "ssim",
            "sharpness",
            "flicker_filled",
            "flicker_kept",
            "lpips",
        ):
            values[name] = self._mean(name)
        values["hole_percent"] = 100.0 * float(np.mean(self._blank))
        if choice.published:
            values["cropping_published"] = metrics.cropping_published(self._registered)
            values["stability_published"] = metrics.stability_published(self._steps)
            values["stability_older"] = metrics.stability_older(self._steps)
            values["epipolar_published"] = self._mean("epipolar_published")
            values["warping_published_e3"] = self._mean("warping_published_e3")
        reasons = {
            name: "It could not be measured: too little of the original was recognised." for name, value in values.items() if value is None
        }
        for name in ("jitter_px", "stability"):
            if name in reasons:
                reasons[name] = "The clip is shorter than two seconds."
        if "flicker_filled" in reasons:
            reasons["flicker_filled"] = "Nothing was filled."
        if "lpips" in reasons and choice.lpips is None:
            reasons["lpips"] = choice.lpips_reason
        notes = []
        if (self._facts.width, self._facts.height) != (self._source.width, self._source.height):
            notes.append(f"resized from {self._facts.width}x{self._facts.height} to {self._source.width}x{self._source.height}")
        if total != original_count:
            notes.append(f"measured over {min(self._frames, original_count)} frames; the original has {original_count}, the result {total}")
        if self._path.bridged:
            notes.append(f"motion of {self._path.bridged} frames not found and bridged")
        lost = sum(scale is None for scale in self._zoom)
        if lost:
            notes.append(f"{lost} frames not recognised in the original")
        return Measurement(values, reasons, notes, self._registration, self._frames, choice.flow_name)

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self._series.setdefault(name, []).append(value)

    def _mean(self, name: str) -> float | None:
        values = self._series.get(name)
        return float(np.mean(values)) if values else None

    def _areas(self, original: _Seen) -> None:
        """What is empty, what is kept of the current frame, and what was filled."""
        assert self._now is not None
        height, width = self._now.luma.shape
        self._H = H = homography(*matches(original.features, self._now.features).better_than(0.7), published=False)
        self._empty = empty = blank(self._now.small, original.luma, H)
        self._registration.append(None if H is None else [round(float(v), 9) for v in (H / H[2, 2]).ravel()])
        self._blank.append(float(empty.mean()))
        if H is None:
            self._zoom.append(None)
            return
        self._zoom.append(metrics.zoom_of(H, width, height))
        self._kept = laid_on((~empty).astype(np.uint8), np.linalg.inv(H), width, height, cv2.INTER_NEAREST)

    def _published(self, original: _Seen, *, register: bool) -> None:
        """What the paper's definitions need of every frame."""
        assert self._now is not None
        now, before = self._now, self._before
        if register:
            pair = matches(self._widest(original), self._widest(now))
            self._registered.append(homography(*pair.better_than(0.7), published=True))
        if before is not None:
            pair = matches(self._widest(before), self._widest(now))
            self._steps.append(homography(*pair.better_than(0.7), published=True))
            self._note("epipolar_published", metrics.epipolar_published(*pair.better_than(0.75)))

    def _widest(self, seen: _Seen) -> Features:
        return seen.features if self._choice.published_small else seen.full_features

    def _against_before(self, before: _Seen, now: _Seen) -> None:
        self._note("epipolar_px2", metrics.epipolar(*matches(before.features, now.features).better_than(0.75)))
        if self._choice.published:
            self._note("warping_published_e3", 1e3 * metrics.warping_published(before.small, now.small))
        difference, seen = metrics.flow_difference(before.small, now.small, self._choice.flow)
        if self._H is None:
            return
        height, width = now.luma.shape
        covered = laid_on(np.ones((height, width), np.uint8), self._H, width, height, cv2.INTER_NEAREST)
        around = np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8)
        kept = cv2.erode(covered, around, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
        filled = (cv2.dilate(covered, around) == 0) & ~self._empty
        seen = seen & ~self._empty
        if seen.sum() > 0.01 * seen.size:
            self._note("warping_e3", 1e3 * float((difference[seen] ** 2).mean()) / 255.0**2)
        luma_change = np.abs(difference).mean(axis=2)
        for name, where in (("flicker_filled", filled & seen), ("flicker_kept", kept & seen)):
            if where.sum() > 50:
                self._note(name, float(luma_change[where].mean()))

    def _against_original(self, original: _Seen) -> None:
        assert self._now is not None and self._H is not None
        now, H = self._now, self._H
        height, width = now.luma.shape
        original_from_result = np.linalg.inv(H)
        common = cv2.erode(self._kept, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        laid = laid_on(now.small, original_from_result, width, height, cv2.INTER_CUBIC)
        self._note("psnr_db", metrics.psnr(laid, original.small, common))
        self._note("ssim", metrics.ssim(luma(laid), original.luma, common))
        if self._choice.lpips is not None and original.small.mean() > 5:
            self._note("lpips", self._choice.lpips(laid * common[..., None], original.small * common[..., None]))
        scale = np.diag([now.full.shape[1] / width, now.full.shape[0] / height, 1.0])
        full_height, full_width = now.full.shape[:2]
        here = laid_on(common.astype(np.uint8), scale @ H, full_width, full_height, cv2.INTER_NEAREST) > 0
        there = cv2.resize(common.astype(np.uint8), (full_width, full_height), interpolation=cv2.INTER_NEAREST) > 0
        result_energy = metrics.gradient_energy(luma(now.full), here)
        source_energy = metrics.gradient_energy(luma(original.full), there)
        if result_energy is not None and source_energy:
            self._note("sharpness", result_energy / source_energy)


def warping_in_common(
    results: Mapping[str, Path], measured: Mapping[str, Measurement], choice: Choice | None = None
) -> dict[str, float | None]:
    """1e3 x warping error of each result inside the area of the current original frame that all of them show.

    measured: what `measure` found for these results. A pair of frames counts where every result was recognised.
    """
    choice = choice or Choice()
    sums: dict[str, list[float]] = {name: [] for name in results}
    before: dict[str, np.ndarray] = {}
    for index, now in enumerate(zip(*(pictures(path) for path in results.values()), strict=False)):
        wanted = index % choice.every == 0 and index > 0
        if not wanted and (index + 1) % choice.every:
            continue
        shown = {name: small(picture) for name, picture in zip(results, now, strict=True)}
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
