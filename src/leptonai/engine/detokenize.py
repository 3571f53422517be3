"""Tokens to text while they come: no half characters, no half stop strings, and work per token that does not grow with the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .params import SamplingParams

REPLACEMENT = "\ufffd"
MOST_PENDING = 16  # tokens: a character that is not whole by then never will be

CONTEXT = 5  # tokens of the prompt


class Decodes(Protocol):
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class Detokenizer:
    """`text`: all that was given out. After a stop string nothing more comes.

    prompt_token_ids: what the answer continues, so that its first word keeps its space where the tokenizer strips that of a text's first one.
    """

    def __init__(self, tokenizer: Decodes, params: SamplingParams, prompt_token_ids: Sequence[int] = ()):
        self.tokenizer, self.params = tokenizer, params
        self.text = ""
        self.held = ""  # text that may be the beginning of a stop string
        self.tokens = list(prompt_token_ids[-CONTEXT:])
        # tokens[begin:read] are known as text already; they are decoded again with what follows, since spaces depend on neighbours.
        self.begin, self.read = 0, len(self.tokens)
        self.stopped: str | None = None
        self.longest = max(map(len, params.stop), default=0)

    def push(self, token_ids: Sequence[int], finished: bool = False) -> tuple[str, str | None]:
        """The text that is sure now, and the stop string if one was met (the caller then aborts the request)."""
        if self.stopped is not None:
            return "", self.stopped
        given = ""
        for token in token_ids:
            self.tokens.append(token)
            self.held += self.decode(False)
            given += self.settle(False)
            if self.stopped is not None:
                break
        if finished and self.stopped is None:
            self.held += self.decode(True)
            given += self.settle(True)
        self.text += given
        return given, self.stopped

    def decode(self, final: bool) -> str:
        """What the tokens since `read` add."""
        skip = self.params.skip_special_tokens
        known = self.tokenizer.decode(self.tokens[self.begin : self.read], skip)
        whole = self.tokenizer.decode(self.tokens[self.begin :], skip)
        unfinished = whole.endswith(REPLACEMENT) and len(self.tokens) - self.read < MOST_PENDING
        if len(whole) <= len(known) or (unfinished and not final):
            return ""
        self.begin, self.read = self.read, len(self.tokens)
        return whole[len(known) :]

    def settle(self, final: bool) -> str:
        """Take from `held` what cannot be part of a stop string any more; end at the first stop string."""
        found = [(place, stop) for stop in self.params.stop if (place := self.held.find(stop)) >= 0]
        if found:
            place, self.stopped = min(found, key=lambda hit: (hit[0], -len(hit[1])))
            given = self.held[: place + (len(self.stopped) if self.params.include_stop_str_in_output else 0)]
            self.held = ""
            return given
        keep = 0 if final else self.possible_start()
        given, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return given

    def possible_start(self) -> int:
        """Length of the longest end of `held` that begins a stop string."""
        for length in range(min(self.longest - 1, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.params.stop):
                return length
        return 0
