# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for measuring a pair of videos. Light to import: worker processes do it again and again."""

import os
from typing import Any

from vs3r_engine.evaluation.evaluation import Asked, failure
from vs3r_engine.evaluation.pairs import Pair


def perfect(pair: Pair, asked: Asked) -> dict[str, Any]:
    """Everything is kept."""
    return failure("") | {"values": {"cropping": 1.0}, "error": None}


def noted(pair: Pair, asked: Asked) -> dict[str, Any]:
    """As `perfect`, and leaves a trace in calls.txt; ends its process where the name says so."""
    if "deadly" in pair.name:
        os._exit(3)
    with (pair.original.parent / "calls.txt").open("a") as calls:
        calls.write(pair.name + "\n")
    return perfect(pair, asked)
