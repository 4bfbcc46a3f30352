# SPDX-License-Identifier: Apache-2.0
"""Section 3.2: frames in, cameras and scene out (eq. 1). A shot is reconstructed by itself."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol

from vs3r_engine.frame import Frame
from vs3r_engine.scene import Reconstruction


class Reconstructor(Protocol):
    """Finds camera and scene over one shot, streaming: memory does not grow with the shot."""

    def reconstruct(self, frames: Iterable[Frame], rate: Fraction) -> Iterator[Reconstruction]:
        """Consecutive pieces, in order, that together cover every frame of the shot once, in one gauge and scale.

        A piece is yielded as soon as it is final. Frames come in order without gaps; their size never changes.
        Trajectories are for the frames' own size. Bad frames (black, blurred, textureless, repeated) are bridged and
        reported in `diagnostics["is_bridged"]`, the repeated ones also in `diagnostics["is_repeated"]`, never raised.
        A frame is in `diagnostics["is_apart"]`, if that is there, where nothing shows how the camera moved since the frames before.
        """
        ...
