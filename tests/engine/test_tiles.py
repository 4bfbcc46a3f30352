# SPDX-License-Identifier: Apache-2.0
"""Tiles against what they stand for: every sample of every plane is where its layout sites it."""

import numpy as np
import pytest

from vs3r_engine.frame import PixelLayout
from vs3r_engine.methods.tiles import Tiles, cells_of, padded, plane_positions
from vs3r_engine.methods.warp import _plane_indices, upsampled, vertices

LAYOUTS = {
    "420": PixelLayout("yuv", 8, 1, 1),
    "422": PixelLayout("yuv", 10, 1, 0),
    "411": PixelLayout("yuv", 8, 2, 0),
    "440": PixelLayout("yuv", 8, 0, 1),
    "rgb": PixelLayout("rgb", 16),
}
EVERY_PLANE = [(name, plane) for name in LAYOUTS for plane in range(2)]
CELL_PX, ROWS, COLUMNS = 16, 3, 5
MARKED = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]])


def sample_positions(layout: PixelLayout, plane: int) -> np.ndarray:
    """[rows, columns, 2] corner-origin luma position of every sample of a plane: chroma on the left luma sample, between the rows."""
    rows, columns = layout.plane_shape(plane, COLUMNS * CELL_PX, ROWS * CELL_PX)
    step_x, step_y = COLUMNS * CELL_PX // columns, ROWS * CELL_PX // rows
    return np.stack(np.meshgrid(np.arange(columns) * step_x + 0.5, (np.arange(rows) + 0.5) * step_y), -1)


@pytest.mark.parametrize(("name", "plane"), EVERY_PLANE)
def test_vertices_spread_to_every_sample_and_give_its_own_index(name, plane):
    layout, at = LAYOUTS[name], sample_positions(LAYOUTS[name], plane)
    tiles, here = Tiles(MARKED, CELL_PX, layout), vertices(COLUMNS * CELL_PX, ROWS * CELL_PX, CELL_PX)
    x, y = tiles.spread(here.transpose(2, 0, 1), plane)
    for found, axis in ((x, 0), (y, 1)):
        np.testing.assert_allclose(found, tiles.read(np.ascontiguousarray(at[..., axis]), plane), atol=1e-4)
    rows, columns = at.shape[:2]
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    for found, index in zip(plane_positions(at[..., 0], at[..., 1], layout, plane), (column, row), strict=True):
        np.testing.assert_allclose(found, index, atol=1e-5)
    step_x, step_y = COLUMNS * CELL_PX // columns, ROWS * CELL_PX // rows
    indices = _plane_indices(here, step_x.bit_length() - 1, step_y.bit_length() - 1)
    whole = upsampled(indices, columns, rows, CELL_PX // step_x, CELL_PX // step_y)
    np.testing.assert_allclose(whole, np.stack([column, row], -1), atol=1e-4)


@pytest.mark.parametrize(("name", "plane"), EVERY_PLANE)
def test_what_is_read_and_put_back_is_where_it_was(name, plane):
    layout = LAYOUTS[name]
    tiles = Tiles(MARKED, CELL_PX, layout)
    shape = layout.plane_shape(plane, COLUMNS * CELL_PX, ROWS * CELL_PX)
    picture = np.arange(shape[0] * shape[1]).reshape(shape)
    inside = np.kron(MARKED, np.ones(tiles.size(plane), int)) > 0
    written, put = np.full(shape, -1), np.full((shape[0] - 3, shape[1] - 2), -1)
    tiles.write(tiles.read(picture, plane), written, plane)
    assert np.array_equal(written, np.where(inside, picture, -1))
    chosen = (picture % 3 > 0) & (np.indices(shape) < np.array(put.shape)[:, None, None]).all(axis=0)
    tiles.put(tiles.read(picture, plane), put, plane, tiles.read(chosen, plane))
    assert np.array_equal(put, np.where(inside & chosen, picture, -1)[: put.shape[0], : put.shape[1]])
    # A chroma sample goes with the luma sample it is sited on.
    luma = np.arange(ROWS * CELL_PX * COLUMNS * CELL_PX).reshape(ROWS * CELL_PX, COLUMNS * CELL_PX)
    sited = luma[:: luma.shape[0] // shape[0], :: luma.shape[1] // shape[1]]
    assert np.array_equal(tiles.subsampled(tiles.read(luma, 0), plane), tiles.read(sited, plane))
    assert np.array_equal(tiles.only(np.array([2, 0])).read(picture, plane), tiles.read(picture, plane)[[2, 0]])


@pytest.mark.parametrize(("name", "plane"), EVERY_PLANE)
def test_a_few_samples_a_cell_are_means_and_spread_between_their_centres(name, plane):
    layout = LAYOUTS[name]
    tiles = Tiles(MARKED, CELL_PX, layout)
    rows, columns = shape = layout.plane_shape(plane, COLUMNS * CELL_PX, ROWS * CELL_PX)
    slope = np.add.outer(2.0 * (np.arange(rows) + 0.5) / rows * ROWS, 3.0 * (np.arange(columns) + 0.5) / columns * COLUMNS)
    small = np.add.outer(2.0 * (np.arange(-1, 2 * ROWS + 1) + 0.5) / 2, 3.0 * (np.arange(-1, 2 * COLUMNS + 1) + 0.5) / 2)
    np.testing.assert_allclose(tiles.spread_small(small[None], plane, 2)[0], tiles.read(slope, plane), atol=1e-5)
    picture = np.random.default_rng(0).random(shape)
    means = picture.reshape(2 * ROWS, -1, 2 * COLUMNS, columns // COLUMNS // 2).mean(axis=(1, 3))
    expected = means.reshape(ROWS, 2, COLUMNS, 2).swapaxes(1, 2)[MARKED > 0]
    np.testing.assert_allclose(tiles.averaged(tiles.read(picture, plane), plane, 2), expected, atol=1e-5)


@pytest.mark.parametrize("cell_px", [4, 12, 16, 18])
def test_a_cell_with_one_pixel_in_it_is_one_and_a_plane_is_padded_to_whole_cells(cell_px):
    mask = np.zeros((3 * cell_px, 5 * cell_px), np.uint8)
    mask[cell_px, 4 * cell_px] = mask[-1, cell_px - 1] = 1
    assert np.argwhere(cells_of(mask, cell_px)).tolist() == [[1, 4], [2, 0]]
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert padded(plane, (3, 5)).tolist() == [[0, 1, 2, 2, 2], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5]]
    assert padded(plane, (3, 4), 9).tolist() == [[0, 1, 2, 9], [3, 4, 5, 9], [9, 9, 9, 9]]
