# SPDX-License-Identifier: Apache-2.0
"""Points onto a picture, in torch on any device: the published soft compositing of discs, and a depth buffer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def composite(
    pixels: Tensor,
    z: Tensor,
    colours: Tensor,
    size: tuple[int, int],
    radius_px: float,
    per_pixel: int = 12,
    rows_at_once: int = 64,
) -> tuple[Tensor, Tensor]:
    """Discs blended front to back: what PyTorch3D's points rasterizer and alpha compositor make of the same points.

    Each point covers the pixels whose centres lie within `radius_px`, with opacity 1 - (distance / radius)^2. Of the
    points on a pixel the `per_pixel` nearest count, of equally near ones the first; they are not normalised. Works band
    by band, so memory does not grow with the picture.

    Args:
        pixels: [n, 2] corner-origin. z: [n]; points at or behind 0, or with NaN, are not drawn. colours: [n, c].
        size: (height, width).

    Returns:
        picture [h, w, c], and covered [h, w] bool: whether any point reached the pixel.
    """
    height, width = size
    drawn = (z > 0) & pixels.isfinite().all(1)
    pixels, z, colours = pixels[drawn], z[drawn], colours[drawn]
    order = z.argsort(stable=True)
    pixels, colours = pixels[order], colours[order]
    rank = pixels[:, 1].argsort()
    pixels, colours = pixels[rank], colours[rank]
    picture = colours.new_zeros(height, width, colours.shape[1])
    covered = torch.zeros(height, width, dtype=torch.bool, device=pixels.device)
    y = pixels[:, 1].contiguous()
    for top in range(0, height, rows_at_once):
        bottom = min(top + rows_at_once, height)
        first, last = (int(torch.searchsorted(y, y.new_tensor(edge))) for edge in (top - radius_px, bottom + radius_px))
        if first == last:
            continue
        band = slice(first, last)
        picture[top:bottom], covered[top:bottom] = _band(
            pixels[band] - pixels.new_tensor((0, top)),
            rank[band],
            colours[band],
            (bottom - top, width),
            radius_px,
            per_pixel,
        )
    return picture, covered


def _band(pixels: Tensor, rank: Tensor, colours: Tensor, size: tuple[int, int], radius_px: float, per_pixel: int) -> tuple[Tensor, Tensor]:
    """rank: [n] each point's place from near to far, all different."""
    height, width = size
    reach = int(radius_px + 0.5) + 1
    offset = torch.arange(-reach, reach + 1, device=pixels.device)
    corner = pixels.floor().long()
    cells, points, opacities = [], [], []
    for dy in offset.tolist():
        for dx in offset.tolist():
            column, row = corner[:, 0] + dx, corner[:, 1] + dy
            square = (column + 0.5 - pixels[:, 0]) ** 2 + (row + 0.5 - pixels[:, 1]) ** 2
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            hit = ((square < radius_px**2) & inside).nonzero()[:, 0]
            cells.append(row[hit] * width + column[hit])
            points.append(hit)
            opacities.append(1 - square[hit] / radius_px**2)
    cell, point, opacity = torch.cat(cells), torch.cat(points), torch.cat(opacities)
    order = (cell * (rank.max() + 1) + rank[point]).argsort()
    cell, point, opacity = cell[order], point[order], opacity[order]
    count = torch.bincount(cell, minlength=height * width)
    place = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
    kept = place < per_pixel
    cell, point, opacity, place = cell[kept], point[kept], opacity[kept], place[kept]
    layers = opacity.new_zeros(height * width, per_pixel)
    layers[cell, place] = opacity
    behind = torch.cat((layers.new_ones(len(layers), 1), (1 - layers).cumprod(1)[:, :-1]), 1)
    share = (layers * behind)[cell, place]
    # Added layer by layer, not in place: equal points must give equal pictures on a GPU too.
    layered = colours.new_zeros(height * width, per_pixel, colours.shape[1])
    layered[cell, place] = share[:, None] * colours[point]
    picture = layered.sum(1)
    return picture.view(height, width, -1), (count > 0).view(height, width)


def depth_buffer(pixels: Tensor, z: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] nearest depth of the surface the points sample; inf where there is none.

    A pixel takes the nearest point that falls into it. One that no point falls into, or through which a far surface
    shows although a near one is on both its sides, takes the nearest point within one pixel: a surface seen up to twice
    as large as it was sampled has no pinholes.
    pixels: [n, 2] corner-origin, NaN = not drawn. z: [n] positive.
    """
    height, width = size
    drawn = (z > 0) & pixels.isfinite().all(1) & (pixels > -1).all(1) & (pixels[:, 0] < width + 1) & (pixels[:, 1] < height + 1)
    pixels, z = pixels[drawn], z[drawn]
    exact = _nearest(pixels.floor().long(), z, size)
    corner = (pixels - 0.5).floor().long()
    around = exact
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        around = torch.minimum(around, _nearest(corner + corner.new_tensor((dx, dy)), z, size))
    padded = F.pad(exact[None, None], (1, 1, 1, 1), value=torch.inf)[0, 0]
    shines_through = torch.zeros(size, dtype=torch.bool, device=z.device)
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
        one, other = (padded[1 + s * dy : 1 + s * dy + height, 1 + s * dx : 1 + s * dx + width] for s in (-1, 1))
        shines_through |= torch.maximum(one, other) < 0.93 * exact
    return torch.where(torch.isinf(exact) | shines_through, around, exact)


def _nearest(cell: Tensor, z: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] smallest z per (column, row) cell [n, 2]; inf where none."""
    height, width = size
    inside = (cell >= 0).all(1) & (cell[:, 0] < width) & (cell[:, 1] < height)
    # A spare cell takes what falls outside: cheaper than selecting.
    flat = torch.where(inside, cell[:, 1] * width + cell[:, 0], height * width)
    buffer = torch.full((height * width + 1,), torch.inf, device=z.device, dtype=z.dtype)
    return buffer.scatter_reduce_(0, flat, z, "amin")[:-1].view(height, width)
