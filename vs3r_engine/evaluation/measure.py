# SPDX-License-Identifier: Apache-2.0
"""One original and any number of its results, read side by side, frame by frame: every metric of each result.

Memory is a few frames whatever the length. Results are brought to the original's size; another rate is refused; a
result that is up to a tenth shorter or longer is measured over the common frames and says so.
"""

from collections.abc import Mapping
from pathlib import Path

from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.one_result import MeasuredResult, same_length
from vs3r_engine.evaluation.reading import VideoFacts, decoded, facts
from vs3r_engine.evaluation.seen import PicturePath, Seen

_RATE_TOLERANCE = 0.02
"""Rates of files are averages over their frames' times, which some programs even out; 24 and 25 differ by 0.04."""


def measure(
    original: Path, results: Mapping[str, Path], choice: Choice | None = None, *, with_input: bool = True
) -> dict[str, Measurement]:
    """Every result by name, and with_input the original itself as "input" (its path metrics alone).

    A result that cannot be read or does not belong to the original gets `error`. Raises: MediaError when the original
    itself cannot be read.
    """
    choice = choice or Choice()
    source = facts(original)
    failed: dict[str, Measurement] = {}
    running: dict[str, MeasuredResult] = {}
    for name, path in results.items():
        try:
            running[name] = MeasuredResult(_checked(facts(path), source), source, choice)
        except VS3RError as error:
            failed[name] = Measurement({}, error=str(error))
    itself = PicturePath(float(source.rate), published=choice.published and choice.quick)
    count = 0
    for count, give in enumerate(decoded(original), 1):
        seen = Seen(give, source, choice.feature_limit)
        if with_input:
            itself.add(seen.luma)
        for name in list(running):
            try:
                running[name].advance(seen, count - 1)
            except VS3RError as error:
                failed[name] = Measurement({}, error=str(error))
                del running[name]
    if not count:
        raise MediaError("unreadable", f"{original} holds no frame that can be decoded.", "Check that the file is complete.")
    measured = {name: running[name].finished(count) for name in running}
    measured = {name: measured.get(name) or failed[name] for name in results}
    return {"input": Measurement(itself.values(), frames=count), **measured} if with_input else measured


def _checked(result: VideoFacts, source: VideoFacts) -> VideoFacts:
    if abs(result.rate / source.rate - 1) > _RATE_TOLERANCE:
        raise MediaError(
            "rate-mismatch",
            f"{result.path} runs at {float(result.rate):.3f} frames/s, its original at {float(source.rate):.3f}.",
            "Measure a result of the original's own rate.",
        )
    if result.frame_count and source.frame_count and not same_length(result.frame_count, source.frame_count):
        raise MediaError(
            "length-mismatch",
            f"{result.path} has {result.frame_count} frames, its original {source.frame_count}.",
            "Measure a result of the whole original.",
        )
    return result
