# SPDX-License-Identifier: Apache-2.0
"""RAFT-large optical flow (the paper's f_o in eq. 5) from torchvision, with weights from our manifest only."""

import functools
from typing import Any

import numpy as np

from vs3r_engine.errors import SetupError, WeightsMissing
from vs3r_engine.frame import Frame
from vs3r_engine.methods import weights
from vs3r_engine.methods.devices import choose_device, import_torch, memory_errors
from vs3r_engine.methods.tensors import load_tensors
from vs3r_engine.settings import Settings

NAME = "raft-large"
LONGEST_SIDE_PX = 518
LEAST_SIDE_PX = 128
"""torchvision's RAFT correlates at an eighth of the picture over four levels: smaller pictures are enlarged."""


class RaftFlow:
    """FlowEstimator. Not for several threads at once."""

    def __init__(self, settings: Settings, device: str) -> None:
        """Raises: DeviceError; SetupError `torchvision-missing`, `torchvision-mismatch`; WeightsMissing."""
        self._source = settings.analysis.weights
        self._device = choose_device(device).name
        _architecture()
        if weights.random_seed(self._source) is None:
            weights.installed(NAME)

    def prepared(self, frame: Frame) -> Frame:
        """The picture at the size the networks look at, its longest side 518 pixels: tau of eq. 5 is meant at this
        size."""
        scale = min(1.0, LONGEST_SIDE_PX / max(frame.width, frame.height))
        return frame.resized(max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))

    def flow(self, frame: Frame, next_frame: Frame) -> np.ndarray:
        """[h, w, 2] float32 pixels from `frame` to `next_frame`. Raises: OutOfMemory."""
        torch = import_torch()
        with memory_errors("Optical flow", "Use analysis.flow=dis."), torch.inference_mode():
            network = _network(self._source, self._device)
            first, second = (
                torch.from_numpy(f.to_rgb()).to(self._device).permute(2, 0, 1)[None].clamp(0, 1) * 2 - 1 for f in (frame, next_frame)
            )
            height, width = first.shape[-2:]
            # Enlarged if too small, then extended on all sides to multiples of eight by repeating the border.
            scale = max(1.0, LEAST_SIDE_PX / min(height, width))
            if scale > 1:
                first, second = (
                    torch.nn.functional.interpolate(p, scale_factor=scale, mode="bilinear", align_corners=False) for p in (first, second)
                )
            rows, columns = first.shape[-2:]
            down, right = -rows % 8, -columns % 8
            sides = (right // 2, right - right // 2, down // 2, down - down // 2)
            first, second = (torch.nn.functional.pad(p, sides, mode="replicate") for p in (first, second))
            found = network(first, second)[-1][..., sides[2] : sides[2] + rows, sides[0] : sides[0] + columns]
            if scale > 1:
                found = torch.nn.functional.interpolate(found, size=(height, width), mode="bilinear", align_corners=False)
                found = found * found.new_tensor((width / columns, height / rows))[:, None, None]
            return np.ascontiguousarray(found[0].permute(1, 2, 0).float().cpu().numpy())


def _architecture() -> Any:
    try:
        from torchvision.models.optical_flow import raft_large
    except ImportError as error:
        raise SetupError(
            "torchvision-missing",
            "RAFT needs torchvision, which is not installed.",
            'Install it with `pip install "vs3r[raft]"`, or use analysis.flow=dis.',
        ) from error
    except RuntimeError as error:
        raise SetupError(
            "torchvision-mismatch",
            f"torchvision does not fit the installed torch: {str(error).splitlines()[0]}",
            "Install both from the same index (see pytorch.org), or use analysis.flow=dis.",
        ) from error
    return raft_large


@functools.lru_cache(maxsize=1)
def _network(source: str, device: str) -> Any:
    torch = import_torch()
    seed = weights.random_seed(source)
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed[0])
            network = _architecture()(weights=None)
    else:
        _, directory = weights.installed(NAME)
        network = _architecture()(weights=None)
        file = weights.entry(NAME).files[0]
        try:
            network.load_state_dict(load_tensors(directory / file), strict=True)
        except RuntimeError as error:
            raise WeightsMissing(
                "weights-foreign", f"{file} does not hold RAFT-large.", f"Run `vs3r-engine weights fetch {NAME}`."
            ) from error
    return network.eval().requires_grad_(False).to(device)
