# SPDX-License-Identifier: Apache-2.0
"""What the menu scripts of DaVinci Resolve do: stabilize the selected clips into takes, compare, tell the status.

Runs inside Resolve's own Python (3.6 to 3.14), so: standard library only, nothing else of VS3R; the work is done by the
`vs3r` program. It only adds: media, takes, a bin. It never moves, replaces or deletes, and reads every write back.
"""

import json
import os
import re
import subprocess
import sys
import unicodedata
from fractions import Fraction
from typing import NamedTuple

BIN = "VS3R"
"""The bin of the media pool that holds what we bring in."""
HANDLES = 24
"""Frames beyond each end of a clip, so that a take can still be trimmed."""
IMAGES = (".exr", ".dpx", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""Files of image sequences, whose rate is the one that the editor gave them."""


class ResolveError(Exception):
    """Something the editor has to know. `code` is stable, `hint` the next action; as the errors of the engine."""

    def __init__(self, code, message, hint=""):
        super().__init__(code, message, hint)
        self.code, self.message, self.hint = code, message, hint

    def __str__(self):
        return f"{self.message} {self.hint}".strip()


class Use(NamedTuple):
    """The frames [start, end) of a file that a timeline item shows, counted from the file's first; `frames` is its length, `rate`
    what Resolve plays it at."""

    path: str
    start: int
    end: int
    frames: int
    rate: Fraction


# --- reaching Resolve -----------------------------------------------------------------------------------------------


def connect(names=None):
    """Resolve's scripting object: the one that Resolve gives to its menu scripts (in `names`), else by its scripting module.

    Raises: ResolveError `resolve-unreachable`.
    """
    given = (names or {}).get("resolve")
    if given is not None:
        return given
    for folder in _module_folders():
        if os.path.isdir(folder) and folder not in sys.path:
            sys.path.append(folder)
    try:
        import DaVinciResolveScript
    except ImportError as error:
        raise ResolveError(
            "resolve-unreachable",
            "Resolve's scripting module was not found.",
            "Install DaVinci Resolve Studio, or set RESOLVE_SCRIPT_API to its Developer/Scripting folder.",
        ) from error
    resolve = DaVinciResolveScript.scriptapp("Resolve")
    if resolve is None:
        raise ResolveError(
            "resolve-unreachable",
            "Resolve does not answer.",
            "Start DaVinci Resolve Studio and set Preferences > System > General > External scripting using to Local.",
        )
    return resolve


def _module_folders():
    api = os.environ.get("RESOLVE_SCRIPT_API")
    places = [api] if api else []
    if sys.platform == "darwin":
        places.append("/Library/Application Support/Blackmagic Design/DaVinci Resolve/Developer/Scripting")
    elif os.name == "nt":
        places.append(
            os.path.join(
                os.environ.get("PROGRAMDATA", "C:\\ProgramData"), "Blackmagic Design\\DaVinci Resolve\\Support\\Developer\\Scripting"
            )
        )
    else:
        places += ["/opt/resolve/Developer/Scripting", "/home/resolve/Developer/Scripting"]
    return [os.path.join(place, "Modules") for place in places]


def can(thing, method):
    """True if Resolve's object has the method. hasattr is True for every name there."""
    return callable(getattr(thing, method, None))


def selected_items(resolve):
    """The selected video items of the open timeline; where this Resolve cannot tell the selection, the one under the playhead.

    Raises: ResolveError `no-timeline`, `nothing-selected`.
    """
    project = resolve.GetProjectManager().GetCurrentProject()
    timeline = project.GetCurrentTimeline() if project else None
    if timeline is None:
        raise ResolveError("no-timeline", "No timeline is open.", "Open one and select the clips to stabilize.")
    items = list(timeline.GetSelectedClips() or []) if can(timeline, "GetSelectedClips") else []
    items = [item for item in items if not can(item, "GetTrackTypeAndIndex") or (item.GetTrackTypeAndIndex() or ["video"])[0] == "video"]
    if not items:
        current = timeline.GetCurrentVideoItem()
        items = [current] if current else []
    if not items:
        raise ResolveError("nothing-selected", "No clip is selected.", "Select clips, or put the playhead on one.")
    return project, timeline, items


# --- which frames ---------------------------------------------------------------------------------------------------


def use_of(timeline, item):
    """What the item shows of which file.

    Raises: ResolveError `no-media`, `original-missing`, `retimed`, `frames-unclear`. Resolve's offsets are warped by speed changes, so
    these are refused: a wrong frame is worse than none.
    """
    media = item.GetMediaPoolItem()
    path = media.GetClipProperty("File Path") if media else ""
    if not path:
        raise ResolveError(
            "no-media", f"{item.GetName()} has no media file.", "Titles, generators and compound clips cannot be stabilized here."
        )
    if _is_our_path(path):
        raise ResolveError(
            "original-missing",
            f"{item.GetName()} shows media that VS3R made, and has no original take any more.",
            "Put the original clip back, then stabilize it.",
        )
    try:
        frames = int(media.GetClipProperty("Frames"))
        rate = rate_of(media.GetClipProperty("FPS"))
        ratio = rate / rate_of(timeline.GetSetting("timelineFrameRate"))
        start = Fraction(item.GetLeftOffset()) * ratio
        length = Fraction(item.GetDuration()) * ratio
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ResolveError(
            "frames-unclear", f"Resolve does not tell the length and rate of {path}.", "Use `vs3r timeline` with an OTIO export."
        ) from error
    _refuse_retimed(item, length)
    first = int(start + Fraction(1, 2))
    told = item.GetSourceStartFrame() if can(item, "GetSourceStartFrame") else None
    if told is not None and abs(told - first) > max(1, ratio):
        raise ResolveError(
            "frames-unclear",
            f"Resolve tells two in points for {item.GetName()}: {first} and {told}.",
            "Use `vs3r timeline` with an OTIO export.",
        )
    end = first + -(-length.numerator // length.denominator)
    if first < 0 or end > frames:
        raise ResolveError(
            "frames-unclear", f"{item.GetName()} shows frames {first}..{end} of {path}, which has {frames}.", "Relink the clip."
        )
    return Use(path, first, end, frames, rate)


def _refuse_retimed(item, length):
    percent = None
    if can(item, "GetSpeed"):  # since 21.1
        speed = item.GetSpeed()
        percent = speed.get("Percentage") if isinstance(speed, dict) else speed
    if percent is None and can(item, "GetSourceStartFrame") and can(item, "GetSourceEndFrame"):
        first, last = item.GetSourceStartFrame(), item.GetSourceEndFrame()
        if (first, last) != (0, 0):  # 0, 0 means that Resolve does not know
            # One frame of the span may be missing or counted twice.
            percent = 100 if abs(Fraction(last - first) - length) <= 2 else -1 if last < first else 0
    if percent is None:
        raise ResolveError(
            "frames-unclear", f"Resolve does not tell the speed of {item.GetName()}.", "Use `vs3r timeline` with an OTIO export."
        )
    if percent != 100:
        raise ResolveError(
            "retimed", f"{item.GetName()} has a speed change.", "Use `vs3r timeline` with an OTIO export: it keeps speed changes."
        )


def rate_of(value):
    """Resolve's rounded rate, exactly: 23.976 and "23,976" are 24000/1001, "29.97 DF" is 30000/1001."""
    digits = re.match(r"[0-9]+([.,][0-9]+)?", str(value).strip())
    if digits is None:
        raise ValueError(f"{value!r} is no frame rate")
    rate = Fraction(digits.group().replace(",", "."))
    for nominal in (24, 30, 48, 60, 120):
        ntsc = Fraction(nominal * 1000, 1001)
        if abs(rate - ntsc) < Fraction(nominal, 4800):
            return ntsc
    return rate


# --- the three menu entries -------------------------------------------------------------------------------------------


def stabilize_selected(resolve, program, arguments=(), say=print):
    """Every selected clip has its stabilized version as its selected take; the original is the take beside it.

    program: the `vs3r` command as a list. arguments: more of `vs3r stabilize`'s own. Returns: (done, failed) counts.
    """
    project, timeline, items = selected_items(resolve)
    done = failed = 0
    for number, item in enumerate(items, 1):
        shown = item.GetSelectedTakeIndex() or 0
        try:
            _show_original(item)
            use = use_of(timeline, item)
            start, end = max(0, use.start - HANDLES), min(use.frames, use.end + HANDLES)
            output = output_for(use.path, start, end)
            fps = ["--fps", str(use.rate)] if use.path.lower().endswith(IMAGES) else []
            say(f"[{number}/{len(items)}] {item.GetName()}: stabilizing frames {start}..{end}")
            run([*program, "stabilize", use.path, "-o", output, "--range", f"{start}..{end}", *fps, "--json", *arguments], say)
            add_take(project, item, output, use.start - start, use.end - start, use)
            say(f"[{number}/{len(items)}] {item.GetName()}: done, as a new take")
            done += 1
        except ResolveError as problem:
            if shown and item.GetSelectedTakeIndex() != shown:
                item.SelectTakeByIndex(shown)
            say(f"[{number}/{len(items)}] {item.GetName()}: {problem}")
            failed += 1
    return done, failed


def _show_original(item):
    """A stabilized take is not stabilized again: its item shows the original, whose frames are meant."""
    takes = {index: item.GetTakeByIndex(index) for index in range(1, (item.GetTakesCount() or 0) + 1)}
    originals = [index for index, take in takes.items() if not _is_ours(take)]
    if originals and item.GetSelectedTakeIndex() not in originals:
        _select_take(item, originals[0])


def compare(resolve, say=print):
    """Every selected clip with a stabilized take shows its other version. Returns how many were switched."""
    _, _, items = selected_items(resolve)
    switched = 0
    for item in items:
        ours = [index for index in range(1, (item.GetTakesCount() or 0) + 1) if _is_ours(item.GetTakeByIndex(index))]
        if not ours:
            say(f"{item.GetName()} has no stabilized take.")
            continue
        now = item.GetSelectedTakeIndex()
        others = [index for index in range(1, item.GetTakesCount() + 1) if index not in ours]
        if not others:
            say(f"{item.GetName()} has no original take any more.")
            continue
        wanted = ours[-1] if now not in ours else others[0]
        _select_take(item, wanted)
        say(f"{item.GetName()} shows the {'stabilized' if wanted in ours else 'original'} take.")
        switched += 1
    return switched


def status(resolve, program, say=print):
    """Tells which Resolve this is and what the engine does."""
    say(f"{resolve.GetProductName()} {resolve.GetVersionString()}")
    run([*program, "engine", "status", "--json"], say)


# --- adding -----------------------------------------------------------------------------------------------------------


def output_for(path, start, end):
    """A name that is not taken, in the folder VS3R beside the source."""
    folder = os.path.join(os.path.dirname(path), BIN)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ResolveError(
            "cannot-write", f"The folder {folder} cannot be created: {error.strerror}.", "Make the media's folder writable."
        ) from error
    stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(path))[0])
    for number in range(1, 10000):
        name = os.path.join(folder, f"{stem}_VS3R_{start}-{end}{'' if number == 1 else f'_{number}'}.mov")
        if not os.path.exists(name):
            return name
    raise ResolveError("cannot-write", f"{folder} is full of versions of {stem}.", "Remove some.")


def add_take(project, item, output, start, end, use):
    """`output` is in our bin and is the item's selected take, its frames [start, end) in the place of the original's; read back.

    Raises: ResolveError `import-failed`, `take-failed`. The item then shows what it showed before.
    """
    media = _import(project, output)
    if can(media, "SetThirdPartyMetadata"):
        media.SetThirdPartyMetadata("VS3R source", use.path)
        media.SetThirdPartyMetadata("VS3R range", f"{use.start}..{use.end}")
    place, before, shown = (item.GetStart(), item.GetDuration()), item.GetTakesCount() or 0, item.GetSelectedTakeIndex() or 1
    if not can(item, "AddTake") or not item.AddTake(media, start, end - 1):
        raise ResolveError("take-failed", f"Resolve refused the take of {item.GetName()}.", f"The stabilized media is in the bin {BIN}.")
    count = item.GetTakesCount() or 0
    take = (item.GetTakeByIndex(count) if count > before else None) or {}
    arrived = take["mediaPoolItem"].GetClipProperty("File Path") if _is_ours(take) else ""
    if not _is_same_path(arrived, output) or take.get("startFrame") != start:
        raise ResolveError(
            "take-failed", f"The take of {item.GetName()} did not arrive as asked.", f"The stabilized media is in the bin {BIN}."
        )
    _select_take(item, count)
    if (item.GetStart(), item.GetDuration()) != place:
        _select_take(item, shown)
        raise ResolveError(
            "take-failed",
            f"With the take {item.GetName()} would change its place or length; it shows the original again.",
            f"The stabilized media is in the bin {BIN}.",
        )


def _select_take(item, index):
    item.SelectTakeByIndex(index)
    if item.GetSelectedTakeIndex() != index:
        raise ResolveError("take-failed", f"Resolve did not switch the take of {item.GetName()}.", "Switch it in the take selector.")


def _is_ours(take):
    media = (take or {}).get("mediaPoolItem")
    return _is_our_path((media.GetClipProperty("File Path") or "") if media else "")


def _is_our_path(path):
    return "_VS3R_" in os.path.basename(path) and os.path.basename(os.path.dirname(path)) == BIN


def _is_same_path(first, second):
    """macOS spells ü as u and dots, Windows takes either slash."""
    first, second = (os.path.normcase(os.path.normpath(unicodedata.normalize("NFC", path))) for path in (first or "", second))
    return first == second


def _import(project, path):
    """The file's item in our bin; the bin that was open stays open."""
    pool = project.GetMediaPool()
    opened, root = pool.GetCurrentFolder(), pool.GetRootFolder()
    ours = next((folder for folder in root.GetSubFolderList() or [] if folder.GetName() == BIN), None) or pool.AddSubFolder(root, BIN)
    if not ours:
        raise ResolveError("import-failed", f"The bin {BIN} could not be made.", "Is the project read-only?")
    pool.SetCurrentFolder(ours)
    try:
        imported = pool.ImportMedia([path]) or []
    finally:
        pool.SetCurrentFolder(opened)
    if len(imported) != 1 or not _is_same_path(imported[0].GetClipProperty("File Path"), path):
        raise ResolveError("import-failed", f"Resolve did not import {path}.", "Can this edition read the codec?")
    return imported[0]


# --- the vs3r program -------------------------------------------------------------------------------------------------


def run(command, say=print):
    """The last event of a `vs3r ... --json` that ended well; progress is said once per stage and ten percent.

    Raises: ResolveError with the program's own code, or `vs3r-missing`, `vs3r-failed`.
    """
    # Resolve's Python settings would break another Python.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    try:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise ResolveError(
            "vs3r-missing", f"The program {command[0]} cannot be run.", "Install VS3R, then run `vs3r resolve install`."
        ) from error
    event, said = {}, None
    with child:
        for line in child.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("type") == "progress":
                now = (event.get("stage"), int(10 * event.get("fraction", 0)))
                if now != said:
                    say(f"  {event.get('stage')} {100 * event.get('fraction', 0):.0f} %")
                said = now
    code = child.returncode
    if event.get("type") == "error":
        raise ResolveError(event.get("code", "vs3r-failed"), event.get("message", ""), event.get("hint", ""))
    if code != 0:
        raise ResolveError("vs3r-failed", f"{os.path.basename(command[0])} ended with code {code}.", "Run `vs3r doctor`.")
    return event
