# SPDX-License-Identifier: Apache-2.0
"""The network equals a faithful VGGT on seeded weights, and its full-size state dict equals the public checkpoint's."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vggt_seeded import GOLDEN, dynamic_masks, images, parameter  # noqa: E402

from vs3r_engine.methods.vggt4d import heads, layers, network  # noqa: E402

SMALL = network.VggtShape(dim=384, depth=6, heads=6, encoder_depth=12, encoder_heads=6, dpt_layers=(1, 2, 3, 5))
GRID = (7, 11)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "vggt_small.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def small():
    with torch.device("meta"):
        model = network.Vggt(SMALL)
    weights = {name: torch.from_numpy(parameter(name, tuple(t.shape))) for name, t in model.state_dict().items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def relative_error(ours, theirs) -> float:
    ours = ours.numpy() if torch.is_tensor(ours) else ours
    return float(np.abs(ours - theirs.reshape(ours.shape)).max() / np.abs(theirs).max())


def answers(model, dynamic_patches=None, seen=None):
    with torch.no_grad():
        features = model.aggregator.encode(torch.from_numpy(images()))
        observe = None if seen is None else lambda layer, q, k: seen.update({layer: (q, k)})
        return features, model.aggregator(features, GRID, (0, 1, 2, 3, 5), dynamic_patches, observe)


def patches_of(masks):
    return torch.nn.functional.max_pool2d(torch.from_numpy(masks).float()[:, None], 14, 14)[:, 0].flatten(1) > 0.5


def test_every_state_dict_entry_of_the_small_network_has_its_name_and_shape():
    with torch.device("meta"):
        ours = {name: tuple(t.shape) for name, t in network.Vggt(SMALL).state_dict().items()}
    lines = (GOLDEN / "vggt_small_keys.txt").read_text().splitlines()
    theirs = {
        name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape in (line.split(" ", 1) for line in lines)
    }
    assert ours == theirs


def test_tokens_features_cameras_depth_and_points_equal_the_reference_answers(small, golden):
    seen = {}
    features, tokens = answers(small, seen=seen)
    with torch.no_grad():
        depth, depth_confidence = small.depth(tokens)
        points, points_confidence = small.points(tokens)
        cameras = small.cameras(tokens)
    patch_tokens = [golden[f"global_{n}_layer3"][0, 0].reshape(6, 3, 82, 64)[:, :, 5:] for n in "qk"]
    errors = {
        "encoder_features": relative_error(features, golden["encoder_features"]),
        "tokens_first": relative_error(tokens.layers[0], golden["tokens_first"]),
        "tokens_last": relative_error(tokens.layers[5], golden["tokens_last"]),
        "q": relative_error(seen[3][0], patch_tokens[0]),
        "k": relative_error(seen[3][1], patch_tokens[1]),
        "pose_enc": relative_error(cameras, golden["pose_enc"]),
        "depth": relative_error(depth, golden["depth"]),
        "depth_conf": relative_error(depth_confidence, golden["depth_conf"]),
        "points": relative_error(points, golden["points"]),
        "points_conf": relative_error(points_confidence, golden["points_conf"]),
    }
    assert max(errors.values()) < 1e-4, errors


def test_the_second_pass_drops_dynamic_patches_from_keys_and_values_of_the_early_layers(small, golden):
    _, tokens = answers(small, patches_of(dynamic_masks()))
    with torch.no_grad():
        cameras = small.cameras(tokens)
    assert relative_error(tokens.layers[5], golden["masked_tokens_last"]) < 1e-4
    assert relative_error(cameras, golden["masked_pose_enc"]) < 1e-4
    assert relative_error(tokens.layers[5], golden["tokens_last"]) > 1e-3, "the mask must matter"


def test_answers_change_when_rotary_axes_swap(small, golden, monkeypatch):
    rotary = layers.rotary_2d

    def swapped(*arguments):
        right = rotary(*arguments)
        half = right.cos.shape[-1] // 2
        return layers.Rotary(right.cos.roll(half, -1), right.sin.roll(half, -1))

    monkeypatch.setattr(network, "rotary_2d", swapped)
    assert relative_error(answers(small)[1].layers[0], golden["tokens_first"]) > 1e-4


def test_answers_change_without_query_and_key_norm(small, golden, monkeypatch):
    monkeypatch.setattr(
        torch.nn.LayerNorm,
        "forward",
        lambda self, x, _right=torch.nn.LayerNorm.forward: x if self.normalized_shape == (64,) else _right(self, x),
    )
    assert relative_error(answers(small)[1].layers[0], golden["tokens_first"]) > 1e-4


def test_answers_change_when_the_first_frames_tokens_are_the_others(small, golden, monkeypatch):
    same = torch.nn.Parameter(small.aggregator.camera_token[:, 1:].expand(-1, 2, -1, -1), requires_grad=False)
    monkeypatch.setitem(small.aggregator._parameters, "camera_token", same)
    assert relative_error(answers(small)[1].layers[5], golden["tokens_last"]) > 1e-4


def test_depth_changes_when_the_skip_carries_x_instead_of_its_relu(small, golden, monkeypatch):
    monkeypatch.setattr(heads.ResidualUnit, "forward", lambda self, x: self.conv2(self.conv1(x.relu()).relu()) + x)
    with torch.no_grad():
        depth, _ = small.depth(answers(small)[1])
    assert relative_error(depth, golden["depth"]) > 1e-2


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def gain(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def convolution(name: str, inputs: int, outputs: int, side: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, side, side), **({f"{name}.bias": (outputs,)} if bias else {})}


def block(name: str, dim: int, head_dim: int | None = None) -> dict[str, tuple[int, ...]]:
    norms = gain(f"{name}.attn.q_norm", head_dim) | gain(f"{name}.attn.k_norm", head_dim) if head_dim else {}
    return (
        gain(f"{name}.norm1", dim)
        | linear(f"{name}.attn.qkv", dim, 3 * dim)
        | linear(f"{name}.attn.proj", dim, dim)
        | norms
        | {f"{name}.ls1.gamma": (dim,), f"{name}.ls2.gamma": (dim,)}
        | gain(f"{name}.norm2", dim)
        | linear(f"{name}.mlp.fc1", dim, 4 * dim)
        | linear(f"{name}.mlp.fc2", 4 * dim, dim)
    )


def dense_head(name: str, outputs: int) -> dict[str, tuple[int, ...]]:
    listing = gain(f"{name}.norm", 2048)
    for i, wide in enumerate((256, 512, 1024, 1024)):
        listing |= convolution(f"{name}.projects.{i}", 2048, wide, 1)
        listing |= convolution(f"{name}.scratch.layer{i + 1}_rn", wide, 256, 3, bias=False)
        for unit in (1, 2) if i < 3 else (2,):
            for conv in (1, 2):
                listing |= convolution(f"{name}.scratch.refinenet{i + 1}.resConfUnit{unit}.conv{conv}", 256, 256, 3)
        listing |= convolution(f"{name}.scratch.refinenet{i + 1}.out_conv", 256, 256, 1)
    for i, wide, side in ((0, 256, 4), (1, 512, 2), (3, 1024, 3)):
        listing |= convolution(f"{name}.resize_layers.{i}", wide, wide, side)
    return (
        listing
        | convolution(f"{name}.scratch.output_conv1", 256, 128, 3)
        | convolution(f"{name}.scratch.output_conv2.0", 128, 32, 3)
        | convolution(f"{name}.scratch.output_conv2.2", 32, outputs, 1)
    )


def published_listing() -> dict[str, tuple[int, ...]]:
    """Every entry of VGGT-1B's state dict but the track head's, written down from the architecture."""
    encoder = "aggregator.patch_embed"
    listing = {
        "aggregator.camera_token": (1, 2, 1, 1024),
        "aggregator.register_token": (1, 2, 4, 1024),
        f"{encoder}.cls_token": (1, 1, 1024),
        f"{encoder}.pos_embed": (1, 1 + 37 * 37, 1024),
        f"{encoder}.register_tokens": (1, 4, 1024),
        f"{encoder}.mask_token": (1, 1024),
    }
    listing |= convolution(f"{encoder}.patch_embed.proj", 3, 1024, 14) | gain(f"{encoder}.norm", 1024)
    for i in range(24):
        listing |= block(f"{encoder}.blocks.{i}", 1024)
        listing |= block(f"aggregator.frame_blocks.{i}", 1024, 64) | block(f"aggregator.global_blocks.{i}", 1024, 64)
    listing |= {"camera_head.empty_pose_tokens": (1, 1, 9)} | linear("camera_head.embed_pose", 9, 2048)
    listing |= gain("camera_head.token_norm", 2048) | gain("camera_head.trunk_norm", 2048)
    listing |= linear("camera_head.poseLN_modulation.1", 2048, 3 * 2048)
    listing |= linear("camera_head.pose_branch.fc1", 2048, 1024) | linear("camera_head.pose_branch.fc2", 1024, 9)
    for i in range(4):
        listing |= block(f"camera_head.trunk.{i}", 2048)
    return listing | dense_head("depth_head", 2) | dense_head("point_head", 4)


def test_the_full_size_network_has_exactly_the_published_keys_and_shapes():
    with torch.device("meta"):
        model = network.Vggt()
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert ours == published_listing()
    assert len(ours) == 1210 + 69 + 62 + 62
    assert round(sum(t.numel() for t in model.parameters()) / 1e6, 1) == 1190.6
