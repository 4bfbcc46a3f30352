# SPDX-License-Identifier: Apache-2.0
"""The network with its weights: from an installed entry of the manifest, or (tests only) from a seed."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from vs3r_engine.errors import InputError, WeightsMissing
from vs3r_engine.methods import weights
from vs3r_engine.methods.tensors import load_tensors
from vs3r_engine.methods.vggt4d import NAMES
from vs3r_engine.methods.vggt4d.network import Vggt, VggtShape

PREPARED = "network.safetensors"
LONGEST_SIDE_PX = 518
"""The side the network was trained on, 37 patches."""
SMALL_SIDE_PX = 154
SMALL = VggtShape(
    dim=96,
    depth=6,
    heads=4,
    encoder_depth=2,
    encoder_heads=4,
    camera_depth=1,
    camera_heads=4,
    dpt_layers=(1, 2, 3, 5),
    dpt_channels=(16, 24, 32, 32),
    dpt_features=24,
    suppressed_layers=2,
    cue_layers=((1, 2), (4,), (3, 4, 5), 0),
)
"""A network of the same build that a CPU runs in milliseconds."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network ready to run, and what to tell about its weights: their name, licence and whether commercial use is
    allowed.

    longest_side_px: of the pictures it is made for.
    """

    network: Vggt
    name: str
    licence: str
    commercial: str
    longest_side_px: int


def load(source: str, device: str) -> Loaded:
    """The network in evaluation mode on `device`.

    Args:
        source: "installed", the name of an entry, or "random:SEED[:small]" (tests only).

    Raises: WeightsMissing `weights-missing`, `weights-damaged`, `weights-unsafe`, `weights-foreign`.
    """
    seed = weights.random_seed(source)
    if seed is not None:
        shape = SMALL if seed[1] else VggtShape()
        longest = SMALL_SIDE_PX if seed[1] else LONGEST_SIDE_PX
        return Loaded(_ready(random_network(shape, seed[0]), device), source, "none (random numbers, for tests)", "yes", longest)
    if source != "installed" and source not in NAMES:
        raise InputError("bad-weights", f"{source!r} does not name weights of this network.", f"Write installed, {', '.join(NAMES)}.")
    entry, directory = weights.installed(*(NAMES if source == "installed" else (source,)))
    return Loaded(
        _ready(built(state_of(directory), VggtShape()), device),
        entry.name,
        entry.licence,
        entry.commercial,
        LONGEST_SIDE_PX,
    )


def checked_weights(source: str) -> None:
    """Raises what `load` would raise for weights that are not there, without loading anything."""
    if weights.random_seed(source) is None:
        weights.installed(*(NAMES if source == "installed" else (source,)))


def state_of(directory: Path) -> dict[str, torch.Tensor]:
    """The state dict of an installed entry, through the one documented key filter."""
    prepared = directory / PREPARED
    files = sorted(p for p in directory.iterdir() if p.suffix in (".safetensors", ".pt") and p != prepared)
    # What was prepared from files that another fetch replaced is not theirs.
    if prepared.exists() and all(prepared.stat().st_mtime >= p.stat().st_mtime for p in files):
        return load_tensors(prepared)
    return filtered(load_tensors(files[0]))


def filtered(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The key filter: a leading "module." is dropped, and so is the track head, which nothing here uses."""
    named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith("track_head.")}


def built(state: dict[str, torch.Tensor], shape: VggtShape) -> Vggt:
    """The network with exactly these weights, in float32.

    Raises: WeightsMissing `weights-foreign` where keys or shapes are not this network's.
    """
    with torch.device("meta"):
        network = Vggt(shape)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsMissing(
            "weights-foreign",
            f"The file does not hold this network: {str(error).splitlines()[1].strip()[:200]}",
            "Fetch the weights the manifest names (`vs3r-engine weights list`).",
        ) from error
    return network


def random_network(shape: VggtShape, seed: int) -> Vggt:
    """A network of random numbers whose cameras stay near the origin with about 60 degrees of view; equal seeds, equal
    networks."""
    with torch.device("meta"):
        network = Vggt(shape)
    state = {}
    for name, like in network.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        if name.endswith("gamma"):
            state[name] = torch.full(like.shape, 0.3)
        elif "norm" in name and name.endswith("weight"):
            state[name] = torch.ones(like.shape)
        elif name.endswith("bias"):
            state[name] = torch.zeros(like.shape)
        else:
            fan_in = like[0].numel() if like.ndim > 1 else like.numel()
            state[name] = torch.randn(like.shape, generator=generator) * fan_in**-0.5
    # The pose is a sum over four iterations; this makes it (0, identity, 1 rad) and a little.
    state["camera_head.pose_branch.fc2.bias"] = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1.0]) / 4
    state["camera_head.pose_branch.fc2.weight"] *= 0.02
    network.load_state_dict(state, strict=True, assign=True)
    return network


def prepare(directory: Path, tell: weights.Told) -> Path:
    """Write the entry's network alone, as safetensors, beside it: it loads without the track head and without a
    pickle."""
    from safetensors.torch import save_file

    state = state_of(directory)
    built(state, VggtShape())
    path = directory / PREPARED
    tell(f"writing {path.name}")
    partial = path.with_name(PREPARED + ".part")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)
    return path


def _ready(network: Vggt, device: str) -> Vggt:
    return network.eval().requires_grad_(False).to(device)
