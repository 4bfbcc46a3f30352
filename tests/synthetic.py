# SPDX-License-Identifier: Apache-2.0
"""Seeded clips whose truth is known exactly: cameras, intrinsics, z-depth, dynamic masks and the stable target.

Scenes are textured rectangles in a room (units: metres), cast per pixel through each row's own camera, so that rolling
shutter and motion blur are exact too. The six categories are those of the NUS data set.
"""

import functools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from tests.synthetic_scene import Quad, SceneBuilder, cast, project, unproject
from vs3r_engine.camera import Camera, Trajectory, inverse
from vs3r_engine.frame import ColourTags, Frame, PixelLayout

CATEGORIES = ("regular", "running", "crowd", "parallax", "rotation", "zooming")

_BT709 = ColourTags(primaries=1, transfer=1, matrix=1)
_YUV420 = PixelLayout("yuv", 8, 1, 1)
_SHUTTER = 0.5
"""Exposure time as a share of the frame period (a 180 degree shutter)."""


@dataclass(frozen=True, eq=False)
class Path3D:
    """A camera path over continuous time: what the operator meant, and the shake on top.

    centre_at, rotvec_at, focal_at: of times [n] in seconds, the intention. shake_centre, shake_rotvec: the jitter, in
    metres and radians, in the camera's own axes.
    """

    centre_at: Callable[[np.ndarray], np.ndarray]
    euler_yxz_at: Callable[[np.ndarray], np.ndarray]
    focal_at: Callable[[np.ndarray], np.ndarray]
    shake_centre: "Shake"
    shake_rotvec: "Shake"

    def world_from_camera(self, times_s: np.ndarray, shake: float) -> np.ndarray:
        """[n, 4, 4]; shake 0 is the intended path, 1 the filmed one."""
        rotation = Rotation.from_euler("YXZ", self.euler_yxz_at(times_s))
        filmed = rotation * Rotation.from_rotvec(shake * self.shake_rotvec(times_s))
        transform = np.tile(np.eye(4), (len(times_s), 1, 1))
        transform[:, :3, :3] = filmed.as_matrix()
        transform[:, :3, 3] = self.centre_at(times_s) + rotation.apply(shake * self.shake_centre(times_s))
        return transform


class Shake:
    """Hand-held tremor: three axes of sinusoids with random phases whose power falls with frequency, plus steps."""

    def __init__(
        self,
        rng: np.random.Generator,
        rms: tuple[float, float, float],
        step_hz: float = 0.0,
        step: tuple[float, float, float] = (0, 0, 0),
    ):
        count = 28
        self._hz = np.exp(rng.uniform(math.log(0.5), math.log(9.0), (count, 3)))
        amplitude = self._hz**-0.8
        self._amplitude = amplitude * np.asarray(rms) * math.sqrt(2.0) / np.linalg.norm(amplitude, axis=0)
        self._phase = rng.uniform(0, 2 * math.pi, (count, 3))
        self._step_hz, self._step, self._step_phase = step_hz, np.asarray(step, float), rng.uniform(0, 2 * math.pi, 3)

    def __call__(self, times_s: np.ndarray) -> np.ndarray:
        times = np.asarray(times_s, float)[:, None, None]
        tremor = (self._amplitude * np.sin(2 * math.pi * self._hz * times + self._phase)).sum(axis=1)
        cycle = 2 * math.pi * self._step_hz * times[:, :, 0]
        return tremor + self._step * (np.sin(cycle + self._step_phase) + 0.4 * np.sin(2 * cycle + 2 * self._step_phase))


@dataclass(eq=False)
class SyntheticClip:
    """One clip and its truth. Frames are rendered when first asked for and then kept.

    rolling_shutter: time from the first row's exposure to the last one's, as a share of the frame period; the true
    camera of a frame is that of its middle row at mid-exposure.
    """

    category: str
    frame_count: int
    width: int
    height: int
    rate: Fraction
    motion_blur: bool
    rolling_shutter: float
    quads: tuple[Quad, ...]
    path: Path3D
    shake: float
    _frames: dict[int, Frame] = field(default_factory=dict)
    _truth: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame_count

    @property
    def frames(self) -> list[Frame]:
        """Every frame, 8-bit yuv420 BT.709."""
        return [self.frame(i) for i in range(self.frame_count)]

    def frame(self, frame_index: int) -> Frame:
        if frame_index not in self._frames:
            self._frames[frame_index] = self._filmed(frame_index)
        return self._frames[frame_index]

    @functools.cached_property
    def trajectory(self) -> Trajectory:
        """The filmed path, shake included."""
        return self._trajectory(self.shake)

    @functools.cached_property
    def stable(self) -> Trajectory:
        """The intended path: what a perfect stabilizer would show."""
        return self._trajectory(0.0)

    @functools.cached_property
    def depth(self) -> np.ndarray:
        """[n, h, w] float32 z-depth in metres (with rolling shutter: of each row's own camera)."""
        return np.stack([self.truth(i)[0] for i in range(self.frame_count)])

    @functools.cached_property
    def dynamic_mask(self) -> np.ndarray:
        """[n, h, w] bool, True where a moving object is seen."""
        return np.stack([self.truth(i)[1] for i in range(self.frame_count)])

    def truth(self, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """(z-depth [h, w] float32, dynamic_mask [h, w] bool) of one frame."""
        if frame_index not in self._truth:
            _, depth, moves = self._seen_by(*self._rows(self._time(frame_index), self.shake), with_colour=False)
            self._truth[frame_index] = depth, moves
        return self._truth[frame_index]

    @functools.cached_property
    def static_points_world(self) -> np.ndarray:
        """[n, 3] float64 points of the standing scene, up to 400 seen in each of five frames, in metres."""
        rng = np.random.default_rng(7)
        points = []
        for i in np.unique(np.linspace(0, self.frame_count - 1, 5).astype(int)):
            depth, moves = self.truth(i)
            x, y = rng.integers(0, self.width, 400), rng.integers(0, self.height, 400)
            keep = ~moves[y, x]
            x, y = x[keep], y[keep]
            world_from_camera, K = self._rows(self._time(i), self.shake)[:2]
            in_camera = np.stack([unproject(np.array([c + 0.5, r + 0.5]), K[r], float(depth[r, c])) for r, c in zip(y, x, strict=True)])
            points.append(np.einsum("nij,nj->ni", world_from_camera[y, :3, :3], in_camera) + world_from_camera[y, :3, 3])
        return np.concatenate(points)

    def seen(self, points_world: np.ndarray, frame_index: int) -> np.ndarray:
        """[n, 2] pixels where the frame shows the points (global shutter only); NaN where outside or hidden."""
        camera = self.trajectory.camera(frame_index)
        camera_from_world = inverse(camera.world_from_camera)
        in_camera = points_world @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        pixels = project(in_camera, camera.K)
        depth, _ = self.truth(frame_index)
        column, row = np.nan_to_num(np.floor(pixels), nan=-1).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < self.width) & (row < self.height)
        nearest = depth[row.clip(0, self.height - 1), column.clip(0, self.width - 1)]
        hidden = ~inside | (in_camera[:, 2] > nearest * 1.02 + 0.02)
        pixels[hidden] = np.nan
        return pixels

    def render_at(self, frame_index: int, camera: Camera) -> np.ndarray:
        """[h, w, 3] float32 in 0..1: the true picture at this frame's moment from any camera, sharp, global shutter."""
        return self._seen_at(frame_index, camera)[0]

    def truth_at(self, frame_index: int, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """(z-depth [h, w], dynamic_mask [h, w]) of what `render_at` shows."""
        return self._seen_at(frame_index, camera, with_colour=False)[1:]

    def _seen_at(self, frame_index: int, camera: Camera, with_colour: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = camera.height
        return self._seen_by(
            np.tile(camera.world_from_camera, (rows, 1, 1)),
            np.tile(camera.K, (rows, 1, 1)),
            np.full(rows, self._time(frame_index)),
            width=camera.width,
            with_colour=with_colour,
        )

    def photographed(self, frame_index: int, camera: Camera, lens_blur_px: float = 0.35, rays: int = 4) -> np.ndarray:
        """As `render_at`, band-limited as by a camera: a sharp lens whose blur is a Gaussian of that spread, pixels that
        gather the light of their whole area, rays x rays samples each."""
        fine = self.render_at(frame_index, camera.resized(camera.width * rays, camera.height * rays))
        fine = cv2.GaussianBlur(fine, (0, 0), lens_blur_px * rays)
        return cv2.resize(fine, (camera.width, camera.height), interpolation=cv2.INTER_AREA)

    def write(self, path: Path | str, *, crf: int = 12, codec: str = "libx264", pix_fmt: str = "yuv420p") -> Path:
        """The clip as a video file. Frames are rendered one by one and not kept."""
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, pix_fmt
            if codec in ("libx264", "libx265"):
                stream.options = {"crf": str(crf), "preset": "veryfast"}
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = 1
            context.color_range = 1
            for i in range(self.frame_count):
                picture = video_frame(self._frames.get(i) or self._filmed(i)).reformat(format=pix_fmt)
                picture.pts, picture.time_base = i, 1 / self.rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return Path(path)

    def _time(self, frame_index: int) -> float:
        return float(frame_index / self.rate)

    def _trajectory(self, shake: float) -> Trajectory:
        times = np.arange(self.frame_count) / float(self.rate)
        return Trajectory(0, self.width, self.height, self._intrinsics(times), self.path.world_from_camera(times, shake))

    def _intrinsics(self, times_s: np.ndarray) -> np.ndarray:
        K = np.tile(np.eye(3), (len(times_s), 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = self.path.focal_at(times_s) * self.width
        K[:, 0, 2], K[:, 1, 2] = self.width / 2, self.height / 2
        return K

    def _rows(self, time_s: float, shake: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(world_from_camera [h, 4, 4], K [h, 3, 3], time [h]) of every row of the frame exposed around `time_s`."""
        offsets = ((np.arange(self.height) + 0.5) / self.height - 0.5) * self.rolling_shutter / float(self.rate)
        if not self.rolling_shutter:
            offsets = np.zeros(1)
        times = time_s + offsets
        rows = self.path.world_from_camera(times, shake), self._intrinsics(times), times
        return rows if self.rolling_shutter else tuple(np.repeat(a, self.height, axis=0) for a in rows)  # type: ignore[return-value]

    def _filmed(self, frame_index: int) -> Frame:
        time = self._time(frame_index)
        if not self.motion_blur:
            rgb = self._seen_by(*self._rows(time, self.shake))[0]
        else:
            span = _SHUTTER / float(self.rate)
            count = self._exposures(time, span)
            rgb = np.zeros((self.height, self.width, 3), np.float32)
            for k in range(count):
                rgb += self._seen_by(*self._rows(time + span * ((k + 0.5) / count - 0.5), self.shake))[0] / count
        blank = Frame(frame_index, (), _YUV420, _BT709)
        return blank.with_rgb(rgb)

    def _exposures(self, time_s: float, span_s: float) -> int:
        """Enough instants that the picture moves by about one pixel between them."""
        ends = np.array([time_s - span_s / 2, time_s + span_s / 2])
        first, last = self.path.world_from_camera(ends, self.shake)
        turn = np.linalg.norm(Rotation.from_matrix(first[:3, :3].T @ last[:3, :3]).as_rotvec())
        walk = np.linalg.norm(last[:3, 3] - first[:3, 3]) / 2.5
        return int(np.clip(math.ceil((turn + walk) * self._intrinsics(ends)[0, 0, 0]), 3, 48))

    def _seen_by(
        self,
        world_from_camera: np.ndarray,
        K: np.ndarray,
        times_s: np.ndarray,
        *,
        width: int | None = None,
        with_colour: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rgb, z-depth, moves) through one camera per row."""
        return cast(self.quads, world_from_camera, K, times_s, width=width or self.width, with_colour=with_colour)


def video_frame(frame: Frame) -> av.VideoFrame:
    """An 8-bit yuv420 Frame as PyAV's, colour tags included."""
    height, width = frame.height, frame.width
    picture = av.VideoFrame(width, height, "yuv420p")
    for plane, pixels in zip(picture.planes, frame.planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : pixels.shape[1]] = pixels
        plane.update(rows)
    picture.colorspace, picture.color_range = 1, 1
    return picture


_PLAN: dict[str, dict[str, tuple[float, float, float] | float]] = {
    # shake: rotation (pitch, yaw, roll) in degrees RMS; sway: translation in metres RMS; room: half width, near, far
    "regular": {"shake": (0.55, 0.55, 0.3), "sway": (0.012, 0.012, 0.008), "room": (7.0, -8.0, 26.0)},
    "running": {"shake": (1.0, 0.9, 0.6), "sway": (0.02, 0.02, 0.02), "room": (7.0, -8.0, 60.0)},
    "crowd": {"shake": (0.55, 0.55, 0.3), "sway": (0.012, 0.012, 0.008), "room": (9.0, -8.0, 18.0)},
    "parallax": {"shake": (0.45, 0.45, 0.25), "sway": (0.03, 0.03, 0.02), "room": (16.0, -8.0, 20.0)},
    "rotation": {"shake": (0.6, 0.6, 0.35), "sway": (0.004, 0.004, 0.004), "room": (10.0, -10.0, 14.0)},
    "zooming": {"shake": (0.4, 0.4, 0.2), "sway": (0.006, 0.006, 0.004), "room": (7.0, -8.0, 22.0)},
}


def make_clip(
    category: str,
    *,
    frames: int = 48,
    width: int = 320,
    height: int = 180,
    seed: int = 0,
    motion_blur: bool = False,
    rolling_shutter: float = 0.0,
    shake: float = 1.0,
    rate: Fraction | int = 30,
) -> SyntheticClip:
    """A clip of one of CATEGORIES. Equal arguments give equal pixels.

    shake: multiplies the hand-held jitter; 0 is the stable clip.
    """
    plan = _PLAN[category]
    rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
    focal = 0.8
    duration_s = frames / float(rate)
    builder = SceneBuilder(rng, focal * width)
    half_width, near, far = plan["room"]  # type: ignore[misc]
    builder.room(half_width, near, far, 7.0)
    if category == "parallax":
        for k in range(11):
            builder.box(
                -5.5 + 1.35 * k + rng.uniform(-0.3, 0.3),
                (2.8, 6.5, 4.2, 10.0)[k % 4] + rng.uniform(0, 0.5),
                rng.uniform(0.4, 0.9),
                rng.uniform(0.9, 2.6),
                0.5,
                floats=(0.0, 0.0, 0.9)[k % 3],
            )
    elif category == "running":
        for k in range(16):
            builder.box((-1) ** k * rng.uniform(2.2, 5.0), 5.0 + 3.2 * k, rng.uniform(0.5, 1.4), rng.uniform(1.0, 3.0), 0.8)
    else:
        for k in range(6):
            builder.box(
                (-1) ** k * rng.uniform(1.8, 5.5),
                rng.uniform(6.5, 12.0),
                rng.uniform(0.5, 1.4),
                rng.uniform(0.8, 2.8),
                0.8,
            )
    if category == "crowd":
        for k in range(9):
            builder.person(
                -4.0 + k + rng.uniform(-0.4, 0.4),
                (3.4, 5.5, 4.4)[k % 3] + rng.uniform(0, 0.4),
                (-1) ** k * rng.uniform(0.6, 1.4),
            )

    walk = {
        "regular": (0.15, 0, 0.5),
        "running": (0, 0, 2.6),
        "crowd": (0.2, 0, 0.15),
        "parallax": (0.5, 0, 0.05),
        "rotation": (0, 0, 0),
        "zooming": (0.05, 0, 0.05),
    }[category]

    def centre_at(times_s: np.ndarray) -> np.ndarray:
        return np.asarray(walk) * times_s[:, None]

    def euler_at(times_s: np.ndarray) -> np.ndarray:
        yaw = {
            "rotation": math.radians(35) * np.sin(2 * math.pi * times_s / 4.0),
            "regular": math.radians(4) * np.sin(2 * math.pi * times_s / 6.0),
            "parallax": math.radians(2) * np.sin(2 * math.pi * times_s / 7.0),
        }.get(category, np.zeros_like(times_s))
        return np.stack([yaw, np.full_like(times_s, math.radians(-1.5)), np.zeros_like(times_s)], axis=1)

    def focal_at(times_s: np.ndarray) -> np.ndarray:
        if category != "zooming":
            return np.full_like(times_s, focal)
        progress = np.clip(times_s / max(duration_s, 1e-6), 0, 1)
        return focal * 1.8 ** (progress * progress * (3 - 2 * progress))

    step = {"step_hz": 2.7, "step": (math.radians(0.5), math.radians(0.25), math.radians(0.3))} if category == "running" else {}
    bob = {"step_hz": 2.7, "step": (0.01, 0.035, 0.0)} if category == "running" else {}
    pitch, yaw, roll = plan["shake"]  # type: ignore[misc]
    path = Path3D(
        centre_at,
        euler_at,
        focal_at,
        Shake(rng, plan["sway"], **bob),  # type: ignore[arg-type]
        Shake(rng, (math.radians(pitch), math.radians(yaw), math.radians(roll)), **step),
    )  # type: ignore[arg-type]
    return SyntheticClip(category, frames, width, height, Fraction(rate), motion_blur, rolling_shutter, tuple(builder.quads), path, shake)


def all_clips(**options) -> Iterator[SyntheticClip]:
    """One clip of every category."""
    for category in CATEGORIES:
        yield make_clip(category, **options)
