# SPDX-License-Identifier: Apache-2.0
"""The source's streams beside its picture (sound, subtitles, data), copied into the output's own time."""

import heapq
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any

import av

from vs3r_engine.errors import MediaError
from vs3r_engine.media.codecs import CONTAINERS, Encoding
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.metadata import speakers
from vs3r_engine.timeline import FrameRange

_BEGIN_INSIDE_PACKETS = ("mp4", "mov")
"""Containers whose edit lists let a stream begin inside its first packet."""

_PCM = re.compile(r"^pcm_(?:[suf](?P<bits>\d+)(?:le|be)?|alaw|mulaw)$")
_OF_THE_OLD_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "timecode", "reel_name")
_SEEK_MARGIN_S = 2
_STRAGGLING_S = 10
"""How far behind its sound the other streams of a moment may lie in a file."""
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_FOREVER_S = Fraction(1 << 40)


class Companions:
    """The streams to copy, in the source's order, and sentences about those that cannot be (`lost`)."""

    def __init__(
        self, source: av.container.InputContainer | None, info: MediaInfo, encoding: Encoding, render_range: FrameRange, begin_s: Fraction
    ) -> None:
        self.lost: list[str] = []
        self.file_metadata: dict[str, str] = {}
        self._source, self._begin_s = source, begin_s
        self._begins_inside = encoding.container in _BEGIN_INSIDE_PACKETS
        self._begin_of_file_s = info.file_origin_s
        self._start_s, self._end_s = -_FOREVER_S, _FOREVER_S
        # FFmpeg's MXF muxer ignores times and drops the pictures for which a stream has nothing.
        self._is_gapless = encoding.container == "mxf"
        if render_range.start > 0 or self._is_gapless:
            self._start_s = info.time_s(render_range.start)
        if render_range.end_exclusive < info.frame_count or self._is_gapless:
            self._end_s = info.time_s(render_range.end_exclusive)
        self._chosen: list[Any] = []
        self._pcm_frame_bytes: dict[int, int] = {}
        self._next_sample: dict[int, int] = {}
        self._copies: dict[int, Any] = {}
        if source is not None:
            self._picture: Any = source.streams[info.stream_index]
            self.file_metadata = {k: v for k, v in source.metadata.items() if k.lower() not in _OF_THE_OLD_FILE}
            self._choose(source, info, encoding)

    def _choose(self, source: av.container.InputContainer, info: MediaInfo, encoding: Encoding) -> None:
        for stream in source.streams:
            is_chapters = stream.discard == av.stream.Discard.all  # MOV's, which `_chapters` gives back
            if stream.index == info.stream_index or not encoding.copies_streams or _is_timecode(stream) or is_chapters:
                stream.discard = av.stream.Discard.all
                continue
            what = f"Stream {stream.index} ({stream.type}, {_name(stream)})"
            if _can_hold(encoding.container, stream):
                self._chosen.append(stream)
                self._pcm_frame_bytes[stream.index] = _pcm_frame_bytes(stream)
                continue
            stream.discard = av.stream.Discard.all
            if stream.type == "audio":
                holders = [suffix for suffix in (".mov", ".mkv", ".mp4") if _can_hold(CONTAINERS[suffix], stream)]
                other = f"End the output's name in {' or '.join(holders)}, or switch" if holders else "Convert it first, or switch"
                raise MediaError(
                    "output-audio",
                    f"{what} of {info.clip.path} cannot be stored in {encoding.container}.",
                    f"{other} output.audio off.",
                )
            self.lost.append(f"{what} cannot be stored in {encoding.container} and is left out.")

    def add_to(self, container: av.container.OutputContainer) -> None:
        """The output has a stream for each chosen one, and the chapters."""
        for stream in self._chosen:
            copy = _add_copy(container, stream)
            copy.metadata.update({k: v for k, v in stream.metadata.items() if k not in ("timecode", "encoder")})
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy
        chapters = self._chapters()
        if chapters:
            container.set_chapters(chapters)

    def _chapters(self) -> list[Any]:
        moved = []
        chapters: list[Any] = self._source.chapters() if self._source is not None else []
        for chapter in chapters:
            time_base = chapter["time_base"]
            start = max(chapter["start"] * time_base, self._start_s, self._begin_s)
            end = min(chapter["end"] * time_base, self._end_s)
            if start < end:
                moved.append(
                    {**chapter, "start": round((start - self._begin_s) / time_base), "end": round((end - self._begin_s) / time_base)}
                )
        return moved

    def packets(self) -> Iterator[tuple[float, av.Packet]]:
        """(decoding time in s, packet) of the copied streams, in the file's order, one at a time. To MXF they go without a
        gap: where the source has no sound there is silence."""
        if not self._is_gapless:
            yield from self._copied_packets()
            return
        written = dict.fromkeys(self._copies, 0)
        index_of = {copy.index: index for index, copy in self._copies.items()}
        for time_s, packet in self._copied_packets():
            index = index_of[packet.stream.index]
            yield from self._silence(index, written[index], packet.pts)
            written[index] = packet.pts + packet.duration
            yield time_s, packet
        yield from heapq.merge(*(self._silence(index, place) for index, place in written.items()), key=lambda item: item[0])

    def _silence(self, index: int, first: int, end: int | None = None) -> Iterator[tuple[float, av.Packet]]:
        """Packets of at most a second that fill a PCM stream from its sample `first` to `end`, or to the range's end."""
        copy = self._copies[index]
        rate = copy.codec_context.sample_rate
        if end is None:
            end = round(self._end_s * rate) - round(self._start_s * rate)
        for start in range(first, end, rate):
            count = min(rate, end - start)
            packet: Any = av.Packet(bytes(count * self._pcm_frame_bytes[index]))
            packet.is_keyframe, packet.stream, packet.time_base = True, copy, Fraction(1, rate)
            packet.pts, packet.dts, packet.duration = start, start, count
            yield start / rate, packet

    def _copied_packets(self) -> Iterator[tuple[float, Any]]:
        if self._source is None or not self._chosen:
            return
        sounding = {stream.index for stream in self._chosen if stream.type == "audio"}
        before_s = self._start_s - _SEEK_MARGIN_S
        if before_s > self._begin_of_file_s and all(map(_says_its_exact_time, self._chosen)):
            # By the picture: a sound that begins later than this would take all others with it to its own beginning.
            self._source.seek(int(before_s / self._picture.time_base), stream=self._picture)
        packet: Any
        for packet in self._source.demux(self._chosen):
            if packet.pts is None:
                packet.pts = packet.dts
            if packet.pts is None or packet.size == 0:
                continue
            stream = packet.stream
            if packet.pts * packet.time_base > self._end_s + _STRAGGLING_S and stream.index in sounding:
                sounding.remove(stream.index)
                if not sounding:
                    return
            kept = self._within(packet, stream)
            if kept is not None:
                shift = round(self._begin_s / kept.time_base)
                kept.pts -= shift
                kept.dts = kept.pts if kept.dts is None else kept.dts - shift
                kept.stream = self._copies[stream.index]
                yield float(kept.dts * kept.time_base), kept

    def _within(self, packet: Any, stream: Any) -> Any:
        """The part of a packet inside the range: cut to the sample where it is PCM, else whole; None if nothing is."""
        begin, length = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
        start_s = self._start_s if self._begins_inside else max(self._start_s, self._begin_s)
        if frame_bytes := self._pcm_frame_bytes[stream.index]:
            return self._samples_within(packet, stream, frame_bytes, start_s)
        starts_early, ends_late = begin < start_s, begin + length > self._end_s
        if (starts_early and begin + length <= start_s) or begin >= self._end_s:
            return None
        if starts_early and stream.type == "audio" and not self._begins_inside:
            return None  # no way to play a part of it: the sound begins with the next packet
        if starts_early and stream.type != "audio":
            packet.pts = packet.dts = round(start_s / packet.time_base)
            packet.duration = round((begin + length - start_s) / packet.time_base)
        if ends_late and self._begins_inside:
            packet.duration = max(1, round((self._end_s - packet.pts * packet.time_base) / packet.time_base))
        return packet

    def _samples_within(self, packet: Any, stream: Any, frame_bytes: int, start_s: Fraction) -> Any:
        """The samples of a PCM packet inside the range, timed in samples; None where there is none.

        Samples are counted from packet to packet, because Matroska's milliseconds do not say which sample it is.
        """
        rate = stream.codec_context.sample_rate
        count = packet.size // frame_bytes
        stated = packet.pts * packet.time_base * rate
        begin = self._next_sample.get(stream.index)
        if begin is None or abs(stated - begin) > max(1, packet.time_base * rate):
            begin = round(stated)
        self._next_sample[stream.index] = begin + count
        first = max(0, round(start_s * rate) - begin)
        last = min(count, round(self._end_s * rate) - begin)
        if first >= last:
            return None
        cut: Any = packet
        if last - first < count:
            cut = av.Packet(bytes(packet)[first * frame_bytes : last * frame_bytes])
            cut.is_keyframe = True
        cut.time_base = Fraction(1, rate)
        cut.pts = cut.dts = begin + first
        cut.duration = last - first
        return cut


def _says_its_exact_time(stream: Any) -> bool:
    """Its packets near a moment can be understood without those before: not so for subtitles and data, which may have
    begun long before, nor for PCM whose container rounds times to less than a sample's."""
    if stream.type != "audio":
        return False
    return not _pcm_frame_bytes(stream) or stream.time_base * stream.codec_context.sample_rate <= 1


def _pcm_frame_bytes(stream: Any) -> int:
    """Bytes of one moment of an interleaved PCM stream; 0 for other codecs."""
    match = _PCM.match(stream.codec_context.name) if stream.type == "audio" else None
    return int(match["bits"] or 8) // 8 * speakers(stream.codec_context)[0] if match else 0


def _is_timecode(stream: Any) -> bool:
    """A timecode track: the output gets its own, counted from the range's first frame."""
    return stream.type == "data" and any(key.lower() == "timecode" for key in stream.metadata)


def _name(stream: Any) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.name
    return getattr(stream, "name", None) or "unknown codec"


def _add_copy(container: av.container.OutputContainer, stream: Any) -> Any:
    """A stream of the output with this one's parameters. PCM counts samples, and says which speakers it is for, as MP4
    wants to know and Matroska does not say."""
    copy: Any = container.add_stream_from_template(stream, opaque=True)
    if _pcm_frame_bytes(stream):
        copy.time_base = Fraction(1, stream.codec_context.sample_rate)
        channels, layout = speakers(stream.codec_context)
        if layout.endswith("channels") and channels in _USUAL_LAYOUTS:
            copy.codec_context.layout = _USUAL_LAYOUTS[channels]
    return copy


def _can_hold(container_format: str, stream: Any) -> bool:
    """The output's container takes this stream: tried on a container in memory. Data must also come back out of it,
    because FFmpeg's MOV muxer accepts kinds of data that it then cannot write, and the file is lost."""
    if stream.type == "video" and not stream.disposition & av.stream.Disposition.attached_pic:
        return False
    content = b"sixteen bytes ." if stream.type == "data" else bytes(_pcm_frame_bytes(stream))
    memory = io.BytesIO()
    try:
        if container_format == "mxf":
            return _mxf_can_hold(stream)
        with av.open(memory, "w", format=container_format) as trial:
            copy = _add_copy(trial, stream)
            trial.start_encoding()
            if content:
                packet = av.Packet(content)
                packet.pts = packet.dts = 0
                packet.duration, packet.time_base, packet.stream = 1, copy.time_base, copy
                trial.mux_one(packet)
        if not content:
            return True
        memory.seek(0)
        with av.open(memory, "r") as written:
            return any(bytes(packet) == content for packet in written.demux() if packet.size)
    except (av.FFmpegError, ValueError):
        return False


def _mxf_can_hold(stream: Any) -> bool:
    """MXF takes this stream after a picture: PCM alone, which can be filled with silence. Its header says so; an MXF
    without packets cannot be finished."""
    if not _pcm_frame_bytes(stream):
        return False
    trial = av.open(io.BytesIO(), "w", format="mxf")
    try:
        picture = trial.add_stream("mpeg2video", rate=25)
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuv420p"
        _add_copy(trial, stream)
        trial.start_encoding()
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


@contextmanager
def open_companions(info: MediaInfo, encoding: Encoding, render_range: FrameRange, begin_s: Fraction) -> Iterator[Companions]:
    """The source's other streams, ready to be copied while the context lasts. Raises: MediaError `output-audio`."""
    if info.sequence is not None or info.container == "raw":
        yield Companions(None, info, encoding, render_range, begin_s)
        return
    with av.open(f"file:{info.clip.path}", metadata_errors="replace") as source:
        yield Companions(source, info, encoding, render_range, begin_s)
