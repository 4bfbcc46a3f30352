# SPDX-License-Identifier: Apache-2.0
"""Frames that hosts without a file put here: checked, written to disk row by row, forgotten with their session.

One upload is a directory of raw frames (media/raw_frames.py), which the pipeline opens like any other media.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vs3r_engine.errors import DiskFull, InputError, ProtocolError, ResourceError
from vs3r_engine.media.raw_frames import RawFormat, frame_file, write_format
from vs3r_engine.service.cache import OUT_OF_SPACE, UPLOADS, DiskStore
from vs3r_engine.service.protocol import PutFrames, PutReply, Source, UploadedFrame
from vs3r_engine.timeline import exact_rate


@dataclass(slots=True)
class Upload:
    """What one session put under one source id."""

    directory: Path
    format: RawFormat
    held: set[int] = field(default_factory=set)
    size_bytes: int = 0


class Uploads:
    """All uploads of this engine's sessions."""

    def __init__(self, store: DiskStore, engine: str, limit_bytes: int, later: Callable[[Callable[[], None]], Any]) -> None:
        """later: runs a task in another thread, after those before it. Many large files take their time to delete."""
        self._store, self._engine, self._limit_bytes, self._later = store, engine, limit_bytes, later
        self._numbers = itertools.count()
        self._uploads: OrderedDict[tuple[str, str], Upload] = OrderedDict()
        """By session and source id, least recently used first."""
        for entry in store.entries():
            if entry.kind == UPLOADS and not entry.in_use:
                store.discard(entry.kind, entry.key)

    @property
    def size_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self._uploads.values())

    def admit(self, session: str, request: PutFrames, buffers: Sequence[memoryview], in_use: Collection[str | None]) -> Upload:
        """The upload that the frames belong to; they fit it. Nothing is written yet. Where the limit would be passed, the
        session's other uploads make room, least recently used first, but for those whose directory is `in_use`.

        Raises: ProtocolError `bad-buffer`; InputError `source-changed`; ResourceError `upload-too-large`; RangeError
        `bad-rate`.
        """
        raw_format = _format_of(request)
        if len(buffers) != len(request.frames):
            raise ProtocolError(
                "bad-buffer",
                f"{len(request.frames)} frames came with {len(buffers)} buffers.",
                "Send one buffer per frame.",
            )
        for frame, buffer in zip(request.frames, buffers, strict=True):
            _check_buffer(raw_format, frame, buffer.nbytes)
        upload = self._uploads.get((session, request.source_id))
        if upload is not None and upload.format != raw_format:
            raise InputError(
                "source-changed",
                f"The frames of {request.source_id} were {upload.format}; these are {raw_format}.",
                "Use another source id for another size, rate or format.",
            )
        spare = iter([key for key in self._uploads if key[0] == session and str(self._uploads[key].directory) not in in_use])
        while self.size_bytes + raw_format.frame_bytes * len(request.frames) > self._limit_bytes:
            oldest = next((key for key in spare if key[1] != request.source_id), None)
            if oldest is None:
                raise ResourceError(
                    "upload-too-large",
                    f"Uploads would pass {self._limit_bytes >> 30} GiB.",
                    "Upload the used part of the clip only, at a smaller size or as half float.",
                )
            self._forget(oldest)
        if upload is None:
            upload = self._create(session, request.source_id, raw_format)
        self._uploads.move_to_end((session, request.source_id))
        return upload

    def write(self, upload: Upload, request: PutFrames, buffers: Sequence[memoryview]) -> PutReply:
        """The frames are on disk, each whole. May run in another thread. Raises: DiskFull `disk-full`."""
        for frame, buffer in zip(request.frames, buffers, strict=True):
            path = frame_file(upload.directory, frame.frame_index)
            temporary = path.with_suffix(".part")
            try:
                with temporary.open("wb", buffering=0) as stream:
                    for rows in _rows(upload.format, frame, buffer):
                        written = 0
                        while written < rows.nbytes:
                            written += stream.write(rows[written:])
                temporary.replace(path)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                if error.errno in OUT_OF_SPACE:
                    raise DiskFull(
                        "disk-full",
                        f"The cache disk is full after {len(upload.held)} uploaded frames.",
                        "Free some space or run `vs3r cache clear`, and upload again.",
                    ) from error
                raise
            if frame.frame_index not in upload.held:
                upload.held.add(frame.frame_index)
                upload.size_bytes += upload.format.frame_bytes
        return PutReply(request.source_id, list(_runs(sorted(upload.held))))

    def resolved(self, session: str, source: Source) -> Source:
        """`source` with an upload as the path of its directory. Raises: InputError `unknown-source`."""
        if source.upload is None:
            return source
        upload = self._uploads.get((session, source.upload))
        if upload is None or not upload.held:
            raise InputError("unknown-source", f"No frames of {source.upload} are here.", "Send put_frames first.")
        self._uploads.move_to_end((session, source.upload))
        return Source(path=str(upload.directory), range=source.range, analysis_range=source.analysis_range)

    def failed(self, session: str, request: PutFrames) -> None:
        """The disk is full: what the source held so far no longer fills it."""
        if (session, request.source_id) in self._uploads:
            self._forget((session, request.source_id))

    def session_ended(self, session: str) -> None:
        for key in [key for key in self._uploads if key[0] == session]:
            self._forget(key)

    def close(self) -> None:
        """Nothing that was put here is left."""
        for directory in (self._store.root / UPLOADS).glob(f"{self._engine}-*"):
            self._store.discard(UPLOADS, directory.name)

    def _forget(self, key: tuple[str, str]) -> None:
        name = self._uploads.pop(key).directory.name
        self._later(lambda: self._store.discard(UPLOADS, name))

    def _create(self, session: str, source_id: str, raw_format: RawFormat) -> Upload:
        key = f"{self._engine}-{next(self._numbers)}-{session}-{source_id}"
        directory = self._store.root / UPLOADS / key
        try:
            directory.mkdir(mode=0o700, parents=True)
            write_format(directory, raw_format)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise DiskFull("disk-full", "The cache disk is full.", "Free some space or run `vs3r cache clear`.") from error
            raise
        self._store.find(UPLOADS, key)  # in use by this process from now on
        upload = self._uploads[session, source_id] = Upload(directory, raw_format)
        return upload


def _format_of(request: PutFrames) -> RawFormat:
    """Raises: InputError `source-changed` where the frames of one message differ; RangeError `bad-rate`."""
    kinds = {(frame.format, frame.channels) for frame in request.frames}
    if len(kinds) > 1:
        raise InputError("source-changed", f"One source cannot hold frames of several kinds: {sorted(kinds)}.", "Send one kind.")
    sample, channels = next(iter(kinds))
    return RawFormat(request.width, request.height, exact_rate(request.rate), sample, channels)


def _check_buffer(raw_format: RawFormat, frame: UploadedFrame, size_bytes: int) -> None:
    packed, height = raw_format.row_bytes, raw_format.height
    row_bytes = frame.row_bytes or packed
    if row_bytes < packed:
        raise ProtocolError("bad-buffer", f"Rows of {row_bytes} bytes cannot hold {packed} bytes of picture.", "Correct row_bytes.")
    if not row_bytes * (height - 1) + packed <= size_bytes <= row_bytes * height:
        raise ProtocolError(
            "bad-buffer",
            f"Frame {frame.frame_index} came with {size_bytes} bytes; {height} rows of {row_bytes} bytes make {row_bytes * height}.",
            "Correct row_bytes, height or the buffer.",
        )


def _rows(raw_format: RawFormat, frame: UploadedFrame, buffer: memoryview) -> Iterator[memoryview]:
    """The picture from the top, without padding, in pieces as large as possible."""
    packed = raw_format.row_bytes
    row_bytes = frame.row_bytes or packed
    if row_bytes == packed and frame.row_order == "top-down":
        yield buffer
        return
    rows = range(raw_format.height)
    for row in rows if frame.row_order == "top-down" else reversed(rows):
        yield buffer[row * row_bytes : row * row_bytes + packed]


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of every run of consecutive numbers."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            yield indices[start], indices[i - 1] + 1
            start = i
