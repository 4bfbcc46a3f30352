# SPDX-License-Identifier: Apache-2.0
"""Section 3.3, eq. 6-7: the hybrid reprojection of one frame onto its target camera."""

from collections.abc import Sequence
from typing import Protocol

from vs3r_engine.scene import Rendered, Target, View


class Renderer(Protocol):
    """Renders the point set of eq. 6 from a target camera, at the frame's own size, layout and bit depth."""

    def render(self, target: Target, current: View, neighbours: Sequence[View]) -> Rendered:
        """The current frame wherever it covers the picture; static points of the neighbours where it does not; dynamic
        points of the current frame alone; holes marked. With target camera = current camera and equal residuals, the
        current frame comes back untouched and without holes."""
        ...
