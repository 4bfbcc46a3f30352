# SPDX-License-Identifier: Apache-2.0
"""The plug-in's reader and writer of the protocol agree with Python's, byte for byte, over the golden files."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "protocol"
INDEX = [entry for entry in json.loads((GOLDEN / "index.json").read_text()) if entry["kind"] != "event"]  # it does not listen to those
WRITTEN = ["request-probe", "request-frame", "request-status", "request-cancel"]


def run(build, *words, text=None):
    return subprocess.run(
        [str(build / "openfx" / "protocol_check"), *map(str, words)],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_requests_are_written_as_python_writes_them(build, tmp_path):
    run(build, "encode", tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(WRITTEN)
    for name in WRITTEN:
        assert (tmp_path / f"{name}.msg").read_bytes() == (GOLDEN / f"{name}.msg").read_bytes(), name


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["file"])
def test_every_message_is_read_and_written_again_byte_for_byte(build, entry):
    data = (GOLDEN / entry["file"]).read_bytes()
    first = data[4 : 4 + int.from_bytes(data[:4], "little")]
    understood, *_, again = run(build, "decode", GOLDEN / entry["file"]).splitlines()
    assert again.encode() == first
    assert understood.split()[0] == (entry["kind"] if entry["kind"] != "request" else "other")


@pytest.mark.parametrize(
    ("name", "understood"),
    [
        ("reply-frame-ready", "reply frame 17 ok\nready 2 1 half 16\n"),
        ("reply-frame-pending", "reply frame 17 ok\npending analyze 0.25 j-81c1 0.2\n"),
        ("reply-frame-pending-no-job", "reply frame 17 ok\npending render 0  0.1\n"),
        ("reply-error", "reply status 17 error unknown-job\n"),
        ("reply-error-nameless", "reply error  error bad-message\n"),
        ("reply-newer-minor", "reply ping 17 ok\n"),
        ("reply-other-major", "reply ping 17 error protocol-version\n"),
        ("connection", "connection 4f1d0c2b9a7e4d11 4711 vs3r\n"),
        ("launch", "launch 5\n"),
    ],
)
def test_what_is_understood(build, name, understood):
    assert run(build, "decode", GOLDEN / f"{name}.msg").startswith(understood)


@pytest.mark.parametrize(
    "changes",
    [{"row_bytes": 2**62}, {"row_bytes": 15}, {"width": 2**61}, {"width": 0}, {"height": 65537}, {"height": -1}, {"format": "half4"}],
)
def test_a_frame_that_its_buffer_cannot_hold_is_refused(build, tmp_path, changes):
    data = (GOLDEN / "reply-frame-ready.msg").read_bytes()
    size = int.from_bytes(data[:4], "little")
    reply = json.loads(data[4 : 4 + size])
    reply["body"] |= {"height": 5} | changes
    text = json.dumps(reply).encode()
    file = tmp_path / "frame.msg"
    file.write_bytes(len(text).to_bytes(4, "little") + text + (80).to_bytes(4, "little") + bytes(80))
    assert not run(build, "decode", file).splitlines()[1].startswith("ready ")
    reply["body"] = json.loads(data[4 : 4 + size])["body"] | {"height": 5}
    text = json.dumps(reply).encode()
    file.write_bytes(len(text).to_bytes(4, "little") + text + (80).to_bytes(4, "little") + bytes(80))
    assert run(build, "decode", file).splitlines()[1] == "ready 2 5 half 16"


@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a":1}x', '"\\ud800"', "01", "1.", "nul", '{"a" 1}', "[" * 100 + "]" * 100, '"\x01"'])
def test_what_is_no_json_is_refused(build, tmp_path, text):
    file = tmp_path / "bad.msg"
    file.write_bytes(len(text.encode()).to_bytes(4, "little") + text.encode())
    assert run(build, "decode", file) == "other\nnull\n"


@settings(max_examples=5, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=40, max_size=40))
def test_numbers_survive(build, values):
    assert [float(line) for line in run(build, "numbers", text="\n".join(map(repr, values))).split()] == pytest.approx(
        values, rel=1e-15, abs=0
    )
