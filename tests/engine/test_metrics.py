# SPDX-License-Identifier: Apache-2.0
"""Every metric on a case whose answer is known beforehand."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest

from vs3r_engine.evaluation import metrics
from vs3r_engine.evaluation.registration import FEATURES, blank, features, homography, matches, similarity, tracks

RATE = 30.0
WIDTH, HEIGHT = 480, 200


def texture(width=WIDTH, height=HEIGHT, seed=0, margin=0):
    """Smooth noise with detail at several scales, as a BGR picture."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height + 2 * margin, width + 2 * margin, 3), np.float32)
    for blur, weight in ((1.2, 60), (3, 50), (9, 60), (25, 80)):
        layer = cv2.GaussianBlur(rng.standard_normal(picture.shape).astype(np.float32), (0, 0), blur)
        picture += weight * layer / layer.std() / 2
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def seen(picture, x_px=0.0, y_px=0.0, angle_rad=0.0, zoom=1.0, margin=60):
    """The picture's middle through a similarity about its centre: content moves by +x, +y, turns and grows."""
    height, width = picture.shape[:2]
    centre = np.array([width / 2, height / 2])
    linear = zoom * np.array([[math.cos(angle_rad), -math.sin(angle_rad)], [math.sin(angle_rad), math.cos(angle_rad)]])
    shift = centre - linear @ centre + (x_px - margin, y_px - margin) + (linear @ (0.5, 0.5) - 0.5)
    size = width - 2 * margin, height - 2 * margin
    return cv2.warpAffine(picture, np.hstack([linear, shift[:, None]]), size, flags=cv2.INTER_CUBIC)


def gray(picture):
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)


def filmed(offsets, **how):
    scene = texture(margin=60)
    return [gray(seen(scene, **{k: v[i] for k, v in offsets.items()}, **how)) for i in range(len(next(iter(offsets.values()))))]


def path_of(pictures):
    steps = [similarity(*tracks(a, b)) for a, b in pairwise(pictures)]
    return metrics.picture_path_px(steps, WIDTH, HEIGHT)


# --- path -----------------------------------------------------------------------------------------------------------


def test_a_sinusoidal_jitter_is_measured_with_its_own_rms_and_acceleration():
    time = np.arange(90) / RATE
    path, bridged = path_of(filmed({"x_px": 6 * np.sin(2 * math.pi * 3 * time), "y_px": 2 * np.cos(2 * math.pi * 3 * time)}))
    assert bridged == 0
    assert metrics.jitter_px(path, RATE) == pytest.approx(math.sqrt((36 + 4) / 2), rel=0.03)
    gain = (2 * math.sin(math.pi * 3 / RATE)) ** 2
    exact = gain * np.hypot(6 * np.sin(2 * math.pi * 3 * time), 2 * np.cos(2 * math.pi * 3 * time))[1:-1].mean()
    assert metrics.acceleration_px(path) == pytest.approx(exact, rel=0.03)


def test_a_still_clip_and_a_steady_pan_have_no_jitter():
    still, _ = path_of(filmed({"x_px": np.zeros(62)}))
    assert metrics.jitter_px(still, RATE) < 1e-3 and metrics.acceleration_px(still) < 1e-3
    pan, _ = path_of(filmed({"x_px": np.linspace(-50, 50, 62)}))
    assert pan[-1, :, 0] == pytest.approx(100, rel=0.01)
    assert metrics.jitter_px(pan, RATE) < 0.1
    assert metrics.stability(pan, RATE) > 0.9


def test_a_slow_sway_is_meant_and_a_fast_one_is_jitter():
    time = np.arange(300) / RATE
    slow, fast = (np.repeat((10 * np.sin(2 * math.pi * hz * time))[:, None, None], 4, 1) * (1.0, 0.0) for hz in (0.2, 4.0))
    assert metrics.jitter_px(slow, RATE) < 0.35
    assert metrics.jitter_px(fast, RATE) == pytest.approx(10 / math.sqrt(2), rel=0.02)
    assert metrics.stability(slow, RATE) > 0.99 > 0.01 > metrics.stability(fast, RATE)


def test_a_pure_rotation_moves_the_four_points_on_their_circle():
    angle = np.radians(1.0) * np.sin(2 * math.pi * 2.5 * np.arange(72) / RATE)
    path, _ = path_of(filmed({"angle_rad": angle}))
    radius = math.hypot(WIDTH / 4, HEIGHT / 4)
    assert metrics.jitter_px(path, RATE) == pytest.approx(radius * np.radians(1.0) / math.sqrt(2), rel=0.05)


def test_lost_frames_are_bridged_and_counted():
    steps = [np.array([[1.0, 0, 2.0], [0, 1, 0]])] * 3 + [None] + [np.array([[1.0, 0, 4.0], [0, 1, 0]])]
    path, bridged = metrics.picture_path_px(steps, WIDTH, HEIGHT)
    assert bridged == 1
    np.testing.assert_allclose(path[:, 0, 0], [0, 2, 4, 6, 9, 13])


def test_moving_objects_do_not_pull_the_pictures_motion():
    scene, card = texture(margin=60), texture(200, 160, seed=5)
    pictures = []
    for i in range(12):
        picture = seen(scene, x_px=0.5 * i)
        picture[40:200, 40 + 9 * i : 240 + 9 * i] = card
        pictures.append(gray(picture))
    path, _ = path_of(pictures)
    np.testing.assert_allclose(path[-1, :, 0], 5.5, atol=0.15)


# --- stability and cropping -----------------------------------------------------------------------------------------


def shifts(values):
    moves = []
    for before, after in pairwise(values):
        M = np.eye(3)
        M[0, 2] = after - before
        moves.append(M)
    return moves


def test_published_stability_is_the_share_of_the_five_lowest_bins():
    time = np.arange(241)
    low, high = 1 - np.cos(2 * math.pi * 3 * time / 241), 1 - np.cos(2 * math.pi * 40 * time / 241)
    still = metrics.stability_published([np.eye(3)] * 240)
    assert still == 1.0
    # translation: 9 / (9 + 1) of the energy is low; rotation: still.
    assert metrics.stability_published(shifts(3 * low + high)) == pytest.approx((0.9 + 1.0) / 2, abs=0.02)


def test_published_stability_leaves_the_highest_frequency_of_an_even_number_out():
    shaking = [5.0 * (i % 2) for i in range(240)]
    assert metrics.stability_published(shifts(shaking)) == pytest.approx(1.0), "a path that alternates has energy nowhere else"


def test_published_stability_is_blind_to_jitter_on_a_pan_and_the_corrected_one_is_not():
    time = np.arange(240)
    pan = 8.0 * time + 4 * np.sin(2 * math.pi * 0.1 * time)
    assert metrics.stability_published(shifts(pan)) > 0.9
    path = np.repeat(pan[:, None, None], 4, 1) * (1.0, 0.0)
    assert metrics.stability(path, RATE) < 0.2


def test_published_stability_of_a_perfectly_steady_pan_is_the_leakage_of_its_jump():
    steady = metrics.stability_published(shifts(0.5 * np.arange(240)))
    assert steady == pytest.approx((0.890 + 1.0) / 2, abs=0.001)
    noise = 3 * np.random.default_rng(0).standard_normal(240)
    assert metrics.stability_published(shifts(0.5 * np.arange(240) + noise)) == pytest.approx(steady, abs=0.005)


def test_the_older_stability_takes_the_worst_of_the_three_paths():
    time = np.arange(241)
    moves = []
    wobble = np.sin(2 * math.pi * 60 * time / 241)
    for a, b in pairwise(wobble):
        M = np.eye(3)
        M[1, 2] = b - a
        moves.append(M)
    assert metrics.stability_older(moves) < 0.05
    assert metrics.stability_older([np.eye(3)] * 40) == 1.0
    assert metrics.stability_older([]) is None


def test_a_known_crop_and_a_black_border_are_measured_as_the_lost_field_of_view():
    scene = texture(margin=60)
    zoomed = seen(scene, zoom=1.25)
    pair = matches(features(gray(seen(scene)), FEATURES), features(gray(zoomed), FEATURES))
    for published in (True, False):
        H = homography(*pair.better_than(0.7), published=published)
        assert metrics.cropping_published([H]) == pytest.approx(0.8, abs=0.004)
        assert metrics.cropping([metrics.zoom_of(H, WIDTH, HEIGHT)], [0.0]) == pytest.approx(0.8, abs=0.004)
    bordered = seen(scene)
    bordered[:, :48] = bordered[:, -48:] = 0
    bordered[:20] = bordered[-20:] = 0
    empty = blank(bordered, gray(seen(scene)), np.eye(3))
    assert empty.mean() == pytest.approx(1 - 0.8 * 0.8, abs=0.01)
    assert metrics.cropping([1.0], [float(empty.mean())]) == pytest.approx(0.8, abs=0.01)
    assert metrics.cropping_published([np.eye(3)]) == 1.0, "the published definition does not see the border"


def test_a_dark_scene_is_not_taken_for_a_border():
    picture = seen(texture(margin=60))
    picture[:, :100] = 3
    assert not blank(picture, gray(picture), np.eye(3)).any()
    assert blank(picture, np.full((HEIGHT, WIDTH), 255, np.uint8), np.eye(3)).mean() == pytest.approx(100 / WIDTH, abs=0.01)
    assert blank(picture).mean() == pytest.approx(100 / WIDTH, abs=0.01)
    shifted = np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    original = np.full((HEIGHT, WIDTH), 10, np.uint8)
    assert not blank(picture, original, shifted).any(), "dark picture that was continued past its edge"
    picture[:, :100] = 0
    assert blank(picture, original, shifted).mean() == pytest.approx(100 / WIDTH, abs=0.01), "an even border"


# --- epipolar -------------------------------------------------------------------------------------------------------


def two_views(noise_px, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-2, -1, 3), (2, 1, 9), (300, 3))
    K = np.array([[500, 0, 320], [0, 500, 120], [0, 0, 1.0]])
    R = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))[0]
    t = np.array([0.3, 0.05, 0.1])
    first, second = points @ K.T, (points @ R.T + t) @ K.T
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = np.linalg.inv(K).T @ cross @ R @ np.linalg.inv(K)
    first, second = first[:, :2] / first[:, 2:], second[:, :2] / second[:, 2:]
    return F, first, second + noise_px * rng.standard_normal(second.shape)


def test_the_sampson_distance_is_zero_for_truth_and_half_the_noise_for_one_noisy_side():
    F, first, second = two_views(0.0)
    assert metrics.sampson(F, first, second).max() < 1e-12
    F, first, second = two_views(0.4)
    # Noise across the epipolar line in one of two pictures: the distance to the nearest true pair is shared by both.
    assert metrics.sampson(F, first, second).mean() == pytest.approx(0.4**2 / 2, rel=0.2)


def test_wrong_matches_blow_up_the_published_epipolar_error_and_not_the_corrected_one():
    _, first, second = two_views(0.1)
    clean = metrics.epipolar(first, second)
    second[:6] += (150, 90)
    assert metrics.epipolar_published(first, second) > 20
    assert metrics.epipolar(first, second) < clean + 0.7
    assert metrics.epipolar(first[:7], second[:7]) is None


# --- warping and flicker --------------------------------------------------------------------------------------------


def test_published_warping_error_counts_a_steady_pan_and_the_corrected_one_does_not():
    scene = texture(margin=60)
    first, second = seen(scene), seen(scene, x_px=6)
    published, corrected = metrics.warping_published(first, second), metrics.warping(first, second, metrics.dis_flow)
    assert corrected < 2e-4
    assert published > 20 * corrected
    assert metrics.warping(first, first, metrics.dis_flow) == pytest.approx(0, abs=1e-9)


def test_published_warping_error_takes_black_for_what_came_into_the_picture(monkeypatch):
    flow = np.broadcast_to(np.float32([6, 0]), (48, 64, 2))
    monkeypatch.setattr(metrics.cv2, "calcOpticalFlowFarneback", lambda *_: flow)
    plain = np.full((48, 64, 3), 200, np.uint8)
    assert metrics.warping_published(plain, plain) == pytest.approx(6 / 64 * (200 / 255) ** 2)


def test_warping_error_of_added_noise_is_the_noise_and_its_interpolated_part():
    rng = np.random.default_rng(1)
    scene = cv2.GaussianBlur(texture(), (0, 0), 2).astype(np.float32) * 0.5 + 64
    first, second = (np.clip(scene + 8 * rng.standard_normal(scene.shape), 0, 255).astype(np.uint8) for _ in range(2))

    def no_motion(a, b):
        return np.zeros((*a.shape[:2], 2), np.float32)

    assert metrics.warping(first, second, no_motion) == pytest.approx(2 * 8**2 / 255**2, rel=0.03)


def test_what_an_object_uncovers_is_left_out_of_the_warping_error():
    scene, card = texture(margin=60), texture(160, 160, seed=9)
    first, second = seen(scene), seen(scene)
    first[40:200, 200:360], second[40:200, 216:376] = card, card
    _, counted = metrics.flow_difference(first, second, metrics.dis_flow)
    uncovered = counted[50:190, 202:214]
    assert uncovered.mean() < 0.5 < counted.mean()


# --- pictures -------------------------------------------------------------------------------------------------------


def test_equal_pictures_have_100_db_and_similarity_1_and_known_noise_its_psnr():
    picture = texture()
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    assert metrics.psnr(picture, picture, everywhere) == 100
    assert metrics.ssim(gray(picture), gray(picture), everywhere) == pytest.approx(1.0)
    shifted = np.clip(picture.astype(int), 10, 245).astype(np.uint8)
    assert metrics.psnr(shifted, shifted + 5, everywhere) == pytest.approx(20 * math.log10(255 / 5))
    half = everywhere.copy()
    half[:, WIDTH // 2 :] = False
    damaged = picture.copy()
    damaged[:, WIDTH // 2 :] = 0
    assert metrics.psnr(picture, damaged, half) == 100
    assert metrics.ssim(gray(picture), gray(damaged), half) == pytest.approx(1.0)
    assert metrics.ssim(gray(picture), gray(damaged), everywhere) < 0.6


def test_a_blurred_copy_keeps_the_share_of_gradient_energy_that_theory_says():
    rng = np.random.default_rng(2)
    sigma, blur = 3.0, 2.0
    scene = cv2.GaussianBlur(rng.standard_normal((480, 640)).astype(np.float32), (0, 0), sigma)
    scene = 128 + 40 * scene / scene.std()
    copy = cv2.GaussianBlur(scene, (0, 0), blur)
    everywhere = np.ones(scene.shape, bool)
    # Gradient energy of white noise blurred by s falls as s^-4; blurs add as variances.
    expected = (sigma**2 / (sigma**2 + blur**2)) ** 2
    assert metrics.gradient_energy(copy, everywhere) / metrics.gradient_energy(scene, everywhere) == pytest.approx(expected, rel=0.08)


def test_gradient_energy_looks_only_inside():
    ramp = np.tile(np.arange(WIDTH, dtype=np.float32), (HEIGHT, 1))
    left = np.zeros((HEIGHT, WIDTH), bool)
    left[:, :100] = True
    ramp[:, 100:] *= 50
    assert metrics.gradient_energy(ramp, left) == pytest.approx(1.0, rel=0.02)
    assert metrics.gradient_energy(ramp, ~left & left) is None


# --- what a network is needed for -----------------------------------------------------------------------------------


def test_without_rafts_weights_the_flow_is_dis_and_says_why(tmp_path, monkeypatch):
    from vs3r_engine.evaluation.flow import best_flow

    monkeypatch.setenv("VS3R_WEIGHTS", str(tmp_path))
    flow, name = best_flow()
    assert flow is metrics.dis_flow and name.startswith("DIS (") and "raft" in name


def test_without_its_backbone_there_is_no_lpips_but_a_reason(monkeypatch, tmp_path):
    from vs3r_engine.evaluation.perceptual import lpips

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    measure, reason = lpips()
    assert measure is None and "LPIPS needs" in reason
