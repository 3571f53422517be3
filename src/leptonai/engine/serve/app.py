"""The OpenAI server as one ASGI app: who may ask, how much at once, which route answers, and what an error looks like.

Every request ends in exactly one of: an answer, an error in OpenAI's shape, or a client that went away and whose tokens are freed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ...base.errors import LeptonError
from . import chat, completions, embeddings
from .errors import ApiError, as_api_error
from .http import Call, Disconnected
from .logprobs import token_text
from .metrics import Metrics
from .models import Served
from .responses import Response, Store
from .schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    LoadAdapterRequest,
    ResponsesRequest,
    TokenizeRequest,
    parse,
)  # fmt: skip

log = logging.getLogger(__name__)
OPEN_PATHS = {"/health", "/healthz", "/health/live", "/ping", "/version"}


@dataclass(frozen=True)
class Limits:
    """What one server lets in. A request beyond `max_concurrency` is told 429; a key beyond its share of it too."""

    max_body_bytes: int = 16 << 20
    max_concurrency: int = 512
    max_concurrency_per_key: int = 512
    adapter_roots: tuple[str, ...] = field(default=())
    """Folders that adapters may be loaded from while the server runs; none: the routes are closed."""


class App:
    """`served.backend` must be started. api_keys: those that may ask; none: everybody who reaches the port."""

    def __init__(self, served: Served, *, api_keys: tuple[str, ...] = (), limits: Limits | None = None):
        self.served, self.api_keys, self.limits = served, api_keys, limits or Limits()
        self.store, self.metrics = Store(), Metrics()
        self.per_key: Counter[str] = Counter()
        self.routes: dict[tuple[str, str], Callable[[Call], Awaitable[None]]] = {
            ("GET", "/health"): self.health,
            ("GET", "/healthz"): self.health,
            ("GET", "/health/live"): self.live,
            ("GET", "/ping"): self.health,
            ("GET", "/metrics"): self.prometheus,
            ("GET", "/v1/models"): self.list_models,
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/completions"): self.complete,
            ("POST", "/v1/embeddings"): self.embed,
            ("POST", "/v1/responses"): self.respond,
            ("POST", "/v1/load_lora_adapter"): self.load_adapter,
            ("POST", "/v1/unload_lora_adapter"): self.unload_adapter,
            ("POST", "/tokenize"): self.tokenize,
            ("POST", "/detokenize"): self.detokenize,
        }
        self.bounded = {path for method, path in self.routes if method == "POST"}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        began = time.perf_counter()

        async def timed(message: dict) -> None:
            if message["type"] == "http.response.start":
                self.metrics.first_byte.observe(time.perf_counter() - began)
            await send(message)

        call = Call(scope, receive, timed)
        self.metrics.active += 1
        try:
            await self.dispatch(call)
        except Disconnected:
            self.metrics.disconnects += 1
            call.status = call.status or 499
        except LeptonError as error:
            await self.fail(call, as_api_error(error))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s", call.method, call.path)
            await self.fail(call, ApiError(500, "The server made an error; its log says which.", code="internal_error"))
        finally:
            self.metrics.active -= 1
            self.metrics.requests[self.route_name(call), call.status] += 1
            self.metrics.duration.observe(time.perf_counter() - began)

    async def fail(self, call: Call, error: ApiError) -> None:
        if not call.status:
            await call.fail(error)

    def route_name(self, call: Call) -> str:
        """Bounded, whatever paths clients try."""
        return call.path if (call.method, call.path) in self.routes else "other"

    async def dispatch(self, call: Call) -> None:
        if call.path not in OPEN_PATHS:
            call.tenant = self.authenticate(call)
        handler = self.routes.get((call.method, call.path)) or self.with_id(call)
        if call.path not in self.bounded:
            return await handler(call)
        self.admit(call.tenant)
        self.per_key[call.tenant] += 1
        try:
            await handler(call)
        finally:
            self.per_key[call.tenant] -= 1
            if not self.per_key[call.tenant]:
                del self.per_key[call.tenant]

    def authenticate(self, call: Call) -> str:
        """The tenant: a digest of the key, so that no key is kept, logged or sent to the engine."""
        scheme, _, key = call.header("authorization").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        if self.api_keys and not any([hmac.compare_digest(key.encode(), known.encode()) for known in self.api_keys]):
            what = (
                "Incorrect API key provided."
                if key
                else "You didn't provide an API key: send Authorization: Bearer KEY."
            )
            raise ApiError(401, what, code="invalid_api_key")
        return hashlib.blake2b(key.encode(), digest_size=12).hexdigest() if key else ""

    def admit(self, tenant: str) -> None:
        limits = self.limits
        if self.per_key.total() >= limits.max_concurrency:
            raise ApiError(
                429,
                f"{limits.max_concurrency} requests are being answered; try again.",
                code="rate_limit_exceeded",
                retry_after_s=1,
            )
        if self.per_key[tenant] >= limits.max_concurrency_per_key:
            raise ApiError(
                429,
                f"This key has {limits.max_concurrency_per_key} requests under way.",
                code="rate_limit_exceeded",
                retry_after_s=1,
            )

    def with_id(self, call: Call) -> Callable[[Call], Awaitable[None]]:
        """Routes whose path holds a name."""
        if call.method == "GET" and call.path.startswith("/v1/models/"):
            return self.show_model
        if call.method in ("GET", "DELETE") and re.fullmatch(r"/v1/responses/[\w-]{1,80}", call.path):
            return self.kept_response
        if any(call.path == path for _, path in self.routes):
            raise ApiError(405, f"{call.path} does not take {call.method}.", code="method_not_allowed")
        raise ApiError(404, f"Unknown request URL: {call.method} {call.path}.", code="unknown_url")

    async def read(self, call: Call, kind: type):
        return parse(await call.body(self.limits.max_body_bytes), kind)

    # Generation

    async def chat(self, call: Call) -> None:
        request = await self.read(call, ChatRequest)
        plan = chat.plan(request, self.served, call.tenant)
        if request.stream:
            return await call.stream(chat.frames(plan, include_usage=wants_usage(request)))
        await call.answer(await call.while_connected(chat.answer(plan)))

    async def complete(self, call: Call) -> None:
        request = await self.read(call, CompletionRequest)
        plan = completions.plan(request, self.served, call.tenant)
        if request.stream:
            return await call.stream(completions.frames(plan, include_usage=wants_usage(request)))
        await call.answer(await call.while_connected(completions.answer(plan)))

    async def respond(self, call: Call) -> None:
        response = Response(await self.read(call, ResponsesRequest), self.served, call.tenant, self.store)
        if response.request.stream:
            return await call.stream(response.frames())
        await call.answer(await call.while_connected(response.answer()))

    async def kept_response(self, call: Call) -> None:
        id = call.path.rpartition("/")[2]
        if call.method == "DELETE":
            self.store.delete(call.tenant, id)
            return await call.answer({"id": id, "object": "response", "deleted": True})
        await call.answer(self.store.get(call.tenant, id)[0])

    async def embed(self, call: Call) -> None:
        request = await self.read(call, EmbeddingRequest)
        await call.answer(await call.while_connected(embeddings.answer(request, self.served, call.tenant)))

    # Models

    async def list_models(self, call: Call) -> None:
        await call.answer({"object": "list", "data": self.served.listing()})

    async def show_model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        self.served.adapter(name)
        await call.answer(next(card for card in self.served.listing() if card["id"] == name))

    async def load_adapter(self, call: Call) -> None:
        from .adapters import load

        request = await self.read(call, LoadAdapterRequest)
        await load(self.served, request, self.limits.adapter_roots)
        await call.answer({"id": request.lora_name, "object": "model", "loaded": True})

    async def unload_adapter(self, call: Call) -> None:
        from .adapters import unload

        request = await self.read(call, LoadAdapterRequest)
        await unload(self.served, request, self.limits.adapter_roots)
        await call.answer({"id": request.lora_name, "object": "model", "loaded": False})

    # Tokens

    async def tokenize(self, call: Call) -> None:
        request = await self.read(call, TokenizeRequest)
        if (request.prompt is None) == (request.messages is None):
            raise ApiError(400, "Give prompt or messages, not both.", param="prompt", code="invalid_value")
        served = self.served
        if request.messages is not None:
            text = served.chat_prompt(
                request.messages, request.tools, add_generation_prompt=request.add_generation_prompt
            )
            tokens = served.encode(text, add_special_tokens=False, param="messages")
        else:
            tokens = served.encode(request.prompt or "", add_special_tokens=request.add_special_tokens)
        strings = [token_text(served.tokenizer, token) for token in tokens] if request.return_token_strs else None
        await call.answer(
            {
                "count": len(tokens),
                "max_model_len": served.backend.info.max_model_len,
                "tokens": tokens,
                "token_strs": strings,
            }
        )

    async def detokenize(self, call: Call) -> None:
        request = await self.read(call, DetokenizeRequest)
        if any(not 0 <= token < self.served.backend.info.vocab_size for token in request.tokens):
            raise ApiError(400, "tokens has one that is not in the vocabulary.", param="tokens", code="invalid_value")
        await call.answer({"prompt": self.served.tokenizer.decode(request.tokens, skip_special_tokens=False)})

    # Operation

    async def health(self, call: Call) -> None:
        """200 when a request would be answered now; else 503 with the reason."""
        state = getattr(self.served.backend, "state", "ready")
        reason = getattr(self.served.backend, "failure", None) if state != "ready" else None
        body = {
            "status": "ok" if state == "ready" else state,
            "model": self.served.name,
            **({"reason": reason} if reason else {}),
        }
        await call.answer(body, 200 if state == "ready" else 503)

    async def live(self, call: Call) -> None:
        await call.answer({"status": "ok"})

    async def prometheus(self, call: Call) -> None:
        backend = self.served.backend
        ready = getattr(backend, "state", "ready") == "ready"
        text = self.metrics.render(backend.stats(), restarts=getattr(backend, "restarts", 0), ready=ready)
        await call.answer(text, headers=[(b"content-type", b"text/plain; version=0.0.4")])


def wants_usage(request: ChatRequest | CompletionRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


async def lifespan(receive, send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
