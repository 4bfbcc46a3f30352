# SPDX-License-Identifier: Apache-2.0
"""FFmpeg's pixel formats and our PixelLayout: planes out of a decoded picture, planes into a picture to be encoded."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import numpy as np

from vs3r_engine.errors import EngineFault, MediaError
from vs3r_engine.frame import PixelLayout

_CHROMA_SHIFTS = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1)}
_PLANAR_YUV = re.compile(r"^yuv(?P<j>j?)(?P<alpha>a?)(?P<sub>420|422|444|440)p(?P<bits>9|10|12|14|16)?(?:le)?$")
_PLANAR_RGB = re.compile(r"^gbr(?P<alpha>a?)p(?P<bits>9|10|12|14|16|f32)?(?:le)?$")
_GRAY = re.compile(r"^gray(?P<bits>8|9|10|12|14|16|f32)?(?:le)?$")
_HALF_FLOAT = {"gbrpf16le": "gbrpf32le", "gbrapf16le": "gbrapf32le", "grayf16le": "grayf32le"}
_SEMI_PLANAR = {
    "nv12": ("yuv420p", 0, False),
    "nv21": ("yuv420p", 0, True),
    "nv16": ("yuv422p", 0, False),
    "nv20le": ("yuv422p10le", 0, False),
    "nv24": ("yuv444p", 0, False),
    "nv42": ("yuv444p", 0, True),
    "p010le": ("yuv420p10le", 6, False),
    "p012le": ("yuv420p12le", 4, False),
    "p016le": ("yuv420p16le", 0, False),
    "p210le": ("yuv422p10le", 6, False),
    "p212le": ("yuv422p12le", 4, False),
    "p216le": ("yuv422p16le", 0, False),
    "p410le": ("yuv444p10le", 6, False),
    "p412le": ("yuv444p12le", 4, False),
    "p416le": ("yuv444p16le", 0, False),
}
"""Interleaved chroma: the planar equal, the right shift of its code values, and whether V comes before U."""

# The planar format that holds every code value of a packed one; swscale moves bytes only.
_PLANAR_EQUAL = {
    "rgb24": "gbrp",
    "bgr24": "gbrp",
    "rgb0": "gbrp",
    "bgr0": "gbrp",
    "0rgb": "gbrp",
    "0bgr": "gbrp",
    "rgba": "gbrap",
    "bgra": "gbrap",
    "argb": "gbrap",
    "abgr": "gbrap",
    "pal8": "gbrp",
    "rgb48le": "gbrp16le",
    "rgb48be": "gbrp16le",
    "bgr48le": "gbrp16le",
    "bgr48be": "gbrp16le",
    "rgba64le": "gbrap16le",
    "rgba64be": "gbrap16le",
    "bgra64le": "gbrap16le",
    "bgra64be": "gbrap16le",
    "x2rgb10le": "gbrp10le",
    "x2bgr10le": "gbrp10le",
    "ya8": "gbrap",
    "ya16le": "gbrap16le",
    "ya16be": "gbrap16le",
    "monob": "gray",
    "monow": "gray",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "yvyu422": "yuv422p",
    "y210le": "yuv422p10le",
    "y212le": "yuv422p12le",
    "yuv411p": "yuv422p",
    "yuvj411p": "yuvj422p",
    "yuv410p": "yuv420p",
    "xv30le": "yuv444p10le",
    "vuya": "yuva444p",
    "vuyx": "yuv444p",
    "ayuv64le": "yuva444p16le",
    "xv36le": "yuv444p12le",
}


@dataclass(frozen=True, slots=True)
class PlanarFormat:
    """A pixel format whose planes are ours: its name, layout, and which FFmpeg plane holds each of our planes."""

    name: str
    layout: PixelLayout
    plane_order: tuple[int, ...]

    @property
    def is_full_range(self) -> bool:
        """The format itself says full range (yuvj, RGB, gray), whatever the tags say."""
        return self.layout.model != "yuv" or self.name.startswith("yuvj")


@lru_cache(maxsize=256)
def planar_format(name: str) -> PlanarFormat | None:
    """What FFmpeg's pixel format `name` is to us; None unless every component has a little-endian plane of its own."""
    if match := _PLANAR_YUV.match(name):
        depth = int(match["bits"] or 8)
        shift_x, shift_y = _CHROMA_SHIFTS[match["sub"]]
        alpha = bool(match["alpha"])
        return PlanarFormat(name, PixelLayout("yuv", depth, shift_x, shift_y, alpha), (0, 1, 2, 3)[: 3 + alpha])
    if match := _PLANAR_RGB.match(name):
        alpha = bool(match["alpha"])
        return PlanarFormat(name, PixelLayout("rgb", _bits(match["bits"]), has_alpha=alpha), (2, 0, 1, 3)[: 3 + alpha])
    if match := _GRAY.match(name):
        return PlanarFormat(name, PixelLayout("gray", _bits(match["bits"])), (0,))
    return None


def _bits(text: str | None) -> int:
    return 32 if text == "f32" else int(text or 8)


@lru_cache(maxsize=256)
def frame_format(name: str) -> PlanarFormat:
    """The planar format that frames of FFmpeg's pixel format `name` are handed out in.

    Raises: MediaError `media-pixel-format` for formats nothing here can hold (Bayer, packed floats).
    """
    if name in _SEMI_PLANAR:
        name = _SEMI_PLANAR[name][0]
    name = _HALF_FLOAT.get(name) or _PLANAR_EQUAL.get(name, name)
    if name.endswith("be"):
        name = name[:-2] + "le"
    found = planar_format(name)
    if found is None:
        raise MediaError(
            "media-pixel-format",
            f"Pictures stored as {name!r} are not supported.",
            "Convert the clip to ProRes, DNxHR, H.264 or an image sequence first.",
        )
    return found


def name_of_layout(layout: PixelLayout) -> str:
    """FFmpeg's planar format of this layout."""
    bits = {8: "", 32: "f32le"}.get(layout.bit_depth, f"{layout.bit_depth}le")
    alpha = "a" if layout.has_alpha else ""
    if layout.model == "gray":
        return f"gray{bits}"
    if layout.model == "rgb":
        return f"gbr{alpha}p{bits}"
    shifts = (layout.chroma_shift_x, layout.chroma_shift_y)
    subsampling = next((name for name, value in _CHROMA_SHIFTS.items() if value == shifts), None)
    if subsampling is None:
        raise EngineFault("pixel-layout", f"No pixel format has the layout {layout}.")
    return f"yuv{alpha}{subsampling}p{bits}"


def planes_of(picture: av.VideoFrame) -> tuple[np.ndarray, ...]:
    """A decoded picture's planes in our order, read-only: views of the decoder's memory where it already is planar."""
    name = picture.format.name
    if name in _SEMI_PLANAR:
        planes = _split_chroma(picture, name)
    elif name in _HALF_FLOAT:
        order = frame_format(name).plane_order
        planes = tuple(_view(picture.planes[i], np.float16).astype(np.float32) for i in order)
    else:
        wanted = planar_format(name)
        if wanted is None:
            wanted = frame_format(name)
            # Equal ranges on both sides: swscale must move values, not rescale them.
            levels = _swscale_range(picture)
            picture = picture.reformat(format=wanted.name, src_color_range=levels, dst_color_range=levels)
        stored = picture.planes
        planes = tuple(_view(stored[i], wanted.layout.dtype) for i in wanted.plane_order)
    for plane in planes:
        plane.flags.writeable = False
    return planes


def _swscale_range(picture: av.VideoFrame) -> int:
    """1 video levels, 2 full range."""
    return 2 if picture.color_range == 2 or picture.format.is_rgb else 1


def _view(plane: Any, dtype: type) -> np.ndarray:
    item_bytes = np.dtype(dtype).itemsize
    line = plane.line_size
    if line < 0:  # bottom-up pictures: the buffer starts at the last row
        return np.ndarray((plane.height, plane.width), dtype, plane, -line * (plane.height - 1), (line, item_bytes))
    return np.ndarray((plane.height, plane.width), dtype, plane, 0, (line, item_bytes))


def _split_chroma(picture: av.VideoFrame, name: str) -> tuple[np.ndarray, ...]:
    planar_name, shift, v_first = _SEMI_PLANAR[name]
    dtype = frame_format(planar_name).layout.dtype
    item_bytes = np.dtype(dtype).itemsize
    luma, chroma = picture.planes
    buffer: Any = chroma
    pairs = np.ndarray((chroma.height, chroma.width, 2), dtype, buffer, 0, (chroma.line_size, 2 * item_bytes, item_bytes))
    u, v = (pairs[..., 1], pairs[..., 0]) if v_first else (pairs[..., 0], pairs[..., 1])
    planes = (_view(luma, dtype), u, v)
    return tuple(plane >> shift if shift else np.ascontiguousarray(plane) for plane in planes)


def picture_of(planes: tuple[np.ndarray, ...], format: PlanarFormat) -> av.VideoFrame:
    """A picture to encode, holding a copy of these planes.

    Raises: EngineFault `frame-shape` when the planes are not what the format says.
    """
    height, width = planes[0].shape
    picture = av.VideoFrame(width, height, format.name)
    stored = picture.planes
    dtype = format.layout.dtype
    for index, (plane, place) in enumerate(zip(planes, format.plane_order, strict=True)):
        if plane.shape != format.layout.plane_shape(index, width, height) or plane.dtype != dtype:
            raise EngineFault("frame-shape", f"Plane {index} is {plane.shape} {plane.dtype}: not {format.name} of {width}x{height}.")
        np.copyto(_view(stored[place], dtype), plane)
    return picture
