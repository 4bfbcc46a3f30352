# SPDX-License-Identifier: Apache-2.0
"""The transformer blocks VGGT is made of: attention with optional query/key norm and 2D rotary positions, MLP, layer
scale. Attribute names are the public checkpoints' state-dict keys."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """cos and sin, [tokens, head_dim] float32, of every token's rotary angles: first half of a head rotates by row,
    second by column."""

    cos: Tensor
    sin: Tensor

    def __call__(self, heads: Tensor) -> Tensor:
        """`heads` [..., tokens, head_dim] rotated; pairs are (i, i + quarter) within each half of the head."""
        quarters = heads.unflatten(-1, (2, 2, -1))
        turned = torch.stack((-quarters[..., 1, :], quarters[..., 0, :]), dim=-2).flatten(-3)
        return heads * self.cos + turned * self.sin

    def repeated(self, frames: int) -> "Rotary":
        """For `frames` frames of tokens in one sequence: positions say where in a picture, not in which picture."""
        return Rotary(self.cos.repeat(frames, 1), self.sin.repeat(frames, 1))


def rotary_2d(rows: int, columns: int, special_tokens: int, head_dim: int, device: torch.device) -> Rotary:
    """Angles for [special tokens at position 0, then patches row by row at (row + 1, column + 1)], base 100."""
    frequency = 100.0 ** -(torch.arange(0, head_dim // 2, 2, device=device, dtype=torch.float32) / (head_dim // 2))
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    position = torch.stack((row, column), -1).reshape(-1, 2) + 1
    position = torch.cat((position.new_zeros(special_tokens, 2), position)).float()
    angle = position[:, :, None] * frequency  # [tokens, axis, quarter]
    angle = torch.cat((angle, angle), -1).flatten(1)
    return Rotary(angle.cos(), angle.sin())


class Attention(nn.Module):
    """Multi-head self-attention. `norms`: LayerNorm of every head's queries and keys before rotation."""

    def __init__(self, dim: int, heads: int, norms: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads) if norms else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads) if norms else nn.Identity()

    def queries_keys_values(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Three [batch, heads, tokens, head_dim]; queries and keys normed and rotated."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        return (rotary(q), rotary(k), v) if rotary else (q, k, v)

    def forward(self, x: Tensor, rotary: Rotary | None, keep: Tensor | None, observe=None) -> Tensor:
        """[batch, tokens, dim]. keep: [batch, tokens] bool, False = key and value nobody attends to."""
        q, k, v = self.queries_keys_values(x, rotary)
        if observe is not None:
            observe(q, k)
        mask = None
        if keep is not None and len(keep) == 1:
            # One sequence: dropping rows keeps the fused attention kernels, which take no mask.
            k, v = k[:, :, keep[0]], v[:, :, keep[0]]
        elif keep is not None:
            mask = keep[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        attended = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learnt gain per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Two layers with exact GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(self, dim: int, heads: int, *, norms: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, norms)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, dim * 4, dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None, keep: Tensor | None = None, observe=None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotary, keep, observe))
        return x + self.ls2(self.mlp(self.norm2(x)))
