# SPDX-License-Identifier: Apache-2.0
"""The plug-in, built once per content of its sources; hosts that load it; engines it talks to."""

import os
from pathlib import Path

import pytest

from tests.fakes.engine_process import EngineProcess
from tests.plugin.building import GIVEN, GIVEN_SANITIZER, built, can_build, library_in
from tests.plugin.ofx_host import Host

SANITIZER = os.environ.get(GIVEN_SANITIZER, "")
"""What is in the plug-in under test; the tests of the bundle as it ships are then left out."""
if SANITIZER:
    os.environ.pop("LD_PRELOAD", None)  # engines and tools run as they are


@pytest.fixture(scope="session")
def build() -> Path:
    """The build folder, with `VS3R.ofx.bundle` and `protocol_check` in it."""
    if given := os.environ.get(GIVEN):
        return Path(given)
    if not can_build():
        pytest.skip("the plug-in is not built: cmake or a C++ compiler is missing")
    return built()


@pytest.fixture(scope="session")
def bundle(build) -> Path:
    return build / "VS3R.ofx.bundle"


@pytest.fixture(scope="session")
def library(build) -> Path:
    return library_in(build)


@pytest.fixture
def shipped(bundle) -> Path:
    """The bundle, as it ships."""
    if SANITIZER:
        pytest.skip("the bundle that ships has no sanitizer in it")
    return bundle


@pytest.fixture
def shipped_library(shipped, library) -> Path:
    return library


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
