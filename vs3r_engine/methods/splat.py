# SPDX-License-Identifier: Apache-2.0
"""The hybrid reprojection (eq. 6-7) with real depth: which surface a target pixel sees is found by projecting points
forwards, what it shows is read backwards from the clip's own planes, once. Any device, every lens."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vs3r_engine.camera import Camera, inverse
from vs3r_engine.frame import Frame
from vs3r_engine.lens import pixels_of_points, rays_of_pixels
from vs3r_engine.methods.devices import choose_device, memory_errors
from vs3r_engine.methods.planes import read_planes
from vs3r_engine.methods.points import composite, depth_buffer
from vs3r_engine.methods.upsample import upsampled_depth
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.settings import Settings
from vs3r_engine.stages.render import is_identity, residual_change

RADIUS_NDC = 0.012
"""Published disc radius; 1 is half the picture's shorter side."""
POINTS_PER_PIXEL = 12
PUBLISHED_WIDTH_PX = 518
SAME_SURFACE = 0.03
"""A position is believed when the depth found around it agrees within this share."""
MASK_MARGIN = 1 / 250
"""Neighbours' dynamic masks are widened by this share of the width: half of a moving rim is worse than a hole."""


class SplatRenderer:
    """Renderer by points. "sharp" (the default): full size, as described above; "published": low resolution, soft
    discs."""

    def __init__(self, settings: Settings, device: str) -> None:
        """Raises: DeviceError."""
        self._is_published = settings.frame.splatting == "published"
        self._device = choose_device(device).name
        self._depths: dict[tuple[int, int, int], tuple[View, Tensor]] = {}

    def render(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        """See `Renderer.render`. Neighbours are tried nearest in time first. Raises: OutOfMemory."""
        frame = current.frame
        if is_identity(target, current):
            untouched = np.ones((frame.height, frame.width), bool)
            return Rendered(frame, ~untouched, target, untouched)
        hint = "Set analysis.device=cpu, or frame.splatting=published."
        with memory_errors(f"Rendering at {frame.width}x{frame.height}", hint), torch.inference_mode():
            nearest_first = sorted(neighbours, key=lambda view: abs(view.frame.frame_index - frame.frame_index))
            if self._is_published:
                return self._published(target, current, nearest_first)
            return self._sharp(target, current, nearest_first)

    def _sharp(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        frame = current.frame
        self._forget(current, *neighbours)
        at = self._positions(target, current, static_only=False)
        current_mask = ~np.isnan(at[..., 0])
        planes = read_planes(frame, at)
        hole_mask = ~current_mask
        for view in neighbours:
            if not hole_mask.any():
                break
            at = self._positions(target, view, static_only=True)
            found = hole_mask & ~np.isnan(at[..., 0])
            hole_mask &= ~found
            for i, (plane, source) in enumerate(zip(planes, read_planes(view.frame, at), strict=True)):
                np.copyto(plane, source, where=frame.layout.sited(found, i))
        return Rendered(replace(frame, planes=planes), hole_mask, target, current_mask)

    def _positions(self, target: Target, view: View, static_only: bool) -> np.ndarray:
        """[h, w, 2] float32 corner-origin positions in the view's picture of every target pixel; NaN where the view
        does not show what the target sees there."""
        depth = self._depth(view)
        moving = _moving(view, self._device) if static_only else None
        geometry = Geometry(target, view, self._device)
        return backward_positions(geometry, depth, moving).cpu().numpy()

    def _published(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        """The hybrid point set of eq. 6 through the published rasterizer's settings, at the network's width."""
        frame = current.frame
        width = min(frame.width, PUBLISHED_WIDTH_PX)
        height = max(1, round(frame.height * width / frame.width))
        points = point_set(target, current, neighbours, (width, height), self._device)
        picture, covered = self._composited(*points, (height, width), RADIUS_NDC * min(width, height) / 2)
        return as_rendered(frame, target, picture, covered)

    def _composited(
        self, pixels: Tensor, distance: Tensor, colours: Tensor, size: tuple[int, int], radius_px: float
    ) -> tuple[Tensor, Tensor]:
        return composite(pixels, distance, colours, size, radius_px, POINTS_PER_PIXEL)

    def _depth(self, view: View) -> Tensor:
        """[h, w] z-depth at the frame's size, NaN where unknown; kept while the view is in use."""
        key = _key(view)
        if key not in self._depths:
            self._depths[key] = (view, _guided(view, self._device))
        return self._depths[key][1]

    def _forget(self, *used: View) -> None:
        keys = {_key(view) for view in used}
        self._depths = {key: kept for key, kept in self._depths.items() if key in keys}


class Geometry:
    """How a view and a target see each other's points, as float32 tensors on a device."""

    def __init__(self, target: Target, view: View, device: str) -> None:
        target_from_source = inverse(target.camera.world_from_camera) @ view.camera.world_from_camera
        self._rotation = torch.from_numpy(target_from_source[:3, :3]).float().to(device)
        self._shift = torch.from_numpy(target_from_source[:3, 3]).float().to(device)
        self.source, self.target, self.device = view.camera, target.camera, device
        self._source_K, self._target_K = (torch.from_numpy(np.float32(camera.K)).to(device) for camera in (self.source, self.target))
        change = residual_change(target.residual_px, view.residual_px)
        self._change: Tensor | None = None
        if change is not None and np.any(change):
            self._change = torch.from_numpy(change.astype(np.float32)).to(device).permute(2, 0, 1)[None]

    def target_points(self, depth: Tensor) -> Tensor:
        """[h, w, 3] in the target camera's axes: the view's pixel centres at z-depth [h, w] of any size that spans the
        picture."""
        pixels = _centres(self.source, depth.shape, self.device)
        pixels = pixels - self._change_at(pixels)
        rays = rays_of_pixels(pixels, self._source_K, self.source.lens)
        if self.source.lens is not None:
            rays = rays / torch.where(rays[..., 2:] > 0.02, rays[..., 2:], torch.nan)
        return (rays * depth[..., None]) @ self._rotation.T + self._shift

    def target_pixels(self, target_points: Tensor) -> Tensor:
        """[..., 2] where the target sees target-camera points."""
        return pixels_of_points(target_points, self._target_K, self.target.lens)

    def target_rays(self) -> Tensor:
        """[h, w, 3] directions of the target's pixel centres."""
        centres = _centres(self.target, (self.target.height, self.target.width), self.device)
        return rays_of_pixels(centres, self._target_K, self.target.lens)

    def source_pixels(self, target_points: Tensor) -> tuple[Tensor, Tensor]:
        """Where the view sees target-camera points [..., 3]: pixels [..., 2] and z-depth [...]."""
        points = (target_points - self._shift) @ self._rotation
        pixels = pixels_of_points(points, self._source_K, self.source.lens)
        return pixels + self._change_at(pixels), points[..., 2]

    def _change_at(self, pixels: Tensor) -> Tensor | float:
        if self._change is None:
            return 0.0
        place = torch.nan_to_num(pixels / pixels.new_tensor((self.source.width, self.source.height)) * 2 - 1)
        found = F.grid_sample(self._change, place.reshape(1, 1, -1, 2), mode="bilinear", padding_mode="border", align_corners=True)
        return found[0, :, 0].T.reshape(pixels.shape)

    def distance(self, target_points: Tensor) -> Tensor:
        """What orders target points from near to far and scales the target's rays to them: z, or the length where the
        lens is not perspective."""
        return target_points[..., 2] if self.target.lens is None else target_points.norm(dim=-1)


def backward_positions(geometry: Geometry, depth: Tensor, moving: Tensor | None) -> Tensor:
    """[h, w, 2] corner-origin positions in the source for every target pixel; NaN where the source does not show that
    surface.

    depth: [rows, columns] of the source's picture. moving: bool of the same size, True = not to be used; or None.
    """
    usable = depth if moving is None else torch.where(moving, torch.nan, depth)
    points = geometry.target_points(usable)
    size = (geometry.target.height, geometry.target.width)
    distance = depth_buffer(geometry.target_pixels(points).flatten(0, 1), geometry.distance(points).flatten(), size)
    at, z = geometry.source_pixels(geometry.target_rays() * distance[..., None])
    width, height = geometry.source.width, geometry.source.height
    place = (at / at.new_tensor((width, height)) * 2 - 1)[None]
    known = torch.where(usable > 0, usable, torch.nan)
    near, far = (_around(known, largest) for largest in (False, True))
    near, far = F.grid_sample(
        torch.stack((near, far))[None],
        torch.nan_to_num(place),
        mode="nearest",
        padding_mode="border",
        align_corners=False,
    )[0]
    shown = (
        (at > 0).all(-1) & (at[..., 0] < width) & (at[..., 1] < height) & (z > near * (1 - SAME_SURFACE)) & (z < far * (1 + SAME_SURFACE))
    )
    return torch.where(shown[..., None], at, torch.nan)


def point_set(
    target: Target, current: View, neighbours: Sequence[View], size: tuple[int, int], device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The hybrid point set of eq. 6, projected: pixels [n, 2] of a target picture of `size` (width, height), distance
    [n], colours [n, 3].

    Every point of the current frame (its static and its dynamic ones) and the static points of the neighbours.
    """
    width, height = size
    scaled = replace(
        target,
        camera=target.camera.resized(width, height),
        residual_px=_scaled(target.residual_px, target.camera, size),
    )
    pixels, distances, colours = [], [], []
    for view in (current, *neighbours):
        small = replace(
            view,
            frame=view.frame.resized(width, height),
            camera=view.camera.resized(width, height),
            residual_px=_scaled(view.residual_px, view.camera, size),
        )
        depth = _guided(small, device)
        if view is not current:
            depth = torch.where(_moving(small, device), torch.nan, depth)
        geometry = Geometry(scaled, small, device)
        points = geometry.target_points(depth).flatten(0, 1)
        # Unknown are also those that a lens sees beside or behind itself: z-depth says nothing there.
        known = points.isfinite().all(1)
        pixels.append(geometry.target_pixels(points[known]))
        distances.append(geometry.distance(points[known]))
        colours.append(torch.from_numpy(small.frame.to_rgb()).to(device).flatten(0, 1)[known])
    return torch.cat(pixels), torch.cat(distances), torch.cat(colours)


def as_rendered(frame: Frame, target: Target, picture: Tensor, covered: Tensor) -> Rendered:
    """A small RGB picture at the frame's own size and layout."""
    rgb = cv2.resize(picture.float().cpu().numpy(), (frame.width, frame.height), interpolation=cv2.INTER_LINEAR)
    shown = cv2.resize(covered.cpu().numpy().astype(np.uint8), (frame.width, frame.height), interpolation=cv2.INTER_NEAREST) > 0
    return Rendered(frame.with_rgb(rgb), ~shown, target)


def _centres(camera: Camera, size: Sequence[int], device: str) -> Tensor:
    """[rows, columns, 2] corner-origin pixel centres of the camera's picture divided into `size` (rows, columns)."""
    rows, columns = size
    x = (torch.arange(columns, device=device) + 0.5) * (camera.width / columns)
    y = (torch.arange(rows, device=device) + 0.5) * (camera.height / rows)
    return torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), -1)


def _around(depth: Tensor, largest: bool) -> Tensor:
    """Smallest or largest known depth of the 3 x 3 around each pixel; NaN where none is known."""
    sign = 1.0 if largest else -1.0
    found = F.max_pool2d(torch.nan_to_num(sign * depth, nan=-torch.inf)[None, None], 3, stride=1, padding=1)[0, 0]
    return torch.where(found.isfinite(), sign * found, torch.nan)


def _guided(view: View, device: str) -> Tensor:
    luma = view.frame.luma().astype(np.float32) / view.frame.layout.peak
    return upsampled_depth(torch.from_numpy(np.ascontiguousarray(view.depth, np.float32)).to(device), torch.from_numpy(luma).to(device))


def _moving(view: View, device: str) -> Tensor:
    """[h, w] bool at the frame's size: the view's dynamic mask with its margin."""
    width, height = view.frame.width, view.frame.height
    mask = cv2.resize(view.dynamic_mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    side = 2 * max(1, round(width * MASK_MARGIN)) + 1
    return torch.from_numpy(cv2.dilate(mask, np.ones((side, side), np.uint8)) > 0).to(device)


def _scaled(residual_px: np.ndarray | None, camera: Camera, size: tuple[int, int]) -> np.ndarray | None:
    return None if residual_px is None else residual_px * np.array([size[0] / camera.width, size[1] / camera.height])


def _key(view: View) -> tuple[int, int, int]:
    return (
        view.frame.frame_index,
        view.frame.planes[0].__array_interface__["data"][0],
        view.depth.__array_interface__["data"][0],
    )
