# SPDX-License-Identifier: Apache-2.0
"""Lenses: how rays meet the picture. A Lens maps ray directions to the normalised plane (where K takes over) and back.

Every formula runs on NumPy arrays and on torch tensors alike.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vs3r_engine.errors import InputError

_ITERATIONS = 12
_TINY = 1e-12
_FAR = 10.0
"""No lens puts a ray this far out on its plane: beyond, the search for one must not run away."""

PARAMETERS: dict[str, tuple[str, ...]] = {
    "fisheye": ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4"),
    "omnidirectional": ("xi",),
    "double-sphere": ("xi", "alpha"),
    "division": ("lambda",),
    "equirectangular": (),
}
"""The lens models besides the perspective one (no lens at all), and the names of their parameters in order."""


@dataclass(frozen=True, slots=True)
class Lens:
    """One lens model. A pixel is K applied to the normalised plane's point (u, v).

    model and its parameters:
      fisheye: Kannala-Brandt: (u, v) at radius theta (1 + k1 theta^2 + .. + k6 theta^12) in the ray's direction, then
        tangential p1 p2 and thin-prism s1..s4 terms. Domain: theta below `largest_angle_rad`, where the radius still
        grows; both ways.
      omnidirectional: unified model: (x, y) / (z + xi |ray|). Domain: z > -|ray| / xi for xi > 1, else z > -xi |ray|.
      double-sphere: xi, alpha (Usenko et al. 2018). Domain: z > -w2 |ray| of that paper.
      division: (x, y) / z is (u, v) / (1 + lambda |(u, v)|^2) (Fitzgibbon 2001); lambda < 0 bends lines outward like a barrel. Domain:
        z > 0, and for lambda > 0 |(x, y)| <= z / (2 sqrt(lambda)).
      equirectangular: u = longitude, v = latitude (down positive) in radians. Domain: every ray.
    largest_angle_rad: rays further from the axis are not seen.

    Source: section 5 and Fig. 8; the models the paper's code renders with.
    """

    model: str
    parameters: tuple[float, ...] = ()
    largest_angle_rad: float = math.pi

    def __post_init__(self) -> None:
        if self.model not in PARAMETERS or len(self.parameters) != len(PARAMETERS[self.model]):
            raise InputError(
                "bad-lens",
                f"A lens {self.model!r} with {len(self.parameters)} parameters does not exist.",
                f"Models: {', '.join(f'{m} ({len(p)})' for m, p in PARAMETERS.items())}.",
            )

    def plane_of_rays(self, rays: Any) -> Any:
        """Normalised-plane points [..., 2] of directions [..., 3] of any length (camera axes); NaN outside the
        domain."""
        xp = _arrays(rays)
        x, y, z = rays[..., 0], rays[..., 1], rays[..., 2]
        across = xp.sqrt(x * x + y * y)
        length = xp.sqrt(across * across + z * z)
        is_seen = (xp.atan2(across, z) <= self.largest_angle_rad) & (length > 0)
        if self.model == "equirectangular":
            # atan2(0, 0) at the poles is a longitude as good as any.
            u, v = xp.atan2(x, z), xp.atan2(y, xp.sqrt(x * x + z * z))
        elif self.model == "fisheye":
            theta = xp.atan2(across, z)
            scale = xp.where(across > _TINY, theta / xp.where(across > _TINY, across, 1.0), 1.0)
            u, v = _distorted(x * scale, y * scale, self.parameters)
        elif self.model == "division":
            is_seen = is_seen & (z > _TINY)
            per_z = 1 / xp.where(z > _TINY, z, 1.0)
            under = 1 - 4 * self.parameters[0] * (across * per_z) ** 2
            is_seen = is_seen & (under >= 0)
            scale = 2 * per_z / (1 + xp.sqrt(xp.where(under >= 0, under, 0.0)))
            u, v = x * scale, y * scale
        else:
            xi = self.parameters[0]
            if self.model == "omnidirectional":
                below = z + xi * length
                is_seen = is_seen & (z > -min(xi, 1 / max(xi, _TINY)) * length + _TINY)
            else:
                alpha = self.parameters[1]
                second = xp.sqrt(across * across + (xi * length + z) ** 2)
                below = alpha * second + (1 - alpha) * (xi * length + z)
                is_seen = is_seen & (z > -_double_sphere_limit(xi, alpha) * length)
            is_seen = is_seen & (below > _TINY)
            below = xp.where(below > _TINY, below, 1.0)
            u, v = x / below, y / below
        return xp.where(is_seen[..., None], xp.stack([u, v], -1), xp.nan)

    def rays_of_plane(self, plane: Any) -> Any:
        """Unit directions [..., 3] of normalised-plane points [..., 2]; NaN where no ray of the domain leads there."""
        xp = _arrays(plane)
        u, v = plane[..., 0], plane[..., 1]
        if self.model == "equirectangular":
            is_valid = (abs(v) <= math.pi / 2) & (abs(u) <= math.pi)
            rays = [xp.sin(u) * xp.cos(v), xp.sin(v), xp.cos(u) * xp.cos(v)]
        elif self.model == "fisheye":
            a, b = _undistorted(u, v, self.parameters, self.largest_angle_rad, xp)
            theta = xp.sqrt(a * a + b * b)
            sine = xp.where(theta > 1e-9, xp.sin(theta) / xp.where(theta > 1e-9, theta, 1.0), 1.0)
            rays = [a * sine, b * sine, xp.cos(theta)]
            again_u, again_v = _distorted(a, b, self.parameters)
            is_valid = (theta <= self.largest_angle_rad) & (abs(again_u - u) < 1e-4) & (abs(again_v - v) < 1e-4)
        elif self.model == "division":
            forward = 1 + self.parameters[0] * (u * u + v * v)
            length = xp.sqrt(u * u + v * v + forward * forward)
            is_valid = forward > _TINY
            rays = [u / length, v / length, forward / length]
        else:
            xi = self.parameters[0]
            square = u * u + v * v
            if self.model == "omnidirectional":
                under = 1 + (1 - xi * xi) * square
                is_valid = under >= 0
                forward = (xi + xp.sqrt(xp.where(is_valid, under, 0.0))) / (1 + square)
                rays = [forward * u, forward * v, forward - xi]
            else:
                alpha = self.parameters[1]
                under = 1 - (2 * alpha - 1) * square
                is_valid = under >= 0
                mz = (1 - alpha * alpha * square) / (alpha * xp.sqrt(xp.where(is_valid, under, 0.0)) + 1 - alpha)
                under = mz * mz + (1 - xi * xi) * square
                is_valid = is_valid & (under >= 0)
                forward = (mz * xi + xp.sqrt(xp.where(under >= 0, under, 0.0))) / (mz * mz + square)
                rays = [forward * u, forward * v, forward * mz - xi]
            angle = xp.atan2(xp.sqrt(rays[0] ** 2 + rays[1] ** 2), rays[2])
            is_valid = is_valid & (angle <= self.largest_angle_rad)
        return xp.where(is_valid[..., None], xp.stack(rays, -1), xp.nan)


_OUTPUT_LENSES = {
    "fisheye": Lens("fisheye", (0.0,) * 12),
    "omnidirectional": Lens("omnidirectional", (1.0,), math.radians(175)),
    "double-sphere": Lens("double-sphere", (-0.2, 0.6)),
    "equirectangular": Lens("equirectangular"),
}


def bend_of(lens: Lens | None) -> float | None:
    """lambda of a lens of the division model, 0 of the perspective one, None of any other."""
    if lens is None:
        return 0.0
    return lens.parameters[0] if lens.model == "division" else None


def pixels_of_points(points: Any, K: Any, lens: Lens | None) -> Any:
    """Corner-origin pixels [..., 2] of camera-space points [..., 3]; NaN for points the lens cannot see."""
    xp = _arrays(points)
    if lens is None:
        z = xp.where(points[..., 2] > 1e-9, points[..., 2], xp.nan)
        u, v = points[..., 0] / z, points[..., 1] / z
    else:
        plane = lens.plane_of_rays(points)
        u, v = plane[..., 0], plane[..., 1]
    return xp.stack([K[0, 0] * u + K[0, 1] * v + K[0, 2], K[1, 1] * v + K[1, 2]], -1)


def rays_of_pixels(pixels: Any, K: Any, lens: Lens | None) -> Any:
    """Directions [..., 3] (camera axes) of corner-origin pixels [..., 2]: with z = 1 for the perspective lens (None),
    of unit length for all others; NaN where no ray leads."""
    xp = _arrays(pixels)
    v = (pixels[..., 1] - K[1, 2]) / K[1, 1]
    u = (pixels[..., 0] - K[0, 2] - K[0, 1] * v) / K[0, 0]
    if lens is None:
        return xp.stack([u, v, xp.ones_like(u)], -1)
    return lens.rays_of_plane(xp.stack([u, v], -1))


def output_lens(name: str, K: np.ndarray, width: int, height: int) -> tuple[np.ndarray, Lens | None]:
    """(K, lens) of the output lens `name` (see FrameSettings.lens) for a path whose own K is given, same picture size.

    perspective and as-shot keep K; wide, ultra-wide and telephoto scale its focal lengths by 0.75, 0.5 and 1.5. fisheye
    (equidistant), omnidirectional (xi = 1) and double-sphere (xi = -0.2, alpha = 0.6) use K as it is. equirectangular
    spans 180 x 90 degrees.

    Source: section 5, Fig. 8; parameters as in the published code. Raises: InputError `bad-lens`.
    """
    scale = {"wide": 0.75, "ultra-wide": 0.5, "telephoto": 1.5}.get(name, 1.0)
    K = np.array(K, np.float64)
    K[:2, :2] *= scale
    if name in ("as-shot", "perspective", "wide", "ultra-wide", "telephoto"):
        return K, None
    if name == "equirectangular":
        per_rad = (width / math.pi, height / (math.pi / 2))
        return np.array([[per_rad[0], 0, width / 2], [0, per_rad[1], height / 2], [0, 0, 1]]), _OUTPUT_LENSES[name]
    if name not in _OUTPUT_LENSES:
        raise InputError("bad-lens", f"There is no output lens {name!r}.", f"Lenses: perspective, wide, {', '.join(_OUTPUT_LENSES)}.")
    return K, _OUTPUT_LENSES[name]


def read_profile(path: str) -> tuple[np.ndarray, Lens | None, int, int]:
    """(K, lens, width, height) of a lens profile: JSON with "model", "width", "height", "fx", "fy", "cx", "cy" in
    corner-origin pixels of that size, and "parameters" by name (missing ones are 0); optional "largest_angle_deg".
    Or one of Gyroflow's lens profiles, whose lens is an OpenCV fisheye.

    Raises: InputError `bad-lens-profile`.
    """
    try:
        profile = json.loads(Path(path).read_text(encoding="utf-8"))
        if "fisheye_params" in profile:
            profile = _of_gyroflow(profile)
        model, size = profile["model"], (int(profile["width"]), int(profile["height"]))
        if min(size) < 1:
            raise ValueError(f"its pictures are {size[0]} x {size[1]}")
        K = np.array(
            [
                [float(profile["fx"]), 0, float(profile["cx"])],
                [0, float(profile["fy"]), float(profile["cy"])],
                [0, 0, 1],
            ]
        )
        if model == "perspective":
            return K, None, *size
        given = dict(profile.get("parameters", {}))
        parameters = tuple(float(given.pop(name, 0.0)) for name in PARAMETERS[model])
        if given:
            raise KeyError(f"unknown parameters {', '.join(given)}")
        lens = Lens(model, parameters)
        limit = math.radians(float(profile["largest_angle_deg"])) if "largest_angle_deg" in profile else growing_angle(lens)
        return K, Lens(model, parameters, limit), *size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "bad-lens-profile",
            f"{path} is not a lens profile: {error}.",
            f"It needs model ({', '.join(PARAMETERS)} or perspective), width, height, fx, fy, cx, cy and parameters, "
            "or to be one of Gyroflow's for a fisheye lens.",
        ) from error


def _of_gyroflow(profile: dict[str, Any]) -> dict[str, Any]:
    """A Gyroflow profile in our words: "camera_matrix" and "distortion_coeffs" [k1..k4] of pictures of "calib_dimension"."""
    model, digital = profile.get("distortion_model") or "opencv_fisheye", profile.get("digital_lens")
    stretched = any(float(profile.get(f"input_{axis}_stretch") or 1) != 1 for axis in ("horizontal", "vertical"))
    if model != "opencv_fisheye" or digital or stretched:
        lens = f"{model}{f', then {digital}' if digital else ''}{', stretched' if stretched else ''}"
        raise ValueError(f"of Gyroflow's only those for a plain opencv_fisheye are read, and this is for {lens}")
    (fx, _, cx), (_, fy, cy), _ = profile["fisheye_params"]["camera_matrix"]
    size = profile["calib_dimension"]
    parameters = dict(zip(PARAMETERS["fisheye"][:4], profile["fisheye_params"]["distortion_coeffs"], strict=True))
    # OpenCV's pixels have their origin in the middle of the first one.
    intrinsics = {"fx": fx, "fy": fy, "cx": cx + 0.5, "cy": cy + 0.5}
    return {"model": "fisheye", "width": size["w"], "height": size["h"], **intrinsics, "parameters": parameters}


def growing_angle(lens: Lens) -> float:
    """The largest angle from the axis up to which a fisheye's radius grows; pi for other models."""
    if lens.model != "fisheye":
        return math.pi
    theta = np.linspace(0, math.pi, 1801)
    growth = 1 + sum((2 * i + 3) * k * theta ** (2 * i + 2) for i, k in enumerate(lens.parameters[:6]))
    falls = np.flatnonzero(growth <= 0.05)
    return float(theta[falls[0] - 1]) if len(falls) else math.pi


def _distorted(a: Any, b: Any, parameters: tuple[float, ...]) -> tuple[Any, Any]:
    """Equidistant plane to distorted plane: radial polynomial, then tangential and thin-prism terms."""
    if not any(parameters):
        return a, b
    square = a * a + b * b
    radial = 0 * square
    for k in reversed(parameters[:6]):
        radial = (radial + k) * square
    u, v = a * (1 + radial), b * (1 + radial)
    across, down = _decentred(u, v, parameters)
    return u + across, v + down


def _decentred(u: Any, v: Any, parameters: tuple[float, ...]) -> tuple[Any, Any]:
    """Tangential (p1, p2) and thin-prism (s1..s4) displacement."""
    p1, p2, s1, s2, s3, s4 = parameters[6:]
    square = u * u + v * v
    lean = 2 * (p1 * u + p2 * v)
    return u * lean + (p1 + s1 + s2 * square) * square, v * lean + (p2 + s3 + s4 * square) * square


def _undistorted(u: Any, v: Any, parameters: tuple[float, ...], largest_rad: float, xp: Any) -> tuple[Any, Any]:
    """Inverse of `_distorted`: the decentred part by fixed-point iteration, the radius by Newton's method."""
    if not any(parameters):
        return u, v
    x, y = u, v = xp.clip(u, -_FAR, _FAR), xp.clip(v, -_FAR, _FAR)
    for _ in range(_ITERATIONS if any(parameters[6:]) else 0):
        across, down = _decentred(x, y, parameters)
        x, y = xp.clip(u - across, -_FAR, _FAR), xp.clip(v - down, -_FAR, _FAR)
    radius = xp.sqrt(x * x + y * y)
    theta = xp.where(radius > largest_rad, largest_rad, radius)
    for _ in range(_ITERATIONS):
        square = theta * theta
        value, slope = 0 * theta, 0 * theta
        for i, k in reversed(list(enumerate(parameters[:6]))):
            value, slope = (value + k) * square, (slope + (2 * i + 3) * k) * square
        theta = theta - (theta * (1 + value) - radius) / xp.where(slope > -0.95, 1 + slope, 0.05)
        theta = xp.where(theta < 0, 0.0, xp.where(theta > largest_rad, largest_rad, theta))
    scale = xp.where(radius > _TINY, theta / xp.where(radius > _TINY, radius, 1.0), 1.0)
    return x * scale, y * scale


def _double_sphere_limit(xi: float, alpha: float) -> float:
    """w2 of the double-sphere model."""
    w1 = alpha / (1 - alpha) if alpha <= 0.5 else (1 - alpha) / alpha
    return (w1 + xi) / math.sqrt(2 * w1 * xi + xi * xi + 1)


def _arrays(values: Any) -> Any:
    """The module whose functions apply: numpy, or torch where the values are tensors."""
    return np if isinstance(values, np.ndarray | np.generic) else sys.modules["torch"]
