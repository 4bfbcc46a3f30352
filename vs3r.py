#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start here: sets VS3R up in its own environment beside this file and runs it. Needs Python 3.11 and nothing else.

python3 vs3r.py demo [CLIP]           stabilize a clip (without a name, one that the program renders itself) into out/,
                                      and end with the paths of the result and of its compare page
python3 vs3r.py test                  install what the tests need and run them all
python3 vs3r.py VERB ...              anything else `vs3r` can do
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
TEST_EXTRAS = "test,deep,diffusion,timelines"


def ensure_installed(extras: str) -> None:
    """`.venv` holds this checkout, editable, with the named extras; a stamp of what it is made of makes the next start quick."""
    made_of = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "hatch_build.py", "vs3r_engine/native/kernels.c")]
    stamp = hashlib.sha256(b"".join(made_of) + extras.encode() + sys.version.encode()).hexdigest()
    marker = ENVIRONMENT / f"vs3r-installed-{extras or 'base'}"
    if marker.exists() and marker.read_text() == stamp:
        return
    print("Setting up VS3R in .venv (once; about a minute) ...", file=sys.stderr, flush=True)
    if not (BIN / ("python.exe" if os.name == "nt" else "python")).exists():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if "deep" in extras:
        # Named alone and first: a machine with a local CPU build then takes that one, and nothing later replaces it.
        subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "--editable", f"{ROOT}[{extras}]" if extras else str(ROOT)], check=True)
    marker.write_text(stamp)


def demo(python: str, clips: list[str]) -> int:
    """Stabilize a clip into out/ and show it beside its source; prints the two paths."""
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    if not clips:
        clips = [str(out / "demo.mp4")]
        subprocess.run([python, "-m", "vs3r_engine.app.cli", "demo-clip", clips[0]], check=True, stdout=subprocess.DEVNULL)
    source = Path(clips[0])
    result = out / f"{source.stem}.stable{source.suffix}"
    page = out / f"{source.stem}.compare.html"
    stabilized = subprocess.run(
        [python, "-m", "host_bridge", "stabilize", str(source), "-o", str(result), "-f", *clips[1:]], stdout=subprocess.DEVNULL
    )
    if stabilized.returncode:
        return stabilized.returncode
    compared = subprocess.run(
        [python, "-m", "host_bridge", "compare", str(source), str(result), "-o", str(page), "-f"], stdout=subprocess.DEVNULL
    )
    print(f"result   {result}\ncompare  {page}")
    return compared.returncode


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file meets the user's own Python
        print("VS3R needs Python 3.11 or newer; this is " + sys.version.split()[0], file=sys.stderr)
        return 3
    verb, *rest = sys.argv[1:] or ["--help"]
    try:
        ensure_installed(TEST_EXTRAS if verb == "test" else "")
    except subprocess.CalledProcessError as error:
        print(f"The set-up failed (exit code {error.returncode}). Check the network and free disk space, and run again.", file=sys.stderr)
        return 3
    python = str(BIN / "python")
    if verb == "test":
        return subprocess.run([python, "-m", "pytest", *rest], cwd=ROOT).returncode
    if verb == "demo":
        return demo(python, rest)
    return subprocess.run([python, "-m", "host_bridge", verb, *rest]).returncode


if __name__ == "__main__":
    sys.exit(main())
