# SPDX-License-Identifier: Apache-2.0
"""Pictures into files: decide how, write durable pieces (`SegmentWriter`), join them with the sound (`assemble`)."""

from vs3r_engine.media.assembly import assemble
from vs3r_engine.media.codecs import Encoding, check_output, resolve_encoding
from vs3r_engine.media.segments import SegmentWriter

__all__ = ["Encoding", "SegmentWriter", "assemble", "check_output", "resolve_encoding"]
