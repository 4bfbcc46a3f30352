# SPDX-License-Identifier: Apache-2.0
"""Whatever the edit: only the stabilized clips' media changes, and it can be taken out again."""

import opentimelineio as otio
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from opentimelineio.opentime import RationalTime, TimeRange

from host_bridge.timelines.apply import reverted, with_results
from host_bridge.timelines.media_search import MediaSearch
from host_bridge.timelines.plan import KEY, Options, plan
from host_bridge.timelines.run import run
from host_bridge.timelines.walk import at, video_clips
from tests.bridge.timeline_strategies import MEDIA_FRAMES, RATES, edits
from tests.fakes.timeline_engine import TimelineEngine
from vs3r_engine.errors import InputError
from vs3r_engine.timeline import exact_rate

CHECKS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(engine, media): a file for every rate, at timecode 0, at 01:00:00:00 told by the file, and counted from 5000 by the edit alone."""
    folder = tmp_path_factory.mktemp("media")
    engine, media = TimelineEngine(), []
    for index, rate in enumerate(RATES):
        for what, timecode, first in (("zero", None, 0), ("hour", "01:00:00:00", round(exact_rate(rate)) * 3600)):
            path = engine.add(str(folder / f"{what} {index}.mov"), MEDIA_FRAMES, exact_rate(rate), timecode)
            media.append((path, rate, first))
    return engine, media


def outcome_of(generator):
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


def planned(world, edit, tmp_path, **options):
    engine, _ = world
    try:
        return plan(edit, Options(media_dir=str(tmp_path / "out"), **options), MediaSearch(str(tmp_path)), engine.probe)
    except InputError as error:
        assume(error.code not in ("no-clips", "no-media"))
        raise


def text(item) -> str:
    return item.to_json_string(indent=0)


@CHECKS
@given(data=st.data(), handles=st.integers(0, 20))
def test_only_the_media_of_stabilized_clips_changes_and_reverting_gives_the_input(world, tmp_path_factory, data, handles):
    tmp_path = tmp_path_factory.mktemp("run")
    edit = data.draw(edits(world[1]))
    before = text(edit)
    work = planned(world, edit, tmp_path, handles=handles)
    stabilized = with_results(edit, work, outcome_of(run(work, world[0])).results, str(tmp_path))

    assert text(edit) == before, "planning and writing back leave their input alone"
    for each in work.clips:
        now, was = at(stabilized, each.place.steps), at(edit, each.place.steps)
        assert now.active_media_reference_key == KEY
        assert now.trimmed_range_in_parent() == was.trimmed_range_in_parent() if isinstance(was.parent(), otio.schema.Track) else True
        assert now.trimmed_range() == was.trimmed_range() and now.duration() == was.duration()
        references = now.media_references()
        del references[KEY]
        now.set_media_references(references, was.active_media_reference_key)
    assert text(stabilized) == before, "nothing but the VS3R reference and the active key differs"


@CHECKS
@given(data=st.data())
def test_reverting_and_running_again_give_the_same_bytes(world, tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("run")
    edit = data.draw(edits(world[1]))
    work = planned(world, edit, tmp_path)
    once = with_results(edit, work, outcome_of(run(work, world[0])).results, str(tmp_path))
    assert text(reverted(once)) == text(edit)

    again = planned(world, once, tmp_path)
    assert {each.state for each in again.clips} == {"finished"}, "an earlier run's files are taken"
    assert text(with_results(once, again, outcome_of(run(again, world[0])).results, str(tmp_path))) == text(once)
    unchanged = planned(world, once, tmp_path, only_changed=True)
    assert {each.state for each in unchanged.clips} == {"unchanged"}


@CHECKS
@given(data=st.data(), handles=st.integers(0, 9))
def test_every_frame_that_a_clip_and_its_transitions_show_is_rendered_and_lies_where_the_original_had_it(
    world, tmp_path_factory, data, handles
):
    tmp_path = tmp_path_factory.mktemp("run")
    edit = data.draw(edits(world[1]))
    work = planned(world, edit, tmp_path, handles=handles)
    stabilized = with_results(edit, work, outcome_of(run(work, world[0])).results, str(tmp_path))
    for each in work.clips:
        clip = at(stabilized, each.place.steps)
        job, held = each.job, clip.media_reference.available_range
        assert job.analysis_range.contains_range(job.render_range)
        assert job.clip.available_range.contains_range(job.analysis_range)
        assert held.duration.value == job.render_range.duration
        assert held.start_time.value == each.media.origin_frames + job.render_range.start
        if clip.source_range is None:
            continue
        speed = 1.0
        for effect in clip.effects:
            speed *= effect.time_scalar if isinstance(effect, otio.schema.LinearTimeWarp) else 1
        if any(
            isinstance(effect, otio.schema.TimeEffect) and not isinstance(effect, otio.schema.LinearTimeWarp) for effect in clip.effects
        ):
            assert job.render_range == job.clip.available_range
            continue
        first = clip.source_range.start_time.value - each.media.origin_frames
        shown = [first + k * speed for k in range(int(clip.source_range.duration.value))]  # each is a sum of two exact numbers
        assert job.render_range.start <= min(shown) and max(shown) < job.render_range.end_exclusive
        if speed == 1:
            head, tail = clip.parent().handles_of_child(clip) if isinstance(clip.parent(), otio.schema.Track) else (None, None)
            rate = exact_rate(clip.source_range.duration.rate)
            before = 0 if head is None else -(-int(head.value) * rate // 24)
            after = 0 if tail is None else -(-int(tail.value) * rate // 24)
            assert job.render_range.start == max(0, first - before - handles)
            assert job.render_range.end_exclusive == min(MEDIA_FRAMES, first + len(shown) + after + handles)


@CHECKS
@given(data=st.data())
def test_a_failed_clip_stays_on_its_original_media(world, tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("run")
    edit = data.draw(edits(world[1]))
    work = planned(world, edit, tmp_path)
    failing = data.draw(st.sampled_from(work.jobs)).job_id
    results = {
        job.job_id: result for job in work.jobs if job.job_id != failing for result in [outcome_of(run(work, world[0])).results[job.job_id]]
    }
    half = with_results(edit, work, results, str(tmp_path))
    for each in work.clips:
        if each.job.job_id == failing:
            assert text(at(half, each.place.steps)) == text(at(edit, each.place.steps))


def test_a_clip_without_a_source_range_keeps_its_length_though_its_media_is_spelled_in_another_rate(tmp_path):
    engine = TimelineEngine()
    path = engine.add(str(tmp_path / "fifty.mov"), 999, exact_rate(50.0))
    stated = TimeRange(RationalTime(0, 25), RationalTime(499.5, 25))
    edit = otio.schema.Timeline()
    edit.tracks.append(otio.schema.Track(children=[otio.schema.Clip(media_reference=otio.schema.ExternalReference(path, stated))]))
    work = planned((engine, []), edit, tmp_path, handles=5)
    stabilized = with_results(edit, work, outcome_of(run(work, engine)).results, str(tmp_path))
    (clip,) = stabilized.find_clips()
    assert clip.active_media_reference_key == KEY and clip.media_reference.available_range == stated
    assert clip.media_reference.available_range.duration.rate == 25 and stabilized.duration() == edit.duration()
    assert str(work.jobs[0].render_range) == "0..999"


def test_walk_numbers_the_clips_of_video_tracks_only():
    timeline = otio.schema.Timeline()
    for name, kind in (("A", "Audio"), ("B", "Video"), ("C", "Video")):
        track = otio.schema.Track(name=name, kind=kind)
        track.append(otio.schema.Clip(name=f"in {name}"))
        timeline.tracks.append(track)
    assert [(place.number, place.track, place.track_name, place.clip.name) for place in video_clips(timeline)] == [
        (1, "V1", "B", "in B"),
        (2, "V2", "C", "in C"),
    ]
    assert [at(timeline, place.steps).name for place in video_clips(timeline)] == ["in B", "in C"]
