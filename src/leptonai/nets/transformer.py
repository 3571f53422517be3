"""A Transformer encoder over token sequences: pre-norm blocks, scaled-dot-product attention that never looks at padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resize import Group
from .rnn import PADDING, real_steps, trim


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Adapter(nn.Module):
    """x + up(GELU(down(x))) (Houlsby et al. 2019). `up` begins at 0, so a new adapter changes nothing."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)) (Xiong et al. 2020: trains without a long warm-up)."""

    def __init__(self, width: int, heads: int, dropout: float, feed: int, adapter: int, prefix: int):
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, feed), nn.GELU(), nn.Linear(feed, width))
        self.dropout = nn.Dropout(dropout)
        if adapter:
            self.adapters = nn.ModuleList(Adapter(width, adapter) for _ in range(2))
        if prefix:
            self.prefix = nn.Parameter(torch.randn(2, heads, prefix, width // heads) * 0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x`: (n, length, width); `mask`: (n, 1, 1, length) bool, True where attention may look."""
        first, second = self.adapters if hasattr(self, "adapters") else (_as_it_is, _as_it_is)
        x = x + self.dropout(first(self.attend(self.norm_attention(x), mask)))
        return x + self.dropout(second(self.feed(self.norm_feed(x))))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if hasattr(self, "prefix"):
            keys, values = self.prefix[:, None].expand(-1, n, -1, -1, -1)
            key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
            mask = F.pad(mask, (self.prefix.shape[2], 0), value=True)
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class Transformer(nn.Module):
    """Token and learned position embeddings → blocks → mean over the real tokens → classes.

    `feed`: hidden units of the feed-forward layers, 0 for 4 × `width`. `adapter`: units of a bottleneck after each sublayer.
    `prefix`: learned keys and values before each block's own (Li & Liang 2021). `prompt`: learned embeddings before the tokens
    (Lester et al. 2021). The last three are 0 for none, and what `method` trains alone.
    """

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
        feed: int = 0,
        adapter: int = 0,
        prefix: int = 0,
        prompt: int = 0,
    ):
        super().__init__()
        if min(feed, adapter, prefix, prompt) < 0:
            raise ValueError("feed, adapter, prefix and prompt must be at least 0")
        if min(vocabulary, length, classes, width, layers, heads) < 1:
            raise ValueError("vocabulary, length, classes, width, layers and heads must be at least 1")
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, feed or 4 * width, adapter, prefix) for _ in range(layers)
        )
        if prompt:
            self.prompt = nn.Parameter(torch.randn(prompt, width) * 0.02)
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
        seen = real
        if hasattr(self, "prompt"):
            x = torch.cat([self.prompt.expand(len(x), -1, -1), x], 1)
            seen = F.pad(real, (len(self.prompt), 0), value=True)
        for block in self.blocks:
            x = block(x, seen[:, None, None, :])
        x = self.norm(x[:, -tokens.shape[1] :]).masked_fill(~real[:, :, None], 0)
        return self.head(self.dropout(x.sum(1) / lengths[:, None].to(x.dtype)))

    def groups(self) -> list[Group]:
        """`feed.<i>`: the hidden units of block i's feed-forward layer. All blocks have as many."""
        return [
            Group(f"feed.{i}", block.feed[0].out_features, (f"blocks.{i}.feed.0",), ((f"blocks.{i}.feed.2", 1),))
            for i, block in enumerate(self.blocks)
        ]

    def deepened(self) -> list[dict[str, object]]:
        """Options of a network with one more block; its last layers must begin at 0 to compute the same."""
        return [{"layers": len(self.blocks) + 1}]

    def quieten(self, names: set[str]) -> None:
        """Let the new blocks among `names` (parameters) add nothing yet."""
        for i, block in enumerate(self.blocks):
            if f"blocks.{i}.out.weight" in names:
                for layer in (block.out, block.feed[2]):
                    nn.init.zeros_(layer.weight)
                    nn.init.zeros_(layer.bias)
