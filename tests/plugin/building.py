# SPDX-License-Identifier: Apache-2.0
"""The plug-in, built once per content of its sources: as it ships, or with a sanitizer in it."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GIVEN, GIVEN_SANITIZER = "VS3R_PLUGIN_BUILD", "VS3R_PLUGIN_SANITIZER"
"""Environment variables that name a build folder made elsewhere, and what is in it."""


def can_build() -> bool:
    return bool(shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++")))


def built(sanitizer: str = "") -> Path:
    """The build folder, with `VS3R.ofx.bundle` and `openfx/protocol_check` in it. Raises: AssertionError with what the
    compiler said, also where it only warned. sanitizer: what -fsanitize takes."""
    folder = Path(tempfile.gettempdir()) / f"vs3r-plugin-{os.getuid()}-{_content(sanitizer)}"
    if not (folder / "done").exists():
        for command in (
            ["cmake", "-S", str(ROOT / "plugin"), "-B", str(folder), "-DVS3R_CHECKS=ON", f"-DVS3R_SANITIZE={sanitizer}"],
            ["cmake", "--build", str(folder), "-j", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning" not in done.stderr, done.stderr
        (folder / "done").touch()
    return folder


def library_in(build: Path) -> Path:
    return next(build.glob("VS3R.ofx.bundle/Contents/*/VS3R.ofx"))


def _content(sanitizer: str) -> str:
    """Names the sources and how they are compiled."""
    plugin = ROOT / "plugin"
    files = sorted([*plugin.glob("CMakeLists.txt"), *(plugin / "openfx").rglob("*"), *Path(__file__).parent.glob("*.cpp")])
    digest = hashlib.sha256(f"{os.environ.get('CXX', '')} {sanitizer}".encode())
    for file in files:
        if file.is_file() and file.suffix not in (".pyc", ".md"):
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
