# SPDX-License-Identifier: Apache-2.0
"""What to measure of a result, and what was measured."""

from dataclasses import dataclass, field

from vs3r_engine.evaluation.metrics import Flow, dis_flow
from vs3r_engine.evaluation.perceptual import Lpips
from vs3r_engine.evaluation.registration import FEATURES, QUICK_FEATURES


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

    published: the paper's own definitions too. every: all metrics but those of the path look at every n-th frame and the
    one before it; the published definitions mean 1. quick: the published definitions from what is measured anyway: on
    pictures of MEASURED_WIDTH, the epipolar error at every n-th frame as the others, and stability from the homographies
    of the path's tracks. Otherwise they match SIFT features of every frame at full size, which takes most of the time.
    """

    published: bool = True
    every: int = 1
    flow: Flow = dis_flow
    flow_name: str = "DIS"
    lpips: Lpips | None = None
    lpips_reason: str = "LPIPS was not asked for."
    quick: bool = False

    @property
    def feature_limit(self) -> int:
        """SIFT features looked for in a picture."""
        return QUICK_FEATURES if self.quick else FEATURES
