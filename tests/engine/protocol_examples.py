# SPDX-License-Identifier: Apache-2.0
"""One example of every message of PROTOCOL.md, and the golden files made of them.

`python tests/engine/protocol_examples.py` writes the files again, after a deliberate change of the protocol.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vs3r_engine.errors import InputError, MediaError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Connection, Launch

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "protocol"
ENGINE = "4f1d0c2b9a7e4d11"
SESSION = "b6a90d3e5c714f08"
PATH = "/media/A001_C004.mov"


@dataclass(frozen=True)
class Example:
    name: str
    kind: str
    type: str
    shows: str
    parts: tuple[bytes, ...]

    @property
    def file(self) -> str:
        return f"{self.name}.msg"


def request(name: str, type: str, body: msgspec.Struct, shows: str, *buffers: bytes) -> Example:
    return Example(f"request-{name}", "request", type, shows, (p.encode_request(type, "17", SESSION, body), *buffers))


def reply(name: str, type: str, body: msgspec.Struct, shows: str, *buffers: bytes) -> Example:
    return Example(f"reply-{name}", "reply", type, shows, (p.encode_reply(type, "17", ENGINE, body), *buffers))


def raw_reply(name: str, type: str, shows: str, **fields) -> Example:
    content = {"v": "1.0", "type": type, "id": "17", "engine": ENGINE, **fields}
    return Example(f"reply-{name}", "reply", type, shows, (json.dumps(content, separators=(",", ":")).encode(),))


def event(name: str, type: str, body: msgspec.Struct, job_id: str | None, shows: str) -> Example:
    return Example(f"event-{name}", "event", type, shows, tuple(p.encode_event(type, ENGINE, job_id, body)))


def examples() -> list[Example]:
    source = p.Source(path=PATH)
    job = p.JobReport(
        "j-81c0",
        "stabilize",
        "running",
        "render",
        40,
        300,
        0.31,
        12.5,
        {"shake_deg": 2.9},
        PATH,
        "/media/A001_C004_vs3r.mov",
        created_unix_s=1790000000.5,
    )
    done = msgspec.structs.replace(
        job,
        state="done",
        done=300,
        total=300,
        fraction=1.0,
        eta_s=0.0,
        result={
            "output": "/media/A001_C004_vs3r.mov",
            "sidecar": "/media/A001_C004_vs3r.mov.vs3r.json",
            "render_range": [0, 300],
            "findings": {"shake_deg": 2.9},
            "timings_s": {"analyze": 10.0, "render": 20.5},
        },
    )
    failed = msgspec.structs.replace(
        job,
        state="failed",
        error=p.error_of(MediaError("media-truncated", f"{PATH} ends in the middle of a frame.", "Copy it again from the card.")),
    )
    two_pixels = struct.pack("<8e", 0.0, 0.5, 1.0, 1.0, -0.25, 0.25, 2.0, 1.0)
    upload = p.PutFrames(
        "clip-1",
        2,
        1,
        [p.UploadedFrame(100, "half"), p.UploadedFrame(101, "half", row_bytes=24, row_order="bottom-up")],
        "30000/1001",
    )
    otio = {
        "OTIO_SCHEMA": "Clip.2",
        "name": "A001_C004",
        "media_references": {"DEFAULT_MEDIA": {"OTIO_SCHEMA": "ExternalReference.1", "target_url": PATH, "available_range": None}},
        "active_media_reference_key": "DEFAULT_MEDIA",
        "source_range": {
            "OTIO_SCHEMA": "TimeRange.1",
            "start_time": {"OTIO_SCHEMA": "RationalTime.1", "rate": 25.0, "value": 100.0},
            "duration": {"OTIO_SCHEMA": "RationalTime.1", "rate": 25.0, "value": 240.0},
        },
    }
    return [
        request("hello", "hello", p.Hello("vs3r-ofx 0.1.0"), "the first message"),
        request("probe", "probe", p.Probe(source), "a source by path"),
        request(
            "probe-images",
            "probe",
            p.Probe(p.Source(path="/media/A001_C004.%04d.png", rate="30000/1001")),
            "an image sequence with its rate",
        ),
        request(
            "analyze",
            "analyze",
            p.Analyze(
                p.Source(path=PATH, range=(100, 340), analysis_range=(0, 400)),
                p.SettingsChoice("glide", {"analysis.focal_mm": 35.0}),
            ),
            "ranges, a preset and a value",
        ),
        request("analyze-clip", "analyze", p.Analyze(p.Source(clip=otio)), "a source as an OTIO clip"),
        request(
            "stabilize",
            "stabilize",
            p.Stabilize(source, "/media/A001_C004_vs3r.mov", job_id="j-81c0", overwrite=True),
            "file to file, with the host's own job id",
        ),
        request(
            "frame",
            "frame",
            p.FrameRequest(
                source,
                12,
                p.SettingsChoice("natural", {"path.smoothness": 70, "frame.framing": "crop"}),
                "float32",
                2,
                0.05,
            ),
            "one frame at half size, with two settings",
        ),
        request(
            "frame-upload",
            "frame",
            p.FrameRequest(p.Source(upload="clip-1", range=(100, 200)), 120),
            "one frame of an uploaded source",
        ),
        request(
            "put-frames",
            "put_frames",
            upload,
            "two half float frames of 2 x 1 pixels; the second padded and bottom-up",
            two_pixels,
            two_pixels + bytes(8),
        ),
        request("status", "status", p.Status("j-81c0"), "about one job"),
        request("jobs", "jobs", p.Jobs(), "an empty body"),
        request("ping", "ping", p.Ping(), "control"),
        request("cancel", "cancel", p.Cancel("j-81c0"), "control"),
        request("bye", "bye", p.Bye(), "control"),
        request("shutdown", "shutdown", p.Shutdown(True), "control"),
        reply("hello", "hello", p.HelloReply("0.1.0", "1.0", 4711, "cpu", p.Limits(), 15.0), "versions and limits"),
        reply(
            "probe",
            "probe",
            p.ProbeReply(PATH, 1920, 1080, "30000/1001", (0, 600), (0, 600), "01:00:00;00", 90, "4/3"),
            "what a file is",
        ),
        reply(
            "analyze",
            "analyze",
            msgspec.structs.replace(
                job,
                kind="analyze",
                state="queued",
                stage="",
                done=0,
                total=0,
                fraction=0.0,
                eta_s=None,
                found={},
                output=None,
            ),
            "a job that waits",
        ),
        reply("stabilize", "stabilize", job, "a job at work"),
        reply(
            "stabilize-done",
            "status",
            p.StatusReply("idle", 60.0, 1, 0, 0, 0, p.WorkerReport(4712, "idle", 0), 310.5, 0.0, done),
            "a finished job",
        ),
        reply("frame-ready", "frame", p.FrameReply("ready", 12, 2, 1, "half", 16), "two pixels, half float", two_pixels),
        reply(
            "frame-pending",
            "frame",
            p.FrameReply("pending", 12, stage="analyze", fraction=0.25, job_id="j-81c1", retry_s=0.2),
            "not yet",
        ),
        reply(
            "frame-pending-no-job",
            "frame",
            p.FrameReply("pending", 12, stage="render", fraction=0.0, job_id=None, retry_s=0.1),
            "not yet, and no analysis is needed",
        ),
        reply("put-frames", "put_frames", p.PutReply("clip-1", [(100, 102), (110, 111)]), "what is held: two runs"),
        reply(
            "status",
            "status",
            p.StatusReply("busy", 60.0, 2, 1, 1, 3, p.WorkerReport(4712, "busy", 1), 512.25, 96.0, failed),
            "an engine at work, and a failed job",
        ),
        reply("jobs", "jobs", p.JobsReply([done, failed]), "two jobs"),
        reply("ping", "ping", p.Empty(), "control"),
        reply("cancel", "cancel", job, "control: the job as it stands"),
        reply("bye", "bye", p.Empty(), "control"),
        reply("shutdown", "shutdown", p.Empty(), "control"),
        Example(
            "reply-error",
            "reply",
            "status",
            "an error",
            (
                p.encode_error(
                    "status",
                    "17",
                    ENGINE,
                    InputError("unknown-job", "There is no job j-81c0.", "`vs3r jobs` lists them."),
                ),
            ),
        ),
        Example(
            "reply-error-nameless",
            "reply",
            "error",
            "the answer to something that was no request",
            (p.encode_error("error", "", ENGINE, InputError("bad-message", "The request is not JSON.", "")),),
        ),
        raw_reply(
            "newer-minor",
            "ping",
            "a newer minor version with fields nobody knows: still fine",
            v="1.7",
            status="ok",
            body={"mood": "sunny"},
            more=[1, 2],
        ),
        raw_reply("other-major", "ping", "a different major version: refuse", v="2.0", status="ok", body={}),
        event(
            "progress",
            "progress",
            p.ProgressEvent("render", 40, 300, 0.31, 12.5, {"shake_deg": 2.9}),
            "j-81c0",
            "at most 10 a second",
        ),
        event("state", "state", done, "j-81c0", "a job's end"),
        event("log", "log", p.LogEvent("warning", "The worker was started again."), None, "about the engine, not a job"),
        Example(
            "connection",
            "connection",
            "",
            "the connection file",
            (
                p.encode(
                    Connection(
                        "1.0",
                        ENGINE,
                        "0.1.0",
                        4711,
                        1790000000.25,
                        f"ipc:///run/user/1000/vs3r/{ENGINE}.request",
                        f"ipc:///run/user/1000/vs3r/{ENGINE}.control",
                        f"ipc:///run/user/1000/vs3r/{ENGINE}.events",
                        token="c2VjcmV0LXRva2VuLW9mLXRoZS1nb2xkZW4tZmlsZXM",
                    )
                ),
            ),
        ),
        Example(
            "launch",
            "launch",
            "",
            "the launch file",
            (p.encode(Launch(["/opt/vs3r/bin/python", "-m", "host_bridge", "engine", "start"])),),
        ),
    ]


def pack(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(data: bytes) -> tuple[bytes, ...]:
    parts, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(parts)


def index() -> str:
    rows = [{"file": e.file, "kind": e.kind, "type": e.type, "parts": len(e.parts), "shows": e.shows} for e in examples()]
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


if __name__ == "__main__":
    for example in examples():
        (GOLDEN / example.file).write_bytes(pack(example.parts))
    (GOLDEN / "index.json").write_text(index())
