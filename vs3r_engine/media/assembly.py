# SPDX-License-Identifier: Apache-2.0
"""Segments into the finished file: pictures at the source's exact times, its other streams copied beside them."""

import heapq
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import av

from vs3r_engine.errors import EngineFault
from vs3r_engine.media import companions, mov_boxes
from vs3r_engine.media.codecs import Encoding, check_output
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.segments import discard, write_errors
from vs3r_engine.timeline import FrameRange

_INTERLEAVING_US = "1000000"
"""How far FFmpeg waits for a stream that has nothing to say, so that seconds of pictures never pile up in memory."""

_FINE_TICKS_PER_S = 90000


def assemble(
    segments: Sequence[Path],
    output: str,
    info: MediaInfo,
    encoding: Encoding,
    render_range: FrameRange,
    overwrite: bool = False,
    extra_metadata: Mapping[str, str] | None = None,
) -> list[str]:
    """The finished output stands under `output`, whole: the segments' pictures, which must be exactly those of
    `render_range`, and the source's other streams, re-timed to it. Segments are left where they are.

    Returns: what the output could not keep, one sentence each (empty as a rule).

    Raises: EngineFault `segments-incomplete`; MediaError as `check_output`; DiskFull. On every error, nothing new
    stands under `output`, and what stood there before still does.
    """
    check_output(info, output, overwrite, render_range)
    if encoding.is_sequence:
        _place_images(segments, encoding, render_range)
        return list(encoding.notes)
    target = Path(output)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with write_errors(output):
            lost = _mux(segments, partial, info, encoding, render_range, extra_metadata or {})
            os.replace(partial, target)
    finally:
        discard(partial)
    return [*encoding.notes, *lost]


def _origin_s(info: MediaInfo, encoding: Encoding, render_range: FrameRange) -> Fraction:
    """The moment of the source that becomes 0 in the output: the file's beginning, or a later range's first frame, which
    in MXF it always is."""
    first = info.time_s(0)
    if render_range.start > 0 or encoding.container == "mxf":
        return info.time_s(render_range.start)
    return first if abs(info.file_origin_s - first) < Fraction(1, 50000) else info.file_origin_s


def _mux(
    segments: Sequence[Path],
    partial: Path,
    info: MediaInfo,
    encoding: Encoding,
    render_range: FrameRange,
    extra_metadata: Mapping[str, str],
) -> list[str]:
    begin_s = _origin_s(info, encoding, render_range)
    with companions.open_companions(info, encoding, render_range, begin_s) as others, av.open(f"file:{segments[0]}") as first:
        file_metadata = {**others.file_metadata, **extra_metadata}
        options = {"max_interleave_delta": _INTERLEAVING_US}
        if encoding.container in ("mp4", "mov") and any("." in key for key in file_metadata):
            options["movflags"] = "+use_metadata_tags"  # without it MOV keeps a fixed list of keys only
        if encoding.container in ("mp4", "mov"):
            # Edit lists count in this unit; FFmpeg's default of 1/1000 s would round 29.97's durations.
            timescale = lcm(_output_time_base(info, encoding, begin_s).denominator, 48000)
            options["movie_timescale"] = str(min(timescale, (1 << 31) - 1))
        with av.open(f"file:{partial}", "w", format=encoding.container, container_options=options) as container:
            template = first.streams.video[0]
            stream = container.add_stream_from_template(template, opaque=True)
            _describe_picture(stream, info, encoding)
            timecode = info.timecode_at(render_range.start)
            stream.metadata.update({"timecode": timecode} if timecode else {})
            stream.metadata.update({"reel_name": info.reel_name} if info.reel_name else {})
            stream.time_base = _output_time_base(info, encoding, begin_s)
            others.add_to(container)
            container.metadata.update(file_metadata)
            container.start_encoding()
            pictures = _timed_pictures(segments, stream, info, encoding, render_range, begin_s, template.codec_context.reorder_depth)
            for _, packet in heapq.merge(pictures, others.packets(), key=lambda item: item[0]):
                container.mux_one(packet)
    if encoding.container in ("mp4", "mov"):
        mov_boxes.add_hdr(partial, info.mastering_display, info.content_light)
    elif (info.mastering_display or info.content_light) and encoding.codec not in ("h264", "h265"):
        return [*others.lost, f"{encoding.codec} in this container does not keep the HDR mastering metadata."]
    return others.lost


def _output_time_base(info: MediaInfo, encoding: Encoding, begin_s: Fraction) -> Fraction:
    """The coarsest grid that every frame's time lies on; a finer one where the first frame's, after the sound's, lies
    on none of the rate's."""
    if encoding.container == "mxf":
        return 1 / info.clip.rate
    if info.is_variable_rate:
        return info.time_base
    ticks_per_s = info.clip.rate.numerator
    if ((info.time_s(0) - begin_s) * ticks_per_s).denominator > 1:
        ticks_per_s *= -(-_FINE_TICKS_PER_S // ticks_per_s)
    return Fraction(1, ticks_per_s)


def _describe_picture(stream: av.VideoStream, info: MediaInfo, encoding: Encoding) -> None:
    context = stream.codec_context
    if encoding.codec_tag and encoding.container in ("mp4", "mov"):
        context.codec_tag = encoding.codec_tag
    context.framerate = info.clip.rate
    context.sample_aspect_ratio = info.pixel_aspect
    colour = encoding.colour
    context.color_primaries, context.color_trc, context.colorspace = colour.primaries, colour.transfer, colour.matrix
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)


def _timed_pictures(
    segments: Sequence[Path],
    stream: av.VideoStream,
    info: MediaInfo,
    encoding: Encoding,
    render_range: FrameRange,
    begin_s: Fraction,
    delay: int,
) -> Iterator[tuple[float, av.Packet]]:
    """(decoding time in s, packet) of every picture, in decoding order across the segments.

    A picture is shown at the source's time of its frame. It is decoded `delay` frames early: the time of the frame that
    many places before its own place in decoding order, which never lies after its showing.
    """
    time_base = _output_time_base(info, encoding, begin_s)
    count, place, shown_before = len(render_range), 0, 0

    def ticks(local_index: int) -> int:
        if local_index < 0:
            step = info.time_s(render_range.start + 1) - info.time_s(render_range.start)
            return round((info.time_s(render_range.start) + local_index * step - begin_s) / time_base)
        return round((info.time_s(render_range.start + local_index) - begin_s) / time_base)

    for segment in segments:
        with av.open(f"file:{segment}") as container:
            source = container.streams.video[0]
            in_segment = 0
            packet: Any
            for packet in container.demux(source):
                if packet.pts is None or packet.size == 0:
                    continue
                index = shown_before + round(packet.pts * packet.time_base * info.clip.rate)
                if index >= count or place >= count:
                    raise EngineFault("segments-incomplete", f"The segments hold more than the {count} frames of {render_range}.")
                dts = ticks(place - delay)
                packet.pts, packet.dts, packet.duration = ticks(index), dts, ticks(index + 1) - ticks(index)
                if packet.dts > packet.pts:
                    raise EngineFault("segments-order", f"Segment {segment} reorders its frames further than the first one.")
                packet.time_base, packet.stream = time_base, stream
                place, in_segment = place + 1, in_segment + 1
                yield float(dts * time_base), packet
            shown_before += in_segment
    if place != count:
        raise EngineFault("segments-incomplete", f"The segments hold {place} frames; {render_range} has {count}.")


def _place_images(segments: Sequence[Path], encoding: Encoding, render_range: FrameRange) -> None:
    """Every image stands under its name; when one fails, none does that did not before."""
    files = encoding.files
    assert files is not None
    wanted = {index: Path(segment) / str(index) for segment in segments for index in map(int, os.listdir(segment))}
    if sorted(wanted) != list(render_range):
        raise EngineFault("segments-incomplete", f"The segments hold {len(wanted)} images; {render_range} has {len(render_range)}.")
    placed: list[str] = []
    try:
        with write_errors(files.pattern):
            for index in render_range:
                name = files.file(index)
                partial = f"{name}.partial"
                placed.append(partial)
                _link_or_copy(wanted[index], partial)
            for index in render_range:
                os.replace(f"{files.file(index)}.partial", files.file(index))
    except BaseException:
        for name in placed:
            Path(name).unlink(missing_ok=True)
        raise


def _link_or_copy(source: Path, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
