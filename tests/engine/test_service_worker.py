# SPDX-License-Identifier: Apache-2.0
"""The computing process and the engine around it, without sockets: what must not wait for what, and what outlives what."""

import logging
import math
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections import deque
from contextlib import closing, contextmanager
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from host_bridge.client import EngineClient
from tests.fakes import engine as fake
from tests.fakes.engine import make_media, otio_clip
from tests.fakes.engine_process import EngineProcess, wait_until
from vs3r_engine.errors import MediaError, RangeError, ResourceError, VS3RError
from vs3r_engine.job import JobState
from vs3r_engine.media.raw_frames import RawFormat, frame_file, write_format
from vs3r_engine.media.raw_source import RawFramesSource
from vs3r_engine.service import protocol as p
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.service.engine import Engine
from vs3r_engine.service.glances import Glances
from vs3r_engine.service.jobs import JobBook
from vs3r_engine.service.playback import Playback, Playbacks, job_of
from vs3r_engine.service.worker import (
    CancelOrder,
    FrameKey,
    FrameOrder,
    JobEnded,
    JobOrder,
    LogLine,
    Lost,
    ProbeOrder,
    Ready,
    WorkerProcess,
    receive_pixels,
    send_pixels,
)


@contextmanager
def worker(folder):
    """A worker process that is ready, and what it reports."""
    reports: queue.SimpleQueue = queue.SimpleQueue()
    process = WorkerProcess("tests.fakes.engine", str(folder / "store"), 1 << 30, reports.put)
    process.start()
    try:
        assert isinstance(reports.get(timeout=30), Ready)
        yield process, reports
    finally:
        process.stop(2)


@contextmanager
def engine_alone(folder, worker=None, **outside):
    """An engine without sockets and without a process that computes; `worker` stands for one, `outside` is told."""
    told = {"reply": print, "fail": print, "publish": print, "post": lambda task: task()} | outside
    store = DiskStore(folder / "store")
    with closing(
        Engine("e" * 16, SimpleNamespace(**told), store, p.Limits(), 15, "tests.fakes.engine", logging.getLogger("quiet"))
    ) as engine:
        if worker is not None:
            engine._worker = SimpleNamespace(**{"send": print, "keep_running": print, "is_ready": False, "stop": print} | worker)
            engine._desk._send = engine._worker.send
        yield engine, store


def analysis_of(path):
    """The order of a job `j`."""
    return JobOrder("j", "analyze", p.Source(path=path), p.SettingsChoice(), None, False)


def end_of_job(reports):
    while not isinstance(report := reports.get(timeout=10), JobEnded):
        pass
    return report.state


def test_a_cancel_that_comes_after_the_jobs_end_does_not_cancel_its_next_run(tmp_path):
    order = analysis_of(make_media(tmp_path / "a.json", fail_at=-2))
    with worker(tmp_path) as (process, reports):
        process.send(order)
        assert end_of_job(reports) == "failed"
        process.send(CancelOrder("j"))
        process.send(order)
        assert end_of_job(reports) == "failed"


def test_what_ended_the_worker_is_in_the_log(tmp_path):
    with worker(tmp_path) as (process, reports):
        process.send("no order")
        said = []
        while not isinstance(report := reports.get(timeout=10), Lost):
            said.append(report)
    assert any(isinstance(line, LogLine) and "Traceback" in line.message and "AttributeError" in line.message for line in said)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders")
def test_a_file_that_never_answers_holds_up_nothing_else(tmp_path):
    os.mkfifo(tmp_path / "silent.json")
    path = make_media(tmp_path / "a.json")
    with worker(tmp_path) as (process, reports):
        for ticket in (1, 2):
            process.send(ProbeOrder(ticket, p.Source(path=str(tmp_path / "silent.json"))))
        process.send(analysis_of(path))
        assert end_of_job(reports) == "done"
        process.send(ProbeOrder(3, p.Source(path=path)))
        assert reports.get(timeout=10).ticket == 3
        (tmp_path / "silent.json").write_text((tmp_path / "a.json").read_text())
        assert {reports.get(timeout=10).ticket for _ in range(2)} == {1, 2}, "examined once, told to both"


def test_a_frame_past_the_end_leaves_its_clip_open(tmp_path):
    """Hosts that play to the end have asked for the frames after it ahead of time."""
    opened = []
    pipeline = SimpleNamespace(**vars(fake))
    pipeline.open_analysis = lambda job, store: opened.append(job) or fake.open_analysis(job, store)
    source, store = p.Source(path=make_media(tmp_path / "a.json", frames=10)), DiskStore(tmp_path / "store")
    list(fake.analyze(job_of(fake, source, p.SettingsChoice(), "", "-", False), store))
    playbacks = Playbacks(pipeline, store)
    for index in (8, 9, 10, 11, 9):
        order = FrameOrder(FrameKey("clip", "half", 1, index), source, p.SettingsChoice())
        if index < 10:
            assert playbacks.frame(order)[:2] == (32, 16)
        else:
            with pytest.raises(RangeError, match="range-past-media"):
                playbacks.frame(order)
    assert len(opened) == 1


def test_a_clip_that_nobody_plays_any_more_is_closed(tmp_path, monkeypatch):
    """So that the disk it lies on can be ejected, and it can be deleted where open files cannot."""
    sources = []
    pipeline = SimpleNamespace(**vars(fake))
    pipeline.open_source = lambda *file: sources.append(fake.open_source(*file)) or sources[-1]
    store, closed = DiskStore(tmp_path / "store"), []
    monkeypatch.setattr(fake.FakeSource, "close", lambda source: closed.append(source))
    playbacks = Playbacks(pipeline, store)
    for name in ("left", "played"):
        source = p.Source(path=make_media(tmp_path / f"{name}.json", frames=10))
        list(fake.analyze(job_of(fake, source, p.SettingsChoice(), "", "-", False), store))
        assert playbacks.frame(FrameOrder(FrameKey(name, "half", 1, 3), source, p.SettingsChoice()))
    playbacks.close_idle()
    assert not closed
    playbacks._open["left"].used_s -= 3600
    playbacks.close_idle()
    assert closed == sources[:1] and list(playbacks._open) == ["played"]


@pytest.mark.parametrize(
    ("completer", "expected"), [(None, 4), (SimpleNamespace(whole_shots=True), 3), (SimpleNamespace(whole_shots=False), 4)]
)
def test_a_clip_that_is_played_is_rendered_one_frame_ahead_and_one_frame_alone_is_not(tmp_path, completer, expected):
    rendered, closed = [], []

    def render_frames(*arguments):
        try:
            for frame in fake.render_frames(*arguments):
                rendered.append(frame.frame_index)
                yield frame
        finally:
            closed.append(True)

    changed = {"render_frames": render_frames, "choose_methods": lambda *_: SimpleNamespace(completer=completer)}
    pipeline = SimpleNamespace(**vars(fake) | changed)
    source = p.Source(path=make_media(tmp_path / "a.json", frames=20))
    with closing(Playback(pipeline, job_of(fake, source, p.SettingsChoice(), "", "-", False), None)) as playback:
        assert playback.frame(5).frame_index == 5 and rendered == [5]
        assert playback.frame(6).frame_index == 6 and playback.frame(7).frame_index == 7
        wait_until(lambda: rendered == [5, 6, 7, 8][:expected])
        assert playback.frame(9).frame_index == 9 and not closed
    assert closed == [True]


def test_pixels_pass_the_pipe_whole_and_an_end_in_their_middle_is_the_end():
    pixels = np.random.default_rng(0).integers(0, 256, 3_000_001, np.uint8)
    here, there = multiprocessing.Pipe()
    sender = threading.Thread(target=lambda: (send_pixels(there, pixels.data), there.send("next"), there.close()))
    sender.start()
    assert bytes(receive_pixels(here, len(pixels))) == pixels.tobytes() and here.recv() == "next"
    sender.join()
    with pytest.raises(EOFError):
        receive_pixels(here, 8)


def test_the_analysis_of_a_clip_that_is_played_outlives_other_jobs(tmp_path):
    with EngineProcess(cache_limit=4 << 20) as engine, engine.client() as client:
        played, other = (make_media(tmp_path / f"{name}.json", analysis_mib=3) for name in ("played", "other"))
        client.frame(p.FrameRequest(p.Source(path=played), 3, wait_s=5.0, prefetch=0))
        client.submit(p.Analyze(p.Source(path=played), job_id="first"))
        wait_until(lambda: client.status("first").job.state == "done")
        (kept,) = (engine.directory / "store" / "analysis").iterdir()
        client.submit(p.Analyze(p.Source(path=other), job_id="second"))
        wait_until(lambda: client.status("second").job.state == "done")
        assert list((engine.directory / "store" / "analysis").iterdir()) == [kept]


def test_uploads_are_deleted_without_holding_up_anybody(tmp_path):
    may_delete, replies = threading.Event(), []
    with engine_alone(tmp_path, reply=lambda *reply: replies.append(reply)) as (engine, store):
        body = p.PutFrames("clip", 2, 1, [p.UploadedFrame(0, "uint8")])
        engine.handle("put_frames", body, "s", "to", [memoryview(bytes(8))])
        wait_until(lambda: replies)
        really = store.discard
        store.discard = lambda kind, key: may_delete.wait(5) and really(kind, key)
        begun_s = time.monotonic()
        engine.handle("bye", p.Bye(), "s", "to", [])
        assert time.monotonic() - begun_s < 1
        (upload,) = (store.root / "uploads").iterdir()
        may_delete.set()
        wait_until(lambda: not upload.exists())
        engine.handle("put_frames", body, "s", "to", [memoryview(bytes(8))])
        wait_until(lambda: len(replies) == 2)
    assert not list((store.root / "uploads").iterdir())


def test_a_file_that_takes_long_to_read_is_asked_for_again(tmp_path, monkeypatch):
    answers = []
    monkeypatch.setattr("vs3r_engine.service.engine.PROBE_PATIENCE_S", -1.0)
    with engine_alone(tmp_path, {"send": lambda order: True}, fail=lambda to, error: answers.append(error)) as (engine, _):
        engine.handle("probe", p.Probe(p.Source(path="/large.mov")), "s", "to", [])
        engine.tick()
    assert answers[0].code == "still-reading"

    replies = [*answers * 2, ResourceError("queue-full", "No.", "Later."), *answers, "found"]

    def ask(line, kind, body):
        answer = replies.pop(0)
        if isinstance(answer, VS3RError):
            raise answer
        return [answer]

    client = SimpleNamespace(_request=None, _ask=ask)
    with pytest.raises(ResourceError, match="queue-full"):
        EngineClient.probe(client, p.Source(path="/large.mov"))
    assert EngineClient.probe(client, p.Source(path="/large.mov")) == "found"


def test_uploads_that_lie_an_age_apart_take_no_memory(tmp_path):
    write_format(tmp_path, RawFormat(16, 16, Fraction(25), "uint8", "gray"))
    for index in (0, 2**31 - 1):
        frame_file(tmp_path, index).write_bytes(bytes(256))
    with pytest.raises(MediaError, match="frames-missing"):
        RawFramesSource(str(tmp_path))


def test_a_job_that_is_submitted_again_to_be_nobodys_is_nobodys():
    book = JobBook(4)
    for detached in (False, True):
        record = book.submit(analysis_of("/clip.mov"), "", "s", detached)
    assert not book.disowned("s") and not record.is_final


def test_a_job_asked_for_anew_while_it_is_being_cancelled_runs_again():
    """Its host was silent for too long, and came back before the job had stopped."""
    book = JobBook(4)

    def submit(session):
        return book.submit(analysis_of("/clip.mov"), "", session)

    record = submit("a")
    for end in (lambda: book.ended(JobEnded("j", JobState.CANCELLED)), lambda: book.worker_lost(Lost(-9))):
        assert book.start_next() is record
        assert book.disowned("a") == [record] and book.cancel(record)
        assert submit("a") is record
        end()
        assert record.state == "queued" and not record.is_cancelling
    assert book.start_next() is record
    book.cancel(record)
    submit("b")
    book.cancel(record)
    book.ended(JobEnded("j", JobState.CANCELLED))
    assert record.state == "cancelled"


def test_a_cancelled_job_that_does_not_stop_loses_its_worker(tmp_path):
    """As one whose file lies on a share that is gone; what waits behind it gets its turn."""
    with EngineProcess(cancel_limit=0.5) as engine, engine.client() as client:
        stuck, waiting = (
            client.submit(p.Analyze(p.Source(path=make_media(tmp_path / f"{step_s}.json", step_s=step_s)))) for step_s in (600, 0)
        )
        wait_until(lambda: client.status(stuck.job_id).job.stage == "open")
        begun_s = time.monotonic()
        client.cancel(stuck.job_id)
        wait_until(lambda: client.status(waiting.job_id).job.state == "done")
        assert client.status(stuck.job_id).job.state == "cancelled" and time.monotonic() - begun_s > 0.5


def test_files_that_never_answer_hold_up_no_frame_of_another():
    """The desk's answer for them is told when it comes, and that it has not come yet when their hosts have waited long enough."""
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    glances, answers, share_is_back = Glances(tasks.put), [], threading.Event()

    def look_at_share():
        share_is_back.wait(10)
        return "back"

    for clip in range(100):
        glances.at(f"another on the share {clip}", look_at_share, 60.0, print, print)
    for host in range(3):
        glances.at("share", look_at_share, 0.0, lambda found, host=host: answers.append((host, found)), lambda: answers.append("unseen"))
    glances.at("disk", lambda: "there", 5.0, lambda found: answers.append(found), lambda: answers.append("unseen"))
    tasks.get(timeout=5)()
    assert answers == ["there"]
    glances.give_up_late()
    assert answers == ["there"] + ["unseen"] * 3
    glances.at("share", look_at_share, 5.0, lambda found: answers.append(found), lambda: answers.append("unseen"))
    assert sum(thread.name == "glance" for thread in threading.enumerate()) == 101
    share_is_back.set()
    for _ in range(101):
        tasks.get(timeout=5)()
    assert answers[-1] == "back" and tasks.empty()


def test_a_file_for_which_there_was_no_room_is_looked_at_when_there_is(monkeypatch):
    monkeypatch.setattr("vs3r_engine.service.glances.AT_ONCE", 1)
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    glances, answers = Glances(tasks.put), []
    for name in ("first", "second", "second"):
        glances.at(name, lambda name=name: name, math.inf, answers.append, print)
    for _ in range(2):
        tasks.get(timeout=5)()
    assert answers == ["first", "second", "second"]


@pytest.mark.parametrize("source_of", [lambda path: p.Source(path=path), lambda path: p.Source(clip=otio_clip(path))])
def test_the_worker_gets_neither_frame_nor_job_of_a_file_that_never_answers(tmp_path, monkeypatch, source_of):
    share, disk = (make_media(tmp_path / f"{name}.json") for name in ("share", "disk"))
    is_back, orders, replies, tasks = threading.Event(), [], [], deque()
    slow = SimpleNamespace(stat=lambda path: (path != share or is_back.wait(10)) and os.stat(path))
    monkeypatch.setattr("vs3r_engine.service.frames.os", slow)
    worker = {"send": lambda order: not orders.append(order), "is_ready": True}
    with engine_alone(tmp_path, worker, reply=lambda to, body, *_: replies.append((to, body)), post=tasks.append) as (engine, _):

        def has(things, count):
            while tasks:
                tasks.popleft()()
            engine.answer_due()
            return len(things) == count

        for path in (share, disk):
            engine.handle("frame", p.FrameRequest(source_of(path), 3, prefetch=0), "s", path, [])
        wait_until(lambda: has(replies, 2))
        assert [order.source for order in orders] == [source_of(disk)]
        assert {to: body.stage for to, body in replies} == {share: "open", disk: "render"}
        first, second, third = (engine.handle("analyze", p.Analyze(source_of(path)), "s", path, []) for path in (share, share, disk))
        wait_until(lambda: has(orders, 2))
        assert orders[1].job_id == third.job_id
        assert engine.handle("cancel", p.Cancel(first.job_id), "s", "to", []).state is JobState.CANCELLED
        engine._reported(JobEnded(third.job_id, JobState.DONE))
        is_back.set()
        wait_until(lambda: has(orders, 3))
        assert orders[2].job_id == second.job_id


def test_while_the_engine_itself_stood_still_no_host_fell_silent(tmp_path, monkeypatch):
    """The machine slept; where the clock goes on meanwhile, nobody could be heard."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("vs3r_engine.service.engine.time", SimpleNamespace(monotonic=lambda: clock.now))
    with engine_alone(tmp_path, {}) as (engine, _):
        engine.handle("ping", p.Ping(), "s", "to", [])
        for passed_s, is_there in ((0.25, True), (3600, True), (0.25, True), *[(0.25, True)] * 57, (1, False)):
            clock.now += passed_s
            engine.tick()
            assert engine.is_busy is is_there, clock.now
