# SPDX-License-Identifier: Apache-2.0
"""The whole engine on small exact clips: what comes out, what is kept, what an interruption loses."""

import itertools
import json
import os
import shutil
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.synthetic import make_clip
from vs3r_engine import pipeline
from vs3r_engine.app.cli import app
from vs3r_engine.errors import DiskFull, InputError, MediaError, RangeError
from vs3r_engine.job import Progress, RenderResult
from vs3r_engine.media import kept
from vs3r_engine.media.analysis import source_key
from vs3r_engine.media.decode import open_source, probe
from vs3r_engine.methods.choice import choose_methods
from vs3r_engine.service.cache import DiskStore
from vs3r_engine.settings import Settings
from vs3r_engine.timeline import FrameRange


@pytest.fixture(scope="module")
def shaky_clip(tmp_path_factory) -> Path:
    return make_clip("regular", frames=70, width=192, height=108, seed=3).write(tmp_path_factory.mktemp("clip") / "shaky.mp4")


@pytest.fixture(scope="module")
def shaky_images(tmp_path_factory) -> str:
    """Images that tell no rate."""
    folder = tmp_path_factory.mktemp("images")
    clip = make_clip("regular", frames=24, width=160, height=96, seed=3)
    for index in range(24):
        pixels = np.rint(clip.frame(index).to_rgb() * 255).clip(0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"in.{index:04d}.png"), pixels[..., ::-1])
    return str(folder / "in.%04d.png")


@pytest.fixture
def store(tmp_path) -> DiskStore:
    return DiskStore(tmp_path / "cache")


def run(job, store) -> tuple[list[Progress], RenderResult]:
    *progress, result = pipeline.stabilize(job, store)
    return progress, result


def decoded(path) -> list[np.ndarray]:
    with open_source(str(path)) as source:
        return [frame.planes[0].copy() for frame in source.frames(source.info.clip.available_range)]


def test_a_clip_comes_out_whole_with_its_sidecar(shaky_clip, store, tmp_path):
    job = pipeline.plan(str(shaky_clip), str(tmp_path / "out.mp4"), Settings())
    progress, result = run(job, store)
    frames = decoded(result.output)
    assert len(frames) == 70 and frames[0].shape == (108, 192)
    fractions = [step.fraction for step in progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert (progress[0].stage, progress[0].done, progress[0].total) == ("analyze", 0, 70)
    assert {step.stage for step in progress} == {"analyze", "render"}
    sidecar = json.loads(Path(result.sidecar).read_text())
    assert len(sidecar["measured"]["K"]) == len(sidecar["hole_percent"]) == 70
    assert sidecar["settings"]["path.smoothness"] == 50.0
    assert {"method", "moving_percent", "hole_percent", "shots"} <= set(result.findings)


def test_no_pixel_stays_empty(shaky_clip, store):
    jobs = [pipeline.plan(str(shaky_clip), "unused.mkv", Settings().with_values({"frame.framing": how})) for how in ("show-edges", "full")]
    analysis = list(pipeline.analyze(jobs[0], store))[-1]
    rendered = []
    for job in jobs:
        methods = choose_methods(job.settings, job.clip.rate)
        with open_source(str(shaky_clip)) as source:
            frames = pipeline.render_frames(job, analysis, pipeline.smoothed_path(job, analysis), FrameRange(0, 70), source, methods)
            rendered.append(np.array([frame.planes[0] for frame in frames]))
    edges, full = rendered
    empty = edges == 16
    assert len(full) == 70 and empty.mean() > 0.005, "there was something to fill"
    assert (full[empty] == 16).mean() < 0.02 and np.array_equal(edges[:, 30:-30, 50:-50], full[:, 30:-30, 50:-50])


def test_smoothness_zero_returns_the_input_untouched(shaky_clip, store):
    job = pipeline.plan(str(shaky_clip), "unused.mp4", Settings().with_values({"path.smoothness": 0}))
    analysis = list(pipeline.analyze(job, store))[-1]
    with open_source(str(shaky_clip)) as source:
        methods = choose_methods(job.settings, job.clip.rate)
        out = pipeline.render_frames(job, analysis, pipeline.smoothed_path(job, analysis), FrameRange(0, 10), source, methods)
        for stable, original in zip(out, decoded(shaky_clip)[:10], strict=True):
            assert np.array_equal(stable.planes[0], original)


def test_another_smoothness_does_not_analyse_again(shaky_clip, store, tmp_path):
    run(pipeline.plan(str(shaky_clip), str(tmp_path / "a.mp4"), Settings()), store)
    progress, _ = run(pipeline.plan(str(shaky_clip), str(tmp_path / "b.mp4"), Settings().with_values({"path.smoothness": 80})), store)
    assert {step.stage for step in progress} == {"render"}


def test_a_frame_does_not_depend_on_where_the_render_began(shaky_clip, store):
    job = pipeline.plan(str(shaky_clip), "unused.mp4", Settings())
    analysis = list(pipeline.analyze(job, store))[-1]
    path = pipeline.smoothed_path(job, analysis)
    with open_source(str(shaky_clip)) as source:

        def rendered(start, duration):
            methods = choose_methods(job.settings, job.clip.rate)
            return list(pipeline.render_frames(job, analysis, path, FrameRange(start, duration), source, methods))

        whole = rendered(0, 70)
        for start in (1, 33, 50, 69):
            frames = rendered(start, min(6, 70 - start))
            assert [late.frame_index for late in frames] == list(range(start, min(start + 6, 70)))
            for late in frames:
                for a, b in zip(late.planes, whole[late.frame_index].planes, strict=True):
                    assert np.array_equal(a, b), late.frame_index


def test_a_clip_that_is_replaced_while_it_is_read_gives_no_mixture_and_no_chunks_of_the_next(shaky_clip, store, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "KEPT_BYTES", 0)
    monkeypatch.setattr(pipeline, "CHUNK_FRAMES", 20)
    clip, other = tmp_path / "clip.mp4", make_clip("regular", frames=70, width=192, height=108, seed=5).write(tmp_path / "other.mp4")
    shutil.copy(shaky_clip, clip)
    job = pipeline.plan(str(clip), str(tmp_path / "out.mp4"), Settings())
    steps = pipeline.stabilize(job, store)
    next(steps)
    os.replace(shutil.copy(other, tmp_path / "new.mp4"), clip)
    with pytest.raises(MediaError, match="media-replaced"):
        list(steps)
    assert not Path(job.output).exists()
    _, mended = run(job, store)
    _, clean = run(pipeline.plan(str(other), str(tmp_path / "clean.mp4"), Settings()), DiskStore(tmp_path / "cache2"))
    assert all(map(np.array_equal, decoded(mended.output), decoded(clean.output)))
    steps = pipeline.stabilize(replace(job, output=str(tmp_path / "more.mp4")), store)
    next(steps)
    clip.unlink()
    with pytest.raises(MediaError, match="media-missing"):
        list(steps)
    with pytest.raises(MediaError, match="media-missing"):
        source_key(str(clip))


def test_a_clip_that_grows_while_it_is_read_is_no_other(shaky_clip, store, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "KEPT_BYTES", 0)
    clip = tmp_path / "clip.mp4"
    shutil.copy(shaky_clip, clip)
    steps = pipeline.stabilize(pipeline.plan(str(clip), str(tmp_path / "out.mp4"), Settings()), store)
    next(steps)
    with clip.open("ab") as stream:
        stream.write(bytes(1000))
    assert isinstance(list(steps)[-1], RenderResult)


def test_an_analysis_that_fails_is_not_kept_and_leaves_no_thread(shaky_clip, store, tmp_path, monkeypatch):
    def full(*_):
        raise DiskFull("disk-full", "The disk is full.")

    job = pipeline.plan(str(shaky_clip), str(tmp_path / "out.mp4"), Settings())
    threads = threading.active_count()
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "moving_of", full)
        with pytest.raises(DiskFull) as failed:
            run(job, store)
    # The traceback still holds what was under way: it was closed, not only let go of.
    assert failed.tb is not None and threading.active_count() == threads
    assert pipeline.open_analysis(job, store) is None
    assert run(job, store)[1].render_range.duration == 70


def test_a_job_that_lacked_only_its_joining_goes_on_with_that(shaky_clip, store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise DiskFull("disk-full", "The disk is full.")

    job = pipeline.plan(str(shaky_clip), str(tmp_path / "out.mp4"), Settings(), range_text="10..40")
    with monkeypatch.context() as patched, pytest.raises(DiskFull):
        patched.setattr(pipeline, "assemble", full)
        run(job, store)
    progress, result = run(job, store)
    assert not any(step.stage == "render" for step in progress)
    assert len(decoded(result.output)) == len(json.loads(Path(result.sidecar).read_text())["hole_percent"]) == 30


@pytest.mark.parametrize("lost", ["00000015.segment", "00000015.json"])
def test_a_chunk_that_was_not_finished_is_rendered_again_with_those_after_it(shaky_clip, store, tmp_path, monkeypatch, lost):
    def full(*_, **__):
        raise DiskFull("disk-full", "The disk is full.")

    monkeypatch.setattr(pipeline, "CHUNK_FRAMES", 5)
    job = pipeline.plan(str(shaky_clip), str(tmp_path / "out.mp4"), Settings(), range_text="10..25")
    job = replace(job, analysis_range=FrameRange.between(5, 30))
    with monkeypatch.context() as patched, pytest.raises(DiskFull):
        patched.setattr(pipeline, "assemble", full)
        run(job, store)
    (found,) = (tmp_path / "cache").rglob(lost)
    found.unlink()
    progress, result = run(job, store)
    assert [step.done for step in progress] == list(range(6, 16))
    assert len(decoded(result.output)) == 15


def test_a_range_is_rendered_with_handles_and_equals_that_part_of_the_whole(shaky_clip, store, tmp_path):
    lossless = Settings().with_values({"output.codec": "ffv1"})
    job = pipeline.plan(str(shaky_clip), str(tmp_path / "part.mkv"), lossless, range_text="20..45")
    assert (job.render_range, job.analysis_range) == (FrameRange(20, 25), FrameRange(0, 70))
    _, part = run(job, store)
    _, whole = run(pipeline.plan(str(shaky_clip), str(tmp_path / "whole.mkv"), lossless), store)
    assert all(np.array_equal(a, b) for a, b in zip(decoded(part.output), decoded(whole.output)[20:45], strict=True))
    of_part, of_whole = (json.loads(Path(result.sidecar).read_text()) for result in (part, whole))
    for name in ("hole_percent", "moving_percent"):
        assert of_part[name] == of_whole[name][20:45] and np.ptp(of_part[name]) > 0
    for path in ("measured", "smoothed"):
        assert of_part[path]["world_from_camera"] == of_whole[path]["world_from_camera"][20:45]
    assert of_part["findings"]["hole_percent"] == pytest.approx(np.mean(of_part["hole_percent"]), abs=0.01)


def test_an_interrupted_range_whose_handles_do_not_reach_the_ends_goes_on_and_leaves_no_chunks(shaky_clip, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_FRAMES", 8)
    monkeypatch.setattr("vs3r_engine.job.HANDLES_S", 0.3)
    lossless = Settings().with_values({"output.codec": "ffv1"})
    planned = pipeline.plan(str(shaky_clip), str(tmp_path / "a.mkv"), lossless, range_text="20..45")
    undisturbed = replace(planned, analysis_range=FrameRange.between(11, 54))
    job = replace(undisturbed, output=str(tmp_path / "b.mkv"))
    run(undisturbed, DiskStore(tmp_path / "other"))
    work = pipeline.stabilize(job, store)
    rendered = (step for step in work if step.stage == "render")
    assert [step.done for step in itertools.islice(rendered, 10)] == list(range(1, 11))
    work.close()
    assert not list(tmp_path.glob("b.*")) and not list(tmp_path.rglob("*.part*"))
    progress, result = run(job, store)
    assert [step.done for step in progress] == list(range(8 + 1, 25 + 1)), "what the first chunk holds is not rendered again"
    assert all(np.array_equal(a, b) for a, b in zip(decoded(tmp_path / "a.mkv"), decoded(result.output), strict=True))
    before, after = (json.loads((tmp_path / f"{name}.mkv.vs3r.json").read_text()) for name in ("a", "b"))
    assert before["hole_percent"] == after["hole_percent"] and len(set(after["hole_percent"])) > 8
    analysis = pipeline.open_analysis(job, store)
    assert after["moving_percent"] == pytest.approx(100 * analysis.moving_share[9:34])
    for name, values in analysis.diagnostics.items():
        assert after["diagnostics"][name] == values[9:34].tolist()
    assert not list((tmp_path / "cache").rglob("*.segment"))


def test_the_rate_stated_for_images_is_the_movies_and_another_one_is_another_clip(shaky_images, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK_FRAMES", 8)
    opened = []
    monkeypatch.setattr(pipeline, "open_source", lambda *given: opened.append(given) or open_source(*given))
    lossless = Settings().with_values({"output.codec": "ffv1"})
    slow, fast = (pipeline.plan(shaky_images, str(tmp_path / f"{rate}.mkv"), lossless, sequence_rate=Fraction(rate)) for rate in (25, 50))
    assert (slow.clip.rate, fast.clip.rate) == (25, 50)
    list(pipeline.analyze(slow, store))
    assert pipeline.open_analysis(slow, store) and not pipeline.open_analysis(fast, store)
    work = pipeline.stabilize(slow, store)
    assert sum(1 for _ in itertools.islice(work, 12)) == 12  # the first chunk is done
    work.close()
    progress, result = run(fast, store)
    assert [step.stage for step in progress].count("render") == 24, "neither its analysis nor its chunks are the slow one's"
    assert {step.stage for step in progress} == {"analyze", "render"}
    assert probe(result.output).clip.rate == 50 and json.loads(Path(result.sidecar).read_text())["source"]["rate"] == "50"
    progress, result = run(slow, store)
    assert [step.stage for step in progress].count("render") == 24 - 8
    assert probe(result.output).clip.rate == 25 and len(decoded(result.output)) == 24
    assert set(opened) == {(shaky_images, Fraction(25)), (shaky_images, Fraction(50))}, "the rate is the clip's wherever it is opened"


def test_sequences_in_one_folder_and_parts_of_one_are_different_clips(shaky_images, store, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for index in range(24):
        image = Path(shaky_images % index).read_bytes()
        (folder / f"a.{index:04d}.png").write_bytes(image)
        (folder / f"b.{23 - index:04d}.png").write_bytes(image)

    def planned(name):
        return pipeline.plan(str(folder / name), str(tmp_path / "out.mkv"), Settings().with_values({"output.codec": "ffv1"}))

    whole, other, part = (planned(name) for name in ("a.0000.png", "b.0000.png", "a.[0004-0023].png"))
    list(pipeline.analyze(whole, store))
    assert not pipeline.open_analysis(other, store) and not pipeline.open_analysis(part, store)
    (folder / "b.0007.png").unlink()
    (folder / "notes.txt").touch()
    assert pipeline.open_analysis(planned("a.0000.png"), store), "what else lies in the folder is not the clip's"


def test_a_rate_is_stated_for_images_only(shaky_clip, shaky_images):
    assert pipeline.plan(shaky_images, "out.mp4", Settings()).clip.rate == 24
    with pytest.raises(InputError) as error:
        pipeline.plan(str(shaky_clip), "out.mp4", Settings(), sequence_rate=Fraction(25))
    assert error.value.code == "rate-of-file" and error.value.hint


@pytest.mark.parametrize(("fps", "said"), [("25", '"rate": "25"'), ("29.97", '"rate": "30000/1001"')])
def test_the_engines_own_program_takes_the_rate_of_images(shaky_images, fps, said):
    shown = CliRunner().invoke(app, ["probe", shaky_images, "--fps", fps], catch_exceptions=False)
    assert said in shown.stdout


def test_the_engines_own_program_stabilizes_images_at_their_rate(shaky_images, tmp_path, monkeypatch):
    monkeypatch.setenv("VS3R_CACHE_DIR", str(tmp_path / "cache"))
    words = ["stabilize", shaky_images, "-o", str(tmp_path / "out.mp4"), "--range", "0..3", "--set", "output.codec=h264"]
    assert CliRunner().invoke(app, [*words, "--fps", "30000/1001"], catch_exceptions=False).exit_code == 0
    assert probe(str(tmp_path / "out.mp4")).clip.rate == Fraction(30000, 1001)


@pytest.mark.parametrize(("fps", "code"), [("0", "bad-rate"), ("abc", "bad-rate"), ("25", "rate-of-file")])
@pytest.mark.parametrize("words", [["probe"], ["stabilize", "-o", "never.mp4"]])
def test_the_engines_own_program_refuses_a_rate_that_cannot_be_meant(shaky_clip, words, fps, code):
    refused = CliRunner().invoke(app, [*words, str(shaky_clip), "--fps", fps])
    assert isinstance(refused.exception, InputError) and refused.exception.code == code


def test_a_range_past_the_end_is_an_input_error_before_any_work(shaky_clip):
    with pytest.raises(RangeError) as error:
        pipeline.plan(str(shaky_clip), "out.mp4", Settings(), range_text="60..90")
    assert error.value.code == "range-past-media"


def test_nothing_is_overwritten_unasked(shaky_clip, store, tmp_path):
    target = tmp_path / "taken.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(MediaError) as error:
        run(pipeline.plan(str(shaky_clip), str(target), Settings()), store)
    assert error.value.code == "output-exists" and target.read_bytes() == b"precious"


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("size", [(160, 90), (159, 91)])
def test_the_shortest_clips_and_odd_sizes_come_out(frames, size, store, tmp_path):
    source = make_clip("crowd", frames=frames, width=size[0], height=size[1], seed=1).write(tmp_path / "in.mkv", pix_fmt="yuv444p")
    _, result = run(pipeline.plan(str(source), str(tmp_path / "out.mkv"), Settings()), store)
    assert [plane.shape for plane in decoded(result.output)] == [(size[1], size[0])] * frames


def test_shots_are_stabilized_by_themselves(store, tmp_path):
    import av

    from tests.synthetic import video_frame

    first, second, third = (make_clip(kind, frames=30, width=160, height=90, seed=5) for kind in ("regular", "crowd", "running"))
    path = tmp_path / "cut.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 30)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        frames = [*first.frames, *second.frames[:1], *third.frames[:3], *second.frames[1:], third.frames[9]]
        for i, frame in enumerate(frames):
            picture = video_frame(frame)
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    _, result = run(pipeline.plan(str(path), str(tmp_path / "out.mkv"), Settings()), store)
    sidecar = json.loads(Path(result.sidecar).read_text())
    assert sidecar["shots"] == [[0, 30], [30, 31], [31, 34], [34, 63], [63, 64]] and result.findings["shots"] == 5
    came_out = decoded(result.output)
    assert len(came_out) == 64
    assert result.findings["shake_deg"] > 0, "the longest shot's, not the last one's"
    # A shot of one frame has nothing to be calmed against, and no frame to be filled from.
    assert np.array_equal(came_out[30], frames[30].planes[0])
