# SPDX-License-Identifier: Apache-2.0
"""Raw frames on disk: a directory with one file of interleaved samples per frame, for hosts that have pixels but no
file. This half describes and writes, and needs no numpy; raw_source.py reads."""

import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

FORMAT_FILE = "raw-frames.json"
SUFFIX = ".raw"
SAMPLE_BYTES = {"uint8": 1, "uint16": 2, "half": 2, "float32": 4}
CHANNEL_COUNT = {"rgba": 4, "rgb": 3, "bgra": 4, "bgr": 3, "gray": 1}


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How every frame of a directory is stored: rows from the top, no padding, little-endian.

    sample: uint8, uint16, half or float32; full scale is 255, 65535, 1.0, 1.0. channels: rgba, rgb, bgra, bgr or gray.
    """

    width: int
    height: int
    rate: Fraction
    sample: str
    channels: str

    @property
    def row_bytes(self) -> int:
        return self.width * CHANNEL_COUNT[self.channels] * SAMPLE_BYTES[self.sample]

    @property
    def frame_bytes(self) -> int:
        return self.height * self.row_bytes

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.sample} {self.channels} at {float(self.rate):.3f} frames per second"


def frame_file(directory: Path, frame_index: int) -> Path:
    return directory / f"{frame_index:010d}{SUFFIX}"


def is_raw_frames(path: str) -> bool:
    return os.path.isfile(os.path.join(path, FORMAT_FILE))


def write_format(directory: Path, raw_format: RawFormat) -> None:
    """`directory` is one of raw frames from now on."""
    content = {
        "width": raw_format.width,
        "height": raw_format.height,
        "rate": str(raw_format.rate),
        "sample": raw_format.sample,
        "channels": raw_format.channels,
    }
    (directory / FORMAT_FILE).write_text(json.dumps(content))


def read_format(directory: Path) -> RawFormat:
    content = json.loads((directory / FORMAT_FILE).read_text())
    return RawFormat(content["width"], content["height"], Fraction(content["rate"]), content["sample"], content["channels"])
