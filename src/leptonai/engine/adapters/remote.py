"""Engines that speak OpenAI's completions themselves: Lepton starts one as a child on a free loopback port and passes requests on.

Prompts go as token ids where the engine takes them. What comes back is text, which is turned into token ids again: such a backend declares
no logprobs, and its token counts are those of the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ...base.errors import InvalidInput, LeptonError, TooMany, Unavailable
from ..backend import Delta, GenRequest, ModelInfo, Stats
from ..wire import EngineOptions

START_WAIT_S = 600.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RemoteBackend:
    """A child process with an OpenAI server. Subclasses say how it is started (`command`) and what it takes (`body`)."""

    name = ""
    features: frozenset = frozenset()
    route = "/v1/completions"

    def __init__(self, path: Path, options: EngineOptions):
        self.path, self.options = path, options
        self.state, self.failure, self.restarts = "starting", None, 0
        self.port, self.key = free_port(), secrets.token_urlsafe(24)
        self._process: asyncio.subprocess.Process | None = None
        self._client: Any = None
        self._tokenizer: Any = None
        self._tasks: dict[str, asyncio.Task] = {}
        self._counts = Stats()
        self.info = ModelInfo(
            name=options.name or path.stem,
            vocab_size=1,
            max_model_len=options.max_model_len or 4096,
            eos_token_ids=[],
            dtype=self.name,
        )

    def command(self) -> list[str]:
        raise NotImplementedError

    def body(self, request: GenRequest) -> dict:
        params = request.params
        body = {
            "model": self.info.name, "prompt": request.prompt_token_ids, "max_tokens": params.max_tokens, "temperature": params.temperature,
            "top_p": params.top_p, "seed": params.seed, "stream": True, "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty, "min_p": params.min_p, "ignore_eos": params.ignore_eos,
        }  # fmt: skip
        if params.top_k > 0:
            body["top_k"] = params.top_k
        if params.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
        return {name: value for name, value in body.items() if value is not None}

    async def start(self) -> None:
        import httpx

        from ..tokenizer import load_tokenizer

        command = self.command()
        self._tokenizer = await asyncio.to_thread(load_tokenizer, self.path)
        self.info = ModelInfo(
            name=self.info.name, vocab_size=self._tokenizer.vocab_size, max_model_len=self.info.max_model_len,
            eos_token_ids=self._tokenizer.eos_token_ids, dtype=self.name, features=self.features,
        )  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=self.environment(),
        )
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {self.key}"}, timeout=httpx.Timeout(None, connect=5),
            limits=httpx.Limits(max_connections=None),
        )  # fmt: skip
        deadline = time.monotonic() + START_WAIT_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await self._client.get("/health")).status_code == 200:
                    break
            if self._process.returncode is not None:
                raise Unavailable(
                    f"{self.name} ended while it started (status {self._process.returncode})",
                    fix="Its own output says why.",
                )
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} did not answer within {START_WAIT_S:.0f} s")
            await asyncio.sleep(0.05)
        self.state = "ready"
        self._watch = asyncio.create_task(self._notice_end())

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    async def _notice_end(self) -> None:
        code = await self._process.wait()
        if self.state == "ready":
            self.state, self.failure = "failed", f"{self.name} ended (status {code})"

    async def stop(self) -> None:
        self.state = "stopped"
        if self._client is not None:
            await self._client.aclose()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()

    async def submit(self, request: GenRequest) -> AsyncIterator[Delta]:
        import httpx

        if self.state != "ready":
            raise Unavailable(f"{self.name} does not run: {self.failure or self.state}")
        if request.params.logprobs is not None or request.task == "embed" or request.adapter:
            raise InvalidInput(
                f"{self.name} behind Lepton gives text only",
                fix="Use --backend lepton for logprobs, embeddings and adapters",
            )
        self._counts.running += 1
        try:
            async with self._client.stream("POST", self.route, json=self.body(request)) as answer:
                if answer.status_code >= 400:
                    text = (await answer.aread()).decode("utf-8", "replace")[:300]
                    kind = (
                        TooMany
                        if answer.status_code == 429
                        else InvalidInput
                        if answer.status_code < 500
                        else Unavailable
                    )
                    raise kind(f"{self.name} refused the request ({answer.status_code}): {text}")
                async for delta in self._deltas(answer, request):
                    self._counts.generated_tokens += len(delta.token_ids)
                    yield delta
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.name} went away: {type(error).__name__}") from error
        finally:
            self._counts.running -= 1

    async def _deltas(self, answer: Any, request: GenRequest) -> AsyncIterator[Delta]:
        finish = None
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line.endswith("[DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise LeptonError(f"{self.name}: {event['error']}")
            ids, ended = self.read(event)
            finish = ended or finish
            if ids:
                yield Delta(token_ids=ids)
        yield Delta(finish_reason="length" if finish == "length" else "stop")

    def read(self, event: dict) -> tuple[list[int], str | None]:
        """The tokens of one event, and how the answer ended, if it did ("length", or anything else)."""
        for choice in event.get("choices", ()):
            ids = choice.get("token_ids") or self.tokens_of(choice.get("text") or "")
            return ids, choice.get("finish_reason")
        return [], None

    def tokens_of(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []

    async def abort(self, request_id: str) -> None:
        """Leaving `submit` closes the connection, which is how these engines are told."""

    def stats(self) -> Stats:
        return self._counts
