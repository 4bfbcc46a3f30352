# SPDX-License-Identifier: Apache-2.0
"""The semantic dynamic mask M of a window: motion cues are clustered by appearance, thresholded, and confirmed by
projecting each moving cluster into the other frames."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vs3r_engine.methods.vggt4d.clustering import cluster_means, kmeans, moving_threshold, sums_by_label
from vs3r_engine.methods.vggt4d.cues import normalised

APPEARANCE_CLUSTERS = 64
SPACE_CLUSTERS = 30
CONTRADICTION = 0.1
"""A cluster moves when static surroundings contradict it by more than this, in the network's depth unit plus colour in
[0, 1]."""
VISIBLE_MARGIN = 0.01
LEAST_COMPARABLE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class WindowEvidence:
    """What a first pass found in a window, at the network's size; tensors on one device.

    images: [frames, 3, h, w] in [0, 1]. depth: [frames, h, w] in the network's unit (first cameras about 1 away).
    K: [frames, 3, 3] corner-origin pixels. world_from_camera: [frames, 4, 4].
    features: [frames, patches, dim] appearance. cue: [frames, patches], large where something moves. grid: (rows,
    columns).
    """

    images: Tensor
    depth: Tensor
    K: Tensor
    world_from_camera: Tensor
    features: Tensor
    cue: Tensor
    grid: tuple[int, int]


class Masker(Protocol):
    """Says what moves by itself in a window. A part of its own, so that other reconstructors can bring other
    evidence."""

    def mask(self, evidence: WindowEvidence) -> Tensor:
        """[frames, h, w] bool at the images' size, True = moves."""
        ...


def _size(evidence: WindowEvidence) -> tuple[int, int]:
    return evidence.images.shape[-2], evidence.images.shape[-1]


class CueMasker:
    """The published masker. Never fails for small windows, empty masks or fewer points than clusters."""

    def mask(self, evidence: WindowEvidence) -> Tensor:
        coarse = coarse_mask(evidence.cue, evidence.features, evidence.grid, _size(evidence))
        return refined_mask(coarse, evidence)


def coarse_mask(cue: Tensor, features: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[frames, *size] bool: every patch takes the mean cue of the patches that look like it, and the highest class
    moves.

    Source: VGGT4D's clustering; 64 clusters, threshold over the window.
    """
    if not bool((cue > 0).any()):
        return torch.zeros(len(cue), *size, dtype=torch.bool, device=cue.device)
    label = kmeans(features.flatten(0, 1), APPEARANCE_CLUSTERS)
    score = normalised(cluster_means(cue.flatten(), label).view_as(cue))
    score = F.interpolate(score.unflatten(1, grid)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    threshold = moving_threshold(score)
    return score > threshold if threshold is not None else torch.zeros_like(score, dtype=torch.bool)


def refined_mask(coarse: Tensor, evidence: WindowEvidence) -> Tensor:
    """[frames, h, w] bool: the clusters of coarse points that static parts of other frames contradict.

    A window of one frame has nothing to compare with and keeps its coarse mask.
    """
    frames = len(coarse)
    if frames == 1:
        return coarse
    refined = torch.zeros_like(coarse)
    for i in range(frames):
        points = _world_points(evidence, i)
        dynamic = coarse[i] & inliers(points)
        if not bool(dynamic.any()):
            continue
        label = kmeans(points[dynamic], SPACE_CLUSTERS)
        moves = _contradicted(points[dynamic], evidence.images[i][:, dynamic].T, label, i, coarse, evidence)
        refined[i] = torch.zeros_like(dynamic).masked_scatter_(dynamic, moves[label])
    return dilated(closed(refined))


def _world_points(evidence: WindowEvidence, frame: int) -> Tensor:
    """[h, w, 3] world points of a frame's pixel centres."""
    height, width = evidence.depth.shape[1:]
    depth, K, world_from_camera = evidence.depth[frame], evidence.K[frame], evidence.world_from_camera[frame]
    x = (torch.arange(width, device=depth.device) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height, device=depth.device) + 0.5 - K[1, 2]) / K[1, 1]
    camera = torch.stack((x.expand(height, -1) * depth, y[:, None].expand(-1, width) * depth, depth), -1)
    return camera @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]


def inliers(points: Tensor, neighbours: int = 20, deviations: float = 2.5, reach: int = 3) -> Tensor:
    """[h, w] bool: points whose mean distance to their nearest neighbours is not exceptional in this picture.

    points: [h, w, 3]. Neighbours are looked for among the (2 reach + 1)^2 pixels around, where the nearest points of a
    depth
    map are, instead of in a search tree: no copy to the host and no further package.
    """
    height, width = points.shape[:2]
    axes = [axis.contiguous() for axis in points.unbind(-1)]
    padded = [F.pad(axis[None, None], (reach,) * 4, value=torch.inf)[0, 0] for axis in axes]
    distances = []
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            window = (slice(dy, dy + height), slice(dx, dx + width))
            x, y, z = (there[window] - here for there, here in zip(padded, axes, strict=True))
            distances.append(x * x + y * y + z * z)
    # Beyond the border the distance is infinite: there are fewer neighbours to choose from.
    nearest = torch.stack(distances, -1).topk(neighbours, dim=-1, largest=False, sorted=False).values.sqrt().movedim(-1, 0)
    known = nearest.isfinite()
    mean = nearest.masked_fill(~known, 0).sum(0) / known.sum(0)
    return (mean > 0) & (mean < mean.mean() + deviations * mean.std())


def _contradicted(points: Tensor, colours: Tensor, label: Tensor, frame: int, coarse: Tensor, evidence: WindowEvidence) -> Tensor:
    """[clusters] bool: True where a cluster of world points does not fit the static parts of the other frames, or is
    hardly ever seen there."""
    frames, height, width = evidence.depth.shape
    clusters = int(label.max()) + 1
    sums = torch.zeros(clusters, 2, device=points.device)
    for j in range(frames):
        if j == frame:
            continue
        rotation, centre = evidence.world_from_camera[j, :3, :3], evidence.world_from_camera[j, :3, 3]
        camera = (points - centre) @ rotation
        z = camera[:, 2]
        pixel = camera[:, :2] / z.clamp(min=1e-6)[:, None] * evidence.K[j, (0, 1), (0, 1)] + evidence.K[j, :2, 2]
        seen = (z > 0) & (pixel > 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        place = (pixel / pixel.new_tensor((width, height)) * 2 - 1)[None, None]
        there = F.grid_sample(
            torch.cat((evidence.images[j], coarse[j][None].to(points.dtype)))[None],
            place,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, :, 0]
        depth = F.grid_sample(evidence.depth[j][None, None], place, mode="nearest", padding_mode="border", align_corners=False)[0, 0, 0]
        comparable = seen & (z - VISIBLE_MARGIN < depth) & (there[3] <= 0.5)
        difference = (z - depth).abs() + (there[:3].T - colours).abs().sum(1) / 3
        both = torch.stack((comparable.float(), torch.where(comparable, difference, 0)), 1)
        sums += sums_by_label(both, label, clusters)
    samples, loss = sums.unbind(1)
    hardly_seen = samples < LEAST_COMPARABLE * (frames - 1) * torch.bincount(label, minlength=clusters)
    return hardly_seen | (loss / samples.clamp(min=1) > CONTRADICTION)


def closed(masks: Tensor) -> Tensor:
    """Morphological closing by a 5x5 ellipse; outside the picture counts as neither."""
    ellipse = masks.new_ones(5, 5)
    ellipse[0], ellipse[4] = (masks.new_tensor([False, False, True, False, False]) for _ in range(2))
    return ~_grown(~_grown(masks, ellipse), ellipse)


def dilated(masks: Tensor) -> Tensor:
    """Grown by one pixel in all eight directions."""
    return _grown(masks, masks.new_ones(3, 3))


def _grown(masks: Tensor, element: Tensor) -> Tensor:
    kernel = element.float()[None, None]
    return F.conv2d(masks.float()[:, None], kernel, padding=element.shape[0] // 2)[:, 0] > 0.5
