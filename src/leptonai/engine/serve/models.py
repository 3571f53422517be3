"""The model that is served, its tokenizer and its adapters: which name a client may ask for, and what text becomes which tokens."""

from __future__ import annotations

import json
import time
from typing import Any

from ...base.errors import LeptonError, did_you_mean
from ..backend import LLMBackend
from .errors import ApiError
from .schema import Message, Tool

MAX_PROMPT_CHARS_PER_TOKEN = 64
"""Longer text than this for each token of the context cannot fit: refused before it is tokenised."""


class Served:
    """`names[0]` is the model's own; every other model name is an adapter."""

    def __init__(self, name: str, backend: LLMBackend, tokenizer: Any, adapters: dict[str, str] | None = None):
        self.name, self.backend, self.tokenizer = name, backend, tokenizer
        self.adapters: dict[str, float] = {adapter: time.time() for adapter in adapters or {}}
        self.created = time.time()

    def adapter(self, model: str) -> str | None:
        """The adapter that the name means; None: the model itself. An empty name is the model. Raises 404."""
        if model in ("", self.name):
            return None
        if model in self.adapters:
            return model
        hint = did_you_mean(model, [self.name, *self.adapters])
        raise ApiError(404, f"The model `{model}` does not exist. {hint}", param="model", code="model_not_found")

    def listing(self) -> list[dict]:
        base = {"object": "model", "owned_by": "lepton", "max_model_len": self.backend.info.max_model_len}
        cards = [{"id": self.name, **base, "created": int(self.created), "root": self.name, "parent": None}]
        return cards + [
            {"id": id, **base, "created": int(at), "root": self.name, "parent": self.name}
            for id, at in self.adapters.items()
        ]

    def need(self, feature: str, what: str, param: str) -> None:
        if feature not in self.backend.info.features:
            raise ApiError(
                400, f"This model is served by a backend without {what}.", param=param, code="unsupported_parameter"
            )

    def encode(self, text: str, *, add_special_tokens: bool = True, param: str = "prompt") -> list[int]:
        limit = self.backend.info.max_model_len * MAX_PROMPT_CHARS_PER_TOKEN
        if len(text) > limit:
            raise ApiError(
                400, f"The {param} of {len(text):,} characters is longer than the context of {self.backend.info.max_model_len} tokens can be.",
                param=param, code="context_length_exceeded",
            )  # fmt: skip
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def chat_prompt(self, messages: list[Message], tools: list[Tool] | None, **options: Any) -> str:
        if not messages:
            raise ApiError(400, "messages must have at least one message.", param="messages", code="invalid_value")
        if not self.tokenizer.chat_template:
            raise ApiError(
                400,
                "This model has no chat template, so it cannot chat: use /v1/completions.",
                param="messages",
                code="chat_template_missing",
            )
        described = [{"type": "function", "function": function_of(tool)} for tool in tools or ()]
        plain_messages = [plain(message, i) for i, message in enumerate(messages)]
        try:
            return self.tokenizer.apply_chat_template(plain_messages, tools=described or None, **options)
        except LeptonError as error:
            raise ApiError(
                400,
                f"The chat template of this model does not take these messages: {error}",
                param="messages",
                code="invalid_value",
            ) from None


def function_of(tool: Tool) -> dict:
    function = tool.function
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": function.parameters or {"type": "object", "properties": {}},
    }


def plain(message: Message, index: int) -> dict:
    """A message as templates want it: text as one string, arguments of calls as objects."""
    role = "system" if message.role == "developer" else "tool" if message.role == "function" else message.role
    value: dict[str, Any] = {"role": role, "content": text_of(message.content, f"messages[{index}].content")}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (given := getattr(message, name)) is not None:
            value[name] = given
    if message.tool_calls:
        calls = []
        for call in message.tool_calls:
            try:
                arguments = json.loads(call.function.arguments or "{}")
            except ValueError:
                arguments = call.function.arguments
            calls.append(
                {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
            )
        value["tool_calls"] = calls
    return value


def text_of(content: str | list[dict] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            parts.append(str(part.get("text", part.get("refusal", ""))))
        else:
            raise ApiError(
                400,
                f"This model reads text only; {kind!r} cannot be sent to it.",
                param=where,
                code="unsupported_content",
            )
    return "".join(parts)
