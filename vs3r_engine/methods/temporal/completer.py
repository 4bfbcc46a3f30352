# SPDX-License-Identifier: Apache-2.0
"""The default Completer: holes are filled from aligned, exposure-matched anchors, their seams feathered, and what no
anchor shows is continued smoothly. Every frame stands by itself: nothing is carried over from the one before."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.temporal.alignment import Template, aligned, template_of, unaligned
from vs3r_engine.methods.temporal.anchors import Anchor, Anchors, prior_weight, rough_positions
from vs3r_engine.methods.temporal.cells import SMALL_PER_CELL, SMALL_WIDTH_PX, Cells, is_chroma
from vs3r_engine.methods.temporal.extrapolation import extrapolated
from vs3r_engine.methods.warp import (
    PlaneMaps,
    Region,
    at_plane,
    cells_of,
    regions_of_cells,
    remapped,
    resampled,
    upsampled,
    vertices,
    whole,
)
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import FillSettings
from vs3r_engine.stages.complete import Views
from vs3r_engine.stages.render import positions_seen, rigid_pixels, source_positions

ANCHORS_PER_SECOND = 6
LEAST_SHARE = 0.3
"""Of what the anchor that counts most for a place counts: those that would count for less count for nothing, so that few
are warped and blended. The others lose as much, so that nothing jumps when one crosses the line."""
MOVING_SHARE = 1e-4
"""What an anchor counts where something moves in it: enough to be taken where no other anchor shows the place at all,
since that is where masks are wrong more often than something moved through the picture for the whole reach."""
MOST_ANCHORS = 4
LOST_PX = -1e5
BAND_SMALL_PX = 10
"""How far beside a hole pictures are compared."""
TOLERATED_LEVELS = 10.0
"""Mismatch beside the hole, in 8-bit levels, at which an anchor counts half."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One anchor's part in a filling, at the vertices [rows, columns] of the whole picture.

    positions: [..., 2] in the anchor. weight: [..., 2], the margin to the anchor's own border in seam widths, and the
    share. gain, bias: [..., planes] in 8-bit levels.
    """

    anchor: Anchor
    positions: np.ndarray
    weight: np.ndarray
    gain: np.ndarray
    bias: np.ndarray


class TemporalCompleter:
    """Fills holes from the frames around; see `Completer`."""

    def __init__(self, settings: FillSettings, rate: Fraction) -> None:
        self.reach_frames = round(settings.radius_s * rate)
        self._step_frames = max(1, round(rate / ANCHORS_PER_SECOND))
        self._small_width_px = SMALL_WIDTH_PX // 2 if settings.quality == "draft" else SMALL_WIDTH_PX

    def complete(self, rendered: Iterable[Rendered], views: Views) -> Iterator[Frame]:
        """See `Completer.complete`."""
        anchors = Anchors(views, self._step_frames, self.reach_frames)
        for item in rendered:
            yield self._completed(item, anchors, views) if item.hole_mask.any() else item.frame

    def _completed(self, item: Rendered, anchors: Anchors, views: Views) -> Frame:
        frame_index = item.target.frame_index
        cells = Cells.of(item.frame, self._small_width_px)
        hole_cells = cells_of(item.hole_mask, cells.cell_px)
        small = cells.small_picture(item.frame)
        candidates = self._candidates(item.target, anchors.around(frame_index, cells), hole_cells, cells)
        layers: list[Layer] = []
        if candidates:
            still = _still_at(item.target, views.view(frame_index), cells)
            template = template_of(small, cells.small_mask(item.hole_mask), still, BAND_SMALL_PX, cells)
            layers = _layers(item, candidates, template, cells)
        return _composed(item, layers, hole_cells, small, cells)

    def _candidates(
        self, target: Target, around: Sequence[Anchor], hole_cells: np.ndarray, cells: Cells
    ) -> list[tuple[Anchor, float]]:
        """The anchors that would have a part in the filling as far as rough geometry tells, and what each counts."""
        if not around:
            return []
        rows, columns = np.nonzero(hole_cells)
        pixels = (np.stack([columns, rows], -1)[::max(1, len(rows) // 100)] + 0.5) * cells.cell_px
        pixels = np.minimum(pixels, (cells.width, cells.height))
        seen = rough_positions(target, around, pixels)
        margin = np.minimum(seen, (cells.width, cells.height) - seen).min(axis=-1)
        reached = np.nan_to_num(np.clip(margin / cells.cell_px + 0.5, 0, 1))
        distance = np.array([anchor.frame_index - target.frame_index for anchor in around])
        counts = prior_weight(distance, self._step_frames, self.reach_frames) * (1e-4 + reached.mean(axis=1) ** 4)
        parts = _shares(counts[:, None] * reached).sum(axis=1)
        if len(around) > MOST_ANCHORS:
            # The first that is left out leaves gently: those just above it count for little more.
            next_best = np.sort(parts)[-MOST_ANCHORS - 1]
            counts *= np.clip(parts / max(next_best, 1e-12) - 1, 0, 1)
        return [(anchor, float(count)) for anchor, count, part in zip(around, counts, parts, strict=True) if count * part > 0]


def _layers(
    item: Rendered, candidates: Sequence[tuple[Anchor, float]], template: Template | None, cells: Cells
) -> list[Layer]:
    chroma = is_chroma(item.frame.layout)
    anchors = [anchor for anchor, _ in candidates]
    rigid = rigid_pixels(item.target, vertices(whole(cells.width, cells.height), cells.cell_px))
    expected = [np.nan_to_num(positions_seen(item.target, rigid, anchor.view), nan=LOST_PX) for anchor in anchors]
    if template is None:
        fit = unaligned(cells, len(anchors), len(chroma))
    else:
        fit = aligned(template, anchors, [_at_small(positions, cells) for positions in expected], cells, chroma)
    positions = [at + _ringed(shift) * cells.small_px for at, shift in zip(expected, fit.shift_small_px, strict=True)]
    margins = [np.minimum(at, (cells.width, cells.height) - at).min(axis=-1).astype(np.float32) / feather_px(cells.width)
               for at in positions]
    weights = np.stack([
        count * _dependable(margin, mismatch, anchor, at, cells)
        for (anchor, count), margin, mismatch, at in zip(candidates, margins, fit.mismatch, positions, strict=True)])
    return [
        Layer(anchor, at, np.dstack([margin, share.astype(np.float32)]), _ringed(gain), _ringed(bias))
        for anchor, at, margin, share, gain, bias in zip(anchors, positions, margins, _shares(weights), fit.gain, fit.bias, strict=True)
        if share.any()]


def _dependable(
    margin: np.ndarray, mismatch: np.ndarray, anchor: Anchor, positions: np.ndarray, cells: Cells
) -> np.ndarray:
    """[rows, columns]: what an anchor can be trusted with at each vertex: covered all around, still, and matching.

    margin: to the anchor's border, in seam widths.
    """
    near = np.ones((3, 3), np.uint8)
    safe = np.clip(cv2.erode(margin, near), 0, 1)
    partly = (cv2.dilate(margin, near) > 0) * np.float32(1e-3)
    dependable = np.maximum(safe, partly) / (1 + np.square(np.square(_ringed(mismatch) / TOLERATED_LEVELS)))
    if anchor.still is not None:
        at = (positions / cells.small_px - 0.5).astype(np.float32)
        dependable *= np.maximum(cv2.erode(remapped(anchor.still, at, cv2.INTER_LINEAR), near), MOVING_SHARE)
    return dependable


def _shares(weights: np.ndarray) -> np.ndarray:
    """Weights [anchors, ...] as shares of their sum, without those of little weight; 0 where all weights are."""
    kept = np.maximum(weights - LEAST_SHARE * weights.max(axis=0), 0)
    return kept / np.maximum(kept.sum(axis=0), 1e-12)


def _ringed(at_cells: np.ndarray) -> np.ndarray:
    """Values at cells [rows, columns, ...] with one ring around, as `vertices` has it."""
    return cv2.copyMakeBorder(at_cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE).reshape(*(n + 2 for n in at_cells.shape[:2]), *at_cells.shape[2:])


def _at_small(positions: np.ndarray, cells: Cells) -> np.ndarray:
    """[h, w, 2] float32 indices into small pictures: full-size positions at the vertices, at every small pixel."""
    height, width = cells.small_shape
    return upsampled(positions / cells.small_px - 0.5, width, height, SMALL_PER_CELL, SMALL_PER_CELL)


def _still_at(target: Target, current: View | None, cells: Cells) -> np.ndarray | None:
    """[h, w] small: what stands still in the current frame, seen from the target; None where everything does."""
    still = None if current is None else cells.still(current.dynamic_mask)
    if still is None:
        return None
    positions = source_positions(target, current, vertices(whole(cells.width, cells.height), cells.cell_px))
    return remapped(still, np.ascontiguousarray(_at_small(np.nan_to_num(positions, nan=LOST_PX), cells)), cv2.INTER_LINEAR)


def feather_px(width: int) -> int:
    """How wide a seam is, in pixels of a picture of this width."""
    return min(max(round(width / 160), 3), 16)


def _composed(
    item: Rendered, layers: Sequence[Layer], hole_cells: np.ndarray, small: np.ndarray, cells: Cells
) -> Frame:
    """The frame with its holes filled from the layers, and from a smooth continuation of all that where there is none."""
    frame, layout = item.frame, item.frame.layout
    planes = tuple(plane.copy() for plane in frame.planes)
    around = cv2.dilate(hole_cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    unfilled = []
    for region in regions_of_cells(around, cells.width, cells.height, cells.cell_px):
        hole = item.hole_mask[region.slices]
        seam = _seam(item.hole_mask, region, feather_px(cells.width))
        sums, total = _filling(layers, region, planes, layout, cells)
        covered = np.minimum(total, 1)
        blend = np.where(hole, total > 0, seam * covered)
        for i, plane in enumerate(planes):
            slices = region.plane_slices(layout, i)
            here = plane[slices]
            mixed = here + at_plane(blend, here.shape) * (sums[i] / np.maximum(at_plane(total, here.shape), 1e-6) - here)
            _store(mixed, plane[slices], layout)
        missing = (1 - covered) * np.where(hole, 1, seam)
        if missing[hole].max(initial=0) > 1e-3:
            unfilled.append((region, missing))
    if unfilled:
        _continue(planes, unfilled, item, small, cells)
    return replace(frame, planes=planes)


def _filling(
    layers: Sequence[Layer], region: Region, planes: Sequence[np.ndarray], layout: PixelLayout, cells: Cells
) -> tuple[list[np.ndarray], np.ndarray]:
    """Per plane the weighted sum of the layers in a region, and their total weight [h, w]."""
    shapes = [layout.plane_shape(i, region.width, region.height) for i in range(len(planes))]
    sums = [np.zeros(shape, np.float32) for shape in shapes]
    total = np.zeros((region.height, region.width), np.float32)
    top, left = region.y // cells.cell_px, region.x // cells.cell_px
    bottom, right = -(-(region.y + region.height) // cells.cell_px), -(-(region.x + region.width) // cells.cell_px)
    part = slice(top, bottom + 2), slice(left, right + 2)
    unit = np.float32(layout.peak / 255.0)
    chroma = is_chroma(layout)
    for layer in layers:
        if not layer.weight[part][..., 1].any():
            continue
        margin, share = cv2.split(upsampled(layer.weight[part], region.width, region.height, cells.cell_px, cells.cell_px))
        weight = np.minimum(np.maximum(margin, 0, out=margin), 1, out=margin)
        weight *= share
        total += weight
        maps = PlaneMaps(layer.positions[part], region, layout, cells.cell_px)
        for i, plane_sum in enumerate(sums):
            source = resampled(layer.anchor.view.frame.planes[i], maps.map(i), layout)
            if i < len(chroma):
                shift_x, shift_y = (layout.chroma_shift_x, layout.chroma_shift_y) if chroma[i] else (0, 0)
                match = np.dstack([layer.gain[part][..., i], layer.bias[part][..., i] * unit])
                gain, bias = cv2.split(upsampled(match, source.shape[1], source.shape[0], cells.cell_px >> shift_x, cells.cell_px >> shift_y))
                source = source * gain + bias
            plane_sum += source * at_plane(weight, source.shape)
    return sums, total


def _store(values: np.ndarray, into: np.ndarray, layout: PixelLayout) -> None:
    """Writes float values as the layout's codes."""
    into[...] = values if layout.bit_depth == 32 else np.clip(np.rint(values), 0, layout.peak)


def _seam(hole_mask: np.ndarray, region: Region, feather: int) -> np.ndarray:
    """[h, w] float32 of a region: 1 at the edge of a hole, falling to 0 `feather` pixels beside it."""
    height, width = hole_mask.shape
    top, left = max(0, region.y - feather), max(0, region.x - feather)
    wide = hole_mask[top:min(height, region.y + region.height + feather), left:min(width, region.x + region.width + feather)]
    near = cv2.blur(wide.astype(np.float32), (2 * feather + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    near = near[region.y - top:region.y - top + region.height, region.x - left:region.x - left + region.width]
    return np.minimum(2 * near, 1)


def _continue(
    planes: Sequence[np.ndarray], unfilled: Sequence[tuple[Region, np.ndarray]], item: Rendered, small: np.ndarray, cells: Cells
) -> None:
    """Blends a smooth continuation of the picture into `planes` of `item.frame`, as far as regions lack one."""
    layout = item.frame.layout
    height, width = cells.small_shape
    known = np.ones((height, width), np.float32)
    known[-(-cells.height // cells.small_px):] = 0
    known[:, -(-cells.width // cells.small_px):] = 0
    small = small.copy()
    parts = []
    for region, missing in unfilled:
        top, left = region.y // cells.small_px, region.x // cells.small_px
        rows, columns = -(-region.height // cells.small_px), -(-region.width // cells.small_px)
        parts.append((slice(top, top + rows), slice(left, left + columns)))
        share = cells.shrunk(missing, rows, columns)
        known[parts[-1]] = 1 - share
        for i in range(small.shape[2]):
            small[(*parts[-1], i)] = cells.shrunk(planes[i][region.plane_slices(layout, i)], rows, columns) * (255.0 / layout.peak)
    beyond = _ringed(extrapolated(small, known))
    for (region, missing), (ys, xs) in zip(unfilled, parts, strict=True):
        for i, plane in enumerate(planes):
            here = plane[region.plane_slices(layout, i)]
            if i < small.shape[2]:
                shift_x, shift_y = (layout.chroma_shift_x, layout.chroma_shift_y) if is_chroma(layout)[i] else (0, 0)
                around = np.ascontiguousarray(beyond[ys.start:ys.stop + 2, xs.start:xs.stop + 2, i])
                value = upsampled(around, here.shape[1], here.shape[0], cells.small_px >> shift_x, cells.small_px >> shift_y)
                value = value * np.float32(layout.peak / 255.0)
            else:
                value = np.float32(layout.peak)
            _store(here + at_plane(missing, here.shape) * (value - here), here, layout)
