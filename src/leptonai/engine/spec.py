"""Prompt-lookup speculation: what followed the last words the last time they were said is likely to follow again.

Drafts cost no model. They are checked by the sampler itself: a position's token is drawn as ever, and the next position counts only if the
draft had that token. So the output is that of plain decoding, for greedy and for sampled tokens alike.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that must be the same
WINDOW = 4096  # tokens looked back


def propose(tokens: Sequence[int], count: int) -> list[int]:
    """Up to `count` tokens that may follow `tokens`; empty where its end was not seen before. The longest and latest match wins."""
    recent = list(tokens[-WINDOW:])
    for length in range(LONGEST, SHORTEST - 1, -1):
        if len(recent) <= length:
            continue
        end, last = recent[-length:], recent[-1]
        for start in range(len(recent) - 2, length - 2, -1):
            if recent[start] == last and recent[start - length + 1 : start + 1] == end:
                return recent[start + 1 : start + 1 + count]
    return []
