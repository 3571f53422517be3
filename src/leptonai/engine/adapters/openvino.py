"""OpenVINO GenAI's continuous batching as a backend, in a thread of this process: for folders that hold OpenVINO IR.

Owns the one thread that touches the pipeline: requests and aborts reach it through a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ...base.errors import InvalidInput, LeptonError, Unavailable
from ..backend import Delta, GenRequest, ModelInfo, Stats
from ..params import SamplingParams
from ..process import Stream
from ..wire import EngineOptions

CACHE_GB = 4


class OpenVINO:
    def __init__(self, path: Path, options: EngineOptions):
        self.path, self.options = path, options
        self.state, self.failure, self.restarts = "starting", None, 0
        self.info = ModelInfo(
            name=options.name or path.name,
            vocab_size=1,
            max_model_len=options.max_model_len or 4096,
            eos_token_ids=[],
            dtype="openvino",
        )
        self._todo: queue.SimpleQueue = queue.SimpleQueue()
        self._running: dict[int, tuple[Any, Stream]] = {}
        self._numbers = itertools.count()
        self._counts = Stats()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        try:
            import openvino_genai
        except ModuleNotFoundError as error:
            raise Unavailable(
                "openvino-genai is not installed", fix="Install it with: pip install openvino-genai."
            ) from error
        if not (self.path / "openvino_model.xml").is_file():
            raise InvalidInput(
                "this folder holds no OpenVINO model", received=self.path.name, expected="openvino_model.xml",
                fix="Convert it with: optimum-cli export openvino --model MODEL FOLDER.",
            )  # fmt: skip
        from ..tokenizer import load_tokenizer

        tokenizer = await asyncio.to_thread(load_tokenizer, self.path)
        self.info = ModelInfo(
            name=self.info.name, vocab_size=tokenizer.vocab_size, max_model_len=self.info.max_model_len,
            eos_token_ids=tokenizer.eos_token_ids, dtype="openvino", features=frozenset({"prefix_cache"}),
        )  # fmt: skip
        self._genai, self._loop = openvino_genai, asyncio.get_running_loop()
        self._pipeline = await asyncio.to_thread(self._open)
        self._thread = threading.Thread(target=self._run, name="openvino", daemon=True)
        self._thread.start()
        self.state = "ready"

    def _open(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = (
            max(1, round(self.options.kv_cache_bytes / (1 << 30))) if self.options.kv_cache_bytes else CACHE_GB
        )
        scheduler.max_num_seqs = self.options.max_num_seqs or 64
        scheduler.max_num_batched_tokens = self.options.max_num_batched_tokens or 256
        scheduler.enable_prefix_caching = False  # its cache knows no tenants
        threads = len(os.sched_getaffinity(0))
        return self._genai.ContinuousBatchingPipeline(
            str(self.path), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )

    async def stop(self) -> None:
        self.state = "stopped"
        if self._thread is not None:
            self._todo.put(None)
            await asyncio.to_thread(self._thread.join)

    def _config(self, params: SamplingParams) -> Any:
        config = self._genai.GenerationConfig(
            max_new_tokens=params.max_tokens, ignore_eos=params.ignore_eos, do_sample=not params.greedy
        )
        config.eos_token_id = self.info.eos_token_ids[0] if self.info.eos_token_ids else -1
        config.stop_token_ids = {*self.info.eos_token_ids, *params.stop_token_ids}
        if not params.greedy:
            config.temperature, config.top_p = params.temperature, params.top_p
            if params.top_k > 0:
                config.top_k = params.top_k
            if params.seed is not None:
                config.rng_seed = params.seed % (1 << 63)
        config.presence_penalty, config.frequency_penalty = params.presence_penalty, params.frequency_penalty
        config.repetition_penalty = params.repetition_penalty
        return config

    def _run(self) -> None:
        """The pipeline's thread: take what waits, step, hand out; rest when there is nothing."""
        while True:
            with contextlib.suppress(queue.Empty):
                while True:
                    job = self._todo.get(block=not self._running)
                    if job is None:
                        return
                    job()
                    if not self._todo.empty():
                        continue
                    break
            if not self._running:
                continue
            try:
                self._pipeline.step()
            except RuntimeError as error:
                for number, (_, stream) in list(self._running.items()):
                    self._say(stream, LeptonError(f"OpenVINO failed: {str(error).splitlines()[0]}"))
                    del self._running[number]
                continue
            self._hand_out()

    def _hand_out(self) -> None:
        running = self._genai.GenerationStatus.RUNNING
        for number, (handle, stream) in list(self._running.items()):
            ids: list[int] = []
            reason = None
            while handle.can_read():
                for made in handle.read().values():
                    ids += made.generated_ids
                    reason = made.finish_reason
            ended = handle.get_status() != running
            if ids or ended:
                self._counts.generated_tokens += len(ids)
                length = reason == self._genai.GenerationFinishReason.LENGTH
                self._say(
                    stream,
                    Delta(token_ids=list(ids), finish_reason=("length" if length else "stop") if ended else None),
                )
            if ended:
                del self._running[number]

    def _say(self, stream: Stream, item: Delta | LeptonError) -> None:
        self._loop.call_soon_threadsafe(stream.put, item)

    async def submit(self, request: GenRequest) -> AsyncIterator[Delta]:
        params = request.params
        if self.state != "ready":
            raise Unavailable(f"openvino does not run: {self.failure or self.state}")
        if (
            params.logprobs is not None
            or params.grammar
            or params.logit_bias
            or request.task == "embed"
            or request.adapter
        ):
            raise InvalidInput(
                "OpenVINO behind Lepton samples only",
                fix="Use --backend lepton for logprobs, grammars, logit_bias, embeddings and adapters",
            )
        import numpy
        import openvino

        number, stream = next(self._numbers), Stream()
        ids = openvino.Tensor(numpy.array([request.prompt_token_ids], dtype=numpy.int64))

        def add() -> None:
            try:
                self._running[number] = self._pipeline.add_request(number, ids, self._config(params)), stream
            except (RuntimeError, TypeError) as error:
                self._say(stream, InvalidInput(f"OpenVINO does not take this request: {str(error).splitlines()[0]}"))

        def drop() -> None:
            if (found := self._running.pop(number, None)) is not None:
                found[0].cancel()
                if not self._running and self._pipeline.has_non_finished_requests():
                    self._pipeline.step()  # its blocks are freed by the step after a cancel

        self._todo.put(add)
        self._counts.running += 1
        try:
            while True:
                delta = await stream.get()
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            self._counts.running -= 1
            self._todo.put(drop)

    async def abort(self, request_id: str) -> None:
        """Leaving `submit` cancels the request."""

    def stats(self) -> Stats:
        return self._counts
