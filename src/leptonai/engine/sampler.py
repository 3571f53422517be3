"""Logits to tokens. A token is a function of (logits, params, seed, position), never of what else is in the batch.

Greedy rows are one argmax. The others look at the best candidates only and draw by one uniform number; where those cannot settle it (the number
falls beyond their mass, or a truncation reaches further) the row is looked at again with more of them, to the whole vocabulary: exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from types import ModuleType

import torch

from .backend import TokenLogprobs
from .params import SamplingParams
from .sequence import Sequence

CANDIDATES = (128, 1024)  # then all
WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Pick:
    """One row of logits: the token at `position` of the sequence. `eos`: what ends this model's answers."""

    sequence: Sequence
    position: int


@dataclass(frozen=True)
class Choice:
    """`error`: why nothing could be chosen."""

    token: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1) for this place: SplitMix64, Steele et al. 2014. No state, so preemption and refused drafts change nothing."""
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & WORD
    for _ in range(2):
        z = (z + 0x9E3779B97F4A7C15) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        z ^= z >> 31
    return ((z >> 11) + 0.5) * 2.0**-53


def sample(ops: ModuleType, logits: torch.Tensor, picks: Seq[Pick], eos: Seq[int]) -> list[Choice]:
    """logits: (rows, vocab) fp32, which this may change. One choice for each pick."""
    params = [pick.sequence.request.params for pick in picks]
    asked = [row for row, p in enumerate(params) if p.logprobs is not None]
    raw = logits[asked].clone() if asked else None
    for row, pick in enumerate(picks):
        adjust(logits[row], pick, eos)
    tokens = [0] * len(picks)
    greedy = [row for row, p in enumerate(params) if p.greedy]
    drawn = [row for row, p in enumerate(params) if not p.greedy]
    if greedy:
        for row, token in zip(greedy, ops.argmax(rows_of(logits, greedy)).tolist(), strict=True):
            tokens[row] = token
    if drawn:
        numbers = [uniform(picks[row].sequence.seed, picks[row].position) for row in drawn]
        for row, token in zip(
            drawn, draw(ops, rows_of(logits, drawn), [params[row] for row in drawn], numbers), strict=True
        ):
            tokens[row] = token
    chosen = logits.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    fine = torch.isfinite(chosen).tolist()
    choices = [
        Choice(token) if ok else Choice(token, error=explain(pick))
        for token, ok, pick in zip(tokens, fine, picks, strict=True)
    ]
    if raw is not None:
        found = logprobs(ops, raw, [tokens[row] for row in asked], [params[row].logprobs or 0 for row in asked])
        for row, values in zip(asked, found, strict=True):
            choices[row] = Choice(tokens[row], values, choices[row].error)
    return choices


def rows_of(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return logits if len(rows) == len(logits) else logits[rows]


def explain(pick: Pick) -> str:
    if pick.sequence.matcher is not None:
        return "the grammar allows no token here"
    return "the model gave no finite logits"


def adjust(row: torch.Tensor, pick: Pick, eos: Seq[int]) -> None:
    """Bias, penalties, bans and grammar, in place, on the logits (vocab,) of one row."""
    sequence, params = pick.sequence, pick.sequence.request.params
    if params.logit_bias:
        row[torch.tensor(list(params.logit_bias))] += torch.tensor(list(params.logit_bias.values()))
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        penalize(row, sequence, params)
    if params.min_tokens > pick.position - sequence.prompt_length:
        row[[*eos, *params.stop_token_ids]] = -torch.inf
    for word in params.bad_words_token_ids:
        before = len(word) - 1
        if word and sequence.tokens[len(sequence.tokens) - before :] == word[:-1] and sequence.generated >= before:
            row[word[-1]] = -torch.inf
    if sequence.matcher is not None:
        row[~allowed(sequence, len(row), eos)] = -torch.inf


def penalize(row: torch.Tensor, sequence: Sequence, params: SamplingParams) -> None:
    """Repetition counts prompt and answer (Keskar et al. 2019); presence and frequency count the answer, as OpenAI's do."""
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(sequence.tokens)))
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    counts = Counter(sequence.tokens[sequence.prompt_length :])
    if counts and (params.presence_penalty or params.frequency_penalty):
        row[torch.tensor(list(counts))] -= params.presence_penalty + params.frequency_penalty * torch.tensor(
            list(counts.values())
        )


def allowed(sequence: Sequence, vocab: int, eos: Seq[int]) -> torch.Tensor:
    """(vocab,) bool: what the sequence's grammar allows next."""
    import numpy as np

    assert sequence.matcher is not None
    if sequence.matcher.finished:
        mask = torch.zeros(vocab, dtype=torch.bool)
        mask[list(eos)] = True
        return mask
    words = torch.zeros(-(-vocab // 32), dtype=torch.int32)
    sequence.matcher.fill(words)
    bits = np.unpackbits(words.numpy().view(np.uint8), bitorder="little")[:vocab]
    return torch.from_numpy(bits).bool()


def draw(ops: ModuleType, logits: torch.Tensor, params: Seq[SamplingParams], numbers: Seq[float]) -> list[int]:
    """Tokens of rows (rows, vocab), each by its own number in (0, 1)."""
    vocab = logits.shape[1]
    scaled = logits / torch.tensor([p.temperature for p in params]).unsqueeze(1)
    tokens, open_rows = [0] * len(params), list(range(len(params)))
    for size in (*(size for size in CANDIDATES if size < vocab), vocab):
        if not open_rows:
            break
        values, ids, total = ops.top_k(rows_of(scaled, open_rows), size)
        probabilities = (values.double() - total.double().unsqueeze(1)).exp()
        mine = [params[row] for row in open_rows]
        places = settle(probabilities, mine, [numbers[row] for row in open_rows], complete=size == vocab)
        for row, place, found in zip(open_rows, places, ids.tolist() if size < 256 else ids, strict=True):
            if place >= 0:
                tokens[row] = int(found[place])
        open_rows = [row for row, place in zip(open_rows, places, strict=True) if place < 0]
    return tokens


def settle(
    probabilities: torch.Tensor, params: Seq[SamplingParams], numbers: Seq[float], *, complete: bool
) -> list[int]:
    """Which candidate each row's number falls on; -1 where more candidates are needed. probabilities: (rows, k) falling, of the whole row.

    Order of truncation: min-p and top-k, then top-p of what they leave (as vLLM).
    """
    k = probabilities.shape[1]
    column = [
        torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        for values in zip(*(truncation(p) for p in params), strict=True)
    ]
    top_k, top_p, min_p = column
    kept = probabilities * (probabilities >= min_p * probabilities[:, :1]) * (torch.arange(k) < top_k)
    inside = complete | (top_k <= k) | (kept[:, -1:] == 0)
    cut = (top_k < torch.inf) | (min_p > 0)
    mass = torch.where(inside, kept.sum(1, keepdim=True), torch.where(cut, torch.nan, 1.0))
    below = kept.cumsum(1)
    nucleus = top_p < 1
    kept = torch.where(nucleus & (below - kept >= top_p * mass), 0.0, kept)
    # Beyond the candidates there may be more of the nucleus.
    inside = inside | (nucleus & (below[:, -1:] >= top_p * mass))
    below = kept.cumsum(1)
    mass = torch.where(nucleus | inside, below[:, -1:], mass)
    target = torch.tensor(numbers, dtype=torch.float64).unsqueeze(1) * mass
    place = (below < target).sum(1)
    last = (kept > 0).sum(1) - 1
    sure = (inside | (~nucleus & (target <= below[:, -1:]))).squeeze(1)
    return torch.where(sure, torch.minimum(place, last), -1).tolist()


def truncation(params: SamplingParams) -> tuple[float, float, float]:
    return (float(params.top_k) if params.top_k > 0 else float("inf"), params.top_p, params.min_p)


def logprobs(ops: ModuleType, logits: torch.Tensor, tokens: Seq[int], counts: Seq[int]) -> list[TokenLogprobs]:
    """Of each row (rows, vocab): the token's own logprob and the `counts` best."""
    values, ids, total = ops.top_k(logits, max(1, *counts) if counts else 1)
    own = logits.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1) - total
    best = (values - total.unsqueeze(1)).tolist()
    rows = zip(tokens, own.tolist(), ids.tolist(), best, counts, strict=True)
    return [
        TokenLogprobs(token, value, list(zip(found[:n], scores[:n], strict=True)))
        for token, value, found, scores, n in rows
    ]
