# SPDX-License-Identifier: Apache-2.0
"""Constant speeds in FCP 7 XML. Its adapter leaves them as filters, and counts such a clip's in and out on the retimed clock, where the
media's frame 60 at 200 % is frame 30; OTIO has time effects, and counts frames of the media."""

import math
from fractions import Fraction
from typing import Any

import opentimelineio as otio
from opentimelineio.opentime import RationalTime, TimeRange

from vs3r_engine.timeline import exact_rate

TOLERANCE_FRAMES = 2
"""Final Cut and Premiere round keyframes, and pin those of reversed clips a frame beyond what is shown."""
_TICKS = ("pproTicksIn", "pproTicksOut")
"""Premiere's own words for in and out."""


def filters_to_effects(clip: otio.schema.Clip) -> None:
    """A clip of one constant speed has OTIO's time effect for it, and begins at the frame of its media that it shows first (reversed, at
    the earliest). Others stay as they are: ramps, filters without a graph, media at another rate than the clip's."""
    remaps = [effect for effect in clip.effects if _remap_of(effect)]
    found = _constant_speed(_remap_of(remaps[0])) if len(remaps) == 1 and _counts_alike(clip) else None
    if found is None:
        return
    speed, when, value = found
    span, media_start = clip.source_range, _media_start(clip)
    first = value + (Fraction(span.start_time.value) - media_start - when) * speed
    if speed < 0:
        first += Fraction(span.duration.value) * speed
    clip.source_range = TimeRange(RationalTime(float(media_start + max(0, math.floor(first))), span.start_time.rate), span.duration)
    effect = otio.schema.LinearTimeWarp(remaps[0].name, float(speed)) if speed else otio.schema.FreezeFrame(remaps[0].name)
    clip.effects[clip.effects.index(remaps[0])] = effect
    clip.metadata["fcp_xml"] = _foreign(clip)


def effects_to_filters(clip: otio.schema.Clip) -> None:
    """The other way round; the clip's media is the one that is written, with its range. What the XML cannot say stays as it is."""
    warps = [effect for effect in clip.effects if isinstance(effect, otio.schema.TimeEffect) and effect.enabled]
    if len(warps) != 1 or not isinstance(warps[0], otio.schema.LinearTimeWarp) or not _counts_alike(clip):
        return
    speed = Fraction(warps[0].time_scalar).limit_denominator(1_000_000)
    span, media_start = clip.source_range, _media_start(clip)
    media_length, length = (Fraction(each.duration.value) for each in (clip.media_reference.available_range, span))
    first = Fraction(span.start_time.value) - media_start
    track = clip.parent()
    is_sound = isinstance(track, otio.schema.Track) and track.kind == otio.schema.TrackKind.Audio
    remap = {
        "effectid": "timeremap",
        "effectcategory": "motion",
        "effecttype": "motion",
        "mediatype": "audio" if is_sound else "video",
        "parameter": [
            {"name": "variablespeed", "parameterid": "variablespeed", "value": "0", "valuemin": "0", "valuemax": "1"},
            {"name": "speed", "parameterid": "speed", "value": f"{float(abs(speed) * 100):.9g}"},
            {"name": "reverse", "parameterid": "reverse", "value": "TRUE" if speed < 0 else "FALSE"},
            {"name": "frameblending", "parameterid": "frameblending", "value": "FALSE"},
            {
                "name": "graphdict",
                "parameterid": "graphdict",
                "value": "0",
                "valuemin": "0",
                "valuemax": str(math.ceil(media_length)),
                "keyframe": (keys := _keyframes(speed, first, length, media_length)),
                "interpolation": {"name": "FCPCurve"},
            },
        ],
    }
    begin = next(int(key["when"]) for key in keys if "speedkfin" in key)
    clip.source_range = TimeRange(RationalTime(float(media_start + begin), span.start_time.rate), span.duration)
    clip.effects[clip.effects.index(warps[0])] = otio.schema.Effect("Time Remap", metadata={"fcp_xml": remap})
    xml = _foreign(clip)
    clip.metadata["fcp_xml"] = xml | {"filter": [*xml.get("filter", []), {"effect": {"name": "Time Remap", **remap}}]}


def _keyframes(speed: Fraction, first: Fraction, length: Fraction, media_length: Fraction) -> list[dict[str, str]]:
    """The graph of a clip that shows `length` frames of a medium from `first` on; reversed, those down to `first`."""
    value, last = (first, first + length * speed) if speed >= 0 else (Fraction(math.ceil(first - length * speed)), first)
    if speed == 0:
        begin, duration = round(first), 0
    elif speed > 0:
        begin, duration = round(value / speed), math.ceil(media_length / speed)
    else:
        begin, duration = max(0, round((value - media_length) / speed)), math.ceil(-media_length / speed)
    end = begin + math.ceil(length)
    points = [(begin, value, "speedkfin"), (end, last, "speedkfout")]
    if begin > 0:
        points.insert(0, (0, Fraction(0) if speed > 0 else media_length if speed < 0 else value, "speedkfstart"))
    if duration > end:
        points.append((duration, media_length if speed > 0 else Fraction(0), "speedkfend"))
    return [{"when": str(when), "value": str(round(shown)), "speedvirtualkf": "TRUE", flag: "TRUE"} for when, shown, flag in points]


def _counts_alike(clip: otio.schema.Clip) -> bool:
    """Whether clip and media count in the same frames, from known beginnings."""
    span, held = clip.source_range, clip.media_reference.available_range
    if span is None or held is None:
        return False
    return len({exact_rate(time.rate) for time in (span.start_time, span.duration, held.start_time, held.duration)}) == 1


def _media_start(clip: otio.schema.Clip) -> Fraction:
    return Fraction(clip.media_reference.available_range.start_time.value)


def _remap_of(effect: otio.schema.Effect) -> Any:
    """What the XML says of a speed change; None for other effects."""
    xml: Any = effect.metadata.get("fcp_xml")
    return xml if _is_remap(xml) else None


def _is_remap(xml: Any) -> bool:
    return hasattr(xml, "get") and xml.get("effectid") == "timeremap"


def _constant_speed(remap: Any) -> tuple[Fraction, Fraction, Fraction] | None:
    """(speed, when, value): frames of media per frame, negative in reverse, and a frame of the retimed clock with the media's frame that it
    shows. None where the speed is not constant, or graph and speed contradict each other."""
    parameters = {each.get("parameterid"): each for each in _listed(remap.get("parameter"))}
    try:
        percent = Fraction(parameters["speed"]["value"])
        is_reversed = percent < 0 or ("reverse" in parameters and parameters["reverse"]["value"].upper() == "TRUE")
        if "variablespeed" in parameters and Fraction(parameters["variablespeed"]["value"]):
            return None
        keys = _listed(parameters["graphdict"]["keyframe"])
        points = {
            flag: (Fraction(key["when"]), Fraction(key["value"])) for key in keys for flag in ("speedkfin", "speedkfout") if flag in key
        }
        (begin, value), (end, last) = points["speedkfin"], points["speedkfout"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    speed = (-1 if is_reversed else 1) * abs(percent) / 100
    return (speed, begin, value) if abs(value + (end - begin) * speed - last) <= TOLERANCE_FRAMES else None


def _foreign(clip: otio.schema.Clip) -> dict[str, Any]:
    """What the adapter kept of the clip's XML, but for its speed; filters as a list."""
    kept: Any = clip.metadata.get("fcp_xml")
    xml = {key: kept[key] for key in kept if key not in _TICKS} if hasattr(kept, "keys") else {}
    filters = [each for each in _listed(xml.pop("filter", None)) if not _is_remap(each.get("effect"))]
    return xml | ({"filter": filters} if filters else {})


def _listed(found: Any) -> list[Any]:
    """The adapter gives one element as itself, several as a list."""
    return [] if found is None else [found] if hasattr(found, "keys") else list(found)
