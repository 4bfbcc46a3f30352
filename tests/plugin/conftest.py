# SPDX-License-Identifier: Apache-2.0
"""The plug-in, built once per content of its sources; hosts that load it; engines it talks to."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.fakes.engine_process import EngineProcess
from tests.plugin.ofx_host import Host

ROOT = Path(__file__).resolve().parents[2]


def _content() -> str:
    """Names the sources and how they are compiled."""
    files = sorted(
        [
            *(ROOT / "plugin").glob("CMakeLists.txt"),
            *(ROOT / "plugin" / "openfx").rglob("*"),
            Path(__file__).with_name("protocol_check.cpp"),
        ]
    )
    digest = hashlib.sha256(os.environ.get("CXX", "").encode())
    for file in files:
        if file.is_file() and file.suffix != ".pyc":
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def build() -> Path:
    """The build folder, with `VS3R.ofx.bundle` and `protocol_check` in it.

    VS3R_PLUGIN_BUILD names one made elsewhere.
    """
    if given := os.environ.get("VS3R_PLUGIN_BUILD"):
        return Path(given)
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("the plug-in is not built: cmake or a C++ compiler is missing")
    folder = Path(tempfile.gettempdir()) / f"vs3r-plugin-{os.getuid()}-{_content()}"
    if not (folder / "done").exists():
        for command in (
            ["cmake", "-S", str(ROOT / "plugin"), "-B", str(folder), "-DVS3R_CHECKS=ON"],
            ["cmake", "--build", str(folder), "-j", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning" not in done.stderr, done.stderr
        (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def bundle(build) -> Path:
    return build / "VS3R.ofx.bundle"


@pytest.fixture(scope="session")
def library(bundle) -> Path:
    return bundle / "Contents" / "Linux-x86-64" / "VS3R.ofx"


@pytest.fixture(params=["spec", "resolve", "mlt"])
def host(request, library):
    with Host(library, request.param) as host:
        yield host


@pytest.fixture
def spec_host(library):
    with Host(library) as host:
        yield host


@pytest.fixture
def resolve_host(library):
    with Host(library, "resolve") as host:
        yield host


@pytest.fixture(scope="module")
def running_engine():
    """A fake engine (tests/fakes/engine.py) for the whole module."""
    with EngineProcess() as engine:
        yield engine


@pytest.fixture
def engine(running_engine, monkeypatch):
    """The fake engine, where the plug-in looks for it."""
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(running_engine.directory))
    return running_engine
