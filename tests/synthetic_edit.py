# SPDX-License-Identifier: Apache-2.0
"""What other programs put on a clip of an edit for us, as PROTOCOL.md says it."""

from typing import Any

import opentimelineio as otio


def settings_effect(values: dict[str, Any], **more: Any) -> otio.schema.Effect:
    """The effect that carries settings, `{"path.smoothness": 70.0}`, and perhaps a preset, on a clip."""
    return otio.schema.Effect(effect_name="VS3R", metadata={"vs3r": {"schema": 1, "settings": values, **more}})
