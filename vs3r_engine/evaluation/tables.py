# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: which metrics there are, their names and directions, and Markdown tables of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Metric:
    """key: name in a Measurement. higher_is_better: None where neither end is better by itself."""

    key: str
    label: str
    higher_is_better: bool | None
    digits: int = 3

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value:.{self.digits}f}"

    def better(self, value: float, other: float) -> int:
        """1 when `value` is better than `other` by more than one percent, -1 when it is worse by that, else 0."""
        if abs(value - other) <= 0.01 * max(abs(value), abs(other)) or self.higher_is_better is None:
            return 0
        return 1 if (value > other) == self.higher_is_better else -1


METRICS = (
    Metric("cropping", "Cropping ratio ↑", True),
    Metric("stability", "Stability ↑", True),
    Metric("jitter_px", "Remaining jitter, px ↓", False, 2),
    Metric("acceleration_px", "Path acceleration, px/frame² ↓", False),
    Metric("epipolar_px2", "Epipolar error, px² ↓", False),
    Metric("epipolar_common_px2", "Epipolar error in the area all show, every frame, px² ↓", False),
    Metric("warping_e3", "Warping error, ×1e-3 ↓", False),
    Metric("warping_common_e3", "Warping error in the area all show, ×1e-3 ↓", False),
    Metric("warping_equal_e3", "Warping error there, all as soft as the softest, ×1e-3 ↓", False),
    Metric("lpips", "LPIPS ↓", False),
    Metric("psnr_db", "PSNR of the registered area, dB ↑", True, 2),
    Metric("ssim", "SSIM of the registered area ↑", True),
    Metric("sharpness", "Sharpness against the source ↑", True),
    Metric("hole_percent", "Empty picture, % ↓", False, 2),
    Metric("flicker_filled", "Flicker of filled areas, levels ↓", False, 2),
    Metric("flicker_kept", "Flicker of kept areas, levels ↓", False, 2),
    Metric("cropping_published", "Cropping ratio (published) ↑", True),
    Metric("stability_published", "Stability (published) ↑", True),
    Metric("stability_older", "Stability (older form) ↑", True),
    Metric("epipolar_published", "Epipolar error (published), px² ↓", False, 1),
    Metric("warping_published_e3", "Warping error (published), ×1e-3 ↓", False),
)

PUBLISHED_COLUMNS = ("cropping_published", "stability_published", "lpips", "epipolar_published", "warping_published_e3")
"""Columns of the paper's tables, in their order."""

_BY_KEY = {metric.key: metric for metric in METRICS}


def metric(key: str) -> Metric:
    return _BY_KEY[key]


def mean(values: Iterable[float | None]) -> float | None:
    """Over the values that exist; None where none does."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def marked(values: Mapping[str, float | None], of: Metric) -> dict[str, str]:
    """Texts of the values by name, the best in bold."""
    known = {name: value for name, value in values.items() if value is not None}
    texts = {name: of.text(value) for name, value in values.items()}
    if known and of.higher_is_better is not None:
        best = (max if of.higher_is_better else min)(known.values())
        texts |= {name: f"**{texts[name]}**" for name, value in known.items() if of.text(value) == of.text(best)}
    return texts
