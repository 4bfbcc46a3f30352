# SPDX-License-Identifier: Apache-2.0
"""No memory error, leak, undefined behaviour or race in the plug-in, as the sanitizers see it (sanitized.py)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin import sanitized
from tests.plugin.conftest import SANITIZER

pytestmark = pytest.mark.skipif(bool(SANITIZER), reason="these tests start the others with a sanitizer themselves")


KINDS = ["address", pytest.param("thread", marks=pytest.mark.slow), pytest.param("undefined", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    if problem := sanitized.why_not(request.param):
        pytest.skip(problem)
    return request.param


FOUND = {
    "leak": ("address", "leak of 64 byte"),
    "overflow": ("address", "heap-buffer-overflow"),
    "undefined": ("undefined", "signed integer overflow"),
    "race": ("thread", "data race"),
}


def test_what_is_wrong_on_purpose_is_found(kind, tmp_path):
    canary = tmp_path / "canary.so"
    source = Path(__file__).with_name("sanitizer_canary.cpp")
    flags = ["-std=c++17", "-shared", "-fPIC", "-g", f"-fsanitize={kind}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(canary)], check=True)
    for function, (finder, words) in FOUND.items():
        if finder != kind:
            continue
        program = f"import ctypes; ctypes.CDLL({str(canary)!r}).{function}()"
        _, found = sanitized.reports(kind, [sys.executable, "-c", program], canary.name, {})
        assert len(found) == 1 and words in found[0], (function, found)
    ran, found = sanitized.reports(kind, [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(canary)!r})"], canary.name, {})
    assert ran.returncode == 0 and found == []


def nothing_is_found(kind, *words):
    ran, found = sanitized.run_suite(kind, list(words))
    assert not found, "\n".join(found)
    assert ran.returncode == 0 and re.search(r"\d+ passed", ran.stdout), ran.stdout + ran.stderr


def test_nothing_is_found_while_frames_are_rendered(kind):
    nothing_is_found(kind, "tests/plugin/test_render.py")


@pytest.mark.slow
def test_nothing_is_found_in_the_whole_suite(kind):
    nothing_is_found(kind, "tests/plugin")
