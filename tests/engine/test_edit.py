# SPDX-License-Identifier: Apache-2.0
"""An OTIO clip and a job say the same thing, whatever the rate, the path and the clock it is written on."""

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import opentimelineio as otio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentimelineio.opentime import RationalTime, TimeRange

from tests.synthetic_edit import settings_effect
from vs3r_engine.errors import InputError, MediaError, RangeError, SettingsError
from vs3r_engine.job import Job, analysis_range_of
from vs3r_engine.media import edit, urls
from vs3r_engine.settings import DESCRIPTORS, Settings, preset
from vs3r_engine.timeline import Clip, FrameRange, exact_rate, timecode_of_frame_count

EXACT_RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(48),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
    Fraction(120),
]
WRITTEN_RATES = {
    23.976: EXACT_RATES[0],
    23.98: EXACT_RATES[0],
    23.976023976023978: EXACT_RATES[0],
    24.0: Fraction(24),
    25.0: Fraction(25),
    29.97: EXACT_RATES[3],
    29.97002997002997: EXACT_RATES[3],
    47.952: Fraction(48000, 1001),
    48.0: Fraction(48),
    50.0: Fraction(50),
    59.94: EXACT_RATES[7],
    59.94005994005994: EXACT_RATES[7],
    60.0: Fraction(60),
}


def span(start, duration, rate=24.0) -> TimeRange:
    return TimeRange(RationalTime(start, rate), RationalTime(duration, rate))


def otio_clip(source_range=None, available_range=None, url="/media/a.mov", effects=()) -> otio.schema.Clip:
    reference = otio.schema.ExternalReference(target_url=url, available_range=available_range)
    return otio.schema.Clip(name="shot", media_reference=reference, source_range=source_range, effects=list(effects))


def file(frames=1000, rate=Fraction(24), timecode=None):
    """A probe that finds the same facts at every path."""
    return lambda path, sequence_rate=None: Clip(path, rate, 1920, 1080, FrameRange(0, frames), timecode)


def media(clip, probe=None):
    return edit.media_of(clip, clip.media_reference, probe or file(), "/project")


@st.composite
def jobs(draw):
    rate = draw(st.sampled_from(EXACT_RATES))
    drop = rate in (EXACT_RATES[3], EXACT_RATES[7]) and draw(st.booleans())
    timecode = draw(st.none() | st.integers(0, 86399 * 24).map(lambda count: timecode_of_frame_count(count, rate, drop)))
    length = draw(st.integers(1, 5000))
    start, end = sorted(draw(st.lists(st.integers(0, length), min_size=2, max_size=2)))
    render_range = FrameRange.between(start, max(end, start + 1))
    path = draw(st.sampled_from(["/m/ä b#?%41.mov", "/m/日本.mxf", "C:\\shots\\a b.mov", "\\\\server\\share\\x.mov"]))
    clip = Clip(path, rate, 1920, 1080, FrameRange(0, length + 1), timecode)
    chosen = draw(st.sampled_from([Settings(), preset("glide"), preset("subtle").with_values({"path.horizon_lock": True, "fill.seed": 7})]))
    return Job("j", clip, render_range, analysis_range_of(render_range, clip), "/out/x.mov", chosen)


@given(jobs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_job_written_as_an_otio_clip_is_read_as_the_same_job(job):
    source = job.clip
    media = edit.Media(source, edit.start_of_file(source) or 0, float(source.rate))
    written = otio.schema.Clip(
        media_reference=otio.schema.ExternalReference(urls.url_of_path(source.path), media.time_range(source.available_range)),
        source_range=media.time_range(job.render_range),
        effects=[settings_effect(job.settings.changed())],
    )
    assert edit.job_of_clip(edit.read_clip(written.to_json_string()), lambda path, _: replace(source, path=path), "j", "/out/x.mov") == job


def test_every_setting_survives_the_effect():
    other = {
        descriptor.key: (
            descriptor.choices[-1]
            if descriptor.choices
            else not descriptor.default
            if descriptor.type is bool
            else "text"
            if descriptor.type is str
            else descriptor.high
        )
        for descriptor in DESCRIPTORS
    }
    clip = otio_clip(effects=[settings_effect(other)])
    assert edit.settings_of(edit.read_clip(clip.to_json_string())).values() == other


@pytest.mark.parametrize(("written", "exact"), WRITTEN_RATES.items())
def test_times_at_rounded_rates_are_whole_frames_of_the_exact_rate(written, exact):
    assert edit.frames_at(RationalTime(107892, written), exact) == 107892
    assert edit.frames_at(RationalTime(99.99999999, written), exact) == 100, "float noise of another program"
    assert edit.frames_at(RationalTime(37008.1, written), exact).denominator > 1, "a real fraction stays one"


@pytest.mark.parametrize(
    ("stated", "exact"),
    [
        ("25", Fraction(25)),
        (" 29.97 ", EXACT_RATES[3]),
        ("23.976023976023978", EXACT_RATES[0]),
        ("30000/1001", EXACT_RATES[3]),
        ("12.5", Fraction(25, 2)),
        ("1998/125", Fraction(1998, 125)),
        (15.984, Fraction(1998, 125)),
        (0.0004, Fraction(1, 2500)),
        ("1000", Fraction(1000)),
        (48000, Fraction(48000)),
    ],
)
def test_a_stated_rate_is_an_exact_one_and_that_is_itself(stated, exact):
    assert exact_rate(stated) == exact == exact_rate(exact)


@pytest.mark.parametrize("stated", ["", "0", "-25", "abc", "25 fps", "1/0", "1e3", "1e999999999", "inf", "1000.5", "9" * 10, 0, -1.0])
def test_what_is_no_rate_is_refused(stated):
    with pytest.raises(RangeError) as caught:
        exact_rate(stated)
    assert caught.value.code == "bad-rate" and caught.value.hint


def test_a_time_at_another_rate_is_converted_exactly():
    assert edit.frames_at(RationalTime(100, 25), Fraction(50)) == 200
    assert edit.frames_at(RationalTime(100, 29.97), Fraction(30)) == Fraction(100 * 1001, 1000)
    with pytest.raises(RangeError, match="bad-time"):
        edit.frames_at(RationalTime(float("nan"), 25), Fraction(25))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b%20c/%C3%BC%23.mov", "/a/b c/ü#.mov"),
        ("file://localhost/a/b.mov", "/a/b.mov"),
        ("/plain/ü 1%20.mov", "/plain/ü 1%20.mov"),
        ("sub/a.mov", "/project/sub/a.mov"),
        ("../up/a.mov", "/up/a.mov"),
        ("./a.mov", "/project/a.mov"),
        ("file:sub/a.mov", "/project/sub/a.mov"),
        ("file:///C:/a%20b/c.mov", "C:\\a b\\c.mov"),
        ("file:///C|/a.mov", "C:\\a.mov"),
        ("file://localhost/D:/x.mov", "D:\\x.mov"),
        ("file://localhost/D%3a/x.mov", "D:\\x.mov"),
        ("file://E:/a%20b.mov", "E:\\a b.mov"),
        ("file://E%3A/b.mov", "E:\\b.mov"),
        ("C:\\a\\b.mov", "C:\\a\\b.mov"),
        ("D:/a/b.mov", "D:\\a\\b.mov"),
        ("\\\\nas\\clips\\a.mov", "\\\\nas\\clips\\a.mov"),
        ("file://nas/clips/a%20b.mov", "\\\\nas\\clips\\a b.mov"),
        ("file:////nas/clips/a.mov", "\\\\nas\\clips\\a.mov"),
        ("//nas/clips/a.mov", "\\\\nas\\clips\\a.mov"),
        ("/a/b#1?.mov", "/a/b#1?.mov"),
        ("file:///a/b#1?.mov", "/a/b#1?.mov"),
    ],
)
def test_the_path_of_a_url(url, path):
    assert urls.path_of_url(url, "/project") == path


def test_a_relative_reference_is_decoded_only_when_no_file_has_its_literal_name(tmp_path):
    (tmp_path / "a b.mov").touch()
    assert urls.path_of_url("a%20b.mov", str(tmp_path)) == str(tmp_path / "a b.mov")
    (tmp_path / "a%20b.mov").touch()
    assert urls.path_of_url("a%20b.mov", str(tmp_path)) == str(tmp_path / "a%20b.mov")


@pytest.mark.parametrize(
    ("path", "like", "url"),
    [
        ("/a/ü b.mov", "file:///x.mov", "file:///a/%C3%BC%20b.mov"),
        ("/a/b c.mov", "/x.mov", "/a/b c.mov"),
        ("/project/out/b.mov", "x.mov", "out/b.mov"),
        ("/other/b.mov", "clips/x.mov", "../other/b.mov"),
        ("C:\\a b\\c.mov", "file:///C:/x.mov", "file:///C:/a%20b/c.mov"),
        ("C:\\a b\\c.mov", "C:\\x.mov", "C:\\a b\\c.mov"),
        ("\\\\nas\\s\\c d.mov", "file:///C:/x", "file://nas/s/c%20d.mov"),
    ],
)
def test_a_result_is_written_the_way_the_original_is(path, like, url):
    assert urls.url_of_path(path, like, "/project") == url
    assert urls.path_of_url(url, "/project") == path


@pytest.mark.parametrize(
    ("url", "code"), [("", "no-media"), ("https://x.org/a.mov", "remote-media"), ("s3://bucket/a.mov", "remote-media")]
)
def test_media_that_is_no_file_is_refused(url, code):
    with pytest.raises(MediaError) as caught:
        urls.path_of_url(url, "/project")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("file:///shots/a%20b", "/shots/a b/sh.%04d.exr"),
        ("/shots/a/", "/shots/a/sh.%04d.exr"),
        ("", "/project/sh.%04d.exr"),
        ("C:\\s\\", "C:\\s\\sh.%04d.exr"),
    ],
)
def test_an_image_sequence_is_the_pattern_of_its_files(base, path):
    reference = otio.schema.ImageSequenceReference(
        target_url_base=base,
        name_prefix="sh.",
        name_suffix=".exr",
        start_frame=1001,
        frame_step=1,
        rate=24,
        frame_zero_padding=4,
        available_range=span(1001, 100),
    )
    assert edit.path_of_reference(reference, "/project") == path
    reference.frame_step = 2
    with pytest.raises(MediaError, match="sequence-step"):
        edit.path_of_reference(reference)


@pytest.mark.parametrize(
    ("what", "source", "available", "probe", "origin"),
    [
        ("timecode of the file", span(86410, 10), span(86400, 1000), file(timecode="01:00:00:00"), 86400),
        ("timecode of the edit alone", span(86410, 10), span(86400, 1000), file(), 86400),
        ("from zero, though the file has a timecode", span(10, 10), span(0, 1000), file(timecode="01:00:00:00"), 0),
        ("part of the media, by timecode", span(86510, 10), span(86500, 50), file(timecode="01:00:00:00"), 86400),
        ("part of the media, from zero", span(110, 10), span(100, 50), file(timecode="01:00:00:00"), 0),
        ("no available range, by timecode", span(86410, 10), None, file(timecode="01:00:00:00"), 86400),
        ("no available range, from zero", span(10, 10), None, file(timecode="01:00:00:00"), 0),
        ("media claimed longer than it is", span(86410, 10), span(86400, 5000), file(timecode="01:00:00:00"), 86400),
        (
            "drop-frame",
            span(107892 + 5, 10, 29.97),
            span(107892, 1000, 29.97),
            file(rate=Fraction(30000, 1001), timecode="01:00:00;00"),
            107892,
        ),
        ("a frame too many claimed", span(86410, 10), span(86400, 1001), file(timecode="01:00:00:00"), 86400),
    ],
)
def test_the_edits_clock_is_recognized(what, source, available, probe, origin):
    assert media(otio_clip(source, available), probe).origin_frames == origin, what


def test_a_clock_that_fits_nothing_is_an_error():
    with pytest.raises(RangeError, match="unknown-origin"):
        media(otio_clip(span(5010, 10), span(5000, 50)), file(timecode="01:00:00:00"))


@pytest.mark.parametrize(
    ("written", "frames", "actual", "refused"),
    [
        (24.0, 1000, Fraction(24000, 1001), True),
        (23.976, 1000, Fraction(24), True),
        (25.0, 1000, Fraction(24), True),
        (30.0, 1000, Fraction(30000, 1001), True),
        (25.0, 500, Fraction(50), False),
        (24.0, 960, Fraction(25), False),
        (29.97, 1000, Fraction(30000, 1001), False),
    ],
)
def test_media_whose_rate_contradicts_the_edit_is_refused(written, frames, actual, refused):
    clip = otio_clip(span(0, 5, written), span(0, frames, written))
    if refused:
        with pytest.raises(RangeError, match="rate-contradicts"):
            media(clip, file(rate=actual))
    else:
        assert media(clip, file(rate=actual)).clip.rate == actual


@pytest.mark.parametrize(
    ("what", "rate", "available", "asked"),
    [
        ("stated", 25.0, span(1001, 100, 25.0), Fraction(25)),
        ("stated and rounded", 29.97, span(1001, 100, 29.97), Fraction(30000, 1001)),
        ("stated without a range", 50.0, None, Fraction(50)),
        ("OTIO's own 1 beside a range", 1.0, span(1001, 100, 25.0), Fraction(25)),
        ("OTIO's own 1 alone", 1.0, None, None),
        ("none", 0.0, None, None),
        ("none, beside a range", 0.0, span(1001, 100, 25.0), Fraction(25)),
        ("that of a file's name", None, span(0, 100, 50.0), Fraction(50)),
    ],
)
def test_an_image_sequence_is_asked_for_at_the_rate_that_the_edit_states(what, rate, available, asked):
    if rate is None:
        reference, path = otio.schema.ExternalReference("/m/sh.[1001-1100].png", available), "/m/sh.[1001-1100].png"
    else:
        reference = otio.schema.ImageSequenceReference("/m", "sh.", ".png", 1001, 1, rate, 4, available_range=available)
        path = "/m/sh.%04d.png"
    clip = otio.schema.Clip(name="shot", media_reference=reference, source_range=span(1001 if rate and available else 0, 5, rate or 25.0))
    asked_for = []

    def probe(path, sequence_rate):
        asked_for.append((path, sequence_rate))
        return Clip(path, sequence_rate or Fraction(25), 64, 48, FrameRange(0, 100))

    assert media(clip, probe).clip.rate == (asked or 25)
    assert asked_for == [(path, asked)], what


def test_a_source_range_at_the_timelines_rate_is_the_same_time_where_the_media_is_at_its_own():
    """As in FCP 7 XML: 30 fps of a phone in a timeline at 29.97."""
    phone = file(rate=Fraction(30), frames=20000)
    clip = otio_clip(span(9000, 100, 29.97), span(0, 20000, 30.0))
    assert edit.used_range(clip, media(clip, phone)) == FrameRange.between(9009, 9110)
    for available in (None, span(0, 20000, 29.97)):
        with pytest.raises(RangeError, match="rate-contradicts"):
            media(otio_clip(span(9000, 100, 29.97), available), phone)


@pytest.mark.parametrize(("first", "what"), [(0, "counted from 0"), (1021, "counted by number")])
def test_an_image_sequence_is_the_files_that_the_edit_names_not_all_there_are(first, what):
    reference = otio.schema.ImageSequenceReference("/m/", "sh.", ".png", 1021, 1, 24.0, 4, available_range=span(first, 50))
    clip = otio.schema.Clip(name="shot", media_reference=reference, source_range=span(first + 5, 10))
    sizes = {"/m/sh.%04d.png": 100, "/m/sh.[1021-1070].png": 50}

    def probe(path, rate):
        if sizes[path] is None:
            raise MediaError("media-gap", "sh.%04d.png lacks 3 of its files.")
        return Clip(path, rate, 64, 48, FrameRange(0, sizes[path]))

    for whole in (100, None):  # with files missing elsewhere
        sizes["/m/sh.%04d.png"] = whole
        found = media(clip, probe)
        assert found.clip.path == "/m/sh.[1021-1070].png"
        assert edit.used_range(clip, found) == FrameRange(5, 10), what
    sizes["/m/sh.[1021-1070].png"] = None
    with pytest.raises(MediaError, match="media-gap"):
        media(clip, probe)


def test_no_rate_is_asked_for_where_media_is_a_file():
    asked_for = []

    def probe(path, sequence_rate):
        asked_for.append(sequence_rate)
        return Clip(path, Fraction(50), 64, 48, FrameRange(0, 100))

    assert media(otio_clip(span(0, 5, 25.0), span(0, 50, 25.0)), probe).clip.rate == 50
    assert asked_for == [None]


def warp(scalar):
    return otio.schema.LinearTimeWarp(time_scalar=scalar)


@pytest.mark.parametrize(
    ("what", "source", "effects", "used"),
    [
        ("plain", span(100, 10), [], (100, 110)),
        ("another rate", span(100, 10, 12.0), [], (200, 220)),
        ("fractional", span(100.5, 10), [], (100, 111)),
        ("twice as fast", span(100, 10), [warp(2)], (100, 120)),
        ("half", span(100, 11), [warp(0.5)], (100, 106)),
        ("a third", span(100, 9), [warp(1 / 3)], (100, 103)),
        ("1.1 in floats", span(100, 10), [warp(1.1)], (100, 111)),
        ("both", span(100, 10), [warp(2), warp(0.5)], (100, 110)),
        ("frozen", span(100, 10), [otio.schema.FreezeFrame()], (100, 101)),
        ("reversed, either reading", span(100, 10), [warp(-1)], (91, 110)),
        ("reversed from the first frame", span(0, 10), [warp(-1)], (0, 10)),
        ("reversed, counted from the last frame", span(999, 10), [warp(-1)], (990, 1000)),
        ("ramp", span(100, 10), [otio.schema.TimeEffect()], (0, 1000)),
        ("whole media", None, [], (0, 1000)),
        ("whole, slowed", None, [warp(0.5)], (0, 1000)),
    ],
)
def test_the_frames_that_a_clip_shows(what, source, effects, used):
    clip = otio_clip(source, span(0, 1000), effects=effects)
    assert edit.used_range(clip, media(clip)) == FrameRange.between(*used), what


@pytest.mark.parametrize(
    ("what", "rate", "frames", "source", "speed", "used"),
    [
        ("an odd number of frames twice as fast", Fraction(24), 39, span(0, 20), 2, (0, 39)),
        ("one frame less of it", Fraction(24), 38, span(0, 20), 2, None),
        ("another rate", Fraction(24000, 1001), 2391, span(0, 2989, 29.97), 1, (0, 2391)),
        ("another rate, one too many", Fraction(24000, 1001), 2391, span(0, 2990, 29.97), 1, None),
        ("between two frames", Fraction(24), 100, span(0.5, 100), 1, (0, 100)),
        ("the same rate, one too many", Fraction(24), 100, span(1, 100), 1, None),
        ("backwards from its last frame", Fraction(24), 39, span(38, 20), -2, (0, 39)),
        ("backwards, one too many", Fraction(24), 39, span(37, 20), -2, None),
    ],
)
def test_the_last_frame_shown_may_end_beyond_the_media_but_must_begin_in_it(what, rate, frames, source, speed, used):
    clip = otio_clip(source, None, effects=[warp(speed)] if speed != 1 else [])
    found = media(clip, file(frames, rate))
    if used is None:
        with pytest.raises(RangeError, match="range-past-media"):
            edit.used_range(clip, found)
    else:
        assert edit.used_range(clip, found) == FrameRange.between(*used), what


def test_a_source_range_past_the_media_is_an_error_or_the_part_that_exists():
    clip = otio_clip(span(990, 20), span(0, 1000))
    with pytest.raises(RangeError, match="range-past-media"):
        edit.used_range(clip, media(clip))
    assert edit.used_range(clip, media(clip), "trim") == FrameRange.between(990, 1000)
    beyond = otio_clip(span(2000, 20), span(0, 1000))
    with pytest.raises(RangeError, match="range-past-media"):
        edit.used_range(beyond, media(beyond), "trim")


def test_a_clip_without_any_range_is_an_error():
    clip = otio_clip()
    with pytest.raises(RangeError, match="no-range"):
        edit.used_range(clip, media(clip))


def test_a_foreign_clip_becomes_a_job_with_the_effects_settings():
    clip = otio_clip(span(86500, 48), effects=[settings_effect({"path.smoothness": 70}, preset="locked")])
    job = edit.job_of_clip(clip, file(timecode="01:00:00:00"), "j", "/o.mov")
    assert (job.render_range, job.analysis_range) == (FrameRange(100, 48), FrameRange.between(0, 148 + 144))
    assert (job.settings.path.mode, job.settings.path.smoothness) == ("locked", 70.0)


def test_a_disabled_effect_and_other_effects_say_nothing():
    disabled = settings_effect({"path.smoothness": 70.0})
    disabled.enabled = False
    foreign = otio.schema.Effect(effect_name="Resolve Effect", metadata={"Resolve_OTIO": {"Name": "Transform"}})
    assert edit.settings_of(otio_clip(effects=[disabled, foreign])) == Settings()


@pytest.mark.parametrize(
    ("effect", "code"),
    [
        (otio.schema.Effect(effect_name="VS3R", metadata={"vs3r": {"schema": 99, "settings": {}}}), "newer-settings"),
        (settings_effect({"path.smoothnes": 1}), "unknown-setting"),
        (settings_effect({"path.smoothness": 900}), "bad-setting"),
        (settings_effect({}, preset="shaky"), "unknown-preset"),
    ],
)
def test_an_effect_that_cannot_be_meant_is_refused(effect, code):
    with pytest.raises(SettingsError) as caught:
        edit.settings_of(otio_clip(effects=[effect]))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "text", ["", "garbage", "[1]", '{"a":1}', '{"OTIO_SCHEMA":"Foo.1"}', '{"OTIO_SCHEMA":"Clip.99"}', '{"OTIO_SCHEMA":"Gap.1"}']
)
def test_what_is_no_otio_clip_is_refused(text):
    with pytest.raises(InputError, match="not-otio"):
        edit.read_clip(text)


def test_importing_edit_reaches_no_pixels():
    code = "import sys, vs3r_engine.media.edit; print([m for m in ('numpy', 'cv2', 'torch', 'av') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}).stdout.strip() == "[]"
