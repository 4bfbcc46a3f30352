# SPDX-License-Identifier: Apache-2.0
"""What an analysis says once it lies on disk, and what of it renderers are handed with each frame."""

import os
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from vs3r_engine import pipeline
from vs3r_engine.camera import Trajectory
from vs3r_engine.errors import EngineFault
from vs3r_engine.frame import Frame, PixelLayout
from vs3r_engine.job import Job
from vs3r_engine.lens import Lens
from vs3r_engine.media.analysis import Analysis, AnalysisWriter, source_key
from vs3r_engine.media.source import VideoSource
from vs3r_engine.scene import Moving, PictureBounds, Reconstruction, Rendered
from vs3r_engine.settings import Settings
from vs3r_engine.timeline import Clip, FrameRange

FIRST, SIZE, SMALL = 100, (64, 48), (12, 19)
BAD, REPEATED = 103, 106
BOUNDS = PictureBounds((1, 2, 3, 4), (0, 2, 0, 4))


def piece(start: int, count: int) -> Reconstruction:
    """Every array of frame i is i-ish, and its own."""
    index = np.arange(start, start + count)
    path = Trajectory(
        start,
        *SIZE,
        np.eye(3) * index[:, None, None],
        np.eye(4) * (index + 0.5)[:, None, None],
        np.broadcast_to(index[:, None, None, None], (count, 2, 3, 2)).astype(np.float32),
        (Lens("double-sphere", (0.1, -0.02), 1.5) if start < 108 else Lens("division", (-0.1,)),) * count,
    )
    depth = np.broadcast_to(index[:, None, None] / 10, (count, *SMALL)).astype(np.float32).copy()
    depth[:, :3] = np.nan
    diagnostics = {"is_bridged": np.isin(index, (BAD, REPEATED)), "is_repeated": index == REPEATED, "track_count": index * 2}
    return Reconstruction(path, depth, np.ones_like(depth), None, diagnostics, {"last_piece": start})


def mask_of(start: int, count: int) -> np.ndarray:
    mask = np.zeros((count, *SMALL), bool)
    for i in range(count):
        mask[i, 4, : (start + i) % SMALL[1]] = True
    return mask


def moving_of(start: int, count: int) -> Moving:
    mask = mask_of(start, count)
    return Moving(mask, None if start == 108 else mask[:, ::2, ::4] * np.float32(0.25))


@pytest.fixture
def analysis(tmp_path) -> Analysis:
    """Frames 100..112 in pieces of 5, 3 and 4; a cut at 108; an overlay at the right."""
    writer = AnalysisWriter(tmp_path, {"method": "by hand"})
    for start, count, starts_shot in ((100, 5, True), (105, 3, False), (108, 4, True)):
        writer.add(piece(start, count), moving_of(start, count), starts_shot)
    with pytest.raises(EngineFault):
        writer.add(piece(113, 2), moving_of(113, 2), False)
    overlay = np.zeros(SMALL, bool)
    overlay[9:, 15:] = True
    writer.finish(BOUNDS, overlay)
    return Analysis(tmp_path)


def test_a_shot_ends_where_nothing_shows_how_the_camera_moved(tmp_path):
    writer = AnalysisWriter(tmp_path, {})
    for start, count, starts_shot in ((100, 5, True), (105, 3, False), (108, 4, True)):
        whole = piece(start, count)
        whole.diagnostics["is_apart"] = np.isin(np.arange(start, start + count), (103, 105))
        writer.add(whole, moving_of(start, count), starts_shot)
    writer.finish()
    assert [(shot.start, shot.end_exclusive) for shot in Analysis(tmp_path).shots] == [(100, 103), (103, 105), (105, 108), (108, 112)]


def test_everything_comes_back_from_disk_with_its_frame(analysis):
    assert (analysis.frame_range, analysis.shots) == (FrameRange(100, 12), [FrameRange(100, 8), FrameRange(108, 4)])
    counted = {"shots": 2, "breaks": 0, "bridged_frames": 2, "moving_percent": 4.6, "overlay_percent": 5.3}
    assert analysis.findings == {"method": "by hand", "last_piece": 105} | counted, "the longer shot speaks for the clip"
    assert analysis.bounds == BOUNDS
    assert analysis.trajectory.lenses == piece(FIRST, 8).trajectory.lenses + piece(108, 4).trajectory.lenses
    whole = piece(FIRST, 12)
    for name in ("K", "world_from_camera", "residual_px"):
        np.testing.assert_array_equal(getattr(analysis.trajectory, name), getattr(whole.trajectory, name))
    assert analysis.plane_depth == pytest.approx(np.arange(100, 112) / 10)
    assert analysis.moving_share == pytest.approx(mask_of(FIRST, 12).mean(axis=(1, 2)))
    assert analysis.diagnostics["track_count"].tolist() == list(range(200, 224, 2))
    assert np.flatnonzero(analysis.is_bad).tolist() == [BAD - FIRST], "one that is only repeated is a picture like any other"
    overlay = analysis.overlay_mask
    assert overlay.sum() == 12
    for i in range(12):
        np.testing.assert_array_equal(analysis.depth(FIRST + i), whole.depth[i])
        np.testing.assert_array_equal(analysis.dynamic_mask(FIRST + i), mask_of(FIRST, 12)[i] | overlay)
        expected = None if FIRST + i >= 108 else moving_of(FIRST, 12).own_motion[i]
        np.testing.assert_array_equal(analysis.own_motion(FIRST + i), expected)


class Grey(VideoSource):
    def __init__(self, clip: Clip) -> None:
        self.info = SimpleNamespace(clip=clip)

    def _decode(self, frame_range):
        for index in frame_range:
            yield Frame(index, (np.full((SIZE[1], SIZE[0]), index, np.uint8),), PixelLayout("gray", 8))

    def close(self) -> None:
        pass


class Recorder:
    """A renderer that shows the source as it is and remembers what it was given."""

    def __init__(self) -> None:
        self.given = []

    def render(self, target, current, neighbours):
        self.given.append((target, current, [view.frame.frame_index for view in neighbours]))
        shown = np.zeros((SIZE[1], SIZE[0]), bool)
        shown[10:20, :32] = True
        return Rendered(current.frame, shown, target)


def test_a_renderer_is_given_each_frames_own_scene_and_no_neighbour_across_a_cut_or_of_a_guessed_camera(analysis):
    clip = Clip("x", Fraction(30), *SIZE, FrameRange(0, 200))
    job = Job("1", clip, FrameRange(101, 10), analysis.frame_range, "out.mkv", Settings().with_values({"frame.framing": "show-edges"}))
    path = replace(analysis.trajectory, K=analysis.trajectory.K * 2)
    recorder, shares = Recorder(), {}
    methods = SimpleNamespace(renderer=recorder, completer=None, neighbours=(-2, -1, 1, 2))
    frames = list(pipeline.render_frames(job, analysis, path, job.render_range, Grey(clip), methods, shares))
    assert [frame.frame_index for frame in frames] == list(range(101, 111))
    around = {target.frame_index: neighbours for target, _, neighbours in recorder.given}
    assert around[101] == [100, 102] and around[104] == [102, 105, 106] and around[106] == [104, 105, 107]
    assert around[107] == [105, 106] and around[108] == [109, 110]
    whole = piece(FIRST, 12)
    for target, current, _ in recorder.given:
        i = target.frame_index - FIRST
        assert current.frame.frame_index == target.frame_index and current.is_bad == (target.frame_index == BAD)
        np.testing.assert_array_equal(target.camera.K, 2 * whole.trajectory.K[i])
        np.testing.assert_array_equal(current.camera.K, whole.trajectory.K[i])
        np.testing.assert_array_equal(current.depth, whole.depth[i])
        np.testing.assert_array_equal(current.dynamic_mask, mask_of(FIRST, 12)[i] | analysis.overlay_mask)
        assert current.inset_px == BOUNDS.inset_px and current.overlay_mask is analysis.overlay_mask
    assert shares == dict.fromkeys(range(101, 111), round(10 * 32 / (64 * 42), 5)), "bars are nothing that was missing"
    assert frames[0].planes[0][12, 40] == 101 and frames[0].planes[0][12, 20] == 16 == frames[0].planes[0][0, 40]


class OfWholeShots:
    """A completer that has to be given shots from their first frame, and remembers what it was given."""

    whole_shots, reach_frames = True, 2

    def __init__(self) -> None:
        self.given = []

    def keeps(self, frame_index: int) -> bool:
        return False

    def complete(self, rendered, views):
        for item in rendered:
            self.given.append(item.target.frame_index)
            yield item.frame


@pytest.mark.parametrize(("asked", "first"), [(FrameRange(105, 2), 101), (FrameRange(107, 3), 101), (FrameRange(110, 1), 108)])
def test_a_completer_of_whole_shots_is_given_them_from_their_first_rendered_frame(analysis, asked, first):
    clip = Clip("x", Fraction(30), *SIZE, FrameRange(0, 200))
    job = Job("1", clip, FrameRange(101, 10), analysis.frame_range, "out.mkv", Settings())
    completer = OfWholeShots()
    methods = SimpleNamespace(renderer=Recorder(), completer=completer, neighbours=())
    frames = list(pipeline.render_frames(job, analysis, analysis.trajectory, asked, Grey(clip), methods))
    assert [frame.frame_index for frame in frames] == list(asked)
    assert completer.given == list(range(first, asked.end_exclusive))


def test_a_sources_key_is_of_its_pictures_alone(tmp_path):
    def write(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    data = bytes(range(256)) * 4096
    clip = source_key(write("a/clip.mov", data))
    assert source_key(write("b/clip.mov", data)) == clip, "wherever it lies"
    for place in (0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        assert source_key(write("c/clip.mov", bytes(changed))) != clip
    images = [write(f"d/in.{i:04d}.png", bytes([i])) for i in range(3)]
    key = source_key(str(tmp_path / "d" / "in.%04d.png"))
    write("d/notes.txt", b"x")
    assert source_key(str(tmp_path / "d" / "in.%04d.png")) == key, "whatever else lies in the folder"
    write("d/in.0001.png", b"y")
    assert source_key(str(tmp_path / "d" / "in.%04d.png")) != key and len(images) == 3
    many = [write(f"e/in.{i:04d}.png", b"x") for i in range(130)]
    key = source_key(str(tmp_path / "e" / "in.%04d.png"))
    os.utime(many[1], (1, 1))
    assert source_key(str(tmp_path / "e" / "in.%04d.png")) != key, "one that is not read was written again"
