# SPDX-License-Identifier: Apache-2.0
"""What every test gets: no user configuration, caches of its own, one OpenCV thread less to fight over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "clips" / "dev"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """Nothing of the user's reaches a test, nothing of a test's reaches the user."""
    for name in list(os.environ):
        if name.startswith("VS3R_"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        path = home / name.lower()
        path.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(path))


@pytest.fixture
def small_disk(tmp_path):
    """A function from a size, such as "40k", to the folder of a disk that holds no more; skips where none can be mounted."""
    place = tmp_path / "disk"

    def mounted(size: str) -> Path:
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk is not allowed here")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def dev_clip():
    """A function from the name of a real clip to its path; skips where the clips are not there."""

    def find(name: str) -> Path:
        path = SHARED_CLIPS / f"{name}.mp4"
        if not path.exists():
            pytest.skip(f"the real clip {name} is not on this machine")
        return path

    return find
