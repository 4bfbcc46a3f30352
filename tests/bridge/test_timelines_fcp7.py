# SPDX-License-Identifier: Apache-2.0
"""`vs3r timeline` and FCP 7 XML, as Premiere and Resolve exchange it: frames, speeds, timecode."""

from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import opentimelineio as otio
import pytest
from opentimelineio.opentime import RationalTime

from host_bridge.timelines.files import read_timeline
from tests.bridge.timeline_desk import Desk, needs_adapters, shot, span
from vs3r_engine.timeline import Clip, FrameRange


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@needs_adapters
@pytest.mark.parametrize("rate", [24.0, 25.0, 29.97, 23.976])
def test_for_premiere_fcp7_xml_shows_the_same_frames_of_the_stabilized_media(desk, rate):
    exact = {29.97: Fraction(30000, 1001), 23.976: Fraction(24000, 1001)}.get(rate, Fraction(int(rate)))
    path = desk.engine.add(str(desk.folder / "ü d.mov"), rate=exact)
    source = desk.write(
        shot(path, 100, 20, "one", rate=rate),
        otio.schema.Gap(source_range=span(0, 5, rate)),
        shot(path, 200, 20, "two", rate=rate, effects=[otio.schema.LinearTimeWarp(time_scalar=2)]),
    )
    events = desk.ok(source, "-o", desk.folder / "out.xml", "--handles", "6")
    notes = " ".join(event["message"] for event in events if event["type"] == "note")
    assert "Track names are lost" in notes and "speed" not in notes
    clips = list(read_timeline(str(desk.folder / "out.xml")).find_clips())
    starts = [clip.source_range.start_time.value - clip.media_reference.available_range.start_time.value for clip in clips]
    assert [clip.name for clip in clips] == ["one", "two"]
    assert starts == [6, 6], "six handles before each"
    assert [clip.source_range.duration.value for clip in clips] == [20, 20]
    assert all("out_media" in clip.media_reference.target_url for clip in clips)


def xml_of(desk, name: str) -> ElementTree.Element:
    return ElementTree.parse(desk.folder / name).getroot()


@needs_adapters
def test_for_premiere_drop_frame_timecode_stays_drop_frame(desk):
    path = desk.engine.add(str(desk.folder / "df.mov"), rate=Fraction(30000, 1001), start_timecode="01:00:00;00")
    clip, sound = (shot(path, 300, 40, first=107892, rate=29.97) for _ in range(2))
    timeline = otio.schema.Timeline("cut", global_start_time=RationalTime(107892, 29.97))
    timeline.tracks.extend([otio.schema.Track(children=[clip]), otio.schema.Track(kind="Audio", children=[sound])])
    otio.adapters.write_to_file(timeline, str(desk.folder / "cut.otio"))
    desk.ok(desk.folder / "cut.otio", "-o", desk.folder / "out.xml")
    xml = xml_of(desk, "out.xml")
    written = [(each.findtext("string"), each.findtext("frame")) for each in xml.iter("timecode")]
    assert written == [("01:00:10;00", "108192"), ("01:00:00;00", "107892"), ("01:00:00;00", "107892")], "stabilized, its sound, the edit"


@needs_adapters
def test_for_premiere_titles_generators_image_sequences_and_media_of_unstated_length_are_written(desk):
    for number in range(1001, 1101):
        (desk.folder / f"sh.{number}.exr").touch()
    pattern = str(desk.folder / "sh.%04d.exr")
    desk.engine.media[pattern] = Clip(pattern, Fraction(24), 64, 48, FrameRange(0, 100), None)
    images = otio.schema.ImageSequenceReference("./", "sh.", ".exr", 1001, 1, 24.0, 4, available_range=span(1001, 100))
    bare, sound = shot(desk.a, 100, 20, "bare", first=86400), shot(desk.a, 100, 20, first=86400)
    bare.media_reference.available_range = sound.media_reference.available_range = None
    timeline = otio.schema.Timeline("cut")
    children = [
        otio.schema.Clip("seq", images, span(1010, 20)),
        bare,
        otio.schema.Clip("bars", otio.schema.GeneratorReference(generator_kind="SMPTEBars"), span(0, 10)),
        otio.schema.Clip("title", source_range=span(0, 10)),
    ]
    timeline.tracks.extend([otio.schema.Track(children=children), otio.schema.Track(kind="Audio", children=[sound])])
    source = str(desk.folder / "cut.otio")
    otio.adapters.write_to_file(timeline, source)
    events = desk.ok(source, "-o", desk.folder / "out.xml", "--clips", "bare", "--codec", "exr", "--handles", "3")
    assert any("1 generators" in event.get("message", "") for event in events)
    shown = {}
    for item in xml_of(desk, "out.xml").iter("clipitem"):
        shown[item.findtext("name"), len(shown)] = item.findtext("file/pathurl"), item.findtext("in"), item.findtext("out")
    (job,) = desk.engine.submitted
    assert list(shown.values()) == [
        (Path(desk.folder / "sh.1001.exr").as_uri(), "9", "29"),
        (Path(job.output.replace(".0000000.", ".0000097.")).as_uri(), "3", "23"),
        (None, "0", "10"),
        (None, "0", "10"),
        (Path(desk.a).as_uri(), "100", "120"),
    ]
    sound.media_reference.target_url = "/elsewhere/sound.wav"
    otio.adapters.write_to_file(timeline, source)
    desk.engine.submitted.clear()
    assert "/elsewhere/sound.wav" in desk.refused(source, "-o", desk.folder / "other.xml").message


@needs_adapters
def test_what_premiere_says_about_an_originals_in_and_out_is_not_said_of_its_stabilized_media(desk):
    def ticked(name):
        ticks = {"masterclipid": "masterclip-1", "pproTicksIn": "1", "pproTicksOut": "2", "alphatype": "none"}
        return shot(desk.b, 100, 20, name, metadata={"fcp_xml": ticks})

    desk.ok(desk.write(ticked("one"), ticked("two")), "-o", desk.folder / "out.xml", "--clips", "one")
    one, two = xml_of(desk, "out.xml").iter("clipitem")
    assert [one.find(tag) is None for tag in ("masterclipid", "pproTicksIn", "pproTicksOut", "alphatype")] == [True, True, True, False]
    assert (two.findtext("masterclipid"), two.findtext("pproTicksIn")) == ("masterclip-1", "1")


@needs_adapters
@pytest.mark.parametrize("rate", [24.0, 29.97])
def test_a_timeline_is_reverted_into_what_the_editor_opens(desk, rate):
    path = desk.engine.add(str(desk.folder / "c.mov"), rate={29.97: Fraction(30000, 1001)}.get(rate, Fraction(24)))
    desk.ok(desk.write(shot(path, 100, 20, "one", rate=rate)), "-o", desk.folder / "out.otio")
    for name, editor in (("back.xml", "premiere"), ("back.otio", "resolve")):
        desk.ok(desk.folder / "out.otio", "-o", desk.folder / name, "--revert", "--for", editor)
        (clip,) = desk.clips(name)
        assert clip.media_reference.target_url == (Path(path).as_uri() if editor == "premiere" else path)
        assert clip.source_range.start_time.value == 100 and list(clip.media_references()) == ["DEFAULT_MEDIA"]


@needs_adapters
def test_fcp7_xml_that_would_lose_clips_is_refused_before_anything_runs(desk):
    nested = otio.schema.Stack(name="compound", children=[otio.schema.Track(children=[shot(desk.b, 300, 10, "inside")])])
    error = desk.refused(desk.write(shot(desk.b, 0, 10), nested), "-o", desk.folder / "out.xml")
    assert error.code == "format-cannot-carry" and "1 of 2 clips" in error.message


@needs_adapters
def test_a_clip_with_fcp7_time_remapping_gets_all_of_its_media(desk):
    remap = otio.schema.Effect(name="Time Remap", metadata={"fcp_xml": {"effectid": "timeremap", "parameter": []}})
    events = desk.ok(desk.write(shot(desk.b, 100, 10, effects=[remap])), "-o", desk.folder / "out.otio")
    assert [str(job.render_range) for job in desk.engine.submitted] == ["0..1000"]
    assert any("Clips with speed ramps, which may show anything: 1." in event.get("message", "") for event in events), (
        "said before so much is rendered"
    )


REMAP = """<filter><effect><name>Time Remap</name><effectid>timeremap</effectid><mediatype>video</mediatype>
<parameter><parameterid>variablespeed</parameterid><value>{ramp}</value></parameter>
<parameter><parameterid>speed</parameterid><value>{speed}</value></parameter>
<parameter><parameterid>reverse</parameterid><value>{reverse}</value></parameter>
<parameter><parameterid>graphdict</parameterid>
<keyframe><when>0</when><value>{start}</value><speedvirtualkf>TRUE</speedvirtualkf><speedkfstart>TRUE</speedkfstart></keyframe>
<keyframe><when>{begin}</when><value>{first}</value><speedvirtualkf>TRUE</speedvirtualkf><speedkfin>TRUE</speedkfin></keyframe>
<keyframe><when>{end}</when><value>{last}</value><speedvirtualkf>TRUE</speedvirtualkf><speedkfout>TRUE</speedkfout></keyframe>
</parameter></effect></filter>"""


def retimed_xml(desk, begin, end, first, last, speed, reverse="FALSE", start=0, ramp=0) -> str:
    """A sequence, as Premiere writes it, of one clip of b c.mov whose in and out are `begin` and `end` on the retimed clock."""
    desk.ok(desk.write(shot(desk.b, begin, end - begin)), "-o", desk.folder / "plain.xml", "--for", "premiere")
    desk.engine.submitted.clear()
    tree = ElementTree.parse(desk.folder / "plain.xml")
    item = next(tree.iter("clipitem"))
    item.find("file/pathurl").text, item.find("file/duration").text = Path(desk.b).as_uri(), "1000"
    item.find("file/timecode/frame").text, item.find("file/timecode/string").text = "0", "00:00:00:00"
    item.find("in").text, item.find("out").text = str(begin), str(end)
    item.append(ElementTree.fromstring("<filter><effect><name>Blur</name><effectid>blur</effectid></effect></filter>"))
    item.append(ElementTree.fromstring(REMAP.format(**locals())))
    tree.write(desk.folder / "cut.xml")
    return str(desk.folder / "cut.xml")


@needs_adapters
@pytest.mark.parametrize(
    ("graph", "used", "written"),
    [
        pytest.param((30, 50, 60, 100, 200), "60..100", ["0 0", "20 40"], id="fast"),
        pytest.param((40, 60, 20, 30, 50), "20..30", ["0 0", "20 10"], id="slow: fewer frames than the clip is long"),
        pytest.param(
            (300, 310, 700, 690, 100, "TRUE", 1000), "681..700", ["0 19", "10 9", "19 0"], id="reversed, by either reading of OTIO"
        ),
        pytest.param((990, 1000, 9, 0, 100, "TRUE", 999), "0..10", ["0 10", "10 0"], id="reversed, pinned a frame before the media"),
        pytest.param((300, 310, 700, 690, -100, "FALSE", 1000), "681..700", ["0 19", "10 9", "19 0"], id="a speed below zero"),
        pytest.param((864, 884, 77, 77, 0, "FALSE", 77), "77..78", ["0 0", "20 0"], id="frozen"),
        pytest.param((30, 50, 30, 50, 100), "30..50", ["0 0", "20 20"], id="a filter that changes nothing"),
        pytest.param((30, 50, 60, 95, 200), "0..1000", ["0 0", "30 60", "50 95"], id="a graph that is not of that speed"),
        pytest.param((30, 50, 60, 100, 200, "FALSE", 0, 1), "0..1000", ["0 0", "30 60", "50 100"], id="a ramp"),
    ],
)
def test_of_a_clip_whose_speed_fcp7_xml_states_the_frames_are_stabilized_that_it_shows(desk, graph, used, written):
    source = retimed_xml(desk, *graph)
    desk.ok(source, "-o", desk.folder / "out.xml")
    (job,) = desk.engine.submitted
    assert str(job.render_range) == used
    (item,) = xml_of(desk, "out.xml").iter("clipitem")
    assert [each.findtext("effectid") for each in item.iter("effect")] == ["blur", "timeremap"], "once"
    assert (item.findtext("start"), item.findtext("end")) == ("0", str(graph[1] - graph[0]))
    keys = list(item.iter("keyframe"))
    assert [f"{key.findtext('when')} {key.findtext('value')}" for key in keys] == written, "counted in the stabilized file"
    told = {each.findtext("parameterid"): each.findtext("value") for each in item.iter("parameter")}
    assert (told["speed"], told["reverse"]) == (str(abs(graph[4])), "TRUE" if "TRUE" in graph or graph[4] < 0 else "FALSE")
    shown = next(key for key in keys if key.find("speedkfin") is not None)
    assert item.findtext("in") == shown.findtext("when")


@needs_adapters
def test_media_of_another_rate_than_its_clip_in_fcp7_xml_keeps_its_filter_and_is_stabilized_whole(desk):
    tree = ElementTree.parse(retimed_xml(desk, 30, 50, 60, 100, 200))
    for each in tree.iter("file"):
        each.find("rate/timebase").text = each.find("timecode/rate/timebase").text = "48"
    tree.write(desk.folder / "cut.xml")
    desk.engine.add(desk.b, rate=Fraction(48))
    desk.ok(desk.folder / "cut.xml", "-o", desk.folder / "out.xml")
    assert [str(job.render_range) for job in desk.engine.submitted] == ["0..1000"]


@needs_adapters
def test_the_speed_of_sound_is_written_as_a_filter_of_sound(desk):
    timeline = otio.schema.Timeline("cut")
    for kind in ("Video", "Audio"):
        faster = shot(desk.a, 100, 20, first=86400, effects=[otio.schema.LinearTimeWarp(time_scalar=2)])
        timeline.tracks.append(otio.schema.Track(kind=kind, children=[faster]))
    otio.adapters.write_to_file(timeline, str(desk.folder / "cut.otio"))
    desk.ok(desk.folder / "cut.otio", "-o", desk.folder / "out.xml")
    assert [each.text for each in xml_of(desk, "out.xml").iter("mediatype")] == ["video", "audio"]


@needs_adapters
@pytest.mark.parametrize("speed", [2, 0.5, 1.0, -1, -0.25, 1 / 3, 0])
@pytest.mark.parametrize(("start", "length"), [(0, 20), (37, 11), (501, 48)])
def test_a_speed_written_as_fcp7_xml_is_read_back_with_the_same_frames(desk, speed, start, length):
    effect = otio.schema.LinearTimeWarp(time_scalar=speed) if speed else otio.schema.FreezeFrame()
    clips = [shot(desk.a, start, length, first=86400, effects=[effect.deepcopy()]), shot(desk.b, 0, 10)]
    written = desk.ok(desk.write(*clips), "-o", desk.folder / "out.xml", "--clips", "2")
    assert not any("speed" in event.get("message", "") for event in written)
    back = next(iter(read_timeline(str(desk.folder / "out.xml")).find_clips()))
    (found,) = back.effects
    assert type(found) is type(effect) and found.time_scalar == pytest.approx(speed, rel=1e-6)
    assert back.source_range == clips[0].source_range
