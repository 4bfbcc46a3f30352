# SPDX-License-Identifier: Apache-2.0
"""BENCHMARKS.md: what stands between a bench's two marks belongs to the bench, everything else on the page to people."""

from pathlib import Path

from vs3r_engine.errors import MediaError


def marks(by: str) -> tuple[str, str]:
    """The lines around what `by` measures."""
    return f"<!-- measured by {by}: begin -->", f"<!-- measured by {by}: end -->"


def placed(part: str, page: Path, by: str) -> str:
    """The page with `part` between the marks of `by`; a page without them gets them at its end, a missing page is begun.

    Raises: MediaError `page-marks`.
    """
    begin, end = marks(by)
    marked_part = f"{begin}\n{part.rstrip()}\n{end}\n"
    if not page.exists():
        return f"# Benchmarks\n\n{marked_part}"
    text = page.read_text(encoding="utf-8")
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{marked_part}"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise MediaError("page-marks", f"{page} has only one of the marks {begin} and {end}.", "Put both in, or take both out.")
    return f"{before}{marked_part}{after.lstrip(chr(10)) and chr(10)}{after.lstrip(chr(10))}"
