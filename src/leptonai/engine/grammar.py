"""Structured output: JSON schema, regex, grammar or choice -> masks over the vocabulary, by llguidance. Owns the cache of compiled grammars.

The cache is bounded (LRU), compiling is bounded by llguidance's limits, and a grammar that cannot be compiled is InvalidInput: never a crash.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ..base.errors import InvalidInput, Missing
from .params import Grammar

if TYPE_CHECKING:
    import torch

CACHE_SIZE = 256
MAX_SOURCE_CHARS = 200_000
MAX_DEPTH = 64


class Matcher:
    """One sequence's place in its grammar. `finished`: nothing but the end token may follow."""

    def __init__(self, matcher):
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()

    def fill(self, mask: torch.Tensor) -> None:
        """mask: one int32 row (ceil(vocab / 32),), contiguous, on the CPU; its bits become the tokens allowed now."""
        self._matcher.unsafe_compute_mask_ptr(mask.data_ptr(), mask.numel() * 4)
        if self._matcher.is_error():
            raise InvalidInput(f"the grammar cannot go on: {_first_line(self._matcher.get_error())}")

    def accept(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            raise InvalidInput(f"the grammar does not allow token {token_id}: {_first_line(self._matcher.get_error())}")


class GrammarCompiler:
    """`compiler(grammar) -> Matcher`, at once where the grammar was compiled before. Thread-safe.

    tokenizer_json: the text of tokenizer.json. vocab_size: of the model (its logits), which may be larger than the tokenizer's.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_token_ids: list[int], *, cache_size: int = CACHE_SIZE):
        try:
            import llguidance
        except ModuleNotFoundError as error:
            raise Missing("llguidance", "llm") from error
        self._library = llguidance
        self._source = tokenizer_json, vocab_size, list(eos_token_ids)
        self._tokenizer = None
        self._cache: OrderedDict[Grammar, object] = OrderedDict()
        self._lock = threading.Lock()
        self.cache_size = cache_size

    @property
    def cached(self) -> int:
        """How many compiled grammars are kept."""
        return len(self._cache)

    def __call__(self, grammar: Grammar) -> Matcher:
        return Matcher(self.compile(grammar).deep_copy())

    def compile(self, grammar: Grammar):
        """The compiled grammar at its beginning. Raises InvalidInput."""
        with self._lock:
            if (found := self._cache.get(grammar)) is not None:
                self._cache.move_to_end(grammar)
                return found
            tokenizer = self._tokenizer = self._tokenizer or self._make_tokenizer()
        source = self._translate(grammar)
        limits = self._library.LLParserLimits(
            initial_lexer_fuel=1_000_000, max_lexer_states=50_000, max_grammar_size=200_000, verbose_errors=False
        )
        try:
            compiled = self._library.LLMatcher(tokenizer, source, log_level=0, limits=limits)
            problem = compiled.get_error() if compiled.is_error() else ""
        except Exception as error:  # the library's word on a grammar that it cannot take
            raise InvalidInput(f"the {NAMES[grammar.kind]} cannot be used: {_first_line(str(error))}") from error
        if problem:
            raise InvalidInput(f"the {NAMES[grammar.kind]} cannot be used: {_first_line(problem)}")
        with self._lock:
            self._cache[grammar] = compiled
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        return compiled

    def _make_tokenizer(self):
        """About a second for a large vocabulary, so only when the first grammar comes."""
        text, vocab_size, eos = self._source
        return self._library.LLTokenizer(text, n_vocab=vocab_size, eos_token=eos)

    def _translate(self, grammar: Grammar) -> str:
        value, matcher = grammar.value, self._library.LLMatcher
        check_source(grammar)
        match grammar.kind:
            case "json_object":
                return matcher.grammar_from_json_schema('{"type": "object"}', overrides={"whitespace_flexible": False})
            case "json_schema":
                return matcher.grammar_from_json_schema(value, overrides={"whitespace_flexible": False})
            case "regex":
                return matcher.grammar_from_regex(value)
            case "lark":
                return matcher.grammar_from_lark(value)
            case "gbnf":
                from llguidance.gbnf_to_lark import gbnf_to_lark

                try:
                    return matcher.grammar_from_lark(gbnf_to_lark(value))
                except Exception as error:
                    raise InvalidInput(f"the grammar cannot be read: {_first_line(str(error))}") from error
            case "choice":
                options = json.loads(value)
                return matcher.grammar_from_lark("start: " + " | ".join(json.dumps(option) for option in options))
            case "structural_tag":
                raise InvalidInput(
                    "structural tags are not spoken", expected="json_schema, regex, lark, gbnf or choice"
                )
        raise InvalidInput("an unknown kind of grammar", received=grammar.kind)


NAMES = {
    "json_schema": "JSON schema", "json_object": "JSON object", "regex": "regular expression", "lark": "grammar",
    "gbnf": "grammar", "choice": "choice", "structural_tag": "structural tag",
}  # fmt: skip


def check_source(grammar: Grammar) -> None:
    """Refuse what would be costly before a library sees it."""
    if len(grammar.value) > MAX_SOURCE_CHARS:
        raise InvalidInput(
            f"the {NAMES[grammar.kind]} is too long",
            received=f"{len(grammar.value):,} characters",
            expected=f"at most {MAX_SOURCE_CHARS:,}",
        )
    if grammar.kind in ("json_schema", "choice"):
        try:
            value = json.loads(grammar.value)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the {NAMES[grammar.kind]} is not JSON: {error}") from error
        if grammar.kind == "choice":
            if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
                raise InvalidInput(
                    "choice cannot be that", received=value, expected="a list of texts, none of them empty"
                )
        elif not isinstance(value, dict | bool):
            raise InvalidInput("a JSON schema cannot be that", received=value, expected="an object")
        if depth(value) > MAX_DEPTH:
            raise InvalidInput(f"the {NAMES[grammar.kind]} is nested too deep", expected=f"at most {MAX_DEPTH} levels")


def depth(value) -> int:
    deepest, todo = 0, [(value, 1)]
    while todo:
        one, level = todo.pop()
        deepest = max(deepest, level)
        children = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        todo += [(child, level + 1) for child in children if isinstance(child, dict | list)]
    return deepest


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:300]
