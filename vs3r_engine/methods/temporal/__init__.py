# SPDX-License-Identifier: Apache-2.0
"""The weight-free Completer: what the camera never saw now, it saw a moment before or after."""

from vs3r_engine.methods.temporal.completer import TemporalCompleter

__all__ = ["TemporalCompleter"]
