# SPDX-License-Identifier: Apache-2.0
"""What synthetic clips are made of: textured rectangles, the ray casting that shows them, and builders of rooms,
boxes and people. Metres; x right, y down, z forward; the eye is at the origin's height."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_EYE_HEIGHT = 1.6


@dataclass(frozen=True, eq=False)
class Quad:
    """A textured rectangle: world points origin + a * edge_u + b * edge_v, a and b in [0, 1].

    pyramid: RGBA uint8 textures, each half the one before. motion: offset [n, 3] in metres at times [n] in seconds;
    None for what stands still. is_room: closes the picture, hard edges.
    """

    origin: np.ndarray
    edge_u: np.ndarray
    edge_v: np.ndarray
    pyramid: tuple[np.ndarray, ...]
    motion: Callable[[np.ndarray], np.ndarray] | None = None
    is_room: bool = False

    def origin_at(self, times_s: np.ndarray) -> np.ndarray:
        return self.origin + (self.motion(times_s) if self.motion else np.zeros((len(times_s), 3)))


def cast(
    quads: Sequence[Quad],
    world_from_camera: np.ndarray,
    K: np.ndarray,
    times_s: np.ndarray,
    *,
    width: int,
    with_colour: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rgb [h, w, 3], z-depth [h, w], moves [h, w]) seen through one camera per row."""
    height = len(times_s)
    rgb = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    moves = np.zeros((height, width), bool)
    direction = world_from_camera[:, :3, :3] @ np.linalg.inv(K)
    centre = world_from_camera[:, :3, 3]
    middle = height // 2

    def far_first(quad: Quad) -> float:
        nearest = quad.origin_at(times_s[middle : middle + 1])[0] + (quad.edge_u + quad.edge_v) / 2
        return -math.inf if quad.is_room else -float(np.linalg.norm(nearest - centre[middle]))

    for quad in sorted(quads, key=far_first):
        origin = quad.origin_at(times_s)
        box = _bounds(quad, origin, world_from_camera, K, width, height)
        if box is not None:
            _draw(
                quad,
                origin,
                direction,
                centre,
                float(K[middle, 0, 0]),
                box,
                rgb if with_colour else None,
                depth,
                moves,
            )
    return rgb, depth, moves


def _bounds(
    quad: Quad, origin: np.ndarray, world_from_camera: np.ndarray, K: np.ndarray, width: int, height: int
) -> tuple[slice, slice] | None:
    """Rows and columns that can show the quad; None when it is behind the camera or out of the picture."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for row in {0, height // 4, height // 2, 3 * height // 4, height - 1}:
        rotation, centre = world_from_camera[row, :3, :3], world_from_camera[row, :3, 3]
        corners = np.array([origin[row] + a * quad.edge_u + b * quad.edge_v for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))])
        polygon = list((corners - centre) @ rotation)
        clipped = []
        for first, second in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            if first[2] > 0.02:
                clipped.append(first)
            if (first[2] > 0.02) != (second[2] > 0.02):
                clipped.append(first + (second - first) * (0.02 - first[2]) / (second[2] - first[2]))
        if clipped:
            pixels = project(np.array(clipped), K[row])
            low, high = np.minimum(low, pixels.min(axis=0)), np.maximum(high, pixels.max(axis=0))
    margin = 3 + 0.05 * height * (len(np.unique(world_from_camera[:, 0, 3])) > 1)
    if not (np.isfinite(low).all() and (low - margin < (width, height)).all() and (high + margin > 0).all()):
        return None
    left, top = np.maximum(np.floor(low - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high + margin), (width, height)).astype(int)
    return slice(top, bottom), slice(left, right)


def _draw(
    quad: Quad,
    origin: np.ndarray,
    direction: np.ndarray,
    centre: np.ndarray,
    focal_px: float,
    box: tuple[slice, slice],
    rgb: np.ndarray | None,
    depth: np.ndarray,
    moves: np.ndarray,
) -> None:
    """The quad into the picture, in front of what is farther. A ray meets the plane at (a, b) and z-depth 1 / w."""
    rows, columns = box
    y, x = np.arange(rows.start, rows.stop) + 0.5, (np.arange(columns.start, columns.stop) + 0.5).astype(np.float32)
    frame_of_plane = np.empty((len(y), 3, 3))
    frame_of_plane[:, :, 0], frame_of_plane[:, :, 1] = quad.edge_u, quad.edge_v
    frame_of_plane[:, :, 2] = origin[rows] - centre[rows]
    if np.abs(np.linalg.det(frame_of_plane)).min() < 1e-12:
        return
    plane_from_pixel = np.linalg.solve(frame_of_plane, direction[rows])
    along = plane_from_pixel[:, :, 0].astype(np.float32)
    constant = (plane_from_pixel[:, :, 1] * y[:, None] + plane_from_pixel[:, :, 2]).astype(np.float32)
    a, b, w = (along[:, i, None] * x + constant[:, i, None] for i in range(3))
    shown = w > 1e-4
    w[~shown] = 1.0
    z = 1.0 / w
    a *= z
    b *= z
    length_u, length_v = np.linalg.norm(quad.edge_u), np.linalg.norm(quad.edge_v)
    if quad.is_room:
        coverage = None
        shown &= (a >= -1e-4) & (a <= 1.0001) & (b >= -1e-4) & (b <= 1.0001)
    else:
        coverage = np.clip(np.minimum(np.minimum(a, 1 - a) * length_u, np.minimum(b, 1 - b) * length_v) * (focal_px * w) + 0.5, 0, 1)
        shown &= coverage > 0
    shown &= z < depth[box]
    if not shown.any():
        return
    texture_height, texture_width = quad.pyramid[0].shape[:2]
    step = (
        np.float32(texture_width) * plane_from_pixel[:, 0, :2].astype(np.float32),
        np.float32(texture_height) * plane_from_pixel[:, 1, :2].astype(np.float32),
    )
    slope = plane_from_pixel[:, 2, :2].astype(np.float32)
    spread = [
        np.maximum(
            np.abs(step[0][:, k, None] - slope[:, k, None] * (a * texture_width)),
            np.abs(step[1][:, k, None] - slope[:, k, None] * (b * texture_height)),
        )
        for k in range(2)
    ]
    level = np.clip(np.log2(np.maximum(np.maximum(*spread) * z, 1e-3)), 0, len(quad.pyramid) - 1)
    colour = _textured(quad.pyramid, a, b, level, shown)
    opacity = colour[..., 3] / 255.0
    if coverage is not None:
        opacity = opacity * coverage
    opacity[~shown] = 0.0
    if rgb is not None:
        rgb[box] += (colour[..., :3] / 255.0 - rgb[box]) * opacity[..., None]
    solid = opacity > 0.5
    depth[box][solid] = z[solid]
    moves[box][solid] = quad.motion is not None


def _textured(pyramid: tuple[np.ndarray, ...], a: np.ndarray, b: np.ndarray, level: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """[h, w, 4] float32: the texture at (a, b), mixed from the two pyramid levels around `level`."""
    result = np.zeros((*a.shape, 4), np.float32)
    inside = level[shown]
    for number in range(int(inside.min()), min(int(inside.max()) + 1, len(pyramid) - 1) + 1):
        weight = np.maximum(1 - np.abs(level - number), 0) * shown
        rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
        if not len(rows):
            continue
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        height, width = pyramid[number].shape[:2]
        texels = cv2.remap(
            pyramid[number],
            a[part] * width - 0.5,
            b[part] * height - 0.5,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        result[part] += texels * weight[part][..., None]
    return result


def _texture(
    rng: np.random.Generator,
    width: int,
    height: int,
    base: tuple[float, float, float],
    *,
    lines: float = 0.0,
    patches: int = 0,
    silhouette: bool = False,
) -> tuple[np.ndarray, ...]:
    """An RGBA pyramid: fractal noise around a base colour, with a grid of `lines` texels and printed patches."""
    width, height = max(int(width), 8), max(int(height), 8)
    octaves = max(math.ceil(math.log2(max(width, height) / 3)), 1)
    noise = np.zeros((2, 2, 1), np.float32)
    for k in range(octaves, -1, -1):
        size = max(2, width >> k), max(2, height >> k)
        noise = cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR).reshape(size[1], size[0], -1)
        grain = rng.standard_normal((size[1], size[0], 1), np.float32)
        if k >= 3:
            noise = noise + 0.35 * 2 ** (0.35 * k) * rng.standard_normal((size[1], size[0], 3), np.float32)
        noise = noise + 2 ** (0.35 * k) * grain
    picture = np.asarray(base, np.float32) + noise * np.float32(38.0 / max(noise.std(), 1e-6))
    for _ in range(patches):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = int(rng.uniform(0.02, 0.10) * width) + 3, int(rng.uniform(0.08, 0.3) * height) + 3
        patch = picture[y : y + h, x : x + w]
        patch *= 0.35
        patch += np.asarray(rng.uniform(20, 210, 3), np.float32)
    if lines:
        for k in np.arange(lines / 2, width, lines):
            picture[:, int(k) : int(k) + max(1, int(lines / 14))] *= 0.45
        for k in np.arange(lines / 3, height, lines / 1.5):
            picture[int(k) : int(k) + max(1, int(lines / 14))] *= 0.45
    alpha = np.full((height, width, 1), 255, np.uint8)
    if silhouette:
        alpha[:] = 0
        cv2.circle(alpha, (width // 2, int(0.11 * height)), int(0.10 * height), 255, -1)
        cv2.rectangle(alpha, (int(0.1 * width), int(0.20 * height)), (int(0.9 * width), int(0.62 * height)), 255, -1)
        cv2.rectangle(alpha, (int(0.18 * width), int(0.6 * height)), (int(0.46 * width), height), 255, -1)
        cv2.rectangle(alpha, (int(0.54 * width), int(0.6 * height)), (int(0.82 * width), height), 255, -1)
    levels = [np.dstack([np.clip(picture, 4, 250).astype(np.uint8), alpha])]
    while min(levels[-1].shape[:2]) > 4:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _vector(*values: float) -> np.ndarray:
    return np.array(values, float)


class SceneBuilder:
    """Collects quads; texture density follows the picture's size so that near things are about one texel per pixel."""

    def __init__(self, rng: np.random.Generator, focal_px: float) -> None:
        self.rng, self.focal_px = rng, focal_px
        self.quads: list[Quad] = []

    def quad(
        self,
        origin: np.ndarray,
        edge_u: np.ndarray,
        edge_v: np.ndarray,
        distance: float,
        *,
        base: tuple[float, float, float] | None = None,
        line_m: float = 0.0,
        patches: int = 0,
        motion: Callable[[np.ndarray], np.ndarray] | None = None,
        is_room: bool = False,
        silhouette: bool = False,
    ) -> None:
        density = min(1.2 * self.focal_px / distance, 3000 / max(np.linalg.norm(edge_u), np.linalg.norm(edge_v)))
        colour = base or tuple(self.rng.uniform(70, 170, 3))
        pyramid = _texture(
            self.rng,
            density * np.linalg.norm(edge_u),
            density * np.linalg.norm(edge_v),
            colour,
            lines=line_m * density,
            patches=patches,
            silhouette=silhouette,
        )
        self.quads.append(Quad(origin, edge_u, edge_v, pyramid, motion, is_room))

    def room(self, half_width: float, near: float, far: float, height: float) -> None:
        """Floor, ceiling and four walls, from z = near (behind the camera) to z = far."""
        left, right, top, bottom, depth = -half_width, half_width, _EYE_HEIGHT - height, _EYE_HEIGHT, far - near
        across, along, up = _vector(right - left, 0, 0), _vector(0, 0, depth), _vector(0, height, 0)
        self.quad(_vector(left, bottom, near), across, along, 3.5, base=(104, 96, 84), line_m=1.0, is_room=True)
        self.quad(_vector(left, top, near), across, along, 8.0, base=(150, 170, 196), is_room=True)
        self.quad(_vector(left, top, far), across, up, far * 0.7, base=(128, 118, 104), line_m=1.4, patches=24, is_room=True)
        self.quad(_vector(left, top, near), across, up, abs(near), base=(118, 128, 104), line_m=1.4, patches=24, is_room=True)
        self.quad(_vector(left, top, near), along, up, half_width, base=(134, 110, 98), line_m=0.9, patches=30, is_room=True)
        self.quad(_vector(right, top, near), along, up, half_width, base=(100, 116, 132), line_m=0.9, patches=30, is_room=True)

    def box(self, x: float, z: float, width: float, height: float, depth: float, *, floats: float = 0.0) -> None:
        """A box that stands on the floor, or hangs `floats` metres above it; its five visible sides."""
        bottom = _EYE_HEIGHT - floats
        corner = _vector(x - width / 2, bottom - height, z)
        u, v, n = _vector(width, 0, 0), _vector(0, height, 0), _vector(0, 0, depth)
        colour = tuple(self.rng.uniform(60, 190, 3))
        near = max(z, 1.5)
        self.quad(corner, u, v, near, base=colour, patches=3, line_m=0.5)
        for origin, first, second in ((corner, n, v), (corner + u, n, v), (corner, u, n), (corner + v, u, n)):
            self.quad(origin, first, second, near, base=tuple(0.8 * c for c in colour), line_m=0.5)

    def person(self, x: float, z: float, speed: float) -> None:
        """A walking figure that turns round 4 metres from its middle."""

        def walk(times_s: np.ndarray) -> np.ndarray:
            phase = np.mod(speed * times_s + 4.0, 16.0)
            offset = np.zeros((len(times_s), 3))
            offset[:, 0] = np.where(phase < 8.0, phase, 16.0 - phase) - 4.0
            offset[:, 1] = -0.025 * np.abs(np.sin(2 * math.pi * 0.9 * times_s))
            return offset

        height = self.rng.uniform(1.6, 1.85)
        self.quad(
            _vector(x - 0.3, _EYE_HEIGHT - height, z),
            _vector(0.6, 0, 0),
            _vector(0, height, 0),
            z,
            patches=3,
            motion=walk,
            silhouette=True,
        )


def unproject(pixels_xy: np.ndarray, K: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
    """Points [..., 3] in camera space at z-depth `depth` (scene units) seen at corner-origin pixels [..., 2]."""
    x = (pixels_xy[..., 0] - K[0, 2]) / K[0, 0] - K[0, 1] * (pixels_xy[..., 1] - K[1, 2]) / (K[0, 0] * K[1, 1])
    y = (pixels_xy[..., 1] - K[1, 2]) / K[1, 1]
    return np.stack([x * depth, y * depth, np.broadcast_to(depth, x.shape)], axis=-1)


def project(points_camera: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Corner-origin pixels [..., 2] of camera-space points [..., 3]; NaN at or behind the camera plane."""
    z = np.where(points_camera[..., 2] > 1e-9, points_camera[..., 2], np.nan)
    x, y = points_camera[..., 0] / z, points_camera[..., 1] / z
    return np.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], axis=-1)
