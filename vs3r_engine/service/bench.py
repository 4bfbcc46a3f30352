# SPDX-License-Identifier: Apache-2.0
"""`make bench-service`: what the wire costs, as ratios against the same work within one process.

Starts an engine of its own, uploads a 1080p clip, and measures cached frames, frames played from a file, uploads,
cancelling during a render, and 50 hosts at once. Every figure is the median over
repetitions, interleaved with its raw counterpart, where it has one, on the same machine.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import zmq

from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Connection, connection_file, read_connection

WIDTH, HEIGHT, FRAMES = 1920, 1080, 10
REPEATS = 40
PLAYED_FRAMES = 40
CLIENTS, ROUNDS = 50, 20


class Host:
    """The least that can talk to an engine."""

    def __init__(self, connection: Connection, context: zmq.Context, session: str, control: bool = False) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.plain_username, self.socket.plain_password = connection.username.encode(), connection.token.encode()
        self.socket.connect(connection.control if control else connection.request)
        self._session, self._ids = session, itertools.count(1)

    def send(self, kind: str, body: Any, *buffers: Any) -> None:
        self.socket.send_multipart([p.encode_request(kind, str(next(self._ids)), self._session, body), *buffers], copy=False)

    def receive(self) -> tuple[p.Reply, list[zmq.Frame]]:
        if not self.socket.poll(60_000):
            raise SystemExit("The engine does not answer.")
        parts = self.socket.recv_multipart(copy=False)
        reply = p.decode_reply(parts[0].buffer)
        if reply.status == "error":
            raise SystemExit(str(reply.error))
        return reply, parts[1:]

    def ask(self, kind: str, body: Any, *buffers: Any) -> tuple[Any, list[zmq.Frame]]:
        self.send(kind, body, *buffers)
        reply, parts = self.receive()
        return p.decode(reply.body, p.REPLIES[kind], kind), parts


def timed_ms(work: Callable[[], Any]) -> float:
    begun_s = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun_s)


def picture(index: int) -> np.ndarray:
    """[h, w, 4] uint8: a soft texture that sways by a few pixels from frame to frame."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(40, 215, (HEIGHT // 8 + 4, WIDTH // 8 + 4, 4), np.uint8)
    texture = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    dx, dy = 8 + round(5 * np.sin(index)), 8 + round(5 * np.cos(1.7 * index))
    return np.ascontiguousarray(texture[dy : dy + HEIGHT, dx : dx + WIDTH])


def write_clip(path: str) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, {"preset": "veryfast"})
        stream.width, stream.height = WIDTH, HEIGHT
        for index in range(PLAYED_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index)[..., :3], "rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())


def wait_ready(host: Host, request: p.FrameRequest) -> list[zmq.Frame]:
    while True:
        reply, parts = host.ask("frame", request)
        if reply.state == "ready":
            return parts


def row(what: str, times_ms: Sequence[float], raw_ms: Sequence[float] | None = None, **more: Any) -> dict[str, Any]:
    ordered = sorted(times_ms)
    found = {
        "what": what,
        "median_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
    }
    if raw_ms is not None:
        found |= {
            "raw_ms": round(statistics.median(raw_ms), 3),
            "ratio": round(statistics.median(ordered) / statistics.median(raw_ms), 2),
        }
    return found | more


def bench_frames(host: Host, source: p.Source, format: p.SampleFormat) -> dict[str, Any]:
    """A frame that is in the engine's memory, over the wire, against copying the same bytes once."""
    request = p.FrameRequest(source, 3, format=format, wait_s=10.0, prefetch=0)
    samples = np.frombuffer(wait_ready(host, request)[0].buffer, np.uint8)
    times, raw = [], []
    target = np.empty_like(samples)
    for _ in range(REPEATS):
        times.append(timed_ms(lambda: host.ask("frame", request)))
        raw.append(timed_ms(lambda: np.copyto(target, samples)))
    return row(f"cached frame, 1080p {format} RGBA, against a copy of the {samples.nbytes / 2**20:.1f} MiB", times, raw)


def bench_play(host: Host, path: str) -> dict[str, Any]:
    """Frames of a file in order, none of them rendered before, as a host plays or renders them: whole, over the wire."""
    times = []
    for smoothness in (50, 51, 52):  # the analysis is the same
        settings = p.SettingsChoice(values={"path.smoothness": smoothness})
        requests = [
            p.FrameRequest(p.Source(path), index, settings, format="half", wait_s=10.0, prefetch=4) for index in range(PLAYED_FRAMES)
        ]
        wait_ready(host, requests[0])
        times += [timed_ms(partial(wait_ready, host, request)) for request in requests[1:]]
    return row("played frame, 1080p half RGBA, none rendered before", times)


def bench_uploads(host: Host) -> dict[str, Any]:
    """put_frames of float RGBA, on disk when answered, against copying the same bytes once."""
    samples = np.random.default_rng(0).random((HEIGHT, WIDTH, 4), np.float32)
    target = np.empty_like(samples)
    times, raw = [], []
    for index in range(REPEATS):
        body = p.PutFrames("bench-float", WIDTH, HEIGHT, [p.UploadedFrame(index % 8, "float32")])
        times.append(timed_ms(partial(host.ask, "put_frames", body, samples.data)))
        raw.append(timed_ms(lambda: np.copyto(target, samples)))
    return row(f"put_frames, 1080p float RGBA, against a copy of the {samples.nbytes / 2**20:.1f} MiB", times, raw)


def bench_cancel(host: Host, control: Host, source: p.Source, output: str) -> dict[str, Any]:
    """From sending cancel to its reply, while the worker renders; and until the job has stopped."""
    acknowledged, stopped = [], []
    for number in range(5):
        job_id = f"bench-{number}"
        settings = p.SettingsChoice(values={"path.smoothness": 10 + number})
        host.ask("stabilize", p.Stabilize(source, f"{output}-{number}.mov", settings, job_id))
        while True:
            job = host.ask("status", p.Status(job_id))[0].job
            if job.stage == "render" and job.done >= 1:
                break
            if job.is_final:
                raise SystemExit(f"The job ended too early: {job.error}")
        acknowledged.append(timed_ms(partial(control.ask, "cancel", p.Cancel(job_id))))

        def until_final(job_id: str = job_id) -> None:
            while not host.ask("status", p.Status(job_id))[0].job.is_final:
                time.sleep(0.002)

        stopped.append(timed_ms(until_final))
    return row("cancel acknowledged while a render runs", acknowledged, stopped_ms=round(statistics.median(stopped), 1))


def bench_crowd(connection: Connection, context: zmq.Context, source: p.Source) -> dict[str, Any]:
    """50 connected hosts, each asking for its next frame as soon as it has one."""
    hosts = [Host(connection, context, "bench", False) for _ in range(CLIENTS)]
    request = p.FrameRequest(source, 3, format="half", reduction=4, wait_s=10.0, prefetch=0)
    for host in hosts:  # connected, authenticated and known: polling is measured, not 50 handshakes at once
        wait_ready(host, request)
    poller = zmq.Poller()
    sent_s, waits = {}, {number: [] for number in range(CLIENTS)}  # type: ignore[var-annotated]
    number_of = {host.socket: number for number, host in enumerate(hosts)}
    for host in hosts:
        poller.register(host.socket, zmq.POLLIN)
        host.send("frame", request)
        sent_s[host.socket] = time.perf_counter()
    left = CLIENTS * ROUNDS
    while left:
        for socket, _ in poller.poll(10_000):
            host = hosts[number_of[socket]]
            host.receive()
            waits[number_of[socket]].append(1000 * (time.perf_counter() - sent_s[socket]))
            left -= 1
            if len(waits[number_of[socket]]) < ROUNDS:
                host.send("frame", request)
                sent_s[socket] = time.perf_counter()
    for host in hosts:
        host.socket.close()
    everything = list(itertools.chain.from_iterable(waits.values()))
    slowest = max(statistics.median(each) for each in waits.values())
    return row(
        "50 hosts polling frame at once, 480x270 half",
        everything,
        slowest_host_over_median=round(slowest / statistics.median(everything), 2),
        longest_wait_over_median=round(max(everything) / statistics.median(everything), 2),
    )


def start_engine(directory: Path) -> tuple[subprocess.Popen, Connection]:
    environment = {
        **os.environ,
        "VS3R_RUNTIME_DIR": str(directory),
        "VS3R_CACHE_DIR": str(directory / "cache"),
        "XDG_STATE_HOME": str(directory / "state"),
    }
    process = subprocess.Popen([sys.executable, "-m", "vs3r_engine.app.cli", "serve"], env=environment)
    while (connection := read_connection(connection_file(directory))) is None:
        if process.poll() is not None:
            raise SystemExit("The engine did not start.")
        time.sleep(0.02)
    return process, connection


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vs3r-bench-", ignore_cleanup_errors=True) as name:
        process, connection = start_engine(Path(name))
        context = zmq.Context()
        try:
            host, control = Host(connection, context, "bench"), Host(connection, context, "bench", control=True)
            frames = [p.UploadedFrame(index, "uint8") for index in range(FRAMES)]
            host.ask(
                "put_frames",
                p.PutFrames("bench", WIDTH, HEIGHT, frames),
                *(picture(index).data for index in range(FRAMES)),
            )
            source, clip = p.Source(upload="bench"), f"{name}/clip.mp4"
            write_clip(clip)
            for measured in (
                lambda: bench_frames(host, source, "half"),
                lambda: bench_frames(host, source, "float32"),
                lambda: bench_play(host, clip),
                lambda: bench_uploads(host),
                lambda: bench_cancel(host, control, source, f"{name}/out"),
                lambda: bench_crowd(connection, context, source),
            ):
                print(json.dumps(measured()), flush=True)
        finally:
            process.terminate()
            process.wait()
            context.destroy(linger=0)


if __name__ == "__main__":
    main()
