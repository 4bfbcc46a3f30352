# SPDX-License-Identifier: Apache-2.0
"""Windows over a shot, and generated pixels into full-resolution frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vs3r_engine.camera import Camera
from vs3r_engine.errors import SettingsError
from vs3r_engine.frame import ColourTags, Frame, PixelLayout
from vs3r_engine.scene import Rendered, Target
from vs3r_engine.stages import composite

TARGET = Target(0, Camera(np.eye(3), 1, 1, np.eye(4)), None)
LAYOUTS = [
    PixelLayout("yuv", 8, 1, 1),
    PixelLayout("yuv", 10, 1, 0),
    PixelLayout("yuv", 12),
    PixelLayout("rgb", 16),
    PixelLayout("rgb", 32, has_alpha=True),
    PixelLayout("gray", 8),
]


def frame_of(picture: np.ndarray, layout: PixelLayout = LAYOUTS[0], frame_index: int = 0) -> Frame:
    height, width = picture.shape[:2]
    empty = tuple(np.zeros(layout.plane_shape(i, width, height), layout.dtype) for i in range(layout.plane_count))
    return Frame(frame_index, empty, layout, ColourTags(1, 1, 1)).with_rgb(picture)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [0.5 + 0.35 * np.sin(2 * np.pi * (rng.uniform(1, 4) * x + rng.uniform(1, 4) * y + rng.uniform())) for _ in range(3)]
    return np.dstack(waves).astype(np.float32)


@given(st.integers(1, 400), st.integers(1, 20), st.data())
def test_windows_cover_every_frame_and_their_weights_sum_to_one(count, quarter, data):
    window = 4 * quarter + 1
    overlap = data.draw(st.integers(0, window // 2))
    windows = composite.plan_windows(count, window, overlap)
    weights = composite.window_weights(windows, count)
    total = np.zeros(count)
    for (start, end), weight in zip(windows, weights, strict=True):
        assert end - start == min(window, count) and (weight > 0).all()
        total[start:end] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_two_windows_cross_fade_linearly():
    first, second = composite.window_weights(composite.plan_windows(13, 8, 3), 13)
    np.testing.assert_allclose(first[5:], [0.75, 0.5, 0.25])
    np.testing.assert_allclose(second[:3], [0.25, 0.5, 0.75])


@pytest.mark.parametrize(("count", "padded"), [(1, 1), (2, 5), (4, 5), (5, 5), (80, 81), (81, 81), (82, 85), (200, 201)])
def test_padding_mirrors_the_tail_and_moves_no_frame(count, padded):
    indices = composite.padded_indices(count)
    assert len(indices) == padded == composite.padded_count(count)
    assert indices[:count] == list(range(count))
    assert all(abs(a - b) <= 1 for a, b in itertools.pairwise(indices))
    assert composite.latent_count(padded) == 1 + len(range(1, padded, 4))


@pytest.mark.parametrize(("window", "overlap"), [(80, 20), (81, 41), (1, 0)])
def test_windows_that_the_model_cannot_take_are_refused(window, overlap):
    with pytest.raises(SettingsError, match="bad-window"):
        composite.check_window(window, overlap)
    composite.check_window(81, 40)


@pytest.mark.parametrize(
    ("size", "area", "expected"),
    [
        ((1920, 1080), 832 * 480, (832, 464)),
        ((1920, 1080), 1280 * 720, (1280, 720)),
        ((1080, 1920), 1280 * 720, (720, 1280)),
        ((46, 30), 48 * 32, (48, 16)),
        ((4096, 16), 832 * 480, (10096, 32)),
    ],
)
def test_the_working_size_keeps_the_shape(size, area, expected):
    columns, rows = composite.working_size(*size, area)
    assert columns % 16 == rows % 16 == 0 and columns * rows <= area
    assert (columns, rows) == expected


def test_a_reduced_picture_holds_nothing_of_its_holes_and_is_known_from_half_a_pixel_on():
    picture = np.full((60, 80, 3), 0.6, np.float32)
    hole = np.zeros((60, 80), bool)
    hole[:30, :12] = hole[30:, :13] = True
    picture[hole] = 17.0
    small, small_hole = composite.reduced(picture, hole, (16, 12), hole_value=0.0)
    np.testing.assert_allclose(small[~small_hole], 0.6, atol=1e-6)
    assert small_hole[:6, :2].all() and not small_hole[:6, 2:].any() and (small[small_hole] == 0).all()
    assert small_hole[6:, :3].all() and not small_hole[6:, 3:].any()


def test_a_reduced_picture_is_the_mean_of_what_it_stands_for_and_no_highlight_outshines_it():
    picture = np.random.default_rng(0).random((60, 80, 3), np.float32)
    none = np.zeros((60, 80), bool)
    means = picture.reshape(12, 5, 16, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(composite.reduced(picture, none, (16, 12), 0.0)[0], means, atol=1e-5)
    picture[2, 3] = 1.0
    bright = picture.copy()
    bright[2, 3] = 50.0
    np.testing.assert_array_equal(*(composite.reduced(p, none, (16, 12), 0.0)[0] for p in (picture, bright)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("size", [(64, 96), (45, 71)])
def test_holes_only_leaves_every_sample_beyond_the_feather_untouched(layout, size):
    height, width = size
    rng = np.random.default_rng(3)
    frame = frame_of(rng.uniform(size=(height, width, 3)).astype(np.float32), layout)
    hole = np.zeros((height, width), bool)
    hole[:, :11] = hole[20:31, 40:52] = True
    out = composite.fill_holes(Rendered(frame, hole, TARGET), smooth_picture(height // 2, width // 2))
    reach = composite.feather_px(height) + 2
    near = np.array(
        [[hole[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].any() for x in range(width)] for y in range(height)]
    )
    for plane, (old, new) in enumerate(zip(frame.planes, out.planes, strict=True)):
        is_alpha = layout.has_alpha and plane == len(frame.planes) - 1
        rows, columns = old.shape
        near_plane = np.zeros((2 * rows, 2 * columns), bool)
        near_plane[:height, :width] = near
        if (rows, columns) != (height, width):
            steps = -(-height // rows), -(-width // columns)
            near_plane = np.pad(near, ((0, rows * steps[0] - height), (0, columns * steps[1] - width)))
            near_plane = near_plane.reshape(rows, steps[0], columns, steps[1]).any(axis=(1, 3))
        else:
            near_plane = near
        assert (old[~near_plane] == new[~near_plane]).all()
        assert is_alpha or (old[near_plane] != new[near_plane]).any()
        assert new.dtype == old.dtype


def test_generated_pixels_fill_the_holes_themselves():
    height, width = 72, 128
    truth = smooth_picture(height, width)
    hole = np.zeros((height, width), bool)
    hole[:, 90:] = True
    broken = truth.copy()
    broken[hole] = 0
    out = composite.fill_holes(Rendered(frame_of(broken, PixelLayout("rgb", 16)), hole, TARGET), truth)
    assert np.abs(out.to_rgb() - truth).max() < 2e-5


def test_generated_pixels_fade_into_the_valid_ones_within_the_feather():
    hole = np.zeros((1080, 64), bool)
    hole[:, :20] = True
    black, white = np.zeros((1080, 64, 3), np.float32), np.ones((540, 32, 3), np.float32)
    out = composite.fill_holes(Rendered(frame_of(black, PixelLayout("rgb", 32)), hole, TARGET), white)
    np.testing.assert_allclose(out.planes[0][500, 18:25], [1, 1, 0.75, 0.5, 0.25, 0, 0], atol=1e-6)


def test_a_chroma_sample_is_generated_where_any_of_its_pixels_is():
    hole = np.zeros((64, 96), bool)
    hole[:, 41] = True  # with its feather 39 to 43: the second column of one sample and the second of another
    grey, red = np.full((64, 96, 3), 0.5, np.float32), np.full((64, 96, 3), (0.9, 0.1, 0.1), np.float32)
    frame = frame_of(grey)
    out = composite.fill_holes(Rendered(frame, hole, TARGET), red)
    assert np.flatnonzero(out.planes[2][30] != frame.planes[2][30]).tolist() == [19, 20, 21]


def test_a_generated_picture_in_place_of_the_frame_is_enlarged_where_it_is():
    truth = smooth_picture(72, 128)
    out = composite.replace_frame(Rendered(frame_of(0 * truth, PixelLayout("rgb", 16)), np.ones((72, 128), bool), TARGET), truth)
    assert np.abs(out.to_rgb() - truth).max() < 2e-5
    half = truth.reshape(36, 2, 64, 2, 3).mean(axis=(1, 3))
    out = composite.replace_frame(Rendered(frame_of(0 * truth, PixelLayout("rgb", 16)), np.ones((72, 128), bool), TARGET), half)
    # Half a pixel of this picture is 0.02 and more: it is not shifted.
    assert np.abs(out.to_rgb() - truth)[6:-6, 6:-6].max() < 5e-3


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_composing_in_parts_equals_composing_at_once(layout, monkeypatch):
    rng = np.random.default_rng(5)
    frame = frame_of(rng.uniform(size=(203, 311, 3)).astype(np.float32), layout)
    hole = np.zeros((203, 311), bool)
    hole[:, :9] = hole[60:75, 120:135] = hole[200:, 250:] = True
    generated = smooth_picture(100, 150)
    monkeypatch.setattr(composite, "_BAND_PX", 32)
    parts = composite.fill_holes(Rendered(frame, hole, TARGET), generated)
    monkeypatch.setattr(composite, "_BAND_PX", 4096)
    whole = composite.fill_holes(Rendered(frame, hole, TARGET), generated)
    for a, b in zip(parts.planes, whole.planes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_frame_without_holes_comes_back_itself():
    frame = frame_of(smooth_picture(32, 48))
    rendered = Rendered(frame, np.zeros((32, 48), bool), TARGET)
    assert composite.fill_holes(rendered, np.zeros((16, 16, 3), np.float32)) is frame


def test_slivers_of_neighbours_are_generated_and_the_current_frame_never():
    hole = np.ones((1080, 64), bool)
    hole[:, 30:33] = hole[:, 40:47] = False
    current = np.zeros_like(hole)
    current[:500] = True
    frame = frame_of(np.zeros((1080, 64, 3), np.float32))
    region = composite.generated_region(Rendered(frame, hole, TARGET, current))
    assert region[510:, 30:33].all() and not region[:490, 30:33].any() and not region[:, 40:47].any()
    assert (composite.generated_region(Rendered(frame, hole, TARGET)) == hole).all()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def test_the_colour_fit_undoes_a_cast_and_a_gradient_in_the_holes():
    truth = smooth_picture(240, 416)
    y, x = np.mgrid[0:240, 0:416] / 416
    cast = truth * [0.9, 1.05, 0.95] + [0.03, -0.02, 0.02] + 0.04 * (x - 0.5)[..., None] + 0.03 * y[..., None]
    hole = np.zeros((240, 416), bool)
    hole[:, :40] = hole[210:] = True
    fit = composite.fit_colour(cast.astype(np.float32), truth, hole)
    repaired = composite.corrected(cast.astype(np.float32), fit)
    before, after = _psnr(cast[hole], truth[hole]), _psnr(repaired[hole], truth[hole])
    assert after > before + 12 and after > 45, (before, after)


def test_pixels_that_the_model_redrew_do_not_bend_the_colour_fit():
    truth = smooth_picture(96, 160)
    redrawn = truth.copy()
    redrawn[30:50, 60:90] = 1.0
    fit = composite.fit_colour(redrawn, truth, np.zeros((96, 160), bool))
    np.testing.assert_allclose(fit.gain, 1, atol=0.02)


def test_colour_is_judged_away_from_holes_and_corrected_within_bounds():
    truth = smooth_picture(96, 160)
    hole = np.zeros((96, 160), bool)
    hole[:, 70:80] = True
    mixed = truth.copy()
    mixed[:, 68:82] = 0.0  # what is resampled beside a hole has some of it
    fit = composite.fit_colour(truth, mixed, hole)
    np.testing.assert_allclose(fit.gain, 1, atol=1e-6)
    assert np.abs(fit.residual).max() < 1e-6
    for flatter in (0.1, 4.0):
        assert composite.fit_colour(truth, flatter * truth, hole & False).gain == pytest.approx(np.clip(flatter, 0.5, 2.0))


def test_a_frame_of_nothing_but_holes_takes_its_neighbours_colour():
    truth = smooth_picture(48, 80)
    good = composite.fit_colour(truth * 0.8, truth, np.zeros((48, 80), bool))
    nearly_all = np.ones((48, 80), bool)
    nearly_all[10:23, 10:23] = False
    blind = composite.fit_colour(truth * 0.8, truth, nearly_all)
    assert blind.weight == 0 and (composite.corrected(truth, blind) == truth).all()
    np.testing.assert_allclose(composite.mean_fit([(0, blind), (2, good)]).gain, good.gain)


def test_fits_are_smoothed_over_time():
    truth = smooth_picture(48, 80)
    none = np.zeros((48, 80), bool)
    fits = [composite.fit_colour(truth / gain, truth, none) for gain in (1.0, 1.2, 1.0)]
    middle = composite.mean_fit([(-1, fits[0]), (0, fits[1]), (1, fits[2])])
    assert 1.02 < middle.gain.mean() < 1.15
    # Six frames are two standard deviations.
    late = np.exp(-2)
    assert composite.mean_fit([(0, fits[0]), (6, fits[1])]).gain == pytest.approx((fits[0].gain + late * fits[1].gain) / (1 + late))


def test_enlarging_a_part_equals_the_part_of_the_enlarged_whole():
    small = smooth_picture(30, 40)
    whole = composite.enlarged(small, 120, 90, (slice(0, 90), slice(0, 120)))
    part = composite.enlarged(small, 120, 90, (slice(13, 60), slice(7, 101)))
    np.testing.assert_array_equal(part, whole[13:60, 7:101])


def test_enlarging_overshoots_no_edge_and_narrowing_is_a_mean():
    edge = np.zeros((30, 40, 3), np.float32)
    edge[:, 20:] = 1.0
    up = composite.enlarged(edge, 120, 90, (slice(0, 90), slice(0, 120)))
    assert up.min() == 0 and up.max() == 1
    stripes = np.zeros((30, 40, 3), np.float32)
    stripes[:, ::4] = 1.0
    assert np.allclose(composite.enlarged(stripes, 10, 60, (slice(0, 60), slice(0, 10))), 0.25)
