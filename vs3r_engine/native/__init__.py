# SPDX-License-Identifier: Apache-2.0
"""The loops that are compiled, the C files here behind numpy signatures. Where an installation has no compiled library
(`is_available` is False; `vs3r doctor` says so) their callers do the same with numpy and OpenCV, slower."""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VERSION = 5
"""Of the signatures below; a library of another version is not used."""
LIBRARY = Path(__file__).with_name("kernels.dll" if sys.platform == "win32" else "kernels.so")

_KINDS: dict[type, int] = {np.float16: 0, np.uint8: 1, np.uint16: 2, np.float32: 4}
"""As `interleaved` calls the types of its samples."""
_P, _I, _L, _F, _D = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double


def _loaded() -> ctypes.CDLL | None:
    """The library of this version, or None. VS3R_KERNELS=off: as if there were none."""
    if os.environ.get("VS3R_KERNELS") == "off" or not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.kernels_version() != VERSION:
            return None
    except (OSError, AttributeError):  # made for another machine, or not by us
        return None
    size = ctypes.c_ssize_t
    library.warp_plane.argtypes = [_P, size, _I, _I, _I, _P, _I, _I, _I, _F, _F, _P, _I, _I]
    library.source_positions.argtypes = [_P, _L, _P, _P, _I, _I, _D, _I, _P, _I, _I, _D, _D, _P]
    library.source_positions.restype = None
    library.add_layer.argtypes = [_P, size, _I, _I, _I, _P, _I, _I, _P, _P, _P, _L, _I, _I, _F, _P, _P]
    library.add_layer.restype = None
    library.interleaved.argtypes = [_P, _P, *[_I] * 7, _P, _F, _I, _I, _P]
    library.align.argtypes = [_P, _I, _I, _L, *[_P] * 7, _I, _I, _I, _P, _P, _L, *[_P] * 8]
    return library


_library = _loaded()
is_available = _library is not None


def takes(plane: np.ndarray) -> bool:
    """Whether `warp_plane` and `add_layer` can read a plane: four taps across and down, offsets of 31 bits."""
    return is_available and min(plane.shape) >= 8 and plane.nbytes < 1 << 30


def warp_plane(plane: np.ndarray, indices: np.ndarray, cell: tuple[int, int], peak: float, sharpening: float) -> np.ndarray:
    """A plane of the same shape and type, each sample read once with a cubic kernel (a = -0.75) where `indices` say.

    plane: [rows, columns] uint8, uint16 or float32. indices: [r + 2, c + 2, 2] (x, y) into it at the centres of the
    cells and of one ring around them; bilinear between. cell: (columns, rows) of a cell. peak: the largest code value.
    sharpening: what the result is pushed away from its own 3 x 3 mean. The border repeats.
    """
    rows, columns = plane.shape
    plane = _lines(plane)
    indices = np.ascontiguousarray(indices, np.float32)
    out = np.empty((rows, columns), plane.dtype)
    failed = _library.warp_plane(  # type: ignore[union-attr]
        plane.ctypes.data, plane.strides[0], columns, rows, plane.itemsize, indices.ctypes.data, indices.shape[1],
        *cell, peak, sharpening, out.ctypes.data, columns, rows,
    )  # fmt: skip
    if failed:
        raise MemoryError
    return out


def source_positions(
    pixels: np.ndarray, cameras: Sequence[np.ndarray], bends: tuple[float, float], size: tuple[int, int], nearness: np.ndarray,
    start: float, iterations: int, change_px: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """[..., 2] float64: `stages.render.source_positions` for two cameras with perspective lenses, or lenses of the division model.

    cameras: K and world_from_camera of the target, and of the view. bends: the lenses' lambda, 0 for none. size: (width,
    height) of the view. nearness: [h, w] float64 its inverse depth, first taken to be `start` everywhere. change_px:
    [rows, columns, 2] to add, on a grid that spans the picture corner to corner.
    """
    pixels, nearness = np.ascontiguousarray(pixels, np.float64), np.ascontiguousarray(nearness, np.float64)
    matrices = np.concatenate([*(m.ravel() for m in cameras), bends], dtype=np.float64)
    change = None if change_px is None else np.ascontiguousarray(change_px, np.float64)
    out = np.empty_like(pixels)
    _library.source_positions(  # type: ignore[union-attr]
        pixels.ctypes.data, pixels.size // 2, matrices.ctypes.data, nearness.ctypes.data, *nearness.shape,
        start, iterations, *((None, 0, 0) if change is None else (change.ctypes.data, *change.shape[:2])), *size,
        out.ctypes.data,
    )  # fmt: skip
    return out


def add_layer(
    plane: np.ndarray, vertices: np.ndarray, tile_rows: np.ndarray, tile_columns: np.ndarray, tiles: np.ndarray,
    tile_size: tuple[int, int], lead: float, sums: np.ndarray, totals: np.ndarray,
) -> None:  # fmt: skip
    """Adds weight * (gain * sample + bias) to `sums` and the weight to `totals`, for some tiles of a picture.

    plane: [h, w] of at least 4 x 4 samples. vertices: [6, rows + 2, columns + 2] float32 at the centres of the cells and
    of one ring around them: x, y (indices into the plane), margin, share, gain, bias; weight = clip(margin, 0, 1) *
    share, and should be 0 outside of the plane. tile_rows, tile_columns: [k] int64 cells, and tiles [k] int64 their
    numbers in sums and totals, [tiles, rows * columns of tile_size] float32. lead: by how much of a sample samples are
    sited left of their middle.
    """
    plane = _lines(plane)
    rows, columns = tile_size
    _library.add_layer(  # type: ignore[union-attr]
        plane.ctypes.data, plane.strides[0], plane.shape[1], plane.shape[0], plane.itemsize, vertices.ctypes.data,
        *vertices.shape[1:], tile_rows.ctypes.data, tile_columns.ctypes.data, tiles.ctypes.data, len(tiles), columns, rows,
        lead, sums.ctypes.data, totals.ctypes.data,
    )  # fmt: skip


def align(
    vertices: np.ndarray, at_cells: np.ndarray, weight: np.ndarray, template: Sequence[np.ndarray], picture: np.ndarray,
    anchor: Sequence[np.ndarray], small: np.ndarray, still: np.ndarray | None, is_chroma: Sequence[bool], bounds: np.ndarray,
    occupied: np.ndarray, starts: np.ndarray, pools: np.ndarray, tuning: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(shift_small_px, gain, bias, mismatch) as in `alignment.Aligned`, of one anchor: its loop, all float32.

    vertices: [rows + 2, columns + 2, 2] where geometry expects the cells and a ring around them in the anchor's small
    picture. at_cells [n, 2], weight [n], picture [planes, n], occupied, starts: as in Template; template: its levels [3, n].
    anchor: its levels [h, w]; small: [h, w, planes], 1 or 3 of them. bounds: left, top, right, bottom of its usable indices.
    pools: [3]. tuning: see align.c.
    """
    rows, columns, planes = vertices.shape[0] - 2, vertices.shape[1] - 2, len(picture)
    vertices, bounds = (np.ascontiguousarray(a, np.float32) for a in (vertices, bounds))
    shift, gain, bias = (np.empty((rows, columns, count), np.float32) for count in (2, planes, planes))
    mismatch = np.empty((rows, columns), np.float32)
    height, width = anchor[0].shape
    failed = _library.align(  # type: ignore[union-attr]
        vertices.ctypes.data, rows, columns, len(weight), at_cells.ctypes.data, weight.ctypes.data, _addresses(template),
        picture.ctypes.data, _addresses(anchor), small.ctypes.data, None if still is None else still.ctypes.data, width, height,
        planes, bytes(is_chroma), bounds.ctypes.data, len(occupied), occupied.ctypes.data, starts.ctypes.data,
        pools.ctypes.data, tuning.ctypes.data, *(found.ctypes.data for found in (shift, gain, bias, mismatch)),
    )  # fmt: skip
    if failed:
        raise MemoryError
    return shift, gain, bias, mismatch


def interleaved(
    planes: Sequence[np.ndarray], shifts: tuple[int, int], matrix: np.ndarray, alpha: np.ndarray | None, alpha_scale: float, channels: int,
    dtype: type,
) -> np.ndarray:  # fmt: skip
    """[rows, columns, channels] of `dtype`: three planes times `matrix` [3, 4] (the last column is added), then, where 4 channels are
    wanted, alpha times its scale, or 1.

    planes: of one type, uint8, uint16 or float32; shifts: how far the second and third are subsampled, across and down, sited as
    MPEG-2 does. dtype: float32 and float16 as they come; uint8 and uint16 held to 0..1, at full scale.
    """
    rows, columns = planes[0].shape
    given = [_lines(plane) for plane in (*planes, *([] if alpha is None else [alpha]))]
    addresses = (ctypes.c_void_p * 4)(*(plane.ctypes.data for plane in given))
    strides = (ctypes.c_int64 * 4)(*(plane.strides[0] for plane in given))
    matrix = np.ascontiguousarray(matrix, np.float32)
    out: np.ndarray = np.empty((rows, columns, channels), dtype)
    failed = _library.interleaved(  # type: ignore[union-attr]
        addresses, strides, columns, rows, *planes[1].shape[::-1], *shifts, planes[0].itemsize, matrix.ctypes.data, alpha_scale, channels,
        _KINDS[dtype], out.ctypes.data,
    )  # fmt: skip
    if failed:
        raise MemoryError
    return out


def _addresses(arrays: Sequence[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _lines(plane: np.ndarray) -> np.ndarray:
    """The plane, its lines contiguous."""
    return plane if plane.strides[1] == plane.itemsize and plane.strides[0] > 0 else np.ascontiguousarray(plane)
