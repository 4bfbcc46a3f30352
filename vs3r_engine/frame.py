# SPDX-License-Identifier: Apache-2.0
"""Pictures: Frame (planes in the clip's own pixel layout), its colour tags, and what masks are called."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from vs3r_engine import native
from vs3r_engine.errors import EngineFault

_LARGEST_HALF = np.float32(65504)

# Masks are plain bool arrays [h, w]; the name says what True means:
#   dynamic_mask   True = moves against the scene: the union of semantic_mask (a network says so) and flow_mask (the flow does)
#   overlay_mask   True = lies over the scene and stands still in the frame
#   hole_mask      True = nothing was rendered here
#   current_mask   True = rendered from the current frame itself, not from a neighbour


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How a frame's planes are stored.

    `model` is "yuv", "rgb" or "gray"; planes come in that order (Y U V, R G B, or one), alpha last where there is one.
    `bit_depth` 8 is stored as uint8, 9 to 16 as uint16 (values 0 .. 2**bit_depth - 1), 32 as float32.
    Chroma planes are ceil(size / 2**shift) where a shift is 1.
    """

    model: str
    bit_depth: int
    chroma_shift_x: int = 0
    chroma_shift_y: int = 0
    has_alpha: bool = False

    @property
    def dtype(self) -> type:
        return np.uint8 if self.bit_depth == 8 else np.float32 if self.bit_depth == 32 else np.uint16

    @property
    def peak(self) -> float:
        """The largest code value; 1.0 for float."""
        return 1.0 if self.bit_depth == 32 else float((1 << self.bit_depth) - 1)

    @property
    def picture_planes(self) -> int:
        """How many planes are picture: those before alpha."""
        return 1 if self.model == "gray" else 3

    @property
    def plane_count(self) -> int:
        return self.picture_planes + self.has_alpha

    def is_chroma(self, plane: int) -> bool:
        """Whether the values of plane number `plane` are differences around a middle."""
        return self.model == "yuv" and plane in (1, 2)

    def shifts(self, plane: int) -> tuple[int, int]:
        """How often a plane is halved across and down against the picture."""
        return (self.chroma_shift_x, self.chroma_shift_y) if self.is_chroma(plane) else (0, 0)

    def plane_shape(self, plane: int, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) of a plane of a width x height picture."""
        shift_x, shift_y = self.shifts(plane)
        return -(-height >> shift_y), -(-width >> shift_x)

    def sited(self, at_pixels: np.ndarray, plane: int) -> np.ndarray:
        """Of values [h, w] at every pixel those at a plane's samples: a chroma sample goes with the luma sample it is sited on."""
        shift_x, shift_y = self.shifts(plane)
        return at_pixels[:: 1 << shift_y, :: 1 << shift_x]


@dataclass(frozen=True, slots=True)
class ColourTags:
    """Colour description by its ITU-T H.273 code points; 2 = unspecified. `full_range` False = video levels."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a clip, in the clip's own layout, top row first.

    The planes are the decoder's code values, untouched: an 8-bit frame is warped from 8 bits to 8 bits in one
    resampling, and only stages that need colour ask for `to_rgb()`. Arrays are shared, never written to.
    """

    frame_index: int
    planes: tuple[np.ndarray, ...]
    layout: PixelLayout
    colour: ColourTags = ColourTags()

    @property
    def width(self) -> int:
        return self.planes[0].shape[1]

    @property
    def height(self) -> int:
        return self.planes[0].shape[0]

    def of_numbers(self) -> "Frame":
        """The frame with every float sample a number within a half float's range: NaN becomes 0. Renderers write such pixels, and one of
        them would be all of a sum over the picture. The same frame where there is none."""
        if self.layout.bit_depth < 32 or all(max(-plane.min(), plane.max()) <= _LARGEST_HALF for plane in self.planes):
            return self
        planes = (np.nan_to_num(plane).clip(-_LARGEST_HALF, _LARGEST_HALF) for plane in self.planes)
        return replace(self, planes=tuple(planes))

    def luma(self) -> np.ndarray:
        """[h, w] brightness in the layout's own dtype; a view where the first plane already is it."""
        if self.layout.model != "rgb":
            return self.planes[0]
        weights = _luma_weights(self.colour.matrix)
        luma = np.tensordot(np.array(weights, np.float32), np.stack(self.planes[:3]).astype(np.float32), 1)
        return luma if self.layout.bit_depth == 32 else np.rint(luma).astype(self.layout.dtype)

    def luma8(self) -> np.ndarray:
        """[h, w] uint8 brightness, for trackers. A picture handed over at a greater depth has the same."""
        luma = self.luma()
        if luma.dtype == np.uint8:
            return luma
        if self.layout.model == "rgb" or self.layout.bit_depth == 32:
            return np.clip(np.rint(luma * np.float32(255 / self.layout.peak)), 0, 255).astype(np.uint8)
        return (luma >> (self.layout.bit_depth - 8)).astype(np.uint8)

    def to_rgb(self) -> np.ndarray:
        """[h, w, 3] float32, nominal black 0 and white 1, transfer function untouched (display-referred stays so)."""
        if native.is_available:
            return self._interleaved(3, np.float32)
        layout, matrix = self.layout, _rgb_from_code(self.layout, self.colour)
        planes = [plane.astype(np.float32) for plane in self._three_planes()]
        planes[1:] = (_chroma_to_size(plane, (self.width, self.height), layout) for plane in planes[1:])
        return cv2.transform(cv2.merge(planes), matrix)

    def to_rgba(self, dtype: type = np.float32) -> np.ndarray:
        """[h, w, 4]: `to_rgb` and alpha, 1 where there is none. uint8 and uint16: what lies within 0..1, at full scale."""
        if native.is_available:
            return self._interleaved(4, dtype)
        rgba = cv2.cvtColor(self.to_rgb(), cv2.COLOR_RGB2RGBA)
        if self.layout.has_alpha:
            rgba[..., 3] = self.planes[-1] / np.float32(self.layout.peak)
        if dtype in (np.uint8, np.uint16):
            rgba = np.rint(rgba.clip(0, 1) * np.float32(np.iinfo(dtype).max))
        return rgba.astype(dtype, copy=False)

    def _interleaved(self, channels: int, dtype: type) -> np.ndarray:
        layout = self.layout
        alpha = self.planes[-1] if layout.has_alpha and channels == 4 else None
        return native.interleaved(
            self._three_planes(), layout.shifts(1), _rgb_from_code(layout, self.colour), alpha, 1 / layout.peak, channels, dtype
        )

    def _three_planes(self) -> tuple[np.ndarray, ...]:
        return self.planes[:1] * 3 if self.layout.model == "gray" else self.planes[:3]

    def with_rgb(self, rgb: np.ndarray) -> "Frame":
        """This frame's layout and tags with the picture [h, w, 3] float32; alpha becomes opaque. Inverse of `to_rgb`."""
        layout = self.layout
        height, width = rgb.shape[:2]
        rgb = np.asarray(rgb, np.float32)
        alpha: tuple[np.ndarray, ...] = (np.full((height, width), layout.peak, layout.dtype),) if layout.has_alpha else ()
        if layout.model == "rgb":
            return replace(self, planes=tuple(_to_code(rgb[..., c] * layout.peak, layout) for c in range(3)) + alpha)
        scale, luma_offset, luma_span, chroma_span = _levels(layout, self.colour.full_range)
        kr, kg, kb = _luma_weights(self.colour.matrix)
        luma = kr * rgb[..., 0] + kg * rgb[..., 1] + kb * rgb[..., 2]
        planes = [_to_code((luma * luma_span + luma_offset) / scale, layout)]
        if layout.model == "yuv":
            for weight, channel in ((kb, 2), (kr, 0)):
                chroma = (rgb[..., channel] - luma) / (2 * (1 - weight))
                small = _chroma_from_size(chroma, layout.plane_shape(1, width, height), layout)
                planes.append(_to_code((small * chroma_span + 128.0) / scale, layout))
        return replace(self, planes=tuple(planes) + alpha)

    def resized(self, width: int, height: int) -> "Frame":
        """The same picture at another size, area-averaged when smaller."""
        if (width, height) == (self.width, self.height):
            return self
        shapes = [self.layout.plane_shape(i, width, height) for i in range(len(self.planes))]
        how = cv2.INTER_AREA if width < self.width else cv2.INTER_LINEAR
        return replace(
            self,
            planes=tuple(
                cv2.resize(plane, (columns, rows), interpolation=how) for plane, (rows, columns) in zip(self.planes, shapes, strict=True)
            ),
        )


def _luma_weights(matrix: int) -> tuple[float, float, float]:
    """(Kr, Kg, Kb) of an H.273 matrix code; BT.709 where unspecified."""
    kr, kb = {5: (0.299, 0.114), 6: (0.299, 0.114), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}.get(
        matrix, (0.2126, 0.0722)
    )
    return kr, 1 - kr - kb, kb


def _levels(layout: PixelLayout, full_range: bool) -> tuple[float, float, float, float]:
    """(code to 8-bit-scale factor, black, black-to-white, chroma span), all on the 0..255 scale of H.273."""
    if layout.bit_depth == 32:
        return 255.0, (0.0 if full_range else 16.0), (255.0 if full_range else 219.0), (255.0 if full_range else 224.0)
    scale = 1.0 / (1 << (layout.bit_depth - 8))
    if full_range:
        span = layout.peak * scale
        return scale, 0.0, span, span
    return scale, 16.0, 219.0, 224.0


def _rgb_from_code(layout: PixelLayout, colour: ColourTags) -> np.ndarray:
    """[3, 4] float32: red, green and blue from the code values of three planes and 1."""
    if layout.model == "rgb":
        return np.eye(3, 4, dtype=np.float32) / np.float32(layout.peak)
    scale, luma_offset, luma_span, chroma_span = _levels(layout, colour.full_range)
    kr, kg, kb = _luma_weights(colour.matrix)
    red, blue = 2 * (1 - kr) * (layout.model == "yuv"), 2 * (1 - kb) * (layout.model == "yuv")
    rgb_from_yuv = np.array([[1, 0, red], [1, -blue * kb / kg, -red * kr / kg], [1, blue, 0]])
    yuv_from_code = np.diag([scale / luma_span, scale / chroma_span, scale / chroma_span])
    offset = -np.array([luma_offset / luma_span, 128 / chroma_span, 128 / chroma_span])
    return np.hstack([rgb_from_yuv @ yuv_from_code, (rgb_from_yuv @ offset)[:, None]]).astype(np.float32)


def _to_code(values: np.ndarray, layout: PixelLayout) -> np.ndarray:
    if layout.bit_depth == 32:
        return np.ascontiguousarray(values, np.float32)
    return np.clip(np.rint(values), 0, layout.peak).astype(layout.dtype)


def _chroma_to_size(chroma: np.ndarray, size: tuple[int, int], layout: PixelLayout) -> np.ndarray:
    """Chroma at luma size. Horizontal siting is MPEG-2's (left, co-sited), vertical is centred."""
    width, height = size
    if not layout.chroma_shift_x and not layout.chroma_shift_y:
        return chroma
    columns = ((np.arange(width, dtype=np.float32)) / (1 << layout.chroma_shift_x)).astype(np.float32)
    factor_y = 1 << layout.chroma_shift_y
    rows = ((np.arange(height, dtype=np.float32) + 0.5) / factor_y - 0.5).astype(np.float32)
    return cv2.remap(
        chroma,
        np.broadcast_to(columns, (height, width)).copy(),
        np.repeat(rows[:, None], width, 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _chroma_from_size(chroma: np.ndarray, shape: tuple[int, int], layout: PixelLayout) -> np.ndarray:
    """Inverse of `_chroma_to_size`: 1-2-1 across (co-sited), box down."""
    rows, columns = shape
    if layout.chroma_shift_x:
        chroma = cv2.sepFilter2D(
            chroma, -1, np.array([0.25, 0.5, 0.25], np.float32), np.array([1.0], np.float32), borderType=cv2.BORDER_REPLICATE
        )[:, ::2][:, :columns]
    if layout.chroma_shift_y:
        if chroma.shape[0] % 2:
            chroma = np.vstack([chroma, chroma[-1:]])
        chroma = (chroma[0::2] + chroma[1::2]) * 0.5
    if chroma.shape != (rows, columns):
        raise EngineFault("chroma-shape", f"Chroma came out as {chroma.shape}, not {(rows, columns)}.")
    return chroma
