# SPDX-License-Identifier: Apache-2.0
"""Which codec, pixel format and options an output gets: decided and tried before the first frame is touched."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av

from vs3r_engine.errors import MediaError
from vs3r_engine.frame import ColourTags, PixelLayout
from vs3r_engine.media import sequence
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.pixel_formats import PlanarFormat, frame_format, planar_format
from vs3r_engine.settings import OutputSettings
from vs3r_engine.timeline import FrameRange

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".mxf": "mxf"}
"""What a movie's suffix means to FFmpeg."""

IMAGE_CODECS = {".exr": "exr", ".png": "png", ".tif": "tiff", ".tiff": "tiff", ".dpx": "dpx"}
"""What an image's suffix means to us."""

_CONTAINER_HOLDS = {
    "mp4": ("h264", "h265"),
    "mov": ("h264", "h265", "prores", "prores-hq", "prores-4444", "dnxhr"),
    "matroska": ("h264", "h265", "prores", "prores-hq", "prores-4444", "ffv1"),
    "mxf": ("prores", "prores-hq", "prores-4444", "dnxhr"),
}
_ENCODERS = {
    "h264": "libx264",
    "h265": "libx265",
    "prores": "prores_aw",
    "prores-hq": "prores_aw",
    "prores-4444": "prores_aw",
    "dnxhr": "dnxhd",
    "ffv1": "ffv1",
    "exr": "exr",
    "png": "png",
    "tiff": "tiff",
    "dpx": "dpx",
}
# prores_aw, not prores_ks: at 720p HQ it took 37 against 105 ms a frame and came 2.4 dB closer to the source at 1.13
# times the size; at 422, 30 against 100 ms and 1.6 dB closer at the same size; its alpha is exact, prores_ks's is not
# (FFmpeg 8, 12 real frames).
MXF_RATES = (24, 25, 30, 48, 50, 60, 100, 120, *(Fraction(nominal * 1000, 1001) for nominal in (24, 30, 48, 60)))
"""What FFmpeg's MXF muxer takes and gives back."""
_PRORES_TAGS = ("apco", "apcs", "apcn", "apch", "ap4h", "ap4x")
_PRORES_PROFILES = {"Proxy": 0, "LT": 1, "Standard": 2, "HQ": 3, "4444": 4, "XQ": 5}

_MOST_NAME_BYTES = 230
"""File systems take 255; what lies beside an output, or becomes it, has up to 25 more."""

# libx264 and libx265 give other bits with another number of frame threads. A fixed number makes equal inputs give equal
# files on every machine of a farm.
_X264_THREADS = 4
_X265_FRAME_THREADS = 2

# x265 holds every picture it looks ahead at: 49 MB each at 3840x2160. 10 instead of 15 took 247 of 2456 MB and 2 % of the
# time; the file came out 1.5 % smaller and 0.05 dB further from its source (60 real frames, 10 bit).
_X265_LOOKAHEAD_FRAMES = 10
_LARGE_PX = 4_000_000


@dataclass(frozen=True, slots=True)
class Encoding:
    """How frames become an output: decided, tried out, and the same for every segment of a render.

    `codec` is the setting's word, `encoder` FFmpeg's. `format` is what frames are turned into where their layout is
    another one; `encoder_format` is how the encoder wants it packed. `container` is FFmpeg's, or "sequence". `notes`
    say what the output cannot keep of its source.
    """

    codec: str
    encoder: str
    container: str
    format: PlanarFormat
    encoder_format: str
    colour: ColourTags
    options: Mapping[str, str] = field(default_factory=dict)
    codec_tag: str | None = None
    copies_streams: bool = True
    notes: tuple[str, ...] = ()
    files: "sequence.SequenceName | None" = None

    @property
    def is_sequence(self) -> bool:
        return self.container == "sequence"

    @property
    def segment_format(self) -> str:
        """The container of a segment: MOV counts frames exactly, Matroska alone holds FFV1."""
        return "matroska" if self.codec == "ffv1" else "mov"


def resolve_encoding(info: MediaInfo, output_path: str, settings: OutputSettings, overwrite: bool = False) -> Encoding:
    """The encoding of `info`'s clip into `output_path`, whose suffix chooses the container or the kind of image.

    With codec "auto" the source's own codec and depth where the container holds them, else the nearest that loses no
    depth.

    Raises: MediaError `output-suffix`, `output-codec`, `output-rate`, `output-depth`, `output-alpha`,
    `output-unwritable`, `output-is-source`, `output-exists`.
    """
    suffix = Path(output_path).suffix.lower()
    if suffix not in CONTAINERS and suffix not in IMAGE_CODECS:
        raise MediaError(
            "output-suffix",
            f"{output_path}: nothing can be written as {suffix or 'a file without a suffix'}.",
            f"End the name in {', '.join([*CONTAINERS, *IMAGE_CODECS])}.",
        )
    check_output(info, output_path, overwrite)
    if suffix in IMAGE_CODECS:
        return _resolve_images(info, output_path, IMAGE_CODECS[suffix], settings)
    container = CONTAINERS[suffix]
    if container == "mxf" and (info.is_variable_rate or info.clip.rate not in MXF_RATES):
        rate = "a variable rate" if info.is_variable_rate else f"{float(info.clip.rate):g} frames per second"
        raise MediaError("output-rate", f"{info.clip.path} has {rate}, which mxf does not hold.", "End the output's name in .mov or .mkv.")
    if settings.codec in IMAGE_CODECS.values():
        raise MediaError(
            "output-codec",
            f"{settings.codec} is written as an image sequence, not as {suffix}.",
            f"End the output's name in .{settings.codec}, or choose another codec.",
        )
    if settings.codec != "auto":
        if settings.codec not in _CONTAINER_HOLDS[container]:
            holders = [s for s, c in CONTAINERS.items() if settings.codec in _CONTAINER_HOLDS[c]]
            raise MediaError(
                "output-codec", f"{settings.codec} cannot be stored as {suffix}.", f"End the output's name in {' or '.join(holders)}."
            )
        return _tried(info, _encoding(info, settings.codec, container, settings), output_path)
    refusals: list[MediaError] = []
    for codec in _automatic(info, container):
        try:
            found = _tried(info, _encoding(info, codec, container, settings), output_path)
        except MediaError as error:
            refusals.append(error)
            continue
        if _own_codec(info) == codec:
            return found
        why = f": {refusals[0].message}" if refusals else "."
        return replace(found, notes=(f"The source's {info.codec} is written as {codec}{why}", *found.notes))
    raise refusals[0]


def _automatic(info: MediaInfo, container: str) -> Iterator[str]:
    """Codecs to try, best first: the source's own, then what keeps its depth."""
    holds = _CONTAINER_HOLDS[container]
    layout = info.layout
    is_444 = layout.model == "rgb" or layout.has_alpha or (layout.model == "yuv" and not layout.chroma_shift_x)
    own = _own_codec(info)
    deep = ["ffv1", "h265", "dnxhr", "prores-4444"]
    if container == "mov":
        deep = ["prores-4444" if is_444 else "prores-hq", "h265"]
    order = [own] if own else []
    order += [*deep, "h264"] if layout.bit_depth > 8 or layout.has_alpha else ["h264", "h265", *deep]
    yield from (codec for codec in dict.fromkeys(order) if codec in holds)


def _own_codec(info: MediaInfo) -> str | None:
    if info.codec == "prores":
        return "prores-4444" if _prores_profile(info) >= 4 else "prores-hq" if _prores_profile(info) == 3 else "prores"
    return {"h264": "h264", "hevc": "h265", "dnxhd": "dnxhr", "ffv1": "ffv1"}.get(info.codec)


def _prores_profile(info: MediaInfo) -> int:
    return _PRORES_PROFILES.get(info.profile or "", 3)


def _encoding(info: MediaInfo, codec: str, container: str, settings: OutputSettings) -> Encoding:
    clip, notes = info.clip, []
    encoder = _ENCODERS[codec]
    if encoder == "prores_aw" and clip.width % 2:
        encoder = "prores_ks"  # the other one takes even widths only
    encoder_format = _choose_format(info, codec, encoder)
    if encoder == "prores_ks" and encoder_format == "yuv422p10le" and clip.width % 16 == 1:
        # Its last column of chroma, alone in its block, comes out in colours of its own.
        raise _refused_size(info, codec, encoder_format)
    format = frame_format(encoder_format)
    colour = _output_colour(info, format.layout)
    options: dict[str, str] = {}
    tag = None
    if codec == "h264":
        params = [*_hdr_parameters(info, "mastering-display", "cll"), *_steady_x264()]
        options = {"preset": settings.speed, "crf": f"{settings.crf:g}", "threads": str(_X264_THREADS), "x264-params": ":".join(params)}
        tag = "avc1" if container in ("mp4", "mov") else None
    elif codec == "h265":
        params = [
            "log-level=none",
            "open-gop=0",
            f"frame-threads={_X265_FRAME_THREADS}",
            *_hdr_parameters(info, "master-display", "max-cll"),
        ]
        if clip.width * clip.height > _LARGE_PX and settings.speed not in ("ultrafast", "superfast"):  # which look no further
            params.append(f"rc-lookahead={_X265_LOOKAHEAD_FRAMES}")
        options = {"preset": settings.speed, "crf": f"{settings.crf:g}", "x265-params": ":".join(params)}
        tag = "hvc1" if container in ("mp4", "mov") else None
    elif encoder.startswith("prores"):
        own = info.codec == "prores" and settings.codec == "auto"
        profile = _prores_profile(info) if own else {"prores": 2, "prores-hq": 3, "prores-4444": 4}[codec]
        options = {"profile": str(profile), "vendor": "apl0"}
        tag = _PRORES_TAGS[profile]
    elif codec == "dnxhr":
        options = {"profile": _dnxhr_profile(info, format.layout, settings)}
    elif codec == "ffv1":
        options = {"level": "3", "slicecrc": "1", "g": "1"}
        if _divides(format.layout, clip.width, clip.height):  # FFV1 cannot cut odd chroma planes as it likes
            options["slices"] = "16"
    if codec == "dnxhr" and container == "mxf" and info.pixel_aspect != 1:
        notes.append(f"The pixel aspect {info.pixel_aspect} is not stored in dnxhr in mxf.")
    if format.layout.bit_depth < info.layout.bit_depth:
        notes.append(f"{codec} is written with {format.layout.bit_depth} bits; the source has {info.layout.bit_depth}.")
    if format.layout.model == "yuv" and info.layout.model == "rgb":
        notes.append(f"RGB is stored as {encoder_format}.")
    return Encoding(codec, encoder, container, format, encoder_format, colour, options, tag, settings.audio, tuple(notes))


def _dnxhr_profile(info: MediaInfo, layout: PixelLayout, settings: OutputSettings) -> str:
    if layout.model == "rgb" or not layout.chroma_shift_x:
        return "dnxhr_444"
    if layout.bit_depth > 8:
        return "dnxhr_hqx"
    kept = {"DNXHR SQ": "dnxhr_sq", "DNXHR LB": "dnxhr_lb"}.get(info.profile or "")
    return kept if kept and settings.codec == "auto" else "dnxhr_hq"


def _choose_format(info: MediaInfo, codec: str, encoder: str) -> str:
    """The encoder's pixel format that keeps most of the source's layout.

    Raises: MediaError `output-depth`, `output-alpha`: neither depth nor alpha is lost without being asked for.
    """
    source = info.layout
    offered = [format.name for format in av.Codec(encoder, "w").video_formats or ()]
    # The full-range twins differ in name only; the range is a tag.
    offered = [name for name in offered if not name.startswith(("yuvj", "nv", "pal", "mono", "ya")) and "f16" not in name]
    if codec in ("h264", "h265"):
        offered = [
            name
            for name in offered
            if not name.startswith(("gbr", "yuva")) and _divides(frame_format(name).layout, info.clip.width, info.clip.height)
        ]
    elif codec == "tiff":  # FFmpeg cannot read what it writes of chroma rows that reach past the picture
        offered = [name for name in offered if _divides(frame_format(name).layout, info.clip.width, info.clip.height)]
    elif codec in ("prores", "prores-hq"):
        offered = ["yuv422p10le"]
    elif codec == "ffv1":
        # FFV1's floats need its experimental version 4.
        offered = [name for name in offered if frame_format(name).layout.bit_depth < 32]
    elif codec == "prores-4444":
        offered = ["yuva444p10le"] if source.has_alpha else ["yuv444p10le"]
    layouts = {name: frame_format(name).layout for name in offered}
    # FFmpeg's ProRes 4444 encoders take 10 bits; its decoder gives 12. The rounding is far below what the codec itself
    # loses.
    needed_bits = min(source.bit_depth, 10) if codec == "prores-4444" and source.bit_depth == 12 else source.bit_depth
    deep = {name: layout for name, layout in layouts.items() if layout.bit_depth >= needed_bits}
    if not deep:
        kind = "float" if source.bit_depth == 32 else f"{source.bit_depth}-bit"
        most = max((layout.bit_depth for layout in layouts.values()), default=0)
        raise MediaError(
            "output-depth",
            f"{info.clip.path} is {kind}, but {codec} holds {most} bits at most.",
            "Choose an EXR sequence." if source.bit_depth == 32 else "Choose ffv1 in .mkv, or an image sequence such as .dpx or .tiff.",
        )
    if source.has_alpha:
        deep = {name: layout for name, layout in deep.items() if layout.has_alpha}
        if not deep:
            raise MediaError(
                "output-alpha",
                f"{info.clip.path} has an alpha channel, which {codec} does not hold.",
                "Choose prores-4444, or a .png, .tiff or .exr sequence.",
            )
    prefers_420 = codec in ("h264", "h265") and source.model == "rgb"

    def cost(name: str) -> tuple[int, ...]:
        layout = deep[name]
        shifts = ((layout.chroma_shift_x - source.chroma_shift_x), (layout.chroma_shift_y - source.chroma_shift_y))
        loss, excess = sum(max(0, shift) for shift in shifts), sum(max(0, -shift) for shift in shifts)
        if prefers_420:  # what every player shows
            loss = 2 - layout.chroma_shift_x - layout.chroma_shift_y
        keeps_colour = 2 if layout.model == "gray" and source.model != "gray" else int(layout.model != source.model)
        return (
            keeps_colour,
            loss if layout.model != "gray" else 0,
            layout.bit_depth - source.bit_depth,
            int(layout.has_alpha) - int(source.has_alpha),
            excess,
            int(planar_format(name) is None),
            offered.index(name),
        )

    return min(deep, key=cost)


def _divides(layout: PixelLayout, width: int, height: int) -> bool:
    return width % (1 << layout.chroma_shift_x) == 0 and height % (1 << layout.chroma_shift_y) == 0


def _output_colour(info: MediaInfo, layout: PixelLayout) -> ColourTags:
    """The source's tags; where RGB becomes YUV, BT.709 at video levels; where YUV becomes RGB, full range."""
    source = info.colour
    if layout.model == "yuv" and info.layout.model != "yuv":
        return ColourTags(source.primaries, source.transfer, 1 if source.matrix in (0, 2) else source.matrix, False)
    if layout.model != "yuv" and info.layout.model == "yuv":
        return ColourTags(source.primaries, source.transfer, 0, True)
    return source


def _hdr_parameters(info: MediaInfo, display_name: str, light_name: str) -> list[str]:
    """HDR metadata in the words of x264 and x265: chromaticities in 1/50000, luminance in 1/10000 cd/m2."""
    parameters = []
    display, light = info.mastering_display, info.content_light
    if display is not None and display.primaries_rgb and display.white and display.luminance:
        points = (*display.primaries_rgb, display.white)
        red, green, blue, white = (f"({round(x * 50000)},{round(y * 50000)})" for x, y in points)
        low, high = (round(value * 10000) for value in display.luminance)
        parameters.append(f"{display_name}=G{green}B{blue}R{red}WP{white}L({high},{low})")
    if light is not None:
        parameters.append(f"{light_name}={light.max_content},{light.max_frame_average}")
    return parameters


def _resolve_images(info: MediaInfo, output_path: str, codec: str, settings: OutputSettings) -> Encoding:
    if settings.codec not in ("auto", codec):
        raise MediaError(
            "output-codec",
            f"{settings.codec} cannot be stored as {Path(output_path).suffix}.",
            f"Leave the codec at auto, or end the output's name in .{settings.codec}.",
        )
    encoder_format = _choose_format(info, codec, codec)
    format = frame_format(encoder_format)
    options = {"tiff": {"compression_algo": "deflate"}, "png": {"pred": "up"}}.get(codec, {})
    if codec == "exr":
        is_half = info.profile == "half" if info.codec == "exr" else info.layout.bit_depth <= 10
        options = {"format": "half" if is_half else "float", "compression": "zip16"}
    has_sound = settings.audio and any(stream.kind == "audio" for stream in info.streams)
    notes = ["Sound is not stored in an image sequence."] if has_sound else []
    encoding = Encoding(
        codec,
        codec,
        "sequence",
        format,
        encoder_format,
        _output_colour(info, format.layout),
        options,
        copies_streams=False,
        notes=tuple(notes),
        files=sequence.output_name(output_path, info),
    )
    return _tried(info, encoding, output_path)


def check_output(info: MediaInfo, output_path: str, overwrite: bool, render_range: FrameRange | None = None) -> None:
    """Nothing stands in the way of writing `output_path`. For an image sequence, that is every file of `render_range`.

    Raises: MediaError `output-is-source`, `output-exists`, `output-unwritable`.
    """
    folder = os.path.dirname(os.path.abspath(output_path))
    if not os.path.isdir(folder):
        raise MediaError("output-unwritable", f"The folder {folder} does not exist.", "Create it, or choose another folder.")
    if not os.access(folder, os.W_OK | os.X_OK) or os.path.isdir(output_path):
        raise MediaError("output-unwritable", f"{output_path} cannot be written.", "Choose another name, or a folder you may write to.")
    if len(os.fsencode(os.path.basename(output_path))) > _MOST_NAME_BYTES:
        raise MediaError("output-unwritable", f"{output_path} cannot be written: its name is too long.", "Choose a shorter name.")
    outputs, sources = [output_path], [info.clip.path]
    if Path(output_path).suffix.lower() in IMAGE_CODECS:
        name = sequence.output_name(output_path, info)
        outputs = [name.file(index) for index in render_range or info.clip.available_range]
    if info.sequence is not None:
        sources = [info.sequence.file(index) for index in info.clip.available_range]
    existing = [output for output in outputs if os.path.exists(output)]
    if existing:
        places = {(status.st_dev, status.st_ino) for status in map(os.stat, filter(os.path.exists, sources))}
        for output in existing:
            status = os.stat(output)
            if (status.st_dev, status.st_ino) in places:
                raise MediaError("output-is-source", f"{output} is the source itself.", "Choose another name for the result.")
        if not overwrite:
            raise MediaError("output-exists", f"{existing[0]} exists.", "Choose another name, or allow overwriting it.")


def _steady_x264() -> list[str]:
    """x264's AVX-512 macroblock tree reads memory that nobody wrote (seen with the build of PyAV 18.1, at 192x108 and
    848x480): equal frames then give different bytes. Its AVX2 code gives equal bytes, at the same speed within 2 %."""
    import cv2

    avx_512f = 13  # CPU_AVX_512F in OpenCV's list of processor features
    return ["asm=avx2"] if cv2.checkHardwareSupport(avx_512f) else []


def open_encoder(context, info: MediaInfo, encoding: Encoding) -> None:
    """Tell the codec context everything it has to know before it opens. Times count frames."""
    context.time_base = 1 / info.clip.rate
    context.width, context.height, context.pix_fmt = info.clip.width, info.clip.height, encoding.encoder_format
    context.framerate = info.clip.rate
    context.sample_aspect_ratio = info.pixel_aspect
    context.color_primaries, context.color_trc = encoding.colour.primaries, encoding.colour.transfer
    context.colorspace = encoding.colour.matrix if encoding.format.layout.model != "rgb" else 0
    is_stated = info.range_is_tagged or encoding.colour != info.colour
    context.color_range = (2 if encoding.colour.full_range else 1) if is_stated or encoding.colour.full_range else 0
    context.options = dict(encoding.options)
    context.thread_type = "AUTO"  # several pictures at a time; PyAV's default cuts every picture into slices


def _tried(info: MediaInfo, encoding: Encoding, output_path: str) -> Encoding:
    """`encoding`, after its encoder opened with this clip's size. Raises: MediaError `output-codec`."""
    context = av.CodecContext.create(encoding.encoder, "w")
    open_encoder(context, info, encoding)
    try:
        context.open()
    except (av.FFmpegError, ValueError) as error:
        raise _refused_size(info, encoding.codec, encoding.encoder_format) from error
    return encoding


def _refused_size(info: MediaInfo, codec: str, encoder_format: str) -> MediaError:
    size = f"{info.clip.width}x{info.clip.height}"
    return MediaError("output-codec", f"{codec} cannot hold {size} pictures as {encoder_format}.", "Choose another codec.")
