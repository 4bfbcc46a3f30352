# SPDX-License-Identifier: Apache-2.0
"""Where the video clips of a timeline are, and which of them are meant."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import opentimelineio as otio

from vs3r_engine.errors import InputError

Root: TypeAlias = "otio.schema.Timeline | otio.schema.SerializableCollection"
"""What a timeline file may hold."""


@dataclass(frozen=True, slots=True)
class Place:
    """A video clip and where it is.

    number: 1 is the first video clip of the walk. steps: child indices from the root. track: "V1" is the lowest video
    track; clips inside nested stacks and compound clips belong to the track that holds these. track_name: its own name.
    """

    number: int
    steps: tuple[int, ...]
    track: str
    track_name: str
    clip: otio.schema.Clip


def video_clips(root: Root) -> Iterator[Place]:
    """Every clip on video tracks, depth first, in the order of tracks and time. Beside timelines, the clips of bins are not meant."""
    is_project = isinstance(root, otio.schema.SerializableCollection) and bool(root.find_children(descended_from_type=otio.schema.Timeline))
    number = 0
    for steps, track, track_name, clip in _walk(root, (), "", ""):
        if track or not is_project:
            number += 1
            yield Place(number, steps, track, track_name, clip)


def _walk(
    node: otio.core.SerializableObject, steps: tuple[int, ...], track: str, track_name: str
) -> Iterator[tuple[tuple[int, ...], str, str, otio.schema.Clip]]:
    if isinstance(node, otio.schema.Clip):
        yield steps, track, track_name, node
        return
    if isinstance(node, otio.schema.Timeline):
        node = node.tracks
    if not isinstance(node, otio.core.Composition | otio.schema.SerializableCollection):
        return
    video_tracks = 0
    for index, child in enumerate(node):
        label, name = track, track_name
        if isinstance(child, otio.schema.Track):
            if child.kind != otio.schema.TrackKind.Video:
                continue
            video_tracks += 1
            if not track:
                label, name = f"V{video_tracks}", child.name
        yield from _walk(child, (*steps, index), label, name)


def at(root: Root, steps: tuple[int, ...]) -> otio.schema.Clip:
    """The clip at a place's steps, in the same timeline or a copy of it."""
    node: otio.core.SerializableObject = root
    for index in steps:
        if isinstance(node, otio.schema.Timeline):
            node = node.tracks
        node = node[index]
    return node


def timelines_of(root: Root) -> list[otio.schema.Timeline]:
    """The timeline itself, or those of a collection."""
    return [root] if isinstance(root, otio.schema.Timeline) else [item for item in root if isinstance(item, otio.schema.Timeline)]


def clips_of(root: Root) -> list[otio.schema.Clip]:
    """Every clip, of sound too."""
    return list(root.find_clips() if isinstance(root, otio.schema.Timeline) else root.find_children(descended_from_type=otio.schema.Clip))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which clips: those that satisfy every condition that is not empty.

    tracks: "V1" or track names. clips: names, or numbers of the walk as text. marker: the colour or name of a marker on the
    clip, or on its track or timeline while the clip shows.
    """

    tracks: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    marker: str = ""


def chosen(root: Root, selection: Selection) -> list[Place]:
    """The places that the selection means.

    Raises: InputError `no-clips` for a timeline without video clips, `no-such-track`, `no-such-clip`, `no-such-marker`,
    `empty-track` for a chosen track without clips, `no-range` where a clip of unknown length hides what a marker means.
    """
    places = list(video_clips(root))
    if not places:
        raise InputError(
            "no-clips", "The timeline has no video clips.", "Check that it is the right file, and that its tracks are video tracks."
        )
    by_track = dict.fromkeys(_track_names(root), False)
    for place in places:
        by_track[place.track] = True
        by_track[place.track_name] = True
    for wanted in selection.tracks:
        _refuse_unknown("track", wanted, by_track)
        if not by_track[wanted]:
            raise InputError("empty-track", f"The track {wanted!r} has no clips.", "Choose another track.")
    names = {place.clip.name for place in places} | {str(place.number) for place in places}
    for wanted in selection.clips:
        _refuse_unknown("clip", wanted, names)
    found = [
        place
        for place in places
        if (not selection.tracks or {place.track, place.track_name} & set(selection.tracks))
        and (not selection.clips or {place.clip.name, str(place.number)} & set(selection.clips))
    ]
    if selection.marker:
        found = [place for place in found if _has_marker(place.clip, selection.marker)]
        if not found:
            raise InputError("no-such-marker", f"No chosen clip has a marker {selection.marker!r}.", "Give a marker's colour or its name.")
    if not found:
        raise InputError("no-clips", "No clip satisfies all of --tracks, --clips and --marker.", "Leave one of them out.")
    return found


def _track_names(root: Root) -> Iterator[str]:
    for timeline in timelines_of(root):
        for number, track in enumerate(timeline.video_tracks(), 1):
            yield from (f"V{number}", track.name)


def _refuse_unknown(what: str, wanted: str, known) -> None:
    if wanted not in known:
        near = difflib.get_close_matches(wanted, [name for name in known if name], 3)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "--dry-run lists them."
        raise InputError(f"no-such-{what}", f"There is no {what} {wanted!r}.", hint)


def _has_marker(clip: otio.schema.Clip, wanted: str) -> bool:
    def means(marker: otio.schema.Marker) -> bool:
        return wanted.lower() in (marker.name.lower(), (marker.color or "").lower())

    if any(means(marker) for marker in clip.markers):
        return True
    parent = clip.parent()
    while parent is not None:
        for marker in filter(means, parent.markers):
            try:
                shown = clip.transformed_time_range(clip.trimmed_range(), parent)
            except otio.exceptions.OTIOError as error:
                raise InputError(
                    "no-range",
                    f"Where {clip.name!r} is cannot be told: it, or a clip before it, has neither a source range nor media with a range.",
                    "Choose clips with --clips.",
                ) from error
            if shown.intersects(marker.marked_range) or shown.contains(marker.marked_range.start_time):
                return True
        parent = parent.parent()
    return False
