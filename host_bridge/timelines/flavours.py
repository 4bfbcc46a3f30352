# SPDX-License-Identifier: Apache-2.0
"""The same timeline as a certain editor wants it. Editors differ in how they find media, and on whose clock a clip counts.

Resolve and Kdenlive ignore `available_range` and count from the timecode inside the file; a file without one begins at 0.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import opentimelineio as otio
from opentimelineio.opentime import RationalTime, TimeRange

from host_bridge.timelines.apply import with_results
from host_bridge.timelines.fcp7_speed import effects_to_filters
from host_bridge.timelines.plan import KEY, Plan, PlannedClip
from host_bridge.timelines.walk import Root, at, clips_of, timelines_of, video_clips
from vs3r_engine.errors import InputError
from vs3r_engine.job import RenderResult
from vs3r_engine.media.edit import METADATA, SCHEMA, path_of_reference, start_of_file
from vs3r_engine.media.urls import path_of_url, url_of_path
from vs3r_engine.timeline import exact_rate

MARKER = "VS3R"
"""Name of the marker that keeps a clip's original in flavours whose clips have one media reference."""


def for_editor(editor: str, root: Root, plan: Plan, results: Mapping[str, RenderResult], input_dir: str, output_dir: str) -> Root:
    """A copy of `root` with the results, as `editor` reads it; "" is the plain one of `with_results`.

    input_dir: what relative paths of `root` count from. editor: as `editor_of` gives it.
    """
    copy = with_results(root, plan, results, output_dir)
    if not editor:
        return copy
    _FLAVOURS[editor](copy, root, plan, results, input_dir, output_dir)
    return copy


def suffix_for(editor: str) -> str:
    """What the editor's timeline files are called."""
    return ".xml" if editor == "premiere" else ".otio"


def editor_of(editor: str, output: str) -> str:
    """The flavour to write: FCP 7 XML has one of its own, which only it has.

    Raises: InputError `unknown-editor`, `editor-needs-other-file`.
    """
    if editor and editor not in _FLAVOURS:
        raise InputError("unknown-editor", f"There is no flavour for {editor!r}.", f"Choose one of {', '.join(_FLAVOURS)}.")
    is_xml = output.lower().endswith(".xml")
    if editor and is_xml != (suffix_for(editor) == ".xml"):
        raise InputError("editor-needs-other-file", f"{output} is not what {editor} opens.", f"Name it {suffix_for(editor)}.")
    return "premiere" if is_xml else editor


def editor_losses(root: Root, editor: str) -> list[str]:
    """What the editor itself leaves out of an OTIO file when it opens it, in sentences."""
    if editor == "kdenlive":
        return list(_kdenlive_losses(root))
    if editor == "resolve":
        return list(_resolve_losses(root))
    if editor == "premiere" and (generators := sum(_is_unwritable(place.clip.media_reference) for place in video_clips(root))):
        return [f"{generators} generators become empty clips."]
    return []


def _for_resolve(copy: Root, root: Root, plan: Plan, results: Mapping[str, RenderResult], input_dir: str, output_dir: str) -> None:
    """One media reference per clip under DEFAULT_MEDIA, bare absolute paths, ranges on the file's own timecode, `_VS3R` in the
    stabilized clips' names and their original path in a marker."""
    for clip in clips_of(copy):
        _to_one_reference(clip, input_dir, output_dir)
    for planned in _delivered(plan, results):
        clip, original = at(copy, planned.place.steps), at(root, planned.place.steps)
        path = path_of_reference(original.media_references()[planned.key], input_dir)
        clip.markers.append(
            otio.schema.Marker(
                name=MARKER,
                marked_range=TimeRange(clip.trimmed_range().start_time, RationalTime(1, clip.trimmed_range().duration.rate)),
                color=otio.schema.MarkerColor.PURPLE,
                comment=path,
                metadata={METADATA: {"schema": SCHEMA, "original": path, "digest": planned.digest}, "Resolve_OTIO": {"Note": path}},
            )
        )
        clip.name = f"{clip.name}_VS3R"
        _count_from_file(clip, planned)


def _for_kdenlive(copy: Root, root: Root, plan: Plan, results: Mapping[str, RenderResult], input_dir: str, output_dir: str) -> None:
    """Bare absolute paths everywhere, ranges of stabilized clips on the file's own timecode; the original stays beside."""
    for clip in clips_of(copy):
        for key, reference in clip.media_references().items():
            _bare(reference, output_dir if key == KEY else input_dir)
    for planned in _delivered(plan, results):
        _count_from_file(at(copy, planned.place.steps), planned)


def _for_premiere(copy: Root, root: Root, plan: Plan, results: Mapping[str, RenderResult], input_dir: str, output_dir: str) -> None:
    """What the FCP 7 XML adapter can write: one reference with a file: URL and a range of its own, on exact rates, images by the first
    of them, speeds as filters. Drop-frame where the media is.

    Raises: InputError `format-cannot-carry` for media of which nobody knows where it begins: the XML counts from there.
    """
    is_drop_frame = any(_is_drop_frame(planned) for planned in plan.clips)
    for timeline in timelines_of(copy):
        timeline.global_start_time = _exact_time(timeline.global_start_time)
        if is_drop_frame and timeline.global_start_time is not None and _has_drop_frame(timeline.global_start_time):
            _state_drop_frame(timeline)
        for stack in timeline.find_children(descended_from_type=otio.schema.Stack):
            stack.source_range = stack.trimmed_range()
    known: dict[str, PlannedClip] = {}
    for planned in plan.clips:
        original = at(root, planned.place.steps).media_references()[planned.key]
        if isinstance(original, otio.schema.ExternalReference) and original.target_url:
            known[path_of_url(original.target_url, input_dir)] = planned
        if _is_drop_frame(planned):
            _state_drop_frame(at(copy, planned.place.steps).media_reference)
    for planned in _delivered(plan, results):
        # Premiere's own words about the original: its place in the bin, and its in and out once more.
        clip = at(copy, planned.place.steps)
        if foreign := _fcp_xml(clip):
            gone = ("masterclipid", "pproTicksIn", "pproTicksOut", "subclipinfo")
            clip.metadata["fcp_xml"] = {key: value for key, value in foreign.items() if key not in gone}
    for clip in clips_of(copy):
        where = output_dir if clip.active_media_reference_key == KEY else input_dir
        reference = clip.media_reference
        if isinstance(reference, otio.schema.ImageSequenceReference):
            reference = _first_image(reference)
        if isinstance(reference, otio.schema.ExternalReference):
            path = path_of_url(reference.target_url, where)
            reference.target_url = url_of_path(path)
            if path in known:  # the sound of a clip, too
                media = known[path].media
                reference.available_range = reference.available_range or media.time_range(media.clip.available_range)
                if _is_drop_frame(known[path]):
                    _state_drop_frame(reference)
            if reference.available_range is None:
                raise InputError(
                    "format-cannot-carry",
                    f"Final Cut Pro 7 XML counts from where media begins, and the edit does not say it for {path}.",
                    "Write an .otio file.",
                )
            if clip.source_range is None:
                clip.source_range = reference.available_range
        elif _is_unwritable(reference):
            reference = otio.schema.MissingReference(reference.name or reference.generator_kind, clip.trimmed_range())
        reference.available_range = _exact(reference.available_range)
        clip.source_range = _exact(clip.source_range)
        clip.set_media_references({"DEFAULT_MEDIA": reference.deepcopy()}, "DEFAULT_MEDIA")
        effects_to_filters(clip)


def _is_unwritable(reference: otio.core.MediaReference) -> bool:
    """The adapter (1.0.0) fails for generators that did not come from FCP 7 XML."""
    return isinstance(reference, otio.schema.GeneratorReference) and "effecttype" not in _fcp_xml(reference)


def _is_drop_frame(planned: PlannedClip) -> bool:
    return ";" in (planned.media.clip.start_timecode or "")


def _has_drop_frame(time: RationalTime) -> bool:
    return exact_rate(time.rate) in (Fraction(30000, 1001), Fraction(60000, 1001))


def _state_drop_frame(thing: otio.core.SerializableObjectWithMetadata) -> None:
    """The adapter writes timecode as non-drop-frame where this is missing."""
    xml = _fcp_xml(thing)
    timecode: Any = xml.get("timecode")
    thing.metadata["fcp_xml"] = {**xml, "timecode": {**(dict(timecode) if hasattr(timecode, "keys") else {}), "displayformat": "DF"}}


def _fcp_xml(thing: otio.core.SerializableObjectWithMetadata) -> dict[str, Any]:
    """What the adapter kept of the XML that the thing was read from."""
    kept: Any = thing.metadata.get("fcp_xml")
    return {key: kept[key] for key in kept} if hasattr(kept, "keys") else {}


def _first_image(reference: otio.schema.ImageSequenceReference) -> otio.schema.ExternalReference:
    first = otio.schema.ExternalReference(
        reference.target_url_for_image_number(0), reference.available_range, metadata=dict(reference.metadata)
    )
    first.name = f"{reference.name_prefix}{reference.start_frame:0{reference.frame_zero_padding}d}{reference.name_suffix}"
    return first


_FLAVOURS: dict[str, Callable[[Root, Root, Plan, Mapping[str, RenderResult], str, str], None]] = {
    "resolve": _for_resolve,
    "kdenlive": _for_kdenlive,
    "premiere": _for_premiere,
}


def _delivered(plan: Plan, results: Mapping[str, RenderResult]) -> Iterator[PlannedClip]:
    return (planned for planned in plan.clips if planned.state == "unchanged" or planned.job.job_id in results)


def _to_one_reference(clip: otio.schema.Clip, input_dir: str, output_dir: str) -> None:
    where = output_dir if clip.active_media_reference_key == KEY else input_dir
    reference = clip.media_reference.deepcopy()
    _bare(reference, where)
    if isinstance(reference, otio.schema.ImageSequenceReference) and reference.available_range is not None:
        reference = _numbered_file(reference)
    clip.set_media_references({otio.schema.Clip.DEFAULT_MEDIA_KEY: reference}, otio.schema.Clip.DEFAULT_MEDIA_KEY)


def _numbered_file(reference: otio.schema.ImageSequenceReference) -> otio.schema.ExternalReference:
    """name.[0001-0100].exr, as Resolve names image sequences; it opens no other reference to them."""
    numbers = (reference.start_frame, reference.start_frame + math.ceil(reference.available_range.duration.value) - 1)
    first, last = (f"{number:0{reference.frame_zero_padding}d}" for number in numbers)
    name = f"{reference.name_prefix}[{first}-{last}]{reference.name_suffix}"
    file = otio.schema.ExternalReference(reference.target_url_base + name, reference.available_range, metadata=dict(reference.metadata))
    file.name = name
    return file


def _bare(reference: otio.core.MediaReference, base_dir: str) -> None:
    if isinstance(reference, otio.schema.ExternalReference) and reference.target_url:
        reference.target_url = os.path.abspath(path) if _is_local(path := path_of_url(reference.target_url, base_dir)) else path
    elif isinstance(reference, otio.schema.ImageSequenceReference) and reference.target_url_base:
        path = path_of_url(reference.target_url_base, base_dir)
        reference.target_url_base = (os.path.abspath(path) if _is_local(path) else path).rstrip("/\\") + ("\\" if "\\" in path else "/")


def _is_local(path: str) -> bool:
    return "\\" not in path[:3]


def _count_from_file(clip: otio.schema.Clip, planned: PlannedClip) -> None:
    """The clip's ranges and markers count from the timecode in the stabilized file: the source's, moved on; 0 without one."""
    source, held = planned.job.clip, planned.media.time_range(planned.job.render_range)
    start = start_of_file(source)
    shift_frames = (-planned.job.render_range.start if start is None else start) - planned.media.origin_frames
    clip.media_reference.available_range = _moved(held, shift_frames, source.rate)
    clip.source_range = _moved(clip.source_range or held, shift_frames, source.rate)
    for marker in clip.markers:
        marker.marked_range = _moved(marker.marked_range, shift_frames, source.rate)


def _moved(span: TimeRange, frames: int, rate: Fraction) -> TimeRange:
    """`span` later by `frames` of `rate`, in its own rate."""
    start = Fraction(span.start_time.value) + frames * exact_rate(span.start_time.rate) / rate
    return TimeRange(RationalTime(float(start), span.start_time.rate), span.duration)


def _exact(span: TimeRange | None) -> TimeRange | None:
    """The same range with 29.97 spelled 30000/1001, which OpenTimelineIO's timecode functions insist on."""
    if span is None:
        return None
    return TimeRange(_exact_time(span.start_time), _exact_time(span.duration))


def _exact_time(time: RationalTime | None) -> RationalTime | None:
    return None if time is None else RationalTime(time.value, float(exact_rate(time.rate)))


def _kdenlive_losses(root: Root) -> Iterator[str]:
    retimed = sum(any(isinstance(effect, otio.schema.TimeEffect) for effect in place.clip.effects) for place in video_clips(root))
    if retimed:
        yield f"Kdenlive ignores changed speeds: {retimed} here."
    nested = sum(
        not isinstance(place.clip.parent(), otio.schema.Track)
        or not isinstance(place.clip.parent().parent(), otio.schema.Stack)
        or place.clip.parent().parent().parent() is not None
        for place in video_clips(root)
    )
    if nested:
        yield f"Kdenlive leaves out clips in nested stacks: {nested} here."
    if any(isinstance(place.clip.media_reference, otio.schema.ImageSequenceReference) for place in video_clips(root)):
        yield "Kdenlive leaves out image sequences."
    yield "Kdenlive ignores effects and shows every transition as a dissolve."


def _resolve_losses(root: Root) -> Iterator[str]:
    speeds = [
        effect.time_scalar
        for place in video_clips(root)
        for effect in place.clip.effects
        if isinstance(effect, otio.schema.LinearTimeWarp) and effect.enabled
    ]
    if any(speed < 0 or speed > 1 for speed in speeds):
        yield "Resolve has placed the last frames of sped-up clips, and reversed clips, differently from version to version: check them."
    if any(isinstance(place.clip.media_reference, otio.schema.MissingReference) for place in video_clips(root)):
        yield "Resolve refuses timelines with titles and other clips without media: remove them before importing."
    yield "Resolve drops metadata of other programs."
