"""The engine: `step()` = schedule, forward, sample, update. Owns every request between `add_request` and its last delta.

Not for two threads at once: `local.LocalBackend` puts it into one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from ..base.errors import Conflict, InvalidInput, NotFound, did_you_mean
from . import sampler, spec
from .backend import Delta, FinishReason, GenRequest, ModelInfo, Stats
from .kvcache import BlockPool
from .params import Grammar
from .sampler import Choice, Pick
from .scheduler import Row, Scheduler
from .sequence import Matcher, Sequence

log = logging.getLogger(__name__)
RATE_WINDOW_S = 1.0


class Runner(Protocol):
    """A model with its KV cache. `adapters`: name -> what `run` needs of it."""

    info: ModelInfo
    ops: ModuleType
    blocks: int
    adapters: dict[str, Any]

    def run(self, rows: Seq[Row]) -> torch.Tensor:
        """Compute the rows' tokens; states of the wanted ones, (sum of wanted, width) fp32, in order."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor: ...
    def release(self, sequence: Sequence) -> None: ...
    def load_adapter(self, name: str, path: Path) -> None: ...
    def unload_adapter(self, name: str) -> None: ...


@dataclass(frozen=True)
class EngineConfig:
    """Names as in vLLM. Values below one are refused."""

    max_num_batched_tokens: int = 256
    """Tokens of a step. Larger: prompts are read faster; smaller: running streams stutter less while they are."""
    max_num_seqs: int = 64
    """Sequences that run at once."""
    max_waiting: int = 1024
    """Requests that may queue; beyond it `add_request` raises TooMany."""
    enable_prefix_caching: bool = True
    num_speculative_tokens: int = 0
    """Prompt-lookup drafts of a step; 0 is off."""

    def __post_init__(self) -> None:
        for name in ("max_num_batched_tokens", "max_num_seqs", "max_waiting"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} cannot be that", received=getattr(self, name), expected="at least 1")
        if not 0 <= self.num_speculative_tokens <= 32:
            raise InvalidInput(
                "num_speculative_tokens cannot be that", received=self.num_speculative_tokens, expected="0 to 32"
            )


class Engine:
    """`grammar` compiles what structured requests ask for; without it they are refused."""

    def __init__(
        self, runner: Runner, config: EngineConfig | None = None, *, grammar: Callable[[Grammar], Matcher] | None = None
    ):
        self.runner, self.config, self.grammar = runner, config or EngineConfig(), grammar
        caching = self.config.enable_prefix_caching and "prefix_cache" in runner.info.features
        self.pool = BlockPool(runner.blocks, prefix_cache=caching)
        self.scheduler = Scheduler(
            self.pool,
            max_tokens=self.config.max_num_batched_tokens,
            max_sequences=self.config.max_num_seqs,
            max_waiting=self.config.max_waiting,
        )
        features = runner.info.features | ({"grammar"} if grammar else set())
        self.info = ModelInfo(
            **{name: getattr(runner.info, name) for name in INFO_FIELDS}, features=frozenset(features)
        )
        self.requests: dict[str, Sequence] = {}
        self.unloaded: list[tuple[str, Delta]] = []  # last words of requests whose adapter went, told by the next step
        self.order = 0
        self.counts = Stats()
        self.rate = RateMeter()

    def add_request(self, request: GenRequest) -> None:
        """Queue a request. Raises InvalidInput, NotFound (adapter), Conflict (id in use) or TooMany; then nothing has changed."""
        if request.id in self.requests:
            raise Conflict(
                "a request of this id is under way", received=request.id, fix="Give every request its own id"
            )
        limit = self.check(request)
        matcher = None
        if request.params.grammar is not None:
            if self.grammar is None:
                raise InvalidInput("this engine has no structured output", fix="Send the request without a grammar")
            matcher = self.grammar(request.params.grammar)
        self.order += 1
        sequence = Sequence.of(request, limit, self.order, matcher)
        self.scheduler.add(sequence)
        self.requests[request.id] = sequence

    def check(self, request: GenRequest) -> int:
        """How many tokens the sequence may reach, prompt included."""
        prompt, params, info = request.prompt_token_ids, request.params, self.info
        if params.n != 1:
            raise InvalidInput("the engine takes one choice a request", received=params.n, fix="Use params.split()")
        if not prompt:
            raise InvalidInput("the prompt has no tokens", expected="at least one")
        room = info.max_model_len - len(prompt)
        if room < (0 if request.task == "embed" else 1):
            fix = "Shorten the prompt, or serve with a larger max_model_len"
            raise InvalidInput(
                "the prompt is too long",
                received=f"{len(prompt)} tokens",
                expected=f"fewer than {info.max_model_len}",
                fix=fix,
            )
        named = [
            *prompt,
            *params.logit_bias,
            *params.stop_token_ids,
            *(token for word in params.bad_words_token_ids for token in word),
        ]
        if not all(0 <= token < info.vocab_size for token in named):
            wrong = next(token for token in named if not 0 <= token < info.vocab_size)
            raise InvalidInput(
                "a token id is not of this model", received=wrong, expected=f"0 to {info.vocab_size - 1}"
            )
        if request.adapter is not None and request.adapter not in self.runner.adapters:
            raise NotFound(
                "no such adapter is loaded",
                received=request.adapter,
                fix=did_you_mean(request.adapter, self.runner.adapters),
            )
        if request.task == "embed" and "embeddings" not in info.features:
            raise InvalidInput("this model gives no embeddings")
        return len(prompt) + min(room, params.max_tokens or room)

    def abort(self, request_id: str) -> None:
        """End a request and free what it holds, now. Unknown ids are fine: it may just have ended."""
        if sequence := self.requests.pop(request_id, None):
            self.forget(sequence)

    def forget(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.runner.release(sequence)

    def has_unfinished(self) -> bool:
        return bool(self.requests or self.unloaded)

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Delta]]:
        """Run one step; what it gave to each request. Empty if there is nothing to do."""
        told, self.unloaded = self.unloaded, []
        if not self.requests:
            self.check_integrity()
            return told
        self.draft()
        rows = self.scheduler.schedule()
        deltas = told
        try:
            self.update(rows, self.runner.run(rows), deltas)
        except Exception as error:
            log.exception("a step failed; its %d requests end", len(rows))
            broken = [row.sequence for row in rows if row.sequence.id in self.requests]
            deltas += [(sequence.id, self.fail(sequence, f"the engine failed: {error}")) for sequence in broken]
        self.counts.steps += 1
        if not self.requests:
            self.check_integrity()
        return deltas

    def draft(self) -> None:
        if not self.config.num_speculative_tokens:
            return
        for sequence in self.scheduler.running:
            params = sequence.request.params
            if sequence.decoding and not params.depends_on_history:
                sequence.draft = spec.propose(sequence.tokens, self.config.num_speculative_tokens)

    def update(self, rows: list[Row], states: torch.Tensor, deltas: list[tuple[str, Delta]]) -> None:
        """Choose tokens from the states of a step and move every sequence of it on; what they are told goes into `deltas`."""
        begin, pending = 0, []
        for row in rows:
            part = states[begin : begin + row.wanted]
            begin += row.wanted
            if row.sequence.embedding_only:
                self.embed(row, part, deltas)
                continue
            if row.sequence.wants_all_logits:
                self.read_prompt(row, part)
            # Logits to choose from: behind the last known token, and behind each draft.
            choosing = row.context - len(row.sequence.tokens) + 1
            if choosing > 0:
                pending.append((row, part[len(part) - choosing :]))
            else:
                self.scheduler.computed(row, row.count)
                self.counts.prompt_tokens += row.count
        if pending:
            self.choose(pending, deltas)

    def choose(self, pending: list[tuple[Row, torch.Tensor]], deltas: list[tuple[str, Delta]]) -> None:
        picks = [Pick(row.sequence, row.context - len(part) + 1 + i) for row, part in pending for i in range(len(part))]
        logits = self.runner.logits(torch.cat([part for _, part in pending]))
        choices = iter(sampler.sample(self.runner.ops, logits, picks, self.info.eos_token_ids))
        for row, part in pending:
            mine = [next(choices) for _ in range(len(part))]
            deltas.append((row.sequence.id, self.append(row, mine)))

    def append(self, row: Row, choices: list[Choice]) -> Delta:
        """Take the choices up to the first that the draft did not foresee, or that ends the sequence."""
        sequence, draft = row.sequence, row.sequence.draft
        known, taken, finish = len(sequence.tokens), [], None
        for i, choice in enumerate(choices):
            if choice.error:
                return self.fail(sequence, choice.error)
            taken.append(choice)
            sequence.tokens.append(choice.token)
            if sequence.matcher is not None and choice.token not in self.info.eos_token_ids:
                sequence.matcher.accept(choice.token)
            finish = self.finish_reason(sequence, choice.token)
            if finish or i >= len(draft) or draft[i] != choice.token:
                break
        self.counts.drafted += len(draft)
        self.counts.accepted += len(taken) - 1
        self.counts.generated_tokens += len(taken)
        self.counts.prompt_tokens += max(0, min(known, sequence.prompt_length) - row.start)
        self.rate.add(len(taken))
        sequence.draft = []
        # Of the drafts, those that were right are in the cache: all taken tokens but the last.
        self.scheduler.computed(row, known - row.start + len(taken) - 1)
        logprobs = [choice.logprobs for choice in taken if choice.logprobs] or None
        delta = sequence.first_delta(Delta(token_ids=[choice.token for choice in taken], logprobs=logprobs))
        if finish:
            delta.finish_reason, delta.stop_reason = finish
            self.end(sequence)
        return delta

    def finish_reason(self, sequence: Sequence, token: int) -> tuple[FinishReason, int | None] | None:
        params = sequence.request.params
        if sequence.generated >= params.min_tokens:
            if token in self.info.eos_token_ids and not params.ignore_eos:
                return "stop", None
            if token in params.stop_token_ids:
                return "stop", token
        return ("length", None) if len(sequence.tokens) >= sequence.limit else None

    def read_prompt(self, row: Row, states: torch.Tensor) -> None:
        """Logprobs of the prompt tokens that follow those of this row."""
        sequence = row.sequence
        if not sequence.prompt_logprobs:
            sequence.prompt_logprobs.append(None)
        following = sequence.tokens[row.start + 1 : min(row.context + 1, sequence.prompt_length)]
        if following:
            count = sequence.request.params.prompt_logprobs or 0
            logits = self.runner.logits(states[: len(following)])
            sequence.prompt_logprobs += sampler.logprobs(self.runner.ops, logits, following, [count] * len(following))

    def embed(self, row: Row, states: torch.Tensor, deltas: list[tuple[str, Delta]]) -> None:
        self.scheduler.computed(row, row.count)
        self.counts.prompt_tokens += row.count
        if row.context == len(row.sequence.tokens):
            vector = torch.nn.functional.normalize(states[-1].float(), dim=0)
            self.end(row.sequence)
            deltas.append((row.sequence.id, Delta(embedding=vector.tolist(), finish_reason="stop")))

    def end(self, sequence: Sequence) -> None:
        del self.requests[sequence.id]
        self.forget(sequence)

    def fail(self, sequence: Sequence, why: str) -> Delta:
        self.end(sequence)
        return Delta(finish_reason="error", error=why)

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Read a PEFT LoRA folder; requests may name it from now on. Raises InvalidInput if it does not fit the model, Conflict if the name is taken."""
        if name in self.runner.adapters:
            raise Conflict("an adapter of this name is loaded", received=name, fix="Unload it first")
        self.runner.load_adapter(name, Path(path))

    def unload_adapter(self, name: str) -> None:
        """Requests that use it end with an error; its prefixes are forgotten, since the name may come to mean other weights."""
        if name not in self.runner.adapters:
            raise NotFound("no such adapter is loaded", received=name, fix=did_you_mean(name, self.runner.adapters))
        for sequence in [s for s in self.requests.values() if s.request.adapter == name]:
            self.unloaded.append((sequence.id, self.fail(sequence, f"the adapter {name} was unloaded")))
        self.runner.unload_adapter(name)
        self.pool.clear_index()

    def check_integrity(self) -> None:
        """Raise LeptonError if a block is lost, doubled or held by nobody."""
        self.scheduler.check()

    def stats(self) -> Stats:
        scheduler = self.scheduler
        self.counts.waiting, self.counts.running = scheduler.waiting_count, len(scheduler.running)
        self.counts.kv_used, self.counts.kv_total = self.pool.used, self.pool.total
        self.counts.prefix_queries, self.counts.prefix_hits = scheduler.prefix_queries, scheduler.prefix_hits
        self.counts.preemptions, self.counts.tokens_per_s = scheduler.preemptions, self.rate.per_second()
        self.counts.adapters = sorted(self.runner.adapters)
        return self.counts


INFO_FIELDS = ("name", "vocab_size", "max_model_len", "eos_token_ids", "dtype")


class RateMeter:
    """Events per second over the last whole window."""

    def __init__(self) -> None:
        self.begin, self.count, self.last = time.monotonic(), 0, 0.0

    def add(self, count: int) -> None:
        self.count += count
        elapsed = time.monotonic() - self.begin
        if elapsed >= RATE_WINDOW_S:
            self.last, self.count, self.begin = self.count / elapsed, 0, time.monotonic()

    def per_second(self) -> float:
        return self.last if time.monotonic() - self.begin < 2 * RATE_WINDOW_S else 0.0
