"""Text to tokens and back, and chats to text: `tokenizer.json` with what `tokenizer_config.json` says of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..base.errors import Corrupt, InvalidInput, Missing
from .models.config import eos_token_ids, read_json
from .params import SamplingParams
from .template import ChatTemplate

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """`backend`: a `tokenizers.Tokenizer`. `special`: bos_token, eos_token, … as text. `template`: Jinja source or None."""

    def __init__(
        self,
        backend: Any,
        *,
        special: dict[str, str] | None = None,
        template: str | None = None,
        eos: Sequence[int] = (),
    ):
        self.backend, self.special, self.chat_template = backend, dict(special or {}), template
        self.eos_token_ids = list(eos)
        if not self.eos_token_ids and (token := backend.token_to_id(self.special.get("eos_token", ""))) is not None:
            self.eos_token_ids = [token]
        self.all_special_ids = frozenset(
            id for id, added in backend.get_added_tokens_decoder().items() if added.special
        )

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """The token as it is in the vocabulary, '' for an id that the tokenizer does not have."""
        return self.backend.id_to_token(token_id) or ""

    @cached_property
    def compiled_template(self) -> ChatTemplate:
        if self.chat_template is None:
            fix = "Use a chat model, or send a prompt instead of messages"
            raise InvalidInput("this model has no chat template", fix=fix)
        return ChatTemplate(self.chat_template, self.special)

    def apply_chat_template(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None, add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:  # fmt: skip
        """The prompt as text. Its special tokens are in it: encode it with `add_special_tokens=False`."""
        return self.compiled_template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )

    def resolve(self, params: SamplingParams) -> SamplingParams:
        """`bad_words` as token ids too, each as it is at the beginning and after a space."""
        if not params.bad_words:
            return params
        words = [
            self.encode(prefix + word, add_special_tokens=False) for word in params.bad_words for prefix in ("", " ")
        ]
        unique = [list(word) for word in dict.fromkeys(map(tuple, [*params.bad_words_token_ids, *filter(None, words)]))]
        return params.replace(bad_words_token_ids=unique)


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Of a model's folder or a GGUF file. Raises InvalidInput if there is none."""
    path = Path(path)
    if path.is_file():
        from .models.gguf import gguf_tokenizer

        return gguf_tokenizer(path)
    settings = read_json(path / "tokenizer_config.json", required=False)
    special = {name: text for name in SPECIAL if (text := token_of(settings.get(name)))}
    return Tokenizer(
        read_backend(path), special=special, template=read_template(path, settings), eos=eos_token_ids(path)
    )


def token_of(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def read_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    found = settings.get("chat_template") or read_json(folder / "chat_template.json", required=False).get(
        "chat_template"
    )
    if isinstance(found, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in found}
        return named.get("default") or next(iter(named.values()), None)
    return found


def read_backend(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer as Backend
    except ImportError as error:
        raise Missing("tokenizers", "llm") from error
    file = folder / "tokenizer.json"
    if not file.is_file():
        return converted(folder)
    try:
        return Backend.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise Corrupt("tokenizer.json cannot be read", received=str(error)) from error


def converted(folder: Path) -> Any:
    """Of a folder that has only vocab.json + merges.txt or a sentencepiece model: transformers converts it."""
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    except ImportError as error:
        raise Missing("transformers", "llm") from error
    except Exception as error:
        raise InvalidInput(
            "the model has no tokenizer that can be read", received=str(error), expected="tokenizer.json"
        ) from error
