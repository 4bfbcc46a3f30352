# SPDX-License-Identifier: Apache-2.0
"""Tiny media files for tests: every picture carries its number in black and white blocks, every sound its sample
count."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vs3r_engine.frame import Frame
from vs3r_engine.media.decode import open_source
from vs3r_engine.media.encode import SegmentWriter, assemble, resolve_encoding
from vs3r_engine.media.pixel_formats import frame_format, picture_of, planar_format
from vs3r_engine.settings import OutputSettings
from vs3r_engine.timeline import FrameRange

BITS = 6


def numbered_planes(number: int, width: int, height: int, pixel_format: str) -> tuple[np.ndarray, ...]:
    """Planes in our order and layout: a ramp, and above it the number in `BITS` blocks, least significant first."""
    layout = frame_format(pixel_format).layout
    planes = []
    for plane in range(layout.plane_count):
        rows, columns = layout.plane_shape(plane, width, height)
        y, x = np.mgrid[0:rows, 0:columns]
        is_chroma = layout.model == "yuv" and plane in (1, 2)
        if is_chroma:
            ramp = 0.4 + 0.2 * (x / columns + plane * y / rows) / 2
        else:
            ramp = 0.2 + 0.6 * (x / columns + y / rows) / 2
            block = columns // BITS
            for bit in range(BITS):
                ramp[: rows // 2, bit * block : (bit + 1) * block] = 0.8 if number >> bit & 1 else 0.2
        if layout.has_alpha and plane == layout.plane_count - 1:
            ramp = 0.5 + 0.5 * x / columns
        planes.append(ramp.astype(np.float32) if layout.bit_depth == 32 else np.rint(ramp * layout.peak).astype(layout.dtype))
    return tuple(planes)


def number_of(frame: Frame) -> int:
    """The number a frame carries."""
    plane = frame.planes[0].astype(np.float32) / frame.layout.peak
    block, quarter = frame.width // BITS, frame.height // 4
    return sum(int(plane[quarter, bit * block + block // 2] > 0.5) << bit for bit in range(BITS))


def make_clip(
    path: Path,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = Fraction(25),
    count: int = 10,
    size: tuple[int, int] = (96, 64),
    times_ms: list[int] | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    rotation_deg: int | None = None,
    pixel_aspect: Fraction | None = None,
    colour: tuple[int, int, int, int] | None = None,
    metadata: dict[str, str] | None = None,
    sounds: list[dict[str, Any]] | None = None,
    muxer: dict[str, str] | None = None,
    file_metadata: dict[str, str] | None = None,
) -> Path:
    """A clip of numbered pictures. `times_ms` gives every picture its own time; `colour` is (primaries, transfer,
    matrix, range)."""
    width, height = size
    time_base = Fraction(1, 1000) if times_ms else 1 / rate
    with av.open(str(path), "w", format=container, container_options=muxer or {}) as output:
        output.metadata.update(file_metadata or {})
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = time_base
        stream.options = {"log-level": "none", **(options or {})} if codec == "libx265" else dict(options or {})
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none:" + (options or {}).get("x265-params", "")}
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if colour:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = colour
        if rotation_deg is not None:
            stream.set_display_rotation(rotation_deg)
        stream.metadata.update(metadata or {})
        tracks = [_add_sound(output, **sound) for sound in sounds or []]
        planar = planar_format(pixel_format) or frame_format(pixel_format)
        for number in range(count):
            picture = picture_of(numbered_planes(number, width, height, planar.name), planar)
            if planar.name != pixel_format:
                picture = picture.reformat(format=pixel_format)
            picture.pts, picture.time_base = times_ms[number] if times_ms else number, time_base
            for packet in stream.encode(picture):
                output.mux(packet)
        output.mux(stream.encode(None))
        duration_s = Fraction(times_ms[-1] + 40, 1000) if times_ms else count / rate
        for track, sound in zip(tracks, sounds or [], strict=True):
            _write_sound(output, track, sound, duration_s)
    return path


def _add_sound(output, codec: str = "pcm_s16le", rate: int = 48000, layout: str = "stereo", language: str | None = None, **_):
    track = output.add_stream(codec, rate=rate, layout=layout)
    if language:
        track.metadata["language"] = language
    return track


def sample_values(start: int, count: int, channels: int) -> np.ndarray:
    """[channels, count] int16: sample k of channel c is k * 7 + c, wrapped."""
    k = np.arange(start, start + count)
    return np.stack([(k * 7 + channel) % 20000 - 10000 for channel in range(channels)]).astype(np.int16)


def _write_sound(output, track, sound: dict[str, Any], duration_s: Fraction) -> None:
    rate = sound.get("rate", 48000)
    channels = track.codec_context.layout.nb_channels
    total, place = int(duration_s * rate), 0
    while place < total:
        count = min(1024, total - place)
        values = sample_values(place, count, channels)
        frame = av.AudioFrame.from_ndarray(values.T.reshape(1, -1).copy(), format="s16", layout=track.codec_context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, place, Fraction(1, rate)
        output.mux(track.encode(frame))
        place += count
    output.mux(track.encode(None))


def pass_through(
    source: Path | str,
    output: Path | str,
    render_range: FrameRange | None = None,
    chunk: int = 4,
    settings: OutputSettings | None = None,
    overwrite: bool = False,
    sequence_rate: Fraction | None = None,
) -> list[str]:
    """Decode and encode without a change, in segments of `chunk` frames, as a render does. Returns the notes of
    `assemble`."""
    output = Path(output)
    with open_source(str(source), sequence_rate) as opened:
        info = opened.info
        encoding = resolve_encoding(info, str(output), settings or OutputSettings(), overwrite)
        render_range = render_range or info.clip.available_range
        segments = []
        for piece in render_range.chunks(chunk):
            segment = output.parent / f"segment-{piece.start}"
            writer = SegmentWriter(segment, info, encoding)
            for frame in opened.frames(piece):
                writer.write(frame)
            writer.close()
            segments.append(segment)
        notes = assemble(segments, str(output), info, encoding, render_range, overwrite)
        for segment in segments:
            shutil.rmtree(segment) if segment.is_dir() else segment.unlink()
        return notes


def numbers_in(path: Path | str) -> list[int]:
    with open_source(str(path)) as source:
        return [number_of(frame) for frame in source.frames(source.info.clip.available_range)]


def ffprobe(path: Path | str) -> dict[str, Any] | None:
    """What ffprobe, an implementation other than the one under test, says of a file; None where it is not installed."""
    program = shutil.which("ffprobe")
    if program is None:
        return None
    command = [program, "-v", "error", "-print_format", "json", "-show_streams", "-show_format", "-count_packets", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def sound_of(path: Path | str, track: int = 0) -> tuple[np.ndarray, Fraction]:
    """([channels, n] samples of an audio track, time of the first one in s)."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        frames = list(container.decode(stream))
        channels = stream.codec_context.layout.nb_channels
        blocks = [frame.to_ndarray() for frame in frames]
        samples = [block if block.shape[0] == channels else block.reshape(-1, channels).T for block in blocks]
        return np.concatenate(samples, axis=1), frames[0].pts * Fraction(frames[0].time_base)
