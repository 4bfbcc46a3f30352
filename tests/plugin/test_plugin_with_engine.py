# SPDX-License-Identifier: Apache-2.0
"""The plug-in's frames are `vs3r stabilize`'s frames: the real engine, one clip, every kind of host."""

import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from tests.conftest import SHARED_CLIPS
from tests.fakes.engine_process import wait_until
from tests.plugin.ofx_host import OK, Arguments, Instance, Layout
from tests.synthetic import make_clip
from vs3r_engine.media.decode import open_source
from vs3r_engine.media.pixel_formats import picture_of, planar_format
from vs3r_engine.service.rendezvous import connection_file, read_connection

FRAMES = 16
SETTINGS = {"path.smoothness": 70.0, "frame.framing": "crop", "fill.quality": "final", "path.strength": 100.0}
WHITE = {np.uint8: 255, np.uint16: 65535}
"""Full scale of a host's samples; 1 in float."""


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


@pytest.fixture(scope="module")
def at_work():
    """(folder, its engine's environment): the real engine, running."""
    root = Path(tempfile.mkdtemp(prefix="vs3r-"))
    environment = os.environ | {
        "VS3R_RUNTIME_DIR": str(root / "run"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_STATE_HOME": str(root / "state"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "vs3r_engine.app.cli", "serve"], env=environment)
    try:
        wait_until(lambda: read_connection(connection_file(root / "run")), 30)
        yield root, environment
    finally:
        process.terminate()
        process.wait(15)
        shutil.rmtree(root, ignore_errors=True)


NAMES = ["synthetic", pytest.param("regular_720p", marks=pytest.mark.slow)]
FILES = {
    np.uint8: ("png", "gbrp", {}),
    np.uint16: ("png", "gbrp16le", {}),
    np.float16: ("exr", "gbrpf32le", {"format": "half"}),
    np.float32: ("exr", "gbrpf32le", {"format": "float"}),
}
"""The image file that holds a host's samples of each type without loss: suffix, planar format, options."""


def write_image(path, rgb):
    """An image file of exactly these samples, [h, w, 3] of one of FILES' types."""
    codec, pixel_format, options = FILES[rgb.dtype.type]
    if codec == "png":
        cv2.imwrite(str(path), rgb[..., ::-1])
        return
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = rgb.shape[1], rgb.shape[0], pixel_format
    context.time_base, context.options = Fraction(1, 24), options
    planes = tuple(np.ascontiguousarray(rgb[..., c], np.float32) for c in range(3))
    picture = picture_of(planes, planar_format(pixel_format))
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)]))


def samples(rgb, dtype):
    """Float RGB as a host of this depth holds it."""
    white = WHITE.get(dtype, 1)
    return (rgb if white == 1 else np.rint(rgb * white)).astype(dtype)


def stabilized_by_command(at_work, name, dtype):
    """A lossless image sequence of this depth, stabilized by `vs3r stabilize`. path; source: float RGB pictures as
    stored; stabilized: the same of the result, top-down."""
    root, environment = at_work
    folder = root / f"{name}-{np.dtype(dtype).name}"
    folder.mkdir()
    suffix = FILES[dtype][0]
    for index, rgb in enumerate(pictures(name)):
        write_image(folder / f"in_{index:04d}.{suffix}", samples(rgb, dtype))
    path, output = str(folder / f"in_[0000-{FRAMES - 1:04d}].{suffix}"), str(folder / f"out_0000.{suffix}")
    values = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "host_bridge", "stabilize", path, "-o", output, "--quiet", *values]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = {}
    for which, pattern in (("source", path), ("stabilized", output.replace("0000", f"[0000-{FRAMES - 1:04d}]"))):
        with open_source(pattern) as frames:
            assert frames.info.layout.bit_depth == {np.uint8: 8, np.uint16: 16}.get(dtype, 32)
            read[which] = [frame.to_rgb() for frame in frames.frames(frames.info.clip.available_range)]
    return SimpleNamespace(path=path, run=root / "run", **read)


@pytest.fixture(scope="module", params=NAMES)
def clip_of(request, at_work):
    """A function from a sample type to `stabilized_by_command`."""
    return functools.cache(lambda dtype: stabilized_by_command(at_work, request.param, dtype))


@pytest.fixture
def clip(clip_of):
    """A 16-bit image sequence, and its stabilized frames."""
    return clip_of(np.uint16)


def on_clip(host, clip, layout=None, scale=1):
    layout = layout or Layout()

    def picture(at):
        rgb = clip.source[int(at)]
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale != 1 else rgb
        return samples(np.concatenate([rgb, np.ones((*rgb.shape[:2], 1), np.float32)], axis=-1), layout.dtype)

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
    assert max(psnr_db(clip.source[at], clip.stabilized[at]) for at in frames) < 50, "the clip was not stabilized at all"


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
                wrong.append((at, status, psnr_db(pixels[..., :3], clip.stabilized[at]), list(instance.messages)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (range(i, FRAMES, 4) for i in range(4))))
    assert not wrong


def test_at_half_size(resolve_host, clip, monkeypatch):
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    for at, pixels in rendered(on_clip(resolve_host, clip, scale=0.5), (3, 9)).items():
        half = cv2.resize(clip.stabilized[at], clip.source[0].shape[1::-1] // np.array(2), interpolation=cv2.INTER_AREA)
        assert pixels.shape[:2] == half.shape[:2] and psnr_db(pixels[..., :3], half) > 40


def uploaded(host, clip, layout):
    """An effect on a clip whose file nobody names; its pixels are with the engine."""
    instance = on_clip(host, clip, layout)
    instance.parameters["file"].value = ""
    instance.properties.values.pop("OfxImageEffectPropSrcFilePath", None)
    instance.edit("analyze")
    return instance


@pytest.mark.parametrize(
    "layout",
    [
        Layout(np.uint8, 3, 7, True, (5, -3)),
        Layout(np.uint16, 4),
        Layout(np.float16, 4, 8, True, premultiplied=True),
        Layout(np.float32, 3),
    ],
    ids=lambda one: f"{np.dtype(one.dtype).name}x{one.channels}",
)
def test_uploaded_pixels_come_back_as_a_lossless_rgb_sequence_of_them_is_stabilized(spec_host, clip_of, layout, monkeypatch):
    clip = clip_of(layout.dtype)
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    white = WHITE.get(layout.dtype, 1)
    for at, pixels in rendered(uploaded(spec_host, clip, layout), (7, 0, 2, FRAMES - 1)).items():
        shown = pixels[..., :3].astype(np.float64) / white
        assert psnr_db(shown, clip.stabilized[at]) > (60 if layout.dtype is np.float16 else 90)  # EXR's writer cuts halves off
        if white == 255:
            assert np.abs(shown - clip.stabilized[at]).max() * 255 <= 1


def test_uploaded_floats_move_as_the_same_picture_in_a_16_bit_file_does(resolve_host, clip, monkeypatch):
    """The same analysis from either: what differs is that floats keep what overshoots white and black, and how often 16 bits are
    rounded where there are no compiled kernels."""
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(clip.run))
    for at, pixels in rendered(uploaded(resolve_host, clip, Layout()), (7, 2)).items():
        assert psnr_db(np.clip(pixels[..., :3], 0, 1), clip.stabilized[at]) > 80


@pytest.mark.parametrize("rotation_deg", [90, -90])
def test_a_phones_clip_is_as_upright_as_a_player_shows_it(resolve_host, at_work, monkeypatch, rotation_deg):
    root, _ = at_work
    monkeypatch.setenv("VS3R_RUNTIME_DIR", str(root / "run"))
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg, the player, is not installed")
    path = root / f"phone{rotation_deg}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 24, options={"qp": "6"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv444p"
        stream.set_display_rotation(rotation_deg)
        for rgb in pictures("synthetic"):
            picture = av.VideoFrame.from_ndarray(samples(rgb, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    played = subprocess.run(command, capture_output=True, check=True).stdout
    played = np.frombuffer(played, np.uint8).reshape(FRAMES, 160, 90, 3) / np.float32(255)

    instance = Instance(resolve_host)
    instance.connect(lambda at: np.ones((160, 90, 4), np.float32), (0, FRAMES - 1), 24.0, str(path))
    instance.edit("strength", 10.0)
    pixels = rendered(instance, [5])[5][..., :3]
    others = [psnr_db(pixels, turned) for turned in (played[5, ::-1, ::-1], played[5, ::-1], played[5, :, ::-1])]
    assert psnr_db(pixels, played[5]) > 8 + max(others)
