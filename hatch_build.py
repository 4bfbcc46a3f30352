# SPDX-License-Identifier: Apache-2.0
"""Build hook: compiles vs3r_engine/native/*.c with the machine's C compiler. Without one the package works all
the same, slower; `python hatch_build.py` compiles for a checkout."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside of a build
    BuildHookInterface = object  # type: ignore[assignment, misc]

NATIVE = Path(__file__).resolve().parent / "vs3r_engine" / "native"


def compiled() -> Path | None:
    """The library beside its sources, made anew; None where there is no compiler or it fails (it says why)."""
    library = NATIVE / ("kernels.dll" if sys.platform == "win32" else "kernels.so")
    named = shlex.split(os.environ.get("CC", ""))
    found = named or next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), [])
    if not found:
        print("VS3R: no C compiler; its kernels will run in numpy, slower.", file=sys.stderr)
        return None
    made = library.with_suffix(".part")
    command = [*found, "-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-fvisibility=hidden",
               *map(str, sorted(NATIVE.glob("*.c"))), "-o", str(made), *([] if sys.platform == "win32" else ["-lm"])]  # fmt: skip
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        failure = ran.stderr if ran.returncode else None
    except OSError as error:  # CC names what is not there, or no program
        failure = str(error)
    if failure is not None:
        print(f"VS3R: {found[0]} cannot compile the kernels; they will run in numpy, slower.\n{failure}", file=sys.stderr)
        return None
    made.replace(library)
    return library


class KernelsHook(BuildHookInterface):
    """Puts the compiled kernels into the wheel, which then is for this kind of machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = compiled() if self.target_name == "wheel" else None
        if library is not None:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data |= {"pure_python": False, "tag": f"py3-none-{platform}"}
            build_data["artifacts"].append(f"/vs3r_engine/native/{library.name}")


if __name__ == "__main__":
    sys.exit(0 if compiled() else 1)
