# SPDX-License-Identifier: Apache-2.0
"""Scene cuts: every frame once, in order, lazily, and a new shot where the scene changes."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine.frame import Frame
from vs3r_engine.stages.reconstruct import shots


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
    code = "from vs3r_engine.stages.reconstruct import shots; import os; print(len(list(shots([]))), os.environ['PATH'])"
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=1) == ["0", environment["PATH"] + "\n"] and not trace.exists()
