# SPDX-License-Identifier: Apache-2.0
"""`vs3r`: stabilizes clips and timelines through the engine, which it starts where none runs.

Standard output carries the result only; progress and messages go to standard error. Exit codes: 0 done, 1 fault,
2 usage, 3 setup, 4 input, 5 resources, 130 cancelled.
"""

import contextlib
import io
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from host_bridge.presets_cli import presets_app
from host_bridge.resolve_cli import resolve_app
from host_bridge.timeline_cli import timeline_command
from vs3r_engine import __version__
from vs3r_engine.errors import Cancelled, EngineFault, InputError, VS3RError, was_interrupted
from vs3r_engine.settings import WRITABLE_SUFFIXES
from vs3r_engine.timeline import exact_rate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Full-frame 3D video stabilization.",
)
jobs = typer.Typer(invoke_without_command=True, help="List the engine's jobs, or cancel one.")
engine = typer.Typer(no_args_is_help=True, help="The engine: start, stop, status, logs.")
cache = typer.Typer(no_args_is_help=True, help="What is kept on disk between jobs: show, clear.")
app.add_typer(jobs, name="jobs")
app.add_typer(engine, name="engine")
app.add_typer(presets_app, name="presets")
app.add_typer(cache, name="cache")

CANCEL_S = 15.0

Clip = Annotated[str, typer.Argument(metavar="IN", help="The clip: a video file, or an image sequence.")]
Clips = Annotated[list[str], typer.Argument(metavar="IN...", help="The clips: video files, or image sequences.")]
Range = Annotated[str | None, typer.Option("--range", help="Frames to return: 100..340 (end not included), or two timecodes.")]
Fps = Annotated[str | None, typer.Option(help="The rate of an image sequence: 25, 29.97, 30000/1001.")]
Preset = Annotated[str, typer.Option(help="natural, glide, locked, subtle, or one of your own.")]
Set = Annotated[list[str], typer.Option("--set", help="A setting, such as path.smoothness=70. Repeat for more.")]
Draft = Annotated[bool, typer.Option("--draft", help="Fast look: fill.quality=draft.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write NDJSON on standard output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on standard error but errors.")]
EngineFile = Annotated[Path | None, typer.Option("--engine", help="Connection file of another engine.", envvar="VS3R_ENGINE")]


# --- work ------------------------------------------------------------------------------------------------------------


@app.command()
def stabilize(
    sources: Clips,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Where the result goes: a file, or FOLDER/ for IN_vs3r.")] = None,
    range_text: Range = None,
    fps: Fps = None,
    preset: Preset = "natural",
    assignments: Set = [],  # noqa: B006 - typer wants a list
    draft: Draft = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    engine_file: EngineFile = None,
) -> None:
    """Stabilize clips. Each result has its clip's size, rate, depth, colour and sound, and nothing is cropped.

    Of several clips, one that fails does not stop the rest; the exit code is the first failure's.
    """
    from vs3r_engine.service import protocol as p

    values = _values(preset, assignments, draft)
    if len(sources) > 1 and output and not _is_folder(output):
        raise InputError(
            "output-is-no-folder",
            f"{output} is no folder, and {len(sources)} clips have as many results.",
            "End its name in / to have it made.",
        )
    targets = [_target(source, output, force) for source in sources]
    if len(set(targets)) < len(targets):
        raise InputError("same-output", "Two of the clips would have the same result.", "Name each once, or stabilize them one by one.")
    if output and _is_folder(output) and not dry_run:
        try:
            os.makedirs(output, exist_ok=True)
        except OSError as error:
            raise InputError("output-unwritable", f"{output} cannot be made: {error.strerror}.", "Choose another folder.") from error
    rate, exit_code = _rate(fps), 0
    for source, target in zip(sources, targets, strict=True):
        clip = p.Source(path=_absolute(source), range=range_text, rate=rate)
        if len(sources) > 1 and not quiet and not dry_run:
            print(f"{source}:", file=sys.stderr)
        try:
            if dry_run:
                _say_plan(clip, target, values, engine_file, as_json)
            else:
                _stabilize(clip, target, p.SettingsChoice("natural", values), force, engine_file, as_json, quiet)
        except VS3RError as error:
            if len(sources) == 1 or isinstance(error, Cancelled):
                raise
            told = report(error)
            exit_code = exit_code or told
    if exit_code:
        raise typer.Exit(exit_code)


def _is_folder(output: str) -> bool:
    """Whether results go into it under their usual names: a folder that is there, or one to be made, whose name ends in a slash."""
    return os.path.isdir(output) or output.endswith(("/", os.sep))


def _target(source: str, output: str | None, force: bool) -> str:
    """Where a clip's result goes. Raises: InputError where it would take the place of something."""
    path = _absolute(source)
    target = _absolute(output) if output else _default_output(path)
    if output and _is_folder(output):
        target = os.path.join(target, os.path.basename(_default_output(path)))
    if target == path:
        raise InputError("output-is-source", f"{source} would be overwritten by its own result.", "Give -o another name.")
    if os.path.exists(target) and not force:
        raise InputError("output-exists", f"{target} exists already.", "Use -f to replace it, or -o another name.")
    return target


def _say_plan(clip: Any, target: str, values: dict[str, Any], engine_file: Path | None, as_json: bool) -> None:
    from host_bridge.progress import write_json

    with _client(engine_file) as client:
        found = client.probe(clip)
    first, end = found.render_range
    if as_json:
        write_json(
            {
                "type": "plan",
                "source": clip.path,
                "output": target,
                "width": found.width,
                "height": found.height,
                "rate": found.rate,
                "frames": [first, end],
                "available": list(found.available_range),
                "settings": values,
            }
        )
        return
    print(f"{clip.path}: frames {first}..{end} of {found.available_range[1]}, {found.width}x{found.height} at {found.rate}\n-> {target}")
    for key, value in values.items():
        print(f"   {key} = {value}")


def _stabilize(clip: Any, target: str, choice: Any, force: bool, engine_file: Path | None, as_json: bool, quiet: bool) -> None:
    from host_bridge.progress import write_json
    from vs3r_engine.service.protocol import Stabilize

    report = _run(Stabilize(clip, target, choice, f"j-{uuid.uuid4().hex[:12]}", False, force), engine_file, as_json, quiet)
    assert report.result is not None
    if as_json:
        write_json({"type": "result", "job_id": report.job_id, **report.result})
    else:
        _say_findings(report.result["findings"], quiet)
        print(report.result["output"], flush=True)


@app.command()
def analyze(
    source: Clip,
    range_text: Range = None,
    fps: Fps = None,
    preset: Preset = "natural",
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
    quiet: Quiet = False,
    engine_file: EngineFile = None,
) -> None:
    """Find the camera's path and the scene, and keep them: stabilizing the clip afterwards starts at once."""
    from host_bridge.progress import findings_text, write_json
    from vs3r_engine.service import protocol as p

    choice = p.SettingsChoice("natural", _values(preset, assignments, False))
    clip = p.Source(path=_absolute(source), range=range_text, rate=_rate(fps))
    job = p.Analyze(clip, choice, f"j-{uuid.uuid4().hex[:12]}")
    report = _run(job, engine_file, as_json, quiet)
    findings = (report.result or {}).get("findings", {})
    if as_json:
        write_json({"type": "result", "job_id": report.job_id, "findings": findings})
    else:
        print(findings_text(findings) or "analysed")


@app.command()
def compare(
    original: Annotated[str, typer.Argument(metavar="IN", help="The clip as it was filmed.")],
    result: Annotated[str, typer.Argument(metavar="OUT", help="The stabilized clip.")],
    output: Annotated[str | None, typer.Option("-o", "--output", help="The page; OUT.compare.html by default.")] = None,
    metrics: Annotated[bool, typer.Option(help="Measure too; that takes longer than the page.")] = True,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the page.")] = False,
) -> None:
    """Measure and show a result beside its source, in one HTML file."""
    options = [*(["-o", output] if output else []), *([] if metrics else ["--no-metrics"]), *(["-f"] if force else [])]
    _engine_program("compare", *options, "--", original, result)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examine the installation."""
    _engine_program("doctor", *(["--json"] if as_json else []))


def _run(job: Any, engine_file: Path | None, as_json: bool, quiet: bool) -> Any:
    """Run a job to its end; its report, done. Raises: the job's error; Cancelled after Ctrl-C."""
    from host_bridge.progress import display
    from vs3r_engine.service.protocol import Error, exception_of

    launcher, report = _launcher(engine_file), None
    shown = display(as_json, quiet)
    try:
        for event in launcher.run(job):
            shown.show(event)
            report = event.job or report
    except KeyboardInterrupt:
        shown.close()
        _cancel(launcher, job.job_id)
        raise Cancelled("Stopped.", "The same command again goes on from what is finished.") from None
    finally:
        shown.close()
    if report is None or report.state == "failed":
        raise exception_of(report.error if report and report.error else Error("no-result", "The engine ended the job without a result."))
    if report.state == "cancelled":
        raise Cancelled(f"The job {report.job_id} was cancelled.", "The same command again goes on from what is finished.")
    return report


def _cancel(launcher: Any, job_id: str) -> None:
    """The job is cancelled, and has stopped if it does so in time. A second Ctrl-C does not wait."""
    with contextlib.suppress(VS3RError, KeyboardInterrupt):
        client = launcher.find()
        if client is None:
            return
        with client:
            report = client.cancel(job_id)
            until_s = time.monotonic() + CANCEL_S
            while not report.is_final and time.monotonic() < until_s:
                time.sleep(0.1)
                report = client.status(job_id).job


def _values(preset: str, assignments: list[str], draft: bool) -> dict[str, Any]:
    """The settings that differ from the defaults. Raises: SettingsError."""
    from host_bridge.presets import chosen_values
    from vs3r_engine.settings import Settings

    values = chosen_values(preset, [*(["fill.quality=draft"] if draft else []), *assignments])
    return Settings().with_values(values).changed()


def _rate(fps: str | None) -> str | None:
    """The exact rate that was asked for, before an engine is. Raises: RangeError `bad-rate`."""
    return None if fps is None else str(exact_rate(fps))


def _absolute(path: str) -> str:
    """The path as the engine, which works elsewhere, is told it. Raises: InputError `bad-file-name`."""
    absolute = os.path.abspath(path)
    try:
        absolute.encode()
    except UnicodeEncodeError as error:
        shown = absolute.encode(errors="backslashreplace").decode()
        raise InputError("bad-file-name", f"The name {shown} is no text in UTF-8.", "Give the file or folder another name.") from error
    return absolute


def _default_output(path: str) -> str:
    """Beside the source. What exists is a file or a folder, whatever its name; else % and [ mean numbered images."""
    root, suffix = os.path.splitext(path)
    is_pattern = not os.path.exists(path) and any(mark in os.path.basename(root) for mark in "%[")
    if not suffix or is_pattern or os.path.isdir(path):
        raise InputError("no-output", f"Where should the result of {path} go?", "Give -o OUT.")
    return f"{root}_vs3r{suffix if suffix.lower() in WRITABLE_SUFFIXES else '.mp4'}"


def _say_findings(findings: dict[str, Any], quiet: bool) -> None:
    from host_bridge.progress import findings_text

    if quiet:
        return
    if text := findings_text(findings):
        print(text, file=sys.stderr)
    for note in findings.get("notes") or ():
        print(f"note: {note}", file=sys.stderr)


# --- jobs and the engine ---------------------------------------------------------------------------------------------


@jobs.callback()
def list_jobs(context: typer.Context, as_json: AsJson = False, engine_file: EngineFile = None) -> None:
    """List the engine's jobs, newest first."""
    if context.invoked_subcommand is not None:
        return
    from host_bridge.progress import write_json

    client = _launcher(engine_file).find()
    if client is None:
        print("No engine runs.", file=sys.stderr)
        return
    with client:
        for job in client.jobs():
            if as_json:
                write_json(job)
            else:
                print(
                    f"{job.job_id}  {job.state:9} {job.fraction:4.0%}  {job.kind:9} {job.source}"
                    + (f" -> {job.output}" if job.output else "")
                )


@jobs.command("cancel")
def cancel_job(job_id: Annotated[str, typer.Argument(help="The job's id.")], engine_file: EngineFile = None) -> None:
    """Cancel a job; what it finished is kept."""
    client = _launcher(engine_file).find()
    if client is None:
        raise InputError("unknown-job", "No engine runs, so there are no jobs.", "")
    with client:
        client.cancel(job_id)


@engine.command("start")
def start_engine() -> None:
    """Start the engine, if none runs."""
    with _client(None) as client:
        print(client.connection.request)


@engine.command("stop")
def stop_engine(engine_file: EngineFile = None) -> None:
    """Stop the engine; jobs are cancelled and keep what is finished."""
    if not _launcher(engine_file).stop():
        print("No engine runs.", file=sys.stderr)


@engine.command("status")
def engine_status(as_json: AsJson = False, engine_file: EngineFile = None) -> None:
    """Say whether an engine runs, and what it does."""
    from host_bridge.progress import write_json

    launcher = _launcher(engine_file)
    client = launcher.find()
    if client is None:
        if as_json:
            write_json({"state": launcher.state.value})
        else:
            is_silent = launcher.state == "silent"
            print("The engine does not answer; `vs3r engine stop` ends it." if is_silent else "No engine runs.")
        return
    with client:
        status, hello = client.status(), client.hello()
    if as_json:
        write_json(
            {
                "pid": hello.pid,
                "version": hello.version,
                "protocol": hello.protocol,
                "device": hello.device,
                **{name: getattr(status, name) for name in status.__struct_fields__},
            }
        )
    else:
        print(
            f"{status.state}: process {hello.pid}, version {hello.version}, protocol {hello.protocol}, "
            f"up {status.uptime_s:.0f} s, {status.sessions - 1} other hosts, {status.jobs_running} jobs running, "
            f"{status.jobs_queued} waiting, {status.memory_mib:.0f} MiB"
        )


@engine.command("logs")
def engine_logs(lines: Annotated[int, typer.Option("-n", min=1, help="Lines.")] = 50) -> None:
    """Show the end of the engine's log."""
    from collections import deque

    from vs3r_engine.service.logs import log_file

    file = log_file()
    if not file.exists():
        raise InputError("no-log", f"There is no log at {file}.", "Nothing has run yet.")
    with file.open(encoding="utf-8", errors="replace") as stream:
        sys.stdout.writelines(deque(stream, lines))


@cache.command("show")
def show_cache(as_json: AsJson = False) -> None:
    """Show what is kept on disk between jobs."""
    _engine_program("cache", "show", *(["--json"] if as_json else []))


@cache.command("clear")
def clear_cache(as_json: AsJson = False) -> None:
    """Delete everything that no engine is using."""
    _engine_program("cache", "clear", *(["--json"] if as_json else []))


# --- inside ----------------------------------------------------------------------------------------------------------


def _launcher(engine_file: Path | None) -> Any:
    from host_bridge.launcher import Launcher, write_launch_file

    if engine_file is None:
        write_launch_file()
    return Launcher(endpoint_file=engine_file, name=f"vs3r {__version__}")


@contextlib.contextmanager
def _client(engine_file: Path | None) -> Iterator[Any]:
    with _launcher(engine_file).ensure() as client:
        yield client


@contextlib.contextmanager
def _timeline_engine(engine_file: Path | None) -> Iterator[Any]:
    from host_bridge.timeline_engine import TimelineEngine

    yield TimelineEngine(_launcher(engine_file))


def _engine_program(*arguments: str) -> None:
    """Run `vs3r-engine` with these arguments in place of this command. Raises: typer.Exit with its exit code."""
    import subprocess

    raise typer.Exit(subprocess.run([sys.executable, "-m", "vs3r_engine.app.cli", *arguments], check=False).returncode)


def run(command: Callable[[], Any]) -> int:
    """Run a command line; its exit code. Known errors are one message, unknown ones a traceback; nobody reading is neither."""
    try:
        try:
            command()
        except VS3RError as error:
            return report(error)
        except (KeyboardInterrupt, SystemExit) as end:
            if not was_interrupted(end):
                raise
            return report(Cancelled("Stopped."))
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BrokenPipeError:
        # Python writes out what is left when it ends, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EngineFault.exit_code
    return 0


def report(error: VS3RError) -> int:
    """Tell the user, in NDJSON on standard output where that was asked for; returns the exit code."""
    if "--json" in sys.argv:
        from host_bridge.progress import write_json

        write_json({"type": "error", "code": error.code, "message": error.message, "hint": error.hint})
    print(error, file=sys.stderr)
    return error.exit_code


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


app.command("timeline")(timeline_command(_timeline_engine))
app.add_typer(resolve_app, name="resolve")


def main() -> None:
    """Entry point of `vs3r`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the pipe's encoding lacks must not fail what is done
    sys.exit(run(app))
