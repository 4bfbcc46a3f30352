# SPDX-License-Identifier: Apache-2.0
"""HDR metadata in MP4 and MOV files: the boxes that FFmpeg's muxer only writes from data PyAV cannot give it."""

import struct
from collections.abc import Iterator
from pathlib import Path

from vs3r_engine.errors import EngineFault
from vs3r_engine.media.info import ContentLight, MasteringDisplay

_SAMPLE_ENTRY_HEADER = 86
"""Bytes of a picture's sample entry before its own boxes: 8 of box, 8 of sample entry, 70 of picture."""


def add_hdr(path: Path, display: MasteringDisplay | None, light: ContentLight | None) -> None:
    """The file's picture track says `display` and `light` (mdcv, clli), unless it already does. Its index must come
    last, as FFmpeg writes it: then nothing that counts from the file's beginning moves."""
    boxes = {}
    if display is not None and display.primaries_rgb and display.white and display.luminance:
        red, green, blue = display.primaries_rgb
        corners = [round(value * 50000) for point in (green, blue, red, display.white) for value in point]
        low, high = (round(value * 10000) for value in display.luminance)
        boxes[b"mdcv"] = struct.pack(">8H2I", *corners, high, low)
    if light is not None:
        boxes[b"clli"] = struct.pack(">2H", light.max_content, light.max_frame_average)
    if not boxes:
        return
    with open(path, "r+b") as file:
        end = file.seek(0, 2)
        place = 0
        while place < end:
            file.seek(place)
            header = file.read(16)
            size = struct.unpack(">I", header[:4])[0]
            size = struct.unpack(">Q", header[8:16])[0] if size == 1 else size
            if header[4:8] == b"moov":
                break
            if size < 8:
                raise EngineFault("mov-boxes", f"{path} has no index.")
            place += size
        if place + size != end:
            raise EngineFault("mov-boxes", f"{path} has its index before its media.")
        file.seek(place)
        moov = bytearray(file.read(size))
        chain = _picture_entry(moov)
        entry, entry_size = chain[-1]
        present = {kind for kind, _, _ in _children(moov, entry + _SAMPLE_ENTRY_HEADER, entry + entry_size)}
        added = b"".join(struct.pack(">I", 8 + len(body)) + kind + body for kind, body in boxes.items() if kind not in present)
        moov[entry + entry_size : entry + entry_size] = added
        for start, box_size in chain:
            struct.pack_into(">I", moov, start, box_size + len(added))
        file.seek(place)
        file.write(moov)


def _children(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, size) of the boxes in data[start:end]."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            return
        yield kind, start, size
        start += size


def _picture_entry(moov: bytearray) -> list[tuple[int, int]]:
    """(start, size) of the boxes from moov down to the first picture track's sample entry."""
    for kind, track, track_size in _children(moov, 8, len(moov)):
        if kind != b"trak":
            continue
        chain = [(0, len(moov)), (track, track_size)]
        is_picture = False
        start, size = track, track_size
        for wanted in (b"mdia", b"minf", b"stbl", b"stsd"):
            inner = {kind: (start, size) for kind, start, size in _children(moov, start + 8, start + size)}
            is_picture |= b"vmhd" in inner
            if wanted not in inner:
                break
            start, size = inner[wanted]
            chain.append((start, size))
        else:
            if is_picture:
                _, entry, entry_size = next(_children(moov, start + 16, start + size))
                return [*chain, (entry, entry_size)]
    raise EngineFault("mov-boxes", "The file has no picture track.")
