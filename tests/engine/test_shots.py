# SPDX-License-Identifier: Apache-2.0
"""Scene cuts: every frame once, in order, lazily, and a new shot where the scene changes."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine.frame import Frame
from vs3r_engine.stages.shots import shots


@pytest.fixture(scope="module")
def two_scenes() -> list[Frame]:
    first = make_clip("regular", frames=24, width=160, height=90, seed=1).frames
    second = make_clip("crowd", frames=24, width=160, height=90, seed=2).frames
    return [replace(frame, frame_index=i) for i, frame in enumerate([*first, *second])]


def starts(frames: list[Frame]) -> list[int]:
    return [next(shot).frame_index for shot in shots(iter(frames))]


def painted(frame: Frame, luma: int) -> Frame:
    return replace(frame, planes=(np.full_like(frame.planes[0], luma), *(np.full_like(p, 128) for p in frame.planes[1:])))


def lit(frame: Frame, gain: float) -> Frame:
    return frame.with_rgb(np.clip(frame.to_rgb() * np.float32(gain), 0, 1))


def test_a_cut_begins_a_shot_and_every_frame_comes_once_in_order(two_scenes):
    found = [[frame.frame_index for frame in shot] for shot in shots(iter(two_scenes))]
    assert found == [list(range(24)), list(range(24, 48))]


def test_what_is_left_of_a_shot_is_skipped_when_the_next_is_asked_for(two_scenes):
    assert starts(two_scenes) == [0, 24]


def test_hand_held_running_is_one_shot():
    assert starts(make_clip("running", frames=40, width=160, height=90, seed=3).frames) == [0]


@pytest.mark.parametrize(("luma", "length"), [(16, 1), (16, 3), (235, 2)])
def test_a_flash_or_a_short_black_does_not_cut(two_scenes, luma, length):
    frames = two_scenes[:24]
    frames = [painted(f, luma) if 10 <= f.frame_index < 10 + length else f for f in frames]
    assert starts(frames) == [0]


@pytest.mark.parametrize("gain", [0.5, 1.6])
def test_light_that_changes_from_one_frame_to_the_next_does_not_cut(two_scenes, gain):
    frames = [lit(f, gain) if f.frame_index >= 12 else f for f in two_scenes]
    assert starts(frames) == [0, 24]


@pytest.fixture(scope="module")
def scenes() -> list[list[Frame]]:
    kinds = "regular", "crowd", "running", "regular"
    return [make_clip(kind, frames=24, width=160, height=90, seed=seed).frames for seed, kind in enumerate(kinds)]


def cut_together(*shots_in_order: list[Frame]) -> list[Frame]:
    return [replace(frame, frame_index=i) for i, frame in enumerate(itertools.chain(*shots_in_order))]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_shots_of_a_frame_or_a_few_are_shots(scenes, length):
    a, b, c, d = scenes
    assert starts(cut_together(a[:12], b[:length], c[:length], d[:12])) == [0, 12, 12 + length, 12 + 2 * length]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_clip_may_begin_and_end_with_a_shot_of_a_frame_or_a_few(scenes, length):
    a, b, c, _ = scenes
    assert starts(cut_together(a[:length], b[:12], c[:length])) == [0, length, length + 12]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_short_shot_between_two_parts_of_another_is_a_shot(scenes, length):
    a, b, *_ = scenes
    assert starts(cut_together(a[:12], b[:length], a[12:])) == [0, 12, 12 + length]


def test_a_single_strange_frame_is_a_glitch(scenes):
    a, b, *_ = scenes
    assert starts(cut_together(a[:12], b[:1], a[13:])) == [0]


def garbage(like: Frame, seed: int) -> Frame:
    """Blocks of any colour."""
    blocks = np.random.default_rng(seed).random((9, 16, 3), np.float32)
    return like.with_rgb(np.ascontiguousarray(blocks.repeat(10, axis=0).repeat(10, axis=1)))


def coloured_like(scene: Frame, detail_of: Frame) -> Frame:
    """Another scene in the same colours and light."""
    coarse, other = (cv2.GaussianBlur(frame.to_rgb(), (0, 0), 8) for frame in (scene, detail_of))
    return scene.with_rgb(np.clip(coarse + detail_of.to_rgb() - other, 0, 1))


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_garbage_that_a_shot_survives_does_not_cut(scenes, length, frozen):
    a = scenes[0]
    strange = [garbage(a[0], 0 if frozen else i) for i in range(length)]
    assert starts(cut_together(a[:12], strange, a[12 + length :])) == [0]


def test_what_is_another_picture_in_every_frame_is_one_shot(scenes):
    assert starts(cut_together([garbage(scenes[0][0], i) for i in range(20)])) == [0]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_focus_that_a_shot_loses_and_finds_does_not_cut(scenes, length):
    a, b, *_ = scenes
    lost = [f.with_rgb(cv2.GaussianBlur(f.to_rgb(), (0, 0), 6)) for f in b[12 : 12 + length]]
    assert starts(cut_together(a[:12], lost, a[12 + length :])) == [0]


def test_after_a_single_frame_another_scene_in_the_colours_of_the_first_is_a_shot(scenes):
    a, b, c, _ = scenes
    assert starts(cut_together(a[:12], b[:1], [coloured_like(f, g) for f, g in zip(a[:12], c[:12], strict=True)])) == [0, 12, 13]


def test_after_a_flash_a_shot_goes_on_though_nothing_stands_where_it_stood(scenes):
    a, _, c, _ = scenes
    flash = [painted(f, 235) for f in a[:2]]
    assert starts(cut_together(a[:12], flash, [coloured_like(f, g) for f, g in zip(a[:12], c[:12], strict=True)])) == [0]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_negative_that_a_shot_survives_does_not_cut(scenes, length):
    a = scenes[0]
    assert starts(cut_together(a[:12], [f.with_rgb(1 - f.to_rgb()) for f in a[12 : 12 + length]], a[12 + length :])) == [0]


@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_in_a_shot_that_just_began_does_not_cut_again(scenes, length):
    a, b, *_ = scenes
    flash = [painted(f, 235) for f in b[2 : 2 + length]]
    assert starts(cut_together(a[:12], b[:2], flash, b[2 + length :])) == [0, 12]


def test_a_camera_thrown_around_just_after_a_cut_does_not_cut_again(scenes):
    """A picture that moves by a fifth at once is the same elsewhere."""
    a, b, _, d = scenes
    wide = np.concatenate([frame.to_rgb() for frame in (b[0], d[0])], axis=1)
    thrown = [b[0].with_rgb(np.ascontiguousarray(wide[:, x : x + 160])) for x in (0, 34, 34, *[68] * 9)]
    assert starts(cut_together(a[:12], thrown)) == [0, 12]


def slow_pan(scene: list[Frame], repeats: int) -> list[Frame]:
    """From one side to the other of a scene, in steps of an eighth of what is shown, every picture `repeats` times."""
    side = scene[0].width // 2
    crops = (scene[0].to_rgb()[:, x : x + side] for x in range(0, side, side // 8))
    return [scene[0].with_rgb(np.ascontiguousarray(crop.repeat(2, axis=1))) for crop in crops for _ in range(repeats)]


@pytest.mark.parametrize("repeats", [3, 4, 12])
def test_every_picture_of_a_slower_camera_repeated_does_not_cut_but_cuts_do(scenes, repeats):
    a, b, *_ = scenes
    moving = slow_pan(a, repeats)[repeats - 1 :]
    assert starts(cut_together(moving, slow_pan(b, repeats))) == [0, len(moving)]


def test_slides_are_shots(scenes):
    assert starts(cut_together(*([scene[0]] * 14 for scene in scenes))) == [0, 14, 28, 42]


def test_frames_are_read_only_a_handful_ahead(two_scenes):
    read = []

    def source():
        for frame in two_scenes:
            read.append(frame.frame_index)
            yield frame

    shot = next(iter(shots(source())))
    next(shot)
    assert len(read) <= 8


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_very_short_clips_are_at_most_one_shot(two_scenes, count):
    assert [len(list(shot)) for shot in shots(iter(two_scenes[:count]))] == [count] * (count > 0)


def test_tiny_pictures_are_shots_too():
    assert starts(make_clip("regular", frames=8, width=16, height=16, seed=0).frames) == [0]


def test_finding_cuts_starts_no_other_program(tmp_path):
    """PySceneDetect looks for ffmpeg by running it when it is imported."""
    ffmpeg, trace = tmp_path / "ffmpeg", tmp_path / "was started"
    ffmpeg.write_text(f"#!/bin/sh\n: > '{trace}'\n")
    ffmpeg.chmod(0o755)
    code = "from vs3r_engine.stages.shots import shots; import os; print(len(list(shots([]))), os.environ['PATH'])"
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=1) == ["0", environment["PATH"] + "\n"] and not trace.exists()
