# SPDX-License-Identifier: Apache-2.0
"""How PyTorch3D is got on each platform, and whether what is installed works. Imports nothing heavy."""

import importlib
import platform

RELEASE = "v0.7.9"
_SOURCE = f"git clone --branch {RELEASE} --depth 1 https://github.com/facebookresearch/pytorch3d && cd pytorch3d"
_INSTALL = "python -m pip install --no-build-isolation ."
_COMMANDS = {
    "Linux": (
        "apt install g++ ninja-build python3-dev",
        _SOURCE,
        f"PYTORCH3D_FORCE_NO_CUDA=1 MAX_JOBS=2 {_INSTALL}",
    ),
    "Darwin": (
        "xcode-select --install",
        _SOURCE,
        f"CC=clang CXX=clang++ PYTORCH3D_FORCE_NO_CUDA=1 MAX_JOBS=2 {_INSTALL}",
    ),
    "Windows": (
        "in Visual Studio 2022's x64 Native Tools prompt: set DISTUTILS_USE_SDK=1 && set CL=/std:c++20",
        _SOURCE,
        f"set PYTORCH3D_FORCE_NO_CUDA=1 && {_INSTALL}",
    ),
}


def build_steps(system: str | None = None) -> str:
    """The commands for `platform.system()`'s answer, by default this machine's, in one line."""
    commands = "; ".join(f"`{command}`" for command in _COMMANDS.get(system or platform.system(), _COMMANDS["Linux"]))
    return (
        f"With torch installed: {commands}. "
        "For CUDA put FORCE_CUDA=1 in place of PYTORCH3D_FORCE_NO_CUDA=1, with the nvcc of torch's CUDA. "
        "Leave CFLAGS unset: set, it takes the optimisation's place. Build it again after another torch is installed. "
        "frame.renderer=splat draws the same picture without it."
    )


def fault() -> str:
    """Why the package cannot be used, its compiled part included; "" when it can."""
    try:
        importlib.import_module("pytorch3d._C")
        importlib.import_module("pytorch3d.renderer")
    except (ImportError, OSError) as error:
        return str(error)
    return ""
