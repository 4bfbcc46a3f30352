# SPDX-License-Identifier: Apache-2.0
"""Tiles: the few cells of a picture where something is to be done, as dense arrays, so that work is in proportion to
them and not to the picture. A tile array is [tiles, pixels]: one cell's pixels in a row, top row first."""

import functools
import math

import cv2
import numpy as np

from vs3r_engine.frame import PixelLayout


class Tiles:
    """The cells of a picture that a mask [rows, columns] marks. A cell is cell_px luma pixels wide and high."""

    def __init__(self, marked: np.ndarray, cell_px: int, layout: PixelLayout) -> None:
        self.rows, self.columns = np.nonzero(marked)
        self.shape = marked.shape
        self.cell_px, self.layout = cell_px, layout

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: np.ndarray) -> "Tiles":
        """The tiles at these places [k] among these."""
        part = object.__new__(Tiles)
        part.rows, part.columns, part.shape = self.rows[chosen], self.columns[chosen], self.shape
        part.cell_px, part.layout = self.cell_px, self.layout
        return part

    def size(self, plane: int) -> tuple[int, int]:
        """(rows, columns) of a tile in a plane."""
        return self.layout.plane_shape(plane, self.cell_px, self.cell_px)

    def spread(self, at_vertices: np.ndarray, plane: int = 0) -> np.ndarray:
        """[k, tiles, pixels] float32: values [k, rows + 2, columns + 2] at the vertices (the centres of the cells and
        of one ring around them) at every sample of a plane, bilinearly, chroma where it is sited."""
        return self._between(at_vertices, _vertex_weights(self.layout, plane, self.cell_px), 1, 3)

    def spread_small(self, small: np.ndarray, plane: int, per_cell: int) -> np.ndarray:
        """[k, tiles, pixels] float32: `per_cell` squared samples a cell, with a ring of one around the picture,
        [k, per_cell * rows + 2, per_cell * columns + 2], at every sample of a plane, bilinearly."""
        return self._between(small, _small_weights(self.layout, plane, self.cell_px, per_cell), per_cell, per_cell + 2)

    def _between(self, samples: np.ndarray, weights: np.ndarray, step: int, reach: int) -> np.ndarray:
        count, height, width = samples.shape
        window = (np.arange(reach)[:, None] * width + np.arange(reach)).ravel()
        index = ((self.rows * width + self.columns) * step)[:, None] + window
        patches = np.ascontiguousarray(samples, np.float32).reshape(count, height * width).take(index, axis=1)
        return (patches.reshape(-1, len(weights)) @ weights).reshape(count, len(self), -1)

    def read(self, plane: np.ndarray, number: int) -> np.ndarray:
        """[tiles, pixels] of plane `number`, a copy. The plane is whole cells in size."""
        rows, columns = self.size(number)
        cells = plane.reshape(self.shape[0], rows, self.shape[1], columns).swapaxes(1, 2)
        return cells[self.rows, self.columns].reshape(len(self), rows * columns)

    def inside(self, width: int, height: int) -> np.ndarray:
        """[tiles, pixels] bool: the luma samples of a picture of this size; the others are beyond its last row or column."""
        down, across = (
            np.arange(count * self.cell_px).reshape(count, -1) < side for count, side in zip(self.shape, (height, width), strict=True)
        )
        return (down[self.rows][:, :, None] & across[self.columns][:, None]).reshape(len(self), -1)

    def write(self, tiles: np.ndarray, plane: np.ndarray, number: int) -> None:
        """Put [tiles, pixels] into plane `number`, which is whole cells in size."""
        rows, columns = self.size(number)
        cells = plane.reshape(self.shape[0], rows, self.shape[1], columns).swapaxes(1, 2)
        cells[self.rows, self.columns] = tiles.reshape(len(self), rows, columns)

    def put(self, tiles: np.ndarray, plane: np.ndarray, number: int, where: np.ndarray) -> None:
        """Put the values of [tiles, pixels] that `where` marks into plane `number` of any size."""
        rows, columns = self.size(number)
        tile, pixel = np.nonzero(where)
        y, x = self.rows[tile] * rows + pixel // columns, self.columns[tile] * columns + pixel % columns
        plane[y, x] = tiles[tile, pixel]

    def subsampled(self, tiles: np.ndarray, number: int) -> np.ndarray:
        """Luma tiles at a plane's samples: a chroma sample goes with the luma sample it is sited on."""
        rows, columns = self.size(number)
        if rows == columns == self.cell_px:
            return tiles
        square = tiles.reshape(len(self), self.cell_px, self.cell_px)
        return square[:, :: self.cell_px // rows, :: self.cell_px // columns].reshape(len(self), -1)

    def averaged(self, tiles: np.ndarray, number: int, per_cell: int) -> np.ndarray:
        """[tiles, per_cell, per_cell] float32 means of a plane's tiles."""
        rows, columns = self.size(number)
        column = np.ascontiguousarray(tiles, np.float32).reshape(len(self) * rows, columns)
        means = cv2.resize(column, (per_cell, len(self) * per_cell), interpolation=cv2.INTER_AREA)
        return means.reshape(len(self), per_cell, per_cell)


def padded(plane: np.ndarray, shape: tuple[int, int], value: float | None = None) -> np.ndarray:
    """A copy of a plane extended to `shape` by a value, or by its last pixels repeated."""
    rows, columns = plane.shape
    border = cv2.BORDER_REPLICATE if value is None else cv2.BORDER_CONSTANT
    return cv2.copyMakeBorder(plane, 0, shape[0] - rows, 0, shape[1] - columns, border, value=value or 0)


def cells_of(mask: np.ndarray, cell_px: int) -> np.ndarray:
    """[rows, columns] bool: the cells of a mask of whole cells, one byte a pixel, that hold a pixel that is not 0."""
    height, width = mask.shape
    # Up to eight pixels at once, as words.
    words = mask.view(f"u{math.gcd(cell_px, 8)}").reshape(height // cell_px, cell_px, -1)
    return np.bitwise_or.reduce(words, axis=1).reshape(height // cell_px, width // cell_px, -1).any(axis=-1)


def plane_positions(x: np.ndarray, y: np.ndarray, layout: PixelLayout, plane: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) float32 indices into a plane from corner-origin luma positions (x, y)."""
    shift_x, shift_y = layout.shifts(plane)
    return (x - np.float32(0.5)) * np.float32(0.5**shift_x), y * np.float32(0.5**shift_y) - np.float32(0.5)


@functools.lru_cache(maxsize=64)
def _vertex_weights(layout: PixelLayout, plane: int, cell_px: int) -> np.ndarray:
    """[9, pixels]: what a cell's own vertex and the eight around it count for each of its samples."""
    rows, columns = layout.plane_shape(plane, cell_px, cell_px)
    # Chroma is co-sited with the left of the luma samples it stands for, and centred vertically.
    x = (np.arange(columns) * (cell_px // columns) + 0.5) / cell_px + 0.5
    y = (np.arange(rows) + 0.5) / rows + 0.5
    return _products(x, y, 3)


@functools.lru_cache(maxsize=64)
def _small_weights(layout: PixelLayout, plane: int, cell_px: int, per_cell: int) -> np.ndarray:
    """[(per_cell + 2) ** 2, pixels]: what a cell's small samples and the ring around them count for each sample."""
    rows, columns = layout.plane_shape(plane, cell_px, cell_px)
    x, y = ((np.arange(count) + 0.5) / count * per_cell + 0.5 for count in (columns, rows))
    return _products(x, y, per_cell + 2)


def _products(x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Bilinear weights [count * count, len(y) * len(x)] of samples 0 .. count - 1 at fractional indices x and y."""
    across, down = (np.maximum(1 - np.abs(np.arange(count)[:, None] - at), 0) for at in (x, y))
    return np.ascontiguousarray(np.einsum("iy,jx->ijyx", down, across).reshape(count * count, -1), np.float32)
