# SPDX-License-Identifier: Apache-2.0
"""VGGT as plain torch modules whose state-dict keys and shapes equal the public checkpoints': frames in, tokens,
cameras, depth and points out. Source: the paper's reference [10] and its base network; see ARCHITECTURE.md."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vs3r_engine.methods.vggt4d.heads import CameraHead, DptHead
from vs3r_engine.methods.vggt4d.layers import Block, rotary_2d

PATCH_PX = 14
REGISTERS = 4
SPECIAL_TOKENS = 1 + REGISTERS
"""Camera token and registers, before a frame's patch tokens."""

Observer = Callable[[int, Tensor, Tensor], None]
"""Told (layer, queries, keys) of each global block: [heads, frames, patches, head_dim], normed and rotated."""


@dataclass(frozen=True, slots=True)
class VggtShape:
    """Sizes of the network; the defaults are VGGT-1B's.

    cue_layers: the global layers of the motion cues: m1, v1, m2 and the layer of m3 and v3 (see cues.py).
    """

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    camera_depth: int = 4
    camera_heads: int = 16
    dpt_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_features: int = 256
    suppressed_layers: int = 5
    cue_layers: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int] = (
        (3, 4, 5, 6, 7),
        (18, 19),
        (17, 18, 19, 20, 21),
        0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What the alternating blocks answer. layers: by number, [frames, SPECIAL_TOKENS + patches, 2 dim] (frame block's
    output, global block's output). grid: (rows, columns) of patches."""

    layers: dict[int, Tensor]
    grid: tuple[int, int]


class Projection(nn.Module):
    """Pixels of a patch to a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class PatchEncoder(nn.Module):
    """DINOv2 vision transformer with registers."""

    def __init__(self, shape: VggtShape) -> None:
        super().__init__()
        dim = shape.dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 37 * 37, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in every checkpoint, used in pre-training only
        self.patch_embed = Projection(dim)
        self.blocks = nn.ModuleList(Block(dim, shape.encoder_heads, eps=1e-6) for _ in range(shape.encoder_depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """images: [frames, 3, h, w] normalised. Returns patch features [frames, patches, dim]."""
        rows, columns = images.shape[-2] // PATCH_PX, images.shape[-1] // PATCH_PX
        place = self.pos_embed[:, 1:]
        if (rows, columns) != (37, 37):
            place = F.interpolate(
                # Metal does not resample with antialiasing.
                _off_metal(place.unflatten(1, (37, 37)).permute(0, 3, 1, 2).float()),
                size=(rows, columns),
                mode="bicubic",
                antialias=True,
            )
            place = place.flatten(2).transpose(1, 2).to(images.device)
        x = self.patch_embed(images)
        x = x + place.to(x.dtype)
        first = torch.cat((self.cls_token + self.pos_embed[:, :1], self.register_tokens), 1)
        x = torch.cat((first.expand(len(x), -1, -1).to(x.dtype), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + REGISTERS :]


def _off_metal(tensor: Tensor) -> Tensor:
    return tensor.cpu() if tensor.device.type == "mps" else tensor


class Aggregator(nn.Module):
    """Patch encoder, then blocks that attend within each frame and across all frames in turn."""

    def __init__(self, shape: VggtShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = PatchEncoder(shape)
        # Index 1: [0] is for the first frame, which fixes the world, [1] for all others.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, shape.dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTERS, shape.dim))
        self.frame_blocks = nn.ModuleList(Block(shape.dim, shape.heads, norms=True) for _ in range(shape.depth))
        self.global_blocks = nn.ModuleList(Block(shape.dim, shape.heads, norms=True) for _ in range(shape.depth))

    def encode(self, images: Tensor, frames_at_once: int = 16) -> Tensor:
        """images: [frames, 3, h, w] in [0, 1], sides multiples of PATCH_PX. Returns patch features [frames, patches,
        dim]."""
        mean = images.new_tensor((0.485, 0.456, 0.406))[:, None, None]
        spread = images.new_tensor((0.229, 0.224, 0.225))[:, None, None]
        return torch.cat([self.patch_embed((piece - mean) / spread) for piece in images.split(frames_at_once)])

    def forward(
        self,
        features: Tensor,
        grid: tuple[int, int],
        layers: tuple[int, ...],
        dynamic_patches: Tensor | None = None,
        observe: Observer | None = None,
    ) -> Tokens:
        """The outputs of the asked layers.

        Args:
            features: [frames, patches, dim] of `encode`.
            layers: numbers of the layer pairs to keep; blocks after the last are not run.
            dynamic_patches: [frames, patches] bool; nobody attends to True patches in the first `suppressed_layers`
                layers.
            observe: told the patch tokens' queries and keys of every global block.
        """
        frames, patches = features.shape[:2]
        special = torch.cat((self.camera_token, self.register_token), 2)[0]
        special = torch.cat((special[:1], special[1:].expand(frames - 1, -1, -1)))
        x = torch.cat((special.to(features.dtype), features), 1)
        rotary = rotary_2d(*grid, SPECIAL_TOKENS, self.shape.dim // self.shape.heads, x.device)
        rotary_all = rotary.repeated(frames)
        keep = None
        if dynamic_patches is not None:
            keep = torch.cat((dynamic_patches.new_ones(frames, SPECIAL_TOKENS), ~dynamic_patches), 1)

        kept = {}
        for i in range(max(layers) + 1):
            here = keep if i < self.shape.suppressed_layers else None
            x = within = self.frame_blocks[i](x, rotary, here)
            watch = None if observe is None else _of_patches(observe, i, frames)
            x = self.global_blocks[i](x.flatten(0, 1)[None], rotary_all, None if here is None else here.flatten()[None], watch)
            x = x[0].unflatten(0, (frames, SPECIAL_TOKENS + patches))
            if i in layers:
                kept[i] = torch.cat((within, x), -1)
        return Tokens(kept, grid)


def _of_patches(observe: Observer, layer: int, frames: int) -> Callable[[Tensor, Tensor], None]:
    def watch(q: Tensor, k: Tensor) -> None:
        q, k = (t[0].unflatten(1, (frames, -1))[:, :, SPECIAL_TOKENS:] for t in (q, k))
        observe(layer, q, k)

    return watch


class Vggt(nn.Module):
    """The whole network. Heads answer in float32 whatever the blocks ran in."""

    def __init__(self, shape: VggtShape = VggtShape()) -> None:
        super().__init__()
        self.shape = shape
        self.aggregator = Aggregator(shape)
        self.camera_head = CameraHead(2 * shape.dim, shape.camera_heads, shape.camera_depth)
        self.depth_head = DptHead(2 * shape.dim, 2, shape.dpt_channels, shape.dpt_features)
        self.point_head = DptHead(2 * shape.dim, 4, shape.dpt_channels, shape.dpt_features)

    def cameras(self, tokens: Tokens) -> Tensor:
        """[frames, 9] pose encodings (see CameraHead) from the last layer's tokens."""
        with torch.autocast(tokens.layers[self.shape.depth - 1].device.type, enabled=False):
            return self.camera_head(tokens.layers[self.shape.depth - 1][:, 0].float())

    def depth(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """z-depth [frames, h, w] in the network's scale, and its confidence [frames, h, w] >= 1."""
        values, confidence = self._dense(self.depth_head, tokens)
        return values[..., 0], confidence

    def points(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """World points [frames, h, w, 3] (first camera's axes), and their confidence. Depth and camera are more
        exact."""
        return self._dense(self.point_head, tokens)

    def _dense(self, head: DptHead, tokens: Tokens) -> tuple[Tensor, Tensor]:
        layers = [tokens.layers[i][:, SPECIAL_TOKENS:].float() for i in self.shape.dpt_layers]
        size = (tokens.grid[0] * PATCH_PX, tokens.grid[1] * PATCH_PX)
        with torch.autocast(layers[0].device.type, enabled=False):
            return head(layers, tokens.grid, size)
