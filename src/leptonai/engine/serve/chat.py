"""/v1/chat/completions. `plan` turns a request into a Generation; `answer` and `frames` say what comes out of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..params import Grammar
from ..tools import Call, Format, ToolParser, call_schema, detect_format
from .errors import ApiError
from .generation import Generation, collect, new_id
from .http import DONE, encode, event
from .logprobs import chat_logprobs
from .models import Served, function_of
from .sampling import grammar_of, sampling_params
from .schema import ChatRequest


@dataclass
class Plan:
    generation: Generation
    id: str
    created: int
    model: str
    top_logprobs: int | None = None
    tool_format: Format | None = None
    tool_names: set[str] | None = None
    one_call: bool = False

    def parser(self) -> ToolParser | None:
        return None if self.tool_format is None else ToolParser(self.tool_format, self.tool_names or set())


def plan(request: ChatRequest, served: Served, tenant: str) -> Plan:
    """Raises ApiError."""
    adapter = served.adapter(request.model)
    refuse(request)
    grammar = grammar_of(request)
    format, forced = tool_plan(request, served)
    if forced is not None:
        grammar = forced
    if grammar is not None:
        served.need("grammar", "structured output", "response_format")
    options = allowed_template_kwargs(request.chat_template_kwargs)
    continued = bool(request.continue_final_message)
    prompt = served.chat_prompt(
        request.messages, request.tools if request.tool_choice != "none" else None,
        add_generation_prompt=not continued and request.add_generation_prompt is not False, **options,
    )  # fmt: skip
    if continued:
        prompt = up_to_last_content(prompt, request)
    tokens = served.encode(prompt, add_special_tokens=bool(request.add_special_tokens), param="messages")
    top = (request.top_logprobs or 0) if request.logprobs else None
    if top is not None:
        served.need("logprobs", "logprobs", "logprobs")
    limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    params = sampling_params(
        request, max_tokens=limit, logprobs=top, prompt_tokens=len(tokens), info=served.backend.info, grammar=grammar
    )
    parse_tools = format is not None and format != "forced"
    if parse_tools:
        params = params.replace(skip_special_tokens=False)
    generation = Generation(
        served.backend, served.tokenizer, tokens, params, tenant, request.priority or 0, adapter, hide_end=parse_tools
    )
    names = {tool.function.name for tool in request.tools or ()}
    one_call = request.parallel_tool_calls is False
    return Plan(
        generation, new_id("chatcmpl"), int(time.time()), request.model or served.name, top, format, names, one_call
    )


def refuse(request: ChatRequest) -> None:
    if request.chat_template is not None:
        raise ApiError(
            400,
            "Chat templates come from the model, not from requests.",
            param="chat_template",
            code="unsupported_parameter",
        )
    if request.modalities and request.modalities != ["text"]:
        raise ApiError(400, "This model answers in text only.", param="modalities", code="unsupported_parameter")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs", code="invalid_value")


def allowed_template_kwargs(given: dict | None) -> dict:
    """Switches of the template (`enable_thinking`), never what the server itself passes."""
    taken = {
        "messages",
        "tools",
        "add_generation_prompt",
        "tokenize",
        "chat_template",
        "documents",
        "conversation",
        "continue_final_message",
    }
    for name, value in (given or {}).items():
        if name in taken or not name.isidentifier() or not isinstance(value, bool | int | float | str | None):
            raise ApiError(
                400,
                f"chat_template_kwargs: {name!r} cannot be set.",
                param="chat_template_kwargs",
                code="invalid_value",
            )
    return dict(given or {})


def up_to_last_content(prompt: str, request: ChatRequest) -> str:
    last = request.messages[-1].content
    at = prompt.rfind(last) if isinstance(last, str) and last else -1
    if at < 0:
        raise ApiError(
            400,
            "continue_final_message needs a last message with text.",
            param="continue_final_message",
            code="invalid_value",
        )
    return prompt[: at + len(last)]


def tool_plan(request: ChatRequest, served: Served) -> tuple[Format | None, Grammar | None]:
    """How calls are read from the answer, and the grammar that forces them."""
    choice, tools = request.tool_choice, request.tools
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice needs tools.", param="tool_choice", code="invalid_value")
        return None, None
    functions = [function_of(tool) for tool in tools]
    parallel = request.parallel_tool_calls is not False
    match choice:
        case "none":
            return None, None
        case None | "auto":
            return detect_format(served.tokenizer.chat_template), None
        case "required":
            only = None
        case {"type": "function", "function": {"name": str(only)}} | {"type": "function", "name": str(only)}:
            if only not in {function["name"] for function in functions}:
                raise ApiError(
                    400,
                    f"tool_choice names {only!r}, which is not in tools.",
                    param="tool_choice",
                    code="invalid_value",
                )
        case _:
            raise ApiError(
                400,
                "tool_choice must be none, auto, required, or name a function.",
                param="tool_choice",
                code="invalid_value",
            )
    return "forced", Grammar(kind="json_schema", value=json.dumps(call_schema(functions, only=only, parallel=parallel)))


def call_dict(call: Call) -> dict:
    return {"id": new_id("call"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


async def answer(plan: Plan) -> dict:
    choices = []
    for index, done in enumerate(await collect(plan.generation)):
        message: dict = {"role": "assistant", "content": done.text, "refusal": None}
        finish = done.finish
        if (parser := plan.parser()) is not None:
            shown, calls = parser.push(done.text)
            rest, more = parser.finish()
            calls = (calls + more)[: 1 if plan.one_call else None]
            if calls:
                message["content"] = (shown + rest).strip() or None
                message["tool_calls"] = [call_dict(call) for call in calls]
                finish = "tool_calls" if finish == "stop" else finish
        logprobs = (
            None
            if plan.top_logprobs is None
            else chat_logprobs(plan.generation.tokenizer, done.logprobs, plan.top_logprobs)
        )
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": logprobs,
                "finish_reason": finish,
                "stop_reason": done.stop_reason,
            }
        )
    return {
        "id": plan.id, "object": "chat.completion", "created": plan.created, "model": plan.model, "choices": choices,
        "usage": plan.generation.usage.to_dict(), "system_fingerprint": None,
    }  # fmt: skip


async def frames(plan: Plan, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events: the role, what each step adds, the usage, [DONE]. One frame a step, however many tokens it brought."""
    shared = {
        "id": plan.id,
        "object": "chat.completion.chunk",
        "created": plan.created,
        "model": plan.model,
        "system_fingerprint": None,
    }
    # The shared fields are encoded once; a frame with nothing but text is two copies and one encoded string.
    prefix = b"data: " + encode(shared)[:-1]
    heads = [
        prefix + b',"choices":[{"index":%d,"delta":{"content":' % index for index in range(plan.generation.params.n)
    ]
    tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
    if include_usage:
        tail = tail.replace(b"]}\n\n", b'],"usage":null}\n\n')
    parsers = {i: plan.parser() for i in range(plan.generation.params.n)} if plan.tool_format else {}

    def chunk(index: int, delta: dict, finish: str | None = None, logprobs: dict | None = None) -> bytes:
        value = {**shared, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
        return event({**value, "usage": None} if include_usage else value)

    begun: set[int] = set()
    counts: dict[int, int] = {}
    async with contextlib.aclosing(plan.generation.pieces()) as pieces:
        async for piece in pieces:
            index, out = piece.index, b""
            if index not in begun:
                begun.add(index)
                out = chunk(index, {"role": "assistant", "content": ""})
            text, calls = piece.text, []
            if (parser := parsers.get(index)) is not None:
                text, calls = parser.push(text)
                if piece.finish is not None:
                    rest, more = parser.finish()
                    text, calls = text + rest, calls + more
            if plan.top_logprobs is not None and piece.logprobs:
                out += chunk(
                    index,
                    {"content": text},
                    None,
                    chat_logprobs(plan.generation.tokenizer, piece.logprobs, plan.top_logprobs),
                )
            elif text:
                out += heads[index] + encode(text) + tail
            for call in calls:
                at = counts.get(index, 0)
                if at and plan.one_call:
                    continue
                counts[index] = at + 1
                out += chunk(index, {"tool_calls": [{"index": at, **call_dict(call)}]})
            if piece.finish is not None:
                finish = "tool_calls" if counts.get(index) and piece.finish == "stop" else piece.finish
                out += chunk(index, {}, finish)
            if out:
                yield out
    last = b""
    if include_usage:
        last = event({**shared, "choices": [], "usage": plan.generation.usage.to_dict()})
    yield last + DONE
