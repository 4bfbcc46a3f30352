#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start here: sets VS3R up in its own environment beside this file and runs it. Needs Python 3.11 and nothing else.

python3 vs3r.py demo [CLIP]           stabilize a clip (without a name, one that the program renders itself) into out/,
                                      and end with the paths of the result and of its compare page
python3 vs3r.py test                  install what the tests need and run them all, on up to four cores
python3 vs3r.py VERB ...              anything else `vs3r` can do
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = str(ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
TEST_EXTRAS = "dev,deep,training,timelines"
ALL_TESTS = ["--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile"]


def ensure_installed(extras: str) -> None:
    """`.venv` holds this checkout, editable, with the named extras; a stamp of what it is made of, and where it lies,
    makes the next start quick."""
    kernels = sorted((ROOT / "vs3r_engine" / "native").glob("*.[ch]"))
    made_of = [path.read_bytes() for path in (ROOT / "pyproject.toml", ROOT / "hatch_build.py", *kernels)]
    stamp = hashlib.sha256(b"".join(made_of) + f"{extras}{sys.version}{ROOT}".encode()).hexdigest()
    marker = ENVIRONMENT / f"vs3r-installed-{extras or 'base'}"
    if marker.exists() and marker.read_text() == stamp:
        return
    print("Setting up VS3R in .venv (once; about a minute) ...", file=sys.stderr, flush=True)
    pip = [PYTHON, "-m", "pip"]
    if not Path(PYTHON).exists():
        venv.create(ENVIRONMENT, with_pip=True)
    elif subprocess.run([*pip, "--version"], capture_output=True).returncode:  # a set-up was interrupted
        subprocess.run([PYTHON, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    install = [*pip, "install", "--quiet", "--disable-pip-version-check"]
    if "deep" in extras:
        # Named alone and first: a machine with a local CPU build then takes that one, and nothing later replaces it.
        subprocess.run([*install, "torch==2.13.0"], check=True)
    subprocess.run([*install, "--editable", f"{ROOT}[{extras}]" if extras else str(ROOT)], check=True)
    marker.write_text(stamp)


def finished(*command: str, stdout: int | None = None) -> tuple[int, str]:
    """A program's exit code, and what it wrote where `stdout` is a pipe. Ctrl-C is for the program to answer."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"} if stdout == subprocess.PIPE else None
    with subprocess.Popen(command, stdout=stdout, encoding="utf-8", env=environment) as running:
        while True:
            try:
                written, _ = running.communicate()
                return (running.returncode if running.returncode >= 0 else 128 - running.returncode), written or ""
            except KeyboardInterrupt:
                continue


def demo(arguments: list[str]) -> int:
    """Stabilize a clip into out/ and show it beside its source; prints the two paths."""
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    clip, *options = arguments or [str(out / "demo.mp4")]
    if clip.startswith("-"):
        print("python3 vs3r.py demo [CLIP [OPTION ...]], with the options of `python3 vs3r.py stabilize --help`")
        return 0 if clip in ("-h", "--help") else 2
    if not arguments:
        code, _ = finished(PYTHON, "-m", "vs3r_engine.app.cli", "demo-clip", clip, stdout=subprocess.DEVNULL)
        if code:
            return code
    code, result = finished(PYTHON, "-m", "host_bridge", "stabilize", clip, "-o", str(out), "-f", *options, stdout=subprocess.PIPE)
    if code:
        return code
    result = result.rstrip("\n")
    code, page = finished(PYTHON, "-m", "host_bridge", "compare", clip, result, "-f", stdout=subprocess.PIPE)
    print(f"result   {result}" + (f"\ncompare  {page.rstrip()}" if page else ""))
    return code


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file meets the user's own Python
        print("VS3R needs Python 3.11 or newer; this is " + sys.version.split()[0], file=sys.stderr)
        return 3
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the pipe's encoding lacks must not fail what is done
    verb, *rest = sys.argv[1:] or ["--help"]
    try:
        ensure_installed(TEST_EXTRAS if verb == "test" else "")
        if verb == "demo":
            return demo(rest)
    except subprocess.CalledProcessError as error:
        hint = "Check the network and free disk space, and run again."
        if importlib.util.find_spec("ensurepip") is None:
            hint = "This Python lacks ensurepip; on Debian and Ubuntu `apt install python3-venv` brings it."
        print(f"The set-up failed (exit code {error.returncode}). {hint}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"The set-up failed: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Stopped. The same command again goes on.", file=sys.stderr)
        return 130
    if verb == "test":
        os.chdir(ROOT)
        return finished(PYTHON, "-m", "pytest", *(rest or ALL_TESTS))[0]
    return finished(PYTHON, "-m", "host_bridge", verb, *rest)[0]


if __name__ == "__main__":
    sys.exit(main())
