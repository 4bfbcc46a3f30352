# SPDX-License-Identifier: Apache-2.0
"""Alignment: what geometry got slightly wrong between an anchor and the frame being completed, measured beside the
holes and carried smoothly into them. Gauss-Newton on the small pixels of a band, with the normal equations pooled over
ever wider windows: texture decides where there is some, and its surroundings decide where there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vs3r_engine import native
from vs3r_engine.methods.temporal.anchors import Anchor
from vs3r_engine.methods.temporal.cells import SMALL_PER_CELL, Cells, blurred
from vs3r_engine.methods.warp import remapped, upsampled

BAND_CELLS = 5
"""How far beside a hole pictures are compared. Half as far misled: what is next to a hole often says little, and was carried far into
it (`make bench-fill`: 37.6 instead of 40.4 dB on one clip)."""
SAMPLES = np.array([(x, y) for y in range(1, SMALL_PER_CELL, 2) for x in range(1, SMALL_PER_CELL, 2) if (x + y) // 2 % 2 == 0])
"""[8, 2] (x, y) of a cell's small pixels that are compared: they say nearly as much as all 64."""
POOLED = (1.0, 0.05, 0.002)
"""What evidence counts from next to a cell (within 2), from its wider surroundings (within 7) and from everywhere."""
CAMERA_NOISE = 0.02
"""Mean squared gradient, in 8-bit levels per small pixel, that says nothing: geometry is trusted instead."""
MOVING_EVIDENCE = 0.05
"""What a pixel says that is taken to move: masks reach too far, and what disagrees is discounted anyway."""
LEAST_EVIDENCE = 0.02
"""Pixels that say less than this are left out."""
LEAST_ROBUST_LEVELS = 2.0
MAX_SHIFT_SMALL_PX = 16.0
WORTHWHILE = 0.2
"""Share of the mismatch that a shift must take away to be believed whole."""
EXPOSURE_PEDESTAL = 24.0
"""8-bit levels added before brightness is compared as a ratio, so that black does not decide."""
MAX_GAIN = 2.5
"""Fades reach it. Under 1.4 the filled rim of a fade was 28 levels off at its worst, under this 7; clips that do not fade stay the same."""
_SCHARR = np.array([(-3, 0, 3, -10, 0, 10, -3, 0, 3), (-3, -10, -3, 0, 0, 0, 3, 10, 3)], np.float32) / 32
_POOLS = np.array(POOLED, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The frame being completed, at the n small pixels of a band beside its holes where it can be compared with others.

    index: [n] into the flattened small picture, grouped by cell. occupied: [m] cells they lie in, flattened, and starts
    [m], where each one's pixels begin. at_cells: [n, 2] float32 the same places as cell indices. weight: [n]. picture:
    [planes, n]. levels: [3, n] each, luma and its two gradients per small pixel, as in `blurred`.
    """

    index: np.ndarray
    occupied: np.ndarray
    starts: np.ndarray
    at_cells: np.ndarray
    weight: np.ndarray
    picture: np.ndarray
    levels: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """How anchors are brought onto a template: [anchors, rows, columns], over cells that span the picture.

    shift_small_px: [..., 2] to add to where geometry expects a pixel in the anchor. gain, bias: [..., planes], such
    that anchor * gain + bias matches the template, in 8-bit levels. mismatch: what then still differs, in 8-bit levels.
    """

    shift_small_px: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    mismatch: np.ndarray


def template_of(
    picture: np.ndarray, holes: np.ndarray, still_at: Callable[[np.ndarray], np.ndarray] | None, cells: Cells
) -> Template | None:
    """None where there is nothing to compare with.

    picture: [h, w, planes]. holes: [h, w] bool, the small pixels that lack something. still_at: gives [n] in [0, 1], 0 on
    what moves, at indices [n, 2]; None where nothing does.
    """
    size = 2 * BAND_CELLS + 1
    lacking = cv2.resize(holes.astype(np.float32), (cells.columns, cells.rows), interpolation=cv2.INTER_AREA)
    near = cv2.blur(lacking, (size, size), borderType=cv2.BORDER_CONSTANT).ravel()
    in_band = np.flatnonzero(near)
    row, column = np.divmod(in_band, cells.columns)
    places = (np.stack([column, row], -1)[:, None] * SMALL_PER_CELL + SAMPLES).reshape(-1, 2)
    cell = np.repeat(in_band, len(SAMPLES))
    weight = np.minimum(near[cell] * np.float32(size * SMALL_PER_CELL), 1)
    height, width = holes.shape
    inside = min(cells.width // cells.small_px, width - 1), min(cells.height // cells.small_px, height - 1)
    weight[(places >= inside).any(axis=1)] = 0
    partly = cv2.dilate(holes.view(np.uint8), np.ones((3, 3), np.uint8))
    weight[partly[places[:, 1], places[:, 0]] > 0] = 0
    kept = np.flatnonzero(weight > LEAST_EVIDENCE)
    if still_at is not None and len(kept):
        weight[kept] *= np.maximum(still_at(places[kept]), MOVING_EVIDENCE)
        kept = np.flatnonzero(weight > LEAST_EVIDENCE)
    if not len(kept):
        return None
    places, cell = places[kept], cell[kept]
    index = places @ (1, width)
    starts = np.concatenate([[0], np.flatnonzero(cell[1:] != cell[:-1]) + 1])
    luma = np.ascontiguousarray(picture[..., 0])
    around = index + np.array([[y * width + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    return Template(
        index,
        cell[starts],
        starts,
        ((places + 0.5) / SMALL_PER_CELL - 0.5).astype(np.float32),
        weight[kept],
        np.ascontiguousarray(picture.reshape(-1, picture.shape[2])[index].T),
        tuple(_with_gradients(level, around) for level in blurred(luma)),
    )


def aligned(
    template: Template, anchors: Sequence[Anchor], positions: Sequence[np.ndarray], cells: Cells, is_chroma: tuple[bool, ...]
) -> Aligned:
    """Every anchor on the template, each for itself.

    positions: per anchor [rows + 2, columns + 2, 2], corner-origin, where geometry expects the cells and a ring around
    them. is_chroma: per plane, whether it is matched by an offset (chroma) or by a ratio (brightness).
    """
    vertices = [at / cells.small_px - 0.5 for at in positions]
    bounds = [np.concatenate([anchor.bounds[0], anchor.bounds[1] - cells.small_px]) / cells.small_px for anchor in anchors]
    if not native.is_available:
        return _matched(template, anchors, *_shifts(template, anchors, vertices, bounds, cells), is_chroma)
    tuning = EXPOSURE_PEDESTAL, CAMERA_NOISE, LEAST_ROBUST_LEVELS, MAX_GAIN, MAX_SHIFT_SMALL_PX, MOVING_EVIDENCE, WORTHWHILE
    found = [
        native.align(
            at,
            template.at_cells,
            template.weight,
            template.levels,
            template.picture,
            anchor.levels,
            anchor.small,
            anchor.still,
            is_chroma,
            limits,
            template.occupied,
            template.starts,
            _POOLS,
            np.array(tuning, np.float32),
        )
        for anchor, at, limits in zip(anchors, vertices, bounds, strict=True)
    ]
    return Aligned(*(np.stack(parts) for parts in zip(*found, strict=True)))


def _shifts(
    template: Template, anchors: Sequence[Anchor], vertices: Sequence[np.ndarray], bounds: Sequence[np.ndarray], cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shift [anchors, rows, columns, 2], expected [anchors, n, 2], weight [anchors, n]): the first half of what native.align computes."""
    shape, count = (cells.rows, cells.columns), len(anchors)
    height, width = cells.small_shape
    expected = np.stack([upsampled(at, width, height, SMALL_PER_CELL, SMALL_PER_CELL).reshape(-1, 2)[template.index] for at in vertices])
    limits = np.stack(bounds)[:, None]
    weight = template.weight * ((expected >= limits[..., :2]) & (expected <= limits[..., 2:])).all(axis=-1)
    for i, anchor in enumerate(anchors):
        if anchor.still is not None:
            weight[i] *= np.maximum(read_at(anchor.still, expected[i]), MOVING_EVIDENCE)
    shift, gain = np.zeros((count, *shape, 2), np.float32), np.ones((count, *shape), np.float32)
    terms = np.empty((8, *weight.shape), np.float32)
    for level, (luma, gradient_x, gradient_y) in enumerate(template.levels):
        shift_here = np.stack([read_at(s, template.at_cells) for s in shift]) if level else np.zeros_like(expected)
        at = expected + shift_here
        seen = np.stack([read_at(a.levels[level], p) for a, p in zip(anchors, at, strict=True)])
        if level == 0:
            gain = _ratio(*_pooled(template, np.stack([luma * weight, seen * weight, weight]), shape))
        gain_here = np.stack([read_at(g, template.at_cells) for g in gain])
        difference = luma + EXPOSURE_PEDESTAL - (seen + EXPOSURE_PEDESTAL) * gain_here
        trusted = np.multiply(weight, _robust(difference, weight), out=terms[7])
        # What would be left to explain were the shift taken back: pooling then acts on the whole shift, not on its last
        # step.
        left = difference + gradient_x * shift_here[..., 0] + gradient_y * shift_here[..., 1]
        x, y = gradient_x * trusted, gradient_y * trusted
        products = ((x, gradient_x), (x, gradient_y), (y, gradient_y), (x, left), (y, left), (luma, trusted), (seen, trusted))
        for row, (a, b) in enumerate(products):
            np.multiply(a, b, out=terms[row])
        *equations, wanted, found, known = _pooled(template, terms, shape)
        shift, gain = _solved(*equations), _ratio(wanted, found, known)
    return shift, expected, weight


def _matched(
    template: Template, anchors: Sequence[Anchor], shift: np.ndarray, expected: np.ndarray, weight: np.ndarray, is_chroma: tuple[bool, ...]
) -> Aligned:
    """Every plane's exposure with the shift found, what differs even so, and the shift as far as it is worth it: the
    second half of what native.align computes."""
    shape, planes = shift.shape[1:3], len(is_chroma)
    at = expected + np.stack([read_at(s, template.at_cells) for s in shift])
    seen = np.stack([read_at(a.small, p).reshape(-1, planes).T for a, p in zip(anchors, at, strict=True)], 1)
    picture = template.picture[:, None]
    trusted = weight * _robust(picture[0] - seen[0], weight)
    pooled = _pooled(template, np.concatenate([trusted[None], picture * trusted, seen * trusted]), shape)
    known, wanted, found = pooled[0], pooled[1 : 1 + planes], pooled[1 + planes :]
    gain, bias = np.ones((*shift.shape[:3], planes), np.float32), np.empty((*shift.shape[:3], planes), np.float32)
    for i, offset_only in enumerate(is_chroma):
        if offset_only:
            bias[..., i] = (wanted[i] - found[i]) / (known + 1e-9)
        else:
            gain[..., i] = _ratio(wanted[i], found[i], known)
            bias[..., i] = EXPOSURE_PEDESTAL * (gain[..., i] - 1)
    gain_here = np.stack([read_at(g, template.at_cells) for g in np.ascontiguousarray(gain[..., 0])])
    unshifted = np.stack([read_at(a.levels[-1], p) for a, p in zip(anchors, expected, strict=True)])
    matched, unmoved = ((s + EXPOSURE_PEDESTAL) * gain_here - EXPOSURE_PEDESTAL for s in (seen[0], unshifted))
    terms = np.stack([np.abs(picture[0] - matched) * weight, np.abs(picture[0] - unmoved) * weight, weight])
    shifted, geometric, known = _pooled(template, terms, shape)
    # Where geometry was right already, a shift is but noise.
    worth = np.clip((1 - shifted / (geometric + 1e-9)) / WORTHWHILE, 0, 1)
    mismatch = (geometric + worth * (shifted - geometric)) / (known + 1e-9)
    return Aligned(shift * worth[..., None], gain, bias, mismatch)


def unaligned(cells: Cells, anchor_count: int, plane_count: int) -> Aligned:
    """What is known of anchors where there is nothing to compare them with: geometry is right and light the same."""
    shape = anchor_count, cells.rows, cells.columns
    return Aligned(
        np.zeros((*shape, 2), np.float32),
        np.ones((*shape, plane_count), np.float32),
        np.zeros((*shape, plane_count), np.float32),
        np.zeros(shape, np.float32),
    )


def read_at(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[n, ...]: an image at indices [n, 2]."""
    # In rows of 64, the last filled up: cv2.remap takes no side beyond 32767.
    rows = np.concatenate([at, np.broadcast_to(at[-1:], (-len(at) % 64, 2))]).astype(np.float32, copy=False).reshape(-1, 64, 2)
    return remapped(image, rows, cv2.INTER_LINEAR).reshape(-1, *image.shape[2:])[: len(at)]


def _with_gradients(image: np.ndarray, around: np.ndarray) -> np.ndarray:
    """[3, n]: an image and its gradients in x and y (Scharr's), at n places. around: [9, n] flat
    indices of the 3 x 3 pixels there, row by row."""
    values = image.ravel()[around]
    return np.concatenate([values[4:5], _SCHARR @ values])


def _robust(difference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[anchors, n]: near 1 where pictures agree as well as most do, falling with the square of the disagreement."""
    typical = (np.abs(difference) * weight).sum(axis=-1, keepdims=True) / (weight.sum(axis=-1, keepdims=True) + 1e-6)
    return 1 / (1 + np.square(difference / np.maximum(2 * typical, LEAST_ROBUST_LEVELS)))


def _pooled(template: Template, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[k, anchors, rows, columns]: sums of values [k, anchors, n] at the template's pixels over windows around every
    cell."""
    flat = values.reshape(-1, values.shape[-1])
    sums = np.zeros((shape[0] * shape[1], len(flat)), np.float32)
    sums[template.occupied] = np.add.reduceat(flat, template.starts, axis=1).T
    local = cv2.blur(sums.reshape(*shape, -1), (3, 3), borderType=cv2.BORDER_CONSTANT)
    local = cv2.blur(local, (3, 3), borderType=cv2.BORDER_CONSTANT)
    wide = cv2.blur(local, (11, 11), borderType=cv2.BORDER_CONSTANT)
    near, around, everywhere = POOLED
    total = (near * local + around * wide).reshape(len(sums), -1) + everywhere * sums.mean(axis=0)
    return np.ascontiguousarray(total.T).reshape(*values.shape[:-1], *shape)


def _solved(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[..., 2]: the shift per cell that explains the pooled differences best."""
    xx, yy = xx + CAMERA_NOISE, yy + CAMERA_NOISE
    scale = 1 / (xx * yy - xy * xy)
    solved = np.stack([(yy * x - xy * y) * scale, (xx * y - xy * x) * scale], -1)
    return np.clip(solved, -MAX_SHIFT_SMALL_PX, MAX_SHIFT_SMALL_PX)


def _ratio(wanted: np.ndarray, found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The factor per cell that brings pooled brightness `found` to `wanted`, both sums of `known` weight."""
    tiny = 1e-6
    ratio = (wanted + EXPOSURE_PEDESTAL * (known + tiny)) / (found + EXPOSURE_PEDESTAL * (known + tiny))
    return np.clip(ratio, 1 / MAX_GAIN, MAX_GAIN).astype(np.float32)
