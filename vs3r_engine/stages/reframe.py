# SPDX-License-Identifier: Apache-2.0
"""Reframes: where the camera is jerked to another view within a few frames and stays there. A path that is calm across one
leaves half of it uncovered for as long as it takes to get there, so every stretch between two is calmed by itself."""

from fractions import Fraction

import numpy as np

from vs3r_engine.camera import Trajectory

_LONGEST_S = 1 / 3
"""What takes longer is a pan."""
_STAYS_S = 1 / 3
"""No view so long before looks as far as any so long after: shake and bumps come back."""
_AROUND_S, _STANDS_OUT = 0.5, 2.0
"""A reframe is so many times as fast as the camera mostly is, this long before to this long after: one of many jerks is shake or a pan."""
_SLOWEST_SHARE = 0.25
"""Of its fastest frame's speed: where the camera is slower, the reframe has not begun or is over."""


def reframes(path: Trajectory, rate: Fraction, largest_missing_share: float) -> list[tuple[int, int]]:
    """(position of the last frame before, of the first after) of every reframe of one shot, in order; at least 1/3 s from each other
    and from the shot's ends.

    largest_missing_share: of the picture, in [0, 1]; a path through the middle of a reframe would leave more than this uncovered.
    """
    stays, around, longest = (max(1, round(seconds * rate)) for seconds in (_STAYS_S, _AROUND_S, _LONGEST_S))
    steps = _turned(path, np.arange(len(path) - 1), np.arange(1, len(path)))
    speed = np.hypot(*steps.T)
    found: list[tuple[int, int]] = []
    is_asked = np.zeros(len(steps), bool)
    for fastest in np.argsort(-speed, kind="stable"):
        if speed[fastest] * longest < largest_missing_share:
            break
        if is_asked[fastest]:
            continue
        way = steps[fastest] / speed[fastest]
        is_quick = steps @ way >= _SLOWEST_SHARE * speed[fastest]
        before, after = int(fastest), int(fastest) + 1
        while before > 0 and is_quick[before - 1]:
            before -= 1
        while after < len(steps) and is_quick[after]:
            after += 1
        is_asked[before:after] = True
        earliest, latest = before - stays + 1, after + stays - 1
        is_near_another = any(earliest < other_after and other_before < latest for other_before, other_after in found)
        if after - before > longest or earliest < 0 or latest >= len(path) or is_near_another:
            continue
        along = _turned(path, before, np.arange(earliest, latest + 1)) @ way
        across, down = np.minimum(np.abs(way) * max(along[-stays:].min() - along[:stays].max(), 0.0) / 2, 1.0)
        usual = np.median(speed[max(0, before - around) : after + around])
        if 1 - (1 - across) * (1 - down) > largest_missing_share and speed[before:after].mean() > _STANDS_OUT * usual:
            found.append((before, after))
    return sorted(found)


def _turned(path: Trajectory, origin: np.ndarray | int, other: np.ndarray) -> np.ndarray:
    """[m, 2] how far across and down the view turns from the positions `origin` to `other`, in widths and heights of the picture."""
    rotation = path.world_from_camera[:, :3, :3]
    right, down, ahead = np.moveaxis(np.swapaxes(rotation[origin], -1, -2) @ rotation[other, :, 2:], -2, 0)[..., 0]
    sine = np.hypot(right, down)
    per_sine = np.arctan2(sine, ahead) / np.maximum(sine, 1e-12)
    across_px, down_px = per_sine * right * path.K[origin, 0, 0], per_sine * down * path.K[origin, 1, 1]
    return np.stack([across_px / path.width, down_px / path.height], axis=1)
