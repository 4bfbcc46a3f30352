# SPDX-License-Identifier: Apache-2.0
"""`vs3r timeline`: stabilizes the clips of an edit and hands the edit back."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from vs3r_engine.errors import Cancelled, InputError, SettingsError, VS3RError
from vs3r_engine.settings import Settings


class OpenEngine(Protocol):
    """Connects to an engine, starting one where none runs."""

    def __call__(self, engine_file: Path | None, /) -> AbstractContextManager[Any]:
        """A host_bridge.timelines.run.Engine for the length of the `with`. Raises: VS3RError."""


def timeline_command(open_engine: OpenEngine):
    """The command `timeline` for a Typer program that can open an engine."""

    def timeline(
        source: Annotated[str, typer.Argument(metavar="IN", help="The timeline: .otio, .xml (FCP 7), .edl, .fcpxml or .aaf.")],
        output: Annotated[str, typer.Option("-o", "--output", help="The stabilized timeline: .otio, or .xml (FCP 7).")] = "",
        tracks: Annotated[str, typer.Option(help="Only these tracks: V1,V2 or their names.")] = "",
        clips: Annotated[list[str], typer.Option(help="Only the clips of this name or number. Repeat for more.")] = [],  # noqa: B006
        marker: Annotated[str, typer.Option(help="Only clips under a marker of this colour or name.")] = "",
        handles: Annotated[int, typer.Option(min=0, help="Frames beyond what each clip and its transitions show.")] = 0,
        preset_name: Annotated[
            str, typer.Option("--preset", help="natural, glide, locked, subtle, or one of your own, for clips without a VS3R effect.")
        ] = "natural",
        assignments: Annotated[list[str], typer.Option("--set", help="A setting, such as path.smoothness=70. Repeat for more.")] = [],  # noqa: B006
        codec: Annotated[str, typer.Option(help="same, prores, dnxhr, h265 or exr.")] = "prores",
        media_dir: Annotated[str, typer.Option(help="Where the stabilized media goes; a folder beside the output by default.")] = "",
        editor: Annotated[str, typer.Option("--for", help="The editor that opens the result: resolve, kdenlive or premiere.")] = "",
        past_end: Annotated[
            str, typer.Option(help="Clips that reach past their media: error, or trim to stabilize the part that exists.")
        ] = "error",
        search: Annotated[list[str], typer.Option(help="A folder in which to look for missing media. Repeat for more.")] = [],  # noqa: B006
        rate: Annotated[float | None, typer.Option(help="Frame rate of an EDL, which does not state it.")] = None,
        only_changed: Annotated[
            bool, typer.Option("--only-changed", help="Leave clips alone whose source, range and settings are as before.")
        ] = False,
        skip_faulty: Annotated[
            bool,
            typer.Option("--skip-faulty", help="Leave clips alone that cannot be stabilized, as where media is missing, and say which."),
        ] = False,
        revert: Annotated[bool, typer.Option("--revert", help="Take all stabilized media out again.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen.")] = False,
        force: Annotated[bool, typer.Option("-f", "--force", help="Replace the output, and render everything again.")] = False,
        engine: Annotated[Path | None, typer.Option(help="Connection file of another engine.", envvar="VS3R_ENGINE")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Write NDJSON on standard output.")] = False,
    ) -> None:
        """Stabilize the clips of an edit; everything else of it comes back as it was."""
        from host_bridge.timelines import apply, files, flavours
        from host_bridge.timelines.media_search import MediaSearch
        from host_bridge.timelines.plan import CODECS, Options, Plan, plan
        from host_bridge.timelines.run import ClipProgress, Outcome, run
        from host_bridge.timelines.walk import Selection

        if not output and not dry_run:
            raise InputError("no-output", "Where should the stabilized timeline go?", "Give -o OUT.otio.")
        output = output or f"{os.path.splitext(source)[0]}.vs3r{flavours.suffix_for(editor)}"
        editor = flavours.editor_of(editor, output)
        if os.path.abspath(output) == os.path.abspath(source):
            raise InputError("output-is-source", f"{source} would be overwritten.", "Give the result another name.")
        if codec not in CODECS:
            raise SettingsError("bad-setting", f"--codec cannot be {codec!r}.", f"Give one of {', '.join(CODECS)}.")
        if past_end not in ("error", "trim"):
            raise SettingsError("bad-setting", f"--past-end cannot be {past_end!r}.", "Give error or trim.")
        for folder in search:
            if not os.path.isdir(folder):
                raise InputError("no-such-folder", f"There is no folder {folder} to search.", "Check --search.")
        if not dry_run:
            files.refuse_output(output, force)
        root = files.read_timeline(source, rate)
        input_dir, output_dir = os.path.dirname(os.path.abspath(source)), os.path.dirname(os.path.abspath(output))
        if revert:
            reverted = flavours.for_editor(editor, apply.reverted(root), Plan(()), {}, input_dir, output_dir)
            files.write_timeline(reverted, output, force)
            _say(as_json, {"type": "result", "output": output}, output)
            return

        report = _Report(as_json)
        options = Options(
            media_dir=media_dir or f"{os.path.splitext(os.path.abspath(output))[0]}_media",
            selection=Selection(tuple(filter(None, tracks.split(","))), tuple(clips), marker),
            handles=handles,
            settings=_settings(preset_name, assignments, CODECS[codec]),
            past_end=past_end,
            only_changed=only_changed,
            skip_faulty=skip_faulty,
            redo=force,
        )
        with _stoppable(), open_engine(engine) as connected:
            planned = plan(root, options, MediaSearch(input_dir, tuple(map(os.path.abspath, search))), connected.probe)
            as_written = flavours.for_editor(editor, root, planned, {}, input_dir, output_dir)
            losses = [*files.losses(as_written, output), *flavours.editor_losses(root, editor)]
            report.plan(planned)
            for loss in losses:
                report.note(loss)
            if dry_run:
                return
            if planned.jobs:
                _make_folders([job.output for job in planned.jobs])
            steps = run(planned, connected)
            while True:
                try:
                    step: ClipProgress = next(steps)
                except StopIteration as stop:
                    outcome: Outcome = stop.value
                    break
                report.step(step)
        result = flavours.for_editor(editor, root, planned, outcome.results, input_dir, output_dir)
        files.write_timeline(result, output, force)
        report.failures(planned, outcome)
        _say(as_json, {"type": "result", "output": output, "rendered": len(outcome.results), "failed": len(outcome.failures)}, output)
        if outcome.failures:
            print(
                f"Remove {output} and give the same command again: what is finished is taken, what failed is tried again.", file=sys.stderr
            )
            raise typer.Exit(next(iter(outcome.failures.values())).exit_code)

    return timeline


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C tells how to go on. Raises: Cancelled."""
    try:
        yield
    except KeyboardInterrupt:
        raise Cancelled("Stopped.", "The same command again goes on from what is finished.") from None


def _settings(preset_name: str, assignments: list[str], codec: str) -> Settings:
    from host_bridge.presets import chosen_values

    return Settings().with_values(chosen_values(preset_name, [f"output.codec={codec}", *assignments]))


def _make_folders(outputs: list[str]) -> None:
    for folder in dict.fromkeys(os.path.dirname(output) for output in outputs):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise InputError(
                "cannot-write", f"The folder {folder} cannot be created: {error.strerror}.", "Choose another with --media-dir."
            ) from error


def _say(as_json: bool, event: dict[str, Any], text: str) -> None:
    print(json.dumps(event) if as_json else text, flush=True)


class _Report:
    """Tells the user: events as NDJSON on standard output with --json, else lines on standard error."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.last = (0, "")

    def _tell(self, event: dict[str, Any], line: str) -> None:
        if self.as_json:
            print(json.dumps(event), flush=True)
        else:
            print(line, file=sys.stderr)

    def note(self, text: str) -> None:
        self._tell({"type": "note", "message": text}, f"note: {text}")

    def plan(self, planned: Any) -> None:
        for each in planned.clips:
            place, job = each.place, each.job
            self._tell(
                {
                    "type": "clip",
                    "number": place.number,
                    "name": place.clip.name,
                    "track": place.track,
                    "state": each.state,
                    "source": job.clip.path,
                    "frames": [job.render_range.start, job.render_range.end_exclusive],
                    "analysis": [job.analysis_range.start, job.analysis_range.end_exclusive],
                    "output": job.output,
                },
                f"{place.number:4d} {place.track} {place.clip.name}: "
                f"frames {job.render_range} of {os.path.basename(job.clip.path)} ({each.state})",
            )
        for place, reason in planned.skipped:
            self._tell(
                {"type": "skipped", "number": place.number, "name": place.clip.name, "track": place.track, "reason": reason},
                f"{place.number:4d} {place.track} {place.clip.name}: skipped, {reason}",
            )
        for note in planned.notes:
            self.note(note)

    def step(self, step: Any) -> None:
        now = (step.index, step.progress.stage)
        event = {
            "type": "progress",
            "clip": step.name,
            "index": step.index,
            "total": step.total,
            "stage": step.progress.stage,
            "done": step.progress.done,
            "of": step.progress.total,
            "fraction": round(step.fraction, 6),
            "found": step.progress.found,
        }
        if self.as_json or now != self.last:
            self._tell(event, f"{step.fraction:4.0%} [{step.index}/{step.total}] {step.name}: {step.progress.stage}")
        self.last = now

    def failures(self, planned: Any, outcome: Any) -> None:
        for each in planned.clips:
            error: VS3RError | None = outcome.failures.get(each.job.job_id)
            if error is not None:
                self._tell(
                    {
                        "type": "failed",
                        "number": each.place.number,
                        "name": each.place.clip.name,
                        "code": error.code,
                        "message": error.message,
                        "hint": error.hint,
                    },
                    f"failed: clip {each.place.number} {each.place.clip.name}: {error}",
                )
