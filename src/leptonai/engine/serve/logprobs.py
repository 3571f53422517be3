"""Logprobs as the two OpenAI routes write them."""

from __future__ import annotations

from typing import Any

from ..backend import TokenLogprobs


def token_text(tokenizer: Any, token: int) -> str:
    return tokenizer.decode([token], skip_special_tokens=False)


def _one(tokenizer: Any, token: int, logprob: float) -> dict:
    text = token_text(tokenizer, token)
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def chat_logprobs(tokenizer: Any, given: list[TokenLogprobs], count: int) -> dict:
    content = []
    for one in given:
        entry = _one(tokenizer, one.token_id, one.logprob)
        entry["top_logprobs"] = [_one(tokenizer, token, logprob) for token, logprob in one.top[:count]]
        content.append(entry)
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Any, token_ids: list[int], given: list[TokenLogprobs | None], count: int, offset: int
) -> dict:
    """`given[i]` is of `token_ids[i]`; offset: characters of text before the first."""
    tokens, values, tops, offsets = [], [], [], []
    for token, one in zip(token_ids, given, strict=False):
        text = token_text(tokenizer, token)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        values.append(None if one is None else max(one.logprob, -9999.0))
        if one is None:
            tops.append(None)
        else:
            best = {token_text(tokenizer, other): max(logprob, -9999.0) for other, logprob in one.top[:count]}
            tops.append({**best, text: max(one.logprob, -9999.0)})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops if count else None, "text_offset": offsets}
