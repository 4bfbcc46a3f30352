# SPDX-License-Identifier: Apache-2.0
"""Fast motion cues equal the published formulas taken literally; clusters, thresholds and masks find what moves."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vggt_seeded import GOLDEN, cue_queries_keys  # noqa: E402

from vs3r_engine.methods.vggt4d import clustering, cues, masking  # noqa: E402
from vs3r_engine.methods.vggt4d.network import VggtShape  # noqa: E402


def literal_cue(q, k, references=None):
    """The published formulas, product by product. q, k: [frames, layers, heads, patches, dim]; for all frames or the
    given ones."""

    def scaled(x):
        return (x - x.min()) / (x.max() - x.min() + 1e-6)

    maps = []
    for r in range(len(q)) if references is None else references:
        others = [r + d for d in (-6, -4, -2, 2, 4, 6) if 0 <= r + d < len(q)]

        def gram(a, b, layers, r=r, others=others):  # [layer x head, source, i, j]
            return torch.stack([torch.einsum("lhid,lhjd->lhij", a[r, layers], b[s, layers]).flatten(0, 1) for s in others], 1)

        m1 = gram(q, q, [3, 4, 5, 6, 7]).mean((0, 1, 3))
        v1 = gram(q, q, [18, 19]).mean((0, 1)).std(-1)
        m2 = gram(q, q, [17, 18, 19, 20, 21]).mean((0, 1, 3))
        m3, v3 = gram(k, k, [0]).mean((0, 1, 3)), gram(q, k, [0]).mean((0, 1)).std(-1)
        m1, v1, m2, m3, v3 = (scaled(cue) for cue in (m1, v1, m2, m3, v3))
        maps.append(scaled((1 - m1) * (1 - v1) * m2 * (1 - m3) * v3))
    return torch.stack(maps)


def fast_cue(q, k):
    watch = cues.MotionCues(VggtShape(), len(q))
    for layer in range(q.shape[1]):
        watch(layer, q[:, layer].transpose(0, 1), k[:, layer].transpose(0, 1))
    return watch.fused()


def test_fast_cues_equal_the_literal_formulas():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(7, 24, 4, 30, 16, generator=generator) + 0.2 for _ in range(2))
    assert (fast_cue(q, k) - literal_cue(q, k)).abs().max() < 1e-4


def test_cues_are_as_exact_where_the_layers_run_in_half_precision():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(7, 24, 4, 30, 16, generator=generator) + 0.2 for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = fast_cue(q, k)
    assert torch.equal(found, fast_cue(q, k))


def test_fast_cues_equal_the_reference_map():
    q, k = (torch.from_numpy(x) for x in cue_queries_keys())
    with np.load(GOLDEN / "vggt_small.npz") as data:
        expected = torch.from_numpy(data["cue_map"]).flatten(1)
    assert (fast_cue(q, k) - expected).abs().max() < 1e-4


COST = """
import resource, sys, torch
sys.path.insert(0, "tests/engine")
from test_vggt_cues import literal_cue
from vs3r_engine.methods.vggt4d import cues
from vs3r_engine.methods.vggt4d.network import VggtShape

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def resident_gib(which):
    line = next(l for l in open("/proc/self/status") if l.startswith(which))
    return int(line.split()[1]) / 1024**2

kind, out, references = sys.argv[1], sys.argv[2], [int(x) for x in sys.argv[3:]]
layer = torch.randn(16, 50, 777, 64, generator=torch.Generator().manual_seed(0)) + 0.2
literal_cue(torch.randn(3, 24, 1, 4, 4), torch.randn(3, 24, 1, 4, 4), [0])
without = resident_gib("VmRSS")
q, k = layer.roll(0, 2), layer.roll(-1, 2)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
base, spent = resident_gib("VmRSS"), 0.0
del q, k
with torch.inference_mode():
    if kind == "literal":
        q, k = (torch.empty(50, 24, 16, 777, 64) for _ in range(2))
        for n in range(24):
            q[:, n] = layer.roll(n, 2).transpose(0, 1)
            k[:, n] = layer.roll(-n - 1, 2).transpose(0, 1)
        start = used()
        found = literal_cue(q, k, references)
        spent = used() - start
    else:
        watch = cues.MotionCues(VggtShape(), 50)
        for n in range(24):
            # A layer's queries and keys are there only while it runs, as in the network.
            q, k = layer.roll(n, 2), layer.roll(-n - 1, 2)
            start = used()
            watch(n, q, k)
            spent += used() - start
            del q, k
        start = used()
        found = watch.fused()
        spent += used() - start
torch.save(found, out)
print(spent, resident_gib("VmHWM") - base, resident_gib("VmHWM") - without)
"""


def available_gib():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024**2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process's memory is read as Linux tells it")
def test_cues_cost_a_twentieth_of_the_literal_ones_in_time_and_memory_at_50_frames_of_518x294(tmp_path):
    """50 frames of 37 x 21 patches, 24 layers of 16 heads of 64, float32, CPU seconds. The fast cues are made for the
    whole window. Of the literal ones three frames are made, two with all six source frames; per source frame the cost
    is the same, so a window's 276 are extrapolated from these 15. Memory is what is added to the queries and keys of
    the layer that runs, which are the network's own."""
    if available_gib() < 12:
        pytest.skip("the literal formulas take 10 GiB of memory")
    costs, maps = [], []
    for kind, *references in (("literal", "0", "13", "25"), ("fast",)):
        command = [sys.executable, "-c", COST, kind, str(tmp_path / kind), *references]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        costs.append([float(x) for x in done.stdout.split()])
        maps.append(torch.load(tmp_path / kind))
    (literal_s, literal_gib, literal_all), (fast_s, fast_gib, fast_all) = costs
    literal_s *= sum(len(cues.sources(50, r)) for r in range(50)) / sum(len(cues.sources(50, r)) for r in (0, 13, 25))
    print(f"literal {literal_s:.0f} s {literal_gib:.2f} GiB, on the fly {fast_s:.2f} s {fast_gib:.3f} GiB")
    print(f"with the running layer's own: {literal_all:.2f} GiB, {fast_all:.3f} GiB")
    assert (maps[0] - maps[1][[0, 13, 25]]).abs().max() < 1e-4
    assert literal_s > 20 * fast_s and literal_gib > 20 * fast_gib


def test_cues_keep_no_queries_after_the_last_layer_that_needs_them():
    q = torch.randn(3, 24, 2, 10, 8)
    watch = cues.MotionCues(VggtShape(), 3)
    for layer in range(24):
        watch(layer, q[:, layer].transpose(0, 1), q[:, layer].transpose(0, 1))
        assert len(watch._waiting) == (layer == 18)
    assert all(cue.shape == (3, 10) for cue in watch._maps.values())


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_windows_too_short_for_the_published_offsets_have_finite_cues(frames):
    q = torch.randn(frames, 24, 2, 10, 8)
    cue = fast_cue(q, q)
    assert cue.isfinite().all()
    assert bool((cue > 0).any()) == (frames > 1)


def test_kmeans_finds_separate_groups_and_takes_any_number_of_points():
    generator = torch.Generator().manual_seed(3)
    groups = torch.randn(5, 1, 3, generator=generator) * 20 + torch.randn(5, 40, 3, generator=generator)
    label = clustering.kmeans(groups.flatten(0, 1), 5).view(5, 40)
    assert (label == label[:, :1]).all() and len(label[:, 0].unique()) == 5
    for points in (torch.zeros(0, 3), torch.zeros(7, 3), torch.randn(3, 3)):
        label = clustering.kmeans(points, 30)
        assert len(label) == len(points) and len(label.unique()) <= len(points)


def test_otsu_thresholds_equal_exhaustive_search():
    generator = torch.Generator().manual_seed(5)
    values = torch.cat([torch.randn(400, generator=generator) * 0.05 + centre for centre in (0.1, 0.5, 0.62, 0.9)])
    bins = 24
    low, high = values.min().item(), values.max().item()
    histogram = torch.histc(values, bins, low, high).double()
    centre = low + (torch.arange(bins).double() + 0.5) * (high - low) / bins

    def variance(cuts):
        edges = [0, *(c + 1 for c in cuts), bins]
        parts = [(histogram[a:b].sum(), (histogram * centre)[a:b].sum()) for a, b in itertools.pairwise(edges)]
        return sum(float(moment**2 / mass) for mass, moment in parts if mass > 0)

    for classes in (2, 3, 4):
        best = max(itertools.combinations(range(bins - 1), classes - 1), key=variance)
        assert clustering.otsu_thresholds(values, classes, bins).tolist() == pytest.approx([centre[c].item() for c in best], abs=1e-6)


def test_alike_values_have_no_threshold():
    assert clustering.moving_threshold(torch.full((100,), 0.3)) is None
    assert 0.2 <= clustering.moving_threshold(torch.tensor([0.2] * 90 + [0.8] * 10)) < 0.8


def scene(frames=5, height=56, width=84, camera_step=0.02, object_step=0.06):
    """A textured wall at depth 2 and a card at depth 1 that moves sideways; the camera slides too. Returns evidence and
    truth."""
    focal = 70.0
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]).expand(frames, 3, 3)
    world_from_camera = torch.eye(4).repeat(frames, 1, 1)
    images, depths, truth = [], [], []
    for t in range(frames):
        world_from_camera[t, 0, 3] = camera_step * t
        card_x = ((x - width / 2) / focal + camera_step * t) - object_step * t
        on_card = (card_x.abs() < 0.15) & (((y - height / 2) / focal).abs() < 0.15)
        depth = torch.where(on_card, 1.0, 2.0)
        u = torch.where(on_card, card_x, (x - width / 2) / focal * 2 + camera_step * t)
        v = (y - height / 2) / focal * depth
        pattern = torch.stack([0.5 + 0.2 * torch.sin(6 * u + c) * torch.cos(5 * v) for c in range(3)])
        images.append(torch.where(on_card, 1 - 0.5 * pattern, 0.5 * pattern))
        depths.append(depth)
        truth.append(on_card)
    grid = (height // 14, width // 14)
    truth = torch.stack(truth)
    patches = torch.nn.functional.avg_pool2d(truth.float()[:, None], 14)[:, 0].flatten(1)
    features = (
        torch.stack((patches * 5, 1 - patches), -1)
        + torch.randn(frames, patches.shape[1], 2, generator=torch.Generator().manual_seed(1)) * 0.02
    )
    return masking.WindowEvidence(
        torch.stack(images), torch.stack(depths), K, world_from_camera, features, cues.normalised(patches), grid
    ), truth


def test_refinement_keeps_what_moves_and_drops_what_stands_still():
    evidence, truth = scene()
    coarse = truth.clone()
    coarse[2, :, 5:25] = True  # a piece of the wall wrongly taken to move in one frame
    refined = masking.refined_mask(coarse, evidence)
    card = masking.dilated(truth)
    assert (refined & truth).sum() / truth.sum() > 0.8
    assert (refined & ~card).float().mean() < 0.005


def test_what_was_taken_to_move_in_one_frame_but_stands_still_is_dropped():
    evidence, truth = scene(object_step=0.0)
    once = truth.clone()
    once[[0, 1, 3, 4]] = False
    refined = masking.refined_mask(once, evidence)
    assert refined.sum() < 0.35 * once.sum(), "only rims, which are half background, may stay"


def test_the_masker_finds_the_moving_card_from_cues():
    evidence, truth = scene()
    mask = masking.CueMasker().mask(evidence)
    assert (mask & truth).sum() / truth.sum() > 0.8


@pytest.mark.parametrize("frames", [1, 2])
def test_small_windows_and_few_points_just_work(frames):
    evidence, truth = scene(frames=frames)
    few = torch.zeros_like(truth)
    few[0, 20:23, 30:33] = True
    for coarse in (few, torch.zeros_like(truth), torch.ones_like(truth)):
        assert masking.refined_mask(coarse, evidence).shape == truth.shape


def test_outliers_of_a_depth_map_are_found():
    depth = torch.full((40, 60), 2.0)
    depth[20, 30] = 40.0
    y, x = torch.meshgrid(torch.arange(40) / 60, torch.arange(60) / 60, indexing="ij")
    kept = masking.inliers(torch.stack((x * depth, y * depth, depth), -1))
    assert not kept[20, 30] and kept.float().mean() > 0.97


def test_closing_and_growing_equal_opencv():
    import cv2

    masks = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(2)) > 0.7
    ours = masking.dilated(masking.closed(masks)).numpy()
    for mask, our in zip(masks.numpy(), ours, strict=True):
        theirs = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
        assert np.array_equal(our, cv2.dilate(theirs, np.ones((3, 3), np.uint8)) > 0)
