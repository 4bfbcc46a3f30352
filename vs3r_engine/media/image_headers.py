# SPDX-License-Identifier: Apache-2.0
"""Timecode, rate and reel in the headers of EXR and DPX files, which FFmpeg leaves alone: read, and put in."""

import struct
from dataclasses import dataclass
from fractions import Fraction

from vs3r_engine.timeline import exact_rate

_EXR_MAGIC = b"\x76\x2f\x31\x01"
_DPX_PIXELS, _DPX_FILE_SIZE, _DPX_ELEMENT_PIXELS = 4, 16, 808
_DPX_TIMECODE, _DPX_FILM_RATE, _DPX_TELEVISION_RATE, _DPX_HEADER_END = 1920, 1724, 1940, 2048


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What one image says about its place in time; None where it does not."""

    timecode: str | None = None
    rate: Fraction | None = None
    reel_name: str | None = None


def read_header(data: bytes) -> ImageHeader:
    """The header of an EXR or DPX file, given at least its first 2,048 bytes; empty for other files."""
    if data[:4] == _EXR_MAGIC:
        attributes, _ = _exr_attributes(data)
        timecode = attributes.get("timeCode", ("", b""))[1]
        rate = attributes.get("framesPerSecond", ("", b""))[1]
        reel = attributes.get("reelName", ("", b""))[1]
        numerator, denominator = struct.unpack("<iI", rate) if len(rate) == 8 else (0, 0)
        return ImageHeader(
            _timecode_text(struct.unpack("<I", timecode[:4])[0]) if len(timecode) == 8 else None,
            exact_rate(Fraction(numerator, denominator)) if numerator > 0 and denominator else None,
            reel.decode("utf-8", "replace") or None,
        )
    order = {b"SDPX": ">", b"XPDS": "<"}.get(data[:4])
    if order and len(data) >= _DPX_HEADER_END <= struct.unpack_from(order + "I", data, _DPX_PIXELS)[0]:
        (timecode,) = struct.unpack_from(order + "I", data, _DPX_TIMECODE)
        rates = [struct.unpack_from(order + "f", data, place)[0] for place in (_DPX_TELEVISION_RATE, _DPX_FILM_RATE)]
        rate_hz = next((rate for rate in rates if 1 <= rate <= 1000), None)
        return ImageHeader(_timecode_text(timecode), exact_rate(rate_hz) if rate_hz else None)
    return ImageHeader()


def with_header(data: bytes, header: ImageHeader) -> bytes:
    """The image with this header; unchanged where its format has no place for one."""
    if data[:4] == _EXR_MAGIC:
        return _exr_with(data, header)
    order = {b"SDPX": ">", b"XPDS": "<"}.get(data[:4])
    if order is None:
        return data
    changed = bytearray(_dpx_with_whole_header(data, order))
    if header.timecode is not None:
        struct.pack_into(order + "I", changed, _DPX_TIMECODE, _timecode_bits(header.timecode))
    if header.rate is not None:
        for place in (_DPX_TELEVISION_RATE, _DPX_FILM_RATE):
            struct.pack_into(order + "f", changed, place, float(header.rate))
    return bytes(changed)


def _dpx_with_whole_header(data: bytes, order: str) -> bytes:
    """FFmpeg's encoder leaves out the film and television headers; here they are there, unset."""
    (pixels,) = struct.unpack_from(order + "I", data, _DPX_PIXELS)
    missing = _DPX_HEADER_END - pixels
    if missing <= 0:
        return data
    grown = bytearray(data[:pixels] + b"\xff" * missing + data[pixels:])
    struct.pack_into(order + "I", grown, _DPX_PIXELS, _DPX_HEADER_END)
    struct.pack_into(order + "I", grown, _DPX_FILE_SIZE, len(grown))
    struct.pack_into(order + "I", grown, _DPX_ELEMENT_PIXELS, _DPX_HEADER_END)
    return bytes(grown)


def _exr_attributes(data: bytes) -> tuple[dict[str, tuple[str, bytes]], int]:
    """(attributes of the first part by name: (type, value), where the header ends)."""
    attributes: dict[str, tuple[str, bytes]] = {}
    place = 8
    while place < len(data) and data[place]:
        name_end = data.find(b"\0", place)
        type_end = data.find(b"\0", name_end + 1)
        if name_end < 0 or type_end < 0 or type_end + 5 > len(data):
            break
        (size,) = struct.unpack_from("<I", data, type_end + 1)
        value_start = type_end + 5
        name, kind = data[place:name_end].decode("latin-1"), data[name_end + 1 : type_end].decode("latin-1")
        attributes[name] = (kind, data[value_start : value_start + size])
        place = value_start + size
    return attributes, place + 1


def _exr_with(data: bytes, header: ImageHeader) -> bytes:
    attributes, end = _exr_attributes(data)
    if header.timecode is not None:
        attributes["timeCode"] = ("timecode", struct.pack("<II", _timecode_bits(header.timecode), 0))
    if header.rate is not None:
        attributes["framesPerSecond"] = ("rational", struct.pack("<iI", header.rate.numerator, header.rate.denominator))
    if header.reel_name is not None:
        attributes["reelName"] = ("string", header.reel_name.encode())
    written = (
        data[:8]
        + b"".join(
            name.encode("latin-1") + b"\0" + kind.encode("latin-1") + b"\0" + struct.pack("<I", len(value)) + value
            for name, (kind, value) in sorted(attributes.items())
        )
        + b"\0"
    )
    # The table of chunk places follows the header and counts from the file's beginning; its first entry is its own end.
    (first_chunk,) = struct.unpack_from("<Q", data, end)
    count = (first_chunk - end) // 8
    moved = [place + len(written) - end for place in struct.unpack_from(f"<{count}Q", data, end)]
    return written + struct.pack(f"<{count}Q", *moved) + data[end + 8 * count :]


def _timecode_text(bits: int) -> str | None:
    """hh:mm:ss:ff of SMPTE ST 12 binary-coded decimals; None where they are no digits."""
    pairs = [((bits >> shift) & 0xFF) for shift in (24, 16, 8, 0)]
    masks = (0x3F, 0x7F, 0x7F, 0x3F)
    numbers = []
    for pair, mask in zip(pairs, masks, strict=True):
        tens, units = (pair & mask) >> 4, pair & 0x0F
        if units > 9:
            return None
        numbers.append(tens * 10 + units)
    if numbers[0] > 23 or numbers[1] > 59 or numbers[2] > 59:
        return None
    separator = ";" if pairs[3] & 0x40 else ":"
    return f"{numbers[0]:02d}:{numbers[1]:02d}:{numbers[2]:02d}{separator}{numbers[3]:02d}"


def _timecode_bits(timecode: str) -> int:
    numbers = [int(part) for part in timecode.replace(";", ":").replace(",", ":").replace(".", ":").split(":")]
    bits = 0
    for number in numbers:
        bits = bits << 8 | (number // 10 % 10) << 4 | number % 10
    return bits | (0x40 if any(mark in timecode for mark in ";,.") else 0)
