# SPDX-License-Identifier: Apache-2.0
"""PROTOCOL.md as types: every message and the envelope around it. Imports nothing heavy.

Field names, defaults and limits are those of PROTOCOL.md; unknown fields are ignored on reading.
"""

import contextlib
import os
import uuid
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from vs3r_engine import errors
from vs3r_engine.errors import ProtocolError, VS3RError
from vs3r_engine.job import JobState
from vs3r_engine.settings import Settings, preset

VERSION = "1.0"
USERNAME = "vs3r"

JSON_BYTES = 1 << 20
PART_BYTES = 512 << 20
BUFFERS = 64
SESSION_TIMEOUT_S = 15.0
PING_INTERVAL_S = 2.0
ENGINE_SILENCE_S = 4.0
PROBE_REPLY_S, PUT_FRAMES_REPLY_S, REPLY_S = 10.0, 30.0, 2.0
"""How long a host waits for a reply, beside wait_s; REPLY_S to all other messages."""

Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Index = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Side = Annotated[int, Meta(ge=1, le=16384)]
FrameSpan = Annotated[tuple[Index, ...], Meta(min_length=2, max_length=2)]
"""(first, end): half-open, in frames of the media. Not tuple[Index, Index]: beside text, msgspec 0.22 crashes on it."""
SampleFormat = Literal["uint8", "uint16", "half", "float32"]
JobKind = Literal["analyze", "stabilize"]
RateText = Annotated[str, Meta(max_length=32)]
"""Frames per second, "25" or "30000/1001", for timeline.exact_rate."""
Channels = Literal["rgba", "rgb", "bgra", "bgr", "gray"]


# --- shared bodies ---------------------------------------------------------------------------------------------------


class Error(Struct, frozen=True):
    """The error triple, and which of the kinds of error it is (see _KINDS)."""

    code: str
    message: str
    hint: str = ""
    kind: str = "fault"


class Source(Struct, frozen=True, omit_defaults=True):
    """Which frames of what: exactly one of path, clip and upload."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    clip: dict[str, Any] | None = None
    upload: Identifier | None = None
    range: FrameSpan | Annotated[str, Meta(max_length=64)] | None = None
    analysis_range: FrameSpan | None = None
    rate: RateText | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.path, self.clip, self.upload)) != 1:
            raise ValueError("Give exactly one of path, clip and upload")
        if self.path is not None and (not os.path.isabs(self.path) or "\0" in self.path):
            raise ValueError("The path must be absolute")
        if self.rate is not None and self.upload is not None:
            raise ValueError("The rate of an upload is the one of put_frames")

    def name(self) -> str:
        """For people: the path, the clip's name, or the upload's id."""
        if self.clip is not None:
            return str(self.clip.get("name") or "OTIO clip")
        return self.path or f"upload {self.upload}"


class SettingsChoice(Struct, frozen=True, omit_defaults=True):
    """A preset and single values over it."""

    preset: Annotated[str, Meta(max_length=64)] = "natural"
    values: dict[str, bool | Annotated[int, Meta(ge=-(2**53), le=2**53)] | float | Annotated[str, Meta(max_length=4096)]] = {}

    def settings(self) -> Settings:
        """Raises: SettingsError `unknown-preset`, `unknown-setting`, `bad-setting`."""
        return preset(self.preset).with_values(self.values)


class JobReport(Struct, frozen=True):
    """What is known of a job."""

    job_id: str
    kind: JobKind
    state: JobState
    stage: str = ""
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    found: dict[str, Any] = {}
    source: str = ""
    output: str | None = None
    error: Error | None = None
    result: dict[str, Any] | None = None
    created_unix_s: float = 0.0

    @property
    def is_final(self) -> bool:
        return self.state.is_final


# --- requests --------------------------------------------------------------------------------------------------------


class Hello(Struct, frozen=True):
    client: Annotated[str, Meta(max_length=200)]


class Probe(Struct, frozen=True):
    source: Source


class Analyze(Struct, frozen=True):
    source: Source
    settings: SettingsChoice = SettingsChoice()
    job_id: Identifier | None = None
    detached: bool = False


class Stabilize(Struct, frozen=True):
    source: Source
    output: Annotated[str, Meta(min_length=1, max_length=4096)]
    settings: SettingsChoice = SettingsChoice()
    job_id: Identifier | None = None
    detached: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not os.path.isabs(self.output) or "\0" in self.output:
            raise ValueError("The output must be an absolute path")


class FrameRequest(Struct, frozen=True):
    source: Source
    frame_index: Index
    settings: SettingsChoice = SettingsChoice()
    format: SampleFormat = "half"
    reduction: Literal[1, 2, 4, 8] = 1
    wait_s: Annotated[float, Meta(ge=0, le=10)] = 0.0
    prefetch: Annotated[int, Meta(ge=0, le=32)] = 8
    analyze: bool = True


class UploadedFrame(Struct, frozen=True):
    frame_index: Index
    format: SampleFormat
    channels: Channels = "rgba"
    row_bytes: Annotated[int, Meta(ge=0, le=PART_BYTES)] = 0
    row_order: Literal["top-down", "bottom-up"] = "top-down"


class PutFrames(Struct, frozen=True):
    source_id: Identifier
    width: Side
    height: Side
    frames: Annotated[list[UploadedFrame], Meta(min_length=1, max_length=BUFFERS)]
    rate: RateText = "25"


class Status(Struct, frozen=True):
    job_id: Identifier | None = None


class Jobs(Struct, frozen=True):
    pass


class Ping(Struct, frozen=True):
    pass


class Cancel(Struct, frozen=True):
    job_id: Identifier


class Bye(Struct, frozen=True):
    pass


class Shutdown(Struct, frozen=True):
    when_idle: bool = False


REQUESTS: dict[str, type[Struct]] = {
    "hello": Hello,
    "probe": Probe,
    "analyze": Analyze,
    "stabilize": Stabilize,
    "frame": FrameRequest,
    "put_frames": PutFrames,
    "status": Status,
    "jobs": Jobs,
}
CONTROLS: dict[str, type[Struct]] = {"ping": Ping, "cancel": Cancel, "bye": Bye, "shutdown": Shutdown}


# --- replies ---------------------------------------------------------------------------------------------------------


class Limits(Struct, frozen=True):
    part_bytes: int = PART_BYTES
    json_bytes: int = JSON_BYTES
    buffers: int = BUFFERS
    jobs_queued: int = 64
    frames_waiting: int = 1024
    frames_waiting_per_session: int = 64
    sessions: int = 256
    upload_bytes: int = 64 << 30
    frame_cache_bytes: int = 1 << 30


class HelloReply(Struct, frozen=True):
    version: str
    protocol: str
    pid: int
    device: str
    limits: Limits
    session_timeout_s: float


class ProbeReply(Struct, frozen=True):
    source: str
    width: int
    height: int
    rate: str
    available_range: FrameSpan
    render_range: FrameSpan
    start_timecode: str | None = None
    rotation_deg: int = 0
    pixel_aspect: str = "1"


class FrameReply(Struct, frozen=True, omit_defaults=True):
    """`ready` carries width, height, format, row_bytes and one buffer; `pending` the rest."""

    state: Literal["ready", "pending"]
    frame_index: int
    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET
    format: SampleFormat | UnsetType = UNSET
    row_bytes: int | UnsetType = UNSET
    stage: str | UnsetType = UNSET
    fraction: float | UnsetType = UNSET
    job_id: str | UnsetType | None = UNSET
    retry_s: float | UnsetType = UNSET


class PutReply(Struct, frozen=True):
    source_id: str
    ranges: list[FrameSpan]


class WorkerReport(Struct, frozen=True):
    pid: int | None
    state: Literal["starting", "idle", "busy", "lost"]
    restarts: int


class StatusReply(Struct, frozen=True):
    state: Literal["idle", "busy", "stopping"]
    uptime_s: float
    sessions: int
    jobs_queued: int
    jobs_running: int
    frames_waiting: int
    worker: WorkerReport
    memory_mib: float
    frame_cache_mib: float
    job: JobReport | None = None


class JobsReply(Struct, frozen=True):
    jobs: list[JobReport]


class Empty(Struct, frozen=True):
    pass


REPLIES: dict[str, type[Struct]] = {
    "hello": HelloReply,
    "probe": ProbeReply,
    "analyze": JobReport,
    "stabilize": JobReport,
    "frame": FrameReply,
    "put_frames": PutReply,
    "status": StatusReply,
    "jobs": JobsReply,
    "ping": Empty,
    "cancel": JobReport,
    "bye": Empty,
    "shutdown": Empty,
}


# --- events ----------------------------------------------------------------------------------------------------------


class ProgressEvent(Struct, frozen=True):
    stage: str
    done: int
    total: int
    fraction: float
    eta_s: float | None = None
    found: dict[str, Any] = {}


class LogEvent(Struct, frozen=True):
    level: Literal["info", "warning", "error"]
    message: str


EVENTS: dict[str, type[Struct]] = {"progress": ProgressEvent, "state": JobReport, "log": LogEvent}


def new_job_id() -> str:
    return f"j-{uuid.uuid4().hex[:12]}"


def topic_of(job_id: str | None) -> bytes:
    return f"job/{job_id}/".encode() if job_id else b"engine/"


# --- envelopes -------------------------------------------------------------------------------------------------------


class Request(Struct, frozen=True):
    """Part 0 of a request; `body` is decoded once the type is known."""

    v: Annotated[str, Meta(max_length=16, pattern=r"^\d{1,4}\.\d{1,4}$")]
    type: Annotated[str, Meta(max_length=64)]
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    session: Identifier
    body: Raw = Raw(b"{}")


class Reply(Struct, frozen=True, omit_defaults=True):
    """Part 0 of a reply."""

    v: str
    type: str
    id: str
    engine: str
    status: Literal["ok", "error"]
    body: Raw | UnsetType = UNSET
    error: Error | UnsetType = UNSET


class Event(Struct, frozen=True):
    """Part 1 of an event."""

    v: str
    type: str
    engine: str
    job_id: str | None
    body: Raw


Body = TypeVar("Body", bound=Struct)


def encode(message: Struct) -> bytes:
    return msgspec.json.encode(message)


def decode(data: Any, wanted: type[Body], what: str) -> Body:
    """The message in `data`; a field that is null counts as absent.

    Raises: ProtocolError `bad-message` for broken JSON, `bad-field` for a field that is missing, of the wrong type or
    outside its range.
    """
    try:
        return msgspec.json.decode(data, type=wanted)
    except msgspec.ValidationError as error:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = msgspec.json.decode(data)
            return msgspec.convert({} if given is None else _without_nulls(given), wanted)
        raise ProtocolError("bad-field", f"{what}: {error}.", "PROTOCOL.md lists the fields.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("bad-message", f"{what} is not JSON: {error}.", "It is one object in UTF-8.") from error


def _without_nulls(value: Any) -> Any:
    """The same without the fields that are null, but for what is in an OTIO clip: there they mean what OTIO says."""
    if isinstance(value, dict):
        return {key: item if key == "clip" else _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def encode_request(kind: str, request_id: str, session: str, body: Struct) -> bytes:
    return encode(Request(VERSION, kind, request_id, session, Raw(encode(body))))


def decode_request(part: Any) -> Request:
    """The envelope of a request. Raises: ProtocolError `bad-message`."""
    if len(part) > JSON_BYTES:
        raise ProtocolError("bad-message", f"Part 0 has {len(part)} bytes, over {JSON_BYTES}.", "Pixels go into buffers.")
    try:
        return decode(part, Request, "The request")
    except ProtocolError as error:
        raise ProtocolError("bad-message", error.message, "PROTOCOL.md, section 3.") from error


def refuse_other_version(request: Request) -> None:
    """Raises: ProtocolError `protocol-version`."""
    if major(request.v) != major(VERSION):
        raise ProtocolError(
            "protocol-version",
            f"The host speaks protocol {request.v}, this engine {VERSION}.",
            "Update the older of the two.",
        )


def encode_reply(kind: str, request_id: str, engine: str, body: Struct) -> bytes:
    return encode(Reply(VERSION, kind, request_id, engine, "ok", body=Raw(encode(body))))


def encode_error(kind: str, request_id: str, engine: str, error: VS3RError) -> bytes:
    return encode(Reply(VERSION, kind, request_id, engine, "error", error=error_of(error)))


def decode_reply(part: Any) -> Reply:
    """Raises: ProtocolError `bad-message`, `protocol-version`."""
    reply = decode(part, Reply, "The reply")
    if major(reply.v) != major(VERSION):
        raise ProtocolError(
            "protocol-version",
            f"The engine speaks protocol {reply.v}, this host {VERSION}.",
            "Update the older of the two, then `vs3r engine stop`.",
        )
    return reply


def encode_event(kind: str, engine: str, job_id: str | None, body: Struct) -> list[bytes]:
    return [topic_of(job_id), encode(Event(VERSION, kind, engine, job_id, Raw(encode(body))))]


def major(version: str) -> str:
    return version.partition(".")[0]


# --- errors across the wire ------------------------------------------------------------------------------------------

_KINDS: dict[str, type[VS3RError]] = {
    "usage": errors.SettingsError,
    "input": errors.InputError,
    "setup": errors.SetupError,
    "resource": errors.ResourceError,
    "cancelled": errors.Cancelled,
    "fault": errors.EngineFault,
}
_CLASSES: dict[str, type[VS3RError]] = {
    "disk-full": errors.DiskFull,
    "out-of-memory": errors.OutOfMemory,
    "weights-missing": errors.WeightsMissing,
    **dict.fromkeys(("bad-range", "empty-range", "range-past-media", "bad-timecode"), errors.RangeError),
    **dict.fromkeys(("protocol-version", "not-allowed", "bad-message", "bad-field", "bad-buffer"), errors.ProtocolError),
}
_KIND_OF_EXIT_CODE = {error.exit_code: kind for kind, error in _KINDS.items()}


def error_of(error: VS3RError) -> Error:
    return Error(error.code, error.message, error.hint, _KIND_OF_EXIT_CODE[error.exit_code])


def exception_of(error: Error) -> VS3RError:
    """An exception with the same triple and exit code; of the narrower class where the code tells it."""
    kind = _CLASSES.get(error.code) or _KINDS.get(error.kind, errors.EngineFault)
    if kind is errors.Cancelled:
        return errors.Cancelled(error.message, error.hint)
    if error.code.startswith("media-"):
        kind = errors.MediaError
    return kind(error.code, error.message, error.hint)
