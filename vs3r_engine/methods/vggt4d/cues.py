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

    @torch.no_grad()
    def __call__(self, layer: int, q: Tensor, k: Tensor) -> None:
        """q, k: [heads, frames, patches, head_dim]. In full precision also where the layers run in less: m1, m2 and m3 are
        small differences of large products, of which bfloat16 leaves about ten levels."""
        with torch.autocast(q.device.type, enabled=False):
            self._observe(layer, q, k)

    def _observe(self, layer: int, q: Tensor, k: Tensor) -> None:
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
        of_frames = torch.stack([b[:, frame].float().mean(1) for frame in range(b.shape[1])], 1)
        of_sources = torch.einsum("rs,hsd->rhd", self._averaging.to(a.device), of_frames)
        # Frame by frame: all at once, the product would first copy every query.
        products = [a[:, frame].float() @ mean[..., None] for frame, mean in enumerate(of_sources)]
        return torch.stack([product[..., 0].mean(0) for product in products])

    def _spread(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """[frames, patches]: standard deviation over source patches of <a, b'> averaged over layers, heads and source
        frames: one product of the concatenated heads per reference frame."""
        heads = sum(len(layer) for layer in a)
        frames, patches, dim = a[0].shape[1:]
        # Filled again for every frame: fresh ones would leave gaps of several times their size in the heap.
        here, there = (a[0].new_empty(patches, heads, dim, dtype=torch.float32) for _ in range(2))
        products = here.new_empty(patches, patches)
        spread = here.new_zeros(frames, patches)
        for reference in range(frames if patches > 1 else 0):
            chosen = sources(frames, reference) or [reference]
            there.zero_()
            first = 0
            for ours, theirs in zip(a, b, strict=True):
                part = slice(first, first + len(ours))
                here[:, part] = ours[:, reference].transpose(0, 1)
                for source in chosen:
                    there[:, part] += theirs[:, source].transpose(0, 1)
                first = part.stop
            torch.mm(here.flatten(1), there.flatten(1).T, out=products)
            spread[reference] = products.std(1) / (heads * len(chosen))
        return spread


def normalised(cue: Tensor) -> Tensor:
    """[frames, ...] scaled to [0, 1] per frame."""
    flat = cue.flatten(1)
    low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
    return ((flat - low) / (high - low + 1e-6)).view_as(cue)
