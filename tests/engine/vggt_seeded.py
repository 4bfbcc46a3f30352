# SPDX-License-Identifier: Apache-2.0
"""Deterministic weights and inputs behind tests/golden/vggt_small.npz; every array is a function of its name and shape
alone.

Configuration: embed_dim 384, 6 heads, 6 (frame, global) block pairs, encoder ViT-S/14 with 4 registers (12 blocks, 6
heads), camera head of width 768 with 16 heads and 4 blocks, DPT heads on layers [1, 2, 3, 5]. Input [3, 3, 98, 154].
"""

import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array for one state-dict entry: gains in [0.5, 1.5], biases N(0, 0.05), matrices N(0, 0.7 /
    sqrt(fan_in))."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("bias"):
        return rng.normal(0.0, 0.05, shape).astype(np.float32)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    scale = 0.7 / math.sqrt(fan_in) if len(shape) > 1 and shape[0] > 2 else 0.5
    return rng.normal(0.0, scale, shape).astype(np.float32)


def images() -> np.ndarray:
    """[3, 3, 98, 154] float32 in [0, 1]."""
    return np.random.Generator(np.random.Philox(1)).random((1, 3, 3, 98, 154), dtype=np.float32)[0]


def dynamic_masks() -> np.ndarray:
    """[3, 98, 154] bool, True = moves."""
    masks = np.zeros((3, 98, 154), bool)
    for i in range(3):
        masks[i, 20:60, 30 + 10 * i : 80 + 10 * i] = True
    return masks


def cue_queries_keys() -> tuple[np.ndarray, np.ndarray]:
    """q, k for the motion cue: [9 frames, 24 layers, 16 heads, 11 * 18 patches, 64] float32."""
    rng = np.random.Generator(np.random.Philox(2))
    shape = (9, 24, 16, 11 * 18, 64)
    q = rng.standard_normal(shape, dtype=np.float32) * 1.3 + 0.2
    k = rng.standard_normal(shape, dtype=np.float32) * 1.1 - 0.1
    return q.astype(np.float32), k.astype(np.float32)
