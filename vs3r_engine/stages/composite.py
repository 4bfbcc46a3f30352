# SPDX-License-Identifier: Apache-2.0
"""Section 3.4, around any generative completer: windows over a shot, the reduced picture a model sees, and its pixels
put back into full-resolution frames: colour fitted to what was rendered, original pixels kept wherever they are
valid."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vs3r_engine.errors import SettingsError
from vs3r_engine.frame import Frame
from vs3r_engine.scene import Rendered

FIT_REACH_FRAMES = 6
"""How far before and after a frame colour fits are averaged: two standard deviations."""
_FIT_SIGMA_FRAMES = 3.0
_ERODE_PX = 3
"""Pixels this close to a hole are mixed with it by every resampling; they do not judge colour."""
_GRID_PX = 8
"""Spacing of the low-frequency residual, in reduced pixels."""
_RESIDUAL_SIGMA = 24 / 832
"""Blur of the residual as a share of the picture's width. On a synthetic cast (matrix, gradient, blur) gain and bias
alone gave 32.5 dB in holes, with this residual 38.2 dB."""
_JUDGED_WIDTH_PX = 416
_SLIVER_PX_AT_1080P = 4
_FEATHER_PX_AT_1080P = 3
_BAND_PX = 128
_MARGIN_PX = 8
"""Around a part that is composed by itself: beyond the reach of every chroma filter, and whole chroma samples."""


def padded_count(frame_count: int) -> int:
    """The smallest 4k + 1 that is at least `frame_count`: what a video autoencoder of temporal stride 4 can take."""
    return frame_count + (1 - frame_count) % 4


def padded_indices(frame_count: int) -> list[int]:
    """Which frame stands at each of the `padded_count` places: itself, then the tail mirrored."""
    period = max(1, 2 * (frame_count - 1))
    return [min(i % period, period - i % period) if frame_count > 1 else 0 for i in range(padded_count(frame_count))]


def latent_count(frame_count: int) -> int:
    """Latent frames of 4k + 1 frames: the first stands alone, then groups of four."""
    return 1 + (frame_count - 1) // 4


def check_window(window_frames: int, overlap_frames: int) -> None:
    """Raises: SettingsError `bad-window` unless the window is 4k + 1 and the overlap shorter than half of it."""
    if window_frames % 4 != 1 or window_frames < 5:
        near = max(5, 4 * round((window_frames - 1) / 4) + 1)
        raise SettingsError(
            "bad-window",
            f"A window of {window_frames} frames does not fit the video model.",
            f"Give one more than a multiple of four, such as {near}.",
        )
    if not 0 <= overlap_frames <= window_frames // 2:
        raise SettingsError(
            "bad-window",
            f"Windows of {window_frames} frames cannot share {overlap_frames}.",
            f"Give an overlap from 0 to {window_frames // 2}.",
        )


def plan_windows(count: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open windows [start, end) that cover 0 .. count; all of length `window` unless one covers everything.

    Neighbours share `overlap`; the last is moved back to end at `count`, so it may share more.
    """
    if count <= window:
        return [(0, count)]
    starts = [*range(0, count - window, window - overlap), count - window]
    return [(start, start + window) for start in starts]


def window_weights(windows: Sequence[tuple[int, int]], count: int) -> list[np.ndarray]:
    """Each window's float32 share at its places: linear ramps across overlaps, together 1 wherever a window reaches."""
    ramps = []
    for i, (start, end) in enumerate(windows):
        place = np.arange(start, end)
        ramp = np.ones(end - start)
        if i and windows[i - 1][1] > start:
            ramp = np.minimum(ramp, (place - start + 1) / (windows[i - 1][1] - start + 1))
        if i + 1 < len(windows) and windows[i + 1][0] < end:
            ramp = np.minimum(ramp, (end - place) / (end - windows[i + 1][0] + 1))
        ramps.append(ramp)
    total = np.zeros(count)
    for (start, end), ramp in zip(windows, ramps, strict=True):
        total[start:end] += ramp
    return [(ramp / total[start:end]).astype(np.float32) for (start, end), ramp in zip(windows, ramps, strict=True)]


def working_size(width: int, height: int, area_px: int) -> tuple[int, int]:
    """(width, height) a model works at: the clip's shape, multiples of 16, at most `area_px` pixels."""
    aspect = height / width
    rows = max(16, int(math.sqrt(area_px * aspect)) // 16 * 16)
    columns = max(16, int(math.sqrt(area_px / aspect)) // 16 * 16)
    return columns, rows


def reduced(picture: np.ndarray, hole_mask: np.ndarray, size: tuple[int, int], hole_value: float) -> tuple[np.ndarray, np.ndarray]:
    """A frame as a model sees it.

    Args:
        picture: [h, w, 3] float32, nominal 0 to 1. size: (width, height). hole_value: what stands in holes.

    Returns:
        ([h', w', 3] float32 in [0, 1], hole_mask [h', w'] bool). A reduced pixel is a hole where less than half of it
        was rendered; elsewhere it is the mean of what was rendered, with nothing of the hole in it.
    """
    valid = (~hole_mask).astype(np.float32)
    picture = np.clip(picture, 0.0, 1.0) * valid[..., None]
    coverage, total = _resized(valid, size), _resized(picture, size)
    hole = coverage < 0.5
    known = np.clip(total / np.maximum(coverage, 1e-3)[..., None], 0.0, 1.0)
    return np.where(hole[..., None], np.float32(hole_value), known), hole


@dataclass(frozen=True, slots=True, eq=False)
class ColourFit:
    """How a generated picture's colour becomes the render's: gain * x + bias + residual.

    gain, bias: [3]. residual: [rows, columns, 3] low frequencies on a coarse grid spanning the picture. weight:
    share of the picture that could judge; 0 = nothing could, and the fit changes nothing.
    """

    gain: np.ndarray
    bias: np.ndarray
    residual: np.ndarray
    weight: float


def fit_colour(generated: np.ndarray, rendered: np.ndarray, hole_mask: np.ndarray) -> ColourFit:
    """The fit of one frame, judged on rendered pixels away from holes; all at the reduced size.

    Pixels that the model changed beyond colour (over 3 times the median deviation) are left out of gain and bias.
    """
    height, width = hole_mask.shape
    grid = (max(1, -(-width // _GRID_PX)), max(1, -(-height // _GRID_PX)))
    kernel = np.ones((2 * _ERODE_PX + 1,) * 2, np.uint8)
    # Colour is judged on a sample of the pixels: nothing of it is finer than the grid.
    some = slice(None, None, max(1, width // _JUDGED_WIDTH_PX))
    known = ~cv2.dilate(hole_mask.astype(np.uint8), kernel)[some, some].astype(bool)
    generated, rendered = generated[some, some], rendered[some, some]
    gain, bias = np.ones(3), np.zeros(3)
    if known.sum() < 64:
        return ColourFit(gain, bias, np.zeros((grid[1], grid[0], 3), np.float32), 0.0)
    for c in range(3):
        x, y = generated[..., c][known].astype(np.float64), rendered[..., c][known].astype(np.float64)
        use = np.ones(len(x), bool)
        for _ in range(2):
            dx, dy = x[use] - x[use].mean(), y[use] - y[use].mean()
            gain[c] = np.clip(((dx * dy).mean() + 1e-4) / ((dx * dx).mean() + 1e-4), 0.5, 2.0)
            bias[c] = y[use].mean() - gain[c] * x[use].mean()
            deviation = np.abs(y - gain[c] * x - bias[c])
            use = deviation <= 3 * np.median(deviation) + 1e-6
    left = np.where(known[..., None], rendered - (gain * generated + bias), 0.0).astype(np.float32)
    sigma = _RESIDUAL_SIGMA * width / _GRID_PX
    amount = cv2.GaussianBlur(_resized(known.astype(np.float32), grid), (0, 0), sigma)
    total = cv2.GaussianBlur(_resized(left, grid), (0, 0), sigma)
    residual = (total / (amount + 1e-3)[..., None]).astype(np.float32)
    return ColourFit(gain, bias, residual, float(known.mean()))


def mean_fit(fits: Sequence[tuple[int, ColourFit]]) -> ColourFit:
    """The fit of a frame from its own and its neighbours' fits, given as (frames away, fit), so that colour does not flicker."""
    weights = [fit.weight * math.exp(-0.5 * (away / _FIT_SIGMA_FRAMES) ** 2) for away, fit in fits]
    total = sum(weights)
    if total <= 0:
        return fits[0][1]
    shares = [weight / total for weight in weights]
    gain, bias, residual = (
        sum(share * getattr(fit, name) for share, (_, fit) in zip(shares, fits, strict=True)) for name in ("gain", "bias", "residual")
    )
    return ColourFit(gain, bias, residual.astype(np.float32), total)


def corrected(generated: np.ndarray, fit: ColourFit) -> np.ndarray:
    """[h, w, 3] float32: the generated picture in the render's colours."""
    if fit.weight <= 0:
        return generated
    height, width = generated.shape[:2]
    residual = cv2.resize(fit.residual, (width, height), interpolation=cv2.INTER_LINEAR)
    return (generated * fit.gain.astype(np.float32) + fit.bias.astype(np.float32) + residual).astype(np.float32)


def generated_region(rendered: Rendered) -> np.ndarray:
    """[h, w] bool: where generated pixels are wanted: holes, and slivers of neighbouring frames' pixels between them.

    Pixels of the current frame are never in it; neither is anything else where the renderer does not tell them apart.
    """
    holes = rendered.hole_mask
    if rendered.current_mask is None or not holes.any():
        return holes
    side = 2 * round(_SLIVER_PX_AT_1080P * rendered.frame.height / 1080 / 2) + 1
    closed = cv2.morphologyEx(holes.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)).astype(bool)
    return holes | (closed & ~rendered.current_mask)


def feather_px(height: int) -> int:
    """Width of the transition into valid pixels: 3 at 1080 lines. Wider ones cost fidelity: 3 px 62 dB, 8 px 56 dB."""
    return max(2, round(_FEATHER_PX_AT_1080P * height / 1080))


def fill_holes(rendered: Rendered, generated: np.ndarray) -> Frame:
    """The rendered frame with generated pixels in its `generated_region` and a feather of `feather_px` around it.

    generated: [h', w', 3] float32 of any size that spans the picture; it is upsampled only where it is needed. Every
    sample of every plane beyond the feather is the render's own, bit for bit (a chroma sample counts as inside when any
    of its luma pixels is). A frame without holes comes back as it is.
    """
    frame, region = rendered.frame, generated_region(rendered)
    if not region.any():
        return frame
    height, width = region.shape
    reach = feather_px(height)
    distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.clip(1.0 - distance / (reach + 1), 0.0, 1.0)
    planes = tuple(plane.copy() for plane in frame.planes)
    if width < generated.shape[1] or height < generated.shape[0]:
        generated = cv2.resize(generated, (width, height), interpolation=cv2.INTER_AREA)
    for inner, outer in _parts(share > 0):
        before = _cut(frame, outer)
        picture = before.to_rgb()
        picture += share[outer][..., None] * (enlarged(generated, width, height, outer) - picture)
        after = before.with_rgb(picture)
        is_new = np.zeros_like(region[outer])
        local = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True))
        is_new[local] = share[inner] > 0
        for plane, old, new in zip(planes, before.planes, after.planes, strict=True):
            place = _on_plane_slices(outer, old.shape, plane.shape, region.shape)
            np.copyto(plane[place], new, where=_on_plane(is_new, old.shape))
    return Frame(frame.frame_index, planes, frame.layout, frame.colour)


def _parts(is_new: np.ndarray) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Boxes (rows, columns) that together hold every True pixel once, each with the margin it is composed in."""
    height, width = is_new.shape
    for top in range(0, height, _BAND_PX):
        bottom = min(top + _BAND_PX, height)
        cells = np.zeros(-(-width // _BAND_PX), bool)
        columns = np.flatnonzero(is_new[top:bottom].any(axis=0))
        cells[columns // _BAND_PX] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            left, right = int(start) * _BAND_PX, min(int(end) * _BAND_PX, width)
            outer = (
                slice(max(0, top - _MARGIN_PX), min(height, bottom + _MARGIN_PX)),
                slice(max(0, left - _MARGIN_PX), min(width, right + _MARGIN_PX)),
            )
            yield (slice(top, bottom), slice(left, right)), outer


def _cut(frame: Frame, box: tuple[slice, slice]) -> Frame:
    """A part of a frame whose corner lies on whole chroma samples."""
    planes = tuple(plane[_on_plane_slices(box, None, plane.shape, frame.planes[0].shape)] for plane in frame.planes)
    return Frame(frame.frame_index, planes, frame.layout, frame.colour)


def _on_plane_slices(
    box: tuple[slice, slice], part: tuple[int, int] | None, plane: tuple[int, int], full: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of a plane that a box of full-size pixels covers; `part`: their number, where known."""
    steps = [-(-whole // small) for whole, small in zip(full, plane, strict=True)]
    starts = [side.start // step for side, step in zip(box, steps, strict=True)]
    counts = part or [-(-(side.stop - side.start) // step) for side, step in zip(box, steps, strict=True)]
    return slice(starts[0], starts[0] + counts[0]), slice(starts[1], starts[1] + counts[1])


def replace_frame(rendered: Rendered, generated: np.ndarray) -> Frame:
    """The generated picture everywhere, at the frame's size and in its layout (the paper's output)."""
    frame = rendered.frame
    everywhere = (slice(0, frame.height), slice(0, frame.width))
    return frame.with_rgb(enlarged(generated, frame.width, frame.height, everywhere))


def enlarged(picture: np.ndarray, width: int, height: int, box: tuple[slice, slice]) -> np.ndarray:
    """[rows, columns, 3] float32: the part `box` of `picture` resampled to width x height: Lanczos up, area mean down."""
    rows, columns = picture.shape[:2]
    rows_box, columns_box = box
    if width < columns or height < rows:
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)[box]
    if (columns, rows) == (width, height):
        return picture[box]
    x = (np.arange(columns_box.start, columns_box.stop, dtype=np.float32) + 0.5) * np.float32(columns / width) - 0.5
    y = (np.arange(rows_box.start, rows_box.stop, dtype=np.float32) + 0.5) * np.float32(rows / height) - 0.5
    up = cv2.remap(
        picture,
        np.tile(x, (len(y), 1)),
        np.tile(y[:, None], (1, len(x))),
        cv2.INTER_LANCZOS4,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.clip(up, 0.0, 1.0)


def _on_plane(is_new: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A full-size mask at a plane's size: True where any pixel under the sample is."""
    if is_new.shape == shape:
        return is_new
    steps = [-(-full // small) for full, small in zip(is_new.shape, shape, strict=True)]
    padded = np.zeros((shape[0] * steps[0], shape[1] * steps[1]), bool)
    padded[: is_new.shape[0], : is_new.shape[1]] = is_new
    return np.asarray(padded.reshape(shape[0], steps[0], shape[1], steps[1]).any(axis=(1, 3)))


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`array` at (width, height): area mean where it becomes smaller, linear where larger."""
    if (array.shape[1], array.shape[0]) == size:
        return array
    is_smaller = size[0] <= array.shape[1] and size[1] <= array.shape[0]
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)
