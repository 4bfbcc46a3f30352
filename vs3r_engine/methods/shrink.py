# SPDX-License-Identifier: Apache-2.0
"""Small copies of pictures, for what is found on small pictures."""

import cv2
import numpy as np

_LINEAR = 1.7
"""Up to this factor, linear interpolation loses no detail that tracks or flow need."""


def shrunk(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture at a size not larger than its own. Halving and a little linear shrinking cost a fraction of one area average."""
    while picture.shape[1] >= 2 * width and picture.shape[0] >= 2 * height:
        picture = cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if (picture.shape[1], picture.shape[0]) == (width, height):
        return picture
    is_near = picture.shape[1] <= _LINEAR * width
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR if is_near else cv2.INTER_AREA)
