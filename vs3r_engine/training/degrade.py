# SPDX-License-Identifier: Apache-2.0
"""From stable frames to what stabilization would have made of them: shaken as by a hand, cut off by the picture's
border, and reprojected onto the stable camera, so that the borders, holes and sampling noise are the renderer's own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from vs3r_engine.camera import Camera, inverse, points_of_pixels
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.lens import pixels_of_points
from vs3r_engine.scene import Rendered, Target, View
from vs3r_engine.stages.mask import pixel_centres
from vs3r_engine.stages.render import Renderer

_VALIDITY = PixelLayout("gray", 8)


@dataclass(frozen=True, slots=True, eq=False)
class Shake:
    """Hand-held movement of consecutive frames. rotvec_rad: [n, 3], in the camera's axes. offset: [n, 3], in the
    camera's axes, as a share of the scene's median depth. zoom: how much narrower than the stable picture the shaken
    one is."""

    rotvec_rad: np.ndarray
    offset: np.ndarray
    zoom: float


def hand_held(count: int, rate: float, rng: np.random.Generator) -> Shake:
    """A tremor whose power falls with frequency, 0.5 to 9 Hz: 0.4 to 2 degrees rms, 0.2 to 1 % of the depth, zoom 1 to
    1.15.
    """
    time_s = np.arange(count)[:, None, None] / rate
    hz = np.exp(rng.uniform(np.log(0.5), np.log(9.0), (24, 6)))
    amplitude = hz**-0.8 / np.linalg.norm(hz**-0.8, axis=0) * np.sqrt(2.0)
    waves = (amplitude * np.sin(2 * np.pi * (hz * time_s + rng.uniform(size=hz.shape)))).sum(axis=1)
    turn_rad = np.deg2rad(rng.uniform(0.4, 2.0)) * np.array([1.0, 1.0, 0.5])
    return Shake(waves[:, :3] * turn_rad, waves[:, 3:] * rng.uniform(0.002, 0.01), float(rng.uniform(1.0, 1.15)))


def reprojected(
    views: Sequence[View], shake: Shake, renderer: Renderer, rng: np.random.Generator, neighbours: int = 1
) -> Iterator[Rendered]:
    """What stabilizing the shaken clip back onto its own stable cameras gives, frame by frame.

    Each view is rendered from its shaken, zoomed camera; depth and dynamic mask move along, the depth with errors of 2
    %; then eq. 6 is applied back to the stable camera. Whatever the shaken picture did not hold is a hole, also where
    the shaken picture had holes itself.
    """
    shaken = [_shaken(view, shake, i, renderer, rng) for i, view in enumerate(views)]
    for i, view in enumerate(views):
        target = Target(view.frame.frame_index, view.camera, view.residual_px)
        near = [j for j in range(i - neighbours, i + neighbours + 1) if j != i and 0 <= j < len(views)]
        result = renderer.render(target, shaken[i][0], [shaken[j][0] for j in near])
        known = renderer.render(target, shaken[i][1], [shaken[j][1] for j in near])
        unknown = known.hole_mask | (known.frame.planes[0] < 250)
        yield replace(result, hole_mask=result.hole_mask | unknown)


def _shaken(view: View, shake: Shake, i: int, renderer: Renderer, rng: np.random.Generator) -> tuple[View, View]:
    """(the view as the shaken camera would have it, the same with a picture that is white where it knows anything)."""
    camera = view.camera
    depth = np.where(np.isfinite(view.depth), view.depth, np.nanmedian(view.depth))
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(shake.rotvec_rad[i]).as_matrix()
    moved[:3, 3] = shake.offset[i] * float(np.median(depth))
    K = camera.K.copy()
    K[0, 0] *= shake.zoom
    K[1, 1] *= shake.zoom
    seen_from = Camera(K, camera.width, camera.height, camera.world_from_camera @ moved)
    rendered = renderer.render(Target(view.frame.frame_index, seen_from, view.residual_px), view, [])
    new_depth, new_mask = splatted(depth, view.dynamic_mask, camera, seen_from)
    rows, columns = new_depth.shape
    error = cv2.resize(rng.normal(0.0, 0.02, (5, 7)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    new_depth = new_depth * np.exp(error)
    white = np.where(rendered.hole_mask, 0, 255).astype(np.uint8)
    validity = Frame(view.frame.frame_index, (white,), _VALIDITY, ColourTags(full_range=True))
    made = View(rendered.frame, seen_from, view.residual_px, new_depth.astype(np.float32), new_mask)
    return made, replace(made, frame=validity)


def splatted(depth: np.ndarray, mask: np.ndarray, camera: Camera, seen_from: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Depth [h, w] and dynamic mask (any size) as another camera sees them, at the depth's size, nearest point first;
    what no point reaches has the depth of its surroundings and does not move."""
    height, width = depth.shape
    small, other = camera.resized(width, height), seen_from.resized(width, height)
    if mask.shape != depth.shape:
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    points = points_of_pixels(pixel_centres(width, height), small, depth.astype(np.float64)).reshape(-1, 3)
    other_from_small = inverse(other.world_from_camera) @ small.world_from_camera
    points = points @ other_from_small[:3, :3].T + other_from_small[:3, 3]
    place = pixels_of_points(points, other.K, other.lens)
    order = np.argsort(-points[:, 2])
    inside = np.isfinite(place).all(axis=1) & (place >= 0).all(axis=1) & (place[:, 0] < width) & (place[:, 1] < height)
    order = order[inside[order]]
    columns, rows = place[order].astype(int).T
    out = np.full((height, width), np.nan)
    moves = np.zeros((height, width), bool)
    out[rows, columns] = points[order, 2]
    moves[rows, columns] = mask.reshape(-1)[order]
    known = np.isfinite(out).astype(np.float32)
    filled = np.nan_to_num(out).astype(np.float32)
    for side in (3, 9, 33, 129):
        share = cv2.blur(known, (side, side))
        mean = cv2.blur(filled, (side, side)) / np.maximum(share, 1e-6)
        out = np.where(np.isnan(out) & (share > 0), mean, out)
    return np.where(np.isnan(out), np.nanmedian(depth), out), moves


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Faults on top, the same for every frame of a sample. border: share cut off at left, top, right, bottom. speckle:
    share of pixels without a point. noise: standard deviation. blur_px: Gaussian. seed: of what varies by frame."""

    border: tuple[float, float, float, float]
    speckle: float
    noise: float
    blur_px: float
    seed: int


def augmentation(rng: np.random.Generator) -> Augmentation:
    """Faults as strong as those of other renderers and reconstructions than the one at hand; half of the samples have
    few.
    """
    much = float(rng.random() < 0.5)
    border = rng.uniform(0, 0.12, 4) * (rng.random(4) < 0.35) * much
    return Augmentation(
        tuple(border.tolist()),
        float(rng.uniform(0, 0.02) * much),
        float(rng.uniform(0, 0.015)),
        float(rng.choice([0.0, 0.0, rng.uniform(0.3, 1.2)])),
        int(rng.integers(2**31)),
    )


def augmented(picture: np.ndarray, hole_mask: np.ndarray, faults: Augmentation, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """A reduced picture [h, w, 3] and its holes with the faults of this frame."""
    rng = np.random.default_rng([faults.seed, frame])
    height, width = hole_mask.shape
    hole = hole_mask.copy()
    left, top, right, bottom = faults.border
    hole[:, : round(left * width)] = hole[: round(top * height)] = True
    hole[:, width - round(right * width) :] = hole[height - round(bottom * height) :] = True
    hole |= rng.random((height, width)) < faults.speckle
    if faults.blur_px > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), faults.blur_px)
    picture = np.clip(picture + rng.normal(0, faults.noise, picture.shape), 0, 1).astype(np.float32)
    return picture, hole
