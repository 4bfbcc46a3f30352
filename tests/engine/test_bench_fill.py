# SPDX-License-Identifier: Apache-2.0
"""The fill against picture that was hidden from it."""

import numpy as np
import pytest

from tests.synthetic import make_clip
from vs3r_engine.evaluation import bench_fill
from vs3r_engine.methods.temporal import TemporalCompleter


@pytest.mark.parametrize(("name", "least_db", "least_ssim"), [("zoom_butterfly", 38.5, 0.975), ("quickrot_skater", 27.2, 0.893)])
def test_the_rim_of_a_real_picture_comes_back_when_it_is_hidden(dev_clip, name, least_db, least_ssim):
    rim = bench_fill.measured(dev_clip(name))
    assert rim.psnr_db > least_db and rim.ssim > least_ssim


def test_what_the_fill_sees_is_hidden_and_what_is_measured_is_what_it_made(tmp_path, monkeypatch):
    clip = make_clip("regular", frames=30).write(tmp_path / "clip.mp4")
    filled = bench_fill.measured(clip)
    assert 24 < filled.psnr_db < 60
    monkeypatch.setattr(TemporalCompleter, "complete", lambda _, rendered, views: (item.frame for item in rendered))
    hidden = bench_fill.measured(clip)
    assert hidden.psnr_db < 20 and hidden.ssim < 0.5 and filled.ssim > hidden.ssim + 0.3


def test_each_corner_is_hidden_in_turn():
    clip = make_clip("regular", frames=24, width=90, height=70)
    rims = [bench_fill._rim(clip.frame(i)) for i in range(0, 24, bench_fill.EVERY)]
    assert [[rim[0, 0], rim[0, -1], rim[-1, -1], rim[-1, 0]].count(False) for rim in rims] == [1] * 4
    assert len({tuple(np.packbits(rim)) for rim in rims}) == 4 and {int(rim.sum()) for rim in rims} == {90 * 10 + 70 * 10 - 10 * 10}


def test_it_needs_a_folder_of_videos(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["bench-fill"])
    assert bench_fill.main() == 2
    monkeypatch.setattr("sys.argv", ["bench-fill", str(tmp_path / "none")])
    assert bench_fill.main() == 1 and "[no-folder]" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["bench-fill", str(tmp_path)])
    assert bench_fill.main() == 1 and "[no-videos]" in capsys.readouterr().err
