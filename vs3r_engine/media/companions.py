# SPDX-License-Identifier: Apache-2.0
"""The source's streams beside its picture (sound, subtitles, data), copied packet by packet into the output's own time."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av

from vs3r_engine.errors import MediaError
from vs3r_engine.media.codecs import Encoding
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.timeline import FrameRange

_BEGIN_INSIDE_PACKETS = ("mp4", "mov")
"""Containers whose edit lists let a stream begin inside its first packet."""

_PCM = re.compile(r"^pcm_(?:[suf](?P<bits>\d+)(?:le|be)?|alaw|mulaw)$")
_OF_THE_OLD_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "timecode", "reel_name")
_SEEK_MARGIN_S = 2


class Companions:
    """The streams to copy, in the source's order, and sentences about those that cannot be (`lost`)."""

    def __init__(self, source: av.container.InputContainer | None, info: MediaInfo, encoding: Encoding, render_range: FrameRange,
                 begin_s: Fraction) -> None:
        self.lost: list[str] = []
        self.file_metadata: dict[str, str] = {}
        self._source, self._begin_s = source, begin_s
        self._begins_inside = encoding.container in _BEGIN_INSIDE_PACKETS
        self._start_s = info.time_s(render_range.start) if render_range.start > 0 else None
        self._end_s = info.time_s(render_range.end_exclusive) if render_range.end_exclusive < info.frame_count else None
        self._chosen: list[Any] = []
        self._copies: dict[int, Any] = {}
        if source is not None:
            self.file_metadata = {key: value for key, value in source.metadata.items() if key.lower() not in _OF_THE_OLD_FILE}
            self._choose(source, info, encoding)

    def _choose(self, source: av.container.InputContainer, info: MediaInfo, encoding: Encoding) -> None:
        for stream in source.streams:
            if stream.index == info.stream_index or not encoding.copies_streams or _is_timecode(stream):
                stream.discard = av.stream.Discard.all
                continue
            what = f"Stream {stream.index} ({stream.type}, {_name(stream)})"
            if _can_hold(encoding.container, stream):
                self._chosen.append(stream)
                continue
            stream.discard = av.stream.Discard.all
            if stream.type == "audio":
                raise MediaError("output-audio", f"{what} of {info.clip.path} cannot be stored in {encoding.container}.",
                                 "End the output's name in .mov or .mkv, or switch output.audio off.")
            self.lost.append(f"{what} cannot be stored in {encoding.container} and is left out.")

    def add_to(self, container: av.container.OutputContainer) -> None:
        """The output has a stream for each chosen one, and the chapters."""
        for stream in self._chosen:
            copy = container.add_stream_from_template(stream, opaque=True)
            copy.metadata.update({key: value for key, value in stream.metadata.items() if key not in ("timecode", "encoder")})
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy
        chapters = self._chapters()
        if chapters:
            container.set_chapters(chapters)

    def _chapters(self) -> list[Any]:
        moved = []
        for chapter in self._source.chapters() if self._source is not None else []:
            time_base = chapter["time_base"]
            start = max(chapter["start"] * time_base, self._start_s or self._begin_s)
            end = chapter["end"] * time_base if self._end_s is None else min(chapter["end"] * time_base, self._end_s)
            if start < end:
                moved.append({**chapter, "start": round((start - self._begin_s) / time_base), "end": round((end - self._begin_s) / time_base)})
        return moved

    def packets(self) -> Iterator[tuple[float, av.Packet]]:
        """(decoding time in s, packet) of the copied streams, in the file's order; memory does not grow with the file."""
        if self._source is None or not self._chosen:
            return
        if self._start_s is not None and all(stream.type == "audio" for stream in self._chosen):
            self._source.seek(int((self._start_s - _SEEK_MARGIN_S) * av.time_base))
        for packet in self._source.demux(self._chosen):
            if packet.pts is None:
                packet.pts = packet.dts
            if packet.pts is None or packet.size == 0:
                continue
            stream = packet.stream
            kept = self._within(packet, stream)
            if kept is not None:
                shift = round(self._begin_s / kept.time_base)
                kept.pts -= shift
                kept.dts = kept.pts if kept.dts is None else kept.dts - shift
                kept.stream = self._copies[stream.index]
                yield float(kept.dts * kept.time_base), kept

    def _within(self, packet: av.Packet, stream: Any) -> av.Packet | None:
        """The part of a packet inside the range: cut to the sample where it is PCM, else whole."""
        begin, length = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
        start_s = self._start_s if self._start_s is not None else (None if self._begins_inside else self._begin_s)
        starts_early = start_s is not None and begin < start_s
        ends_late = self._end_s is not None and begin + length > self._end_s
        if (starts_early and begin + length <= start_s) or (self._end_s is not None and begin >= self._end_s):
            return None
        if not starts_early and not ends_late:
            return packet
        if stream.type == "audio" and (frame_bytes := _pcm_frame_bytes(stream)):
            return _cut(packet, stream, frame_bytes, start_s, self._end_s)
        if starts_early and not (stream.type == "audio" and self._begins_inside):
            if stream.type == "audio":
                return None  # no way to play a part of it: the sound begins with the next packet
            packet.pts = round(start_s / packet.time_base)
            packet.dts = packet.pts
            packet.duration = round((begin + length - start_s) / packet.time_base)
        if ends_late and self._begins_inside:
            packet.duration = max(1, round((self._end_s - packet.pts * packet.time_base) / packet.time_base))
        return packet


def _cut(packet: av.Packet, stream: Any, frame_bytes: int, start_s: Fraction | None, end_s: Fraction | None) -> av.Packet | None:
    """The samples of a PCM packet from `start_s` to `end_s`, each to the nearest sample."""
    rate = stream.codec_context.sample_rate
    begin = packet.pts * packet.time_base
    samples = packet.size // frame_bytes
    first = max(0, round((start_s - begin) * rate)) if start_s is not None else 0
    last = min(samples, round((end_s - begin) * rate)) if end_s is not None else samples
    if first >= last:
        return None
    cut = av.Packet(bytes(packet)[first * frame_bytes : last * frame_bytes])
    cut.time_base = packet.time_base
    cut.pts = cut.dts = packet.pts + round(Fraction(first, rate) / packet.time_base)
    cut.duration = round(Fraction(last - first, rate) / packet.time_base)
    cut.is_keyframe = True
    return cut


def _pcm_frame_bytes(stream: Any) -> int:
    """Bytes of one moment of an interleaved PCM stream; 0 for other codecs."""
    match = _PCM.match(stream.codec_context.name)
    return int(match["bits"] or 8) // 8 * stream.codec_context.layout.nb_channels if match else 0


def _is_timecode(stream: Any) -> bool:
    """A timecode track: the output gets its own, counted from the range's first frame."""
    return stream.type == "data" and any(key.lower() == "timecode" for key in stream.metadata)


def _name(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else getattr(stream, "name", None) or "unknown codec"


def _can_hold(container_format: str, stream: Any) -> bool:
    """The output's container takes this stream: tried on a container in memory. Data must also come back out of it, because
    FFmpeg's MOV muxer accepts kinds of data that it then cannot write, and the file is lost."""
    if stream.type == "video" and not stream.disposition & av.stream.Disposition.attached_pic:
        return False
    memory = io.BytesIO()
    try:
        with av.open(memory, "w", format=container_format) as trial:
            copy = trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            if stream.type == "data":
                packet = av.Packet(b"sixteen bytes .")
                packet.pts = packet.dts = 0
                packet.duration, packet.time_base, packet.stream = 1, stream.time_base, copy
                trial.mux_one(packet)
        if stream.type == "data":
            with av.open(memory) as written:
                return any(bytes(packet) == b"sixteen bytes ." for packet in written.demux() if packet.size)
    except (av.FFmpegError, ValueError):
        return False
    return True


@contextmanager
def open_companions(info: MediaInfo, encoding: Encoding, render_range: FrameRange, begin_s: Fraction) -> Iterator[Companions]:
    """The source's other streams, ready to be copied while the context lasts. Raises: MediaError `output-audio`."""
    if info.sequence is not None:
        yield Companions(None, info, encoding, render_range, begin_s)
        return
    with av.open(f"file:{info.clip.path}", metadata_errors="replace") as source:
        yield Companions(source, info, encoding, render_range, begin_s)
