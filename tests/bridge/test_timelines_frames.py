# SPDX-License-Identifier: Apache-2.0
"""Frame accuracy, end to end with the real engine: numbers burnt into the media are read back from what an edit shows."""

import contextlib
import json
from fractions import Fraction

import opentimelineio as otio
import pytest
import typer
from opentimelineio.opentime import RationalTime, TimeRange
from typer.testing import CliRunner

from host_bridge.launcher import Launcher
from host_bridge.timeline_cli import timeline_command
from host_bridge.timeline_engine import TimelineEngine
from host_bridge.timelines.plan import KEY
from host_bridge.timelines.walk import video_clips
from tests.bridge.numbered_media import numbers, write_images, write_movie
from tests.fakes.engine_process import EngineProcess
from tests.fakes.local_engine import LocalEngine
from vs3r_engine.media import decode
from vs3r_engine.service.rendezvous import connection_file
from vs3r_engine.timeline import frame_count_of_timecode

NTSC_FILM, NTSC = Fraction(24000, 1001), Fraction(30000, 1001)


def run_command(engine, *arguments: str):
    app = typer.Typer()
    app.command()(timeline_command(lambda endpoint: contextlib.nullcontext(engine)))
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def cut(path: str, rate: float, first: int, length: int) -> otio.schema.Timeline:
    """A dissolve between two parts of the media, a clip at 200 %, one at -100 %, a gap, and one frozen frame."""

    def shot(start, duration, *effects):
        reference = otio.schema.ExternalReference(target_url=path, available_range=span(first, length))
        return otio.schema.Clip(
            name=f"from {start}", media_reference=reference, source_range=span(first + start, duration), effects=list(effects)
        )

    def span(start, duration):
        return TimeRange(RationalTime(start, rate), RationalTime(duration, rate))

    timeline = otio.schema.Timeline(name="cut", global_start_time=RationalTime(first, rate))
    timeline.tracks.append(
        otio.schema.Track(
            name="V",
            children=[
                shot(20, 14),
                otio.schema.Transition(transition_type="SMPTE_Dissolve", in_offset=RationalTime(3, rate), out_offset=RationalTime(4, rate)),
                shot(60, 14),
                shot(90, 10, otio.schema.LinearTimeWarp(time_scalar=2)),
                otio.schema.Gap(source_range=span(0, 5)),
                shot(150, 12, otio.schema.LinearTimeWarp(time_scalar=-1)),
                shot(170, 6, otio.schema.FreezeFrame()),
            ],
        )
    )
    return timeline


def speed(clip) -> float:
    return next((effect.time_scalar for effect in clip.effects if isinstance(effect, otio.schema.LinearTimeWarp)), 1)


@pytest.mark.parametrize(
    ("rate", "written", "timecode"),
    [
        (NTSC_FILM, 23.976, "01:00:00:00"),
        pytest.param(NTSC, 29.97, "01:00:00;00", marks=pytest.mark.release),
        pytest.param(NTSC, 30000 / 1001, None, marks=pytest.mark.release),
        pytest.param(Fraction(50), 50.0, "10:11:12:13", marks=pytest.mark.release),
    ],
)
def test_every_frame_of_a_stabilized_edit_sits_at_its_own_place(tmp_path, rate, written, timecode):
    path = write_movie(tmp_path / "numbered.mov", 190, rate, timecode)
    first = frame_count_of_timecode(timecode, rate) if timecode else 0
    otio.adapters.write_to_file(cut(path, written, first, 190), str(tmp_path / "cut.otio"))
    result = run_command(
        LocalEngine(tmp_path / "store"), str(tmp_path / "cut.otio"), "-o", str(tmp_path / "cut.vs3r.otio"), "--handles", "2", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["type"] == "result"

    before, after = (otio.adapters.read_from_file(str(tmp_path / name)) for name in ("cut.otio", "cut.vs3r.otio"))
    read = {}
    held = []
    for was, place in zip(video_clips(before), video_clips(after), strict=True):
        clip = place.clip
        reference = clip.media_references()[KEY]
        stabilized = read.setdefault(reference.target_url, numbers(reference.target_url))
        info = decode.probe(reference.target_url)
        start = int(reference.available_range.start_time.value)
        held.append((start - first, len(stabilized)))
        assert info.clip.rate == rate and len(stabilized) == reference.available_range.duration.value
        assert stabilized == list(range(start - first, start - first + len(stabilized))), "each frame is its own, none twice, none missing"
        if timecode:
            assert frame_count_of_timecode(info.start_timecode, rate) == start, "the file itself counts on the same clock"
            assert (";" in info.start_timecode) == (";" in timecode)

        # What an editor shows at each frame of the clip, transitions included, from either media.
        head, tail = (int(offset.value) if offset else 0 for offset in was.clip.parent().handles_of_child(was.clip))
        in_point = int(clip.source_range.start_time.value)
        for shown in range(-head, int(clip.source_range.duration.value) + tail):
            media_time = in_point + shown * speed(clip)
            assert stabilized[int(media_time) - start] == media_time - first
    # (first frame, frames): source range, what the dissolve shows, two handles; the reversed clip in both readings.
    assert held == [(18, 14 + 4 + 4), (55, 14 + 3 + 4), (88, 20 + 4), (137, 23 + 4), (168, 1 + 4)]


def test_images_that_tell_no_rate_keep_the_edits_through_the_wire_and_every_frame_its_place(tmp_path):
    """PNG at 25 beside a movie whose own rate stands, with the real engine in its own process."""
    write_images(tmp_path, 60, 1001)
    movie = write_movie(tmp_path / "numbered.mov", 40, NTSC)

    def span(start, duration, rate=25.0):
        return TimeRange(RationalTime(start, rate), RationalTime(duration, rate))

    images = otio.schema.ImageSequenceReference(str(tmp_path), "shot.", ".png", 1001, 1, 25.0, 4, available_range=span(1001, 60))
    file = otio.schema.ExternalReference(movie, span(0, 40, 29.97))
    timeline = otio.schema.Timeline(name="cut")
    timeline.tracks.append(
        otio.schema.Track(
            children=[
                otio.schema.Clip("images", images, span(1001 + 20, 12)),
                otio.schema.Clip("file", file, span(7, 5, 29.97)),
            ]
        )
    )
    otio.adapters.write_to_file(timeline, str(tmp_path / "cut.otio"))
    with EngineProcess(pipeline="vs3r_engine.pipeline") as process:
        engine = TimelineEngine(Launcher(endpoint_file=connection_file(process.directory)))
        words = (str(tmp_path / "cut.otio"), "-o", str(tmp_path / "out.otio"), "--handles", "2", "--json")
        result = run_command(engine, *words)
        assert result.exit_code == 0, result.output

    after = otio.adapters.read_from_file(str(tmp_path / "out.otio"))
    stabilized = [place.clip.media_references()[KEY] for place in video_clips(after)]
    assert stabilized[0].available_range == span(1001 + 18, 12 + 4) and stabilized[1].available_range == span(5, 5 + 4, 29.97)
    for reference, rate, first in zip(stabilized, (Fraction(25), NTSC), (18, 5), strict=True):
        info = decode.probe(reference.target_url)
        assert info.clip.rate == rate and not info.is_variable_rate
        assert numbers(reference.target_url) == list(range(first, first + info.frame_count)), "each frame is its own"
