# SPDX-License-Identifier: Apache-2.0
"""Motion cues: how unlike the other frames each patch behaves inside the network's global attention. Queries and keys
are reduced as the layers run; a mean of inner products is the inner product with the mean, so only two cues need a
product."""

import torch
from torch import Tensor

from vs3r_engine.methods.vggt4d.network import VggtShape

_OFFSETS = (-6, -4, -2, 2, 4, 6)


def sources(frames: int, reference: int) -> list[int]:
    """The frames a reference is compared with: two, four and six before and after, where they exist; the direct
    neighbours in windows too short for that; none in a window of one frame."""
    far = [reference + offset for offset in _OFFSETS if 0 <= reference + offset < frames]
    return far or [other for other in (reference - 1, reference + 1) if 0 <= other < frames]


class MotionCues:
    """Watches the global blocks (an Observer of the network) and then answers the fused cue of the window."""

    def __init__(self, shape: VggtShape, frames: int) -> None:
        self._m1, self._v1, self._m2, self._zero = shape.cue_layers
        self._averaging = torch.zeros(frames, frames)
        for reference in range(frames):
            chosen = sources(frames, reference)
            self._averaging[reference, chosen] = 1 / max(len(chosen), 1)
        self._maps: dict[str, Tensor] = {}
        self._waiting: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> None:
        """q, k: [heads, frames, patches, head_dim]."""
        if layer == self._zero:
            self._maps["m3"] = self._mean_product(k, k)
            self._maps["v3"] = self._spread([q], [k])
        for name, layers in (("m1", self._m1), ("m2", self._m2)):
            if layer in layers:
                self._maps[name] = self._maps.get(name, 0) + self._mean_product(q, q) / len(layers)
        if layer in self._v1:
            self._waiting.append(q)
            if layer == self._v1[-1]:
                self._maps["v1"] = self._spread(self._waiting, self._waiting)
                self._waiting = []

    def fused(self) -> Tensor:
        """[frames, patches] in [0, 1] per frame, large where something moves by itself: (1 - m1)(1 - v1) m2 (1 - m3)
        v3, all min-max normalised per frame. Zero in a window of one frame."""
        if len(self._averaging) == 1:
            return torch.zeros_like(self._maps["m3"])
        m1, v1, m2, m3, v3 = (normalised(self._maps[name]) for name in ("m1", "v1", "m2", "m3", "v3"))
        return normalised((1 - m1) * (1 - v1) * m2 * (1 - m3) * v3)

    def _mean_product(self, a: Tensor, b: Tensor) -> Tensor:
        """[frames, patches]: mean over heads, source frames and source patches of <a, b'>; O(patches)."""
        of_sources = torch.einsum("rs,hsd->hrd", self._averaging.to(a.device), b.float().mean(2))
        return torch.einsum("hrnd,hrd->rn", a.float(), of_sources) / len(a)

    def _spread(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """[frames, patches]: standard deviation over source patches of <a, b'> averaged over layers, heads and source
        frames: one product of the concatenated heads per reference frame."""
        heads, frames = sum(len(layer) for layer in a), a[0].shape[1]
        spread = []
        for reference in range(frames):
            chosen = sources(frames, reference) or [reference]
            here = torch.cat([layer[:, reference].float() for layer in a])
            there = torch.cat([_mean([layer[:, s] for s in chosen]) for layer in b])
            products = here.transpose(0, 1).flatten(1) @ there.transpose(0, 1).flatten(1).T / heads
            spread.append(products.std(1) if products.shape[1] > 1 else products[:, 0] * 0)
        return torch.stack(spread)


def _mean(tensors: list[Tensor]) -> Tensor:
    """Their mean in float32, one at a time: a stack of them would be several times as large."""
    total = tensors[0].float()
    for tensor in tensors[1:]:
        total = total + tensor.float()
    return total / len(tensors)


def normalised(cue: Tensor) -> Tensor:
    """[frames, ...] scaled to [0, 1] per frame."""
    flat = cue.flatten(1)
    low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
    return ((flat - low) / (high - low + 1e-6)).view_as(cue)
