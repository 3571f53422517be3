"""What is learned. A Task owns columns in and out, preprocessing, loss, metrics and the serving schema.

`encode` is the only way from columns to network inputs: training, evaluation and serving all call it, so there is no skew.
Adding a task: one file with one subclass, and one line in `tasks/registry.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.schema import Column

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..data.columns import Columns
    from ..data.dataset import Dataset


@dataclass(frozen=True)
class Encoded:
    """Network inputs of n rows, each array (n, …); `target` is (n,) int64 classes (−1: unknown) or float64 standardised values."""

    inputs: dict[str, np.ndarray]
    target: np.ndarray | None = None


class Task(ABC):
    """`inputs` and `target` are columns of the dataset. State that is learned from the training rows comes from `fit`."""

    name: ClassVar[str]
    networks: ClassVar[tuple[str, ...]]
    """Kinds of `nets` that this task can build; the first is the default."""
    metric: ClassVar[str]
    """The metric that early stopping and gates use."""
    higher_is_better: ClassVar[bool] = True

    inputs: tuple[Column, ...]
    """Columns that a request holds; `fit` takes out those that cannot help."""
    target: Column
    dropped: Mapping[str, str] = MappingProxyType({})
    """Columns of `plan` that `fit` took out of `inputs`, each with the reason, to be said aloud."""

    @classmethod
    @abstractmethod
    def plan(
        cls, dataset: Dataset, target: str | None, inputs: Sequence[str] | None, network: str | None = None
    ) -> Task:
        """Choose the columns; raise InvalidInput, naming the column and the fix, if they cannot serve this task."""

    @abstractmethod
    def fit(self, columns: Columns, rows: np.ndarray) -> None:
        """Learn preprocessing (classes, vocabulary, means) from the training `rows` only."""

    @abstractmethod
    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> Encoded:
        """Columns to network inputs. `columns` may lack the target (serving); then `Encoded.target` is None."""

    @abstractmethod
    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """JSON rows of a request to columns; raise InvalidInput that names the row, the column and what is expected."""

    @abstractmethod
    def build(self, kind: str, config: Mapping[str, Any]) -> Any:
        """A Network of `nets` with this task's input and output sizes; `config` overrides the defaults of its kind."""

    def augment(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A training batch (inputs by name, and what else the loader holds) changed at random; as it is by default."""
        return batch

    @abstractmethod
    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss over the batch."""

    @abstractmethod
    def finish(self, raw: np.ndarray) -> np.ndarray:
        """Raw network outputs to outputs: probabilities (n, classes) float32, or values (n,) float64 in the target's unit."""

    @abstractmethod
    def truth(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> np.ndarray:
        """The target in the form of metrics: class numbers (n,) int64, −1 if the label is unknown, or values (n,) float64."""

    @abstractmethod
    def metrics(self, truth: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Point values of this task's metrics, `self.metric` among them."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Outputs to what a client receives, one JSON object per row: `{"label", "score", "scores"}` or `{"value"}`."""

    @property
    @abstractmethod
    def request_schema(self) -> dict[str, Any]:
        """JSON Schema of one row in a request."""

    @property
    @abstractmethod
    def response_schema(self) -> dict[str, Any]:
        """JSON Schema of one prediction."""

    @property
    def classes(self) -> list[Any] | None:
        """Labels in the order of the outputs' second axis; None for regression."""
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, as JSON."""

    def files(self) -> dict[str, bytes]:
        """Tokenizer and vocabulary files, kept beside the weights."""
        return {}

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any], files: Mapping[str, bytes]) -> Task: ...
