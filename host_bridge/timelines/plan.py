# SPDX-License-Identifier: Apache-2.0
"""From a timeline to the jobs that stabilize its clips. Nothing is rendered and nothing written here."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import opentimelineio as otio

from host_bridge.timelines.media_search import MediaSearch, exists, fingerprint, sequence_pattern
from host_bridge.timelines.walk import Place, Root, Selection, chosen
from vs3r_engine.errors import InputError, MediaError, VS3RError
from vs3r_engine.job import Job, analysis_range_of
from vs3r_engine.media.edit import (
    IMAGE_SUFFIXES,
    METADATA,
    SCHEMA,
    Media,
    Probe,
    frames_at,
    media_of,
    original_key,
    path_of_reference,
    settings_of,
    speed_of,
    used_range,
)
from vs3r_engine.media.urls import url_of_path
from vs3r_engine.settings import GROUPS, WRITABLE_SUFFIXES, Settings
from vs3r_engine.timeline import Clip, FrameRange

KEY = "VS3R"
"""The key of the stabilized media on a clip."""
CODECS = {"same": "auto", "prores": "prores-hq", "dnxhr": "dnxhr", "h265": "h265", "exr": "exr"}
"""What `--codec` says, as the setting output.codec."""
_SUFFIXES = {
    "prores": ".mov",
    "prores-hq": ".mov",
    "prores-4444": ".mov",
    "dnxhr": ".mov",
    "h264": ".mov",
    "h265": ".mov",
    "ffv1": ".mkv",
    "exr": ".exr",
    "png": ".png",
    "tiff": ".tiff",
    "dpx": ".dpx",
}
FIRST_IMAGE = "0000000"
"""The number that frame 0 of the source has, or would have, in a stabilized image sequence."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of a timeline.

    handles: frames beyond what the clip and its transitions show, at each end. settings: what clips without a VS3R effect
    get. past_end: "error", or "trim" for clips that reach past their media. only_changed: clips whose stabilized media
    fits their source, range and settings are left as they are. skip_faulty: clips that cannot be planned are skipped, and
    nothing is refused for them. redo: finished files of an earlier run count for nothing.
    """

    media_dir: str
    selection: Selection = field(default_factory=Selection)
    handles: int = 0
    settings: Settings = field(default_factory=lambda: Settings().with_values({"output.codec": "prores-hq"}))
    past_end: str = "error"
    only_changed: bool = False
    skip_faulty: bool = False
    redo: bool = False


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """One clip and the job that makes its stabilized media. Clips that show the same frames alike share a job.

    key: of the media that is stabilized. digest: of everything the result depends on. state: "render", "finished" (an
    earlier run's file is complete) or "unchanged" (the clip has it already).
    """

    place: Place
    media: Media
    key: str
    job: Job
    digest: str
    state: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will happen. skipped: clips left alone, with the reason. notes: what the user should know first."""

    clips: tuple[PlannedClip, ...]
    skipped: tuple[tuple[Place, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def jobs(self) -> list[Job]:
        """The jobs to run, each once, in timeline order."""
        return list({planned.job.job_id: planned.job for planned in self.clips if planned.state == "render"}.values())


class _StillImage(Exception):
    """The clip shows one image for as long as it lasts."""


@dataclass
class _Draft:
    """A clip whose frames are known, before neighbours decide what is analysed with it."""

    place: Place
    media: Media
    key: str
    settings: Settings
    render_range: FrameRange
    digest: str = ""
    analysis_range: FrameRange = field(init=False)

    def __post_init__(self) -> None:
        self.analysis_range = analysis_range_of(self.render_range, self.media.clip)


def plan(root: Root, options: Options, search: MediaSearch, probe: Probe, fingerprint: Callable[[str], str] = fingerprint) -> Plan:
    """The work that `root` needs; the timeline itself is untouched. Every file is opened once, however many clips use it,
    an image sequence once for each rate.

    Raises: InputError of `chosen`; one MediaError or other InputError that names every clip that cannot be planned.
    """
    notes: list[str] = []
    probe, fingerprint = cache(probe), cache(fingerprint)
    drafts, skipped, faults = [], [], []
    for place in chosen(root, options.selection):
        try:
            reference = _reference(place.clip, search, notes)
            if reference is None:
                missing = type(place.clip.media_references()[original_key(place.clip)]).__name__
                skipped.append((place, f"no media ({missing})"))
                continue
            _refuse_foreign_key(place)
            drafts.append(_draft(place, reference, options, search, probe, notes))
        except _StillImage:
            skipped.append((place, "a still image"))
        except VS3RError as error:
            faults.append((place, error))
    if faults and options.skip_faulty:
        skipped += [(place, error.message) for place, error in faults]
        skipped.sort(key=lambda pair: pair[0].number)
    elif faults:
        raise _all_at_once(faults)
    if not drafts:
        reasons = ", ".join(dict.fromkeys(reason for _, reason in skipped))
        raise InputError(
            "no-media",
            f"None of the chosen clips has moving pictures: {reasons}.",
            "Relink them in the editor and export again; name the folder of media that an EDL has only names for with --search.",
        )
    for draft in drafts:
        draft.digest = _digest(draft, fingerprint(draft.media.clip.path), search.base_dir)
    _share_analysis(drafts)
    jobs: dict[str, Job] = {}
    planned = []
    for draft in drafts:
        job = jobs.setdefault(draft.digest, _job(draft, options))
        planned.append(PlannedClip(draft.place, draft.media, draft.key, job, draft.digest, _state(draft, job, options, search.base_dir)))
    if ramps := sum(draft.place.clip.source_range is not None and speed_of(draft.place.clip) is None for draft in drafts):
        notes.append(f"Clips with speed ramps, which may show anything: {ramps}. All of their media is stabilized.")
    if shared := len(planned) - len(jobs):
        notes.append(f"Clips that show the same frames as another and share its media: {shared}.")
    return Plan(tuple(planned), tuple(skipped), tuple(dict.fromkeys(notes)))


def _reference(clip: otio.schema.Clip, search: MediaSearch, notes: list[str]) -> otio.core.MediaReference | None:
    """The media to stabilize: the clip's own; for a clip that an EDL only names, a file of that name in the searched folders."""
    reference = clip.media_references()[original_key(clip)]
    if isinstance(reference, otio.schema.ExternalReference | otio.schema.ImageSequenceReference):
        return reference
    if isinstance(reference, otio.schema.MissingReference) and (found := search.find_named([clip.name, reel_of(clip)])):
        notes.append(f"The clip {clip.name!r} names no file; {found} is called like it.")
        return otio.schema.ExternalReference(target_url=found)
    return None


def _draft(
    place: Place, reference: otio.core.MediaReference, options: Options, search: MediaSearch, probe: Probe, notes: list[str]
) -> _Draft:
    def located(path: str, sequence_rate: Fraction | None) -> Clip:
        found = search.find(path)
        if found is None:
            raise MediaError("media-missing", f"{path} does not exist.", f"Searched {search.searched()}. Name more folders with --search.")
        if found != path:
            notes.append(f"{path} was found as {found}.")
        clip = probe(found, sequence_rate)
        if _is_still(place.clip, reference, path, clip):
            raise _StillImage
        return clip

    media = media_of(place.clip, reference, located, search.base_dir)
    shown = used_range(place.clip, media, options.past_end)
    before, after = _transition_frames(place.clip, media)
    available = media.clip.available_range
    if place.clip.source_range is None:
        # The clip's length is its media's stated length, so the stabilized media states the same one.
        render_range = shown
    else:
        render_range = FrameRange.between(
            max(shown.start - before - options.handles, available.start),
            min(shown.end_exclusive + after + options.handles, available.end_exclusive),
        )
    return _Draft(place, media, original_key(place.clip), settings_of(place.clip, options.settings), render_range)


def _is_still(clip: otio.schema.Clip, reference: otio.core.MediaReference, path: str, found: Clip) -> bool:
    """True for an image that is named by itself. It stands for all files numbered alike where the edit counts as many frames."""
    if not isinstance(reference, otio.schema.ExternalReference) or os.path.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
        return False
    if sequence_pattern(re.split(r"[/\\]", path)[-1]) is not None:
        return False
    frames = found.available_range.duration
    if reference.available_range is not None:
        return frames == 1 or round(reference.available_range.duration.value) != frames
    return frames == 1 or (clip.source_range is not None and clip.source_range.duration.value > frames)


def _transition_frames(clip: otio.schema.Clip, media: Media) -> tuple[int, int]:
    """Frames that neighbouring transitions show (before, after) what the clip itself shows. A reversed clip swaps them."""
    track = clip.parent()
    if not isinstance(track, otio.schema.Track):
        return 0, 0
    speed = speed_of(clip)
    if speed is None or speed == 0:
        return 0, 0  # a ramp has all of its media already, a frozen frame never moves on
    head, tail = (math.ceil(frames_at(offset, media.clip.rate) * abs(speed)) if offset else 0 for offset in track.handles_of_child(clip))
    return (head, tail) if speed > 0 else (tail, head)


def _share_analysis(drafts: list[_Draft]) -> None:
    """Clips of one media whose analysis overlaps are analysed over one range, which the engine does once."""
    groups: dict[tuple[Clip, str], list[_Draft]] = {}
    for draft in drafts:
        groups.setdefault((draft.media.clip, draft.settings.digest("analysis")), []).append(draft)
    for group in groups.values():
        run: list[_Draft] = []
        for draft in sorted(group, key=lambda draft: draft.analysis_range.start):
            if run and draft.analysis_range.start < run[0].analysis_range.end_exclusive:
                joined = FrameRange.between(
                    run[0].analysis_range.start, max(run[0].analysis_range.end_exclusive, draft.analysis_range.end_exclusive)
                )
                run.append(draft)
                for each in run:
                    each.analysis_range = joined
            else:
                run = [draft]


def _digest(draft: _Draft, source: str, base_dir: str) -> str:
    """Of the source file (its place as seen from the timeline, so that a project may move), its rate, the frames and the settings."""
    facts = [
        SCHEMA,
        url_of_path(draft.media.clip.path, "relative", base_dir),
        source,
        str(draft.media.clip.rate),
        draft.render_range.start,
        draft.render_range.duration,
        draft.settings.digest(*GROUPS),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _job(draft: _Draft, options: Options) -> Job:
    source = draft.media.clip
    name = "_".join(
        filter(
            None,
            (
                _file_name(os.path.splitext(draft.place.clip.name)[0] or os.path.splitext(os.path.basename(source.path))[0]),
                _file_name(reel_of(draft.place.clip)),
                f"{draft.render_range.start}-{draft.render_range.end_exclusive}",
                draft.digest[:8],
            ),
        )
    )
    suffix = _SUFFIXES.get(draft.settings.output.codec) or os.path.splitext(source.path)[1].lower()
    if suffix in (".jpg", ".jpeg"):
        suffix = ".png"  # JPEG is read, not written
    if suffix in IMAGE_SUFFIXES:
        output = os.path.join(options.media_dir, name, f"{name}.{FIRST_IMAGE}{suffix}")
    else:
        output = os.path.join(options.media_dir, name + (suffix if suffix in WRITABLE_SUFFIXES else ".mov"))
    return Job(
        f"tl-{draft.digest}", source, draft.render_range, draft.analysis_range, os.path.abspath(output), draft.settings, options.redo
    )


def _state(draft: _Draft, job: Job, options: Options, base_dir: str) -> str:
    if options.only_changed:
        ours = draft.place.clip.media_references().get(KEY)
        if (
            ours is not None
            and dict(ours.metadata.get(METADATA, {})).get("digest") == draft.digest
            and exists(path_of_reference(ours, base_dir))
        ):
            return "unchanged"
    return "finished" if not options.redo and is_complete(job) else "render"


def is_complete(job: Job) -> bool:
    """The result stands whole under its name. A movie appears by a rename; of an image sequence every file must be there."""
    stem, suffix = os.path.splitext(job.output)
    if suffix not in IMAGE_SUFFIXES:
        return os.path.exists(job.output)
    stem = stem.removesuffix(FIRST_IMAGE)
    return all(os.path.exists(f"{stem}{number:0{len(FIRST_IMAGE)}d}{suffix}") for number in job.render_range)


def reel_of(clip: otio.schema.Clip) -> str:
    """The reel or tape name that the edit states, where adapters and editors keep it; empty where there is none."""
    for metadata in (clip.metadata, clip.media_references()[original_key(clip)].metadata):
        for scope in (metadata, metadata.get("cmx_3600"), metadata.get("Resolve_OTIO"), metadata.get(METADATA)):
            for key in ("reel", "Reel Name", "reel_name", "tape"):
                if hasattr(scope, "get") and isinstance(scope.get(key), str):
                    return scope[key]
    return ""


def _file_name(text: str) -> str:
    """`text` as part of a file name on every system, at most 60 characters and 80 bytes of 255."""
    plain = re.sub(r'[<>:"/\\|?*%\x00-\x1f\s]+', "_", text).strip("._ ")[:60]
    return plain.encode(errors="replace")[:80].decode(errors="ignore")


def _refuse_foreign_key(place: Place) -> None:
    ours = place.clip.media_references().get(KEY)
    if ours is not None and METADATA not in ours.metadata:
        raise InputError(
            "key-taken", f"The clip {place.clip.name!r} has media under the key {KEY!r} that VS3R did not write.", "Rename that key."
        )


def _all_at_once(faults: list[tuple[Place, VS3RError]]) -> VS3RError:
    """One error for all clips that cannot be planned; each distinct message once, with how many clips it concerns."""
    by_message: dict[str, list[Place]] = {}
    for place, error in faults:
        by_message.setdefault(error.message, []).append(place)
    first = faults[0][1]
    lines = [
        f"{message} ({', '.join(f'clip {place.number}' for place in places[:5])}{', ...' if len(places) > 5 else ''})"
        for message, places in by_message.items()
    ]
    hints = " ".join([*dict.fromkeys(error.hint for _, error in faults if error.hint), "Or leave such clips alone with --skip-faulty."])
    if len(faults) == 1:
        return type(first)(first.code, lines[0], hints)
    codes = {error.code for _, error in faults}
    code = first.code if len(codes) == 1 else "timeline-unplannable"
    return type(first)(code, f"{len(faults)} clips cannot be stabilized:\n  " + "\n  ".join(lines) + "\n", hints)
