# SPDX-License-Identifier: Apache-2.0
"""The dependency directions of ARCHITECTURE.md, and proof that each contract can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess:
    # Run as a module path through the copy, so that what is checked is the copy and not the installed checkout.
    return subprocess.run(
        [str(LINT), "--no-cache"], cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    )


@pytest.fixture
def checkout(tmp_path):
    for package in ("vs3r_engine", "host_bridge"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("vs3r_engine/timeline.py", "import vs3r_engine.scene", "Layers"),
        ("vs3r_engine/stages/smooth.py", "import vs3r_engine.methods.dis", "Layers"),
        ("vs3r_engine/job.py", "import host_bridge", "The engine knows nothing about hosts"),
        ("vs3r_engine/job.py", "import torch", "The bridge knows the protocol, not the pipeline"),
        ("host_bridge/client.py", "import vs3r_engine.pipeline", "The bridge knows the protocol, not the pipeline"),
        ("vs3r_engine/pipeline.py", "import opentimelineio", "OpenTimelineIO lives in two files"),
    ],
)
def test_breaking_a_contract_is_noticed(checkout, file, line, contract):
    path = checkout / file
    path.write_text(path.read_text() + f"\n{line}\n")
    result = lint(checkout)
    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout
