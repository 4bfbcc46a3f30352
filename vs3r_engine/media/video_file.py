# SPDX-License-Identifier: Apache-2.0
"""A video file as a source of frames: its index says every frame's exact time and where to seek for it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain

import av
import numpy as np

from vs3r_engine.errors import MediaError
from vs3r_engine.frame import ColourTags, Frame
from vs3r_engine.media import metadata
from vs3r_engine.media.info import MediaInfo, fit_rate
from vs3r_engine.media.pixel_formats import frame_format, planar_format, planes_of
from vs3r_engine.media.source import VideoSource, refuse_tiny
from vs3r_engine.timeline import Clip, FrameRange

_INTERLACED_FIELD_ORDERS = (2, 3, 4, 5)
_DECODER_THREADS = 4
"""Each thread of a codec that predicts from other pictures holds some of them: 36 MB at 3840x2160 in 10 bits, 735 MB with
16 threads, 317 MB with four, which decode several times faster than frames are rendered."""
_MOST_REPEATED_SHARE = 0.1
"""Of a recording's frames, how many may have the time of the one before where times are believed at all."""
_SETTLING_KEY_FRAMES = (0, 1, 4)
"""How many key frames earlier decoding starts when a frame does not come out after the nearest one."""


@dataclass(frozen=True, slots=True, eq=False)
class PacketIndex:
    """Where a stream's frames are: per frame in display order its time, and per key frame its time and where to seek.

    `counts_frames` is set where times do not tell frames apart: they are then counted from the first one. Without `has_times` nothing
    says when they are shown but the stated rate.
    """

    pts: np.ndarray
    end_pts: int
    key_pts: np.ndarray
    key_seek: np.ndarray
    counts_frames: bool
    has_times: bool

    def seek_target(self, pts: int, earlier: int) -> int | None:
        """Where to seek for the frame shown at `pts`, `earlier` key frames before the nearest; None = the beginning."""
        place = int(np.searchsorted(self.key_pts, pts, side="right")) - 1 - earlier
        return int(self.key_seek[place]) if place > 0 and not self.counts_frames else None

    def from_pts(self, first: int) -> "PacketIndex":
        """Without the frames before `first`, which no decoder can produce (leading pictures of an open first group)."""
        return replace(self, pts=self.pts[np.searchsorted(self.pts, first) :])


class FileSource(VideoSource):
    """Frames of a video file."""

    def __init__(self, path: str) -> None:
        self._path = path
        _refuse_unreadable(path)
        self._idle: _Decoder | None = None
        self._status = status = os.stat(path)
        index = _packet_index(path, (status.st_ino, status.st_size, status.st_mtime_ns))
        container = _open(path)
        try:
            stream = _main_video(container, path)
            self._idle = _Decoder(path, index, self.refuse_replaced)
            first = self._idle.first_picture()
            self._index = index.from_pts(first.pts) if first.pts is not None and not index.counts_frames else index
            self._idle.count_by(self._index)
            self.info = _describe(path, container, stream, self._index, first)
        except BaseException:
            self.close()
            raise
        finally:
            container.close()

    def _decode(self, frame_range: FrameRange) -> Iterator[Frame]:
        wanted = planar_format(frame_format(self.info.pixel_format).name)
        assert wanted is not None
        decoder, self._idle = self._idle, None
        if decoder is None:
            decoder = _Decoder(self._path, self._index, self.refuse_replaced)
        try:
            for frame_index in frame_range:
                picture = decoder.picture(frame_index)
                if (
                    picture.width != self.info.clip.width
                    or picture.height != self.info.clip.height
                    or frame_format(picture.format.name).layout != self.info.layout
                ):
                    raise MediaError(
                        "media-changes",
                        f"{self._path} changes its picture size or format at frame {frame_index}.",
                        "Split the clip there, or convert it first.",
                    )
                yield Frame(frame_index, planes_of(picture), self.info.layout, self.info.colour)
        except BaseException:
            decoder.close()
            raise
        if self._idle is None:
            self._idle = decoder
        else:
            decoder.close()

    def refuse_replaced(self) -> None:
        _refuse_unreadable(self._path)
        then, now = self._status, os.stat(self._path)
        has_grown = now.st_ino == then.st_ino and now.st_size > then.st_size
        if not has_grown and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise MediaError("media-replaced", f"{self._path} was replaced while it was read.", "Run the same command again.")

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None


class _Decoder:
    """One open file being decoded, which goes on where it stopped when the next frame asked for lies ahead."""

    def __init__(self, path: str, index: PacketIndex, refuse_replaced: Callable[[], None]) -> None:
        self._path, self._index, self._refuse_replaced = path, index, refuse_replaced
        self._container: av.container.InputContainer | None = None
        self._pictures: Iterator[av.VideoFrame] = iter(())
        self._next_index: int | None = None

    def close(self) -> None:
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def count_by(self, index: PacketIndex) -> None:
        """Frames are those of `index` from now on."""
        self._index = index

    def first_picture(self) -> av.VideoFrame:
        """The first picture the decoder can produce. Raises: MediaError `media-truncated` when there is none."""
        self._start(None)
        for picture in self._guarded(0):
            self._pictures = chain((picture,), self._pictures)
            return picture
        raise MediaError("media-truncated", f"{self._path} holds no picture that can be decoded.", "Copy the file again from its source.")

    def picture(self, frame_index: int) -> av.VideoFrame:
        """Raises: MediaError `media-damaged`."""
        if self._next_index is not None and self._is_ahead(frame_index):
            found = self._advance_to(frame_index)
            if found is not None:
                return found
        pts = int(self._index.pts[frame_index])
        tried = object()
        for earlier in _SETTLING_KEY_FRAMES:
            target = self._index.seek_target(pts, earlier)
            if target == tried:
                continue
            tried = target
            self._start(target)
            found = self._advance_to(frame_index)
            if found is not None:
                return found
        raise MediaError(
            "media-damaged",
            f"{self._path}: frame {frame_index} cannot be decoded.",
            f"Copy the file again, or stabilize a range that ends at {frame_index}.",
        )

    def _is_ahead(self, frame_index: int) -> bool:
        """Decoding on reaches the frame sooner than seeking does."""
        assert self._next_index is not None
        if frame_index < self._next_index:
            return False
        if frame_index == self._next_index or self._index.counts_frames:
            return True
        keys = self._index.key_pts
        between = np.searchsorted(keys, self._index.pts[frame_index], side="right") - np.searchsorted(
            keys, self._index.pts[self._next_index], side="right"
        )
        return int(between) == 0

    def _start(self, target: int | None) -> None:
        if target is None or self._container is None:
            # A fresh container is the one start that every format gets right.
            self.close()
            self._refuse_replaced()
            self._container = _open(self._path)
            self._stream = _main_video(self._container, self._path)
            self._stream.thread_type = "AUTO"
            codec = self._stream.codec_context.codec
            if not codec.intra_only and codec.name != "ffv1":  # which only says that it predicts
                self._stream.codec_context.thread_count = min(_DECODER_THREADS, os.cpu_count() or 1)
        if target is not None:
            depth = self._stream.codec_context.reorder_depth
            self._container.seek(target, stream=self._stream)
            # The seek flushes the decoder, which forgets how far pictures are out of order.
            self._stream.codec_context.reorder_depth = depth
        self._pictures = _pictures(self._container, self._stream, awaits_key=len(self._index.key_pts) > 0)
        self._next_index = 0 if target is None else None

    def _advance_to(self, frame_index: int) -> av.VideoFrame | None:
        wanted = int(self._index.pts[frame_index])
        for picture in self._guarded(frame_index):
            if self._index.counts_frames:
                assert self._next_index is not None
                self._next_index += 1
                if self._next_index == frame_index + 1:
                    return picture
            elif picture.pts == wanted:
                self._next_index = frame_index + 1 if frame_index + 1 < len(self._index.pts) else None
                return picture
            elif picture.pts is not None and picture.pts > wanted:
                break
        self._next_index = None
        return None

    def _guarded(self, frame_index: int) -> Iterator[av.VideoFrame]:
        try:
            # Not `yield from`: closing this generator would close the decoding one with it.
            for picture in self._pictures:  # noqa: UP028
                yield picture
        except av.FFmpegError as error:
            raise MediaError(
                "media-damaged",
                f"{self._path} cannot be decoded at frame {frame_index}: {error.strerror}.",
                "Copy the file again, or stabilize the range before it.",
            ) from error


def _pictures(container: av.container.InputContainer, stream: av.VideoStream, awaits_key: bool) -> Iterator[av.VideoFrame]:
    """awaits_key: packets before the first key frame, of a recording that began in the middle of a group, are passed over."""
    for packet in container.demux(stream):
        awaits_key = awaits_key and not packet.is_keyframe and packet.size > 0
        if not awaits_key:
            yield from stream.decode(packet)


def _refuse_unreadable(path: str) -> None:
    if not os.path.exists(path):
        raise MediaError("media-missing", f"{path} does not exist.", "Check the path, or reconnect the drive it is on.")
    if not os.path.isfile(path):
        raise MediaError("media-unreadable", f"{path} is not a file.", "Give a video file, or a folder that holds one image sequence.")
    if not os.access(path, os.R_OK):
        raise MediaError("media-unreadable", f"{path} may not be read.", "Ask its owner for permission to read it.")
    if os.path.getsize(path) == 0:
        raise MediaError("media-empty", f"{path} is empty.", "Copy the file again from its source.")


def _open(path: str) -> av.container.InputContainer:
    try:
        # file: keeps names with a colon or a percent sign from being taken for something else
        return av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        if metadata.is_cut_short(path):
            raise _without_index(path) from error
        raise MediaError(
            "media-unreadable",
            f"{path} is not a video that can be read.",
            "Give a video file such as .mov, .mp4, .mkv or .mxf, or an image sequence.",
        ) from error


def _without_index(path: str) -> MediaError:
    return MediaError(
        "media-truncated",
        f"{path} is cut off: its end, with the list of its frames, is missing.",
        "Copy the file again from its source, or repair it with the camera that wrote it.",
    )


def _main_video(container: av.container.InputContainer, path: str) -> av.VideoStream:
    """The first moving picture of the file; cover art is none."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise MediaError(
                    "media-unreadable",
                    f"{path} holds video in a codec that is not supported here.",
                    "Convert it to ProRes, DNxHR or H.264 first.",
                )
            return stream
    if metadata.is_cut_short(path):
        raise _without_index(path)
    kinds = {stream.type for stream in container.streams}
    what = "only sound" if "audio" in kinds else "no picture"
    raise MediaError("media-not-video", f"{path} holds {what}.", "Give a file with a video stream.")


@lru_cache(maxsize=16)
def _packet_index(path: str, file_stamp: tuple[int, int, int]) -> PacketIndex:
    """The index of the file as it is now; `file_stamp` tells it from an earlier file of that name."""
    with _open(path) as container:
        stream = _main_video(container, path)
        return _stated_index(container, stream, path) or _counted_index(container, stream, path)


def _stated_index(container: av.container.InputContainer, stream: av.VideoStream, path: str) -> PacketIndex | None:
    """From MOV's own table, which for codecs without reordering says everything; None for other files.

    Reading all packets of a ProRes master would mean reading tens of gigabytes before the first frame.
    """
    if not (container.format.name.startswith("mov") and stream.codec_context.codec.intra_only and stream.frames > 0):
        return None
    entries = list(stream.index_entries)
    pts = np.array([entry.timestamp for entry in entries if not entry.is_discard], np.int64)
    if len(entries) != stream.frames or len(pts) < 1 or (np.diff(pts) <= 0).any():
        return None
    if any(entry.pos + entry.size > os.path.getsize(path) for entry in entries):
        raise _cut_short(path, sum(entry.pos + entry.size <= os.path.getsize(path) for entry in entries), len(entries))
    length = pts[-1] - pts[-2] if len(pts) > 1 else 1
    if stream.duration and stream.start_time is not None:
        length = max(length if len(pts) == 1 else 1, stream.start_time + stream.duration - int(pts[-1]))
    return PacketIndex(pts, int(pts[-1] + length), pts, pts, False, True)


def _counted_index(container: av.container.InputContainer, stream: av.VideoStream, path: str) -> PacketIndex:
    """From every packet of the file."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    shown: list[int] = []
    keys: list[tuple[int, int]] = []
    ends = -(1 << 62)
    no_pts, has_order, packets, damaged_end = False, False, 0, 0
    last_dts, is_one_recording = -(1 << 62), True
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            packets += 1
            pts = packet.pts
            if pts is None:
                no_pts = True
                pts = packet.dts if packet.dts is not None else len(shown)
            has_order |= pts != packet.dts
            is_one_recording &= packet.dts is not None and packet.dts >= last_dts
            last_dts = packet.dts if packet.dts is not None else last_dts
            if packet.is_keyframe:
                if not keys:
                    shown.clear()  # see `_pictures`
                keys.append((pts, packet.dts if packet.dts is not None else pts))
            if not packet.is_discard:
                shown.append(pts)
                ends = max(ends, pts + (packet.duration or 0))
                damaged_end = damaged_end + 1 if packet.is_corrupt else 0
    except av.FFmpegError as error:
        raise _cut_short(path, len(shown), stream.frames) from error
    del shown[len(shown) - damaged_end :]  # of a broadcast stream that was cut; elsewhere such pictures can be decoded
    if not shown:
        raise MediaError(
            "media-truncated" if metadata.is_cut_short(path) else "media-unreadable",
            f"{path} holds no frames.",
            "Copy the file again from its source.",
        )
    # A whole MP4 may state a last box that is too long; what it states about its frames then still holds.
    if metadata.is_cut_short(path) and not 0 < stream.frames <= packets:
        raise _cut_short(path, len(shown), stream.frames)
    pts_array = np.sort(np.array(shown, np.int64))
    if ends <= pts_array[-1]:
        step = int(np.median(np.diff(pts_array))) if len(pts_array) > 1 else 0
        ends = int(pts_array[-1]) + step
    # AVI has no presentation times, MXF only those of an index that knows the order; FFmpeg's guesses for reordered
    # pictures are wrong.
    no_pts |= container.format.name == "avi" and len(keys) < packets
    no_pts |= container.format.name == "mxf" and not has_order and stream.codec_context.reorder_depth > 0
    has_times = not no_pts
    if is_repeating := bool((np.diff(pts_array) == 0).any()):
        spread = _spread(pts_array, int(ends)) if has_times and is_one_recording else None
        has_times = spread is not None
        pts_array = pts_array if spread is None else spread
    keys.sort()
    key_pts, key_seek = np.array([k[0] for k in keys], np.int64), np.array([k[1] for k in keys], np.int64)
    return PacketIndex(pts_array, int(ends), key_pts, key_seek, no_pts or is_repeating, has_times)


def _spread(pts: np.ndarray, end_pts: int) -> np.ndarray | None:
    """[n] ascending times, of which a few repeat the one before, with these moved between their neighbours; None where many do."""
    count = len(pts)
    own = np.flatnonzero(np.diff(pts, prepend=pts[0] - 1))
    if count - len(own) > _MOST_REPEATED_SHARE * count:
        return None
    spread = np.interp(np.arange(count), [*own, count], [*pts[own], end_pts]).astype(np.int64)
    return spread if (np.diff(spread) > 0).all() else None


def _cut_short(path: str, frames_read: int, frames_stated: int) -> MediaError:
    of = f" of {frames_stated}" if frames_stated > frames_read else ""
    return MediaError("media-truncated", f"{path} is cut off after {frames_read}{of} frames.", "Copy the file again from its source.")


def _describe(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, index: PacketIndex, first: av.VideoFrame
) -> MediaInfo:
    context = stream.codec_context
    if first.interlaced_frame or context.field_order in _INTERLACED_FIELD_ORDERS:
        raise MediaError(
            "media-interlaced",
            f"{path} is interlaced: each of its frames shows two moments.",
            "Deinterlace it first, for example with ffmpeg -vf bwdif, or on export from the editor.",
        )
    refuse_tiny(path, first.width, first.height)
    format = frame_format(first.format.name)
    colour = ColourTags(
        _tag(context.color_primaries, first.color_primaries),
        _tag(context.color_trc, first.color_trc),
        _tag(context.colorspace, first.colorspace, unspecified=(2,)),
        format.is_full_range or first.format.name.startswith("yuvj") or (context.color_range or first.color_range) == 2,
    )
    time_base = stream.time_base or Fraction(1, av.time_base)
    stated = [Fraction(rate) for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate) if rate]
    rate, is_variable = fit_rate(index.pts, index.end_pts, time_base, stated)
    if not index.has_times and stated:
        rate, is_variable = stated[0], False
    timecode, reel_name = metadata.timecode_and_reel(container, stream)
    matrix = metadata.display_matrix(first)
    clip = Clip(path, rate, first.width, first.height, FrameRange(0, len(index.pts)), timecode)
    return MediaInfo(
        clip=clip,
        layout=format.layout,
        colour=colour,
        codec=context.codec.canonical_name,
        pts=index.pts,
        end_pts=index.end_pts,
        time_base=time_base,
        container=container.format.name,
        pixel_format=first.format.name,
        profile=context.profile,
        range_is_tagged=bool(context.color_range or first.color_range),
        rotation_deg=first.rotation if matrix else 0,
        display_matrix=matrix,
        pixel_aspect=Fraction(stream.sample_aspect_ratio or 1),
        start_timecode=timecode,
        reel_name=reel_name,
        is_variable_rate=is_variable,
        streams=metadata.stream_summaries(container, stream),
        mastering_display=metadata.mastering_display(first),
        content_light=metadata.content_light(first),
        stream_index=stream.index,
        file_origin_s=metadata.file_origin_s(container),
    )


def _tag(of_stream: int, of_frame: int, unspecified: tuple[int, ...] = (0, 2)) -> int:
    """The stream's code point, else the frame's, else 2. DNxHD's frames claim BT.709 whatever their file says."""
    for value in (int(of_stream), int(of_frame)):
        if value not in unspecified:
            return value
    return 2
