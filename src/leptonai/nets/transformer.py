"""A Transformer encoder over token sequences: pre-norm blocks, scaled-dot-product attention that never looks at padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rnn import PADDING, real_steps, trim


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)) (Xiong et al. 2020: trains without a long warm-up)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x`: (n, length, width); `mask`: (n, 1, 1, length) bool, True where attention may look."""
        x = x + self.dropout(self.attend(self.norm_attention(x), mask))
        return x + self.dropout(self.feed(self.norm_feed(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class Transformer(nn.Module):
    """Token and learned position embeddings → blocks → mean over the real tokens → classes."""

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        classes: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.2,
    ):
        super().__init__()
        if min(vocabulary, length, classes, width, layers, heads) < 1:
            raise ValueError("vocabulary, length, classes, width, layers and heads must be at least 1")
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        # Small embeddings: pre-norm blocks add to them, and N(0, 1) would drown what the first blocks say.
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.embedding.weight[PADDING].data)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens`: (n, at most `length`) integers, 0 is padding. Logits (n, classes)."""
        tokens, lengths = trim(tokens)
        real = real_steps(lengths, tokens.shape[1])
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embedding(tokens) + self.position(places))
        for block in self.blocks:
            x = block(x, real[:, None, None, :])
        x = self.norm(x).masked_fill(~real[:, :, None], 0)
        return self.head(self.dropout(x.sum(1) / lengths[:, None].to(x.dtype)))
