"""LSTM and GRU over token sequences. A row's output depends on its own tokens alone, never on how far the batch is padded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PADDING = 0
"""The token that fills rows up to the width of the array; it never stands inside a text."""


def trim(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`tokens` (n, width) cut to the longest row, and the lengths (n,), at least 1: an empty row is one padding token."""
    lengths = (tokens != PADDING).sum(1).clamp(min=1)
    return tokens[:, : int(lengths.max())].long(), lengths


def real_steps(lengths: Tensor, width: int) -> Tensor:
    """(n, width) bool: True where a row has a token."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class _Recurrent(nn.Module):
    """Embedding → recurrent layers → maximum and mean over the steps → classes."""

    layer: type[nn.RNNBase]

    def __init__(
        self,
        *,
        vocabulary: int,
        classes: int,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.3,
    ):
        super().__init__()
        if min(vocabulary, classes, embedding, hidden, layers) < 1:
            raise ValueError("vocabulary, classes, embedding, hidden and layers must be at least 1")
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=PADDING)
        self.recurrent = self.layer(
            embedding,
            hidden,
            num_layers=layers,
            bidirectional=bidirectional,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        # Both summaries: the maximum finds a telling word anywhere, the mean keeps the rest.
        self.head = nn.Linear(2 * hidden * (1 + bidirectional), classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens`: (n, width) integers, 0 is padding. Logits (n, classes)."""
        tokens, lengths = trim(tokens)
        embedded = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        real = real_steps(lengths, steps.shape[1])[:, :, None]
        highest = steps.masked_fill(~real, float("-inf")).amax(1)
        mean = steps.masked_fill(~real, 0).sum(1) / lengths[:, None].to(steps.dtype)
        return self.head(self.dropout(torch.cat([highest, mean], 1)))


class LSTM(_Recurrent):
    """Hochreiter & Schmidhuber 1997."""

    layer = nn.LSTM


class GRU(_Recurrent):
    """Cho et al. 2014."""

    layer = nn.GRU
