"""One batch on one replica: requests to columns, columns of one shape together, outputs back to each request. Keeps nothing."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import LeptonError
from .codec import Part
from .replicas.process import Died
from .served import Replica, Served

if TYPE_CHECKING:
    from .batching import Work

MAX_TRIES = 2


@dataclass
class Done:
    """What a request gets: `predictions` of its rows, or `tensors`. Times are filled in when it is handed back."""

    served: Served
    predictions: list[dict[str, Any]] | None = None
    tensors: dict[str, np.ndarray] | None = None
    columns: Any = None
    """What tensors of a client became: for the log."""
    queue_s: float = 0.0
    model_s: float = 0.0


def execute(served: Served, replica: Replica, batch: Sequence[Work]) -> list[Done | LeptonError | None]:
    """A result for each request: its answer, its error, or None where a process died and it is to be tried again."""
    plain = [work for work in batch if work.rows is not None]
    if len(plain) == len(batch):
        found = _together(served, replica, plain)
        if found is not None:
            return found
    return _apart(served, replica, batch)


def _together(served: Served, replica: Replica, batch: Sequence[Work]) -> list[Done | LeptonError | None] | None:
    """The common case: rows of JSON that all have one shape, read, computed and written at once. None: it is not that case."""
    try:
        parts = served.parse([row for work in batch for row in work.rows or ()])
        if len(parts) != 1 or (parts[0].indices is not None and len(batch) > 1):
            return None
        outputs = replica.run(parts[0].columns)
        predictions = served.codec.decode(outputs, parts[0].rows)
    except Died as died:
        return [_again(work, died) for work in batch]
    except Exception as error:
        return [_error(error)] if len(batch) == 1 else None  # one by one, so that only the guilty one fails
    results: list[Done | LeptonError | None] = []
    start = 0
    for work in batch:
        results.append(Done(served, predictions[start : start + work.count]))
        start += work.count
    return results


def _apart(served: Served, replica: Replica, batch: Sequence[Work]) -> list[Done | LeptonError | None]:
    """Each request read by itself; then what has one shape is computed together."""
    results: list[Done | LeptonError | None] = [None] * len(batch)
    pieces: dict[Any, list[tuple[int, Part]]] = {}
    for number, work in enumerate(batch):
        try:
            parts = (
                served.parse(work.rows) if work.rows is not None else [served.codec.parse_tensors(work.tensors or {})]
            )
        except Exception as error:
            results[number] = _error(error)
            continue
        predictions = [None] * work.count if work.rows is not None else None
        results[number] = Done(served, predictions, columns=None if work.rows is not None else parts[0].columns)
        for part in parts:
            pieces.setdefault(_shape(part, served.codec.signature.batched), []).append((number, part))
    for group in pieces.values():
        _run_group(served, replica, group, results, batch)
    return results


def _run_group(
    served: Served,
    replica: Replica,
    group: list[tuple[int, Part]],
    results: list[Done | LeptonError | None],
    batch: Sequence[Work],
) -> None:
    group = [(number, part) for number, part in group if isinstance(results[number], Done)]
    if not group:
        return
    try:
        outputs = replica.run(group[0][1].columns if len(group) == 1 else _joined([part for _, part in group]))
    except Died as died:
        for number, _ in group:
            results[number] = _again(batch[number], died)
        return
    except Exception as error:
        if len(group) == 1:
            results[group[0][0]] = _error(error)
            return
        for one in group:
            _run_group(served, replica, [one], results, batch)
        return
    start = 0
    for number, part in group:
        slices = (
            outputs if len(group) == 1 else {name: value[start : start + part.rows] for name, value in outputs.items()}
        )
        start += part.rows
        done = results[number]
        if not isinstance(done, Done):
            continue
        if done.predictions is None:
            # Outputs of a process are views that its next call overwrites.
            done.tensors = {name: np.array(value) for name, value in served.codec.tensors(slices).items()}
        else:
            for index, prediction in zip(
                part.indices or range(part.rows), served.codec.decode(slices, part.rows), strict=True
            ):
                done.predictions[index] = prediction


def _shape(part: Part, batched: bool) -> Any:
    """What must be equal for rows to be computed together; never equal for a model that takes one request at a time."""
    if not batched:
        return id(part)
    return tuple(
        (name, column.dtype.str, column.shape[1:]) if isinstance(column, np.ndarray) else (name, "text")
        for name, column in part.columns.items()
    )


def _joined(parts: list[Part]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, first in parts[0].columns.items():
        columns = [part.columns[name] for part in parts]
        found[name] = (
            np.concatenate(columns) if isinstance(first, np.ndarray) else [text for c in columns for text in c]
        )
    return found


def _again(work: Work, died: Died) -> LeptonError | None:
    """None: once more. A request whose process died under it is computed alone then, and is not tried a third time."""
    work.tries += died.started
    if work.tries < MAX_TRIES:
        return None
    return LeptonError(
        "the model's process died on this request, twice", fix="Send another; the server's log may say why."
    )


def _error(error: Exception) -> LeptonError:
    if isinstance(error, LeptonError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return LeptonError("the model failed on this request", fix="The server's log holds the details.")
