# SPDX-License-Identifier: Apache-2.0
"""The server's desk for single frames: rendered ones in memory, asked-for ones in line, the next ones ahead of time.

No sockets, no processes: `ask` gives an answer or None for "later", and `due` tells what has become of the later ones.
"""

import contextlib
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

from vs3r_engine.errors import InputError, ResourceError, VS3RError
from vs3r_engine.job import JobState
from vs3r_engine.media.raw_frames import SAMPLE_BYTES
from vs3r_engine.service.jobs import JobRecord
from vs3r_engine.service.protocol import (
    Error,
    FrameReply,
    FrameRequest,
    Limits,
    SettingsChoice,
    Source,
    encode,
    error_of,
    exception_of,
)
from vs3r_engine.service.worker import FrameDone, FrameFailed, FrameKey, FrameOrder
from vs3r_engine.settings import NAMING_FILES, preset, stamp_of

ORDERS_AT_WORK = 2
"""Orders given to the worker at once: it renders one while the next is on its way."""
FORGET_WANT_S = 3.0
"""A frame nobody asked for again for this long is not rendered any more: its viewer has moved on."""
REPEAT_ERROR_S = 5.0
"""A failed clip or frame answers with its error this long before it is tried again."""
FAILURES = 4096
"""Failed frames remembered."""
DEATHS = 2
"""Times the worker may die over one frame before the frame counts as the cause."""
CLIPS = 256


@dataclass(slots=True)
class PlayedClip:
    """One source with one choice of settings, as frames are asked of it."""

    digest: str
    source: Source
    settings: SettingsChoice
    analysis: JobRecord | None = None
    error: Error | None = None
    error_until_s: float = 0.0


@dataclass(slots=True)
class Want:
    """A frame that somebody waits for."""

    key: FrameKey
    sessions: dict[str, float]
    """When each session last asked."""
    may_analyze: bool = False
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request whose reply is held back until `deadline_s`."""

    key: FrameKey
    session: str
    deadline_s: float
    may_analyze: bool
    reply_to: Any


@dataclass(slots=True)
class Answer:
    reply: FrameReply
    pixels: bytes | bytearray | None = field(default=None, repr=False)


class FrameDesk:
    """send: gives an order to the worker, False where there is none. analyze: submits the analysis of a clip."""

    def __init__(
        self,
        limits: Limits,
        send: Callable[[FrameOrder], bool],
        analyze: Callable[[Source, SettingsChoice, str], JobRecord],
    ) -> None:
        self._limits, self._send, self._analyze = limits, send, analyze
        self._clips: OrderedDict[str, PlayedClip] = OrderedDict()
        self._rendered: OrderedDict[FrameKey, FrameDone] = OrderedDict()
        self._rendered_bytes = 0
        self._wants: OrderedDict[FrameKey, Want] = OrderedDict()
        self._ahead: OrderedDict[FrameKey, str] = OrderedDict()
        self._at_work: dict[FrameKey, Want | None] = {}
        self._failed: OrderedDict[FrameKey, tuple[Error, float]] = OrderedDict()
        self._waiters: list[Waiter] = []

    @property
    def waiting_count(self) -> int:
        return len(self._wants)

    @property
    def rendered_bytes(self) -> int:
        return self._rendered_bytes

    def ask(self, request: FrameRequest, source: Source, stamp: str, session: str, reply_to: Any) -> Answer | None:
        """The frame, or that it is pending; None where the reply is held back.

        source: the request's, with uploads resolved to directories. stamp: `stamp_of_files` now.
        Raises: the frame's or its clip's VS3RError; ResourceError `queue-full`.
        """
        now = time.monotonic()
        clip = self._clip(source, request.settings, stamp)
        key = FrameKey(clip.digest, request.format, request.reduction, request.frame_index)
        if key in self._rendered:
            self._rendered.move_to_end(key)
            self._look_ahead(key, request.prefetch, session)
            return self._ready(self._rendered[key])
        self._raise_failures(clip, key, now, request.analyze)
        if request.wait_s > 0:
            self._refuse_too_many(self._waiters, sum(waiter.session == session for waiter in self._waiters), "requests are held back")
        if clip.analysis is None or clip.analysis.is_final:
            self._want(key, session, now, request.analyze)
        else:
            clip.analysis.is_wanted_by(session)
        self._look_ahead(key, request.prefetch, session)
        if request.wait_s > 0:
            self._waiters.append(Waiter(key, session, now + request.wait_s, request.analyze, reply_to))
            return None
        return self._pending(clip, key)

    def next_deadline_s(self) -> float | None:
        return min((waiter.deadline_s for waiter in self._waiters), default=None)

    def due(self) -> Iterator[tuple[Any, Answer | VS3RError]]:
        """(reply_to, answer) of every held-back request that can be answered now."""
        if not self._waiters:
            return
        now = time.monotonic()
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            clip = self._clips.get(waiter.key.clip)
            reply_to = waiter.reply_to
            try:
                if waiter.key in self._rendered:
                    yield reply_to, self._ready(self._rendered[waiter.key])
                elif clip is None:
                    yield reply_to, InputError("unknown-source", "The source is gone.", "Ask again.")
                else:
                    self._raise_failures(clip, waiter.key, now, waiter.may_analyze)
                    if waiter.deadline_s <= now:
                        yield reply_to, self._pending(clip, waiter.key)
                    else:
                        self._waiters.append(waiter)
            except VS3RError as error:
                yield reply_to, error

    def rendered(self, done: FrameDone) -> None:
        """The worker has made a frame."""
        self._at_work.pop(done.key, None)
        self._wants.pop(done.key, None)
        self._keep(done)
        self.dispatch()

    def failed(self, failure: FrameFailed) -> None:
        """The worker cannot make a frame: there is no analysis yet, or something is wrong with it."""
        self._at_work.pop(failure.key, None)
        want = self._wants.get(failure.key)
        clip = self._clips.get(failure.key.clip)
        error = failure.error
        if error is None and clip is not None and want is not None and not want.may_analyze:
            error = Error(
                "not-analyzed",
                f"{clip.source.name()} has not been analysed with these settings.",
                "Send analyze first.",
                "input",
            )
        if error is not None:
            self._wants.pop(failure.key, None)
            self._failed[failure.key] = (error, time.monotonic() + REPEAT_ERROR_S)
            while len(self._failed) > FAILURES:
                self._failed.popitem(last=False)
        elif clip is not None and want is not None and (clip.analysis is None or clip.analysis.is_final):
            self._begin_analysis(clip, next(iter(want.sessions)))
        self.dispatch()

    def analysis_submitted(self, source: Source) -> None:
        """A host asks for an analysis of `source` itself: what became of an earlier one is no answer any more."""
        for clip in self._clips.values():
            if clip.source == source and clip.error is not None:
                clip.error = clip.analysis = None

    def analysis_ended(self, record: JobRecord) -> None:
        """An analysis job of ours is over: its clips' frames come into line, or fail with it."""
        error = record.error
        if record.state is JobState.CANCELLED and not record.is_disowned:
            error = Error("cancelled", "The analysis was cancelled.", "Ask again to start it anew.", "cancelled")
        for clip in self._clips.values():
            if clip.analysis is record and error is not None:
                clip.error, clip.error_until_s = error, time.monotonic() + REPEAT_ERROR_S
                for key in [key for key in self._wants if key.clip == clip.digest]:  # or they would begin it again
                    del self._wants[key]
        now = time.monotonic()
        for waiter in self._waiters:
            asked = self._clips.get(waiter.key.clip)
            if asked is not None and asked.analysis is record and asked.error is None:
                with contextlib.suppress(ResourceError):  # too many are in line: the reply is then that it is pending
                    self._want(waiter.key, waiter.session, now, waiter.may_analyze)
        self.dispatch()

    def worker_lost(self) -> None:
        """What the worker had in hand comes into line again, unless it keeps killing workers."""
        for key, want in self._at_work.items():
            if want is not None:
                want.deaths += 1
                if want.deaths >= DEATHS:
                    self._wants.pop(key, None)
                    error = Error(
                        "worker-died",
                        f"The computing process ended twice over frame {key.frame_index}.",
                        "`vs3r engine logs` has the details.",
                        "fault",
                    )
                    self._failed[key] = (error, time.monotonic() + 60)
        self._at_work.clear()

    def session_ended(self, session: str) -> None:
        self._waiters = [waiter for waiter in self._waiters if waiter.session != session]
        for key, want in list(self._wants.items()):
            want.sessions.pop(session, None)
            if not want.sessions:
                del self._wants[key]
        for key in [key for key, owner in self._ahead.items() if owner == session]:
            del self._ahead[key]

    def dispatch(self) -> None:
        """The worker has as much to do as it takes at once."""
        now = time.monotonic()
        while len(self._at_work) < ORDERS_AT_WORK:
            want = self._next_want(now)
            ahead = None if want or self._at_work else next((key for key in self._ahead if self._may_render(key)), None)
            key = want.key if want else ahead
            if key is None:
                return
            self._ahead.pop(key, None)
            clip = self._clips.get(key.clip)
            if clip is None:
                self._wants.pop(key, None)
                continue
            if not self._send(FrameOrder(key, clip.source, clip.settings)):
                return
            self._at_work[key] = want

    def _next_want(self, now: float) -> Want | None:
        held = {waiter.key for waiter in self._waiters}
        for key, want in list(self._wants.items()):
            if key in self._at_work:
                continue
            if key not in held and max(want.sessions.values()) < now - FORGET_WANT_S:
                del self._wants[key]
                continue
            if self._may_render(key):
                return want
        return None

    def _may_render(self, key: FrameKey) -> bool:
        """False while the frame's clip is being analysed."""
        clip = self._clips.get(key.clip)
        return clip is None or clip.analysis is None or clip.analysis.is_final

    def _clip(self, source: Source, settings: SettingsChoice, stamp: str) -> PlayedClip:
        """Equal digests, equal frames."""
        digest = hashlib.sha256(encode(source) + encode(settings) + stamp.encode()).hexdigest()[:32]
        clip = self._clips.get(digest)
        if clip is None:
            clip = self._clips[digest] = PlayedClip(digest, source, settings)
        self._clips.move_to_end(digest)
        while len(self._clips) > CLIPS:
            self._clips.popitem(last=False)
        return clip

    def _want(self, key: FrameKey, session: str, now: float, may_analyze: bool) -> None:
        want = self._wants.get(key)
        if want is None:
            mine = sum(session in want.sessions for want in self._wants.values())
            self._refuse_too_many(self._wants, mine, "frames are waiting")
            want = self._wants[key] = Want(key, {})
        want.sessions[session] = now
        want.may_analyze |= may_analyze
        self.dispatch()

    def _refuse_too_many(self, all_of_them: Sized, mine: int, what: str) -> None:
        """Raises: ResourceError `queue-full` where one more would pass the engine's limit or the session's."""
        if len(all_of_them) >= self._limits.frames_waiting or mine >= self._limits.frames_waiting_per_session:
            text = f"{len(all_of_them)} {what} already, {mine} of them for this host."
            raise ResourceError("queue-full", text, "Ask again later.")

    def _look_ahead(self, key: FrameKey, count: int, session: str) -> None:
        """The `count` frames after `key` are in line behind all that was asked for; this session's old ones are not."""
        for old in [old for old, owner in self._ahead.items() if owner == session]:
            del self._ahead[old]
        known = (self._rendered, self._wants, self._at_work, self._failed)
        for index in range(key.frame_index + 1, key.frame_index + 1 + count):
            ahead = FrameKey(key.clip, key.format, key.reduction, index)
            if not any(ahead in place for place in known):
                self._ahead[ahead] = session
        self.dispatch()

    def _begin_analysis(self, clip: PlayedClip, session: str) -> None:
        try:
            clip.analysis = self._analyze(clip.source, clip.settings, session)
            clip.error = None
        except VS3RError as error:
            clip.error = error_of(error)
            clip.error_until_s = time.monotonic() + REPEAT_ERROR_S

    def _raise_failures(self, clip: PlayedClip, key: FrameKey, now: float, may_analyze: bool) -> None:
        if clip.error is not None:
            if now < clip.error_until_s:
                raise exception_of(clip.error)
            clip.error = clip.analysis = None
        if key in self._failed:
            error, until_s = self._failed[key]
            if now < until_s and not (may_analyze and error.code == "not-analyzed"):
                raise exception_of(error)
            del self._failed[key]

    def _pending(self, clip: PlayedClip, key: FrameKey) -> Answer:
        analysis = clip.analysis
        if analysis is not None and not analysis.is_final:
            return Answer(
                FrameReply(
                    "pending",
                    key.frame_index,
                    stage=analysis.stage or "queued",
                    fraction=analysis.fraction,
                    job_id=analysis.order.job_id,
                    retry_s=0.2,
                )
            )
        return Answer(FrameReply("pending", key.frame_index, stage="render", fraction=0.0, job_id=None, retry_s=0.05))

    def _ready(self, done: FrameDone) -> Answer:
        key = done.key
        reply = FrameReply("ready", key.frame_index, done.width, done.height, key.format, done.width * 4 * SAMPLE_BYTES[key.format])
        return Answer(reply, done.pixels)

    def _keep(self, done: FrameDone) -> None:
        old = self._rendered.pop(done.key, None)
        self._rendered_bytes += len(done.pixels) - (len(old.pixels) if old else 0)
        self._rendered[done.key] = done
        while self._rendered_bytes > self._limits.frame_cache_bytes and len(self._rendered) > 1:
            self._rendered_bytes -= len(self._rendered.popitem(last=False)[1].pixels)


def named_files(source: Source, settings: SettingsChoice) -> str:
    """What `stamp_of_files` looks at: equal texts, equal files."""
    media = source.path or {key: source.clip.get(key) for key in ("media_references", "media_reference", "effects")}  # type: ignore[union-attr]
    return repr((media, [settings.values.get(key) for key in NAMING_FILES]))


def stamp_of_files(source: Source, settings: SettingsChoice) -> str:
    """Another one when the media, or a file that a setting names, was written again. Takes for ever where a share does not answer."""
    stamps = []
    with contextlib.suppress(Exception):  # the worker will say what is wrong
        path, chosen = source.path, settings.settings()
        if source.clip is not None:
            from vs3r_engine.media import edit

            clip = edit.read_clip(source.clip)
            path = edit.path_of_reference(clip.media_references()[edit.original_key(clip)])
            chosen = edit.settings_of(clip, preset(settings.preset)).with_values(settings.values)
        values = chosen.values()
        stamps += [stamp_of(values[key]) for key in NAMING_FILES]
        stat = os.stat(path or "")
        stamps += [f"{stat.st_mtime_ns} {stat.st_size}"]
    return "\n".join(stamps)
