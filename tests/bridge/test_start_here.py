# SPDX-License-Identifier: Apache-2.0
"""`python3 vs3r.py`: the set-up, once, and the programs behind it as if they had been called themselves."""

import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import vs3r
from host_bridge.cli import _default_output
from vs3r_engine.media import codecs
from vs3r_engine.settings import WRITABLE_SUFFIXES

SLOW = """
import signal, sys, time
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(0.8)  # a job takes a while to be cancelled
    print("kept", flush=True)
    sys.exit(130)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to a group of processes")
def test_ctrl_c_is_answered_by_the_program_itself(tmp_path):
    words = (
        "import signal, sys, vs3r\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.exit(vs3r.finished(sys.executable, '-c', {SLOW!r})[0])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", words], cwd=vs3r.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        written, said = running.communicate(timeout=30)
    assert (running.returncode, written, said) == (130, "kept\n", "")


def test_exit_codes_and_output_are_the_programs():
    assert vs3r.finished(sys.executable, "-c", "print('é'); raise SystemExit(4)", stdout=subprocess.PIPE) == (4, "é\n")
    if os.name != "nt":
        assert vs3r.finished(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")[0] == 137


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what the set-up looks at; pip's calls are recorded and do nothing."""
    for name in ("pyproject.toml", "hatch_build.py", "vs3r_engine/native/kernels.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((vs3r.ROOT / name).read_bytes())
    calls, created = [], []

    def ran(command, **_):
        calls.append(command[2:] if "ensurepip" in command else command[3:])
        return subprocess.CompletedProcess(command, 0 if command[3:4] != ["--version"] or (tmp_path / ".venv" / "pip").exists() else 1)

    def create(directory, with_pip):
        created.append(directory)
        Path(vs3r.PYTHON).parent.mkdir(parents=True, exist_ok=True)
        Path(vs3r.PYTHON).touch()
        (directory / "pip").touch()

    monkeypatch.setattr(vs3r.subprocess, "run", ran)
    monkeypatch.setattr(venv, "create", create)

    def lies_at(root):
        monkeypatch.setattr(vs3r, "ROOT", root)
        monkeypatch.setattr(vs3r, "ENVIRONMENT", root / ".venv")
        monkeypatch.setattr(vs3r, "PYTHON", str(root / ".venv" / "bin" / "python"))

    lies_at(tmp_path)
    return tmp_path, calls, created, lies_at


def test_the_set_up_runs_once_again_where_something_changed_and_again_where_the_checkout_was_moved(checkout):
    root, calls, created, lies_at = checkout
    vs3r.ensure_installed("")
    assert created == [root / ".venv"] and calls[-1][-2:] == ["--editable", str(root)]
    calls.clear()
    vs3r.ensure_installed("")
    assert not calls and len(created) == 1
    (root / "pyproject.toml").write_text("changed")
    vs3r.ensure_installed("")
    assert calls and len(created) == 1
    calls.clear()
    (root / "vs3r_engine" / "native" / "another.c").write_text("//")
    vs3r.ensure_installed("")
    assert calls
    moved = root.rename(root.with_name(root.name + "-moved"))
    lies_at(moved)
    vs3r.ensure_installed("")
    assert calls[-1][-2:] == ["--editable", str(moved)]


def test_an_interrupted_set_up_is_mended(checkout):
    root, calls, created, _ = checkout
    Path(vs3r.PYTHON).parent.mkdir(parents=True)
    Path(vs3r.PYTHON).touch()
    vs3r.ensure_installed("")
    assert not created and calls[1] == ["ensurepip"] and calls[-1][-2:] == ["--editable", str(root)]


@pytest.mark.parametrize(
    ("error", "lacks_ensurepip", "said", "code"),
    [
        (subprocess.CalledProcessError(1, "pip"), True, "python3-venv", 3),
        (subprocess.CalledProcessError(1, "pip"), False, "Check the network", 3),
        (PermissionError(13, "Permission denied", "/x/.venv"), False, "/x/.venv", 3),
        (KeyboardInterrupt(), False, "Stopped", 130),
    ],
)
def test_a_set_up_that_cannot_be_says_why(monkeypatch, capsys, error, lacks_ensurepip, said, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(vs3r, "ensure_installed", fail)
    monkeypatch.setattr(sys, "argv", ["vs3r.py", "demo"])
    monkeypatch.setattr(vs3r.importlib.util, "find_spec", lambda _: None if lacks_ensurepip else "there")
    assert vs3r.main() == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--preset", "glide"], 2)])
def test_the_demo_says_how_it_is_called(words, code, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(vs3r, "ROOT", tmp_path)
    assert vs3r.demo(words) == code
    assert "demo [CLIP" in capsys.readouterr().out


def test_what_is_read_only_becomes_mp4_beside_its_source():
    for suffix in ("AVI", "wmv", "hevc", "flv"):
        assert _default_output(f"/a/clip.{suffix}") == "/a/clip_vs3r.mp4"
    assert _default_output("/a/clip.MOV") == "/a/clip_vs3r.MOV"
    assert {*codecs.CONTAINERS, *codecs.IMAGE_CODECS} == WRITABLE_SUFFIXES
