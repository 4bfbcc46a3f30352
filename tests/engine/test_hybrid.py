# SPDX-License-Identifier: Apache-2.0
"""Equations 4 and 5 on scenes whose truth is known: the rigid flow of what stands still, and the mask of what does
not."""

import numpy as np
import pytest

from tests.synthetic import make_clip
from tests.synthetic_scene import project, unproject
from vs3r_engine.camera import inverse
from vs3r_engine.stages.mask import dynamic_mask, flow_mask, pixel_centres, rigid_flow


def true_flow(clip, i):
    """[h, w, 2] where each pixel's scene point is seen in the next frame, moving things included; NaN where that is not
    known."""
    depth, moves = clip.truth(i)
    here, there = clip.trajectory.camera(i), clip.trajectory.camera(i + 1)
    world = unproject(pixel_centres(clip.width, clip.height), here.K, depth.astype(np.float64))
    world = world @ here.world_from_camera[:3, :3].T + here.world_from_camera[:3, 3]
    times = np.array([i, i + 1]) / float(clip.rate)
    for quad in clip.quads:
        if quad.motion is None:
            continue
        start, end = quad.origin_at(times)
        offset = world - start
        normal = np.cross(quad.edge_u, quad.edge_v)
        a, b = (offset @ edge / (edge @ edge) for edge in (quad.edge_u, quad.edge_v))
        on_quad = moves & (np.abs(offset @ normal) / np.linalg.norm(normal) < 0.02) & (a > -0.01) & (a < 1.01) & (b > -0.01) & (b < 1.01)
        world[on_quad] += end - start
    camera = world @ inverse(there.world_from_camera)[:3, :3].T + inverse(there.world_from_camera)[:3, 3]
    return project(camera, there.K) - pixel_centres(clip.width, clip.height)


@pytest.mark.parametrize("category", ["regular", "running", "parallax", "zooming", "rotation"])
def test_rigid_flow_is_the_true_flow_of_what_stands_still(category):
    clip = make_clip(category, frames=4, width=160, height=90)
    depth, moves = clip.truth(1)
    flow = rigid_flow(depth, clip.trajectory.camera(1), clip.trajectory.camera(2))
    points = clip.static_points_world
    before, after = clip.seen(points, 1), clip.seen(points, 2)
    visible = np.isfinite(before).all(1) & np.isfinite(after).all(1)
    assert visible.sum() > 100
    # Each pixel's own centre carries its depth: compare there, through the true surfaces.
    assert np.abs(flow - true_flow(clip, 1))[~moves].max() < 0.01
    # And independently: tracked points move as the flow of the pixel they lie in, within what depth changes across that
    #     pixel.
    column, row = np.floor(before[visible]).astype(int).T
    assert np.median(np.abs(flow[row, column] - (after - before)[visible])) < 0.05


def test_the_mask_is_the_moving_people_when_flow_and_depth_are_true():
    clip = make_clip("crowd", frames=6, width=320, height=180)
    for i in range(4):
        depth, moves = clip.truth(i)
        rigid = rigid_flow(depth, clip.trajectory.camera(i), clip.trajectory.camera(i + 1))
        says = dynamic_mask(None, flow_mask(true_flow(clip, i), rigid, 0.5))
        overlap = (says & moves).sum() / (says | moves).sum()
        assert overlap >= 0.8, overlap


def test_the_hybrid_mask_is_the_union_of_both_cues():
    semantic, says = np.zeros((6, 8), bool), np.zeros((12, 16), bool)
    semantic[0, 0], says[11, 15] = True, True
    union = dynamic_mask(semantic, says)
    assert union.shape == says.shape and union[0, 0] and union[1, 1] and union[11, 15] and union.sum() == 5
