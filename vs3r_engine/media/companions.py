# SPDX-License-Identifier: Apache-2.0
"""The source's streams beside its picture (sound, subtitles, data), copied packet by packet into the output's own time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from vs3r_engine.errors import MediaError
from vs3r_engine.media.codecs import Encoding
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.timeline import FrameRange

_EDIT_LISTS = ("mp4", "mov")
"""Containers that can begin playing inside a packet."""


@dataclass
class Companions:
    """The copied streams: their packets in order of time, the file's metadata, and sentences about what could not be copied."""

    source: av.container.InputContainer | None = None
    outputs: dict[int, Any] = field(default_factory=dict)
    file_metadata: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    begin_s: Fraction = Fraction(0)
    start_s: Fraction | None = None
    end_s: Fraction | None = None
    keeps_partial_packets: bool = False

    def packets(self) -> Iterator[tuple[float, av.Packet]]:
        """(time in s, packet); memory does not grow with the file."""
        if self.source is None or not self.outputs:
            return
        for packet in self.source.demux([self.source.streams[index] for index in self.outputs]):
            if packet.pts is None or packet.dts is None:
                continue
            stream = self.source.streams[packet.stream_index]
            moved = self._in_range(packet, stream)
            if moved is None:
                continue
            time_base = moved.time_base
            shift = round(self.begin_s / time_base)
            moved.pts -= shift
            moved.dts = moved.dts - shift if moved.dts is not None else moved.pts
            moved.stream = self.outputs[stream.index]
            yield float(moved.dts * time_base), moved

    def _in_range(self, packet: av.Packet, stream: Any) -> av.Packet | None:
        begin = packet.pts * packet.time_base
        end = begin + (packet.duration or 0) * packet.time_base
        if (self.start_s is not None and end <= self.start_s and end != begin) or (self.end_s is not None and begin >= self.end_s):
            return None
        earliest = self.begin_s if self.start_s is None else self.start_s
        if begin < earliest and not self.keeps_partial_packets and stream.type != "audio":
            return None
        return packet


@contextmanager
def open_companions(info: MediaInfo, encoding: Encoding, render_range: FrameRange, begin_s: Fraction,
                    container: av.container.OutputContainer) -> Iterator[Companions]:
    """The source's other streams, added to the output `container`. Raises: MediaError `output-audio`."""
    if info.sequence is not None:
        yield Companions()
        return
    with av.open(f"file:{info.clip.path}", metadata_errors="replace") as source:
        result = Companions(source, begin_s=begin_s, keeps_partial_packets=encoding.container in _EDIT_LISTS)
        if render_range.start > 0:
            result.start_s = info.time_s(render_range.start)
        if render_range.end_exclusive < info.frame_count:
            result.end_s = info.time_s(render_range.end_exclusive)
        result.file_metadata = {k: v for k, v in source.metadata.items() if k not in ("major_brand", "minor_version", "compatible_brands", "encoder", "timecode")}
        for stream in source.streams:
            if stream.index == info.stream_index or not encoding.copies_streams or stream.type not in ("audio",):
                stream.discard = av.stream.Discard.all
                continue
            copy = container.add_stream_from_template(stream, opaque=True)
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            result.outputs[stream.index] = copy
        yield result
