# SPDX-License-Identifier: Apache-2.0
"""Which clips, which frames, which files: the plan of a timeline."""

import os
import resource
import time
import unicodedata
from fractions import Fraction

import opentimelineio as otio
import pytest
from opentimelineio.opentime import RationalTime, TimeRange

from host_bridge.timelines.media_search import MediaSearch, fingerprint, sequence_pattern
from host_bridge.timelines.plan import Options, plan
from host_bridge.timelines.run import run
from host_bridge.timelines.walk import Selection
from tests.fakes.timeline_engine import TimelineEngine
from tests.synthetic_edit import settings_effect
from vs3r_engine.errors import Cancelled, InputError, MediaError, RangeError, SettingsError, VS3RError, WeightsMissing
from vs3r_engine.timeline import Clip, FrameRange


def span(start, duration, rate=24.0) -> TimeRange:
    return TimeRange(RationalTime(start, rate), RationalTime(duration, rate))


def shot(path, start, duration, name="shot", **more) -> otio.schema.Clip:
    return otio.schema.Clip(
        name=name,
        media_reference=otio.schema.ExternalReference(target_url=path, available_range=span(0, 1000)),
        source_range=span(start, duration),
        **more,
    )


def dissolve(before, after, rate=24.0) -> otio.schema.Transition:
    return otio.schema.Transition(
        transition_type="SMPTE_Dissolve", in_offset=RationalTime(before, rate), out_offset=RationalTime(after, rate)
    )


def edit(*tracks) -> otio.schema.Timeline:
    timeline = otio.schema.Timeline(name="cut")
    for number, children in enumerate(tracks, 1):
        timeline.tracks.append(otio.schema.Track(name=f"Video {number}", children=list(children)))
    return timeline


@pytest.fixture
def engine():
    return TimelineEngine()


@pytest.fixture
def media(engine, tmp_path):
    return engine.add(str(tmp_path / "a.mov"))


@pytest.fixture
def make(engine, tmp_path):
    """The plan of an edit, with options."""

    def make(timeline, search=(), **options):
        return plan(timeline, Options(media_dir=str(tmp_path / "out"), **options), MediaSearch(str(tmp_path), tuple(search)), engine.probe)

    return make


def ranges(work) -> list[str]:
    return [str(each.job.render_range) for each in work.clips]


def test_a_dissolve_takes_media_from_both_clips_and_handles_come_on_top(make, media):
    timeline = edit([shot(media, 100, 50), dissolve(5, 8), shot(media, 500, 50)])
    assert ranges(make(timeline)) == ["100..158", "495..550"]
    assert ranges(make(timeline, handles=10)) == ["90..168", "485..560"]
    assert ranges(make(timeline, handles=900)) == ["0..1000", "0..1000"], "no frames that do not exist"


def test_a_dissolve_on_a_fast_and_on_a_reversed_clip_takes_what_it_shows(make, media):
    fast = shot(media, 100, 50, effects=[otio.schema.LinearTimeWarp(time_scalar=2)])
    reversed_ = shot(media, 500, 50, effects=[otio.schema.LinearTimeWarp(time_scalar=-1)])
    assert ranges(make(edit([fast, dissolve(5, 8), shot(media, 800, 50)]))) == ["100..216", "795..850"]
    assert ranges(make(edit([shot(media, 10, 20), dissolve(5, 8), reversed_]))) == ["10..38", "451..555"]


def test_a_speed_that_is_switched_off_takes_no_frames_away_and_one_that_is_no_number_is_refused(make, media):
    slow = otio.schema.LinearTimeWarp(time_scalar=0.5)
    assert ranges(make(edit([shot(media, 100, 50, effects=[slow])]))) == ["100..125"]
    slow.enabled = False
    assert ranges(make(edit([shot(media, 100, 50, effects=[slow])]))) == ["100..150"]
    for speed in (float("nan"), float("inf")):
        with pytest.raises(RangeError, match="bad-speed"):
            make(edit([shot(media, 100, 50, effects=[otio.schema.LinearTimeWarp(time_scalar=speed)])]))


@pytest.mark.parametrize("previous", ["DEFAULT_MEDIA", "gone", ["no", "key"]])
def test_our_own_media_is_not_stabilized_again_where_the_original_is_gone(make, media, previous):
    """As in the timelines written for editors whose clips have one media reference."""
    clip = shot(media, 100, 50)
    clip.media_reference.metadata["vs3r"] = {"schema": 1, "previous_key": previous}
    with pytest.raises(MediaError, match=r"'shot' shows media that VS3R made.*original-missing"):
        make(edit([clip]))


def test_settings_that_are_no_object_are_refused(make, media):
    effect = settings_effect({})
    effect.metadata["vs3r"]["settings"] = [1, 2]
    with pytest.raises(SettingsError, match="bad-setting"):
        make(edit([shot(media, 100, 50, effects=[effect])]))


def test_a_dissolve_in_seconds_of_another_rate_is_counted_in_source_frames(make, engine, tmp_path):
    fifty = engine.add(str(tmp_path / "50.mov"), rate=Fraction(50))
    clip = otio.schema.Clip(media_reference=otio.schema.ExternalReference(fifty, span(0, 1000, 50.0)), source_range=span(100, 50, 25.0))
    assert ranges(make(edit([clip, dissolve(5, 8, 25.0), shot(fifty, 0, 1)]), selection=Selection(clips=("1",)))) == ["200..316"]


def test_equal_clips_share_a_job_and_overlapping_ones_their_analysis(make, engine, media):
    timeline = edit([shot(media, 300, 50, "x"), shot(media, 300, 50, "y"), shot(media, 340, 50), shot(media, 900, 50)])
    work = make(timeline)
    assert work.clips[0].job.job_id == work.clips[1].job.job_id
    assert len(work.jobs) == 3
    assert len({str(job.analysis_range) for job in work.jobs[:2]}) == 1, "analysed once"
    assert work.jobs[0].analysis_range == FrameRange.between(300 - 144, 390 + 144)
    assert work.jobs[2].analysis_range == FrameRange.between(900 - 144, 1000)
    assert engine.probed == [media], "every file is opened once"


def test_other_analysis_settings_are_analysed_apart(make, media):
    other = shot(media, 340, 50, effects=[settings_effect({"analysis.focal_mm": 35.0})])
    work = make(edit([shot(media, 300, 50), other]))
    assert work.jobs[0].analysis_range != work.jobs[1].analysis_range
    assert work.jobs[1].settings.analysis.focal_mm == 35.0


def test_a_clips_effect_outranks_the_command_line_which_outranks_the_preset(make, media):
    base = Options(media_dir="").settings.with_values({"path.smoothness": 30.0, "path.strength": 90.0})
    work = make(edit([shot(media, 0, 5), shot(media, 10, 5, effects=[settings_effect({"path.smoothness": 80.0})])]), settings=base)
    assert [(job.settings.path.smoothness, job.settings.path.strength) for job in work.jobs] == [(30.0, 90.0), (80.0, 90.0)]
    assert {job.settings.output.codec for job in work.jobs} == {"prores-hq"}


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), [1, 2, 3, 4, 5]),
        (Selection(tracks=("V1",)), [1, 2]),
        (Selection(tracks=("Video 2", "V1")), [1, 2, 3, 4, 5]),
        (Selection(clips=("b",)), [2, 4]),
        (Selection(clips=("5", "a")), [1, 5]),
        (Selection(tracks=("V1",), clips=("b",)), [2]),
        (Selection(marker="red"), [2]),
        (Selection(marker="stabilize me"), [2]),
        (Selection(marker="GREEN"), [2, 4, 5]),
        (Selection(marker="point", tracks=("V1",)), [2]),
    ],
)
def test_clips_are_chosen_by_track_name_number_and_marker(make, media, selection, chosen):
    marked = shot(media, 100, 10, "b", markers=[otio.schema.Marker(name="Stabilize me", color="RED", marked_range=span(100, 0))])
    nested = otio.schema.Stack(
        name="compound", children=[otio.schema.Track(children=[shot(media, 300, 20, "b"), shot(media, 400, 20, "e")])]
    )
    timeline = edit([shot(media, 0, 10, "a"), marked], [shot(media, 200, 10, "c"), nested])
    timeline.tracks.markers.append(otio.schema.Marker(name="range", color="GREEN", marked_range=span(15, 16)))  # a and c end at 10
    timeline.tracks.markers.append(otio.schema.Marker(name="point", color="CYAN", marked_range=span(10, 0)))  # where b and d begin
    assert [each.place.number for each in make(timeline, selection=selection).clips] == chosen


def test_where_a_marker_means_cannot_be_told_behind_a_clip_of_unknown_length(make, media):
    timeline = edit([otio.schema.Clip("title"), shot(media, 0, 10)])
    timeline.tracks.markers.append(otio.schema.Marker(name="range", color="GREEN", marked_range=span(0, 5)))
    with pytest.raises(InputError, match="no-range"):
        make(timeline, selection=Selection(marker="green"))
    assert ranges(make(timeline)) == ["0..10"]


@pytest.mark.parametrize(
    ("selection", "code"),
    [
        (Selection(tracks=("V3",)), "no-such-track"),
        (Selection(tracks=("V2",)), "empty-track"),
        (Selection(clips=("shott",)), "no-such-clip"),
        (Selection(clips=("9",)), "no-such-clip"),
        (Selection(marker="PINK"), "no-such-marker"),
    ],
)
def test_a_choice_of_nothing_is_an_error(make, media, selection, code):
    with pytest.raises(InputError) as caught:
        make(edit([shot(media, 0, 10)], []), selection=selection)
    assert caught.value.code == code


def test_a_timeline_without_clips_or_without_media_is_an_error(make):
    with pytest.raises(InputError, match="no-clips"):
        make(edit([], [otio.schema.Gap(source_range=span(0, 10))]))
    with pytest.raises(InputError, match="no-media"):
        make(edit([otio.schema.Clip(name="title", source_range=span(0, 10))]))


def test_titles_and_generators_are_skipped_and_said(make, media):
    title = otio.schema.Clip(name="title", media_reference=otio.schema.MissingReference(), source_range=span(0, 10))
    work = make(edit([shot(media, 0, 10), title]))
    assert [(place.clip.name, reason) for place, reason in work.skipped] == [("title", "no media (MissingReference)")]


def test_still_images_are_skipped_and_said_and_hold_nothing_up(make, engine, media, tmp_path):
    """A photo alone, one of many numbered alike, and the first image of a sequence, which is none."""
    sizes = {"photo.png": 1, "DSC_0003.png": 50, "sh.1001.png": 100}
    for name, frames in sizes.items():
        engine.add(str(tmp_path / name), frames)

    def image(name, stated, duration=40):
        return otio.schema.Clip(name, otio.schema.ExternalReference(str(tmp_path / name), stated and span(0, stated)), span(0, duration))

    stills = [image("photo.png", 1), image("photo.png", None), image("photo.png", 300), image("DSC_0003.png", 1)]
    stills += [image("DSC_0003.png", None, 60), image("DSC_0003.png", 300)]
    work = make(edit([shot(media, 0, 10), *stills, image("sh.1001.png", 100), image("sh.1001.png", None)]))
    assert [place.number for place, reason in work.skipped if reason == "a still image"] == [2, 3, 4, 5, 6, 7]
    assert ranges(work) == ["0..10", "0..40", "0..40"]
    with pytest.raises(InputError, match="has moving pictures: a still image"):
        make(edit(stills))


def test_a_percent_sign_in_the_name_of_a_sequence_is_written_twice():
    assert sequence_pattern("50%% done.%04d.exr").fullmatch("50% done.1001.exr")


@pytest.mark.parametrize("name", ["sh.[1001-1010].exr", "sh.####.exr", "sh.%04d.exr", "SH.[1001-1010].EXR"])
def test_sequences_are_found_however_they_are_written(make, engine, tmp_path, name):
    folder = tmp_path / "deep"
    folder.mkdir()
    for number in range(1001, 1011):
        (folder / f"{name[:2]}.{number}{name[-4:]}").touch()
    engine.media[str(folder / name)] = Clip(str(folder / name), Fraction(24), 64, 48, FrameRange(0, 10), None)
    clip = otio.schema.Clip("seq", otio.schema.ExternalReference(f"/lost/{name}", span(1001, 10)), span(1003, 5))
    work = make(edit([clip]), search=[str(folder)])
    assert (work.jobs[0].clip.path, str(work.jobs[0].render_range)) == (str(folder / name), "2..7")
    part = str(folder / name).replace("1010]", "1002]")
    if part.endswith("].exr"):
        before = fingerprint(part)
        (folder / "sh.1009.exr").write_text("another")
        assert fingerprint(part) == before, "only its own files count"
        os.utime(folder / f"{name[:2]}.1002{name[-4:]}", (2e9, 2e9))
        assert fingerprint(part) != before, "the last of them, and the newest"
    with pytest.raises(MediaError, match="media-missing"):
        make(edit([shot(str(folder / name.replace("10", "20").replace("sh.", "other.").replace("SH.", "other.")), 0, 5)]))


@pytest.mark.parametrize(("written", "on_disk"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_umlauts_are_found_however_they_are_spelled(make, engine, tmp_path, written, on_disk):
    folder = tmp_path / "deep"
    folder.mkdir()
    name = "Überflug.mov"
    here, there = (engine.add(str(where / unicodedata.normalize(on_disk, name))) for where in (tmp_path, folder))
    named = unicodedata.normalize(written, name)
    assert make(edit([shot(str(tmp_path / named), 0, 10)])).jobs[0].clip.path == here
    assert make(edit([shot(f"/lost/{named}", 0, 10)])).jobs[0].clip.path == here
    os.remove(here)
    assert make(edit([shot(f"/lost/{named}", 0, 10)]), search=[str(folder)]).jobs[0].clip.path == there


def test_missing_media_is_listed_with_the_search_done(make, media, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    timeline = edit([shot(media, 0, 10), shot("/lost/one.mov", 0, 10), shot("/lost/two.mov", 0, 10), shot("/lost/one.mov", 20, 10)])
    with pytest.raises(MediaError) as caught:
        make(timeline, search=[str(elsewhere)])
    assert caught.value.code == "media-missing"
    for fact in ("/lost/one.mov", "/lost/two.mov", "clip 2, clip 4", "clip 3"):
        assert fact in caught.value.message
    assert str(elsewhere) in caught.value.hint and str(tmp_path) in caught.value.hint


def test_clips_that_cannot_be_planned_are_skipped_where_that_is_asked_for(make, media):
    timeline = edit([shot("/lost/one.mov", 0, 10), shot(media, 0, 10), shot("/lost/two.mov", 0, 10)])
    work = make(timeline, skip_faulty=True)
    assert [each.place.number for each in work.clips] == [2]
    assert [(place.number, reason) for place, reason in work.skipped] == [
        (1, "/lost/one.mov does not exist."), (3, "/lost/two.mov does not exist.")
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"one\.mov does not exist"):
        make(edit([shot("/lost/one.mov", 0, 10)]), skip_faulty=True)


def test_moved_media_is_found_beside_the_timeline_and_in_searched_folders(make, engine, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    beside, below = engine.add(str(tmp_path / "one.mov")), engine.add(str(tmp_path / "deep" / "er" / "Two.mov"))
    work = make(edit([shot("C:\\lost\\one.mov", 0, 10), shot("/lost/two.mov", 0, 10)]), search=[str(tmp_path / "deep")])
    assert [each.job.clip.path for each in work.clips] == [beside, below]
    assert len(work.notes) == 2, "said, not silent"
    (tmp_path / "deep" / "two.mov").touch()
    with pytest.raises(MediaError, match="media-ambiguous"):
        make(edit([shot("/lost/two.mov", 0, 10)]), search=[str(tmp_path / "deep")])


def test_every_fault_is_named_at_once(make, engine, tmp_path, media):
    slow = engine.add(str(tmp_path / "b.mov"), rate=Fraction(24000, 1001))
    with pytest.raises(VS3RError) as caught:
        make(edit([shot(media, 990, 20), shot(slow, 0, 10), shot("/lost.mov", 0, 10)]))
    assert caught.value.code == "timeline-unplannable" and isinstance(caught.value, RangeError)
    for fact in ("990..1010", "23.976", "/lost.mov", "clip 1", "clip 2", "clip 3"):
        assert fact in caught.value.message
    assert ranges(make(edit([shot(media, 990, 20)]), past_end="trim")) == ["990..1000"]


def test_names_come_from_clip_reel_and_range_and_never_collide(make, engine, tmp_path, media):
    other = engine.add(str(tmp_path / "other" / "a.mov")) if (tmp_path / "other").mkdir() is None else ""
    reel = shot(media, 0, 10, "Scène 1/2: <take> 3.mov", metadata={"cmx_3600": {"reel": "A001 C002"}})
    work = make(
        edit(
            [
                reel,
                shot(media, 0, 11, "a"),
                shot(other, 0, 11, "a"),
                shot(media, 0, 11, "a", effects=[settings_effect({"path.smoothness": 9})]),
            ]
        )
    )
    names = [os.path.basename(job.output) for job in work.jobs]
    assert names[0].startswith("Scène_1_2_take_3_A001_C002_0-10_") and names[0].endswith(".mov")
    assert len(set(names)) == 4
    tower = "東京タワー夜景ドローン撮影第三テイク" * 5
    (job,) = make(edit([shot(media, 0, 10, tower, metadata={"cmx_3600": {"reel": tower}})])).jobs
    assert len(os.path.basename(job.output).encode()) < 200, "room for what is beside it"


@pytest.mark.parametrize(
    ("codec", "source", "suffix"),
    [
        ("prores-hq", "a.mp4", ".mov"),
        ("auto", "a.mp4", ".mp4"),
        ("auto", "a.mxf", ".mxf"),
        ("auto", "a.braw", ".mov"),
        ("auto", "a.avi", ".mov"),
        ("auto", "a.0001.JPG", ".0000000.png"),
        ("auto", "a.0001.dpx", ".0000000.dpx"),
        ("exr", "a.mov", ".0000000.exr"),
    ],
)
def test_the_files_suffix_follows_the_codec(make, engine, tmp_path, codec, source, suffix):
    path = engine.add(str(tmp_path / source))
    work = make(edit([shot(path, 0, 10)]), settings=Options(media_dir="").settings.with_values({"output.codec": codec}))
    assert work.jobs[0].output.endswith(suffix)


def test_an_image_sequence_is_found_planned_and_delivered(make, engine, tmp_path):
    for number in range(1001, 1011):
        (tmp_path / f"sh.{number}.exr").touch()
    pattern = str(tmp_path / "sh.%04d.exr")
    engine.media[pattern] = Clip(pattern, Fraction(24), 64, 48, FrameRange(0, 10), None)
    reference = otio.schema.ImageSequenceReference(
        target_url_base="./",
        name_prefix="sh.",
        name_suffix=".exr",
        start_frame=1001,
        frame_step=1,
        rate=24,
        frame_zero_padding=4,
        available_range=span(1001, 10),
    )
    clip = otio.schema.Clip(name="seq", media_reference=reference, source_range=span(1003, 5))
    work = make(edit([clip]))
    assert (work.jobs[0].clip.path, str(work.jobs[0].render_range)) == (pattern, "2..7")


def test_the_rate_that_the_edit_gives_an_image_sequence_is_part_of_its_work(make, engine, tmp_path):
    pattern = str(tmp_path / "sh.%04d.png")
    engine.media[pattern] = Clip(pattern, Fraction(24), 64, 48, FrameRange(0, 400), None)
    for number in range(1001, 1003):
        (tmp_path / f"sh.{number}.png").touch()

    def sequence(rate, start):
        reference = otio.schema.ImageSequenceReference("./", "sh.", ".png", 1001, 1, rate, 4, available_range=span(1001, 400, rate))
        return otio.schema.Clip(name="seq", media_reference=reference, source_range=span(1001 + start, 10, rate))

    work = make(edit([sequence(25.0, 0), sequence(25.0, 60), sequence(50.0, 0), sequence(29.97, 0)]))
    assert [job.clip.rate for job in work.jobs] == [25, 25, 50, Fraction(30000, 1001)]
    assert len({each.digest for each in work.clips}) == len({job.output for job in work.jobs}) == 4
    assert ranges(work) == ["0..10", "60..70", "0..10", "0..10"]
    looked_at = [str(job.analysis_range) for job in work.jobs]
    assert looked_at == ["0..220", "0..220", "0..310", "0..190"], "six seconds at their own rate, shared only at the same one"
    assert engine.probed == [pattern] * 3, "once for each rate"


def test_a_foreign_reference_under_our_key_is_left_alone(make, media):
    clip = shot(media, 0, 10)
    clip.set_media_references({**clip.media_references(), "VS3R": otio.schema.ExternalReference("/theirs.mov")}, "DEFAULT_MEDIA")
    with pytest.raises(InputError, match="key-taken"):
        make(edit([clip]))


def test_a_changed_source_makes_new_work(make, engine, media):
    timeline = edit([shot(media, 0, 10)])
    before = make(timeline).jobs[0]
    with open(media, "w") as file:
        file.write("longer")
    after = make(timeline).jobs[0]
    assert before.output != after.output and before.job_id != after.job_id
    assert fingerprint(media) == fingerprint(media)


def drain(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


def test_progress_is_of_the_whole_timeline_and_a_fault_does_not_stop_the_others(make, engine, media, tmp_path):
    bad = engine.add(str(tmp_path / "bad.mov"))
    engine.faults[bad] = WeightsMissing("weights-missing", "No weights.", "Fetch them.")
    work = make(edit([shot(bad, 0, 30, "bad"), shot(media, 0, 10, "good")]))
    events, outcome = drain(run(work, engine))
    assert [event.fraction for event in events] == sorted(event.fraction for event in events) and events[-1].fraction == 1
    assert [(event.name, event.index, event.total) for event in events] == [("bad", 1, 2), ("good", 2, 2), ("good", 2, 2)]
    assert list(outcome.failures) == [work.jobs[0].job_id] and list(outcome.results) == [work.jobs[1].job_id]


def test_an_interrupted_run_resumes_with_what_is_missing(make, engine, media, tmp_path):
    second = engine.add(str(tmp_path / "b.mov"))
    timeline = edit([shot(media, 0, 30), shot(second, 0, 30)])
    engine.faults[second] = Cancelled()
    with pytest.raises(Cancelled):
        drain(run(make(timeline), engine))
    engine.faults.clear()
    engine.submitted.clear()
    work = make(timeline)
    _, outcome = drain(run(work, engine))
    assert [job.clip.path for job in engine.submitted] == [second]
    assert len(outcome.results) == 2
    assert [each.state for each in make(timeline, redo=True).clips] == ["render", "render"]


def test_five_hundred_clips_over_twenty_files_are_planned_in_two_seconds_and_little_memory(make, engine, tmp_path):
    files = [engine.add(str(tmp_path / f"{number}.mov"), frames=20000) for number in range(20)]
    tracks = []
    for number in range(4):
        children = []
        for index in range(125):
            if index:
                children.append(dissolve(4, 4))
            children.append(shot(files[(index * 7 + number) % 20], 100 + index * 150, 40, f"shot {number} {index}"))
            children[-1].media_reference.available_range = span(0, 20000)
        tracks.append(children)
    timeline = edit(*tracks)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    work = make(timeline)
    seconds = time.process_time() - started
    grown_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib
    print(f"500 clips planned in {seconds:.2f} s, {grown_mib:.1f} MiB more")
    assert len(work.clips) == 500 and len(engine.probed) == 20
    assert seconds < 2 and grown_mib < 50
