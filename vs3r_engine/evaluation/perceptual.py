# SPDX-License-Identifier: Apache-2.0
"""LPIPS (AlexNet) through torchmetrics, when its backbone's weights are here; never fetched, never replaced."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

BACKBONE = "alexnet-owt-7be5be79.pth"

Lpips = Callable[[np.ndarray, np.ndarray], float]
"""LPIPS of two 8-bit BGR pictures of one size; 0 = alike."""


def lpips() -> tuple[Lpips | None, str]:
    """(the measure, "") or (None, why there is none)."""
    for package in ("torch", "torchmetrics", "torchvision"):
        if importlib.util.find_spec(package) is None:
            return None, f"LPIPS needs the package {package}, which is not installed (extra `metrics`)."
    import torch

    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return None, f"LPIPS needs a torchvision that fits the installed torch: {str(error).splitlines()[0]}"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not weights.exists():
        return None, f"LPIPS needs AlexNet's weights: put {BACKBONE} into {weights.parent}."
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex").eval()

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        pair = [torch.from_numpy(p[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (first, second)]
        with torch.no_grad():
            network.reset()
            return float(network(*pair))

    return distance, ""
