# SPDX-License-Identifier: Apache-2.0
"""The whole way with the real pipeline: program, launcher, engine, worker, file. Minutes on two cores."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from host_bridge.launcher import Launcher
from tests.fakes.engine_process import ROOT, is_running, kill, kill_with_worker, wait_until
from tests.synthetic import make_clip
from vs3r_engine.media.decode import open_source
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import connection_file, read_connection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A runtime directory and a cache of our own; whatever engine runs in it is ended."""
    directory = Path(tempfile.mkdtemp(prefix="vs3r-"))
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("VS3R_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    yield directory
    connection = read_connection(connection_file(directory))
    if connection is not None and is_running(connection.pid):
        kill_with_worker(connection.pid)
    shutil.rmtree(directory, ignore_errors=True)


def decoded_digest(path: str) -> str:
    """Of every decoded frame's planes: equal digests, equal pictures."""
    digest = hashlib.sha256()
    with open_source(path) as source:
        for frame in source.frames(source.info.clip.available_range):
            for plane in frame.planes:
                digest.update(plane.tobytes())
    return digest.hexdigest()


def begin_s(*words: object) -> tuple[float, list[dict]]:
    """(seconds until the first frames were worked on, all events) of one `vs3r stabilize --json`."""
    started_s = time.monotonic()
    began_s, events = None, []
    with subprocess.Popen(
        [sys.executable, "-m", "host_bridge", "stabilize", *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    ) as running:
        for line in running.stdout:
            events.append(json.loads(line))
            if began_s is None and events[-1].get("stage") in ("analyze", "render"):
                began_s = time.monotonic() - started_s
    assert running.returncode == 0, events
    return began_s, events


def test_a_warm_engine_begins_at_least_a_second_sooner(environment, dev_clip, tmp_path):
    clip = dev_clip("regular_720p")
    cold_s, events = begin_s(clip, "-o", tmp_path / "cold.mp4", "--range", "0..12")
    again_s, again = begin_s(clip, "-o", tmp_path / "again.mp4", "--range", "0..12")
    # Another analysis of the same clip, so that only the engine is warm.
    warm_s, _ = begin_s(clip, "-o", tmp_path / "warm.mp4", "--range", "0..12", "--set", "analysis.moving_sensitivity=51")
    print(f"work began after {cold_s:.2f} s cold, {warm_s:.2f} s warm, {again_s:.2f} s analysed")
    assert cold_s - again_s >= 1.0 and warm_s < 0.8 * cold_s
    assert decoded_digest(events[-1]["output"]) == decoded_digest(again[-1]["output"])


def test_a_300_frame_job_killed_five_times_gives_the_same_frames(environment, tmp_path):
    clip = tmp_path / "clip.mp4"
    make_clip("regular", frames=300, width=160, height=96).write(clip)

    def job(name: str) -> p.Stabilize:
        # Lossless, so that equal pictures are equal bytes whatever the encoder does between chunks.
        return p.Stabilize(p.Source(path=str(clip)), str(tmp_path / name), p.SettingsChoice(values={"output.codec": "ffv1"}))

    *_, last = Launcher(environment).run(job("undisturbed.mkv"))
    assert last.job.state == "done", last.job.error
    shutil.rmtree(tmp_path / "cache")
    Launcher(environment).stop()
    rng = random.Random(2026)
    moments = sorted(rng.uniform(0.02, 0.98) for _ in range(5))
    noticed, killed_s = [], 0.0
    for event in Launcher(environment).run(job("killed.mkv")):
        if event.kind == "engine":
            noticed.append(round(time.monotonic() - killed_s, 2))
        last = event
        if moments and event.kind == "progress" and event.job.fraction >= moments[0]:
            moments.pop(0)
            killed_s = time.monotonic()
            kill(read_connection(connection_file(environment)).pid)
    assert last.job.state == "done" and len(noticed) == 5
    print("noticed after", noticed, "s")
    assert max(noticed) < 5
    assert decoded_digest(str(tmp_path / "killed.mkv")) == decoded_digest(str(tmp_path / "undisturbed.mkv"))


@pytest.mark.parametrize(("size", "where"), [("3m", "cache"), ("1m", "output")])
def test_a_full_disk_fails_the_job_and_leaves_no_broken_file(environment, tmp_path, small_disk, monkeypatch, size, where):
    disk = small_disk(size)
    if where == "cache":
        monkeypatch.setenv("VS3R_CACHE_DIR", str(disk))
    clip = tmp_path / "clip.mp4"
    make_clip("regular", frames=60, width=320, height=180).write(clip)
    output = (disk if where == "output" else tmp_path) / "out.mkv"
    choice = p.SettingsChoice(values={"output.codec": "ffv1"})
    *_, last = Launcher(environment).run(p.Stabilize(p.Source(path=str(clip)), str(output), choice))
    assert last.job.state == "failed" and last.job.error.code == "disk-full" and last.job.error.hint
    left = [file.name for file in disk.rglob("*") if file.is_file() and file.suffix not in (".npz", ".json", ".lock")]
    assert not output.exists() and [name for name in left if "+" not in name] == []
    Launcher(environment).stop()


def test_frames_of_the_wire_are_the_frames_of_the_file_whatever_was_asked_before(environment, tmp_path):
    import numpy as np

    clip, out = tmp_path / "clip.mp4", tmp_path / "out.mkv"
    make_clip("regular", frames=40, width=160, height=96).write(clip)
    choice = p.SettingsChoice(values={"output.codec": "ffv1"})
    launcher = Launcher(environment)
    *_, last = launcher.run(p.Stabilize(p.Source(path=str(clip)), str(out), choice))
    assert last.job.state == "done", last.job.error
    with launcher.ensure() as client, open_source(str(out)) as source:
        filed = {frame.frame_index: frame.to_rgb() for frame in source.frames(source.info.clip.available_range)}
        for index in (31, 3, 4, 5, 30, 12, 39, 0):
            frame = client.frame(p.FrameRequest(p.Source(path=str(clip)), index, choice, "float32", wait_s=10.0))
            pixels = np.frombuffer(frame.pixels, np.float32).reshape(96, 160, 4)[..., :3]
            np.testing.assert_allclose(pixels, filed[index], atol=1e-6, err_msg=f"frame {index}")


def test_uploaded_frames_become_a_file(environment, tmp_path):
    synthetic = make_clip("regular", frames=12, width=160, height=96)
    frames = [(synthetic.frame(index).to_rgb() * 255).round().clip(0, 255).astype("uint8") for index in range(12)]
    with Launcher(environment).ensure() as client:
        body = p.PutFrames("clip", 160, 96, [p.UploadedFrame(100 + i, "uint8", "rgb") for i in range(12)], "25")
        client.put_frames(body, [frame.tobytes() for frame in frames])
        choice = p.SettingsChoice(values={"output.codec": "ffv1"})
        job = client.submit(p.Stabilize(p.Source(upload="clip", range=(102, 110)), str(tmp_path / "out.mkv"), choice))
        wait_until(lambda: client.status(job.job_id).job.is_final, 60)
        report = client.status(job.job_id).job
        assert report.state == "done", report.error
        assert report.result["render_range"] == [102, 110]
        assert client.probe(p.Source(path=str(tmp_path / "out.mkv"))).available_range == (0, 8)


def test_uploaded_frames_are_analysed_and_stabilized_like_a_file(environment):
    import numpy as np

    synthetic = make_clip("regular", frames=30, width=160, height=96)
    with Launcher(environment).ensure() as client:
        frames = [synthetic.frame(index).to_rgb() for index in range(30)]
        body = p.PutFrames("clip", 160, 96, [p.UploadedFrame(100 + index, "float32", "rgb") for index in range(30)], "25")
        client.put_frames(body, [frame.tobytes() for frame in frames])
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s:
            found = client.frame(p.FrameRequest(p.Source(upload="clip"), 110, format="float32", wait_s=5.0))
            if not isinstance(found, p.FrameReply):
                break
        pixels = np.frombuffer(found.pixels, np.float32).reshape(96, 160, 4)
        assert np.isfinite(pixels).all() and 0.005 < np.abs(pixels[..., :3] - frames[10]).mean() < 0.2
