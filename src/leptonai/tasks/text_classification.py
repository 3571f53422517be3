"""Text classification: one label from the text of a row. Works for any language: nothing in it needs words to be split by spaces.

Several text columns are read as one text, in their order. Missing text counts as empty, and only the first `MOST_CHARACTERS`
of a text are read; token networks read its first `MOST_TOKENS` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base.errors import Corrupt, InvalidInput, nearest
from ..data.schema import SPLIT, Column
from ..nets.registry import build
from .arrays import strings
from .classification import Classification, check_label_column
from .labels import Labels
from .registry import choose_inputs, choose_target
from .task import Encoded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..data.columns import Columns
    from ..data.dataset import Dataset

TOKENIZER = "tokenizer.json"
# A text of any size is read in bounded time: 10,000 characters are four pages, and a label rarely hangs on the fifth.
MOST_CHARACTERS = 10_000
MOST_TOKENS = 256
VOCABULARY = 8_000
# Whole texts go to networks that find their own features; the others get token numbers.
TEXT_NETWORKS = ("tfidf",)


class TextClassification(Classification):
    name: ClassVar[str] = "text-classification"
    networks: ClassVar[tuple[str, ...]] = ("tfidf", "lstm", "gru", "transformer")

    def __init__(self, inputs: Sequence[Column], target: Column, network: str):
        self.inputs, self.target, self.network = tuple(inputs), target, network
        self.length = MOST_TOKENS
        self.tokenizer: Tokenizer | None = None

    @classmethod
    def plan(
        cls, dataset: Dataset, target: str | None, inputs: Sequence[str] | None, network: str | None = None
    ) -> TextClassification:
        column = choose_target(dataset.schema, target)
        check_label_column(column, cls.name)
        # Unasked, only free text is read: a category beside it (a source, a customer number) may give the label away.
        names = inputs or [c.name for c in dataset.schema if c.type == "text" and c.name not in (column.name, SPLIT)]
        if not names:
            others = [f"{c.name} ({c.type})" for c in dataset.schema if c.name != column.name]
            raise InvalidInput(
                f"{cls.name} needs a column of text besides the target {column.name!r}",
                received=", ".join(others) or "no other column",
                fix="Name the inputs, or import the column as text (--type name=text).",
            )
        chosen = choose_inputs(dataset.schema, column, names)
        for given in chosen:
            if given.type not in ("text", "category"):
                raise InvalidInput(
                    f"{cls.name} cannot read column {given.name!r}",
                    received=f"type {given.type}",
                    expected="text or category",
                    fix="Leave it out of the inputs, or use the task tabular-classification.",
                )
        return cls(chosen, column, network or cls.networks[0])

    def fit(self, columns: Columns, rows: np.ndarray) -> None:
        self.labels = Labels.fit(columns[self.target.name], rows, self.target.name)
        texts = self._texts(columns, rows)
        if not any(text.strip() for text in texts):
            raise InvalidInput(
                f"the training rows have no text in {', '.join(c.name for c in self.inputs)}",
                fix="Choose other inputs, or import the data again.",
            )
        if self.network not in TEXT_NETWORKS:
            self.tokenizer = train_tokenizer(texts)
            longest = max(len(e.ids) for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
            self.length = max(1, min(longest, MOST_TOKENS))

    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> Encoded:
        target = self.truth(columns, rows) if self.target.name in columns else None
        texts = self._texts(columns, rows)
        if self.tokenizer is None:
            # A list in the shape of an array: strings of their own length each.
            inputs = np.empty(len(texts), object)
            inputs[:] = texts
            return Encoded({"text": inputs}, target)
        return Encoded({"tokens": self._tokens(texts)}, target)

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                expected = f'an object like {{"{self.inputs[0].name}": "…"}}'
                raise InvalidInput(f"row {number} is not an object", received=row, expected=expected)
            for column in self.inputs:
                check_text(number, column.name, row)
        return {column.name: [row[column.name] for row in rows] for column in self.inputs}

    def build(self, kind: str, config: Mapping[str, Any]) -> Any:
        sizes: dict[str, Any] = {"classes": len(self._labels.classes)}
        if self.tokenizer is not None:
            sizes["vocabulary"] = self.tokenizer.get_vocab_size()
            if kind == "transformer":
                sizes["length"] = self.length
        return build(kind, sizes | dict(config))

    @property
    def request_schema(self) -> dict[str, Any]:
        text = {
            "type": ["string", "null"],
            "description": f"Text in any language; its first {MOST_CHARACTERS:,} characters are read.",
        }
        return {
            "type": "object",
            "properties": {column.name: text for column in self.inputs},
            "required": [column.name for column in self.inputs],
            "example": {column.name: "Where is my card?" for column in self.inputs},
        }

    def state(self) -> dict[str, Any]:
        return {
            "inputs": [{"name": column.name, "type": column.type} for column in self.inputs],
            "target": {"name": self.target.name, "type": self.target.type},
            "classes": self._labels.classes,
            "network": self.network,
            "length": self.length,
        }

    def files(self) -> dict[str, bytes]:
        return {} if self.tokenizer is None else {TOKENIZER: self.tokenizer.to_str(pretty=True).encode()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], files: Mapping[str, bytes]) -> TextClassification:
        task = cls([Column(**column) for column in state["inputs"]], Column(**state["target"]), state["network"])
        task.labels, task.length = Labels(state["classes"]), state["length"]
        if task.network not in TEXT_NETWORKS:
            task.tokenizer = read_tokenizer(files)
        return task

    def _texts(self, columns: Mapping[str, Any], rows: np.ndarray | None) -> list[str]:
        """The text of each row: its text columns one under the other, cut to MOST_CHARACTERS."""
        parts = [strings(columns[column.name], rows) for column in self.inputs]
        return [join_text(row) for row in zip(*parts, strict=True)]

    def _tokens(self, texts: list[str]) -> np.ndarray:
        """Token numbers (n, length) int32, 0 after the end of a text."""
        tokens = np.zeros((len(texts), self.length), np.int32)
        for row, encoding in zip(
            tokens, self.tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True
        ):
            ids = encoding.ids[: self.length]
            row[: len(ids)] = ids
        return tokens


def join_text(parts: Iterable[str | None]) -> str:
    text = "\n".join(part for part in parts if part)[:MOST_CHARACTERS]
    # Half a surrogate pair is legal in JSON but not in UTF-8, which tokenizers and hashes work on.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def check_text(number: int, name: str, row: Mapping[str, Any]) -> None:
    """Raise InvalidInput, naming row and column, if the row has no text or null under `name`."""
    if name not in row:
        close = nearest(name, [str(key) for key in row])
        fix = f"Did you mean {name!r} by {close!r}?" if close else f"Add {name!r}; send null if there is no text."
        raise InvalidInput(f"row {number} has no {name!r}", received=list(row), fix=fix)
    value = row[name]
    # A data frame writes missing text as NaN, which is the only value that differs from itself.
    if not (value is None or isinstance(value, str) or value != value):
        raise InvalidInput(
            f"row {number}, column {name!r} cannot be used", received=repr(value), expected="text or null"
        )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016) of lower-cased text: every text of every script has tokens, none is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=["<pad>"],  # number 0: what networks take for padding
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    from tokenizers import Tokenizer

    if TOKENIZER not in files:
        raise Corrupt("the model has no tokenizer", received=sorted(files), expected=TOKENIZER)
    try:
        return Tokenizer.from_buffer(files[TOKENIZER])
    except Exception as error:  # what tokenizers raises is a bare Exception
        raise Corrupt(f"{TOKENIZER} cannot be read: {error}") from error
