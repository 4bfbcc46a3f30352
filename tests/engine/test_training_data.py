# SPDX-License-Identifier: Apache-2.0
"""Pairs for training: the shake, the reprojection with real holes, the judge, and a data set that goes on where it
stopped.
"""

import json
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.synthetic import make_clip  # noqa: E402
from vs3r_engine.errors import InputError, MediaError  # noqa: E402
from vs3r_engine.frame import Frame  # noqa: E402
from vs3r_engine.methods.dis import DisFlow  # noqa: E402
from vs3r_engine.methods.warp import WarpRenderer  # noqa: E402
from vs3r_engine.scene import Reconstruction, Rendered, View  # noqa: E402
from vs3r_engine.settings import Settings  # noqa: E402
from vs3r_engine.training import curate, degrade, samples  # noqa: E402

FRAMES, WIDTH, HEIGHT = 12, 160, 96


@pytest.fixture(scope="module")
def stable():
    return make_clip("regular", frames=FRAMES, width=WIDTH, height=HEIGHT, shake=0.0, seed=3)


def views_of(clip) -> list[View]:
    return [View(clip.frame(i), clip.trajectory.camera(i), None, clip.depth[i], clip.dynamic_mask[i]) for i in range(len(clip))]


class Truth:
    """A Reconstructor that knows."""

    def __init__(self, clip) -> None:
        self.clip = clip

    def reconstruct(self, frames, rate):
        got = list(frames)
        a, b = got[0].frame_index, got[-1].frame_index + 1
        yield Reconstruction(self.clip.trajectory.sliced(a, b), self.clip.depth[a:b], np.ones_like(self.clip.depth[a:b]))


def parts(clip, **changed) -> curate.Parts:
    @contextmanager
    def open_clip(path: Path):
        if path.stem == "broken":
            raise MediaError("media-unreadable", "It is broken.")
        yield iter(clip.frames), Fraction(30)

    def encode(pictures):
        return torch.stack([picture[0] for picture in pictures()], dim=1)

    made = curate.Parts(lambda rate: Truth(clip), DisFlow(), WarpRenderer(), Settings().analysis, open_clip, encode)
    return replace(made, **changed)


def settings(**changed) -> curate.CurateSettings:
    return curate.CurateSettings(**({"window_frames": 5, "area_px": 160 * 96, "seed": 1, "shake_high_deg": 5.0} | changed))


def videos(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").write_bytes(name.encode())
    return folder


def test_hand_shake_is_seeded_and_as_strong_as_it_says():
    first, again, other = (degrade.hand_held(300, 30.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rotvec_rad, again.rotvec_rad)
    assert not np.array_equal(first.rotvec_rad, other.rotvec_rad)
    strengths = [np.rad2deg(degrade.hand_held(300, 30.0, np.random.default_rng(s)).rotvec_rad[:, 0].std()) for s in range(30)]
    assert min(strengths) > 0.25 and max(strengths) < 3.0 and np.ptp(strengths) > 0.5


def test_depth_seen_from_a_camera_beside_is_what_it_would_measure(stable):
    """Against the true depth of the next frame: a rendered one, not the same one shifted."""
    camera, other = stable.trajectory.camera(0), stable.trajectory.camera(FRAMES - 1)
    made, moves = degrade.splatted(stable.depth[0], stable.dynamic_mask[0], camera, other)
    truth = stable.depth[FRAMES - 1]
    error, before = (np.median(np.abs(depth - truth) / truth) for depth in (made, stable.depth[0]))
    assert made.shape == truth.shape and np.isfinite(made).all() and moves.dtype == bool
    assert error < 0.02 and error <= before


def test_reprojection_leaves_the_stable_picture_with_holes_at_the_borders(stable):
    views = views_of(stable)[:6]
    shake = degrade.hand_held(6, 30.0, np.random.default_rng(4))
    strong = replace(shake, rotvec_rad=shake.rotvec_rad * 2, zoom=1.1)
    out = list(degrade.reprojected(views, strong, WarpRenderer(), np.random.default_rng(5)))
    assert [one.frame.frame_index for one in out] == list(range(6))
    shares = [one.hole_mask.mean() for one in out]
    assert 0.01 < np.mean(shares) < 0.6
    for view, one in zip(views, out, strict=True):
        valid = ~one.hole_mask
        error = np.abs(one.frame.to_rgb() - view.frame.to_rgb()).mean(axis=2)
        assert error[valid].mean() < 0.06
        assert one.hole_mask[:, [0, -1]].any() or one.hole_mask[[0, -1]].any()


class TornInTheShakenView:
    """A renderer that leaves a hole when shaking, and copies when bringing back."""

    def render(self, target, current, neighbours):
        hole = np.zeros((HEIGHT, WIDTH), bool)
        if current.frame.layout.model == "yuv" and not neighbours:
            hole[30:50, 40:70] = True
        return Rendered(current.frame, hole, target)


def test_what_the_shaken_picture_did_not_hold_is_a_hole_after_reprojection(stable):
    views = views_of(stable)[:3]
    shake = degrade.hand_held(3, 30.0, np.random.default_rng(4))
    for one in degrade.reprojected(views, shake, TornInTheShakenView(), np.random.default_rng(5)):
        assert one.hole_mask[30:50, 40:70].all() and one.hole_mask.sum() == 600


def test_no_shake_gives_the_picture_back(stable):
    views = views_of(stable)[:3]
    still = degrade.Shake(np.zeros((3, 3)), np.zeros((3, 3)), 1.0)
    out = list(degrade.reprojected(views, still, WarpRenderer(), np.random.default_rng(0)))
    assert all(not one.hole_mask.any() for one in out)
    assert all((one.frame.planes[0] == view.frame.planes[0]).all() for view, one in zip(views, out, strict=True))


def test_faults_are_seeded_and_holes_only_grow():
    picture, hole = np.full((40, 60, 3), 0.5, np.float32), np.zeros((40, 60), bool)
    hole[:5] = True
    faults = degrade.Augmentation((0.1, 0.0, 0.0, 0.2), 0.02, 0.01, 0.8, 7)
    a, b, c = (degrade.augmented(picture, hole, faults, frame) for frame in (3, 3, 4))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[1], c[1])
    assert (a[1] | ~hole).all() and a[1][:, :6].all() and a[1][32:].all() and 0.01 < a[1][6:30, 8:].mean() < 0.04
    assert 0.4 < a[0].mean() < 0.6 and a[0].dtype == np.float32
    assert len({degrade.augmentation(np.random.default_rng(s)).seed for s in range(5)}) == 5


def test_curation_makes_pairs_goes_on_and_repeats_itself(stable, tmp_path):
    source = videos(tmp_path / "in", "a", "b", "broken")
    first = list(curate.curate(source, tmp_path / "out", parts(stable), settings()))
    assert [(Path(done.source).stem, done.samples) for done in first] == [("a", 2), ("b", 2), ("broken", 0)]
    assert first[2].rejected == {"media-unreadable": 1}
    assert list(curate.curate(source, tmp_path / "out", parts(stable), settings())) == []
    videos(source, "c")
    assert [Path(done.source).stem for done in curate.curate(source, tmp_path / "out", parts(stable), settings())] == ["c"]
    data = samples.Dataset(tmp_path / "out")
    assert len(data) == 6 and data[0].clean.shape == (3, 5, 96, 160)
    black = (data[0].condition == -1).all(dim=0)
    assert 0.003 < black.float().mean() < 0.6
    kept = ~black.expand(3, -1, -1, -1)
    assert (data[0].condition - data[0].clean)[kept].abs().mean() < 0.2
    list(curate.curate(source, tmp_path / "again", parts(stable), settings()))
    assert torch.equal(samples.Dataset(tmp_path / "again")[3].condition, data[3].condition)
    assert not torch.equal(data[0].condition, data[2].condition)
    facts = json.loads((tmp_path / "out" / samples.MANIFEST).read_text().splitlines()[1])["samples"][0]
    assert facts["start"] == 0 and 0 < facts["hole_share"] < 0.6 and facts["error"] < 0.12
    with pytest.raises(InputError, match="data-settings-changed"):
        list(curate.curate(source, tmp_path / "out", parts(stable), settings(seed=2)))


def test_windows_never_cross_a_cut(stable, tmp_path):
    other = make_clip("parallax", frames=FRAMES, width=WIDTH, height=HEIGHT, shake=0.0, seed=9)

    class Both:
        frames = (*stable.frames[:9], *(replace(frame, frame_index=9 + i) for i, frame in enumerate(other.frames[:9])))

    class Cut(Truth):
        def reconstruct(self, frames, rate):
            got = list(frames)
            clip, offset = (stable, 0) if got[0].frame_index < 9 else (other, 9)
            n = len(got)
            path = replace(clip.trajectory.sliced(0, n), first_frame=offset)
            yield Reconstruction(path, clip.depth[:n], np.ones_like(clip.depth[:n]))

    made = parts(Both, reconstructor=lambda rate: Cut(None))
    list(curate.curate(videos(tmp_path / "in", "a"), tmp_path / "out", made, settings()))
    lines = (tmp_path / "out" / samples.MANIFEST).read_text().splitlines()
    line = json.loads(lines[1])
    assert all(s["start"] in (0, 9) for s in line["samples"]) and len(line["samples"]) + sum(line["rejected"].values()) == 2


@pytest.mark.parametrize("fault", ["not-stable", "dark-or-flat", "blurred", "photograph", "camera-lost"])
def test_clips_not_worth_learning_from_are_left_out(fault, stable):
    views = views_of(stable)
    bridged = 0.0
    if fault == "not-stable":
        views = views_of(make_clip("running", frames=FRAMES, width=WIDTH, height=HEIGHT, shake=1.0, seed=3))
    elif fault == "camera-lost":
        bridged = 0.5
    elif fault == "photograph":
        views = [replace(view, frame=views[0].frame) for view in views]
    else:
        flat = {"dark-or-flat": 0.02, "blurred": None}[fault]

        def spoiled(frame: Frame) -> Frame:
            if flat is not None:
                return frame.with_rgb(np.full((HEIGHT, WIDTH, 3), flat, np.float32))
            ramp = np.linspace(0.1, 0.9, WIDTH, dtype=np.float32)[None, :, None]
            return frame.with_rgb(np.tile(ramp, (HEIGHT, 1, 3)))

        views = [replace(view, frame=spoiled(view.frame)) for view in views]
    chosen = settings(shake_high_deg=0.1)
    assert curate.unsuitable(views, bridged, 30.0, chosen) == fault
    assert curate.unsuitable(views_of(stable), 0.0, 30.0, chosen) is None


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(InputError, match="no-videos"):
        list(curate.curate(tmp_path, tmp_path / "out", None, settings()))


@pytest.mark.parametrize("wrong", [["--every", "0"], ["--switch-every", "0"], ["--accumulate", "0"], ["--held-out", "-1"], ["--rank", "0"]])
def test_options_that_mean_nothing_are_refused(wrong, tmp_path):
    from typer.testing import CliRunner

    from vs3r_engine.app.train import app

    assert CliRunner().invoke(app, ["lora", str(tmp_path), str(tmp_path / "run"), *wrong]).exit_code == 2


def test_the_command_line_curates_and_trains(tmp_path, stable):
    """Both commands, on tiny models and with the real default methods, from a video file to adapters."""
    pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    from typer.testing import CliRunner

    from vs3r_engine.app.train import app
    from vs3r_engine.methods.diffusion import lora

    (tmp_path / "in").mkdir()
    make_clip("regular", frames=14, width=192, height=112, shake=0.0, seed=3).write(tmp_path / "in" / "a.mp4")
    tiny = ["--weights", "random:1:small", "--device", "cpu"]
    runner = CliRunner()
    made = runner.invoke(app, ["curate", str(tmp_path / "in"), str(tmp_path / "data"), "--window", "5", *tiny], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    data = samples.Dataset(tmp_path / "data")
    assert data[0].clean.shape[0] == 16
    trained = runner.invoke(
        app,
        ["lora", str(tmp_path / "data"), str(tmp_path / "run"), "--steps", "2", "--held-out", "1", *tiny],
        catch_exceptions=False,
    )
    assert trained.exit_code == 0, trained.output
    assert set(lora.find(tmp_path / "run" / "adapters")) == {"high", "low"}
