# SPDX-License-Identifier: Apache-2.0
"""Single frames through a running engine: ready, pending, failed; ahead of time; and from uploaded pixels."""

import time

import numpy as np
import pytest

from host_bridge.client import StabilizedFrame
from tests.fakes.engine import make_media, otio_clip
from tests.fakes.engine_process import EngineProcess, RawPeer, kill, wait_until
from vs3r_engine.errors import EngineFault, InputError, MediaError, ProtocolError, RangeError, ResourceError
from vs3r_engine.media.raw_frames import CHANNEL_COUNT, SAMPLE_BYTES
from vs3r_engine.service import protocol as p
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.service.frames import stamp_of_files
from vs3r_engine.service.uploads import Uploads

DTYPES = {"uint8": np.uint8, "uint16": np.uint16, "half": np.float16, "float32": np.float32}


@pytest.fixture(scope="module")
def engine():
    limits = {
        "frames_waiting": 8,
        "frames_waiting_per_session": 4,
        "upload_bytes": 2 << 20,
        "frame_cache_bytes": 200_000,
    }
    with EngineProcess(session_timeout=3, limits=limits) as engine:
        yield engine


@pytest.fixture
def client(engine):
    with engine.client() as client:
        yield client


def ask(client, path, index, **options):
    return client.frame(p.FrameRequest(p.Source(path=path), index, **{"wait_s": 5.0, "prefetch": 0, **options}))


def picture(frame: StabilizedFrame) -> np.ndarray:
    reply = frame.reply
    samples = np.frombuffer(frame.pixels, DTYPES[reply.format])
    return samples.reshape(reply.height, reply.row_bytes // samples.itemsize // 4, 4)


def test_a_frame_is_analysed_rendered_and_ready_within_the_time_given(client, tmp_path):
    frame = ask(client, make_media(tmp_path / "a.json"), 42)
    assert (frame.reply.state, frame.reply.frame_index, frame.reply.width, frame.reply.height) == ("ready", 42, 32, 16)
    assert picture(frame)[0, 0].tolist() == pytest.approx([0.042, -0.25, 1.5, 1.0], abs=1e-3)


def test_without_time_a_frame_is_pending_with_progress_and_ready_later(client, tmp_path):
    path = make_media(tmp_path / "a.json", step_s=0.05)
    first = ask(client, path, 3, wait_s=0)
    assert first.state == "pending" and first.retry_s > 0
    stages = set()

    def is_ready():
        reply = ask(client, path, 3, wait_s=0)
        if isinstance(reply, StabilizedFrame):
            return True
        stages.add(reply.stage)
        return False

    wait_until(is_ready, 5)
    assert "analyze" in stages


@pytest.mark.parametrize(
    ("format", "values"),
    [
        ("float32", [0.5, -0.25, 1.5, 1.0]),
        ("half", [0.5, -0.25, 1.5, 1.0]),
        ("uint16", [32768, 0, 65535, 65535]),
        ("uint8", [128, 0, 255, 255]),
    ],
)
@pytest.mark.parametrize(("reduction", "size"), [(1, (5, 3)), (2, (3, 2)), (4, (2, 1)), (8, (1, 1))])
def test_formats_and_reductions(client, tmp_path, format, values, reduction, size):
    path = make_media(tmp_path / "a.json", frames=600, width=5, height=3)
    frame = ask(client, path, 500, format=format, reduction=reduction)
    assert (frame.reply.width, frame.reply.height) == size and frame.reply.row_bytes == size[0] * 4 * SAMPLE_BYTES[format]
    np.testing.assert_allclose(picture(frame), np.broadcast_to(np.array(values, DTYPES[format]), (*size[::-1], 4)), rtol=1e-6)


def test_playing_forward_finds_the_next_frames_rendered(client, tmp_path):
    path = make_media(tmp_path / "a.json", step_s=0.03)
    ask(client, path, 10, prefetch=6)
    time.sleep(0.6)
    for index in range(11, 17):
        begun_s = time.monotonic()
        assert isinstance(ask(client, path, index, prefetch=0, wait_s=0), StabilizedFrame), index
        assert time.monotonic() - begun_s < 0.5
    assert ask(client, path, 18, wait_s=0).state == "pending"


def test_frames_come_between_the_steps_of_a_running_job(client, tmp_path):
    path = make_media(tmp_path / "a.json")
    ask(client, path, 0)
    busy = make_media(tmp_path / "busy.json", step_s=0.05, frames=1000)
    client.submit(p.Stabilize(p.Source(path=busy), str(tmp_path / "busy.out"), job_id="busy"))
    wait_until(lambda: client.status("busy").job.state == "running")
    begun_s = time.monotonic()
    assert isinstance(ask(client, path, 77), StabilizedFrame)
    assert time.monotonic() - begun_s < 1.0
    client.cancel("busy")


def test_a_frame_that_cannot_be_had_is_an_error(client, tmp_path):
    path = make_media(tmp_path / "a.json", fail_at=5)
    with pytest.raises(EngineFault, match=r"on purpose.*engine-fault"):
        ask(client, path, 5)
    assert isinstance(ask(client, path, 4), StabilizedFrame)
    with pytest.raises(RangeError, match="range-past-media"):
        ask(client, path, 100)
    with pytest.raises(MediaError, match=r"no/such.*media-missing"):
        ask(client, "/no/such.mov", 0)
    with pytest.raises(InputError, match="not-analyzed"):
        ask(client, make_media(tmp_path / "new.json"), 0, analyze=False)


@pytest.mark.parametrize("source_of", [lambda path: p.Source(path=path), lambda path: p.Source(clip=otio_clip(path))])
def test_a_file_written_again_is_another_clip(client, tmp_path, source_of):
    for width in (32, 48):
        source = source_of(make_media(tmp_path / "a.json", width=width))
        assert client.frame(p.FrameRequest(source, 1, wait_s=5.0, prefetch=0)).reply.width == width


def test_a_lens_profile_written_again_makes_another_clip_too(tmp_path):
    profile = tmp_path / "lens.json"
    source, choice = p.Source(path=make_media(tmp_path / "a.json")), p.SettingsChoice("natural", {"analysis.input_lens": str(profile)})
    stamps = []
    for text in ("{}", '{"model": "fisheye"}'):
        profile.write_text(text)
        stamps += [stamp_of_files(source, choice) for _ in range(2)]
    assert len(set(stamps)) == 2


def test_a_frame_over_which_the_worker_dies_twice_fails_and_the_next_is_served(client, tmp_path):
    path = make_media(tmp_path / "a.json", die_always=5)
    with pytest.raises(EngineFault, match=r"frame 5.*worker-died"):
        ask(client, path, 5, wait_s=10.0)
    assert isinstance(ask(client, path, 50, wait_s=10.0), StabilizedFrame)


def test_waiting_frames_have_an_end(engine, client, tmp_path):
    path = make_media(tmp_path / "a.json", step_s=0.2)
    ask(client, path, 99)
    for index in range(4):
        assert ask(client, path, index, wait_s=0).state == "pending"
    with pytest.raises(ResourceError, match="queue-full"):
        ask(client, path, 4, wait_s=0)
    with engine.client() as other:
        for index in range(10, 14):
            assert ask(other, path, index, wait_s=0).state == "pending"
        with engine.client() as third, pytest.raises(ResourceError, match="queue-full"):
            ask(third, path, 20, wait_s=0)
    wait_until(lambda: client.status().frames_waiting == 0, 10)


def test_rendered_frames_keep_within_their_limit(client, tmp_path):
    path = make_media(tmp_path / "a.json", width=64, height=64)
    for index in range(12):
        ask(client, path, index)
    assert 0.1 < client.status().frame_cache_mib <= 0.2


def upload(
    client,
    source_id="up",
    indices=(0, 1, 2),
    format="float32",
    channels="rgba",
    size=(20, 18),
    padding=0,
    row_order="top-down",
    rate="25",
):
    """Frames whose pixel (x, y) of frame i is a known function; returns them as [h, w, channels] by index."""
    width, height = size
    dtype, count = DTYPES[format], CHANNEL_COUNT[channels]
    rng = np.random.default_rng(3)
    pictures = {}
    for index in indices:
        peak = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
        pictures[index] = (rng.random((height, width, count)) * peak).astype(dtype)
    buffers = []
    for picture in pictures.values():
        rows = np.zeros((height, width * count * dtype().itemsize + padding), np.uint8)
        rows[:, : rows.shape[1] - padding] = np.ascontiguousarray(picture).reshape(height, -1).view(np.uint8)
        buffers.append((rows[::-1] if row_order == "bottom-up" else rows).tobytes())
    frames = [p.UploadedFrame(index, format, channels, len(buffers[0]) // height if padding else 0, row_order) for index in indices]
    return client.put_frames(p.PutFrames(source_id, width, height, frames, rate), buffers), pictures


@pytest.mark.parametrize("format", ["uint8", "uint16", "half", "float32"])
@pytest.mark.parametrize(
    ("channels", "order"),
    [("rgba", (0, 1, 2)), ("bgra", (2, 1, 0)), ("rgb", (0, 1, 2)), ("bgr", (2, 1, 0)), ("gray", (0, 0, 0))],
)
def test_uploaded_frames_come_back_through_the_pipeline(client, format, channels, order):
    """The fake pipeline changes nothing, so what comes out is what went in."""
    _, pictures = upload(client, format=format, channels=channels, source_id=f"{format}-{channels}")
    frame = client.frame(p.FrameRequest(p.Source(upload=f"{format}-{channels}"), 1, format="float32", wait_s=5.0))
    peak = np.iinfo(DTYPES[format]).max if format.startswith("u") else 1
    expected = pictures[1][..., list(order)].astype(np.float32) / np.float32(peak)
    seen = picture(frame)
    np.testing.assert_allclose(seen[..., :3], expected, atol=2e-6)
    alpha = pictures[1][..., 3].astype(np.float32) / np.float32(peak) if channels in ("rgba", "bgra") else 1.0
    np.testing.assert_allclose(seen[..., 3], np.broadcast_to(alpha, seen.shape[:2]), atol=2e-6)


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("row_order", ["top-down", "bottom-up"])
def test_row_strides_and_row_order_do_not_change_the_picture(client, padding, row_order):
    name = f"rows-{padding}-{row_order}"
    _, pictures = upload(client, source_id=name, padding=padding, row_order=row_order)
    frame = client.frame(p.FrameRequest(p.Source(upload=name), 2, format="float32", wait_s=5.0))
    np.testing.assert_array_equal(picture(frame), pictures[2])


def test_uploads_in_any_order_keep_their_absolute_indices(client):
    assert upload(client, "pieces", (205, 204))[0].ranges == [(204, 206)]
    assert upload(client, "pieces", (210,))[0].ranges == [(204, 206), (210, 211)]
    assert client.probe(p.Source(upload="pieces")).available_range == (204, 211)
    with pytest.raises(InputError, match=r"Frame 206 was not uploaded.*frames-missing"):
        client.frame(p.FrameRequest(p.Source(upload="pieces"), 206, wait_s=5.0))


def test_the_padding_of_the_last_row_may_be_missing(client):
    frame = p.UploadedFrame(0, "uint8", "gray", 32)
    assert client.put_frames(p.PutFrames("short", 20, 18, [frame]), [bytes(32 * 17 + 20)]).ranges == [(0, 1)]


@pytest.mark.parametrize(
    ("frame", "buffers", "code"),
    [
        (p.UploadedFrame(0, "uint8", "gray"), [bytes(20 * 18 - 1)], "bad-buffer"),
        (p.UploadedFrame(0, "uint8", "gray"), [bytes(20 * 18 + 1)], "bad-buffer"),
        (p.UploadedFrame(0, "uint8", "gray", 19), [bytes(19 * 18)], "bad-buffer"),
        (p.UploadedFrame(0, "uint8", "gray"), [], "bad-buffer"),
        (p.UploadedFrame(0, "uint8", "gray"), [bytes(360)] * 2, "bad-buffer"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(client, frame, buffers, code):
    with pytest.raises(ProtocolError, match=code):
        client.put_frames(p.PutFrames("bad", 20, 18, [frame]), buffers)


def test_a_source_keeps_its_size_rate_and_format(client):
    upload(client, "steady")
    for change in ({"size": (22, 18)}, {"rate": "24"}, {"format": "half"}, {"channels": "rgb"}):
        with pytest.raises(InputError, match="source-changed"):
            upload(client, "steady", **change)


def test_uploads_have_an_end(client):
    with pytest.raises(ResourceError, match="upload-too-large"):
        for i in range(40):
            upload(client, "huge", (i,), size=(100, 100))


def test_a_hosts_older_uploads_make_room_for_its_new_one(engine, client):
    with engine.client() as other:
        for who, name in ((other, "theirs"), (client, "idle"), (client, "used"), (client, "new"), (client, "newer")):
            upload(who, name, range(4), size=(100, 100))  # three such fit
            if name == "new":
                client.probe(p.Source(upload="used"))
        for who, name in ((other, "theirs"), (client, "used"), (client, "newer")):
            assert who.probe(p.Source(upload=name)).available_range == (0, 4), name
        for name in ("idle", "new"):
            with pytest.raises(InputError, match="unknown-source"):
                client.probe(p.Source(upload=name))


def test_an_upload_that_a_job_reads_makes_room_for_none(tmp_path):
    uploads = Uploads(DiskStore(tmp_path), "e", 100, lambda task: task())

    def put(name, in_use=()):
        body = p.PutFrames(name, 20, 3, [p.UploadedFrame(0, "uint8", "gray")])
        uploads.write(uploads.admit("s", body, [memoryview(bytes(60))], in_use), body, [memoryview(bytes(60))])
        return uploads.resolved("s", p.Source(upload=name)).path

    first = put("first")
    with pytest.raises(ResourceError, match="upload-too-large"):
        put("second", {first})
    second = put("second")
    assert [str(path) for path in (tmp_path / "uploads").iterdir()] == [second]


def test_uploads_belong_to_their_session_and_go_with_it(engine, client):
    with engine.client() as other:
        upload(other, "theirs")
        directory = engine.directory / "store" / "uploads"
        assert len([path for path in directory.iterdir() if path.name.endswith("theirs")]) == 1
        with pytest.raises(InputError, match="unknown-source"):
            client.probe(p.Source(upload="theirs"))
    wait_until(lambda: not [path for path in directory.iterdir() if path.name.endswith("theirs")])


def test_a_worker_killed_while_it_renders_is_replaced_and_the_frame_comes(engine, client, tmp_path):
    path = make_media(tmp_path / "a.json", step_s=0.3)
    ask(client, path, 0)
    assert ask(client, path, 50, wait_s=0).state == "pending"
    time.sleep(0.1)
    kill(client.status().worker.pid)
    assert isinstance(ask(client, path, 50, wait_s=10.0), StabilizedFrame)


def test_buffers_with_other_messages_are_refused(engine):
    with RawPeer(engine.connection) as peer:
        assert peer.ask("status", {}, b"pixels").error.code == "bad-buffer"
        assert (
            peer.ask(
                "put_frames",
                {"source_id": "x", "width": 1, "height": 1, "frames": [{"frame_index": 0, "format": "uint8"}]},
                *[b"x"] * 65,
            ).error.code
            == "bad-message"
        )
