# SPDX-License-Identifier: Apache-2.0
"""Alignment: what geometry got slightly wrong between an anchor and the frame being completed, found beside the hole and
carried smoothly into it. Gauss-Newton on small pictures; the normal equations are pooled over ever wider windows, so that
texture decides where there is some and its surroundings decide where there is none."""

from dataclasses import dataclass

import cv2
import numpy as np

from vs3r_engine.methods.temporal.anchors import Anchor
from vs3r_engine.methods.temporal.cells import SMALL_PER_CELL, Cells
from vs3r_engine.methods.warp import remapped

POOLS = ((3, 1.0), (9, 0.05), (25, 0.005))
"""Windows in cells that evidence is pooled over, each on top of the one before, and what each counts."""
CAMERA_NOISE = 0.02
"""Mean squared gradient, in 8-bit levels per small pixel, that says nothing: geometry is trusted instead."""
LEAST_ROBUST_LEVELS = 2.0
ITERATIONS = 4
COARSE_ITERATIONS = 2
MAX_SHIFT_SMALL_PX = 8.0
EXPOSURE_PEDESTAL = 24.0
"""8-bit levels added before brightness is compared as a ratio, so that black does not decide."""
MAX_GAIN = 1.4


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The frame being completed, small.

    picture: [h, w, planes]. weight: [h, w], where it can be compared with others: covered by itself, not moving, near a
    hole. gradients, smooth_gradients: (x, y) of its first plane, per small pixel, as it is and blurred.
    """

    picture: np.ndarray
    weight: np.ndarray
    gradients: tuple[np.ndarray, np.ndarray]
    smooth_gradients: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """An anchor brought onto a template; arrays over cells [rows, columns] that span the picture, or small pixels [h, w].

    shift_small_px: [rows, columns, 2] to add to where geometry expects a pixel in the anchor.
    gain, bias: [rows, columns, planes], such that the anchor * gain + bias matches the template, in 8-bit levels.
    mismatch: [rows, columns] what still differs, in 8-bit levels.
    picture: [h, w, planes], the anchor shifted and matched. covered: [h, w] bool, where it shows the template's pixels.
    """

    shift_small_px: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    mismatch: np.ndarray
    picture: np.ndarray
    covered: np.ndarray


def template_of(picture: np.ndarray, holes: np.ndarray, still: np.ndarray | None, band_small_px: int) -> Template:
    """holes: [h, w] share of each small pixel that is missing; still: [h, w] in [0, 1], 0 on what moves, or None."""
    size = 2 * band_small_px + 1
    near = cv2.blur((holes > 0).astype(np.float32), (size, size), borderType=cv2.BORDER_CONSTANT)
    weight = cv2.erode((holes == 0).astype(np.float32), np.ones((3, 3), np.uint8)) * np.minimum(near * size, 1.0)
    if still is not None:
        weight *= still
    luma = np.ascontiguousarray(picture[..., 0])
    return Template(picture, weight, _gradients(luma), _gradients(cv2.GaussianBlur(luma, (0, 0), 2.0)))


def aligned(
    template: Template, anchor: Anchor, positions: np.ndarray, cells: Cells, is_chroma: tuple[bool, ...]
) -> Aligned:
    """The anchor on the template.

    positions: [h, w, 2] float32 indices into the anchor's small picture, where geometry expects each of the template's.
    is_chroma: per plane, whether it is matched by an offset (chroma) or by a ratio (brightness).
    """
    height, width = template.weight.shape
    shift = np.zeros((height // SMALL_PER_CELL, width // SMALL_PER_CELL, 2), np.float32)
    luma, anchor_luma = template.picture[..., 0], np.ascontiguousarray(anchor.small[..., 0])
    for iteration in range(ITERATIONS):
        at = positions + _at_pixels(shift) if iteration else positions
        seen = remapped(anchor_luma, at, cv2.INTER_LINEAR)
        weight = _comparable(template, anchor, at, cells)
        gain, bias = (_at_pixels(m) for m in _match(luma, seen, weight, is_chroma=False))
        difference = luma - seen * gain - bias
        is_coarse = iteration < COARSE_ITERATIONS
        gradients = template.smooth_gradients if is_coarse else template.gradients
        weight = weight * _robust(difference, weight)
        if is_coarse:
            difference = cv2.GaussianBlur(difference, (0, 0), 2.0)
        shift = _solved(gradients, difference, weight, shift)
    at = positions + _at_pixels(shift)
    seen = remapped(anchor.small, at, cv2.INTER_LINEAR)
    weight = _comparable(template, anchor, at, cells)
    weight = weight * _robust(luma - seen[..., 0], weight)
    planes = [_match(template.picture[..., i], seen[..., i], weight, chroma) for i, chroma in enumerate(is_chroma)]
    gain, bias = (np.dstack(maps) for maps in zip(*planes, strict=True))
    matched = seen * _at_pixels(gain).reshape(seen.shape) + _at_pixels(bias).reshape(seen.shape)
    known = _pooled(weight)
    mismatch = _pooled(np.abs(luma - matched[..., 0]) * weight) / (known + 1e-6)
    return Aligned(shift, gain, bias, mismatch, matched, _inside(at, cells))


def _gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return cv2.Scharr(image, cv2.CV_32F, 1, 0, scale=1 / 32), cv2.Scharr(image, cv2.CV_32F, 0, 1, scale=1 / 32)


def _inside(at: np.ndarray, cells: Cells) -> np.ndarray:
    """[h, w] bool: whether small-picture indices lie in the anchor's picture."""
    limit = cells.width / cells.small_px - 1, cells.height / cells.small_px - 1
    return cv2.inRange(at, (0.0, 0.0), limit) > 0


def _comparable(template: Template, anchor: Anchor, at: np.ndarray, cells: Cells) -> np.ndarray:
    """[h, w] float32: the template's weight where the anchor shows the same still scene."""
    weight = template.weight * _inside(at, cells)
    return weight if anchor.still is None else weight * remapped(anchor.still, at, cv2.INTER_LINEAR)


def _robust(difference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[h, w]: near 1 where pictures agree as well as most do, falling with the square of the disagreement."""
    typical = float((np.abs(difference) * weight).sum() / (weight.sum() + 1e-6))
    return 1.0 / (1.0 + np.square(difference * (1.0 / max(2.0 * typical, LEAST_ROBUST_LEVELS))))


def _at_pixels(cells: np.ndarray) -> np.ndarray:
    rows, columns = cells.shape[:2]
    return cv2.resize(cells, (columns * SMALL_PER_CELL, rows * SMALL_PER_CELL), interpolation=cv2.INTER_LINEAR)


def _pooled(values: np.ndarray) -> np.ndarray:
    """[rows, columns] per cell: the mean of values [h, w] over the windows of POOLS, weighed as they count."""
    height, width = values.shape
    cells = cv2.resize(values, (width // SMALL_PER_CELL, height // SMALL_PER_CELL), interpolation=cv2.INTER_AREA)
    total = np.zeros_like(cells)
    for size, share in POOLS:
        cells = cv2.blur(cv2.blur(cells, (size, size), borderType=cv2.BORDER_CONSTANT), (size, size),
                         borderType=cv2.BORDER_CONSTANT)
        total += np.float32(share) * cells
    return total


def _solved(gradients: tuple[np.ndarray, np.ndarray], difference: np.ndarray, weight: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The shift per cell that explains the difference best, given the one it was measured at."""
    weighted_x, weighted_y = gradients[0] * weight, gradients[1] * weight
    xx, xy, yy = _pooled(weighted_x * gradients[0]), _pooled(weighted_x * gradients[1]), _pooled(weighted_y * gradients[1])
    current = _at_pixels(shift)
    # What would be left to explain were the shift taken back: pooling then acts on the whole shift, not on its last step.
    whole = difference + gradients[0] * current[..., 0] + gradients[1] * current[..., 1]
    x, y = _pooled(weighted_x * whole), _pooled(weighted_y * whole)
    xx += CAMERA_NOISE
    yy += CAMERA_NOISE
    scale = 1.0 / (xx * yy - xy * xy)
    solved = np.dstack([(yy * x - xy * y) * scale, (xx * y - xy * x) * scale])
    return np.clip(solved, -MAX_SHIFT_SMALL_PX, MAX_SHIFT_SMALL_PX)


def _match(wanted: np.ndarray, seen: np.ndarray, weight: np.ndarray, is_chroma: bool) -> tuple[np.ndarray, np.ndarray]:
    """(gain, bias) [rows, columns] per cell that bring the pooled mean of `seen` to that of `wanted`."""
    known = _pooled(weight)
    floor = 1e-6
    if is_chroma:
        return np.ones_like(known), _pooled((wanted - seen) * weight) / (known + floor)
    mean_wanted, mean_seen = _pooled(wanted * weight) / (known + floor), _pooled(seen * weight) / (known + floor)
    gain = np.clip((mean_wanted + EXPOSURE_PEDESTAL) / (mean_seen + EXPOSURE_PEDESTAL), 1 / MAX_GAIN, MAX_GAIN)
    return gain, EXPOSURE_PEDESTAL * (gain - 1.0)
