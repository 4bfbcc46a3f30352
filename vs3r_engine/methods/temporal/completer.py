# SPDX-License-Identifier: Apache-2.0
"""The default Completer: holes are filled from aligned, exposure-matched anchors, their seams feathered, and what no
anchor shows is continued smoothly. Every frame stands by itself: nothing is carried over from the one before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from vs3r_engine import native
from vs3r_engine.frame import Frame
from vs3r_engine.methods.temporal.alignment import Template, aligned, read_at, template_of, unaligned
from vs3r_engine.methods.temporal.anchors import Anchor, Anchors, prior_weight
from vs3r_engine.methods.temporal.cells import SMALL_PER_CELL, SMALL_WIDTH_PX, Cells
from vs3r_engine.methods.temporal.extrapolation import extrapolated
from vs3r_engine.methods.tiles import Tiles, cells_of, padded, plane_positions
from vs3r_engine.methods.warp import found_positions, margins_px, remapped, resampled, vertices
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import FillSettings
from vs3r_engine.stages.complete import Views

ANCHORS_PER_SECOND = 6
QUARTER_S = Fraction(1, 10)
"""An anchor this much further away counts a quarter."""
LEAST_SHARE = 0.5
"""Of what the anchor that counts most for a place counts: those that would count for less count for nothing, so that
few are warped and blended. The others lose as much, so that nothing jumps when one crosses the line."""
MOST_ANCHORS = 4
AT_RIM, MOVING = np.float32(1e-3), np.float32(1e-8)
"""What an anchor counts for at its own rim, and where it shows something that moves: there it is the last resort, better only
than a picture that is made up. Where it shows an overlay it counts for nothing."""
STAYED_WIDTHS = 0.01
"""How far, in widths of the picture, what moves may have gone since an anchor showed it to count for anything but a last resort. Much that
masks call moving hardly moves: parallax, leaves, people who stand (`make bench-fill`: 30.92 instead of 30.54 dB)."""
STRAYED_WIDTHS = 0.03
"""How far it may have gone to be a last resort. Twice as far away it fills nothing: a copy of somebody who is elsewhere by now is worse
than a smooth continuation. At 0.02 a forest that parallax has taken for moving is smooth at its rim for 30 frames of 240, at 0.03 for 21
and at 0.04 for 15, where a walking tiger grows a second head."""
NEGLIGIBLE = 1e-3
COARSE_PER_CELL = 2
"""Samples a cell, across and down, that what nothing has shown is continued at: it is smooth anyway."""
_NEAR = np.ones((3, 3), np.uint8)
ALPHA_MATCH = np.array([1, 0], np.float32)[:, None, None]
"""Gain and bias of a plane that is not picture."""
TOLERATED_LEVELS = 10.0
"""Mismatch beside the hole, in 8-bit levels, at which an anchor counts half."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One anchor's part in a filling. tiles: [k] the numbers of those it is for. The rest is at the vertices of the
    whole picture, [channels, rows, columns]: positions (x, y) in the anchor; weight, the margin to the anchor's own
    border in seam widths, and the share; gain and bias per plane, in 8-bit levels.
    """

    anchor: Anchor
    tiles: np.ndarray
    positions: np.ndarray
    weight: np.ndarray
    gain: np.ndarray
    bias: np.ndarray


class TemporalCompleter:
    """Fills holes from the frames around; see `Completer`."""

    whole_shots = False

    def __init__(self, settings: FillSettings, rate: Fraction) -> None:
        self.reach_frames = round(settings.radius_s * rate)
        self._step_frames = max(1, round(rate / ANCHORS_PER_SECOND))
        self._quarter_frames = max(1, round(rate * QUARTER_S))
        self._small_width_px = SMALL_WIDTH_PX // 2 if settings.quality == "draft" else SMALL_WIDTH_PX

    def keeps(self, frame_index: int) -> bool:
        """See `Completer.keeps`."""
        return frame_index % self._step_frames == 0

    def complete(self, rendered: Iterable[Rendered], views: Views) -> Iterator[Frame]:
        """See `Completer.complete`."""
        anchors = Anchors(views, self._step_frames, self.reach_frames)
        for item in rendered:
            # Also of a frame without holes: it may be the first of a shot.
            anchors.move_to(item.target.frame_index)
            yield self._completed(item, anchors, views) if item.hole_mask.any() else item.frame

    def _completed(self, item: Rendered, anchors: Anchors, views: Views) -> Frame:
        frame_index = item.target.frame_index
        cells = Cells.of(item.frame, self._small_width_px)
        # 0 and 255: what is 0 after an average is 0 everywhere.
        hole_mask = np.zeros(cells.full_shape, np.uint8)
        np.negative(item.hole_mask.view(np.uint8), out=hole_mask[: cells.height, : cells.width])
        size = 2 * seam_px(cells.width) + 1
        near_mask = cv2.blur(hole_mask, (size, size), borderType=cv2.BORDER_REPLICATE)
        tiles = Tiles(cells_of(near_mask, cells.cell_px), cells.cell_px, item.frame.layout)
        hole, near = tiles.read(hole_mask, 0) > 0, tiles.read(near_mask, 0)
        small = cells.small_picture(item.frame)
        current = views.view(frame_index)
        hole_cells = np.zeros(tiles.shape, bool)
        hole_cells[tiles.rows, tiles.columns] = hole.any(axis=1)
        # A black, white or blurred picture is continued by nothing but itself, and no part of one that is neither.
        around = [anchor for anchor in anchors.around(frame_index, cells) if not anchor.view.is_bad]
        is_bad = current is not None and current.is_bad
        candidates = [] if is_bad else self._candidates(item.target, around, hole_cells, cells)
        layers: list[Layer] = []
        if candidates:
            holes = cells_of(hole_mask, cells.small_px)
            template = template_of(small, holes, _still_from(item.target, current, cells), cells)
            layers = _layers(item, candidates, template, tiles, cells)
        seam = np.minimum(near * np.float32(2 / 255), 1)
        return _composed(item.frame, layers, tiles, hole, seam, small, cells)

    def _candidates(self, target: Target, around: Sequence[Anchor], hole_cells: np.ndarray, cells: Cells) -> list[tuple[Anchor, float]]:
        """The anchors that would have a part in the filling before they are aligned, and what each counts."""
        if not around:
            return []
        rows, columns = (places[:: max(1, len(places) // 100)] for places in np.nonzero(hole_cells))
        # The middle of a cell, or the picture's own edge: what lies out there is hardest to find.
        x, y = (columns + 0.5) * cells.cell_px, (rows + 0.5) * cells.cell_px
        x[columns == 0], y[rows == 0] = 0, 0
        x[columns == cells.columns - 1], y[rows == cells.rows - 1] = cells.width, cells.height
        places = np.stack([x, y], -1)
        seen = np.stack([anchor.positions(target, places) for anchor in around])
        margin = margins_px(seen, np.stack([anchor.bounds for anchor in around]))
        reached = np.clip(margin / seam_px(cells.width), 0, 1)
        distance = np.array([anchor.frame_index - target.frame_index for anchor in around])
        counts = prior_weight(distance, self._quarter_frames, self.reach_frames) * (1e-4 + reached.mean(axis=1) ** 4)
        parts = _shares(counts[:, None] * reached).sum(axis=1)
        if len(around) > MOST_ANCHORS:
            # The first that is left out leaves gently: those just above it count for little more.
            next_best = np.sort(parts)[-MOST_ANCHORS - 1]
            counts *= np.clip(parts / max(next_best, 1e-12) - 1, 0, 1)
        counts = counts * (parts > 0)
        return [(anchor, float(count)) for anchor, count in zip(around, counts, strict=True) if count > 0]


def _layers(
    item: Rendered, candidates: Sequence[tuple[Anchor, float]], template: Template | None, tiles: Tiles, cells: Cells
) -> list[Layer]:
    """What each candidate has to give to the tiles."""
    is_chroma = tuple(map(item.frame.layout.is_chroma, range(item.frame.layout.picture_planes)))
    anchors = [anchor for anchor, _ in candidates]
    pixels = vertices(cells.width, cells.height, cells.cell_px)
    expected = [anchor.positions(item.target, pixels) for anchor in anchors]
    if template is None:
        fit = unaligned(cells, len(anchors), len(is_chroma))
    else:
        fit = aligned(template, anchors, expected, cells, is_chroma)
    positions = [at + _ringed(shift) * cells.small_px for at, shift in zip(expected, fit.shift_small_px, strict=True)]
    seam = np.float32(seam_px(cells.width))
    margins = [margins_px(at, anchor.bounds).astype(np.float32) / seam for anchor, at in zip(anchors, positions, strict=True)]
    weights, lasting = [], []
    for (anchor, count), margin, mismatch, at in zip(candidates, margins, fit.mismatch, positions, strict=True):
        stays, lasts = _staying(anchor, at, abs(anchor.frame_index - item.target.frame_index), cells)
        weights.append(count * stays * lasts * _dependable(margin, mismatch, anchor, at, cells))
        lasting.append(np.where(weights[-1] > 0, lasts, 0))
    shares = _shares(np.stack(weights)) * np.max(lasting, axis=0)
    layers = []
    for i, (anchor, at, share) in enumerate(zip(anchors, positions, shares, strict=True)):
        # A cell's pixels lie between its own vertex and the next ones.
        given = cv2.dilate((share > 0).view(np.uint8), _NEAR)[1:-1, 1:-1]
        chosen = np.flatnonzero(given[tiles.rows, tiles.columns])
        if len(chosen):
            gain, bias = (_ringed(m[i]).transpose(2, 0, 1) for m in (fit.gain, fit.bias))
            layers.append(
                Layer(anchor, chosen, np.ascontiguousarray(at.transpose(2, 0, 1), np.float32), np.stack([margins[i], share]), gain, bias)
            )
    return layers


def _dependable(margin: np.ndarray, mismatch: np.ndarray, anchor: Anchor, positions: np.ndarray, cells: Cells) -> np.ndarray:
    """[rows, columns]: what an anchor can be trusted with at each vertex: covered all around, matching, and not under an overlay.

    margin: to the anchor's border, in seam widths.
    """
    safe = np.clip(cv2.erode(margin, _NEAR), 0, 1)
    partly = (cv2.dilate(margin, _NEAR) > 0) * AT_RIM
    dependable = np.maximum(safe, partly) / (1 + np.square(np.square(_ringed(mismatch) / TOLERATED_LEVELS)))
    return dependable if anchor.scene is None else dependable * _least_near(anchor.scene, positions, cells)


def _staying(
    anchor: Anchor, positions: np.ndarray, away_frames: int, cells: Cells
) -> tuple[np.ndarray | np.float32, np.ndarray | np.float32]:
    """Of what an anchor shows at each vertex, [rows, columns]: what it counts for so many frames away, by how likely it has stayed in
    its place; and in [0, 1] how far it may be shown at all, though nothing else be known. Both are 1 where nothing moves."""
    if anchor.still is None:
        return np.float32(1), np.float32(1)
    still = _least_near(anchor.still, positions, cells)
    if anchor.own_motion is None:
        return np.maximum(still, MOVING), np.float32(1)
    rows, columns = anchor.own_motion.shape
    at = (positions * (columns / cells.width, rows / cells.height) - 0.5).astype(np.float32)
    gone_widths = cv2.dilate(remapped(anchor.own_motion, at, cv2.INTER_LINEAR), _NEAR) * np.float32(away_frames)
    stays = np.clip(1 - gone_widths / np.float32(STAYED_WIDTHS), MOVING, 1)
    lasts = np.clip(2 - gone_widths / np.float32(STRAYED_WIDTHS), 0, 1)
    # What is still for the better part is no mover's.
    return np.maximum(still, stays), np.maximum(np.minimum(4 * still, 1), lasts)


def _least_near(share: np.ndarray, positions: np.ndarray, cells: Cells) -> np.ndarray:
    """[rows, columns]: the least of a small image of an anchor at each vertex and those around it."""
    return cv2.erode(remapped(share, (positions / cells.small_px - 0.5).astype(np.float32), cv2.INTER_LINEAR), _NEAR)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Weights [anchors, ...] as shares of their sum, without those of little weight; 0 where all weights are."""
    kept = np.maximum(weights - LEAST_SHARE * weights.max(axis=0), 0)
    return kept / np.maximum(kept.sum(axis=0), 1e-30)


def _ringed(at_cells: np.ndarray) -> np.ndarray:
    """Values at cells [rows, columns, ...] with one ring around, as `vertices` has it."""
    rows, columns = at_cells.shape[:2]
    ringed = cv2.copyMakeBorder(at_cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return ringed.reshape(rows + 2, columns + 2, *at_cells.shape[2:])


def _still_from(target: Target, current: View | None, cells: Cells) -> Callable[[np.ndarray], np.ndarray] | None:
    """Gives [n] what stands still in the current frame, 0 on what moves, at small pixels [n, 2] seen from the target; None
    where everything does."""
    still = None if current is None else cells.still(current.dynamic_mask)
    if current is None or still is None:
        return None

    at_vertices = found_positions(target, current, vertices(cells.width, cells.height, cells.cell_px)) / cells.small_px - 0.5

    def still_at(places: np.ndarray) -> np.ndarray:
        return read_at(still, read_at(at_vertices.astype(np.float32), (places + 0.5) / SMALL_PER_CELL + 0.5))

    return still_at


def seam_px(width: int) -> int:
    """How wide a seam is, in pixels of a picture of this width."""
    return min(max(round(width / 160), 3), 16)


def _composed(
    frame: Frame, layers: Sequence[Layer], tiles: Tiles, hole: np.ndarray, seam: np.ndarray, small: np.ndarray, cells: Cells
) -> Frame:
    """The frame with its holes filled from the layers, and from a smooth continuation of all that where there is none.

    hole: [tiles, pixels] bool. seam: [tiles, pixels], 1 at the edge of a hole, falling to 0 where the frame stays.
    """
    layout = frame.layout
    planes = [padded(plane, layout.plane_shape(i, *cells.full_shape[::-1])) for i, plane in enumerate(frame.planes)]
    wanted = np.where(hole, np.float32(1), seam)
    pictures, missing = [], []
    for i, (plane, total, value) in enumerate(zip(planes, *_filling(layers, tiles), strict=True)):
        here, wanted_here = tiles.read(plane, i), tiles.subsampled(wanted, i)
        share = wanted_here * np.minimum(total, 1)
        missing.append(wanted_here - share)
        np.copyto(share, total > 0, where=tiles.subsampled(hole, i))
        value /= np.maximum(total, 1e-6, out=total)
        value -= here
        value *= share
        value += here
        pictures.append(value)
    if float((missing[0] * hole).max()) > NEGLIGIBLE:
        _continue(pictures, missing, tiles, small, cells)
    for i, (plane, picture) in enumerate(zip(planes, pictures, strict=True)):
        if layout.bit_depth < 32:
            picture = np.clip(np.rint(picture, out=picture), 0, layout.peak, out=picture)
        tiles.write(picture, plane, i)
    cropped = (plane[: old.shape[0], : old.shape[1]] for plane, old in zip(planes, frame.planes, strict=True))
    return replace(frame, planes=tuple(np.ascontiguousarray(plane) for plane in cropped))


def _filling(layers: Sequence[Layer], tiles: Tiles) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per plane the layers' total weight and their weighted sum, [tiles, pixels]."""
    layout = tiles.layout
    sizes = [tiles.size(i) for i in range(layout.plane_count)]
    sums, totals = ([np.zeros((len(tiles), rows * columns), np.float32) for rows, columns in sizes] for _ in range(2))
    # Chroma is sited on the first of the luma columns it stands for.
    leads = [0.5 - 0.5 * columns / tiles.cell_px for _, columns in sizes]
    unit = np.float32(layout.peak / 255)
    for layer in layers:
        part = tiles.only(layer.tiles)
        for i, plane in enumerate(layer.anchor.view.frame.planes):
            fields = np.empty((6, *layer.positions.shape[1:]), np.float32)
            fields[:2] = plane_positions(layer.positions[0], layer.positions[1], layout, i)
            fields[2:4] = layer.weight
            fields[4:] = (layer.gain[i], layer.bias[i] * unit) if i < len(layer.gain) else ALPHA_MATCH
            if native.takes(plane):
                places = part.rows, part.columns, layer.tiles
                native.add_layer(plane, fields, *places, sizes[i], leads[i], sums[i], totals[i])
                continue
            x, y, margin, share, gain, bias = part.spread(fields, i)
            weight = np.clip(margin, 0, 1) * share
            sums[i][layer.tiles] += (resampled(plane, (x, y), layout) * gain + bias) * weight
            totals[i][layer.tiles] += weight
    return totals, sums


def _continue(pictures: Sequence[np.ndarray], missing: Sequence[np.ndarray], tiles: Tiles, small: np.ndarray, cells: Cells) -> None:
    """Blends a smooth continuation of the picture into the tiles, as far as they are missing, [tiles, pixels] per plane.
    small: the small picture as it was rendered, of all cells."""
    layout = tiles.layout
    size = cells.columns * COARSE_PER_CELL, cells.rows * COARSE_PER_CELL
    coarse = cv2.resize(small, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
    at = (tiles.rows, slice(None), tiles.columns)
    inside = tiles.inside(cells.width, cells.height)
    lacking = np.flatnonzero(missing[0].max(axis=1) > NEGLIGIBLE)
    part = tiles.only(lacking)
    for i, (picture, lack) in enumerate(zip(pictures, missing, strict=True)):
        value: np.ndarray | np.float32 = np.float32(layout.peak)
        if i < coarse.shape[2]:
            plane, known = np.ascontiguousarray(coarse[..., i]), np.ones(size[::-1], np.float32)
            known[-(-cells.height * COARSE_PER_CELL // cells.cell_px) :] = 0
            known[:, -(-cells.width * COARSE_PER_CELL // cells.cell_px) :] = 0
            # What is missing holds whatever the renderer left there, and what lies beyond the border repeats it: neither counts.
            shown = tiles.subsampled(inside, i) * (1 - lack)
            weighted, weight = (tiles.averaged(values, i, COARSE_PER_CELL) for values in (picture * shown, shown))
            _in_cells(plane, cells)[at] = weighted / np.maximum(weight, 1e-6) * np.float32(255 / layout.peak)
            _in_cells(known, cells)[at] = weight
            beyond = _ringed(extrapolated(plane, known))[None]
            value = part.spread_small(beyond, i, COARSE_PER_CELL)[0] * np.float32(layout.peak / 255)
        picture[lacking] += lack[lacking] * (value - picture[lacking])


def _in_cells(coarse: np.ndarray, cells: Cells) -> np.ndarray:
    """A view [rows, k, columns, k] of an image with k samples a cell."""
    k = COARSE_PER_CELL
    return np.lib.stride_tricks.as_strided(
        coarse, (cells.rows, k, cells.columns, k), (coarse.strides[0] * k, coarse.strides[0], coarse.strides[1] * k, coarse.strides[1])
    )
