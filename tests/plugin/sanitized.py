# SPDX-License-Identifier: Apache-2.0
"""The plug-in's tests with a sanitizer in the plug-in: `python -m tests.plugin.sanitized KIND [pytest's words]`.

Python itself is not sanitized: it starts with the sanitizer's runtime loaded, which then sees into the plug-in alone.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.plugin.building import GIVEN, GIVEN_SANITIZER, ROOT, built

RUNTIME = {"address": "libasan.so", "thread": "libtsan.so", "undefined": "libubsan.so"}
"""By kind (what -fsanitize takes): the library that must be there before Python is."""
FAULTS = re.compile(r"ERROR: AddressSanitizer|WARNING: ThreadSanitizer|runtime error:|FATAL: ")
LEAK = re.compile(r"(?:Direct|Indirect) leak of .*?(?=\n\n|\Z)", re.DOTALL)
MODULE = re.compile(r"^ +#\d+ .*?\(([^()\s]+)\+0x[0-9a-f]+\)", re.MULTILINE)
ALLOCATORS = ("libasan.so", "libstdc++.so", "libc.so")


def why_not(kind: str) -> str:
    """Why this sanitizer cannot be used here; empty where it can."""
    if not sys.platform.startswith("linux") or not shutil.which("g++") or not shutil.which("cmake"):
        return "sanitizers are run on Linux, with g++ and cmake"
    runtime = _runtime(kind)
    if not runtime.is_absolute():
        return f"{runtime} is not installed"
    ran = subprocess.run([sys.executable, "-c", "pass"], env=_environment(kind, Path(os.devnull)), capture_output=True)
    return "" if ran.returncode == 0 else f"{runtime.name} cannot be loaded into Python on this system"


def reports(kind: str, command: list[str], module: str, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess, list[str]]:
    """(how `command` ended, what the sanitizer found). Memory that leaks counts where the file `module` allocated it: what
    Python keeps to its end is its own affair."""
    with tempfile.TemporaryDirectory(prefix="vs3r-") as folder:
        ran = subprocess.run(
            command, cwd=ROOT, env=_environment(kind, Path(folder) / "report") | environment, capture_output=True, text=True, check=False
        )
        texts = [file.read_text(errors="replace") for file in sorted(Path(folder).iterdir())]
    found = [text for text in texts if FAULTS.search(text)]
    return ran, found + [leak for text in texts for leak in LEAK.findall(text) if _allocated_by(leak) == module]


def run_suite(kind: str, words: list[str]) -> tuple[subprocess.CompletedProcess, list[str]]:
    """pytest with these words, on a plug-in built with the sanitizer."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    environment = {GIVEN: str(built(kind)), GIVEN_SANITIZER: kind}
    return reports(kind, command, "VS3R.ofx", environment)


def _allocated_by(leak: str) -> str:
    """The file whose code asked for the memory."""
    modules = [os.path.basename(path) for path in MODULE.findall(leak)]
    return next((one for one in modules if not one.startswith(ALLOCATORS)), "")


def _runtime(kind: str) -> Path:
    said = subprocess.run(["g++", f"-print-file-name={RUNTIME[kind]}"], capture_output=True, text=True, check=True)
    return Path(said.stdout.strip())


def _environment(kind: str, log: Path) -> dict[str, str]:
    shared = f"log_path={log}:exitcode=0:stack_trace_format='    #%n %p in %f %S %M'"
    return os.environ | {
        "LD_PRELOAD": str(_runtime(kind)),
        # The quarantine would look like a leak to a test that watches the memory.
        "ASAN_OPTIONS": f"{shared}:detect_leaks=1:quarantine_size_mb=4",
        "UBSAN_OPTIONS": f"{shared}:print_stacktrace=1",
        "TSAN_OPTIONS": f"{shared}:ignore_noninstrumented_modules=1",
    }


def main() -> int:
    kind, *words = sys.argv[1:] or [""]
    if kind not in RUNTIME:
        sys.exit(f"There is no kind {kind}: " + ", ".join(RUNTIME))
    if problem := why_not(kind):
        sys.exit(problem)
    ran, found = run_suite(kind, words or ["tests/plugin"])
    print(ran.stdout + ran.stderr, *found, sep="\n")
    print(f"{kind} sanitizer: {len(found)} reports")
    return 1 if found or ran.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
