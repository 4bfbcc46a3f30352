# SPDX-License-Identifier: Apache-2.0
"""The plug-in's frames are `vs3r stabilize`'s frames: the real engine, one clip, every kind of host."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from host_bridge.client import EngineClient
from tests.conftest import SHARED_CLIPS
from tests.fakes.engine_process import wait_until
from tests.plugin.ofx_host import OK, Arguments, Instance, Layout
from tests.synthetic import make_clip
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import connection_file, read_connection

FRAMES = 16
SETTINGS = {"path.smoothness": 70.0, "frame.framing": "crop", "fill.quality": "final", "path.strength": 100.0}


def pictures(name):
    """FRAMES frames, float RGB: rendered ones, or the first of a real clip."""
    if name == "synthetic":
        synthetic = make_clip("regular", frames=FRAMES, width=160, height=90, seed=5)
        return [np.clip(synthetic.frame(index).to_rgb(), 0, 1) for index in range(FRAMES)]
    path = SHARED_CLIPS / f"{name}.mp4"
    if not path.exists():
        pytest.skip(f"the real clip {name} is not on this machine")
    with av.open(str(path)) as container:
        decoded = itertools.islice(container.decode(video=0), FRAMES)
        return [frame.to_ndarray(format="rgb24").astype(np.float32) / 255 for frame in decoded]


@pytest.fixture(scope="module", params=["synthetic", pytest.param("regular_720p", marks=pytest.mark.slow)])
def clip(request):
    """path of a 16-bit image sequence, and its stabilized frames as the engine writes them: float RGB, top-down."""
    source = pictures(request.param)
    root = Path(tempfile.mkdtemp(prefix="vs3r-"))
    for index, rgb in enumerate(source):
        cv2.imwrite(str(root / f"in_{index:04d}.png"), (rgb[..., ::-1] * 65535 + 0.5).astype(np.uint16))
    environment = {
        "VS3R_RUNTIME_DIR": str(root / "run"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_STATE_HOME": str(root / "state"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "vs3r_engine.app.cli", "serve"], env=os.environ | environment)
    try:
        wait_until(lambda: read_connection(connection_file(root / "run")), 30)
        path = str(root / f"in_[0000-{FRAMES - 1:04d}].png")
        with EngineClient(read_connection(connection_file(root / "run")), "test") as client:
            job = client.submit(
                p.Stabilize(p.Source(path=path), str(root / "out_0000.png"), p.SettingsChoice("natural", SETTINGS))
            )
            last = [event.job for event in client.follow(job.job_id)][-1]
            assert last.state == "done", last.error
        written = [cv2.imread(str(root / f"out_{index:04d}.png"), cv2.IMREAD_UNCHANGED) for index in range(FRAMES)]
        assert written[0].dtype == np.uint16
        yield SimpleNamespace(
            path=path,
            run=root / "run",
            source=[
                cv2.imread(str(root / f"in_{i:04d}.png"), -1)[..., ::-1] / np.float32(65535) for i in range(FRAMES)
            ],
            stabilized=[image[..., 2::-1].astype(np.float32) / 65535 for image in written],
        )
    finally:
        process.terminate()
        process.wait(15)
        shutil.rmtree(root, ignore_errors=True)


def on_clip(host, clip, layout=None, scale=1):
    layout = layout or Layout()
    white = {np.uint8: 255, np.uint16: 65535}.get(layout.dtype, 1)

    def picture(at):
        rgb = clip.source[int(at)]
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale != 1 else rgb
        rgba = np.concatenate([rgb * white, np.full((*rgb.shape[:2], 1), white, np.float32)], axis=-1)
        return (rgba if white == 1 else np.rint(rgba)).astype(layout.dtype)

    instance = Instance(host, layout=layout)
    instance.connect(picture, (0, FRAMES - 1), 24.0, clip.path)
    if not host.mode.names_file:
        instance.parameters["file"].value = clip.path
    instance.edit("smoothness", 70.0)
    instance.edit("framing", 1)
    return instance


def psnr_db(a, b):
    return -10 * np.log10(max(1e-12, float(np.mean((np.asarray(a, np.float64) - b) ** 2))))


def rendered(instance, order):
    frames = {}
    for at in order:
        status, pixels = instance.render(Arguments(int(at), source_frame=int(at)))
        assert status == OK, instance.messages
        frames[int(at)] = pixels
    return frames


def test_frames_equal_those_of_stabilize(host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    frames = rendered(on_clip(host, clip), range(FRAMES))
    assert min(psnr_db(frames[at][..., :3], clip.stabilized[at]) for at in frames) > 60
    assert max(psnr_db(clip.source[at], clip.stabilized[at]) for at in frames) < 50, (
        "the clip was not stabilized at all"
    )


def test_in_eight_bits_they_differ_by_one_code_value_at_most(spec_host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    order = np.random.default_rng(1).permutation(FRAMES)
    for at, pixels in rendered(on_clip(spec_host, clip, Layout(np.uint8, 4, 7, True, (5, -3))), order).items():
        assert np.abs(pixels[..., :3].astype(float) - clip.stabilized[at] * 255).max() <= 1


def test_from_four_threads(resolve_host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    instance, wrong = on_clip(resolve_host, clip), []

    def work(frames):
        for at in frames:
            status, pixels = instance.render(Arguments(at, source_frame=at))
            if status != OK or psnr_db(pixels[..., :3], clip.stabilized[at]) < 60:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(range(i, FRAMES, 4),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_at_half_size(resolve_host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    for at, pixels in rendered(on_clip(resolve_host, clip, scale=0.5), (3, 9)).items():
        half = cv2.resize(clip.stabilized[at], clip.source[0].shape[1::-1] // np.array(2), interpolation=cv2.INTER_AREA)
        assert pixels.shape[:2] == half.shape[:2] and psnr_db(pixels[..., :3], half) > 40


def test_from_uploaded_pixels(spec_host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    instance = on_clip(spec_host, clip, Layout(np.uint16))
    instance.parameters["file"].value = ""
    instance.edit("analyze")
    for at, pixels in rendered(instance, (7, 2)).items():
        # The analysis reads the same pixels by another way; roundings there move the path by parts of a pixel.
        alike_db = psnr_db(pixels[..., :3] / 65535, clip.stabilized[at])
        assert alike_db > 40 and alike_db > psnr_db(clip.source[at], clip.stabilized[at]) + 10
