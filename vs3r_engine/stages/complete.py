# SPDX-License-Identifier: Apache-2.0
"""Section 3.4: rendered frames with holes in, full frames out."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from vs3r_engine.frame import Frame
from vs3r_engine.scene import Rendered, View


class Views(Protocol):
    """Random access to the source around the frame being completed."""

    def view(self, frame_index: int) -> View | None:
        """The view of a source frame within the completer's reach; None outside the media or across a cut."""
        ...


class Completer(Protocol):
    """Fills holes. A frame's result depends on the source, the path and the settings, never on where a render began, so
    that chunks, farms and single-frame requests agree bit for bit (a diffusion completer: per shot)."""

    reach_frames: int
    """How far before and after a frame `complete` asks for views."""

    whole_shots: bool
    """Whether a frame's result depends on its whole shot, so that `complete` has to be given shots from their first frame."""

    def keeps(self, frame_index: int) -> bool:
        """Whether a frame may still be asked for when it is no longer the current one or its neighbour."""
        ...

    def complete(self, rendered: Iterable[Rendered], views: Views) -> Iterator[Frame]:
        """The same frames, in order, one for one, with nothing missing. Where a frame has no hole it is returned as it is."""
        ...
