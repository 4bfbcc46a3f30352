# SPDX-License-Identifier: Apache-2.0
"""`vs3r-engine`: the engine's own command line. Runs jobs in this process, serves hosts, evaluates, trains, fetches weights."""

import io
import json
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any

import typer

from vs3r_engine import __version__
from vs3r_engine.app.doctor import doctor
from vs3r_engine.app.evaluate import compare, evaluate
from vs3r_engine.app.train import app as train
from vs3r_engine.app.weights import app as weights
from vs3r_engine.errors import Cancelled, EngineFault, SettingsError, VS3RError, was_interrupted
from vs3r_engine.service import command
from vs3r_engine.timeline import exact_rate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The VS3R engine.",
)

Set = Annotated[list[str], typer.Option("--set", help="A setting, such as path.smoothness=70. Repeat for more.")]
Preset = Annotated[str, typer.Option(help="natural, glide, locked or subtle.")]
Range = Annotated[str | None, typer.Option("--range", help="Frames to return: 100..340 (end not included), or two timecodes.")]
Fps = Annotated[str | None, typer.Option(help="The rate of an image sequence: 25, 29.97, 30000/1001.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write NDJSON on standard output.")]


@app.command()
def stabilize(
    source: Annotated[str, typer.Argument(help="The clip.")],
    output: Annotated[str, typer.Option("-o", "--output", help="Where the result goes.")],
    range_text: Range = None,
    fps: Fps = None,
    preset: Preset = "natural",
    settings: Set = [],  # noqa: B006 - typer wants a list
    overwrite: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stabilize a clip in this process."""
    from vs3r_engine import pipeline
    from vs3r_engine.job import RenderResult
    from vs3r_engine.service.cache import DiskStore

    chosen = settings_of(preset, settings)
    job = pipeline.plan(source, output, chosen, range_text=range_text, overwrite=overwrite, sequence_rate=_rate_of(fps))
    for event in pipeline.stabilize(job, DiskStore()):
        if as_json:
            _write_json({"type": "result" if isinstance(event, RenderResult) else "progress", **_plain(event)})
        elif isinstance(event, RenderResult):
            print(event.output)
        elif event.done == event.total or event.done % 25 == 0:
            print(f"{event.fraction:4.0%} {event.stage} {event.done}/{event.total}", file=sys.stderr)


@app.command("demo-clip")
def demo_clip(output: Annotated[str, typer.Argument(help="Where the clip goes.")]) -> None:
    """Render the demo clip: a hand-held shot of a painted town."""
    from pathlib import Path

    from vs3r_engine.app.demo import render_demo_clip
    from vs3r_engine.errors import MediaError
    from vs3r_engine.media.segments import write_errors

    if not output.lower().endswith((".mp4", ".mov", ".mkv")):
        raise MediaError("output-unwritable", f"{output} names no kind of video file that the clip can be.", "End its name in .mp4.")
    with write_errors(output):
        render_demo_clip(Path(output))
    print(output)


@app.command()
def probe(source: Annotated[str, typer.Argument(help="The clip.")], fps: Fps = None) -> None:
    """Print what a clip is, as JSON."""
    from vs3r_engine.media.decode import probe as probe_media
    from vs3r_engine.media.info import refuse_rate_of_file

    rate = _rate_of(fps)
    info = probe_media(source, rate)
    refuse_rate_of_file(info, rate)
    _write_json(
        {
            "clip": _plain(info.clip),
            "codec": info.codec,
            "layout": _plain(info.layout),
            "colour": _plain(info.colour),
            "start_timecode": info.start_timecode,
            "is_variable_rate": info.is_variable_rate,
        }
    )


def _rate_of(fps: str | None) -> Fraction | None:
    """Raises: RangeError `bad-rate`."""
    return None if fps is None else exact_rate(fps)


def settings_of(preset_name: str, assignments: list[str]) -> Any:
    """The preset's Settings with `key=value` texts applied. Raises: SettingsError."""
    from vs3r_engine.settings import preset

    values = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise SettingsError("bad-setting", f"{assignment!r} is not a setting.", "Write --set group.name=value.")
        values[key.strip()] = value.strip()
    return preset(preset_name).with_values(values)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value, enc_hook=str)


def _write_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


def run(command: Callable[[], Any]) -> int:
    """Run a command line; its exit code. Known errors are one message, unknown ones a traceback."""
    try:
        try:
            command()
        except VS3RError as error:
            return report(error)
        except (KeyboardInterrupt, SystemExit) as end:
            if not was_interrupted(end):
                raise
            return report(Cancelled("Stopped.", "Run the same command again to go on from the finished chunks."))
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BrokenPipeError:
        return EngineFault.exit_code
    return 0


def report(error: VS3RError) -> int:
    """Tell the user, in NDJSON on standard output where that was asked for; returns the exit code."""
    if "--json" in sys.argv:
        _write_json({"type": "error", "code": error.code, "message": error.message, "hint": error.hint})
    print(str(error), file=sys.stderr)
    return error.exit_code


app.command()(command.serve)
app.command()(evaluate)
app.command()(compare)
app.command()(doctor)
app.add_typer(weights, name="weights")
app.add_typer(train, name="train")
app.add_typer(command.keys, name="keys")
app.add_typer(command.cache, name="cache")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `vs3r-engine`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the pipe's encoding lacks must not fail what is done
    sys.exit(run(app))


if __name__ == "__main__":
    main()
