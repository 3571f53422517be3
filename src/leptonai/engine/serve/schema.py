"""What clients send. Fields of OpenAI's API that change nothing here are listed too; a field that nobody knows is an error.

Extras beyond OpenAI's (`extra_body` in its client) have vLLM's names.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ...base.errors import did_you_mean
from ...base.structs import prepare
from .errors import ApiError

Json = dict[str, Any]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every way to generate shares."""

    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    metadata: Json | None = None
    # vLLM's
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: int | None = None
    priority: int | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    guided_json: str | Json | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: Json | None = None
    response_format: Json | None = None


class FunctionCall(msgspec.Struct, kw_only=True):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, kw_only=True):
    id: str | None = None
    type: str = "function"
    function: FunctionCall
    index: int | None = None


class Message(msgspec.Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Json] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    type: Literal["function"]
    function: Function


class ChatRequest(Sampling, kw_only=True):
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: Json | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # accepted, without effect on one model on one machine
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool | None = False
    best_of: int | None = None
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    input: str | list[Json]
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: Json | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: Json | None = None
    user: str | None = None
    truncation: str | None = None
    reasoning: Json | None = None
    include: list[str] | None = None
    service_tier: str | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    tokens: list[int]


class LoadAdapterRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    lora_name: str
    lora_path: str | None = None


REQUESTS = (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ResponsesRequest,
    TokenizeRequest,
    DetokenizeRequest,
    LoadAdapterRequest,
)
prepare(*REQUESTS)
_decoders = {kind: msgspec.json.Decoder(kind) for kind in REQUESTS}


def parse(body: bytes, kind: type) -> Any:
    """The body as `kind`, or a 400 that names the field."""
    try:
        return _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rpartition(" - at `$.")[2].rstrip("`") if " - at `$." in text else None
        if "unknown field" in text and where is None:
            field = text.split("`")[1]
            hint = (
                did_you_mean(field, kind.__struct_fields__)
                if len(kind.__struct_fields__) < 12
                else nearest_hint(field, kind)
            )
            raise ApiError(
                400,
                f"Unrecognized request argument supplied: {field}. {hint}".strip(),
                param=field,
                code="unknown_parameter",
            ) from None
        missing = "missing required field `" in text
        param = text.split("`")[1] if missing else where
        code = "missing_required_parameter" if missing else "invalid_type"
        raise ApiError(400, text, param=param, code=code) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}", code="invalid_json") from None


def nearest_hint(field: str, kind: type) -> str:
    hint = did_you_mean(field, kind.__struct_fields__)
    return hint if hint.startswith("Did") else ""
