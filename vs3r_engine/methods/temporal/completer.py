# SPDX-License-Identifier: Apache-2.0
"""The default Completer: holes are filled from aligned, exposure-matched anchors, their seams feathered, and what no
anchor shows is continued smoothly. Every frame stands by itself: nothing is carried over from the one before."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.methods.temporal.alignment import Aligned, Template, aligned, template_of
from vs3r_engine.methods.temporal.anchors import Anchor, Anchors, prior_weight, rough_positions
from vs3r_engine.methods.temporal.cells import SMALL_WIDTH_PX, Cells, is_chroma, picture_planes
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
from vs3r_engine.stages.render import source_positions

ANCHORS_PER_SECOND = 6
LEAST_SHARE = 0.15
"""Of the filling of a place: an anchor that would count for less counts for nothing, so that few are warped and blended.
The others lose as much, so that nothing jumps when one crosses the line."""
BAND_SMALL_PX = 10
"""How far beside a hole pictures are compared."""
TOLERATED_LEVELS = 10.0
"""Mismatch beside the hole, in 8-bit levels, at which an anchor counts half."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One anchor's part in a filling, at the vertices of the whole picture: positions [rows, columns, 2] in the anchor,
    share [rows, columns], margin_px [rows, columns] to the anchor's own border (negative outside of it)."""

    anchor: Anchor
    aligned: Aligned
    positions: np.ndarray
    margin_px: np.ndarray
    share: np.ndarray


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
        candidates = self._candidates(item.target, anchors.around(frame_index, cells), hole_cells, cells)
        small, small_holes = cells.small_picture(item.frame), cells.small_mask(item.hole_mask)
        layers: list[Layer] = []
        if candidates:
            still = _still_at(item.target, views.view(frame_index), cells)
            template = template_of(small, small_holes, still, BAND_SMALL_PX)
            layers = self._layers(item, candidates, template, cells)
        return _composed(item, layers, hole_cells, small, small_holes, cells)

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
        counts = prior_weight(distance, self._step_frames, self.reach_frames) * (0.05 + reached.mean(axis=1) ** 2)
        # A place of which geometry is unsure may need the next best: half the share suffices to be looked at.
        shares = _shares(counts[:, None] * reached, LEAST_SHARE / 2)
        return [(anchor, float(count)) for anchor, count, share in zip(around, counts, shares, strict=True) if share.any()]

    def _layers(
        self, item: Rendered, candidates: Sequence[tuple[Anchor, float]], template: Template, cells: Cells
    ) -> list[Layer]:
        layout = item.frame.layout
        pixels = vertices(whole(cells.width, cells.height), cells.cell_px)
        found, weights = [], []
        for anchor, count in candidates:
            expected = source_positions(item.target, anchor.view, pixels)
            expected = np.nan_to_num(expected, nan=-1e4)
            small_positions = upsampled(expected / cells.small_px - 0.5, *cells.small_shape[::-1], 4, 4)
            fit = aligned(template, anchor, np.ascontiguousarray(small_positions), cells, is_chroma(layout))
            positions = expected + _ringed(fit.shift_small_px) * cells.small_px
            margin = np.minimum(positions, (cells.width, cells.height) - positions).min(axis=-1).astype(np.float32)
            weight = np.float32(count) * _dependable(margin, fit, anchor, positions, cells)
            found.append((anchor, fit, positions, margin))
            weights.append(weight)
        shares = _shares(np.stack(weights), LEAST_SHARE)
        return [Layer(*parts, share) for parts, share in zip(found, shares, strict=True) if share.any()]


def _dependable(
    margin_px: np.ndarray, fit: Aligned, anchor: Anchor, positions: np.ndarray, cells: Cells
) -> np.ndarray:
    """[rows, columns]: what an anchor can be trusted with at each vertex: covered all around, still, and matching."""
    near = np.ones((3, 3), np.uint8)
    safe = np.clip(cv2.erode(margin_px, near) / feather_px(cells.width), 0, 1)
    partly = (cv2.dilate(margin_px, near) > 0) * np.float32(1e-3)
    dependable = np.maximum(safe, partly) / (1 + np.square(np.square(_ringed(fit.mismatch) / TOLERATED_LEVELS)))
    if anchor.still is not None:
        at = (positions / cells.small_px - 0.5).astype(np.float32)
        dependable *= cv2.erode(remapped(anchor.still, at, cv2.INTER_LINEAR), near)
    return dependable


def _shares(weights: np.ndarray, least: float) -> np.ndarray:
    """Weights [anchors, ...] as shares of their sum; those below `least` are 0, continuously. 0 where all weights are."""
    shares = weights / np.maximum(weights.sum(axis=0), 1e-12)
    shares = np.maximum(shares - least * shares.max(axis=0), 0)
    return shares / np.maximum(shares.sum(axis=0), 1e-12)


def _ringed(at_cells: np.ndarray) -> np.ndarray:
    """Values at cells [rows, columns, ...] with one ring around, as `vertices` has it."""
    return cv2.copyMakeBorder(at_cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE)


def _still_at(target: Target, current: View | None, cells: Cells) -> np.ndarray | None:
    """[h, w] small: what stands still in the current frame, seen from the target; None where everything does."""
    still = None if current is None else cells.still(current.dynamic_mask)
    if still is None:
        return None
    positions = source_positions(target, current, vertices(whole(cells.width, cells.height), cells.cell_px))
    at = upsampled(np.nan_to_num(positions, nan=-1e4) / cells.small_px - 0.5, *cells.small_shape[::-1], 4, 4)
    return remapped(still, at, cv2.INTER_LINEAR)


def feather_px(width: int) -> int:
    """How wide a seam is, in pixels of a picture of this width."""
    return min(max(round(width / 160), 3), 16)


def _composed(
    item: Rendered, layers: Sequence[Layer], hole_cells: np.ndarray, small: np.ndarray, small_holes: np.ndarray, cells: Cells
) -> Frame:
    """The frame with its holes filled from the layers, and from a continuation of all that where there is none."""
    frame, layout = item.frame, item.frame.layout
    planes = tuple(plane.copy() for plane in frame.planes)
    beyond: np.ndarray | None = None
    around = cv2.dilate(hole_cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for region in regions_of_cells(around, cells.width, cells.height, cells.cell_px):
        hole = item.hole_mask[region.slices]
        sums, total = _filling(layers, region, planes, layout, cells)
        covered = np.minimum(total, 1.0)
        seam = _seam(item.hole_mask, region, feather_px(cells.width))
        needs_beyond = bool((covered[hole] < 0.999).any())
        if needs_beyond and beyond is None:
            beyond = _continued(layers, small, small_holes)
        for i, plane in enumerate(planes):
            slices = region.plane_slices(layout, i)
            here = plane[slices]
            part, hole_part, covered_part, total_part = (at_plane(m, here.shape) for m in (seam, hole, covered, total))
            value = sums[i] / np.maximum(total_part, 1e-6)
            if needs_beyond:
                value += (1 - covered_part) * (_beyond_at(beyond, region, i, layout, here.shape, cells) - value)
            # Beside the hole the frame's own picture stays where there is nothing to blend it with.
            blend = np.where(hole_part, np.float32(1), part * covered_part)
            mixed = here + blend * (value - here)
            plane[slices] = mixed if layout.bit_depth == 32 else np.clip(np.rint(mixed), 0, layout.peak)
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
    inner = slice(top, bottom), slice(left, right)
    unit = np.float32(layout.peak / 255.0)
    feather = feather_px(cells.width)
    for layer in layers:
        if not layer.share[part].any():
            continue
        maps = PlaneMaps(layer.positions[part], region, layout, cells.cell_px)
        size = region.width, region.height, cells.cell_px, cells.cell_px
        weight = np.clip(upsampled(layer.margin_px[part] * np.float32(1 / feather), *size), 0, 1) * upsampled(layer.share[part], *size)
        total += weight
        for i, plane_sum in enumerate(sums):
            source = resampled(layer.anchor.view.frame.planes[i], maps.map(i), layout).astype(np.float32)
            if i < picture_planes(layout):
                shift = (layout.chroma_shift_x, layout.chroma_shift_y) if is_chroma(layout)[i] else (0, 0)
                plane_size = source.shape[1], source.shape[0], cells.cell_px >> shift[0], cells.cell_px >> shift[1]
                if not is_chroma(layout)[i]:
                    source *= upsampled(_ringed(layer.aligned.gain[..., i])[part], *plane_size)
                source += upsampled(_ringed(layer.aligned.bias[..., i])[part] * unit, *plane_size)
            plane_sum += source * at_plane(weight, source.shape)
    return sums, total


def _seam(hole_mask: np.ndarray, region: Region, feather: int) -> np.ndarray:
    """[h, w] float32 of a region: 1 at the edge of a hole, falling to 0 `feather` pixels beside it."""
    height, width = hole_mask.shape
    top, left = max(0, region.y - feather), max(0, region.x - feather)
    wide = hole_mask[top:min(height, region.y + region.height + feather), left:min(width, region.x + region.width + feather)]
    near = cv2.blur(wide.astype(np.float32), (2 * feather + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    near = near[region.y - top:region.y - top + region.height, region.x - left:region.x - left + region.width]
    return np.minimum(2 * near, 1.0)


def _continued(layers: Sequence[Layer], small: np.ndarray, small_holes: np.ndarray) -> np.ndarray:
    """[h + 2, w + 2, planes]: the small picture, filled as far as the layers go and continued beyond, with a ring around."""
    height, width = small_holes.shape
    known = (small_holes == 0).astype(np.float32)
    filling, total = np.zeros_like(small), np.zeros_like(small_holes)
    for layer in layers:
        weight = upsampled(layer.share, width, height, 4, 4) * layer.aligned.covered
        filling += layer.aligned.picture * weight[..., None]
        total += weight
    picture = known[..., None] * small + ((1 - known) / np.maximum(total, 1e-6))[..., None] * filling
    known = np.maximum(known, np.minimum(total, 1.0))
    continued = extrapolated(picture, known)
    return cv2.copyMakeBorder(continued, 1, 1, 1, 1, cv2.BORDER_REPLICATE).reshape(height + 2, width + 2, -1)


def _beyond_at(
    beyond: np.ndarray, region: Region, plane: int, layout: PixelLayout, shape: tuple[int, ...], cells: Cells
) -> np.ndarray:
    """The continued small picture at a region of a plane, in the plane's own units; alpha is opaque."""
    if plane >= picture_planes(layout):
        return np.full(shape, layout.peak, np.float32)
    shift = (layout.chroma_shift_x, layout.chroma_shift_y) if is_chroma(layout)[plane] else (0, 0)
    top, left = region.y // cells.small_px, region.x // cells.small_px
    bottom, right = -(-(region.y + region.height) // cells.small_px), -(-(region.x + region.width) // cells.small_px)
    part = np.ascontiguousarray(beyond[top:bottom + 2, left:right + 2, plane])
    value = upsampled(part, shape[1], shape[0], cells.small_px >> shift[0], cells.small_px >> shift[1])
    return value * np.float32(layout.peak / 255.0)
