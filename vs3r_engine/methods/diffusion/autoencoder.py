# SPDX-License-Identifier: Apache-2.0
"""The Wan video autoencoder over clips of any length: pictures in, latents out and back, a few frames at a time.

Both directions are causal, so streaming gives exactly what one call over the whole clip would, in bounded memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

GROUP_FRAMES = 4
"""Frames of one latent frame, after the first, which stands alone."""
STRIDE_PX = 8


@dataclass(frozen=True, slots=True)
class Tiling:
    """Spatial tiles of `side_px` that overlap by `overlap_px`, both multiples of 8:

    less memory, slightly other results.
    """

    side_px: int = 512
    overlap_px: int = 128


@dataclass(frozen=True, slots=True)
class _Tile:
    """One tile in latent cells, and its share of the picture (tiles sum to one) at the size of what is blended."""

    rows: slice
    columns: slice
    share: torch.Tensor

    def of_cells(self, factor: int) -> tuple[slice, slice]:
        """Rows and columns where a cell is `factor` samples."""
        return slice(self.rows.start * factor, self.rows.stop * factor), slice(self.columns.start * factor, self.columns.stop * factor)


def encode(vae: Any, pictures: Iterable[torch.Tensor], tiling: Tiling | None = None) -> torch.Tensor:
    """[b, z, 1 + (n - 1) / 4, h / 8, w / 8] float32 on the CPU: normalised latents (the posterior's mode) of n = 4k
    + 1 pictures.

    pictures: [b, 3, h, w] in [-1, 1], any device; h and w multiples of 8.
    """
    return torch.cat(list(encode_stream(vae, pictures, tiling)), dim=2)


@torch.no_grad()
def encode_stream(vae: Any, pictures: Iterable[torch.Tensor], tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
    """The latents of `encode`, one latent frame [b, z, 1, h / 8, w / 8] after the other."""
    waiting = iter(pictures)
    caches: list[list[Any]] = []
    tiles: list[_Tile] = []
    device, dtype = _where(vae)
    mean, std = _statistics(vae)
    count = 1
    while group := list(islice(waiting, count)):
        video = torch.stack(group, dim=2)
        if not caches:
            tiles = _tiles(video.shape[-2] // STRIDE_PX, video.shape[-1] // STRIDE_PX, tiling, 1)
            caches = [_empty_cache(vae.encoder) for _ in tiles]
        latent = torch.zeros(video.shape[0], vae.config.z_dim, 1, video.shape[-2] // STRIDE_PX, video.shape[-1] // STRIDE_PX)
        for tile, cache in zip(tiles, caches, strict=True):
            rows, columns = tile.of_cells(STRIDE_PX)
            part = video[..., rows, columns].to(device, dtype)
            _fetch(cache, device)
            moments = vae.quant_conv(vae.encoder(part, feat_cache=cache, feat_idx=[0]))
            latent[..., tile.rows, tile.columns] += tile.share * moments[:, : vae.config.z_dim].float().cpu()
            _park(cache, len(tiles))
        yield (latent - mean) * (1.0 / std)
        count = GROUP_FRAMES


@torch.no_grad()
def decode_stream(vae: Any, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
    """Pictures [k, 3, h, w] float32 in [-1, 1] on the CPU, k = 1 for the first latent frame and 4 for every other.

    latents: [z, n, rows, columns], normalised.
    """
    device, dtype = _where(vae)
    mean, std = _statistics(vae)
    tiles = _tiles(latents.shape[-2], latents.shape[-1], tiling, STRIDE_PX)
    caches = [_empty_cache(vae.decoder) for _ in tiles]
    for i in range(latents.shape[1]):
        latent = latents[None, :, i : i + 1].float().cpu() / (1.0 / std) + mean
        video = torch.zeros(1, 3, GROUP_FRAMES if i else 1, latents.shape[-2] * STRIDE_PX, latents.shape[-1] * STRIDE_PX)
        for tile, cache in zip(tiles, caches, strict=True):
            rows, columns = tile.of_cells(STRIDE_PX)
            part = vae.post_quant_conv(latent[..., tile.rows, tile.columns].to(device, dtype))
            _fetch(cache, device)
            video[..., rows, columns] += tile.share * vae.decoder(part, feat_cache=cache, feat_idx=[0], first_chunk=i == 0).float().cpu()
            _park(cache, len(tiles))
        yield video[0].clamp(-1.0, 1.0).transpose(0, 1)


def _tiles(rows: int, columns: int, tiling: Tiling | None, samples_per_cell: int) -> list[_Tile]:
    if tiling is None:
        return [_Tile(slice(0, rows), slice(0, columns), torch.ones(()))]
    spans = [_spans(count, tiling.side_px // STRIDE_PX, tiling.overlap_px // STRIDE_PX) for count in (rows, columns)]
    shares = [_shares(span, count, samples_per_cell) for span, count in zip(spans, (rows, columns), strict=True)]
    return [
        _Tile(slice(*row), slice(*column), row_share[:, None] * column_share[None])
        for row, row_share in zip(spans[0], shares[0], strict=True)
        for column, column_share in zip(spans[1], shares[1], strict=True)
    ]


def _spans(count: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if count <= side:
        return [(0, count)]
    return [(start, start + side) for start in [*range(0, count - side, side - overlap), count - side]]


def _shares(spans: list[tuple[int, int]], count: int, samples_per_cell: int) -> list[torch.Tensor]:
    """Each span's share along one axis of `count` cells: linear across overlaps, together one."""
    total = torch.zeros(count * samples_per_cell)
    ramps = []
    for start, end in spans:
        place = torch.arange((end - start) * samples_per_cell, dtype=torch.float32) + 0.5
        flat = torch.full_like(place, float(count * samples_per_cell))
        ramp = torch.minimum(place if start else flat, place.flip(0) if end < count else flat)
        ramps.append(ramp)
        total[start * samples_per_cell : end * samples_per_cell] += ramp
    return [ramp / total[start * samples_per_cell : end * samples_per_cell] for (start, end), ramp in zip(spans, ramps, strict=True)]


def _empty_cache(network: torch.nn.Module) -> list[torch.Tensor | None]:
    """One place per causal convolution, in calling order; the networks fill it themselves."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def _park(cache: list[Any], tile_count: int) -> None:
    """With several tiles, keep what a tile remembers in main memory: the point of tiles is device memory."""
    if tile_count > 1:
        cache[:] = [kept.cpu() if isinstance(kept, torch.Tensor) else kept for kept in cache]


def _fetch(cache: list[Any], device: torch.device) -> None:
    """Bring back what was parked: the networks join it to what is on the device."""
    cache[:] = [kept.to(device) if isinstance(kept, torch.Tensor) else kept for kept in cache]


def _where(vae: Any) -> tuple[torch.device, torch.dtype]:
    weight = vae.quant_conv.weight
    return weight.device, weight.dtype


def _statistics(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The published mean and standard deviation of the latent channels, broadcastable to [b, z, n, h, w]."""
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
