# SPDX-License-Identifier: Apache-2.0
"""An OTIO clip is a piece of work: its media reference, its source range and its VS3R effect become a Job.

The only file of the engine that knows OpenTimelineIO. It opens no media: facts that the edit does not state come from
a `probe` that the caller passes in. Time is exact: RationalTime values are read as Fractions, never added as floats.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import opentimelineio as otio
from opentimelineio.opentime import RationalTime, TimeRange

from vs3r_engine.errors import InputError, MediaError, RangeError, SettingsError
from vs3r_engine.job import Job, analysis_range_of
from vs3r_engine.media.urls import path_of_url
from vs3r_engine.settings import PRESETS, Settings
from vs3r_engine.timeline import Clip, FrameRange, exact_rate, frame_count_of_timecode

METADATA = "vs3r"
"""Our one namespace in OTIO metadata."""
SCHEMA = 1
"""Version of what we write there."""
EFFECT = "VS3R"
"""`effect_name` of the effect that carries a clip's settings."""

IMAGE_SUFFIXES = {".exr", ".png", ".tiff", ".tif", ".dpx", ".jpg", ".jpeg"}
"""Of the files of image sequences, whose rate is the edit's."""

DEFAULTS = Settings()
_UNPRESET = {key: DEFAULTS.values()[key] for values in PRESETS.values() for key in values}
"""Everything that a preset may have changed, as it was before."""

Probe = Callable[[str, Fraction | None], Clip]
"""From a path, and the rate that the edit states for an image sequence, to what the file is; raises MediaError."""


# --- time -----------------------------------------------------------------------------------------------------------


def frames_at(time: RationalTime, rate: Fraction) -> Fraction:
    """`time` counted in frames of `rate`, exactly; within a thousandth of a whole frame it is that frame.

    Other programs compute times in floats and write 99.9999999: that means 100. 37008.1 stays a fraction.
    """
    if not (math.isfinite(time.value) and math.isfinite(time.rate) and time.rate > 0):
        raise RangeError("bad-time", f"{time.value} at {time.rate} frames per second is not a time.", "Export the timeline again.")
    frames = Fraction(time.value) * rate / exact_rate(time.rate)
    nearest = Fraction(round(frames))
    return nearest if abs(frames - nearest) < Fraction(1, 1000) else frames


def nearly_the_same_rate(first: Fraction, second: Fraction) -> bool:
    """True for 23.976 beside 24 and the like: different rates that somebody may have taken for one another."""
    return first != second and abs(first / second - 1) < Fraction(1, 200)


# --- where media is -------------------------------------------------------------------------------------------------


def path_of_reference(reference: otio.core.MediaReference, base_dir: str = "") -> str:
    """The file of a media reference; for an image sequence the printf pattern of its files, such as a/shot.%04d.exr.

    Raises: MediaError `no-media` for missing and generated media, `sequence-step` for a sequence that skips numbers.
    """
    if isinstance(reference, otio.schema.ExternalReference):
        return path_of_url(reference.target_url, base_dir)
    if isinstance(reference, otio.schema.ImageSequenceReference):
        if reference.frame_step != 1:
            raise MediaError(
                "sequence-step",
                f"The image sequence {reference.name_prefix!r} has one file every {reference.frame_step} frames.",
                "Render it with every frame.",
            )
        base = reference.target_url_base
        pattern = _pattern_of(reference)
        return (
            path_of_url(base + ("" if not base or base.endswith(("/", "\\")) else "/"), base_dir).rstrip("/\\")
            + ("\\" if "\\" in base else "/")
            + pattern
            if base
            else path_of_url(pattern, base_dir)
        )
    raise MediaError("no-media", "The clip has no media.", "Relink the clip in the editor and export again.")


# --- what media is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Media:
    """A clip's media, and how the edit counts in it.

    origin_frames: what the edit calls the first frame of the media, in frames of `clip.rate`: its timecode, or 0.
    otio_rate: the rate as the edit spells it (29.97 or 30000/1001 as a double).
    """

    clip: Clip
    origin_frames: int
    otio_rate: float

    def time_range(self, frames: FrameRange) -> TimeRange:
        """`frames` of the media on the edit's clock."""
        return TimeRange(RationalTime(self.origin_frames + frames.start, self.otio_rate), RationalTime(frames.duration, self.otio_rate))


def media_of(clip: otio.schema.Clip, reference: otio.core.MediaReference, probe: Probe, base_dir: str = "") -> Media:
    """What `reference` of `clip` refers to. The file is the authority, but for the rate of an image sequence, which editors assign.

    Raises: MediaError from the path and the probe; RangeError `rate-contradicts`, `unknown-origin` where the edit's frame numbers
    fit neither the file's timecode nor its length.
    """
    path = path_of_reference(reference, base_dir)
    stated = reference.available_range
    rate_of_sequence = _sequence_rate(reference, path)
    part, length = _part_of_sequence(reference, path, rate_of_sequence)
    try:
        found = probe(path, rate_of_sequence)
    except MediaError as error:
        if not part or error.code != "media-gap":  # what is missing may be none of the part
            raise
        found = probe(part, rate_of_sequence)
    else:
        if part and length != found.available_range.duration:
            found = probe(part, rate_of_sequence)
    if stated is not None:
        _check_rate(clip.name, "media", stated, found)
    # Where the edit knows the media's rate, a source range at the timeline's, 29.97 for a 30 fps file, is the same time.
    if clip.source_range is not None and (stated is None or exact_rate(stated.duration.rate) != found.rate):
        _check_rate(clip.name, "source range", clip.source_range, found)
    claimed = stated or clip.source_range
    otio_rate = float(found.rate)
    if claimed is not None and exact_rate(claimed.duration.rate) == found.rate:
        otio_rate = claimed.duration.rate
    return Media(found, _origin_frames(clip, stated, found), otio_rate)


def _sequence_rate(reference: otio.core.MediaReference, path: str) -> Fraction | None:
    """The rate that the edit states for an image sequence; None for other media, and where it states none.

    OTIO writes 1 where nobody gave a rate, and other references have none: then the one in which the available range counts.
    """
    if isinstance(reference, otio.schema.ImageSequenceReference) and reference.rate > 0 and reference.rate != 1:
        return exact_rate(reference.rate)
    is_sequence = isinstance(reference, otio.schema.ImageSequenceReference) or os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
    return exact_rate(reference.available_range.duration.rate) if is_sequence and reference.available_range is not None else None


def _part_of_sequence(reference: otio.core.MediaReference, path: str, rate: Fraction | None) -> tuple[str, int]:
    """The path of just the files that an image sequence reference means, name.[1021-1070].exr, and how many they are; ("", 0) where it
    does not say."""
    stated = reference.available_range
    if not isinstance(reference, otio.schema.ImageSequenceReference) or stated is None or rate is None or reference.start_frame < 0:
        return "", 0
    length = math.ceil(frames_at(stated.duration, rate))
    if length < 1:
        return "", 0
    digits, first = reference.frame_zero_padding, reference.start_frame
    numbers = f"[{first:0{digits}d}-{first + length - 1:0{digits}d}]"
    return f"{path.removesuffix(_pattern_of(reference))}{reference.name_prefix}{numbers}{reference.name_suffix}", length


def _pattern_of(reference: otio.schema.ImageSequenceReference) -> str:
    return f"{reference.name_prefix}%0{reference.frame_zero_padding}d{reference.name_suffix}"


def start_of_file(clip: Clip) -> int | None:
    """What the file's own timecode calls its first frame; None without a timecode, or with one that does not count at its rate."""
    try:
        return frame_count_of_timecode(clip.start_timecode, clip.rate) if clip.start_timecode else None
    except RangeError:
        return None


def _check_rate(name: str, what: str, written: TimeRange, found: Clip) -> None:
    """The file's rate stands. Another rate may spell the same time (25 for a 50 fps file), not another count of the same frames."""
    for time in (written.start_time, written.duration):
        rate = exact_rate(time.rate)
        if rate == found.rate:
            continue
        length = found.available_range.duration
        same_count = abs(Fraction(written.duration.value) - length) <= 1
        too_long = frames_at(written.duration, found.rate) > length + max(Fraction(1), found.rate / rate)
        if nearly_the_same_rate(rate, found.rate) or (what == "media" and (same_count or too_long)):
            raise RangeError(
                "rate-contradicts",
                f"The clip {name!r} counts its {what} at {float(rate):.3f} frames per second, but "
                f"{found.path} has {float(found.rate):.3f}.",
                "Correct the media's frame rate in the editor, or relink the right file.",
            )


def _origin_frames(clip: otio.schema.Clip, stated: TimeRange | None, found: Clip) -> int:
    timecode = start_of_file(found) or 0
    length = found.available_range.duration
    claimed = stated or clip.source_range
    if claimed is None:
        return timecode
    first = frames_at(claimed.start_time, found.rate)
    end = first + frames_at(claimed.duration, found.rate)
    if first == timecode or (timecode < first and end <= timecode + length):
        return timecode
    if stated is not None and end - first >= length - 1:
        return math.floor(first)
    if first >= 0 and end <= length:
        return 0
    if stated is None:
        return timecode if first >= timecode else 0
    raise RangeError(
        "unknown-origin",
        f"The clip {clip.name!r} says its media spans {float(first):g}..{float(end):g}, but {found.path} holds {length} "
        f"frames from {found.start_timecode or 'no timecode'}.",
        "Relink the clip in the editor and export again.",
    )


# --- which frames a clip shows --------------------------------------------------------------------------------------


def speed_of(item: otio.core.Item) -> Fraction | None:
    """Source frames per shown frame from the item's own enabled time effects: 1 without, 0 frozen, negative reversed.

    None where a time effect's map is not in the standard schema: speed ramps, also those of FCP 7 XML.

    Raises: RangeError `bad-speed`.
    """
    speed = Fraction(1)
    for effect in item.effects:
        if not effect.enabled:
            continue
        if isinstance(effect, otio.schema.LinearTimeWarp):  # FreezeFrame is one, with scalar 0
            if not math.isfinite(effect.time_scalar):
                raise RangeError("bad-speed", f"{item.name!r} has a speed of {effect.time_scalar}.", "Export the timeline again.")
            speed *= Fraction(effect.time_scalar).limit_denominator(1_000_000)
        elif isinstance(effect, otio.schema.TimeEffect) or _is_time_remap(effect):
            return None
    return speed


def _is_time_remap(effect: otio.schema.Effect) -> bool:
    xml = effect.metadata.get("fcp_xml")
    return hasattr(xml, "get") and xml.get("effectid") == "timeremap"


def used_range(clip: otio.schema.Clip, media: Media, past_end: str = "error") -> FrameRange:
    """The frames of the media that the clip shows, its own retime included, transitions and handles not.

    OTIO leaves open from where a reversed clip is counted: from the start of its source range backwards or from its end.
    Whichever exists is taken, both where both do. A speed ramp may show anything: all of the media.
    past_end: "error", or "trim" for the part that exists.

    Raises: RangeError `range-past-media`, `no-range`.
    """
    available = media.clip.available_range
    span = clip.source_range
    if span is None:
        references = clip.media_references()
        span = references[original_key(clip)].available_range
    if span is None:
        raise RangeError(
            "no-range",
            f"The clip {clip.name!r} has neither a source range nor media with an available range.",
            "Give it one: its length in the edit is unknown.",
        )
    first = frames_at(span.start_time, media.clip.rate) - media.origin_frames
    length = frames_at(span.duration, media.clip.rate)
    speed = speed_of(clip) if clip.source_range is not None else Fraction(1)  # all of its media, whatever its speed
    if length <= 0:
        raise RangeError("empty-range", f"The clip {clip.name!r} has no frames.", "Remove it from the timeline.")
    if speed is None:
        return available
    if speed == 0:
        readings = [(first, first + 1)]
    elif speed > 0:
        readings = [(first, first + length * speed)]
    else:
        readings = [(first, first - length * speed), (first + 1 + length * speed, first + 1)]
    step = abs(speed) * media.clip.rate / exact_rate(span.duration.rate)
    wanted = [_frames_of(start, end, step, available) for start, end in readings]
    existing = [reading for reading in wanted if available.contains_range(reading)]
    if not existing:
        parts = [part for part in (reading.intersection(available) for reading in wanted) if part]
        if past_end != "trim" or not parts:
            raise RangeError(
                "range-past-media",
                f"The clip {clip.name!r} shows frames {wanted[0]} of {media.clip.path}, which holds {available}.",
                "Relink the full-length file, or trim the clip."
                if not parts
                else "Relink the full-length file, trim the clip, or stabilize the part that exists (past end: trim).",
            )
        existing = parts
    return FrameRange.between(min(part.start for part in existing), max(part.end_exclusive for part in existing))


def _frames_of(start: Fraction, end: Fraction, step: Fraction, available: FrameRange) -> FrameRange:
    """The frames that the times [start, end) touch. The last of them that is shown, `step` before the end, may end beyond the media:
    39 frames at 200 % are 20, and one at 29.97 ends between two at 23.976."""
    first, last = math.floor(start), math.ceil(end)
    if end - step < available.end_exclusive < last and first < available.end_exclusive:
        last = available.end_exclusive
    if first < available.start <= math.floor(start - 1 + step) and available.start < last:
        first = available.start
    return FrameRange.between(first, last)


def original_key(clip: otio.schema.Clip) -> str:
    """The key of the media that the editor chose: the active one, or the one that was active before ours.

    Raises: MediaError `original-missing` where ours is all that is left.
    """
    key, references = clip.active_media_reference_key, clip.media_references()
    ours = _ours(references[key].metadata)
    if "previous_key" not in ours:
        return key
    previous = str(ours["previous_key"])
    if previous == key or previous not in references:
        raise MediaError(
            "original-missing",
            f"The clip {clip.name!r} shows media that VS3R made; its original is not in this timeline.",
            "Give the timeline that was stabilized, or relink the clip to its original.",
        )
    return previous


# --- settings and jobs ----------------------------------------------------------------------------------------------


def settings_of(clip: otio.core.Item, base: Settings = DEFAULTS) -> Settings:
    """`base` with what the clip's VS3R effect says: its preset in place of the one in `base`, then its single values. A
    disabled effect says nothing.

    Raises: SettingsError `newer-settings`, `unknown-setting`, `bad-setting`, `unknown-preset`.
    """
    for effect in clip.effects:
        if effect.effect_name != EFFECT or not effect.enabled:
            continue
        ours = _ours(effect.metadata)
        name = ours.get("preset")
        if name is not None and name not in PRESETS:
            raise SettingsError(
                "unknown-preset", f"The clip {clip.name!r} asks for a preset {name!r}.", f"Choose one of {', '.join(PRESETS)}."
            )
        if name is not None:
            base = base.with_values({**_UNPRESET, **PRESETS[name]})
        settings = ours.get("settings", {})
        if not hasattr(settings, "keys"):
            raise SettingsError("bad-setting", f"The clip {clip.name!r} has settings that are no object.", 'Write {"path.smoothness": 70}.')
        base = base.with_values(dict(settings))
    return base


def _ours(metadata: Any) -> dict[str, Any]:
    """What we wrote into an object's metadata; empty where nothing. Raises: SettingsError `newer-settings`."""
    ours = metadata.get(METADATA)
    if ours is None or not hasattr(ours, "keys"):
        return {}
    if not isinstance(ours.get("schema"), int) or ours["schema"] > SCHEMA:
        raise SettingsError(
            "newer-settings",
            f"The edit carries VS3R data of schema {ours.get('schema')!r}; this version reads up to {SCHEMA}.",
            "Update VS3R.",
        )
    return dict(ours)


def job_of_clip(clip: otio.schema.Clip, probe: Probe, job_id: str, output: str, base: Settings = DEFAULTS) -> Job:
    """The job that an OTIO clip describes, whoever wrote it: the frames it shows, with the settings of its effect over `base`.

    Raises: everything `media_of`, `used_range` and `settings_of` raise.
    """
    media = media_of(clip, clip.media_references()[original_key(clip)], probe)
    render_range = used_range(clip, media)
    return Job(job_id, media.clip, render_range, analysis_range_of(render_range, media.clip), output, settings_of(clip, base))


def read_clip(text: str | dict[str, Any]) -> otio.schema.Clip:
    """The OTIO clip in a JSON text or object. Raises: InputError `not-otio`."""
    try:
        clip = otio.adapters.read_from_string(text if isinstance(text, str) else json.dumps(text), "otio_json")
    except Exception as error:  # OpenTimelineIO raises ValueError, KeyError, its own errors and more for broken text
        raise InputError("not-otio", f"This is not an OTIO clip: {error}", "Write it with OpenTimelineIO.") from error
    if not isinstance(clip, otio.schema.Clip):
        raise InputError("not-otio", f"This is an OTIO {type(clip).__name__}, not a Clip.", "Send one clip.")
    return clip
