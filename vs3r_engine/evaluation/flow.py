# SPDX-License-Identifier: Apache-2.0
"""The dense flow that metrics use: RAFT where its weights are installed, else DIS; the name goes into every result."""

import cv2
import numpy as np

from vs3r_engine.errors import SetupError
from vs3r_engine.evaluation.metrics import Flow, dis_flow
from vs3r_engine.frame import Frame, PixelLayout


def best_flow() -> tuple[Flow, str]:
    """(the flow, its name and, for DIS, why it is not RAFT)."""
    from vs3r_engine.methods import weights
    from vs3r_engine.methods.raft import NAME, RaftFlow
    from vs3r_engine.settings import Settings

    try:
        # Asked first: without weights there is no reason to load torch.
        weights.installed(NAME)
        raft = RaftFlow(Settings(), "auto")
    except SetupError as error:
        return dis_flow, f"DIS ({error.message})"

    def flow(picture: np.ndarray, next_picture: np.ndarray) -> np.ndarray:
        return raft.flow(_frame(picture), _frame(next_picture))

    return flow, "RAFT"


def _frame(picture: np.ndarray) -> Frame:
    blue, green, red = cv2.split(picture)
    return Frame(0, (red, green, blue), PixelLayout("rgb", 8))
