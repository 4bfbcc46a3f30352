# SPDX-License-Identifier: Apache-2.0
"""What a host, a user and an engine may do wrong: stall, hang up, name files and times that are none. No wrong frame is
delivered, nothing hangs, nothing is started for nothing, and what to do is said."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tests.fakes.engine_process import wait_until
from tests.plugin.ofx_host import FAILED, OK, Arguments, HostImage, Instance
from tests.plugin.stub_engine import GREETING, SHAPE, StubEngine
from tests.plugin.test_render import effect, gray
from vs3r_engine.media.raw_frames import SAMPLE_BYTES


def send_frame(line, request, width=32, height=16, **fields):
    body = request["body"]
    row_bytes = width * 4 * SAMPLE_BYTES[body["format"]]
    facts = {"state": "ready", "frame_index": body["frame_index"], "width": width, "height": height, "format": body["format"]}
    line.reply(request, facts | {"row_bytes": row_bytes} | fields, bytes(row_bytes * height))


def answer(line, request):
    """As an engine should."""
    if request["type"] == "probe":
        line.reply(request, SHAPE)
    elif request["type"] == "frame":
        send_frame(line, request)
    else:
        line.reply(request, {"job_id": "j-1"} if request["type"] == "analyze" else {})


@pytest.fixture
def stub(monkeypatch):
    with StubEngine(answer) as engine:
        monkeypatch.setenv("VS3R_RUNTIME_DIR", str(engine.directory))
        monkeypatch.setenv("VS3R_CONFIG_DIR", str(engine.directory))
        yield engine


@pytest.fixture
def film_clip(spec_host):
    """An effect on five frames whose file nobody names."""
    film = np.random.default_rng(4).random((5, 16, 32, 4)).astype(np.float32)
    instance = Instance(spec_host)
    instance.connect(lambda at: film[int(at) - 10], (10, 14))
    return instance


@pytest.mark.parametrize(("at", "frame"), [(41.5, 41), (42.5, 42), (41.999999, 42), (41.6, 42), (-0.3, 0)])
def test_both_fields_and_every_time_between_are_the_nearest_frame(spec_host, stub, at, frame):
    """A fielded host names its second field by a half."""
    frames = []
    stub.answer = lambda line, request: (frames.append(request["body"].get("frame_index")), answer(line, request))
    assert effect(spec_host, "/media/fields.mov").render(Arguments(at))[0] == OK and frames[-1] == frame
    assert spec_host.descriptor.properties.get("OfxImageEffectPluginPropFieldRenderTwiceAlways") == 0
    assert spec_host.descriptor.clips["Source"].get("OfxImageClipPropFieldExtraction") == "OfxFieldBoth"


MEDIA = {"available_range": [0, 60], "rate": "30"}


@pytest.mark.parametrize(
    ("shown", "rate", "first_frame", "at", "frame"),
    [
        ((10, 69), 30.0, -1, 15, 5),  # the whole file, from 10 on
        ((10, 68), 24.0, -1, 15, 5),  # the same where the project's rate changes no clip
        ((0, 30), 30.0, 20, 5, 25),  # trimmed, as its user said
        ((7, 7), 30.0, -1, 7, 7),  # a host that tells one frame at a time
        ((7, 7), 30.0, 20, 7, 27),
        ((0, 49), 25.0, -1, 10, 12),  # conformed to the project's rate
        ((100, 219), 60.0, -1, 117, 8),
    ],
)
def test_a_clip_whose_file_the_user_named_shows_the_files_frame(spec_host, stub, shown, rate, first_frame, at, frame):
    frames = []
    stub.answer = lambda line, request: (
        line.reply(request, SHAPE | MEDIA)
        if request["type"] == "probe"
        else (frames.append(request["body"].get("frame_index")), answer(line, request))
    )
    instance = Instance(spec_host)
    instance.connect(gray(), shown, rate)
    instance.parameters["file"].value = "/media/clip.mov"
    instance.parameters["first_frame"].value = first_frame
    assert instance.render(Arguments(at))[0] == OK and frames == [frame]


@pytest.mark.parametrize(
    ("shown", "rate", "first_frame", "said"),
    [
        ((0, 30), 30.0, -1, "31 of the file's 60 frames and does not say which. Set First Frame"),
        ((0, 30), 25.0, -1, "runs at 25 frames a second, the file at 30"),
        ((0, 30), 25.0, 20, "runs at 25 frames a second, the file at 30"),
        ((7, 7), 30000 / 1001, -1, "runs at 29.97 frames a second, the file at 30"),
    ],
)
def test_a_frame_that_cannot_be_known_is_not_guessed(spec_host, stub, shown, rate, first_frame, said):
    stub.answer = lambda line, request: line.reply(request, SHAPE | MEDIA) if request["type"] == "probe" else answer(line, request)
    instance = Instance(spec_host)
    instance.connect(gray(), shown, rate)
    instance.parameters["file"].value = "/media/clip.mov"
    instance.parameters["first_frame"].value = first_frame
    assert instance.render(Arguments(7))[0] == FAILED and said in instance.messages[-1]
    assert "frame" not in stub.asked


@pytest.mark.parametrize("first_frame", [-1, 20])
@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_time_that_is_none_is_no_frame(spec_host, stub, at, first_frame):
    instance = effect(spec_host, "/media/times.mov")
    instance.parameters["first_frame"].value = first_frame
    assert instance.render(Arguments(at))[0] == FAILED and "before the first frame" in instance.messages[-1]


def test_a_file_written_again_in_another_size_is_shown_in_full_detail(spec_host, stub):
    """A final picture made of half of the pixels would look soft, and nobody would be told."""
    width, reductions = 64, []

    def media(line, request):
        if request["type"] == "probe":
            line.reply(request, SHAPE | {"width": width, "height": width // 2})
        else:
            reductions.append(request["body"]["reduction"])
            send_frame(line, request, width // reductions[-1], width // 2 // reductions[-1])

    stub.answer = media
    instance = effect(spec_host, "/media/written_again.mov")
    assert instance.render(Arguments(3))[0] == OK and reductions == [2]
    width = 32
    assert instance.render(Arguments(3))[0] == OK and reductions[-1] == 1


@pytest.mark.parametrize("wrong", [{"width": 31}, {"height": 4}, {"state": "perhaps"}, {"row_bytes": 8}])
def test_a_frame_that_is_not_the_one_asked_for_is_never_delivered(spec_host, stub, wrong):
    stub.answer = lambda line, request: answer(line, request) if request["type"] == "probe" else send_frame(line, request, **wrong)
    instance = effect(spec_host, "/media/wrong.mov")
    assert instance.render(Arguments(3))[0] == FAILED and "makes no sense" in instance.messages[-1]
    begun_s = time.monotonic()
    assert instance.render(Arguments(3, interactive=True))[0] == OK and time.monotonic() - begun_s < 2


def test_an_engine_that_ends_while_it_is_greeted_has_not_refused(spec_host, stub, monkeypatch):
    def hang_up(engine, line):
        line.take(64)
        line.socket.sendall(GREETING)
        line.frame()
        (engine.directory / "engine.json").unlink()
        line.socket.close()
        raise ConnectionError

    stub.greet = hang_up
    instance = effect(spec_host, "/media/a.mov")
    assert instance.render(Arguments(3))[0] == FAILED and "not installed" in instance.messages[-1]


@pytest.mark.parametrize("ends_while_asked", [False, True])
def test_no_engine_is_started_for_uploads_that_ended_with_theirs(stub, film_clip, ends_while_asked):
    started = stub.directory / "started"
    program = [sys.executable, "-c", f"open({str(started)!r}, 'a').write('x')"]
    (stub.directory / "launch.json").write_text(json.dumps({"program": program}))

    def alive(line, request):
        if request["type"] != "status":
            answer(line, request)
        elif not ends_while_asked or stub.asked.count("status") < 3:
            line.reply(request, {"job": {"state": "done"}})
        else:
            (stub.directory / "engine.json").unlink()
            line.socket.close()
            raise ConnectionError

    stub.answer = alive
    film_clip.edit("analyze")
    wait_until(lambda: stub.asked.count("status") > 2, 10)
    if not ends_while_asked:
        time.sleep(0.5)  # it was answered, too
        (stub.directory / "engine.json").unlink()
        for line in stub.lines:
            line.socket.close()
    time.sleep(4)
    assert not started.exists()


def test_reading_can_be_cancelled_while_the_engine_stalls(stub, film_clip):
    stub.answer = lambda line, request: None
    film_clip.cancel_progress_after = 1
    begun_s = time.monotonic()
    film_clip.edit("analyze")
    assert "cancelled" in film_clip.value("status") and time.monotonic() - begun_s < 3


def test_analyze_waits_for_an_engine_that_is_being_started(spec_host, stub):
    """Pressing again would not be anybody's first idea."""
    connection, away = stub.directory / "engine.json", stub.directory / "away.json"
    connection.rename(away)
    program = [sys.executable, "-c", f"import os, time; time.sleep(0.3); os.rename({str(away)!r}, {str(connection)!r})"]
    (stub.directory / "launch.json").write_text(json.dumps({"program": program}))
    instance = effect(spec_host, "/media/a.mov")
    instance.edit("analyze")
    assert instance.value("status") == "Analysing." and "analyze" in stub.asked


@pytest.mark.parametrize("part", ["header", "buffer"])
def test_half_a_message_ends_at_the_budget(spec_host, stub, part):
    def half(line, request):
        if request["type"] == "probe":
            line.reply(request, SHAPE)
        else:
            line.socket.sendall(b"\x03\x00" if part == "header" else b"\x01\x02{}\x02" + bytes(6) + b"\x10\x00abc")

    stub.answer = half
    instance = effect(spec_host, "/media/half.mov")
    begun_s = time.monotonic()
    assert instance.render(Arguments(3, interactive=True))[0] == OK and time.monotonic() - begun_s < 3
    assert instance.render(Arguments(3, abort_after_s=0.3))[0] == FAILED and time.monotonic() - begun_s < 6


def test_a_file_that_does_not_answer_is_not_said_to_be_analysed(spec_host, stub):
    stub.answer = lambda line, request: (
        answer(line, request)
        if request["type"] == "probe"
        else line.reply(request, {"state": "pending", "stage": "open", "fraction": 0.0, "retry_s": 1.0})
    )
    instance = effect(spec_host, "/share/gone.mov")
    assert instance.render(Arguments(3, interactive=True))[0] == OK
    instance.sync()
    assert instance.value("status") == "VS3R opening the file"


def test_an_engine_that_asks_to_be_asked_at_once_is_not_asked_without_end(spec_host, stub):
    stub.answer = lambda line, request: (
        answer(line, request) if request["type"] == "probe" else line.reply(request, {"state": "pending", "retry_s": -5, "fraction": 0.1})
    )
    assert effect(spec_host, "/media/eager.mov").render(Arguments(3, abort_after_s=0.5))[0] == FAILED
    assert stub.asked.count("frame") < 40


def test_a_clip_that_gives_no_picture_cannot_be_told_from_another(stub, film_clip):
    stub.answer = lambda line, request: (
        line.reply(request, {"job": {"state": "done"}}) if request["type"] == "status" else answer(line, request)
    )
    film_clip.edit("analyze")
    assert film_clip.render(Arguments(12))[0] == OK
    film_clip.clips["Source"].picture = lambda at: None
    assert film_clip.render(Arguments(12, size=(16, 32)))[0] == FAILED and "no picture" in film_clip.messages[-1]


def test_an_effect_destroyed_during_its_analysis_leaves_nothing_behind(spec_host, stub):
    stub.answer = lambda line, request: (
        line.reply(request, {"job": {"state": "running", "fraction": 0.5}}) if request["type"] == "status" else answer(line, request)
    )
    instance = effect(spec_host, "/media/a.mov")
    instance.edit("analyze")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(instance.render, (Arguments(at, interactive=True) for at in range(4))))
    assert instance.destroy() == OK
    wait_until(lambda: stub.asked.count("status") > 2, 10)


def running(line, request):
    """An engine whose analysis goes on and on."""
    if request["type"] == "status":
        line.reply(request, {"job": {"state": "running", "fraction": 0.5}})
    elif request["type"] == "frame" and request["body"]["analyze"]:
        line.reply(request, {"state": "pending", "stage": "analyze", "fraction": 0.5, "job_id": "j-1", "retry_s": 0.1})
    elif request["type"] == "frame":
        error = {"code": "not-analyzed", "message": "It is not analysed.", "hint": "Ask for it.", "kind": "input"}
        line.reply(request, status="error", error=error)
    else:
        answer(line, request)


def test_what_was_cancelled_in_one_effect_is_not_begun_again_by_another_on_the_same_clip(resolve_host, stub):
    """Resolve has several for one clip, and shows the controls of one of them."""
    stub.answer = running
    shown, other = effect(resolve_host, "/media/same.mov"), effect(resolve_host, "/media/same.mov")
    shown.edit("analyze")
    shown.edit("analyze")
    assert "cancelled" in shown.value("status")
    assert other.render(Arguments(3, source_frame=3, interactive=True))[0] == OK
    other.sync()
    assert "cancelled" in other.value("status")
    shown.edit("analyze")
    assert other.render(Arguments(3, source_frame=3, interactive=True))[0] == OK
    other.sync()
    assert "analysing" in other.value("status")


def test_analyze_is_about_the_clip_that_lies_there_now(spec_host, stub):
    stub.answer = running
    instance = effect(spec_host, "/media/first.mov")
    instance.edit("analyze")
    instance.edit("file", "/media/second.mov")
    instance.edit("analyze")
    assert instance.value("status") == "Analysing." and stub.asked.count("analyze") == 2 and "cancel" not in stub.asked


@pytest.mark.parametrize("around", ['"{}"', " {}\n", "'{}'"])
def test_a_path_may_be_pasted_as_file_managers_copy_it(spec_host, stub, around):
    paths = []
    stub.answer = lambda line, request: (paths.append(request["body"]["source"]["path"]), answer(line, request))
    assert effect(spec_host, around.format("/media/pasted here.mov")).render(Arguments(3))[0] == OK
    assert set(paths) == {"/media/pasted here.mov"}


@pytest.mark.parametrize(
    ("path", "said"), [(b"clip.mov", "whole path"), (b"/media/\xe4.mov", "UTF-8"), (b"/\xed\xa0\x80", "UTF-8"), (b"/\xf0\x9f", "UTF-8")]
)
def test_a_path_that_no_engine_could_open_is_explained_in_plain_words(spec_host, stub, path, said):
    class Named(str):
        def encode(self, *_):
            return path

    instance = effect(spec_host, Named())
    assert instance.render(Arguments(3))[0] == FAILED and said in instance.messages[-1] and not stub.asked
    instance.edit("analyze")
    assert said in instance.value("status") and not stub.asked


def test_a_path_in_any_script_is_passed_on(spec_host, stub):
    paths = []
    stub.answer = lambda line, request: (paths.append(request["body"]["source"]["path"]), answer(line, request))
    assert effect(spec_host, "/média/日本/\U0001f3a5 \\ é.mov").render(Arguments(3))[0] == OK
    assert set(paths) == {"/média/日本/\U0001f3a5 \\ é.mov"}


def test_a_message_does_not_outlive_what_it_complains_of(spec_host, stub):
    instance = effect(spec_host, "clip.mov")
    assert instance.render(Arguments(3))[0] == FAILED and instance.messages[-1]
    instance.edit("view", 1)
    assert instance.messages[-1] == ""


@pytest.mark.parametrize("picture", [(-(2**31), -(2**31), 2**31 - 1, 2**31 - 1), (0, 0, 0, 0), (9, 9, 5, 5), (-(2**31), 0, 2**31 - 1, 16)])
def test_a_picture_without_an_end_is_what_there_are_pixels_of(spec_host, stub, monkeypatch, picture):
    made = HostImage.__init__

    def endless(self, *arguments, **named):
        made(self, *arguments, **named)
        self.properties.set("OfxImagePropRegionOfDefinition", picture)

    monkeypatch.setattr(HostImage, "__init__", endless)
    instance = effect(spec_host, "/media/endless.mov")
    for view in (0, 2):
        instance.edit("view", view)
        status, pixels = instance.render(Arguments(3))
        assert status == OK and not pixels[:, 17:].any()
    assert instance.render(Arguments(-3, interactive=True))[0] == OK


def test_the_slate_says_a_long_path_to_its_end(spec_host, stub):
    """A word longer than the line goes on in the next one."""
    rows = []
    for path in ("clip.mov", "clip" * 20 + ".mov"):
        _, pixels = effect(spec_host, path, picture=gray(size=(480, 240))).render(Arguments(3, interactive=True, size=(480, 240)))
        rows.append(int((pixels == 0).any(axis=(1, 2)).sum()))
    assert rows[1] >= rows[0] + 20


def test_a_clip_moved_in_time_after_its_analysis_is_not_given_its_old_frames(spec_host, stub):
    """Neighbouring frames look much alike; a retime before the effect must not pass for none."""

    def half_or_whole(line, request):
        if request["type"] == "frame":
            reduction = request["body"]["reduction"]
            send_frame(line, request, 128 // reduction, 64 // reduction)
        elif request["type"] == "status":
            line.reply(request, {"job": {"state": "done"}})
        else:
            answer(line, request)

    stub.answer = half_or_whole
    wide = cv2.GaussianBlur(np.random.default_rng(5).random((64, 300)).astype(np.float32), (0, 0), 6) * 4 - 1.5
    film = [np.dstack([wide[:, 2 * at : 2 * at + 128]] * 3 + [np.ones((64, 128), np.float32)]) for at in range(40)]
    instance = Instance(spec_host)
    instance.connect(lambda at: film[int(at)], (0, 39))
    instance.edit("analyze")
    assert instance.render(Arguments(20))[0] == OK
    instance.connect(lambda at: cv2.resize(film[int(at)], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), (0, 39))
    assert all(instance.render(Arguments(at))[0] == OK for at in range(0, 40, 5))
    instance.connect(lambda at: film[int(at) - 2], (0, 39))
    assert instance.render(Arguments(20))[0] == FAILED and "other times" in instance.messages[-1]
