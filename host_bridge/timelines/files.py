# SPDX-License-Identifier: Apache-2.0
"""Timeline files: which adapter reads and writes each kind, and what a kind cannot carry."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from xml.etree import ElementTree

import opentimelineio as otio
from opentimelineio.opentime import RationalTime

from host_bridge.timelines.fcp7_speed import filters_to_effects
from host_bridge.timelines.walk import Place, Root, clips_of, timelines_of, video_clips
from vs3r_engine.errors import InputError, SetupError, VS3RError
from vs3r_engine.media.edit import frames_at, speed_of
from vs3r_engine.timeline import exact_rate


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of timeline file. package: what brings its adapter; empty for OpenTimelineIO's own."""

    adapter: str
    label: str
    package: str = ""
    writes: bool = True


FORMATS = {
    ".otio": Format("otio_json", "OpenTimelineIO"),
    ".xml": Format("fcp_xml", "Final Cut Pro 7 XML", "otio-fcp-adapter"),
    ".edl": Format("cmx_3600", "EDL (CMX 3600)", "otio-cmx3600-adapter", writes=False),
    ".fcpxml": Format("fcpx_xml", "FCPXML", "otio-fcpx-xml-adapter", writes=False),
    ".aaf": Format("AAF", "AAF", "otio-aaf-adapter", writes=False),
}
"""Written and read back with OpenTimelineIO 0.18.1: EDL loses tracks and the start timecode and cannot be read again at 29.97, FCPXML
gives other frames at 29.97 and 23.976, AAF refuses. They are read only."""


def format_of(path: str) -> Format:
    """Raises: InputError `unknown-timeline-format`; SetupError `adapter-missing`."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise InputError(
            "unknown-timeline-format",
            f"{path} is none of the timeline files that can be read: {' '.join(FORMATS)}.",
            "Export an .otio file.",
        )
    kind = FORMATS[suffix]
    if kind.adapter not in otio.adapters.available_adapter_names():
        raise SetupError("adapter-missing", f"{kind.label} needs the package {kind.package}.", "Install it: pip install 'vs3r[timelines]'.")
    return kind


def read_timeline(path: str, edl_rate: float | None = None) -> Root:
    """The timeline, or the collection of timelines, in a file.

    edl_rate: an EDL does not state its frame rate, and nothing else needs one.

    Raises: InputError `timeline-missing`, `unknown-timeline-format`, `edl-rate`, `rate-of-file`, `not-a-timeline`, `unknown-schema`,
    `fcpxml-rate`, `fcpxml-speed`.
    """
    kind = format_of(path)
    if not os.path.isfile(path):
        raise InputError("timeline-missing", f"There is no file {path}.", "Check the path.")
    if kind.adapter == "cmx_3600" and edl_rate is None:
        raise InputError("edl-rate", f"{path} is an EDL, which does not state its frame rate.", "Give it, such as --rate 25.")
    if kind.adapter != "cmx_3600" and edl_rate is not None:
        raise InputError("rate-of-file", f"{path} is no EDL: the rates in the file stand.", "Leave the rate (--rate) out.")
    arguments = {"rate": float(exact_rate(edl_rate))} if kind.adapter == "cmx_3600" and edl_rate is not None else {}
    try:
        if kind.adapter == "fcpx_xml":
            root = _read_fcpxml(path)
        else:
            root = otio.adapters.read_from_file(path, kind.adapter, **arguments)
        if kind.adapter == "fcp_xml":
            for clip in clips_of(root):
                filters_to_effects(clip)
    except VS3RError:
        raise
    except otio.exceptions.UnsupportedSchemaError as error:
        raise InputError(
            "unknown-schema", f"{path} was written by a newer OpenTimelineIO: {error}", "Export it for version 0.17 or older."
        ) from error
    except Exception as error:  # adapters raise whatever their parsers do: ValueError, KeyError, ParseError, AttributeError
        if "UnknownSchema" in str(error):
            raise InputError(
                "unknown-schema",
                f"{path} holds an object of a schema that OpenTimelineIO does not know: {_first_line(error)}",
                "Export it without that program's own objects.",
            ) from error
        hint = f"Is {edl_rate:g} its frame rate (--rate)? Else export it again." if edl_rate is not None else "Export it again."
        raise InputError("not-a-timeline", f"{path} cannot be read as {kind.label}: {_first_line(error)}", hint) from error
    if getattr(root, "is_unknown_schema", False):
        raise InputError(
            "unknown-schema", f"{path} holds an object of the unknown schema {root.original_schema_name}.", "Export a Timeline."
        )
    if isinstance(root, otio.schema.SerializableCollection) and kind.adapter != "otio_json":
        timelines = root.find_children(descended_from_type=otio.schema.Timeline)
        return timelines[0].deepcopy() if len(timelines) == 1 else root  # of a project with one timeline that is what is meant
    if isinstance(root, otio.schema.Timeline | otio.schema.SerializableCollection):
        return root
    raise InputError("not-a-timeline", f"{path} holds {type(root).__name__}, not a timeline.", "Export the timeline, not a clip or a bin.")


def write_timeline(root: Root, path: str, overwrite: bool = False) -> None:
    """The timeline is complete under `path`, or nothing changed there.

    Raises: InputError `output-exists`, `format-cannot-carry`.
    """
    kind = format_of(path)
    refuse_output(path, overwrite)
    stem, suffix = os.path.splitext(path)
    partial = f"{stem}.partial{suffix}"
    try:
        otio.adapters.write_to_file(root, partial, kind.adapter)
        os.replace(partial, path)
    except OSError as error:
        raise InputError("cannot-write", f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error
    except Exception as error:  # as in read_timeline: whatever the adapter raises
        raise InputError(
            "format-cannot-carry", f"The timeline cannot be written as {kind.label}: {_first_line(error)}", "Write an .otio file."
        ) from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def refuse_output(path: str, overwrite: bool) -> None:
    """Raises: InputError `output-exists`, `format-cannot-carry`, `no-such-folder`, `cannot-write` if `path` cannot become the result."""
    kind = format_of(path)
    if not kind.writes:
        raise InputError("format-cannot-carry", f"{kind.label} files can be read, not written.", "Write an .otio or .xml file.")
    if os.path.exists(path) and not overwrite:
        raise InputError(
            "output-exists",
            f"{path} exists already.",
            "Remove it to go on from what is finished, give another name, or -f to replace it and render everything again.",
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError("no-such-folder", f"The folder of {path} does not exist.", "Create it first.")
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        why = "it is a folder" if os.path.isdir(path) else f"{folder} is not yours to write to"
        raise InputError("cannot-write", f"{path} cannot be written: {why}.", "Choose another place.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _read_fcpxml(path: str) -> Root:
    """The timelines of an FCPXML file, as Final Cut and Resolve write it today: version 1.9 has the file in a media-rep, and clips
    count from the timeline's own start. The adapter (1.0.0) knows neither.

    Raises: InputError `fcpxml-rate`, `fcpxml-speed` for what it reads as other frames.
    """
    xml = ElementTree.parse(path).getroot()
    if any(each.get("frameDuration", "").startswith("1001/") for each in xml.iter("format")):
        # The adapter reads 1001/30000s as 29 frames per second.
        raise InputError(
            "fcpxml-rate",
            f"{path} runs at 23.976, 29.97 or 59.94 frames per second, which cannot be read exactly from FCPXML.",
            "Export an .otio or an FCP 7 .xml file.",
        )
    if retimed := sum(1 for _ in xml.iter("timeMap")):
        raise InputError(
            "fcpxml-speed",
            f"{path} has speed changes ({retimed}), which cannot be read from FCPXML.",
            "Export an .otio file, or take the speed changes out and put them back afterwards.",
        )
    for asset in xml.iter("asset"):
        media = asset.find("media-rep")
        if media is not None and not asset.get("src"):
            asset.set("src", media.get("src", ""))
    starts = []
    for sequence in xml.iter("sequence"):
        starts.append(_seconds(sequence.get("tcStart", "0s")))
        for item in sequence.iterfind("spine/*[@offset]"):
            offset = _seconds(item.get("offset", "0s")) - starts[-1]
            item.set("offset", f"{offset.numerator}/{offset.denominator}s")
    root = otio.adapters.read_from_string(ElementTree.tostring(xml, encoding="unicode"), "fcpx_xml")
    timelines = root.find_children(descended_from_type=otio.schema.Timeline) if not isinstance(root, otio.schema.Timeline) else [root]
    for timeline, start in zip(timelines, starts, strict=False):
        if start and len(timelines) == len(starts):
            rate = timeline.duration().rate
            timeline.global_start_time = RationalTime(float(start * exact_rate(rate)), rate)
    return root


def _seconds(text: str) -> Fraction:
    return Fraction(text.removesuffix("s"))


# --- what a format cannot carry --------------------------------------------------------------------------------------


def losses(root: Root, path: str) -> list[str]:
    """What of this timeline gets lost when it is written to `path`, in sentences: found by writing it and reading it back.

    Raises: InputError `format-cannot-carry` where it cannot be written, or would come back with other frames.
    """
    kind = format_of(path)
    if kind.adapter == "otio_json":
        return []
    try:
        back = otio.adapters.read_from_string(otio.adapters.write_to_string(root, kind.adapter), kind.adapter)
    except Exception as error:  # as in read_timeline: whatever the adapter raises
        raise InputError(
            "format-cannot-carry", f"The timeline cannot be written as {kind.label}: {_first_line(error)}", "Write an .otio file."
        ) from error
    before, after = list(video_clips(root)), list(video_clips(back))
    if len(before) != len(after):
        raise InputError(
            "format-cannot-carry",
            f"As {kind.label} {len(before) - len(after)} of {len(before)} clips would be missing, those in nested stacks.",
            "Write an .otio file.",
        )
    if [_frames(place.clip) for place in before] != [_frames(place.clip) for place in after]:
        raise InputError("format-cannot-carry", f"As {kind.label} the clips would come back with other frames.", "Write an .otio file.")
    return list(_differences(before, after, root, back))


def _frames(clip: otio.schema.Clip) -> tuple[Fraction, ...]:
    span = clip.trimmed_range()
    rates = [exact_rate(time.rate) for time in (span.start_time, span.duration)]
    return frames_at(span.start_time, rates[0]) / rates[0], frames_at(span.duration, rates[1]) / rates[1]


def _differences(before: list[Place], after: list[Place], root: Root, back: Root) -> Iterator[str]:
    if slowed := sum(speed_of(was.clip) != speed_of(now.clip) for was, now in zip(before, after, strict=True)):
        yield f"The speed of {slowed} retimed clips is lost: set it again in the editor."
    for what, schema in (("transitions", otio.schema.Transition), ("generators", otio.schema.GeneratorReference)):
        lost = _count(root, schema) - _count(back, schema)
        if lost > 0:
            yield f"{lost} {what} are lost."
    if [place.track_name for place in before] != [place.track_name for place in after]:
        yield "Track names are lost."
    if sum(len(place.clip.markers) for place in before) > sum(len(place.clip.markers) for place in after):
        yield "Markers are lost."
    yield "Only the active media of each clip is written; effects and metadata of other programs may be lost."


def _count(root: Root, schema: type) -> int:
    if schema is otio.schema.GeneratorReference:
        return sum(isinstance(place.clip.media_reference, schema) for place in video_clips(root))
    return sum(len(timeline.find_children(descended_from_type=schema)) for timeline in timelines_of(root))
