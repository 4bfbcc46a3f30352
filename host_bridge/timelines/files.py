# SPDX-License-Identifier: Apache-2.0
"""Timeline files: which adapter reads and writes each kind, and what a kind cannot carry."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import opentimelineio as otio

from host_bridge.timelines.walk import Root, timelines_of, video_clips
from vs3r_engine.errors import InputError, SetupError


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
    ".edl": Format("cmx_3600", "EDL (CMX 3600)", "otio-cmx3600-adapter"),
    ".fcpxml": Format("fcpx_xml", "FCPXML", "otio-fcpx-xml-adapter"),
    ".aaf": Format("AAF", "AAF", "otio-aaf-adapter", writes=False),
}


def format_of(path: str) -> Format:
    """Raises: InputError `unknown-timeline-format`; SetupError `adapter-missing`."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise InputError("unknown-timeline-format", f"{path} is none of the timeline files that can be read: {' '.join(FORMATS)}.",
                         "Export an .otio file.")
    kind = FORMATS[suffix]
    if kind.adapter not in otio.adapters.available_adapter_names():
        raise SetupError("adapter-missing", f"{kind.label} needs the package {kind.package}.", "Install it: pip install 'vs3r[timelines]'.")
    return kind


def read_timeline(path: str, edl_rate: float | None = None) -> Root:
    """The timeline, or the collection of timelines, in a file.

    edl_rate: an EDL does not state its frame rate.

    Raises: InputError `timeline-missing`, `unknown-timeline-format`, `edl-rate`, `not-a-timeline`, `unknown-schema`.
    """
    kind = format_of(path)
    if not os.path.isfile(path):
        raise InputError("timeline-missing", f"There is no file {path}.", "Check the path.")
    if kind.adapter == "cmx_3600" and edl_rate is None:
        raise InputError("edl-rate", f"{path} is an EDL, which does not state its frame rate.", "Give it, such as --rate 25.")
    arguments = {"rate": edl_rate} if kind.adapter == "cmx_3600" else {}
    try:
        root = otio.adapters.read_from_file(path, kind.adapter, **arguments)
    except otio.exceptions.UnsupportedSchemaError as error:
        raise InputError("unknown-schema", f"{path} was written by a newer OpenTimelineIO: {error}", "Export it for version 0.17 or older.") from error
    except Exception as error:  # adapters raise whatever their parsers do: ValueError, KeyError, ParseError, AttributeError
        if "UnknownSchema" in str(error):
            raise InputError("unknown-schema", f"{path} holds an object of a schema that OpenTimelineIO does not know: {_first_line(error)}",
                             "Export it without that program's own objects.") from error
        raise InputError("not-a-timeline", f"{path} cannot be read as {kind.label}: {_first_line(error)}", "Export it again.") from error
    if getattr(root, "is_unknown_schema", False):
        raise InputError("unknown-schema", f"{path} holds an object of the unknown schema {root.original_schema_name}.", "Export a Timeline.")
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
        raise InputError("format-cannot-carry", f"The timeline cannot be written as {kind.label}: {_first_line(error)}", "Write an .otio file.") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def refuse_output(path: str, overwrite: bool) -> None:
    """Raises: InputError `output-exists`, `format-cannot-carry`, `no-such-folder` if `path` cannot become the result."""
    kind = format_of(path)
    if not kind.writes:
        raise InputError("format-cannot-carry", f"{kind.label} files can be read, not written.", "Write an .otio or .xml file.")
    if os.path.exists(path) and not overwrite:
        raise InputError("output-exists", f"{path} exists already.", "Give another name, or -f to replace it.")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise InputError("no-such-folder", f"The folder of {path} does not exist.", "Create it first.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- what a format cannot carry --------------------------------------------------------------------------------------

def losses(root: Root, path: str) -> list[str]:
    """What of this timeline gets lost when it is written to `path`, in sentences; empty when nothing is.

    The facts are those of the adapters' versions named in the `timelines` extra, found by writing and reading back.

    Raises: InputError `format-cannot-carry` where the adapter would fail.
    """
    adapter = format_of(path).adapter
    if adapter == "otio_json":
        return []
    return list({"fcp_xml": _fcp_xml_losses, "cmx_3600": _edl_losses, "fcpx_xml": _fcpx_losses}[adapter](root))


def _retimed(root: Root) -> int:
    return sum(any(isinstance(effect, otio.schema.TimeEffect) for effect in place.clip.effects) for place in video_clips(root))


def _transitions(root: Root) -> int:
    return sum(len(timeline.find_children(descended_from_type=otio.schema.Transition)) for timeline in timelines_of(root))


def _fcp_xml_losses(root: Root) -> Iterator[str]:
    if count := _retimed(root):
        yield f"The speed of {count} retimed clips is lost: set it again in the editor."
    if any(track.name for timeline in timelines_of(root) for track in timeline.tracks if isinstance(track, otio.schema.Track)):
        yield "Track names are lost."
    yield "Only the active media of each clip is written; effects and metadata of other programs are lost."


def _edl_losses(root: Root) -> Iterator[str]:
    for timeline in timelines_of(root):
        if len(timeline.video_tracks()) != 1:
            raise InputError("format-cannot-carry", f"An EDL holds one video track, and this timeline has {len(timeline.video_tracks())}.",
                             "Write an .otio or .xml file.")
        if any(isinstance(child, otio.schema.Stack) for child in timeline.video_tracks()[0]):
            raise InputError("format-cannot-carry", "An EDL holds no nested or compound clips.", "Write an .otio or .xml file.")
        if timeline.global_start_time is not None and timeline.global_start_time.value:
            yield "The start timecode is lost: the EDL begins at 00:00:00:00."
        if timeline.audio_tracks():
            yield "Audio tracks may be lost."
    yield "Only the active media of each clip is written; track names, effects and metadata are lost."


def _fcpx_losses(root: Root) -> Iterator[str]:
    if count := _transitions(root):
        yield f"{count} transitions are lost."
    if count := _retimed(root):
        yield f"The speed of {count} retimed clips is lost: set it again in the editor."
    if any(timeline.global_start_time is not None and timeline.global_start_time.value for timeline in timelines_of(root)):
        yield "The start timecode is lost."
    yield "Only the active media of each clip is written; effects and metadata of other programs are lost."
