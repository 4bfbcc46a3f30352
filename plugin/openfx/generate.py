# SPDX-License-Identifier: Apache-2.0
"""Writes src/settings.generated.h: the settings that the plug-in shows, as vs3r_engine/settings.py declares them.

`make generated` after every change there.
"""

import json
from pathlib import Path

from vs3r_engine import __version__
from vs3r_engine.settings import DESCRIPTORS, PRESETS, Descriptor, preset

HEADER = Path(__file__).parent / "src" / "settings.generated.h"
NUMBERS = {"kSmoothness": "path.smoothness", "kStrength": "path.strength"}
CHOICES = {"kFraming": "frame.framing", "kQuality": "fill.quality"}


def text(value: str) -> str:
    """A C string."""
    return json.dumps(value, ensure_ascii=True)


def header() -> str:
    """The whole file."""
    by_key = {descriptor.key: descriptor for descriptor in DESCRIPTORS}
    presets = []
    for name in PRESETS:
        values = preset(name).values()
        presets.append(f"    {{{text(name)}, {values['path.smoothness']!r}, {values['path.strength']!r}}},")
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            "// Written by generate.py from vs3r_engine/settings.py. Do not edit.",
            "#pragma once",
            "",
            "namespace vs3r::settings {",
            "",
            f"constexpr const char* kProductVersion = {text(__version__)};",
            f"constexpr unsigned kMajor = {__version__.split('.')[0]}, kMinor = {__version__.split('.')[1]};",
            "",
            "struct Number {",
            "  const char *key, *label, *help;",
            "  double initial, low, high;",
            "};",
            "struct Choice {",
            "  const char *key, *label, *help;",
            "  int initial, count;",
            "  const char* values[4];",
            "};",
            "struct Preset {",
            "  const char* name;",
            "  double smoothness, strength;",
            "};",
            "",
            *(number(name, by_key[key]) for name, key in NUMBERS.items()),
            *(choice(name, by_key[key]) for name, key in CHOICES.items()),
            "constexpr Preset kPresets[] = {  // the first is the default",
            *presets,
            "};",
            "",
            "}  // namespace vs3r::settings",
            "",
        ]
    )


def number(name: str, of: Descriptor) -> str:
    return f"constexpr Number {name} = {{{text(of.key)}, {text(of.label)}, {text(of.help)}, {of.default!r}, {of.low!r}, {of.high!r}}};"


def choice(name: str, of: Descriptor) -> str:
    values = ", ".join(map(text, of.choices))
    return (
        f"constexpr Choice {name} = {{{text(of.key)}, {text(of.label)}, {text(of.help)}, "
        f"{of.choices.index(of.default)}, "
        f"{len(of.choices)}, {{{values}}}}};"
    )


if __name__ == "__main__":
    HEADER.write_text(header())
