# SPDX-License-Identifier: Apache-2.0
"""One result while it is being measured: frame after frame beside its original, then all its values."""

import cv2
import numpy as np

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.reading import VideoFacts, decoded, luma
from vs3r_engine.evaluation.registration import Matches, blank, homography, laid_on, matches
from vs3r_engine.evaluation.seen import PicturePath, Seen

SAMPLE_EVERY = 5
"""PSNR, SSIM, sharpness and LPIPS look at every fifth frame, as LPIPS does in the paper."""

_LENGTH_TOLERANCE = 0.1
_EDGE_PX = 4
"""Pixels this near to the edge of what the original shows count neither as kept nor as filled."""


def same_length(first: int, second: int) -> bool:
    """Whether clips of so many frames can be measured against each other."""
    return abs(first - second) <= max(2, _LENGTH_TOLERANCE * max(first, second))


class MeasuredResult:
    """Keeps two frames, and a few numbers of every frame."""

    def __init__(self, result: VideoFacts, source: VideoFacts, choice: Choice) -> None:
        self._facts, self._source, self._choice = result, source, choice
        self._coming = decoded(result.path)
        self._before: Seen | None = None
        self._H: np.ndarray | None = None
        self._path = PicturePath(float(source.rate), published=choice.published and choice.quick)
        self._frames = 0
        self._registered: list[np.ndarray | None] = []
        self._steps: list[np.ndarray | None] = []
        self._zoom: list[float | None] = []
        self._blank: list[float] = []
        self._registration: list[list[float] | None] = []
        self._series: dict[str, list[float]] = {}

    def advance(self, original: Seen, frame_index: int) -> None:
        """Measure the next frame against the original's; nothing when the result has ended."""
        give = next(self._coming, None)
        if give is None:
            return
        before, now = self._before, Seen(give, self._source, self._choice.feature_limit)
        self._before = now
        self._frames += 1
        self._path.add(now.luma)
        turn, rest = divmod(frame_index, self._choice.every)
        published_pair = None
        if before is not None and self._choice.published and not self._choice.quick:
            published_pair = matches(before.full_features, now.full_features)
            self._steps.append(homography(*published_pair.better_than(0.7), published=True))
            self._note("epipolar_published", metrics.epipolar_published(*published_pair.better_than(0.75)))
        if rest:
            self._registration.append(None)
            return
        self._areas(original, now)
        if before is not None:
            self._against_before(before, now, published_pair)
        if turn % max(1, round(SAMPLE_EVERY / self._choice.every)) == 0 and self._H is not None:
            self._against_original(original, now, self._H)

    def finished(self, original_count: int) -> Measurement:
        """The values over all frames."""
        extra = sum(1 for _ in self._coming)
        total = self._frames + extra
        if not self._frames:
            return Measurement({}, error=f"{self._facts.path} holds no frame that can be decoded. [unreadable]")
        if not same_length(total, original_count):
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
            if not choice.quick:
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

    def _areas(self, original: Seen, now: Seen) -> None:
        """What is empty, what is kept of the current frame, and what was filled."""
        height, width = now.luma.shape
        pair = matches(original.features, now.features)
        if self._choice.published:
            alike = self._choice.quick or now.small is now.full
            published_pair = pair if alike else matches(original.full_features, now.full_features)
            self._registered.append(homography(*published_pair.better_than(0.7), published=True))
        self._H = H = homography(*pair.better_than(0.7), published=False)
        self._empty = empty = blank(now.small, original.luma, H)
        self._registration.append(None if H is None else [round(float(v), 9) for v in (H / H[2, 2]).ravel()])
        self._blank.append(float(empty.mean()))
        if H is None:
            self._zoom.append(None)
            return
        self._zoom.append(metrics.zoom_of(H, width, height))
        self._kept = laid_on((~empty).astype(np.uint8), np.linalg.inv(H), width, height, cv2.INTER_NEAREST)

    def _against_before(self, before: Seen, now: Seen, published_pair: Matches | None) -> None:
        """published_pair: matches of both at full size, where they are known."""
        pair = published_pair if published_pair is not None and now.small is now.full else matches(before.features, now.features)
        self._note("epipolar_px2", metrics.epipolar(*pair.better_than(0.75)))
        if self._choice.published:
            self._note("warping_published_e3", 1e3 * metrics.warping_published(before.small, now.small))
            if self._choice.quick:
                self._note("epipolar_published", metrics.epipolar_published(*pair.better_than(0.75)))
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

    def _against_original(self, original: Seen, now: Seen, H: np.ndarray) -> None:
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
