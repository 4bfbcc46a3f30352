# SPDX-License-Identifier: Apache-2.0
"""Movies whose pictures carry their own number, readable after lossy coding and after a stabilizer moved them a little."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

COLUMNS, ROWS = 5, 2
WIDTH, HEIGHT, CELL = 160, 96, 20


def picture(number: int) -> np.ndarray:
    """RGB [HEIGHT, WIDTH, 3] uint8: a still texture, in its middle a block of cells, white where the number's bit is set."""
    texture = np.random.default_rng(7).integers(60, 200, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    image = cv2.resize(texture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for bit, (x, y) in enumerate(_corners()):
        image[y : y + CELL, x : x + CELL] = 235 if number >> bit & 1 else 20
    return image


def number_of(image: np.ndarray) -> int:
    """The number in a picture, from the middle of each cell. Raises: AssertionError where a cell is neither black nor white."""
    number = 0
    for bit, (x, y) in enumerate(_corners()):
        level = float(image[y + 6 : y + CELL - 6, x + 6 : x + CELL - 6].mean())
        assert level < 70 or level > 185, f"bit {bit} reads {level:.0f}"
        number |= int(level > 128) << bit
    return number


def _corners() -> list[tuple[int, int]]:
    left, top = (WIDTH - COLUMNS * CELL) // 2, (HEIGHT - ROWS * CELL) // 2
    return [(left + column * CELL, top + row * CELL) for row in range(ROWS) for column in range(COLUMNS)]


def write_movie(path: Path, count: int, rate: Fraction, start_timecode: str | None = None) -> str:
    """A movie of pictures 0 ... count - 1."""
    with av.open(str(path), "w") as output:
        if start_timecode:
            output.metadata["timecode"] = start_timecode
        stream = output.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "ultrafast", "g": "12", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = 1 / rate
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return str(path)


def write_images(folder: Path, count: int, first: int) -> str:
    """PNG images of pictures 0 ... count - 1, called shot.1001.png and so on from number `first`; they tell no rate."""
    for number in range(count):
        assert cv2.imwrite(str(folder / f"shot.{first + number:04d}.png"), picture(number)[..., ::-1])
    return str(folder / "shot.%04d.png")


def pictures(path: str) -> list[np.ndarray]:
    """Every picture of a movie, in order, as RGB."""
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def numbers(path: str) -> list[int]:
    """The numbers that a movie shows, in order."""
    return [number_of(image) for image in pictures(path)]
