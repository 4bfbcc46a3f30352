# SPDX-License-Identifier: Apache-2.0
"""What reads answers out of VGGT's tokens: the camera head (iterative refinement) and the DPT heads (depth, points).
Attribute names are the public checkpoints' state-dict keys."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vs3r_engine.methods.vggt4d.layers import Block, Mlp


class CameraHead(nn.Module):
    """Camera tokens in, pose encodings out: [frames, 9] = translation 3, quaternion xyzw 4, field of view (vertical,
    horizontal) 2 in radians, of camera-from-world with OpenCV axes."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.embed_pose = nn.Linear(9, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.pose_branch = Mlp(dim, dim // 2, 9)

    def forward(self, camera_tokens: Tensor, iterations: int = 4) -> Tensor:
        """camera_tokens: [frames, dim] of the last layer."""
        tokens = self.token_norm(camera_tokens)[None]
        encoding = torch.zeros(1, tokens.shape[1], 9, device=tokens.device, dtype=tokens.dtype)
        for i in range(iterations):
            known = encoding if i else self.empty_pose_tokens.expand_as(encoding)
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, -1)
            x = gate * (F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift) + tokens
            for block in self.trunk:
                x = block(x)
            encoding = encoding + self.pose_branch(self.trunk_norm(x))
        return torch.cat((encoding[0, :, :7], encoding[0, :, 7:].relu()), -1)


class ResidualUnit(nn.Module):
    """Two convolutions. The skip carries relu(x), not x: the checkpoints were trained with an in-place activation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.conv2(self.conv1(x).relu()) + x


class Fusion(nn.Module):
    """One step of DPT's coarse-to-fine path."""

    def __init__(self, features: int, has_skip: bool) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, coarse: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        if skip is not None:
            coarse = coarse + self.resConfUnit1(skip)
        fused = F.interpolate(self.resConfUnit2(coarse), size=size, mode="bilinear", align_corners=True)
        return self.out_conv(fused)


class Scratch(nn.Module):
    """DPT's convolutions after the token maps have their sizes."""

    def __init__(self, channels: tuple[int, ...], features: int, outputs: int) -> None:
        super().__init__()
        for i, wide in enumerate(channels, 1):
            setattr(self, f"layer{i}_rn", nn.Conv2d(wide, features, 3, padding=1, bias=False))
            setattr(self, f"refinenet{i}", Fusion(features, has_skip=i < len(channels)))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1))


class DptHead(nn.Module):
    """Token maps of four layers in, a dense prediction of `outputs` channels out, the last of them a confidence >= 1.

    outputs 2: depth by exp. outputs 4: points by sign(x) expm1|x|.
    """

    def __init__(self, dim: int, outputs: int, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, wide, 1) for wide in channels)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            )
        )
        self.scratch = Scratch(channels, features, outputs)

    def forward(self, layers: list[Tensor], grid: tuple[int, int], size: tuple[int, int], frames_at_once: int = 8) -> tuple[Tensor, Tensor]:
        """layers: four [frames, patches, dim]. Returns values [frames, h, w, outputs - 1] and confidence [frames, h,
        w]."""
        pieces = [
            self._dense([layer[i : i + frames_at_once] for layer in layers], grid, size) for i in range(0, len(layers[0]), frames_at_once)
        ]
        values, confidence = zip(*pieces, strict=True)
        return torch.cat(values), torch.cat(confidence)

    def _dense(self, layers: list[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        aspect = size[1] / size[0]
        maps = []
        for i, (layer, project, resize) in enumerate(zip(layers, self.projects, self.resize_layers, strict=True), 1):
            x = project(self.norm(layer).transpose(1, 2).unflatten(-1, grid))
            x = resize(x + 0.1 * position_map(x, aspect))
            maps.append(getattr(self.scratch, f"layer{i}_rn")(x))
        x = maps[-1]
        for i in (4, 3, 2, 1):
            skip = maps[i - 1] if i < 4 else None
            to = maps[i - 2].shape[-2:] if i > 1 else (2 * x.shape[-2], 2 * x.shape[-1])
            x = getattr(self.scratch, f"refinenet{i}")(x, skip, to)
        x = F.interpolate(self.scratch.output_conv1(x), size=size, mode="bilinear", align_corners=True)
        x = self.scratch.output_conv2(x + 0.1 * position_map(x, aspect)).permute(0, 2, 3, 1)
        raw, confidence = x[..., :-1], 1 + x[..., -1].exp()
        return (raw.exp() if self.outputs == 2 else raw.sign() * raw.abs().expm1()), confidence


def position_map(like: Tensor, aspect: float) -> Tensor:
    """[channels, h, w] sines and cosines of where each cell is in a picture of this width/height ratio, on the
    unit-diagonal square."""
    channels, height, width = like.shape[-3:]
    diagonal = math.hypot(aspect, 1)
    span_x, span_y = aspect / diagonal * (width - 1) / width, 1 / diagonal * (height - 1) / height
    rate = 100.0 ** -(torch.arange(channels // 4, device=like.device, dtype=torch.float32) / (channels // 4))
    x = torch.linspace(-span_x, span_x, width, device=like.device)[:, None] * rate
    y = torch.linspace(-span_y, span_y, height, device=like.device)[:, None] * rate
    across = torch.cat((x.sin(), x.cos()), -1)[None].expand(height, -1, -1)
    down = torch.cat((y.sin(), y.cos()), -1)[:, None].expand(-1, width, -1)
    return torch.cat((across, down), -1).permute(2, 0, 1).to(like.dtype)
