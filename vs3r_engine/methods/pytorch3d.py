# SPDX-License-Identifier: Apache-2.0
"""The published renderer: PyTorch3D's points rasterizer and alpha compositor, where that package is installed. splat.py
is its tested twin and needs nothing but torch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vs3r_engine.errors import SetupError
from vs3r_engine.methods import pytorch3d_build
from vs3r_engine.methods.planes import read_planes
from vs3r_engine.methods.splat import POINTS_PER_PIXEL, SplatRenderer, point_set
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import Settings

FULL_SIZE_RADIUS_PX = 1.5
"""Disc radius at the clip's own size, where the published 0.012 would blur over 13 pixels at 1080p."""
TILE_PX = {"cpu": 16, "cuda": 128}
"""Small where testing a point costs most, larger where starting a tile does."""


class Pytorch3dRenderer(SplatRenderer):
    """Renderer with PyTorch3D. "sharp": full size, discs of 1.5 pixels, under the current frame's own pixels where
    those are valid; "published": the paper's size and settings."""

    def __init__(self, settings: Settings, device: str) -> None:
        """Raises: SetupError `pytorch3d-missing`; DeviceError."""
        # torch is loaded: the compiled part finds its libraries.
        fault = pytorch3d_build.fault()
        if fault:
            raise SetupError("pytorch3d-missing", f"PyTorch3D cannot be used: {fault}.", pytorch3d_build.build_steps())
        super().__init__(settings, device)

    def _composited(
        self, pixels: Tensor, distance: Tensor, colours: Tensor, size: tuple[int, int], radius_px: float
    ) -> tuple[Tensor, Tensor]:
        return rasterized(pixels, distance, colours, size, radius_px)

    def _sharp(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        frame = current.frame
        self._forget(current)
        points = point_set(target, current, neighbours, (frame.width, frame.height), self._device)
        picture, covered = self._composited(*points, (frame.height, frame.width), FULL_SIZE_RADIUS_PX)
        at = self._positions(target, current, static_only=False)
        current_mask = ~np.isnan(at[..., 0])
        planes = frame.with_rgb(picture.cpu().numpy()).planes
        for i, (plane, own) in enumerate(zip(planes, read_planes(frame, at), strict=True)):
            np.copyto(plane, own, where=frame.layout.sited(current_mask, i))
        return Rendered(replace(frame, planes=planes), ~(current_mask | covered.cpu().numpy()), target, current_mask)


def rasterized(
    pixels: Tensor,
    distance: Tensor,
    colours: Tensor,
    size: tuple[int, int],
    radius_px: float,
    per_pixel: int = POINTS_PER_PIXEL,
    tile_px: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What `points.composite` computes, by PyTorch3D. The points come projected, so that every lens can be used.

    The picture is drawn tile by tile, each from the points that reach it: the rasterizer asks every pixel about every
    point. A tile of the whole picture's size gives the same and is the package's own way.
    """
    from pytorch3d.renderer.compositing import alpha_composite

    height, width = size
    if pixels.device.type not in TILE_PX:
        # The package computes on CPUs and CUDA devices alone, and takes what lies on Metal for main memory.
        pixels, distance, colours = pixels.cpu(), distance.cpu(), colours.cpu()
    tile_px = tile_px or TILE_PX[pixels.device.type]
    drawn = (distance > 0) & pixels.isfinite().all(1)
    pixels, distance, colours = pixels[drawn], distance[drawn], colours[drawn]
    index = torch.full((height, width, per_pixel), -1, dtype=torch.long, device=pixels.device)
    square = pixels.new_zeros(height, width, per_pixel)
    downwards = pixels[:, 1].argsort()
    y = pixels[downwards, 1]
    for top in range(0, height, tile_px):
        bottom = min(top + tile_px, height)
        first, last = (int(torch.searchsorted(y, y.new_tensor(edge))) for edge in (top - radius_px, bottom + radius_px))
        band = downwards[first:last]
        x = pixels[band, 0]
        for left in range(0, width, tile_px):
            right = min(left + tile_px, width)
            # In their own order: of equally near points the rasterizer takes the first.
            near = band[(x > left - radius_px) & (x < right + radius_px)].sort().values
            if not len(near):
                continue
            tile = slice(top, bottom), slice(left, right)
            found, square[tile] = _tile(
                pixels[near] - pixels.new_tensor((left, top)), distance[near], (bottom - top, right - left), radius_px, per_pixel
            )
            index[tile] = torch.where(found >= 0, near[found], -1)
    opacity = 1 - square / radius_px**2
    picture = alpha_composite(index[None].permute(0, 3, 1, 2), opacity[None].permute(0, 3, 1, 2), colours.T)
    return picture[0].permute(1, 2, 0), index[..., 0] >= 0


def _tile(pixels: Tensor, distance: Tensor, size: tuple[int, int], radius_px: float, per_pixel: int) -> tuple[Tensor, Tensor]:
    """Numbers of the nearest points on each pixel [h, w, per_pixel], -1 where there are fewer, and their squared
    distances from its centre in pixels."""
    from pytorch3d.renderer.points.rasterize_points import rasterize_points
    from pytorch3d.structures import Pointclouds

    height, width = size
    half = min(height, width) / 2
    # Its axes: x left, y up, 1 = half the shorter side.
    ndc = torch.stack(((width / 2 - pixels[:, 0]) / half, (height / 2 - pixels[:, 1]) / half, distance), 1)
    index, _, square = rasterize_points(Pointclouds([ndc]), (height, width), radius_px / half, per_pixel, bin_size=0)
    return index[0].long(), square[0] * half**2
