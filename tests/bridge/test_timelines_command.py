# SPDX-License-Identifier: Apache-2.0
"""`vs3r timeline` from files to files, with an engine that renders nothing."""

import os
from fractions import Fraction
from pathlib import Path

import opentimelineio as otio
import pytest
from opentimelineio.opentime import RationalTime

from host_bridge import presets
from host_bridge.timelines.walk import video_clips
from tests.bridge.timeline_desk import Desk, needs_adapters, shot, span
from vs3r_engine.errors import Cancelled, InputError, MediaError, SetupError
from vs3r_engine.job import RenderResult
from vs3r_engine.media.urls import path_of_url
from vs3r_engine.settings import Settings
from vs3r_engine.timeline import Clip, FrameRange


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_the_stabilized_edit_and_its_media_are_written_and_reverting_gives_the_input(desk):
    source = desk.write(shot(desk.a, 100, 20, first=86400), shot("b%20c.mov", 5, 20))
    events = desk.ok(source, "-o", desk.folder / "out.otio", "--handles", "3")
    first, second = desk.clips("out.otio")
    assert first.active_media_reference_key == second.active_media_reference_key == "VS3R"
    assert first.media_reference.available_range == span(86400 + 97, 26)
    assert os.path.dirname(first.media_reference.target_url) == str(desk.folder / "out_media"), "absolute, as the original"
    assert second.media_reference.target_url.startswith("out_media/"), "relative, as the original"
    assert all((desk.folder / clip.media_reference.target_url).exists() for clip in (first, second))
    assert events[-1] == {"type": "result", "output": str(desk.folder / "out.otio"), "rendered": 2, "failed": 0}
    assert {event["type"] for event in events} == {"clip", "progress", "result"}

    desk.ok(desk.folder / "out.otio", "-o", desk.folder / "back.otio", "--revert")
    assert (desk.folder / "back.otio").read_bytes() == (desk.folder / "cut.otio").read_bytes()


def test_another_engine_is_named_by_its_connection_file_as_everywhere(desk, monkeypatch):
    monkeypatch.setenv("VS3R_ENGINE", "/far/engine.json")
    source = desk.write(shot(desk.a, 100, 20, first=86400))
    desk.ok(source, "-o", desk.folder / "one.otio")
    desk.ok(source, "-o", desk.folder / "two.otio", "--engine", "/near/engine.json")
    assert desk.engine_files == [Path("/far/engine.json"), Path("/near/engine.json")]


def test_running_again_renders_nothing_and_writes_the_same_bytes(desk):
    source = desk.write(shot(desk.a, 100, 20, first=86400))
    desk.ok(source, "-o", desk.folder / "out.otio")
    once = (desk.folder / "out.otio").read_bytes()
    desk.engine.submitted.clear()
    desk.ok(source, "-o", desk.folder / "out2.otio", "--media-dir", desk.folder / "out_media")
    assert not desk.engine.submitted and (desk.folder / "out2.otio").read_bytes() == once
    desk.ok(desk.folder / "out.otio", "-o", desk.folder / "out3.otio", "--only-changed", "--media-dir", desk.folder / "elsewhere")
    assert not desk.engine.submitted and (desk.folder / "out3.otio").read_bytes() == once
    desk.ok(source, "-o", desk.folder / "out.otio", "-f")
    assert len(desk.engine.submitted) == 1, "-f renders again"


def test_only_changed_redoes_the_clip_that_was_trimmed(desk):
    desk.ok(desk.write(shot(desk.a, 100, 20, first=86400), shot(desk.b, 5, 20)), "-o", desk.folder / "out.otio")
    timeline = desk.read("out.otio")
    trimmed = next(iter(video_clips(timeline))).clip
    trimmed.source_range = span(86400 + 100, 19)
    otio.adapters.write_to_file(timeline, str(desk.folder / "edited.otio"))
    desk.engine.submitted.clear()
    desk.ok(desk.folder / "edited.otio", "-o", desk.folder / "again.otio", "--only-changed")
    assert [str(job.render_range) for job in desk.engine.submitted] == ["100..119"]
    assert [clip.media_reference.available_range.duration.value for clip in desk.clips("again.otio")] == [19, 20]
    desk.engine.submitted.clear()
    os.remove(desk.clips("again.otio")[1].media_reference.target_url)
    desk.ok(desk.folder / "again.otio", "-o", desk.folder / "third.otio", "--only-changed")
    assert [job.clip.path for job in desk.engine.submitted] == [desk.b], "what somebody deleted is made again"


@pytest.mark.parametrize("again", [[], ["--revert"]])
def test_a_timeline_for_an_editor_holds_no_originals_to_start_from_or_go_back_to(desk, again):
    cut = desk.write(shot(desk.a, 100, 50, first=86400), shot(desk.b, 0, 50))
    desk.ok(cut, "-o", desk.folder / "resolve.otio", "--for", "resolve")
    desk.engine.submitted.clear()
    error = desk.refused(desk.folder / "resolve.otio", "-o", desk.folder / "back.otio", *again)
    assert error.code == "original-missing" and "timeline that was stabilized" in error.hint


def test_a_failed_clip_is_reported_last_the_others_are_delivered_and_the_exit_code_is_its_own(desk):
    desk.engine.faults[desk.b] = MediaError("media-broken", "Frame 7 cannot be decoded.", "Copy the file again.")
    result = desk.run(desk.write(shot(desk.b, 5, 20, "bad"), shot(desk.a, 100, 20, first=86400)), "-o", desk.folder / "out.otio")
    assert result.exit_code == 4
    assert [clip.active_media_reference_key for clip in desk.clips("out.otio")] == ["DEFAULT_MEDIA", "VS3R"]
    assert "failed: clip 1 bad: Frame 7 cannot be decoded. Copy the file again. [media-broken]" in result.stderr
    assert result.stdout.strip() == str(desk.folder / "out.otio"), "standard output carries the result only"
    assert f"Remove {desk.folder / 'out.otio'}" in result.stderr, "how only the failed clip is done again"
    os.remove(desk.folder / "out.otio")
    desk.engine.submitted.clear()
    desk.engine.faults.clear()
    desk.ok(desk.folder / "cut.otio", "-o", desk.folder / "out.otio")
    assert [job.clip.path for job in desk.engine.submitted] == [desk.b]


def test_a_clip_whose_new_result_fails_shows_its_original_not_an_older_result(desk):
    desk.ok(desk.write(shot(desk.b, 5, 20)), "-o", desk.folder / "out.otio")
    desk.engine.faults[desk.b] = MediaError("media-broken", "Frame 7 cannot be decoded.", "")
    assert desk.run(desk.folder / "out.otio", "-o", desk.folder / "again.otio", "--set", "path.smoothness=41").exit_code == 4
    (clip,) = desk.clips("again.otio")
    assert list(clip.media_references()) == ["DEFAULT_MEDIA"]


def test_a_result_that_holds_other_frames_is_a_failure_and_its_clip_shows_its_original(desk, monkeypatch):
    monkeypatch.setattr(desk.engine, "submit", lambda job: iter([RenderResult(job.output, "", FrameRange(5, 19), {}, {})]))
    result = desk.run(desk.write(shot(desk.b, 5, 20)), "-o", desk.folder / "out.otio")
    assert result.exit_code == 1 and "[wrong-range]" in result.stderr
    assert list(desk.clips("out.otio")[0].media_references()) == ["DEFAULT_MEDIA"]


def test_a_timeline_that_cannot_be_written_leaves_nothing_of_it(desk, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("host_bridge.timelines.files.os.replace", full)
    result = desk.run(desk.write(shot(desk.b, 5, 20)), "-o", desk.folder / "out.otio")
    assert result.exception.code == "cannot-write" and "No space" in result.exception.message
    assert sorted(path.name for path in desk.folder.glob("*.otio")) == ["cut.otio"]


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(desk):
    source = desk.write(shot(desk.a, 100, 20, first=86400), shot(desk.b, 5, 20))
    desk.engine.faults[desk.b] = KeyboardInterrupt()
    result = desk.run(source, "-o", desk.folder / "out.otio")
    assert isinstance(result.exception, Cancelled) and "same command" in result.exception.hint
    assert not (desk.folder / "out.otio").exists()
    desk.engine.faults.clear()
    desk.engine.submitted.clear()
    desk.ok(source, "-o", desk.folder / "out.otio")
    assert [job.clip.path for job in desk.engine.submitted] == [desk.b]


def test_a_dry_run_lists_the_clips_and_writes_nothing(desk):
    source = desk.write(shot(desk.a, 100, 20, "one", first=86400), otio.schema.Clip(name="title", source_range=span(0, 5)))
    before = sorted(desk.folder.rglob("*"))
    events = desk.ok(source, "--dry-run")
    assert [(event["type"], event.get("frames")) for event in events] == [("clip", [100, 120]), ("skipped", None)]
    assert sorted(desk.folder.rglob("*")) == before and not desk.engine.submitted


def test_missing_media_is_found_in_a_folder_named_from_where_the_user_stands(desk, monkeypatch):
    (desk.folder / "footage").mkdir()
    desk.engine.add(str(desk.folder / "footage" / "moved.mov"))
    source = desk.write(shot("gone/moved.mov", 5, 20))
    monkeypatch.chdir(desk.folder)
    (event, *_) = desk.ok(source, "--dry-run", "--search", "footage")
    assert event["source"] == str(desk.folder / "footage" / "moved.mov")


def test_the_users_own_preset_serves_timelines_and_the_codec_stays_the_commands(desk):
    presets.save("calm", Settings().with_values({"path.smoothness": 80, "output.codec": "h264"}), overwrite=False)
    desk.ok(desk.write(shot(desk.a, 100, 20, first=86400)), "-o", desk.folder / "out.otio", "--preset", "calm", "--set", "path.strength=90")
    (job,) = desk.engine.submitted
    assert job.settings.changed() == {"path.smoothness": 80.0, "path.strength": 90.0, "output.codec": "prores-hq"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not-a-timeline"),
        ("garbage", "not-a-timeline"),
        ("[1, 2]", "not-a-timeline"),
        ('{"some": "json"}', "not-a-timeline"),
        ('{"OTIO_SCHEMA": "Clip.2", "name": "x"}', "not-a-timeline"),
        ('{"OTIO_SCHEMA": "Timeline.99"}', "unknown-schema"),
        ('{"OTIO_SCHEMA": "StudioEdit.1"}', "unknown-schema"),
        (
            '{"OTIO_SCHEMA": "Timeline.1", "tracks": {"OTIO_SCHEMA": "Stack.1", "children": [{"OTIO_SCHEMA": "StudioTrack.3"}]}}',
            "unknown-schema",
        ),
        (otio.schema.Timeline(name="empty", tracks=[otio.schema.Track(name="V1")]).to_json_string(), "no-clips"),
    ],
)
def test_what_is_no_timeline_is_refused(desk, text, code):
    (desk.folder / "bad.otio").write_text(text)
    error = desk.refused(desk.folder / "bad.otio", "-o", desk.folder / "out.otio")
    assert error.code == code and isinstance(error, InputError)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.otio", "-o", "out.otio"], "timeline-missing"),
        (["cut.docx", "-o", "out.otio"], "unknown-timeline-format"),
        (["cut.otio", "-o", "out.docx"], "unknown-timeline-format"),
        (["cut.otio", "-o", "out.aaf"], "format-cannot-carry"),
        (["cut.otio", "-o", "cut.otio", "-f"], "output-is-source"),
        (["cut.otio", "-o", "taken.otio"], "output-exists"),
        (["cut.otio", "-o", "no/such/out.otio"], "no-such-folder"),
        (["cut.otio", "-o", "folder.otio", "-f"], "cannot-write"),
        (["cut.otio", "-o", "out.otio", "--search", "no/such"], "no-such-folder"),
        (["cut.otio"], "no-output"),
        (["cut.otio", "-o", "out.otio", "--for", "vegas"], "unknown-editor"),
        (["cut.otio", "-o", "out.otio", "--for", "premiere"], "editor-needs-other-file"),
        (["cut.otio", "-o", "out.otio", "--codec", "gif"], "bad-setting"),
        (["cut.otio", "-o", "out.otio", "--set", "path.smoothnes=3"], "unknown-setting"),
        (["cut.otio", "-o", "out.otio", "--set", "nonsense"], "bad-setting"),
        (["cut.otio", "-o", "out.otio", "--past-end", "guess"], "bad-setting"),
        (["cut.otio", "-o", "out.otio", "--revert"], "nothing-to-revert"),
        (["cut.edl", "-o", "out.otio"], "edl-rate"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(desk, monkeypatch, arguments, code):
    monkeypatch.chdir(desk.folder)
    desk.write(shot(desk.a, 100, 20, first=86400))
    (desk.folder / "folder.otio").mkdir()
    for name in ("taken.otio", "cut.docx", "cut.edl"):
        (desk.folder / name).touch()
    assert desk.refused(*arguments).code == code


def test_missing_media_contradicting_rates_and_short_media_are_named_together(desk):
    slow = desk.engine.add(str(desk.folder / "slow.mov"), rate=Fraction(24000, 1001))
    source = desk.write(shot("/lost.mov", 0, 5), shot(slow, 0, 5), shot(desk.b, 995, 20))
    error = desk.refused(source, "-o", desk.folder / "out.otio", "--search", desk.folder)
    assert all(fact in str(error) for fact in ("/lost.mov", "23.976", "995..1015", "and below", "--skip-faulty"))


def test_a_missing_adapter_names_what_to_install(desk, monkeypatch):
    (desk.folder / "cut.xml").touch()
    monkeypatch.setattr(otio.adapters, "available_adapter_names", lambda: ["otio_json"])
    error = desk.refused(desk.folder / "cut.xml", "-o", desk.folder / "out.otio")
    assert isinstance(error, SetupError) and "vs3r[timelines]" in error.hint


def test_for_resolve_there_is_one_bare_reference_a_name_a_marker_and_ranges_on_the_files_timecode(desk):
    # The edit counts a.mov from zero, though the file begins at 01:00:00:00; b has no timecode.
    by_zero = shot(Path(desk.a).as_uri(), 100, 20, "one", markers=[otio.schema.Marker(name="mine", marked_range=span(105, 1))])
    source = desk.write(
        by_zero, shot("b c.mov", 50, 20, "two"), shot(Path(desk.b).as_uri(), 5, 6, "left alone"), global_start_time=RationalTime(86400, 24)
    )
    desk.ok(source, "-o", desk.folder / "out.otio", "--for", "resolve", "--handles", "4", "--clips", "one", "--clips", "two")
    one, two, alone = desk.clips("out.otio")
    for clip in (one, two, alone):
        assert list(clip.media_references()) == ["DEFAULT_MEDIA"] == [clip.active_media_reference_key]
        assert os.path.isabs(clip.media_reference.target_url)
    assert (one.name, two.name, alone.name) == ("one_VS3R", "two_VS3R", "left alone")
    assert (one.source_range, one.media_reference.available_range) == (span(86500, 20), span(86496, 28))
    assert (two.source_range, two.media_reference.available_range) == (span(4, 20), span(0, 28)), "its file begins at 0"
    assert alone.source_range == span(5, 6) and alone.media_reference.target_url == desk.b
    assert [(marker.name, marker.marked_range.start_time.value) for marker in one.markers] == [("mine", 86505), ("VS3R", 86500)]
    assert one.markers[1].comment == desk.a and one.markers[1].metadata["Resolve_OTIO"]["Note"] == desk.a
    assert desk.read("out.otio").duration() == desk.read("cut.otio").duration()


def test_for_kdenlive_the_original_stays_beside_and_paths_are_bare(desk):
    source = desk.write(shot("b c.mov", 50, 20, effects=[otio.schema.LinearTimeWarp(time_scalar=2)]))
    events = desk.ok(source, "-o", desk.folder / "out.otio", "--for", "kdenlive")
    (clip,) = desk.clips("out.otio")
    assert sorted(clip.media_references()) == ["DEFAULT_MEDIA", "VS3R"] and clip.source_range == span(0, 20)
    assert all(os.path.isabs(reference.target_url) for reference in clip.media_references().values())
    assert any("ignores changed speeds: 1 here" in event["message"] for event in events if event["type"] == "note")
    assert [event["type"] for event in events].index("note") < [event["type"] for event in events].index("progress"), (
        "said before anything runs"
    )


@needs_adapters
@pytest.mark.parametrize(("editor", "name"), [("resolve", "out.otio"), ("kdenlive", "out.otio"), ("premiere", "out.xml")])
def test_relative_media_is_found_from_a_timeline_in_another_folder(desk, editor, name):
    (desk.folder / "sub").mkdir()
    source = desk.write(shot("b%20c.mov", 50, 20, "one"), shot("a.mov", 5, 6, "left alone", first=86400))
    desk.ok(source, "-o", desk.folder / "sub" / name, "--for", editor, "--clips", "one")
    for clip in desk.clips(f"sub/{name}"):
        for reference in clip.media_references().values():
            assert os.path.isfile(path_of_url(reference.target_url)), reference.target_url


@needs_adapters
def test_a_timeline_that_states_its_rates_is_given_none(desk):
    cut = desk.write(shot(desk.a, 100, 20, first=86400))
    assert desk.refused(cut, "-o", desk.folder / "out.otio", "--rate", "25").code == "rate-of-file"


def test_an_edl_is_read_at_its_rate_and_its_media_found_by_name(desk):
    (desk.folder / "cut.edl").write_text(
        "TITLE: cut\nFCM: DROP FRAME\n\n001  A001     V     C        01:00:10;00 01:00:12;00 01:00:00;00 01:00:02;00\n"
        "* FROM CLIP NAME: SHOT_A.MOV\n"
    )
    (desk.folder / "shot_a.mov.wav").touch()
    (desk.folder / "shot_a.wav").touch()
    desk.engine.add(str(desk.folder / "shot_a.mov"), rate=Fraction(30000, 1001), start_timecode="01:00:00;00")
    events = desk.ok(desk.folder / "cut.edl", "-o", desk.folder / "out.otio", "--rate", "29.97", "--search", desk.folder)
    assert [str(job.render_range) for job in desk.engine.submitted] == ["300..360"]
    assert any("is called like it" in event.get("message", "") for event in events)
    desk.engine.submitted.clear()
    (desk.folder / "reel.edl").write_text("TITLE: cut\n\n001  A001  V  C  01:00:10:00 01:00:12:00 01:00:00:00 01:00:02:00\n")
    desk.engine.add(str(desk.folder / "a001.mxf"), rate=Fraction(25), start_timecode="01:00:00:00")
    desk.ok(desk.folder / "reel.edl", "-o", desk.folder / "reel.otio", "--rate", "25", "--search", desk.folder)
    assert [str(job.render_range) for job in desk.engine.submitted] == ["250..300"]
    (clip,) = desk.clips("out.otio")
    assert clip.media_reference.target_url.startswith("file:///") and isinstance(
        clip.media_references()["DEFAULT_MEDIA"], otio.schema.MissingReference
    )


@needs_adapters
def test_an_edl_that_cannot_be_used_says_which_option_helps(desk):
    text = "TITLE: cut\nFCM: NON-DROP FRAME\n\n001  A001  V  C  01:00:10:24 01:00:12:00 01:00:00:00 01:00:01:01\n* FROM CLIP NAME: x.mov\n"
    (desk.folder / "cut.edl").write_text(text)
    assert "--search" in desk.refused(desk.folder / "cut.edl", "-o", desk.folder / "out.otio", "--rate", "25").hint
    assert "--rate" in desk.refused(desk.folder / "cut.edl", "-o", desk.folder / "out.otio", "--rate", "24").hint


FCPXML = """<?xml version="1.0" encoding="UTF-8"?>
<fcpxml version="1.8"><resources><format id="r1" frameDuration="100/2500s" width="1920" height="1080"/>
<asset id="r2" name="a" src="{url}" start="0s" duration="40s" hasVideo="1" format="r1"/></resources>
<library><event name="e"><project name="p"><sequence format="r1" duration="90/25s"><spine>
<asset-clip name="one" ref="r2" offset="0s" start="10/25s" duration="30/25s" format="r1"/>
</spine></sequence></project></event></library></fcpxml>"""


@needs_adapters
def test_fcpxml_is_read_where_its_adapter_counts_right(desk):
    path = desk.engine.add(str(desk.folder / "e.mov"), rate=Fraction(25))
    (desk.folder / "cut.fcpxml").write_text(FCPXML.format(url=Path(path).as_uri()))
    desk.ok(desk.folder / "cut.fcpxml", "-o", desk.folder / "out.otio")
    assert [str(job.render_range) for job in desk.engine.submitted] == ["10..40"]
    desk.engine.submitted.clear()
    (desk.folder / "ntsc.fcpxml").write_text(FCPXML.replace("100/2500s", "1001/30000s").format(url=Path(path).as_uri()))
    assert desk.refused(desk.folder / "ntsc.fcpxml", "-o", desk.folder / "out2.otio").code == "fcpxml-rate"


def test_exr_output_becomes_an_image_sequence_reference(desk):
    desk.ok(desk.write(shot(desk.a, 100, 5, "one", first=86400)), "-o", desk.folder / "out.otio", "--codec", "exr")
    (clip,) = desk.clips("out.otio")
    reference = clip.media_reference
    assert isinstance(reference, otio.schema.ImageSequenceReference)
    assert (reference.start_frame, reference.available_range) == (100, span(86500, 5))
    assert all(os.path.exists(reference.target_url_for_image_number(number)) for number in range(5))
    assert (
        desk.ok(desk.folder / "out.otio", "-o", desk.folder / "again.otio", "--only-changed", "--codec", "exr", "--dry-run")[0]["state"]
        == "unchanged"
    )


TODAYS_FCPXML = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE fcpxml>
<fcpxml version="1.11"><resources><format id="r1" frameDuration="1/25s" width="1920" height="1080"/>
<asset id="r2" name="a" start="3600s" duration="40s" hasVideo="1" format="r1">
<media-rep kind="original-media" src="{url}"/></asset></resources>
<library><event name="e"><project name="p"><sequence format="r1" duration="70/25s" tcStart="36000s" tcFormat="NDF"><spine>
<asset-clip name="one" ref="r2" offset="36000s" start="90010/25s" duration="30/25s" format="r1"/>
<gap offset="900030/25s" start="0s" duration="10/25s"/>
<asset-clip name="two" ref="r2" offset="900040/25s" start="90100/25s" duration="30/25s" format="r1">{inside}</asset-clip>
</spine></sequence></project></event></library></fcpxml>"""


@needs_adapters
def test_fcpxml_as_it_is_written_today_is_one_timeline_that_begins_at_its_own_start(desk):
    path = desk.engine.add(str(desk.folder / "ü 1.mov"), rate=Fraction(25), start_timecode="01:00:00:00")
    (desk.folder / "cut.fcpxml").write_text(TODAYS_FCPXML.format(url=Path(path).as_uri(), inside=""))
    desk.ok(desk.folder / "cut.fcpxml", "-o", desk.folder / "out.otio")
    assert [(job.clip.path, str(job.render_range)) for job in desk.engine.submitted] == [(path, "10..40"), (path, "100..130")]
    timeline = desk.read("out.otio")
    assert isinstance(timeline, otio.schema.Timeline) and timeline.global_start_time == RationalTime(900000, 25)
    assert [item.trimmed_range_in_parent().start_time.value for item in timeline.video_tracks()[0]] == [0, 30, 40]
    desk.engine.submitted.clear()
    ramp = '<timeMap><timept time="0s" value="0s"/><timept time="1s" value="2s"/></timeMap>'
    (desk.folder / "fast.fcpxml").write_text(TODAYS_FCPXML.format(url=Path(path).as_uri(), inside=ramp))
    assert desk.refused(desk.folder / "fast.fcpxml", "-o", desk.folder / "out2.otio").code == "fcpxml-speed"


def test_the_clips_of_bins_beside_a_timeline_are_left_alone(desk):
    cut = otio.adapters.read_from_file(desk.write(shot(desk.a, 100, 20, "in the edit", first=86400)))
    bins = otio.schema.SerializableCollection("bin", [shot(desk.b, 0, 900, "master")])
    otio.adapters.write_to_file(otio.schema.SerializableCollection("project", [bins, cut]), str(desk.folder / "project.otio"))
    desk.ok(desk.folder / "project.otio", "-o", desk.folder / "out.otio")
    assert [str(job.render_range) for job in desk.engine.submitted] == ["100..120"]
    desk.ok(desk.folder / "out.otio", "-o", desk.folder / "back.otio", "--revert")
    assert (desk.folder / "back.otio").read_bytes() == (desk.folder / "project.otio").read_bytes()


def test_for_resolve_image_sequences_are_named_as_it_names_them_and_such_names_are_read(desk):
    desk.ok(desk.write(shot(desk.a, 100, 5, "one", first=86400)), "-o", desk.folder / "out.otio", "--codec", "exr", "--for", "resolve")
    (clip,) = desk.clips("out.otio")
    stem = desk.engine.submitted[0].output.removesuffix("0000000.exr")
    assert clip.media_reference.target_url == f"{stem}[0000100-0000104].exr"
    assert clip.media_reference.available_range == clip.source_range == span(86500, 5)
    path = f"{stem}[0000100-0000104].exr"
    desk.engine.media[path] = Clip(path, Fraction(24), 64, 48, FrameRange(0, 5), "01:00:04:04")
    (event, *_) = desk.ok(desk.write(shot(path, 1, 3, first=86500), name="mine.otio"), "--dry-run")
    assert (event["source"], event["frames"]) == (path, [1, 4])


@needs_adapters
def test_aaf_is_read(desk):
    timeline = otio.schema.Timeline(name="cut")
    timeline.tracks.append(
        otio.schema.Track(name="V1", kind="Video", children=[shot(Path(desk.b).as_uri(), 40, 12), shot(Path(desk.b).as_uri(), 90, 9)])
    )
    otio.adapters.write_to_file(timeline, str(desk.folder / "cut.aaf"), "AAF", use_empty_mob_ids=True)
    desk.ok(desk.folder / "cut.aaf", "-o", desk.folder / "out.otio", "--search", desk.folder)
    assert [str(job.render_range) for job in desk.engine.submitted] == ["40..52", "90..99"]
