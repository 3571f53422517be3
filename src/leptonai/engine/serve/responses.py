"""/v1/responses on top of chat: items in and out, streamed events, and the answers kept so that a conversation can go on by id.

Kept answers are bounded in number and belong to the key that made them.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from . import chat
from .errors import ApiError
from .generation import collect, new_id
from .http import event
from .models import Served, text_of
from .schema import ChatRequest, Message, ResponsesRequest, Tool

KEPT = 1024


class Store:
    """tenant and id -> (response, the whole conversation as messages)."""

    def __init__(self, size: int = KEPT):
        self._kept: OrderedDict[tuple[str, str], tuple[dict, list[dict]]] = OrderedDict()
        self.size = size

    def put(self, tenant: str, response: dict, messages: list[dict]) -> None:
        self._kept[tenant, response["id"]] = response, messages
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)

    def get(self, tenant: str, id: str) -> tuple[dict, list[dict]]:
        found = self._kept.get((tenant, id))
        if found is None:
            raise ApiError(404, f"Response with id '{id}' not found.", param="id", code="not_found")
        return found

    def delete(self, tenant: str, id: str) -> None:
        self.get(tenant, id)
        del self._kept[tenant, id]


class Response:
    """One request to /v1/responses, from its plan to its last event."""

    def __init__(self, request: ResponsesRequest, served: Served, tenant: str, store: Store):
        if request.background:
            raise ApiError(
                400, "Responses are not made in the background here.", param="background", code="unsupported_parameter"
            )
        self.request, self.tenant, self.store = request, tenant, store
        before = store.get(tenant, request.previous_response_id)[1] if request.previous_response_id else []
        self.messages = [*before, *input_messages(request.input)]
        instructed = [{"role": "system", "content": request.instructions}] if request.instructions else []
        self.plan = chat.plan(chat_request(request, instructed + self.messages), served, tenant)
        self.id, self.item_id, self.created = new_id("resp"), new_id("msg"), int(time.time())

    def body(self, status: str, output: list[dict], *, usage: bool = False, incomplete: str | None = None) -> dict:
        request, params = self.request, self.plan.generation.params
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": {"reason": incomplete} if incomplete else None, "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens, "model": self.plan.model, "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False, "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None}, "store": request.store is not False, "temperature": params.temperature,
            "top_p": params.top_p, "text": request.text or {"format": {"type": "text"}}, "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [], "truncation": "disabled", "metadata": request.metadata or {}, "user": request.user,
            "usage": self.usage() if usage else None,
        }  # fmt: skip

    def usage(self) -> dict:
        used = self.plan.generation.usage
        return {
            "input_tokens": used.prompt, "input_tokens_details": {"cached_tokens": used.cached}, "output_tokens": used.completion,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": used.prompt + used.completion,
        }  # fmt: skip

    def message_item(self, text: str, status: str) -> dict:
        content = (
            [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
            if text or status != "in_progress"
            else []
        )
        return {"type": "message", "id": self.item_id, "status": status, "role": "assistant", "content": content}

    def finish(self, text: str, calls: list[dict], cut: bool) -> dict:
        """The response whole; kept unless store is false."""
        state = "incomplete" if cut else "completed"
        output = [self.message_item(text, state)] if text or not calls else []
        body = self.body(state, [*output, *calls], usage=True, incomplete="max_output_tokens" if cut else None)
        if self.request.store is not False:
            said: dict[str, Any] = {"role": "assistant", "content": text}
            if calls:
                functions = [
                    {"id": call["call_id"], "function": {"name": call["name"], "arguments": call["arguments"]}}
                    for call in calls
                ]
                said["tool_calls"] = functions
            self.store.put(self.tenant, body, [*self.messages, said])
        return body

    async def answer(self) -> dict:
        (done,) = await collect(self.plan.generation)
        text, calls = done.text, []
        if (parser := self.plan.parser()) is not None:
            shown, found = parser.push(done.text)
            rest, more = parser.finish()
            found = (found + more)[: 1 if self.plan.one_call else None]
            text, calls = (shown + rest).strip() if found else shown + rest, [call_item(call) for call in found]
        return self.finish(text, calls, done.finish == "length")

    async def frames(self) -> AsyncIterator[bytes]:
        numbers = itertools.count()

        def say(kind: str, **fields: Any) -> bytes:
            return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

        where = {"item_id": self.item_id, "output_index": 0, "content_index": 0}
        yield say("response.created", response=self.body("in_progress", [])) + say(
            "response.in_progress", response=self.body("in_progress", [])
        )
        parser, parts, calls, opened, cut = self.plan.parser(), [], [], False, False
        async with contextlib.aclosing(self.plan.generation.pieces()) as pieces:
            async for piece in pieces:
                text, found = piece.text, []
                if parser is not None:
                    text, found = parser.push(text)
                    if piece.finish is not None:
                        rest, more = parser.finish()
                        text, found = text + rest, found + more
                out = b""
                if text:
                    if not opened:
                        opened = True
                        out += say(
                            "response.output_item.added", output_index=0, item=self.message_item("", "in_progress")
                        )
                        out += say(
                            "response.content_part.added",
                            **where,
                            part={"type": "output_text", "text": "", "annotations": [], "logprobs": []},
                        )
                    parts.append(text)
                    out += say("response.output_text.delta", **where, delta=text, logprobs=[])
                calls += [call_item(call) for call in found]
                cut = piece.finish == "length"
                if out:
                    yield out
        if self.plan.one_call:
            del calls[1:]
        text, out = "".join(parts), b""
        if opened or not calls:
            if not opened:
                out += say("response.output_item.added", output_index=0, item=self.message_item("", "in_progress"))
                out += say(
                    "response.content_part.added",
                    **where,
                    part={"type": "output_text", "text": "", "annotations": [], "logprobs": []},
                )
            item = self.message_item(text, "incomplete" if cut else "completed")
            out += say("response.output_text.done", **where, text=text, logprobs=[])
            out += say("response.content_part.done", **where, part=item["content"][0])
            out += say("response.output_item.done", output_index=0, item=item)
        first = 1 if opened else 0
        for at, call in enumerate(calls, first):
            out += say(
                "response.output_item.added", output_index=at, item={**call, "arguments": "", "status": "in_progress"}
            )
            out += say(
                "response.function_call_arguments.delta", item_id=call["id"], output_index=at, delta=call["arguments"]
            )
            out += say(
                "response.function_call_arguments.done",
                item_id=call["id"],
                output_index=at,
                arguments=call["arguments"],
                name=call["name"],
            )
            out += say("response.output_item.done", output_index=at, item=call)
        yield out + say("response.incomplete" if cut else "response.completed", response=self.finish(text, calls, cut))


def call_item(call: Any) -> dict:
    return {
        "type": "function_call", "id": new_id("fc"), "call_id": new_id("call"), "name": call.name, "arguments": call.arguments, "status": "completed",
    }  # fmt: skip


def input_messages(given: str | list[dict]) -> list[dict]:
    """Items of the request as chat messages."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict] = []
    for index, item in enumerate(given):
        match item.get("type", "message"):
            case "message":
                content = item.get("content")
                if not isinstance(content, str | list | None) or "role" not in item:
                    raise ApiError(
                        400, "A message needs role and content.", param=f"input[{index}]", code="invalid_value"
                    )
                messages.append({"role": item["role"], "content": text_of(content, f"input[{index}].content")})
            case "function_call":
                call = {
                    "id": item.get("call_id"),
                    "function": {"name": item.get("name", ""), "arguments": item.get("arguments", "")},
                }
                if messages and messages[-1]["role"] == "assistant":
                    messages[-1].setdefault("tool_calls", []).append(call)
                else:
                    messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "function_call_output":
                output = item.get("output", "")
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": item.get("call_id"),
                        "content": text_of(output, f"input[{index}].output"),
                    }
                )
            case "reasoning":
                continue
            case other:
                raise ApiError(
                    400,
                    f"Items of type {other!r} cannot be sent to this model.",
                    param=f"input[{index}].type",
                    code="unsupported_content",
                )
    return messages


def chat_request(request: ResponsesRequest, messages: list[dict]) -> ChatRequest:
    tools = []
    for index, tool in enumerate(request.tools or ()):
        if tool.get("type") != "function":
            raise ApiError(
                400,
                f"Tools of type {tool.get('type')!r} are not there; function is.",
                param=f"tools[{index}].type",
                code="unsupported_parameter",
            )
        function = {key: value for key, value in tool.items() if key != "type"}
        try:
            tools.append(msgspec.convert({"type": "function", "function": function}, Tool))
        except msgspec.ValidationError as error:
            raise ApiError(400, str(error), param=f"tools[{index}]", code="invalid_type") from None
    try:
        converted = msgspec.convert(messages, list[Message])
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), param="input", code="invalid_type") from None
    return ChatRequest(
        model=request.model, messages=converted, max_tokens=request.max_output_tokens, temperature=request.temperature, top_p=request.top_p,
        tools=tools or None, tool_choice=request.tool_choice, parallel_tool_calls=request.parallel_tool_calls,
        response_format=(request.text or {}).get("format"), user=request.user,
    )  # fmt: skip
