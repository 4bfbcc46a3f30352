# SPDX-License-Identifier: Apache-2.0
"""Generated edits: tracks, gaps, transitions, nested stacks, retimes, every rate, markers, foreign metadata."""

import opentimelineio as otio
from hypothesis import strategies as st
from opentimelineio.opentime import RationalTime, TimeRange

RATES = [23.976, 24000 / 1001, 24.0, 25.0, 29.97, 30000 / 1001, 30.0, 48.0, 50.0, 59.94, 60000 / 1001, 60.0]
MEDIA_FRAMES = 1000

metadata = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
namespaces = st.dictionaries(st.sampled_from(["Resolve_OTIO", "cmx_3600", "fcp_xml", "my tool"]), metadata, max_size=2)


@st.composite
def markers(draw):
    return otio.schema.Marker(
        name=draw(st.text(max_size=5)),
        color=draw(st.sampled_from(["RED", "GREEN", "PURPLE"])),
        marked_range=TimeRange(RationalTime(draw(st.integers(0, 50)), 24), RationalTime(draw(st.integers(0, 5)), 24)),
        metadata=draw(namespaces),
    )


@st.composite
def effects(draw):
    kind = draw(st.sampled_from(["plain", "plain", "speed", "freeze", "ramp", "foreign"]))
    if kind == "speed":
        return otio.schema.LinearTimeWarp(
            time_scalar=draw(st.sampled_from([0.25, 0.5, 1.1, 2.0, 3.7, -0.5, -1.0, -2.0])), metadata=draw(namespaces)
        )
    if kind == "freeze":
        return otio.schema.FreezeFrame(metadata=draw(namespaces))
    if kind == "ramp":
        return otio.schema.TimeEffect(
            name="ramp", effect_name="", metadata={"Resolve_OTIO": {"Key Frames": [[0.0, 0.0, False], [2.5, 5.0, True]]}}
        )
    if kind == "foreign":  # OpenTimelineIO takes objects of unknown schemas in metadata only
        foreign = otio.adapters.read_from_string('{"OTIO_SCHEMA":"StudioWarp.7","amount":3,"curve":[1.5,2]}', "otio_json")
        return otio.schema.Effect(name="foreign", effect_name="", metadata={"studio": {"warp": foreign}})
    return otio.schema.Effect(name="grade", effect_name="Resolve Effect", metadata=draw(namespaces))


@st.composite
def clips(draw, media):
    """A clip on one of `media` (path, rate as written, first frame), or a title, or a generator."""
    kind = draw(st.sampled_from(["media"] * 5 + ["title", "generator"]))
    path, rate, first = draw(st.sampled_from(media))
    duration = draw(st.integers(1, 40))
    start = draw(st.integers(150, MEDIA_FRAMES - 350))
    whole = TimeRange(RationalTime(first, rate), RationalTime(MEDIA_FRAMES, rate))
    source_range = TimeRange(RationalTime(first + start, rate), RationalTime(duration, rate))
    if kind == "title":
        reference = otio.schema.MissingReference(metadata=draw(namespaces))
    elif kind == "generator":
        reference = otio.schema.GeneratorReference(generator_kind="SMPTEBars", parameters={"a": 1})
    else:
        reference = otio.schema.ExternalReference(
            target_url=path, available_range=draw(st.sampled_from([whole, whole, None])), metadata=draw(namespaces)
        )
        if reference.available_range is not None and draw(st.integers(0, 9)) == 0:
            source_range = None
    clip = otio.schema.Clip(name=draw(st.text(max_size=8)), media_reference=reference, source_range=source_range, metadata=draw(namespaces))
    clip.effects.extend(draw(st.lists(effects(), max_size=2)))
    clip.markers.extend(draw(st.lists(markers(), max_size=1)))
    clip.enabled = draw(st.booleans())
    if kind == "media" and draw(st.booleans()):
        references = clip.media_references()
        references["proxy"] = otio.schema.ExternalReference(target_url=path, available_range=whole)
        clip.set_media_references(references, draw(st.sampled_from(["DEFAULT_MEDIA", "proxy"])))
    return clip


@st.composite
def tracks(draw, media, depth=1):
    track = otio.schema.Track(
        name=draw(st.text(max_size=5)), kind=draw(st.sampled_from(["Video", "Video", "Video", "Audio"])), metadata=draw(namespaces)
    )
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["clip", "clip", "clip", "gap", "stack"] if depth else ["clip", "gap"]))
        if kind == "gap":
            child = otio.schema.Gap(duration=RationalTime(draw(st.integers(1, 30)), 24), metadata=draw(namespaces))
        elif kind == "stack":
            child = otio.schema.Stack(
                name="compound",
                children=draw(st.lists(clips(media) | tracks(media, depth=0), max_size=2)),
                metadata={"Resolve_OTIO": {"Sequence Type": "Compound Clip"}},
            )
        else:
            child = draw(clips(media))
        previous = track[-1] if len(track) else None
        if isinstance(previous, otio.schema.Clip) and isinstance(child, otio.schema.Clip) and draw(st.booleans()):
            track.append(
                otio.schema.Transition(
                    transition_type="SMPTE_Dissolve",
                    in_offset=RationalTime(draw(st.integers(0, 12)), 24),
                    out_offset=RationalTime(draw(st.integers(0, 12)), 24),
                    metadata=draw(namespaces),
                )
            )
        track.append(child)
    return track


@st.composite
def edits(draw, media):
    timeline = otio.schema.Timeline(
        name=draw(st.text(max_size=8)),
        metadata=draw(namespaces),
        global_start_time=draw(st.sampled_from([None, RationalTime(86400, 24), RationalTime(107892, 29.97)])),
    )
    timeline.tracks.extend(draw(st.lists(tracks(media), min_size=1, max_size=3)))
    timeline.tracks.markers.extend(draw(st.lists(markers(), max_size=2)))
    return timeline
