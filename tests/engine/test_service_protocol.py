# SPDX-License-Identifier: Apache-2.0
"""PROTOCOL.md, its golden files and the types agree, and nothing a peer can write gets past the types."""

import json
import math
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import msgspec
import opentimelineio as otio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.protocol_examples import ENGINE, GOLDEN, examples, index, pack, unpack
from vs3r_engine import errors
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Connection, Launch
from vs3r_engine.timeline import Clip, FrameRange

DOCUMENT = (Path(__file__).parents[2] / "PROTOCOL.md").read_text()
ALL_REQUESTS = p.REQUESTS | p.CONTROLS


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_every_message_is_written_as_its_golden_file(example):
    assert (GOLDEN / example.file).read_bytes() == pack(example.parts)


def test_the_index_lists_every_golden_file():
    assert (GOLDEN / "index.json").read_text() == index()
    assert {path.name for path in GOLDEN.glob("*.msg")} == {example.file for example in examples()}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_every_golden_file_reads_as_its_type(example):
    parts = unpack((GOLDEN / example.file).read_bytes())
    if example.kind == "request":
        request = p.decode_request(parts[0])
        p.decode(request.body, ALL_REQUESTS[request.type], "body")
    elif example.kind == "event":
        read = p.decode(parts[1], p.Event, "event")
        assert parts[0] == p.topic_of(read.job_id)
        p.decode(read.body, p.EVENTS[read.type], "body")
    elif example.name == "reply-other-major":
        with pytest.raises(errors.ProtocolError, match=r"2\.0.*1\.0.*protocol-version"):
            p.decode_reply(parts[0])
    elif example.kind == "reply":
        reply = p.decode_reply(parts[0])
        assert (reply.error is msgspec.UNSET) == (reply.status == "ok")
        if reply.status == "ok":
            p.decode(reply.body, p.REPLIES[reply.type], "body")
    else:
        p.decode(parts[0], Connection if example.kind == "connection" else Launch, "file")


def test_every_message_and_field_is_in_the_document():
    for name, body in (ALL_REQUESTS | p.EVENTS | {"reply-" + k: v for k, v in p.REPLIES.items()}).items():
        assert re.search(rf"`{name.removeprefix('reply-')}`|### {name.removeprefix('reply-')}", DOCUMENT), name
        for field in body.__struct_fields__:
            assert f"`{field}`" in DOCUMENT, f"{name}.{field}"
    for body in (p.Source, p.UploadedFrame, p.Limits, p.WorkerReport):
        for field in body.__struct_fields__:
            assert f"`{field}`" in DOCUMENT, field


def test_the_documents_own_json_is_valid():
    blocks = [
        json.loads(line)
        for block in re.findall(r"```json\n(\{\".*?)```", DOCUMENT, re.S)
        for line in re.sub(r"\n ", "", block).strip().splitlines()
    ]
    assert len(blocks) >= 5


def test_the_protocol_imports_nothing_heavy():
    code = "import sys, vs3r_engine.service.rendezvous\nprint([m for m in ('numpy', 'cv2', 'torch', 'av', 'zmq') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "error",
    [
        errors.MediaError("media-missing", "no", "x"),
        errors.SettingsError("bad-setting", "no", "x"),
        errors.SetupError("a", "b", "c"),
        errors.DiskFull("disk-full", "b", "c"),
        errors.Cancelled(),
        errors.EngineFault("a", "b", "c"),
    ],
)
def test_an_error_keeps_its_triple_and_exit_code_across_the_wire(error):
    sent = p.decode_reply(p.encode_error("frame", "1", ENGINE, error))
    back = p.exception_of(sent.error)
    assert (back.code, back.message, back.hint, back.exit_code) == (
        error.code,
        error.message,
        error.hint,
        error.exit_code,
    )


def test_a_different_major_version_is_refused_naming_both():
    with pytest.raises(errors.ProtocolError, match=r"2\.0.*1\.0.*protocol-version"):
        p.refuse_other_version(p.decode_request(b'{"v":"2.0","type":"hello","id":"1","session":"s"}'))


@pytest.mark.parametrize("type", sorted(ALL_REQUESTS))
def test_null_means_absent(type):
    """Also where a field has a default; but in an OTIO clip it means what OTIO says."""
    wanted = ALL_REQUESTS[type]
    body = valid_bodies()[type]
    needed = {field.encode_name for field in msgspec.structs.fields(wanted) if field.required}
    least = {key: value for key, value in body.items() if key in needed}
    nulls = {key: None for key in wanted.__struct_fields__ if key not in needed}
    assert p.decode(json.dumps(least | nulls).encode(), wanted, type) == p.decode(json.dumps(least).encode(), wanted, type)
    if not needed:
        assert p.decode(b"null", wanted, type) == wanted()
    with pytest.raises(errors.ProtocolError, match="bad-field"):
        p.decode(b"[]", wanted, type)
    for key in needed:
        with pytest.raises(errors.ProtocolError, match=rf"{key}.*bad-field"):
            p.decode(json.dumps(least | {key: None}).encode(), wanted, type)
    if "source" in needed:
        clip = {"source_range": None, "effects": [{"name": None}]}
        source = {"path": None, "clip": clip, "range": None}
        assert p.decode(json.dumps(least | nulls | {"source": source}).encode(), wanted, type).source.clip == clip


def test_a_newer_minor_version_and_unknown_fields_are_fine():
    request = p.decode_request(b'{"v":"1.9","type":"hello","id":"1","session":"s","new":1,"body":{"client":"x","new":{}}}')
    assert p.decode(request.body, p.Hello, "hello").client == "x"


def test_part_0_beyond_its_limit_is_refused():
    with pytest.raises(errors.ProtocolError, match="bad-message"):
        p.decode_request(b'{"v":"1.0","type":"hello","id":"1","session":"s","body":{"client":"' + b"x" * p.JSON_BYTES + b'"}}')


def valid_bodies() -> dict[str, dict]:
    """A valid body of every request type, as plain JSON values."""
    found = {}
    for example in examples():
        if example.kind == "request":
            found[example.type] = json.loads(example.parts[0])["body"]
    return found


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 5000) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("type", sorted(ALL_REQUESTS))
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_damaged_body_is_a_body_or_a_typed_error(type, data):
    """Missing, extra, wrong-typed, huge, NaN, negative fields, anywhere in the body."""
    body = json.loads(json.dumps(valid_bodies()[type]))
    spots = (
        [body]
        + [value for value in body.values() if isinstance(value, dict)]
        + [item for value in body.values() if isinstance(value, list) for item in value if isinstance(item, dict)]
    )
    spot = data.draw(st.sampled_from(spots))
    key = data.draw(st.sampled_from(sorted(spot) or ["extra"]) | st.text(max_size=10))
    action = data.draw(st.sampled_from(["remove", "replace", "negate"]))
    if action == "remove":
        spot.pop(key, None)
    elif action == "negate" and isinstance(spot.get(key), int | float):
        spot[key] = -spot[key] - 1
    else:
        spot[key] = data.draw(anything)
    text = json.dumps(body).encode()
    try:
        read = p.decode(text, ALL_REQUESTS[type], type)
    except errors.ProtocolError as error:
        assert error.code in ("bad-field", "bad-message") and error.hint
    else:
        for value in msgspec.structs.asdict(read).values():
            assert not (isinstance(value, float) and not math.isfinite(value))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | anything.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_bytes_are_a_request_or_a_typed_error(data):
    try:
        p.decode_request(data)
    except errors.ProtocolError as error:
        assert error.code == "bad-message"


def test_deep_nesting_is_a_typed_error():
    body = b'{"source":{"clip":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}"
    with pytest.raises(errors.ProtocolError, match=r"bad-message|bad-field"):
        p.decode(body, p.Probe, "probe")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"source": {"path": "relative.mp4"}, "frame_index": 1}, "absolute"),
        ({"source": {"path": "/a\0b"}, "frame_index": 1}, "absolute"),
        ({"source": {}, "frame_index": 1}, "exactly one"),
        ({"source": {"path": "/a", "upload": "b"}, "frame_index": 1}, "exactly one"),
        ({"source": {"upload": "../../etc"}, "frame_index": 1}, "upload"),
        ({"source": {"path": "/a"}, "frame_index": -1}, "frame_index"),
        ({"source": {"path": "/a"}, "frame_index": 2**31}, "frame_index"),
        ({"source": {"path": "/a"}, "frame_index": 1, "settings": {"values": {"path.smoothness": 10**400}}}, "settings"),
        ({"source": {"path": "/a"}, "frame_index": 1, "wait_s": 11}, "wait_s"),
        ({"source": {"path": "/a"}, "frame_index": 1, "reduction": 3}, "reduction"),
        ({"source": {"upload": "a", "rate": "25"}, "frame_index": 1}, "rate"),
        ({"source": {"path": "/a", "rate": 25}, "frame_index": 1}, "rate"),
        ({"source": {"path": "/a", "rate": "1" * 33}, "frame_index": 1}, "rate"),
        ({"source": {"path": "/a", "range": [1]}, "frame_index": 1}, "range"),
        ({"source": {"path": "/a", "range": [1, -2]}, "frame_index": 1}, "range"),
    ],
)
def test_a_bad_field_is_named(body, field):
    with pytest.raises(errors.ProtocolError, match=f"{field}.*bad-field"):
        p.decode(json.dumps(body).encode(), p.FrameRequest, "frame")


def image_sequence(rate: float) -> dict:
    reference = otio.schema.ImageSequenceReference("/m", "sh.", ".png", 0, 1, rate, 4)
    return json.loads(otio.schema.Clip(media_reference=reference, source_range=one_second(rate)).to_json_string())


def one_second(rate: float) -> otio.opentime.TimeRange:
    return otio.opentime.TimeRange(otio.opentime.RationalTime(0, rate), otio.opentime.RationalTime(rate, rate))


@pytest.mark.parametrize(
    ("source", "rate"),
    [
        (p.Source(path="/m/sh.%04d.png"), 24),
        (p.Source(path="/m/sh.%04d.png", rate="29.97"), Fraction(30000, 1001)),
        (p.Source(clip=image_sequence(25.0)), 25),
        (p.Source(clip=image_sequence(25.0), rate="50"), 50),
    ],
)
def test_the_rate_of_images_is_the_requests_then_the_clips_then_the_images_and_the_job_is_opened_at_it(source, rate):
    from vs3r_engine.service.playback import Playback, job_of

    opened = []

    def probe(path, sequence_rate):
        return SimpleNamespace(clip=Clip(path, sequence_rate or Fraction(24), 64, 36, FrameRange(0, 100)), sequence=path)

    def open_source(path, sequence_rate):
        opened.append((path, sequence_rate))
        raise errors.MediaError("media-missing", "enough seen", "")

    nothing = {
        "smoothed_path": lambda *_: None,
        "choose_methods": lambda *_: SimpleNamespace(completer=None),
        "render_frames": lambda *_: iter(()),
    }
    pipeline = SimpleNamespace(probe=probe, open_source=open_source, **nothing)
    job = job_of(pipeline, source, p.SettingsChoice(), "j", "/o.mov", False)
    assert job.clip.rate == rate
    with pytest.raises(errors.MediaError, match="enough seen"):
        Playback(pipeline, job, None).frame(0)
    assert opened == [("/m/sh.%04d.png", rate)]


@pytest.mark.parametrize(
    ("effect", "choice", "expected"),
    [
        (None, p.SettingsChoice(), ("smooth", 50.0, 100.0)),
        (None, p.SettingsChoice("subtle"), ("smooth", 30.0, 80.0)),
        (None, p.SettingsChoice("subtle", {"path.strength": 60}), ("smooth", 30.0, 60.0)),
        ({"settings": {"path.smoothness": 40}}, p.SettingsChoice("subtle"), ("smooth", 40.0, 80.0)),
        ({"preset": "glide"}, p.SettingsChoice("subtle"), ("smooth", 85.0, 100.0)),
        ({"preset": "natural"}, p.SettingsChoice("locked"), ("smooth", 50.0, 100.0)),
        ({"preset": "glide", "settings": {"path.smoothness": 40}}, p.SettingsChoice(), ("smooth", 40.0, 100.0)),
        (
            {"preset": "glide", "settings": {"path.smoothness": 40, "path.strength": 70}},
            p.SettingsChoice("locked", {"path.smoothness": 10}),
            ("smooth", 10.0, 70.0),
        ),
    ],
)
def test_values_lie_over_the_clips_effect_which_lies_over_the_preset(effect, choice, expected):
    from vs3r_engine.service.playback import job_of

    media = Clip("/a.mov", Fraction(25), 64, 36, FrameRange(0, 100))
    clip = otio.schema.Clip(media_reference=otio.schema.ExternalReference("/a.mov"))
    clip.source_range = otio.opentime.TimeRange(otio.opentime.RationalTime(10, 25), otio.opentime.RationalTime(20, 25))
    if effect is not None:
        clip.effects.append(otio.schema.Effect(effect_name="VS3R", metadata={"vs3r": {"schema": 1, **effect}}))
    pipeline = SimpleNamespace(probe=lambda path, sequence_rate: SimpleNamespace(clip=media))
    job = job_of(pipeline, p.Source(clip=json.loads(clip.to_json_string())), choice, "j", "/o.mov", False)
    assert (job.settings.path.mode, job.settings.path.smoothness, job.settings.path.strength) == expected
