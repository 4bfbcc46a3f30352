# SPDX-License-Identifier: Apache-2.0
"""The stabilizers that are compared, each as the command lines a user would type, and what running them costs.

All write H.264 with the same x264 preset and quality, without sound, so that only the stabilizing differs.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vs3r_engine.errors import SetupError

ENCODER = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", "-an")
OURS = "vs3r"

Commands = Callable[[Path, Path, Path], list[list[str]]]
"""The command lines, run one after another, of (source, output, scratch directory)."""


@dataclass(frozen=True, slots=True)
class Stabilizer:
    """missing: why it cannot run here, empty when it can."""

    name: str
    label: str
    commands: Commands
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of whole processes with all their children: user + system seconds, wall seconds, largest resident set."""

    cpu_s: float
    wall_s: float
    peak_mib: float


def stabilizers(settings: Sequence[str] = (), pypi_python: str | None = None) -> list[Stabilizer]:
    """Ours first, then the baselines. settings: `key=value` texts for ours. pypi_python: interpreter with `vidstab`."""
    ffmpeg = shutil.which("ffmpeg")
    python = pypi_python or sys.executable
    no_vidstab = _missing_filter(ffmpeg, "vidstabdetect")
    no_package = "ffmpeg is not installed." if ffmpeg is None else _missing_package(python)

    def vidstab(options: str = "") -> Commands:
        return lambda source, output, scratch: _vidstab(ffmpeg, source, output, options)

    def deshake(source: Path, output: Path, scratch: Path) -> list[list[str]]:
        return [[*_input(ffmpeg, source), "-vf", "deshake", *ENCODER, str(output)]]

    def package(source: Path, output: Path, scratch: Path) -> list[list[str]]:
        return [[python, str(Path(__file__).with_name("pypi_vidstab.py")), str(source), str(output), *ENCODER]]

    return [
        Stabilizer(OURS, "VS3R", lambda source, output, scratch: [_ours(source, output, settings)]),
        Stabilizer("vidstab", "vidstab", vidstab(), no_vidstab),
        Stabilizer("vidstab-30", "vidstab smoothing=30", vidstab("smoothing=30"), no_vidstab),
        Stabilizer("vidstab-black", "vidstab crop=black", vidstab("crop=black:optzoom=0"), no_vidstab),
        Stabilizer("deshake", "ffmpeg deshake", deshake, _missing_filter(ffmpeg, "deshake")),
        Stabilizer("pypi-vidstab", "vidstab (PyPI)", package, no_package),
    ]


def run(stabilizer: Stabilizer, source: Path, output: Path, scratch: Path) -> Cost:
    """Stabilize `source` into `output`. Raises: SetupError `baseline-failed` with what the program said."""
    scratch.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache"), "LC_ALL": "C"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as Python is by default: modules are compiled once, not in every run
    costs = [_spent(command, environment, scratch) for command in stabilizer.commands(source, output, scratch)]
    shutil.rmtree(scratch / "cache", ignore_errors=True)
    if not output.exists():
        raise SetupError("baseline-failed", f"{stabilizer.label} wrote nothing for {source.name}.", "Run its command by hand.")
    return Cost(sum(c.cpu_s for c in costs), sum(c.wall_s for c in costs), max(c.peak_mib for c in costs))


def _spent(command: list[str], environment: Mapping[str, str], scratch: Path) -> Cost:
    log = scratch / "log.txt"
    with log.open("wb") as output:
        began_s = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=scratch)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise SetupError(
            "baseline-failed",
            f"{Path(command[0]).name} ended with {process.returncode}: {' '.join(said)}",
            "Run its command by hand.",
        )
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    return Cost(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))


def _ours(source: Path, output: Path, settings: Sequence[str]) -> list[str]:
    fixed = ("output.codec=h264", "output.crf=18", "output.speed=veryfast", "output.audio=false")
    chosen = [argument for setting in (*fixed, *settings) for argument in ("--set", setting)]
    return [sys.executable, "-m", "vs3r_engine.app.cli", "stabilize", str(source), "-o", str(output), "-f", *chosen]


def _input(ffmpeg: str | None, source: Path) -> list[str]:
    return [ffmpeg or "ffmpeg", "-hide_banner", "-nostats", "-loglevel", "warning", "-y", "-i", str(source)]


def _vidstab(ffmpeg: str | None, source: Path, output: Path, options: str) -> list[list[str]]:
    # Its options cannot quote every path: the transforms file is named relative to the working directory.
    transform = "vidstabtransform=input=transforms.trf" + (f":{options}" if options else "")
    return [
        [*_input(ffmpeg, source), "-vf", "vidstabdetect=result=transforms.trf", "-an", "-f", "null", "-"],
        [*_input(ffmpeg, source), "-vf", transform, *ENCODER, str(output)],
    ]


def _missing_filter(ffmpeg: str | None, name: str) -> str:
    if ffmpeg is None:
        return "ffmpeg is not installed."
    known = subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True, check=False).stdout
    return "" if f" {name} " in known else f"This ffmpeg was built without the filter {name}."


def _missing_package(python: str) -> str:
    try:
        tried = subprocess.run([python, "-c", "import vidstab"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python} cannot be run: {error}"
    if tried.returncode == 0:
        return ""
    said = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    hint = "it needs OpenCV 4, in an environment of its own: --vidstab-python"
    return f"The package vidstab cannot be imported ({said}); {hint}."
