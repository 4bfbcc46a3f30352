# SPDX-License-Identifier: Apache-2.0
"""The one grid that completion thinks on: cells of a picture, eight small pixels across and down each."""

from dataclasses import dataclass

import cv2
import numpy as np

from vs3r_engine.frame import Frame, PixelLayout

SMALL_PER_CELL = 8
SMALL_WIDTH_PX = 480
"""Longer side of a small picture, where the frame is at least twice that; smaller frames are halved."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A picture of width x height in rows x columns of square cells, the last of which may reach beyond it.

    small_px: pixels per small pixel; a small picture is all cells: [8 rows, 8 columns].
    """

    width: int
    height: int
    small_px: int

    @classmethod
    def of(cls, frame: Frame, small_width_px: int = SMALL_WIDTH_PX) -> "Cells":
        multiple = max(2, 1 << frame.layout.chroma_shift_x, 1 << frame.layout.chroma_shift_y)
        wanted = max(frame.width, frame.height) / small_width_px
        return cls(frame.width, frame.height, multiple * max(1, round(wanted / multiple)))

    @property
    def cell_px(self) -> int:
        return SMALL_PER_CELL * self.small_px

    @property
    def rows(self) -> int:
        return -(-self.height // self.cell_px)

    @property
    def columns(self) -> int:
        return -(-self.width // self.cell_px)

    @property
    def full_shape(self) -> tuple[int, int]:
        """(rows, columns) of pixels of all cells."""
        return self.rows * self.cell_px, self.columns * self.cell_px

    @property
    def small_shape(self) -> tuple[int, int]:
        return self.rows * SMALL_PER_CELL, self.columns * SMALL_PER_CELL

    def small_picture(self, frame: Frame) -> np.ndarray:
        """[h, w, planes] float32 on the 8-bit scale: every plane but alpha at one size, area-averaged; past the
        picture's edge its last pixels are repeated."""
        layout = frame.layout
        planes = [self.small_plane(plane, layout, i) for i, plane in enumerate(frame.planes[: layout.picture_planes])]
        return cv2.merge(planes).reshape(*self.small_shape, -1) * np.float32(255.0 / layout.peak)

    def small_plane(self, plane: np.ndarray, layout: PixelLayout, number: int) -> np.ndarray:
        rows, columns = layout.plane_shape(number, self.columns * self.cell_px, self.rows * self.cell_px)
        missing = rows - plane.shape[0], columns - plane.shape[1]
        if any(missing):
            plane = cv2.copyMakeBorder(plane, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        height, width = plane.shape
        if (height, width) != self.small_shape and height % 2 == width % 2 == 0 and height > 2 * self.small_shape[0]:
            # Halves come cheap, and what follows has a quarter left to do.
            plane = cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return cv2.resize(plane, self.small_shape[::-1], interpolation=cv2.INTER_AREA)

    def still(self, dynamic_mask: np.ndarray) -> np.ndarray | None:
        """[h, w] float32 in [0, 1]: 0 on and close to what a dynamic mask of any size marks; None if nothing."""
        if not dynamic_mask.any():
            return None
        rows, columns = dynamic_mask.shape
        scale_x, scale_y = columns / self.width * self.small_px, rows / self.height * self.small_px
        to_mask = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
        moving = cv2.warpAffine(
            dynamic_mask.astype(np.float32),
            to_mask,
            self.small_shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        # A mask ends where its method thinks the object does; shadow, blur and the mask's own lag reach further.
        return 1.0 - cv2.blur(cv2.dilate(moving, np.ones((9, 9), np.uint8)), (5, 5))


def blurred(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """The image as ever closer looks see it: blurred over about 2 pixels, and then the image itself."""
    height, width = image.shape
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(half, (0, 0), 1.0)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), image
