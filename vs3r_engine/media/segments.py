# SPDX-License-Identifier: Apache-2.0
"""Finished pieces of a render: a segment is a picture-only file (or a folder of images), there whole or not at all."""

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from vs3r_engine.errors import DiskFull, EngineFault, MediaError
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.media.codecs import Encoding, open_encoder
from vs3r_engine.media.image_headers import ImageHeader, with_header
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.pixel_formats import name_of_layout, picture_of, planar_format, planes_of

_MOST_REORDERED = 16
"""No codec decodes a picture more than this many places before it is shown."""


@contextmanager
def write_errors(path: str | Path):
    """Foreign errors of writing `path` leave as ours: DiskFull `disk-full`, MediaError `output-unwritable`."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        number = error.errno
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "disk-full", f"There is no space left to write {path}.", "Free space on that disk, or choose another one."
            ) from error
        raise MediaError(
            "output-unwritable",
            f"{path} cannot be written: {error.strerror or error}.",
            "Choose another name, or a folder you may write to.",
        ) from error


class SegmentWriter:
    """Encodes consecutive frames into one segment. Equal frames and encoding give equal bytes on every machine.

    Until `close` returns, nothing exists under `path`; afterwards the segment is whole. A movie segment counts its
    frames from 0 at the clip's rate, whatever their times: `assemble` knows the times.
    """

    def __init__(self, path: str | Path, info: MediaInfo, encoding: Encoding) -> None:
        self._path, self._info, self._encoding = Path(path), info, encoding
        self._partial = self._path.with_name(self._path.name + ".partial")
        self._first_index: int | None = None
        self._count = self._packets = 0
        self._container: av.container.OutputContainer | None = None
        discard(self._partial)
        if encoding.is_sequence:
            with write_errors(self._partial):
                self._partial.mkdir()
            self._context: Any = av.CodecContext.create(encoding.encoder, "w")
            open_encoder(self._context, info, encoding)
            return
        with write_errors(self._partial):
            self._container = av.open(f"file:{self._partial}", "w", format=encoding.segment_format)
            self._stream = self._container.add_stream(encoding.encoder, rate=info.clip.rate)
            self._context = self._stream.codec_context
            open_encoder(self._context, info, encoding)
            flags: Any = av.container.core.Flags.bitexact  # no version of the writer, no random identifiers
            self._container.flags |= flags.value

    def write(self, frame: Frame) -> None:
        """Raises: EngineFault `frame-order`, `frame-shape`; DiskFull."""
        if self._first_index is None:
            self._first_index = frame.frame_index
        if frame.frame_index != self._first_index + self._count:
            raise EngineFault("frame-order", f"Frame {frame.frame_index} came where {self._first_index + self._count} belongs.")
        picture = encodable(frame, self._encoding)
        picture.pts, picture.time_base = self._count, 1 / self._info.clip.rate
        with write_errors(self._partial):
            self._store(self._context.encode(picture))
        self._count += 1

    def _store(self, packets: list[av.Packet]) -> None:
        if self._container is not None:
            for packet in packets:
                # Only the order counts, and libx265 leaves this time unset in segments shorter than its reordering.
                packet.dts = self._packets - _MOST_REORDERED
                packet.stream = self._stream
                self._container.mux_one(packet)
                self._packets += 1
            return
        for packet in packets:  # of an image encoder: whole files
            assert self._first_index is not None and packet.pts is not None
            frame_index = self._first_index + packet.pts
            header = ImageHeader(self._info.timecode_at(frame_index), self._info.clip.rate, self._info.reel_name)
            with open(self._partial / str(frame_index), "wb") as file:
                file.write(with_header(bytes(packet), header))

    def close(self) -> None:
        """The segment stands under its name, complete. Raises: EngineFault `segment-empty`; DiskFull."""
        if self._count == 0:
            self.abort()
            raise EngineFault("segment-empty", f"{self._path} was closed before any frame was written.")
        try:
            with write_errors(self._partial):
                self._store(self._context.encode(None))
                if self._container is not None:
                    self._container.close()
                    self._container = None
                if self._path.is_dir():
                    shutil.rmtree(self._path)
                os.replace(self._partial, self._path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Nothing is left of the segment."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(av.FFmpegError, OSError):  # the file is about to go
                container.close()
        discard(self._partial)


def encodable(frame: Frame, encoding: Encoding) -> av.VideoFrame:
    """The frame as the encoder's picture: untouched where the layout is the encoder's, else converted."""
    target = encoding.format
    if frame.layout == target.layout:
        return picture_of(frame.planes, target)
    if frame.layout.model == "rgb" and frame.layout.bit_depth == target.layout.bit_depth == 8:
        return _by_swscale(frame, target.name, encoding.colour)
    return picture_of(_converted(frame, target.layout, encoding.colour).planes, target)


def _by_swscale(frame: Frame, name: str, colour: ColourTags) -> av.VideoFrame:
    source = planar_format(name_of_layout(frame.layout))
    assert source is not None
    colourspace = _matrix_of(colour, frame.height)
    return picture_of(frame.planes, source).reformat(
        format=name,
        src_colorspace=colourspace,
        dst_colorspace=colourspace,
        interpolation="BICUBIC",
        src_color_range=2 if frame.colour.full_range else 1,
        dst_color_range=2 if colour.full_range else 1,
    )


def _matrix_of(colour: ColourTags, height: int) -> int:
    """The H.273 matrix of YUV with these tags; where they name none, the usual one of pictures so high."""
    return colour.matrix if colour.matrix not in (0, 2) else 1 if height >= 720 else 5


def _converted(frame: Frame, layout: PixelLayout, colour: ColourTags) -> Frame:
    """The frame in another layout. swscale does nothing but resample chroma: its RGB of 8-bit YUV is up to three levels
    away, its white of more bits is 0.4 % too dark, and what is brighter than white it cuts off even in floats."""
    source = frame.layout
    if source.model != layout.model:
        matrix = _matrix_of(colour if source.model == "rgb" else frame.colour, frame.height)
        picture = replace(frame, colour=replace(frame.colour, matrix=matrix)).to_rgb()
        blank = Frame(frame.frame_index, frame.planes, layout, replace(colour, matrix=matrix))
        planes = blank.with_rgb(picture).planes
        return replace(blank, planes=(*planes[:-1], _rescaled(frame.planes[-1], source, layout)) if source.has_alpha else planes)
    frame = _at_depth(frame, layout)
    if frame.layout != layout:
        frame = replace(frame, planes=planes_of(_by_swscale(frame, name_of_layout(layout), frame.colour)), layout=layout)
    return replace(frame, colour=colour)


def _at_depth(frame: Frame, layout: PixelLayout) -> Frame:
    """The frame with the bit depth and the alpha of `layout`."""
    source, target = frame.layout, replace(frame.layout, bit_depth=layout.bit_depth, has_alpha=layout.has_alpha)
    planes = []
    for index, plane in enumerate(frame.planes[: source.picture_planes]):
        if source.model == "yuv" and not frame.colour.full_range:
            planes.append(_rescaled(plane, source, target, factor=2.0 ** (target.bit_depth - source.bit_depth)))
        else:
            planes.append(_rescaled(plane, source, target, is_chroma=source.is_chroma(index)))
    if target.has_alpha:
        alpha = frame.planes[-1] if source.has_alpha else np.full(frame.planes[0].shape, source.peak, source.dtype)
        planes.append(_rescaled(alpha, source, target))
    return replace(frame, planes=tuple(planes), layout=target)


def _rescaled(
    plane: np.ndarray, source: PixelLayout, target: PixelLayout, factor: float | None = None, is_chroma: bool = False
) -> np.ndarray:
    """Code values at another depth: by `factor`, else so that the largest stays the largest, and the middle of chroma the
    middle."""
    if source.bit_depth == target.bit_depth:
        return plane
    before, after = ((1 << layout.bit_depth - 1 if is_chroma else 0) for layout in (source, target))
    values = (plane.astype(np.float32) - before) * np.float32(target.peak / source.peak if factor is None else factor) + after
    return values if target.bit_depth == 32 else np.clip(np.rint(values), 0, target.peak).astype(target.dtype)


def discard(path: Path) -> None:
    """Neither file nor folder stands under `path`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
