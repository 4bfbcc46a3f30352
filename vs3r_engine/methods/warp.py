# SPDX-License-Identifier: Apache-2.0
"""The default Renderer: every plane of the current frame warped once, backwards, with a cubic kernel, straight from the
decoder's code values; static pixels of neighbouring frames in what it does not cover."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vs3r_engine.frame import PixelLayout
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.stages.render import is_identity, source_positions

CELL_PX = 16
"""Spacing of the vertices where the geometry is solved. Between them positions are bilinear, which for a rotation by 3
degrees at a focal length of one picture width is within 0.002 px of the truth."""

INTERPOLATION = cv2.INTER_CUBIC
"""Mean gradient energy against the source on 9 hand-held clips, under random sub-pixel shifts and 1 degree of roll:
linear 0.75, cubic 0.96, Lanczos4 0.98, for 6, 18 and 62 CPU-ms per 1080p plane."""

OUTSIDE = -1e6


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the picture whose left and top are multiples of the cell it was made with."""

    x: int
    y: int
    width: int
    height: int

    def plane_slices(self, layout: PixelLayout, plane: int) -> tuple[slice, slice]:
        """Rows and columns of a plane that this region covers."""
        rows, columns = layout.plane_shape(plane, self.width, self.height)
        top, left = layout.plane_shape(plane, self.x, self.y)
        return slice(top, top + rows), slice(left, left + columns)

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def vertices(region: Region, cell_px: int = CELL_PX) -> np.ndarray:
    """[rows, columns, 2] corner-origin centres of the region's cells and of one ring of cells around it."""
    x = region.x + cell_px * (np.arange(-(-region.width // cell_px) + 2) - 0.5)
    y = region.y + cell_px * (np.arange(-(-region.height // cell_px) + 2) - 0.5)
    return np.stack(np.meshgrid(x, y), -1)


def upsampled(at_vertices: np.ndarray, width: int, height: int, cell_x: int, cell_y: int) -> np.ndarray:
    """[height, width, ...] float32: values at `vertices` at every pixel centre between them, bilinearly."""
    rows, columns = at_vertices.shape[:2]
    full = cv2.resize(at_vertices.astype(np.float32), (columns * cell_x, rows * cell_y), interpolation=cv2.INTER_LINEAR)
    return full[cell_y:cell_y + height, cell_x:cell_x + width]


class PlaneMaps:
    """From positions at a region's vertices to the per-pixel maps cv2.remap takes, one per plane size, when asked."""

    def __init__(self, positions: np.ndarray, region: Region, layout: PixelLayout, cell_px: int = CELL_PX) -> None:
        self.region, self.layout, self.cell_px = region, layout, cell_px
        self._positions = positions
        self._maps: dict[tuple[int, int], np.ndarray] = {}

    def map(self, plane: int) -> np.ndarray:
        """[rows, columns, 2] float32 (x, y) indices into the source's plane. NaN positions come out far outside."""
        is_chroma = self.layout.model == "yuv" and plane in (1, 2)
        shifts = (self.layout.chroma_shift_x, self.layout.chroma_shift_y) if is_chroma else (0, 0)
        if shifts not in self._maps:
            self._maps[shifts] = self._sited(*shifts)
        return self._maps[shifts]

    def _sited(self, shift_x: int, shift_y: int) -> np.ndarray:
        factor_x, factor_y = 1 << shift_x, 1 << shift_y
        positions = self._positions
        # Chroma sample i is co-sited with luma sample i * factor: left of the centre of the luma pixels it stands for.
        lead = (factor_x - 1) / 2
        if lead:
            step = np.diff(positions, axis=1, prepend=2 * positions[:, :1] - positions[:, 1:2])
            positions = positions - step * (lead / self.cell_px)
        indices = (positions - (0.5, 0.5 * factor_y)) / (factor_x, factor_y)
        lost = np.isnan(indices[..., 0])
        rows, columns = self.layout.plane_shape(1 if shift_x or shift_y else 0, self.region.width, self.region.height)
        cell_x, cell_y = self.cell_px >> shift_x, self.cell_px >> shift_y
        if not lost.any():
            return upsampled(indices, columns, rows, cell_x, cell_y)
        # A cell with a vertex behind the camera has no position anywhere, not one between here and infinity.
        full = upsampled(np.nan_to_num(indices), columns, rows, cell_x, cell_y).copy()
        full[upsampled(lost, columns, rows, cell_x, cell_y) > 0] = OUTSIDE
        return full

    def covered(self, width: int, height: int) -> np.ndarray:
        """[h, w] bool of the region, True where the position lies inside a source picture of this size."""
        region, positions = self.region, self._positions
        covered = np.ones((region.height, region.width), bool)
        inside = ((positions > 0) & (positions < (width, height))).all(axis=-1)
        # Between vertices that are all inside, everything is: only the other cells are looked at pixel by pixel.
        doubtful = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] == 0
        for part in regions_of_cells(doubtful, region.width, region.height, self.cell_px):
            at = self.map(0)[part.slices]
            covered[part.slices] = cv2.inRange(at, (-0.5, -0.5), (width - 0.5, height - 0.5)) > 0
        return covered


def resampled(plane: np.ndarray, at: np.ndarray, layout: PixelLayout, interpolation: int = INTERPOLATION) -> np.ndarray:
    """A plane read once at fractional indices, in its own type and range; the border repeats, so no edge darkens."""
    out = remapped(plane, at, interpolation)
    if 8 < layout.bit_depth < 16:
        np.minimum(out, int(layout.peak), out=out)
    return out


def remapped(image: np.ndarray, at: np.ndarray, interpolation: int) -> np.ndarray:
    """cv2.remap with one two-channel map and a border that repeats."""
    # OpenCV's type stubs do not know that the second map may be None; an empty one reads uninitialised memory (5.0).
    return cv2.remap(image, at, None, interpolation, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


def whole(width: int, height: int) -> Region:
    return Region(0, 0, width, height)


def cells_of(mask: np.ndarray, cell_px: int = CELL_PX) -> np.ndarray:
    """[rows, columns] bool: the cells of the picture that hold a True pixel. cell_px: a multiple of 8."""
    height, width = mask.shape
    rows, columns = -(-height // cell_px), -(-width // cell_px)
    if (height, width) != (rows * cell_px, columns * cell_px) or not mask.flags.c_contiguous:
        padded = np.zeros((rows * cell_px, columns * cell_px), bool)
        padded[:height, :width] = mask
        mask = padded
    # Eight pixels at once, as 64-bit words.
    lines = np.bitwise_or.reduce(mask.view(np.uint64).reshape(rows, cell_px, -1), axis=1)
    return lines.reshape(rows, columns, -1).any(axis=-1)


def regions_of_cells(cells: np.ndarray, width: int, height: int, cell_px: int = CELL_PX) -> list[Region]:
    """At most four disjoint rectangles, one along each side of the picture, that together hold every True cell."""
    rows, columns = cells.shape
    if not cells.any():
        return []
    i, j = np.nonzero(cells)
    depths = np.stack([i, rows - 1 - i, j, columns - 1 - j])
    side = np.argmin(depths, axis=0)
    top, bottom = (int(depths[s][side == s].max(initial=-1)) + 1 for s in (0, 1))
    between = (i >= top) & (i < rows - bottom)
    left, right = (int(depths[s][between & (side == s)].max(initial=-1)) + 1 for s in (2, 3))
    strips = [(slice(0, top), slice(0, columns)), (slice(rows - bottom, rows), slice(0, columns)),
              (slice(top, rows - bottom), slice(0, left)), (slice(top, rows - bottom), slice(columns - right, columns))]
    regions = []
    for strip in strips:
        inside = cells[strip]
        if inside.any():
            ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            x, y = (strip[1].start + int(xs[0])) * cell_px, (strip[0].start + int(ys[0])) * cell_px
            right_px = min((strip[1].start + int(xs[-1]) + 1) * cell_px, width)
            lower_px = min((strip[0].start + int(ys[-1]) + 1) * cell_px, height)
            regions.append(Region(x, y, right_px - x, lower_px - y))
    return regions


def moving_at(view: View, at: np.ndarray) -> np.ndarray | None:
    """[h, w] bool: the view's dynamic mask at fractional luma indices, or None where nothing in the view moves."""
    if not view.dynamic_mask.any():
        return None
    rows, columns = view.dynamic_mask.shape
    scale = np.array([columns / view.frame.width, rows / view.frame.height], np.float32)
    at = (at + np.float32(0.5)) * scale - np.float32(0.5)
    return remapped(view.dynamic_mask.astype(np.uint8), at, cv2.INTER_NEAREST) > 0


class WarpRenderer:
    """Backward warp through depth and residual grids. Stateless."""

    def render(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        """See `Renderer.render`. Neighbours are tried nearest in time first."""
        frame = current.frame
        width, height = frame.width, frame.height
        if is_identity(target, current):
            return Rendered(frame, np.zeros((height, width), bool), target, np.ones((height, width), bool))
        region = whole(width, height)
        maps = PlaneMaps(source_positions(target, current, vertices(region)), region, frame.layout)
        planes = tuple(resampled(plane, maps.map(i), frame.layout) for i, plane in enumerate(frame.planes))
        current_mask = maps.covered(width, height)
        hole_mask = ~current_mask
        for neighbour in sorted(neighbours, key=lambda view: abs(view.frame.frame_index - frame.frame_index)):
            for region in regions_of_cells(cells_of(hole_mask), width, height):
                _add_static(planes, hole_mask, region, target, neighbour)
        return Rendered(replace(frame, planes=planes), hole_mask, target, current_mask)


def _add_static(
    planes: tuple[np.ndarray, ...], hole_mask: np.ndarray, region: Region, target: Target, view: View
) -> None:
    """Writes the view's static pixels into the holes of a region of `planes`, and takes them out of `hole_mask`."""
    frame = view.frame
    maps = PlaneMaps(source_positions(target, view, vertices(region)), region, frame.layout)
    found = hole_mask[region.slices] & maps.covered(frame.width, frame.height)
    if not found.any():
        return
    moving = moving_at(view, maps.map(0))
    if moving is not None:
        found &= ~moving
    hole_mask[region.slices] &= ~found
    for i, plane in enumerate(planes):
        slices = region.plane_slices(frame.layout, i)
        source = resampled(frame.planes[i], maps.map(i), frame.layout)
        np.copyto(plane[slices], source, where=at_plane(found, source.shape))


def at_plane(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A luma-sized mask or weight at a plane's samples: a chroma sample goes with the luma sample it is sited on."""
    return mask[::-(-mask.shape[0] // shape[0]), ::-(-mask.shape[1] // shape[1])]
