"""From a request's fields to `SamplingParams`: OpenAI's defaults, vLLM's extras, the limits of the model and the server."""

from __future__ import annotations

import json
from typing import Any

from ...base.errors import InvalidInput
from ..backend import ModelInfo
from ..params import MAX_LOGPROBS, Grammar, SamplingParams
from .errors import ApiError
from .schema import ChatRequest, CompletionRequest, Sampling

PLAIN = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_k", "min_p", "repetition_penalty", "min_tokens",
    "ignore_eos", "stop_token_ids", "skip_special_tokens", "include_stop_str_in_output", "prompt_logprobs", "bad_words", "n",
)  # fmt: skip


def sampling_params(
    request: Sampling,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_tokens: int,
    info: ModelInfo,
    grammar: Grammar | None,
) -> SamplingParams:
    """Raises ApiError 400, naming the field."""
    room = info.max_model_len - prompt_tokens
    if room < 1:
        raise ApiError(
            400,
            f"This model's maximum context length is {info.max_model_len} tokens. However, your messages resulted in {prompt_tokens} tokens. "
            "Please reduce the length of the messages.",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    values: dict[str, Any] = {name: value for name in PLAIN if (value := getattr(request, name)) is not None}
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(
            400, f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens", code="invalid_value"
        )
    values["max_tokens"] = room if max_tokens is None else min(max_tokens, room)
    if request.stop:
        values["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.logit_bias:
        values["logit_bias"] = logit_bias(request.logit_bias, info.vocab_size)
    if logprobs is not None:
        if not 0 <= logprobs <= MAX_LOGPROBS:
            raise ApiError(
                400,
                f"top_logprobs must be from 0 to {MAX_LOGPROBS}, got {logprobs}.",
                param="top_logprobs",
                code="invalid_value",
            )
        values["logprobs"] = logprobs
    for name in ("stop_token_ids",):
        if any(not 0 <= token < info.vocab_size for token in values.get(name, ())):
            raise ApiError(
                400,
                f"{name} has a token that is not in the vocabulary of {info.vocab_size}.",
                param=name,
                code="invalid_value",
            )
    try:
        return SamplingParams(**values, grammar=grammar)
    except InvalidInput as error:
        param = error.what.split()[0]
        raise ApiError(400, str(error), param=param if param in values else None, code="invalid_value") from None


def logit_bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not token.isdecimal() or int(token) >= vocab_size:
            raise ApiError(
                400,
                f"logit_bias: {token!r} is not a token id below {vocab_size}.",
                param="logit_bias",
                code="invalid_value",
            )
        bias[int(token)] = value
    return bias


def grammar_of(request: ChatRequest | CompletionRequest) -> Grammar | None:
    """What `response_format`, `structured_outputs` or a `guided_*` field asks the text to be; at most one."""
    found = [grammar for grammar in (*guided(request), response_format(request.response_format)) if grammar is not None]
    if len(found) > 1:
        raise ApiError(
            400, "More than one structured output was asked for.", param="response_format", code="invalid_value"
        )
    return found[0] if found else None


def guided(request: Sampling) -> list[Grammar]:
    asked = dict(request.structured_outputs or {})
    for name in ("json", "regex", "choice", "grammar"):
        if (value := getattr(request, f"guided_{name}")) is not None:
            asked[name] = value
    found = []
    for name, value in asked.items():
        if value is None or value is False:
            continue
        match name:
            case "json":
                found.append(Grammar(kind="json_schema", value=value if isinstance(value, str) else json.dumps(value)))
            case "regex" if isinstance(value, str):
                found.append(Grammar(kind="regex", value=value))
            case "choice":
                found.append(Grammar(kind="choice", value=json.dumps(value)))
            case "grammar" if isinstance(value, str):
                found.append(Grammar(kind="gbnf" if "::=" in value else "lark", value=value))
            case "json_object":
                found.append(Grammar(kind="json_object"))
            case _:
                raise ApiError(
                    400, f"structured_outputs: {name!r} cannot be used; json, regex, choice, grammar and json_object can.",
                    param="structured_outputs", code="invalid_value",
                )  # fmt: skip
    return found


def response_format(given: dict | None) -> Grammar | None:
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Grammar(kind="json_object")
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return Grammar(kind="json_schema", value=json.dumps(schema))
        case {"type": "json_schema", "schema": dict(schema)}:  # of /v1/responses
            return Grammar(kind="json_schema", value=json.dumps(schema))
    raise ApiError(
        400,
        "response_format must be text, json_object, or json_schema with json_schema.schema.",
        param="response_format",
        code="invalid_value",
    )
