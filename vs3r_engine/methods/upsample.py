# SPDX-License-Identifier: Apache-2.0
"""A network's small depth lifted to the clip's resolution: smooth where the depth is smooth, and at its edges as sharp
as the picture, so that full-size points lie on one surface or the other and never between."""

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 0.04
"""Depths that leave the plane of their neighbours by more than this share belong to different surfaces."""
COLOUR_SPREAD = 0.05
"""How alike brightness must be, in [0, 1], to be taken for the same surface."""
DISTANCE_SPREAD = 1.0
"""In small pixels."""


def upsampled_depth(depth: Tensor, guide: Tensor) -> Tensor:
    """[h, w] z-depth at the guide's size.

    depth: [rows, columns], NaN where unknown; it spans the guide's picture. guide: [h, w] brightness in [0, 1]. Away
    from edges 1 / depth is interpolated bilinearly, which is exact on planes. At an edge every pixel takes the depth of
    the surrounding samples that look like it, never a mixture of two surfaces. NaN where all around is unknown.
    """
    height, width = guide.shape
    rows, columns = depth.shape
    if (rows, columns) == (height, width):
        return depth
    nearness = 1 / torch.where(depth > 0, depth, torch.nan)
    known = nearness.isfinite()
    filled = torch.where(known, nearness, 0.0)
    smooth = _resized(filled, (height, width))
    is_edge = (_bend(filled) > EDGE * filled) | _grown(~known)
    is_edge = F.interpolate(is_edge.float()[None, None], size=(height, width), mode="nearest-exact")[0, 0] > 0
    at = is_edge.flatten().nonzero()[:, 0]
    if len(at):
        smooth = smooth.flatten()
        smooth[at] = _edge_aware(filled, known, guide, at)
        smooth = smooth.view(height, width)
    return 1 / torch.where(smooth > 0, smooth, torch.nan)


def _edge_aware(nearness: Tensor, known: Tensor, guide: Tensor, at: Tensor) -> Tensor:
    """[m] nearness of the guide's pixels with flat numbers `at` [m], from the 3 x 3 small pixels around each; 0 where
    none is known."""
    height, width = guide.shape
    rows, columns = nearness.shape
    small_guide = F.interpolate(guide[None, None], size=(rows, columns), mode="area")[0, 0]
    x = (at % width + 0.5) * (columns / width) - 0.5
    y = (at // width + 0.5) * (rows / height) - 0.5
    column, row = x.round().long(), y.round().long()
    step = torch.arange(-1, 2, device=at.device)
    near_row = (row[:, None, None] + step[:, None]).expand(-1, 3, 3).flatten(1)
    near_column = (column[:, None, None] + step).expand(-1, 3, 3).flatten(1)
    inside = (near_row >= 0) & (near_row < rows) & (near_column >= 0) & (near_column < columns)
    sample = near_row.clamp(0, rows - 1) * columns + near_column.clamp(0, columns - 1)
    values = nearness.flatten()[sample]
    usable = inside & known.flatten()[sample]
    unlike = (small_guide.flatten()[sample] - guide.flatten()[at][:, None]) / COLOUR_SPREAD
    away = ((near_row - y[:, None]) ** 2 + (near_column - x[:, None]) ** 2) / DISTANCE_SPREAD**2
    strength = torch.where(usable, -0.5 * (unlike**2 + away), -torch.inf)
    best = strength.argmax(1, keepdim=True)
    chosen = values.gather(1, best)
    alike = usable & ((values / chosen.clamp(min=1e-12) - 1).abs() < EDGE)
    weight = torch.where(alike, (strength - strength.gather(1, best)).exp(), 0.0)
    total = weight.sum(1)
    return torch.where(total > 0, (weight * values).sum(1) / total.clamp(min=1e-12), 0.0)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _bend(nearness: Tensor) -> Tensor:
    """How far each sample is from the lines through opposite neighbours, at most: 0 on planes."""
    rows, columns = nearness.shape
    padded = F.pad(nearness[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    bend = torch.zeros_like(nearness)
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
        one, other = (padded[1 + s * dy : 1 + s * dy + rows, 1 + s * dx : 1 + s * dx + columns] for s in (-1, 1))
        bend = torch.maximum(bend, (one + other - 2 * nearness).abs())
    return bend


def _grown(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
