# SPDX-License-Identifier: Apache-2.0
"""k-means and multi-level Otsu thresholds on torch tensors, deterministic, for any number of points."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def kmeans(points: Tensor, clusters: int, seed: int = 42, iterations: int = 100) -> Tensor:
    """Cluster number of each point, [n] int64: k-means++ start, then Lloyd's iterations until nothing moves.

    points: [n, d]. With fewer distinct points than clusters there are fewer clusters; with none the answer is empty.
    """
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.long, device=points.device)
    points = points.float()
    points = points - points.mean(0)
    generator = torch.Generator().manual_seed(seed)
    centres = points[int(torch.randint(len(points), (1,), generator=generator))][None]
    nearest = _squared(points, centres)[:, 0]
    while len(centres) < clusters and nearest.max() > 0:
        # Metal has no double precision.
        ranks = (nearest if nearest.device.type == "mps" else nearest.double()).cumsum(0)
        chosen = int(torch.searchsorted(ranks, ranks[-1] * float(torch.rand((), generator=generator))))
        centres = torch.cat((centres, points[min(chosen, len(points) - 1)][None]))
        nearest = torch.minimum(nearest, _squared(points, centres[-1:])[:, 0])

    label = _squared(points, centres).argmin(1)
    for _ in range(iterations):
        count = torch.bincount(label, minlength=len(centres))
        total = sums_by_label(points, label, len(centres))
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        previous, label = label, _squared(points, centres).argmin(1)
        if torch.equal(previous, label):
            break
    return label


def _squared(points: Tensor, centres: Tensor) -> Tensor:
    """[n, k] squared distances."""
    return ((points * points).sum(1)[:, None] - 2 * points @ centres.T + (centres * centres).sum(1)).clamp_(min=0)


def cluster_means(values: Tensor, label: Tensor) -> Tensor:
    """Each value replaced by the mean of its cluster; [n]."""
    count = torch.bincount(label)
    return (sums_by_label(values[:, None], label, len(count))[:, 0] / count.clamp(min=1))[label]


def sums_by_label(values: Tensor, label: Tensor, labels: int) -> Tensor:
    """[labels, d] sums of [n, d] values. As a product, because adding in place is done in any order on a GPU, and equal
    inputs must give equal masks."""
    return F.one_hot(label, labels).to(values.dtype).T @ values


def otsu_thresholds(values: Tensor, classes: int, bins: int = 256) -> Tensor | None:
    """The classes - 1 ascending thresholds that maximise the between-class variance of the histogram; class i is
    threshold[i - 1] < value <= threshold[i]. None where fewer than `classes` bins are filled."""
    low, high = values.min().item(), values.max().item()
    histogram = torch.histc(values.float(), bins, low, high).cpu().double() if high > low else torch.zeros(0, dtype=torch.float64)
    if int((histogram > 0).sum()) < classes:
        return None
    centre = low + (torch.arange(bins, dtype=torch.float64) + 0.5) * ((high - low) / bins)
    weight = torch.cat((histogram.new_zeros(1), histogram.cumsum(0)))
    moment = torch.cat((histogram.new_zeros(1), (histogram * centre).cumsum(0)))
    # gain[i, j]: what bins i..j contribute to the between-class variance as one class.
    mass = weight[None, 1:] - weight[:-1, None]
    gain = torch.where(mass > 0, (moment[None, 1:] - moment[:-1, None]) ** 2 / mass.clamp(min=1e-300), 0.0)
    gain = gain.masked_fill(torch.ones(bins, bins, dtype=torch.bool).tril(-1), -torch.inf)
    best, choices = gain[0], []
    for _ in range(classes - 1):
        # best[j]: bins 0..j in as many classes as so far; the next class starts after some i < j.
        options = best[:-1, None] + gain[1:]
        best, cut = options.max(0)
        choices.append(cut)
    cuts, last = [], bins - 1
    for cut in reversed(choices):
        last = int(cut[last])
        cuts.append(last)
    return centre[cuts[::-1]].to(values)


def moving_threshold(values: Tensor) -> float | None:
    """The last Otsu threshold of 2, 3 or 4 classes, whichever separates the class means most: variance of the means
    over the root of the number of classes. None where all values are alike."""
    best_score, best = -1.0, None
    for classes in (2, 3, 4):
        thresholds = otsu_thresholds(values, classes)
        if thresholds is None:
            continue
        edges = [-torch.inf, *thresholds.tolist(), torch.inf]
        members = [values[(values > low) & (values <= high)] for low, high in itertools.pairwise(edges)]
        means = torch.stack([m.mean() for m in members if len(m)])
        score = means.var(correction=0).item() / classes**0.5
        if score > best_score:
            best_score, best = score, edges[-2]
    return best
