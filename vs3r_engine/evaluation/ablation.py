# SPDX-License-Identifier: Apache-2.0
"""The rows of the paper's Table 2: every original stabilized with parts of the method left out."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vs3r_engine.errors import SettingsError
from vs3r_engine.evaluation.pairs import videos

PARTS = {
    "hybrid-mask": ("analysis.mask=semantic",),
    "completion": ("fill.completer=none",),
}
"""What can be left out, and the settings that leave it out."""


def variant_label(without: Sequence[str]) -> str:
    """The row's name in Table 2."""
    if set(without) == set(PARTS):
        return "baseline"
    return "without " + " and ".join(name.replace("-", " ") for name in without) if without else "full"


def variants(without: Iterable[str], *, baseline: bool, all_rows: bool) -> list[tuple[str, ...]]:
    """The asked variants as tuples of left-out parts, in Table 2's order. Raises: SettingsError `unknown-part`."""
    asked = {(part,) for part in without}
    for (part,) in asked:
        if part not in PARTS:
            raise SettingsError("unknown-part", f"There is no part {part!r} to leave out.", f"Choose of {', '.join(PARTS)}.")
    order: list[tuple[str, ...]] = [tuple(PARTS), *((part,) for part in PARTS), ()]
    return [v for v in order if all_rows or v in asked or (baseline and v == tuple(PARTS)) or (v == () and (asked or baseline))]


def stabilized(
    originals: Path, folder: Path, without: Sequence[str], settings: Sequence[str], told: Callable[[str], None]
) -> dict[str, str]:
    """Stabilize what is not there yet, as folder/NAME.mp4; what failed, by name."""
    failed = {}
    arguments = [a for setting in (*settings, *(s for part in without for s in PARTS[part])) for a in ("--set", setting)]
    for name, source in videos(originals).items():
        output = folder / f"{name}.mp4"
        if output.exists():
            continue
        output.parent.mkdir(parents=True, exist_ok=True)
        told(f"{variant_label(without)}: stabilizing {name}")
        command = [sys.executable, "-m", "vs3r_engine.app.cli", "stabilize", str(source), "-o", str(output), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode == 130:
            raise KeyboardInterrupt
        if ended.returncode:
            failed[name] = (ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1]
    return failed
