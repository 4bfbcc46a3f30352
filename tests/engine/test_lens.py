# SPDX-License-Identifier: Apache-2.0
"""Every lens model: forth and back, its domain, and what it does to straight lines and horizons."""

import json
import math

import cv2
import numpy as np
import pytest

from vs3r_engine.errors import InputError
from vs3r_engine.lens import (
    Lens,
    growing_angle,
    output_lens,
    pixels_of_points,
    rays_of_pixels,
    read_profile,
)

K = np.array([[500.0, 0, 320.3], [0, 505.0, 181.7], [0, 0, 1]])
ACTION_CAMERA = Lens("fisheye", (0.05, -0.02, 0.004, -0.0005, 0.0, 0.0, 3e-4, -2e-4, 1e-4, -5e-5, 2e-4, 4e-5), math.radians(85))
LENSES = {
    "perspective": (None, 80),
    "fisheye": (Lens("fisheye", (0.0,) * 12), 179),
    "fisheye with every term": (ACTION_CAMERA, 84),
    "omnidirectional": (Lens("omnidirectional", (1.0,), math.radians(175)), 150),
    "barrel": (Lens("division", (-0.2,)), 80),
    "pincushion": (Lens("division", (0.05,)), 60),
    "omnidirectional below 1": (Lens("omnidirectional", (0.7,)), 120),
    "omnidirectional above 1": (Lens("omnidirectional", (1.6,)), 120),
    "double-sphere": (Lens("double-sphere", (-0.2, 0.6)), 100),
    "equirectangular": (Lens("equirectangular"), 179),
}


def rays(largest_deg: float, count: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    angle, turn = np.radians(rng.uniform(0, largest_deg, count)), rng.uniform(-np.pi, np.pi, count)
    directions = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], -1)
    directions[0] = (0, 0, 1)
    return directions


@pytest.mark.parametrize("name", LENSES)
def test_projecting_and_unprojecting_return_the_pixel_within_a_hundred_thousandth(name):
    lens, largest = LENSES[name]
    points = rays(largest) * np.random.default_rng(1).uniform(0.5, 20, (4000, 1))
    pixels = pixels_of_points(points, K, lens)
    seen = np.isfinite(pixels[:, 0])
    assert seen.mean() > 0.9
    back = rays_of_pixels(pixels[seen], K, lens)
    again = pixels_of_points(back * 3.7, K, lens)
    assert np.nanmax(np.abs(again - pixels[seen]) / np.maximum(1, np.abs(pixels[seen]) / 1e4)) < 1e-5 and np.isfinite(again).all()
    cosine = (back * points[seen]).sum(-1) / np.linalg.norm(back, axis=-1) / np.linalg.norm(points[seen], axis=-1)
    assert cosine.min() > 1 - 1e-9


@pytest.mark.parametrize("name", LENSES)
def test_the_axis_is_at_the_principal_point(name):
    lens, _ = LENSES[name]
    assert np.allclose(pixels_of_points(np.array([[0, 0, 2.0]]), K, lens), K[:2, 2])


@pytest.mark.parametrize("name", LENSES)
def test_torch_tensors_give_what_arrays_give(name):
    torch = pytest.importorskip("torch")
    lens, largest = LENSES[name]
    points = rays(largest, 300)
    pixels = pixels_of_points(points, K, lens)
    theirs = pixels_of_points(torch.from_numpy(points), torch.from_numpy(K), lens)
    assert np.allclose(theirs.numpy(), pixels, equal_nan=True, atol=1e-9)
    assert np.allclose(
        rays_of_pixels(theirs, torch.from_numpy(K), lens).numpy(),
        rays_of_pixels(pixels, K, lens),
        equal_nan=True,
        atol=1e-9,
    )


def test_what_a_lens_cannot_see_is_nan():
    behind = np.array([[0.0, 0, -1], [0.01, 0, -1]])
    assert np.isnan(pixels_of_points(behind, K, None)).all()
    assert np.isnan(pixels_of_points(behind, K, ACTION_CAMERA)).all()
    assert np.isnan(pixels_of_points(behind, K, Lens("omnidirectional", (1.0,), math.radians(175)))).all()
    assert np.isnan(pixels_of_points(behind, K, Lens("double-sphere", (-0.2, 0.6)))).all()
    assert np.isfinite(pixels_of_points(behind[1:], K, Lens("equirectangular"))).all()
    far_out = np.array([[1e6, 0.0]])
    for name in ("fisheye", "double-sphere", "equirectangular", "fisheye with every term"):
        assert np.isnan(rays_of_pixels(far_out, K, LENSES[name][0])).all(), name
    for lens, _ in LENSES.values():
        assert np.isnan(pixels_of_points(np.zeros((1, 3)), K, lens)).all()
    beyond_a_pole_or_all_the_way_round = np.array([[0.0, 1.6], [0.0, -1.6], [3.2, 0.0]])
    assert np.isnan(Lens("equirectangular").rays_of_plane(beyond_a_pole_or_all_the_way_round)).all()
    # Beyond its last ray an omnidirectional lens of xi > 1 shows nothing: here at a radius of 0.8.
    edge = Lens("omnidirectional", (1.6,)).rays_of_plane(np.array([[0.80, 0.0], [0.81, 0.0]]))
    assert np.isfinite(edge[0]).all() and np.isnan(edge[1]).all()


def test_fisheye_radius_is_the_angle_and_terms_bend_it():
    angle = np.radians([0, 10, 45, 90, 135])
    points = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1)
    assert np.allclose(Lens("fisheye", (0.0,) * 12).plane_of_rays(points)[:, 0], angle)
    bent = Lens("fisheye", (0.1,) + (0.0,) * 11).plane_of_rays(points)[:, 0]
    assert np.allclose(bent, angle * (1 + 0.1 * angle**2))


def test_equirectangular_pixels_are_longitude_and_latitude():
    K_out, lens = output_lens("equirectangular", K, 720, 360)
    for longitude, latitude in ((0, 0), (60, 30), (-90, -45), (90, 45)):
        a, b = np.radians([longitude, latitude])
        ray = np.array([[np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)]])
        expected = (360 + longitude * 4, 180 + latitude * 4)
        assert np.allclose(pixels_of_points(ray, K_out, lens), expected)


def test_a_straight_line_stays_straight_only_in_the_perspective_lens():
    line = np.stack([np.linspace(-2, 2, 41), np.full(41, 0.8), np.ones(41)], -1)
    for name in ("perspective", "wide", "telephoto", "fisheye", "omnidirectional", "double-sphere", "equirectangular"):
        K_out, lens = output_lens(name, K, 640, 360)
        pixels = pixels_of_points(line, K_out, lens)
        sag_px = np.ptp(pixels[:, 1])
        assert (sag_px < 1e-9) == (lens is None), name
        # A line below the centre bulges downwards: a dome.
        if lens is not None:
            assert pixels[20, 1] == pixels[:, 1].max() and np.allclose(pixels[:20, 1], pixels[:20:-1, 1])
    horizon = line * (1, 0, 1)
    for name in ("fisheye", "omnidirectional", "double-sphere", "equirectangular"):
        K_out, lens = output_lens(name, K, 640, 360)
        assert np.ptp(pixels_of_points(horizon, K_out, lens)[:, 1]) < 1e-9, "the horizon through the centre stays level"


def test_named_focal_lengths_scale_as_published():
    for name, scale in (("perspective", 1), ("as-shot", 1), ("wide", 0.75), ("ultra-wide", 0.5), ("telephoto", 1.5)):
        K_out, lens = output_lens(name, K, 640, 360)
        assert lens is None and np.allclose(K_out[(0, 1), (0, 1)], scale * K[(0, 1), (0, 1)]) and np.allclose(K_out[:2, 2], K[:2, 2])
    with pytest.raises(InputError):
        output_lens("anamorphic", K, 640, 360)


def test_a_lens_profile_is_read_with_its_terms_and_its_domain(tmp_path):
    profile = {
        "model": "fisheye",
        "width": 2704,
        "height": 1520,
        "fx": 1150,
        "fy": 1150,
        "cx": 1352,
        "cy": 760,
        "parameters": {"k1": -0.3, "p2": 1e-4},
    }
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(profile))
    K_in, lens, width, height = read_profile(str(path))
    assert (width, height) == (2704, 1520) and K_in[0, 0] == 1150
    assert lens.parameters[0] == -0.3 and lens.parameters[7] == 1e-4
    assert lens.largest_angle_rad == pytest.approx(growing_angle(lens)) and lens.largest_angle_rad < 1.1
    points = rays(math.degrees(lens.largest_angle_rad) * 0.98)
    pixels = pixels_of_points(points, K_in, lens)
    assert np.abs(pixels_of_points(rays_of_pixels(pixels, K_in, lens), K_in, lens) - pixels).max() < 1e-5


GYROFLOW = {
    "name": "GoPro_HERO10 Black_Wide_4k_16by9",
    "calib_dimension": {"w": 3840, "h": 2160},
    "orig_dimension": {"w": 3840, "h": 2160},
    "input_horizontal_stretch": 1.0,
    "fisheye_params": {
        "RMS_error": 0.9,
        "camera_matrix": [[1790.5, 0.0, 1919.5], [0.0, 1791.5, 1079.5], [0.0, 0.0, 1.0]],
        "distortion_coeffs": [0.04, 0.02, -0.01, 0.003],
    },
}


def test_a_gyroflow_profile_is_opencvs_fisheye(tmp_path):
    path = tmp_path / "gyroflow.json"
    path.write_text(json.dumps(GYROFLOW))
    K_in, lens, width, height = read_profile(str(path))
    assert (width, height) == (3840, 2160)
    points = rays(60) * 3
    matrix, coefficients = (np.array(GYROFLOW["fisheye_params"][name]) for name in ("camera_matrix", "distortion_coeffs"))
    theirs, _ = cv2.fisheye.projectPoints(points[None], np.zeros(3), np.zeros(3), matrix, coefficients)
    assert np.abs(pixels_of_points(points, K_in, lens) - (theirs[0] + 0.5)).max() < 1e-6


@pytest.mark.parametrize(
    "spoil",
    [{"distortion_model": "ptlens"}, {"digital_lens": "gopro_superview"}, {"input_horizontal_stretch": 1.33}, {"calib_dimension": None}],
)
def test_a_gyroflow_profile_of_another_lens_is_refused(tmp_path, spoil):
    path = tmp_path / "gyroflow.json"
    path.write_text(json.dumps(GYROFLOW | spoil))
    with pytest.raises(InputError) as error:
        read_profile(str(path))
    assert error.value.code == "bad-lens-profile"


@pytest.mark.parametrize("spoil", [{"model": "magic"}, {"parameters": {"k9": 1}}, {"fx": "wide"}, {"width": None}, {"height": 0}])
def test_a_broken_profile_is_refused_in_words(tmp_path, spoil):
    profile = {"model": "fisheye", "width": 10, "height": 10, "fx": 5, "fy": 5, "cx": 5, "cy": 5} | spoil
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(profile))
    with pytest.raises(InputError) as error:
        read_profile(str(path))
    assert error.value.code == "bad-lens-profile"
    with pytest.raises(InputError):
        read_profile(str(tmp_path / "none.json"))
