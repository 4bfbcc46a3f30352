# SPDX-License-Identifier: Apache-2.0
"""Pictures out of files: what a file holds (`probe`), and its frames by exact presentation time (`open_source`)."""

from fractions import Fraction

from vs3r_engine.media import raw_frames, raw_source, sequence, video_file
from vs3r_engine.media.info import MediaInfo
from vs3r_engine.media.source import VideoSource

__all__ = ["MediaInfo", "VideoSource", "open_source", "probe"]


def probe(path: str, sequence_rate: Fraction | None = None) -> MediaInfo:
    """What the file, folder or image sequence at `path` holds. sequence_rate: as of `open_source`.

    Raises: MediaError `media-missing`, `media-empty`, `media-unreadable`, `media-not-video`, `media-truncated`,
    `media-interlaced`, `media-too-small`, `media-pixel-format`, `media-gap`.
    """
    with open_source(path, sequence_rate) as source:
        return source.info


def open_source(path: str, sequence_rate: Fraction | None = None) -> VideoSource:
    """The clip at `path`, ready to hand out frames: a file, any file of an image sequence, name.%04d.exr,
    name.[0001-0100].exr, or a folder that holds one sequence. Close it, or use it in a `with`. Raises: as `probe`.

    sequence_rate: the rate of an image sequence, whatever its files say. The times of any other file stand.
    """
    if raw_frames.is_raw_frames(path):
        return raw_source.RawFramesSource(path)
    found = sequence.find(path)
    return video_file.FileSource(path) if found is None else sequence.SequenceSource(found, sequence_rate)
