# SPDX-License-Identifier: Apache-2.0
"""Jobs through a running engine: submitted, followed, cancelled, resumed, disowned."""

import time

import msgspec
import pytest

from tests.fakes.engine import make_media
from tests.fakes.engine_process import EngineProcess, is_running, kill, wait_until
from tests.synthetic_edit import settings_effect
from vs3r_engine.errors import EngineFault, InputError, MediaError, RangeError, ResourceError, SettingsError
from vs3r_engine.service import protocol as p


@pytest.fixture(scope="module")
def engine():
    with EngineProcess(session_timeout=3, limits={"jobs_queued": 3, "sessions": 6}) as engine:
        yield engine


@pytest.fixture
def client(engine):
    with engine.client() as client:
        yield client


def job(tmp_path, name="clip", range=None, job_id=None, detached=False, values=None, **facts):
    path = make_media(tmp_path / f"{name}.json", **facts)
    return p.Stabilize(
        p.Source(path=path, range=range),
        str(tmp_path / f"{name}.out"),
        p.SettingsChoice(values=values or {}),
        job_id,
        detached,
    )


def finish(client, submitted, within_s=15.0):
    report = client.submit(submitted)
    wait_until(lambda: client.status(report.job_id).job.is_final, within_s)
    return client.status(report.job_id).job


def test_a_job_runs_and_its_events_never_fall_back(client, tmp_path):
    report = client.submit(job(tmp_path, step_s=0.002))
    events = list(client.follow(report.job_id))
    fractions = [event.job.fraction for event in events if event.job]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert events[-1].job.state == "done" and events[-1].job.result["render_range"] == [0, 100]
    assert events[-1].job.found == {"moving_percent": 12.0}
    assert (tmp_path / "clip.out").read_text().count("\n") == 100


def test_a_job_is_followed_while_its_events_do_not_arrive_yet(client, tmp_path, monkeypatch):
    """A subscription joins some time after the job has begun, on a machine at work after half a second."""
    monkeypatch.setattr(client, "_event_within", lambda events, wait_s: time.sleep(wait_s))
    report = client.submit(job(tmp_path, step_s=0.01))
    assert {"render"} <= {event.job.stage for event in client.follow(report.job_id) if not event.job.is_final}


@pytest.mark.parametrize("range", [(10, 30), "10..30", "00:00:00:10..00:00:01:05"])
def test_a_range_is_indices_or_text(client, tmp_path, range):
    report = finish(client, job(tmp_path, range=range))
    assert report.result["render_range"] == [10, 30]


def test_settings_of_a_job_reach_the_pipeline(client, tmp_path):
    finish(client, job(tmp_path, frames=1, values={"path.smoothness": 70}))
    assert (tmp_path / "clip.out").read_text() == "frame 0 smoothness 70.0\n"


def test_an_otio_clip_is_a_source_with_range_and_settings(client, tmp_path):
    import opentimelineio as otio

    def span(start: int, duration: int) -> otio.opentime.TimeRange:
        return otio.opentime.TimeRange(otio.opentime.RationalTime(start, 25), otio.opentime.RationalTime(duration, 25))

    media = otio.schema.ExternalReference(make_media(tmp_path / "clip.json"), span(0, 100))
    clip = otio.schema.Clip("x", media, span(5, 2), effects=[settings_effect({"path.smoothness": 33, "path.strength": 50})])
    request = p.Stabilize(
        p.Source(clip=msgspec.json.decode(clip.to_json_string())),
        str(tmp_path / "clip.out"),
        p.SettingsChoice(values={"path.strength": 60}),
    )
    report = finish(client, request)
    assert report.state == "done", report.error
    assert (tmp_path / "clip.out").read_text() == "frame 5 smoothness 33.0\nframe 6 smoothness 33.0\n"


def test_submitting_the_same_job_again_is_harmless_and_another_under_its_id_is_refused(client, tmp_path):
    first = job(tmp_path, job_id="same", step_s=0.01)
    assert client.submit(first).created_unix_s == client.submit(first).created_unix_s
    with pytest.raises(InputError, match="job-id-taken"):
        client.submit(msgspec.structs.replace(first, output="/elsewhere"))
    client.cancel("same")


def test_a_cancelled_job_stops_soon_keeps_its_chunks_and_goes_on_when_submitted_again(client, tmp_path, engine):
    request = job(tmp_path, step_s=0.01, job_id="stop")
    client.submit(request)
    wait_until(lambda: client.status("stop").job.done > 45)
    begun_s = time.monotonic()
    client.cancel("stop")
    assert time.monotonic() - begun_s < 0.5
    wait_until(lambda: client.status("stop").job.state == "cancelled", 2)
    assert not (tmp_path / "clip.out").exists()
    begun_s = time.monotonic()
    assert finish(client, request).state == "done"
    assert (tmp_path / "clip.out").read_text() == "".join(f"frame {i} smoothness 50.0\n" for i in range(100))
    assert client.cancel("stop").state == "done"


def test_a_waiting_job_is_cancelled_at_once_and_the_queue_has_an_end(client, tmp_path):
    client.submit(job(tmp_path, "running", step_s=0.05, job_id="q0"))
    wait_until(lambda: client.status("q0").job.state == "running")
    for i in range(1, 4):
        assert client.submit(job(tmp_path, f"w{i}", job_id=f"q{i}")).state == "queued"
    with pytest.raises(ResourceError, match="queue-full"):
        client.submit(job(tmp_path, "w4", job_id="q4"))
    assert client.cancel("q2").state == "cancelled"
    client.cancel("q0")
    wait_until(lambda: client.status("q3").job.state == "done")
    assert [(report.job_id, report.state) for report in client.jobs()][:4] == [
        ("q3", "done"),
        ("q2", "cancelled"),
        ("q1", "done"),
        ("q0", "cancelled"),
    ]


@pytest.mark.parametrize(
    ("facts", "request_changes", "error", "code"),
    [
        ({}, {"source": p.Source(path="/no/such.mov")}, MediaError, "media-missing"),
        ({}, {"range": (50, 101)}, RangeError, "range-past-media"),
        ({}, {"range": (50, 50)}, RangeError, "empty-range"),
        ({}, {"range": "x..y"}, RangeError, "bad-timecode"),
        ({"fail_at": 30}, {}, EngineFault, "engine-fault"),
    ],
)
def test_what_goes_wrong_fails_the_job_with_its_triple(client, tmp_path, facts, request_changes, error, code):
    request = job(tmp_path, range=request_changes.pop("range", None), **facts)
    report = finish(client, msgspec.structs.replace(request, **request_changes))
    assert report.state == "failed" and report.error.code == code and report.error.hint
    assert not (tmp_path / "clip.out").exists()


def test_bad_settings_are_refused_at_once(client, tmp_path):
    with pytest.raises(SettingsError, match=r"path\.smoothness.*unknown-setting"):
        client.submit(job(tmp_path, values={"path.smothness": 1}))
    with pytest.raises(SettingsError, match="bad-setting"):
        client.submit(job(tmp_path, values={"path.smoothness": 101}))


def test_probe_tells_what_a_file_is_while_a_job_runs(client, tmp_path):
    client.submit(job(tmp_path, step_s=0.05, job_id="long"))
    found = client.probe(p.Source(path=make_media(tmp_path / "other.json", frames=7), range=(2, 5)))
    assert (found.available_range, found.render_range, found.rate, found.width) == ((0, 7), (2, 5), "25", 32)
    with pytest.raises(MediaError, match="media-missing"):
        client.probe(p.Source(path="/no/such.mov"))
    client.cancel("long")


def test_the_rate_of_an_image_sequence_is_the_one_stated(client, tmp_path):
    images, movie = (make_media(tmp_path / f"{name}.json", frames=60, sequence=name == "images") for name in ("images", "movie"))
    assert client.probe(p.Source(path=images)).rate == "25"
    found = client.probe(p.Source(path=images, rate="29.97", range="00:00:01:00..00:00:01:10"))
    assert (found.rate, found.render_range) == ("30000/1001", (30, 40)), "timecodes count at it too"
    for path, rate, code in ((movie, "25", "rate-of-file"), (images, "0", "bad-rate"), (images, "1e9999999", "bad-rate")):
        with pytest.raises(InputError) as caught:
            client.probe(p.Source(path=path, rate=rate))
        assert caught.value.code == code and caught.value.hint
        report = finish(client, p.Stabilize(p.Source(path=path, rate=rate), str(tmp_path / "out")))
        assert report.state == "failed" and report.error.code == code
    report = finish(client, p.Analyze(p.Source(path=images, rate="50")))
    assert report.state == "done"


def test_a_worker_that_is_killed_is_replaced_and_its_job_goes_on(client, tmp_path, engine):
    request = job(tmp_path, step_s=0.01, job_id="survivor")
    client.submit(request)
    wait_until(lambda: client.status("survivor").job.done > 30)
    kill(client.status().worker.pid)
    wait_until(lambda: client.status("survivor").job.state == "done")
    assert client.status().worker.restarts >= 1 and is_running(engine.process.pid)
    assert (tmp_path / "clip.out").read_text() == "".join(f"frame {i} smoothness 50.0\n" for i in range(100))


def test_the_jobs_of_a_host_that_falls_silent_are_cancelled_except_detached_ones(engine, client, tmp_path):
    dead = engine.client()
    dead.submit(job(tmp_path, "mine", step_s=0.1, job_id="mine"))
    dead.submit(job(tmp_path, "detached", step_s=0.001, job_id="detached", detached=True))
    dead._closed.set()  # neither pings nor a bye: what a killed host looks like
    took_s = wait_until(lambda: client.status("mine").job.state == "cancelled", 8)
    assert 1 < took_s < 5
    wait_until(lambda: client.status("detached").job.state == "done")
    dead.close()


def test_more_sessions_than_allowed_are_refused(engine, client):
    clients = []
    with pytest.raises(ResourceError, match="too-many-sessions"):
        for _ in range(8):
            clients.append(engine.client())
            clients[-1].hello()
    for each in clients:
        each.close()
    wait_until(lambda: client.status().sessions == 1)


def test_unknown_jobs_are_named(client):
    for ask in (client.status, client.cancel):
        with pytest.raises(InputError, match=r"nobody.*unknown-job"):
            ask("nobody")


def test_status_counts_what_is_there(client, engine):
    status = client.status()
    assert status.state == "idle" and status.worker.state == "idle" and status.sessions >= 1
    assert 20 < status.memory_mib < 1000


def test_a_job_that_keeps_killing_workers_fails_and_the_engine_lives(tmp_path):
    with EngineProcess() as engine, engine.client() as client:
        report = finish(client, job(tmp_path, die_always=10), 20)
        assert report.state == "failed" and report.error.code == "worker-died"
        assert finish(client, job(tmp_path, "good", frames=5), 20).state == "done"


def test_every_line_of_the_log_is_json_with_the_jobs_id(engine, client, tmp_path):
    finish(client, job(tmp_path, job_id="logged", fail_at=3))
    lines = [msgspec.json.decode(line) for line in (engine.directory / "engine.log").read_text().splitlines()]
    assert all({"time", "level", "engine", "job", "message"} <= line.keys() for line in lines)
    assert any(line["job"] == "logged" and "on purpose" in line["message"] for line in lines)
