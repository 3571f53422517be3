"""One version of a model as a service sees it: its name, its schema, its replicas, and whether another may take its place."""

from __future__ import annotations

import math
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..base.errors import Conflict, Corrupt, InvalidInput, LeptonError, Unavailable
from ..base.home import Home
from ..base.paths import check_name
from ..zoo.manifest import NAME as MANIFEST
from .codec import Codec, Part, TaskCodec, TensorCodec
from .example import example_of
from .runtimes import runtime as runtimes

if TYPE_CHECKING:
    from .replicas.process import ProcessReplica


@dataclass(frozen=True)
class Placement:
    """Where a model computes: in `threads` of the server, or in `workers` processes of their own."""

    threads: int = 1
    workers: int = 0

    @property
    def replicas(self) -> int:
        return self.workers or self.threads


class Replica(Protocol):
    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Served:
    """`ref` names exactly one version (`digits@3`); `described` is what feedback needs later, when this version may be gone."""

    ref: str
    codec: Codec
    replicas: Sequence[Replica]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The model's metrics and lineage, where it is known."""

    @classmethod
    def load(cls, ref: str, home: Home, placement: Placement = Placement(), sample: Any = None) -> Served:
        """A model of the store (`name[@version]`, `zoo:name`), one in a folder, or a file of a runtime (`onnx:model.onnx`)."""
        ref = ref.removeprefix("zoo:")
        found = runtimes.source_of(ref)
        if found is not None:
            return cls._open(_name_of(found[1].stem), ref, home, placement, sample)
        if (Path(ref) / MANIFEST).is_file() or "/" in ref:
            return cls._open(_name_of(Path(ref).resolve().name), ref, home, placement, None)
        return cls.load_stored(ref, home, placement)

    @classmethod
    def load_stored(cls, ref: str, home: Home, placement: Placement = Placement()) -> Served:
        """As `load`, from the store only: what a client may ask for."""
        from ..zoo.store import ModelStore

        entry = ModelStore(home).resolve(ref.removeprefix("zoo:"))
        return cls._open(entry.ref, str(entry.folder), home, placement, None)

    @classmethod
    def _open(cls, name: str, source: str, home: Home, placement: Placement, sample: Any) -> Served:
        if placement.workers:
            served = _in_processes(name, source, home, placement.workers, sample)
        else:
            runtime = load_runtime(source, home, sample)
            codec = _codec_of(runtime)
            served = cls(name, codec, [runtime] * placement.threads, _facts(runtime))
        try:
            served.check()
        except BaseException:
            served.close()
            raise
        return served

    @cached_property
    def described(self) -> dict[str, Any]:
        return self.codec.described

    @cached_property
    def described_json(self) -> str:
        return msgspec.json.encode(self.described, order="deterministic").decode()

    def parse(self, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
        """JSON rows as columns. Raises InvalidInput for rows that the model cannot read."""
        try:
            return self.codec.parse_rows(rows)
        except LeptonError:
            raise
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError, RecursionError):
            # The codec's checks should have caught it: say so where it is read, and still answer with a sentence.
            traceback.print_exc(file=sys.stderr)
            raise InvalidInput(
                "a row cannot be read", expected="rows as /openapi.json describes them", fix="Compare with its example."
            ) from None

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One prediction per row, by the first replica."""
        found: list[Any] = [None] * len(rows)
        for part in self.parse(rows):
            predictions = self.codec.decode(self.replicas[0].run(part.columns), part.rows)
            for index, prediction in zip(part.indices or range(len(rows)), predictions, strict=True):
                found[index] = prediction
        return found

    def check(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Answer one and 32 rows (warm: memory and threads are there) and look at the answers; raise Corrupt if they are not sound.

        `rows`: real ones, from a request; without any, the schema's example.
        """
        given = list(rows) or [example_of(self.codec.request_schema)]
        for size in (1, 32) if self.codec.signature.batched else (1,):
            sample = [given[index % len(given)] for index in range(size)]
            try:
                predictions = self.predict(sample)
            except InvalidInput:
                # A made-up row need not make sense to a model that is known by its signature alone.
                if rows or isinstance(self.codec, TaskCodec):
                    raise
                return
            if len(predictions) != size or not all(isinstance(one, dict) and one for one in predictions):
                raise Corrupt(f"model {self.ref} does not answer every row", received=f"{len(predictions)} of {size}")
            if not all(_finite(one) for one in predictions):
                raise Corrupt(f"model {self.ref} predicts values that are no numbers", received=predictions[0])

    def close(self) -> None:
        for replica in self.replicas:
            close = getattr(replica, "close", None)
            if close:
                close()

    def accept_successor(self, other: Served) -> None:
        """Raise Conflict if clients of this version could break on `other`."""
        mine, its = self.described, other.described
        fix = f"Serve it beside this one: lep serve {other.ref}."
        for part in ("task", "target"):
            if mine[part] != its[part]:
                raise Conflict(
                    f"{other.ref} has another signature than {self.ref}, so it cannot take its place",
                    received=f"{part} {_short(its[part])}",
                    expected=f"{part} {_short(mine[part])}",
                    fix=fix,
                )
        # Fewer columns are fine: clients go on sending what is no longer read.
        new = [column for column in its["inputs"] if column not in mine["inputs"]]
        if new:
            raise Conflict(
                f"{other.ref} has another signature than {self.ref}, so it cannot take its place",
                received=f"inputs {_short(new)}",
                expected=f"inputs {_short(mine['inputs'])}",
                fix=fix,
            )
        lost = [label for label in mine["classes"] or [] if label not in (its["classes"] or [])]
        if lost:
            raise Conflict(
                f"{other.ref} no longer knows classes that {self.ref} predicts, so it cannot take its place",
                received=f"no {', '.join(map(str, lost[:5]))}",
                fix=fix,
            )


def load_runtime(source: str, home: Home, sample: Any = None) -> Any:
    """The runtime of a file, of a model's folder, or of a model in the store. The one place that turns a source into something that runs."""
    if runtimes.source_of(source) is not None:
        return runtimes.load(source, sample)
    from ..tasks.model import Model
    from .runtimes.task import TaskRuntime

    if (Path(source) / MANIFEST).is_file() or "/" in source:
        return TaskRuntime(Model.load(source))
    from ..zoo.store import ModelStore

    return TaskRuntime(Model.load(ModelStore(home).resolve(source.removeprefix("zoo:")).folder))


def _codec_of(runtime: Any) -> Codec:
    model = getattr(runtime, "model", None)
    if runtime.kind == "zoo":
        return TaskCodec(model.task)
    return TensorCodec(runtime.kind, runtime.signature, runtime.example)


def _facts(runtime: Any) -> dict[str, Any]:
    if runtime.kind != "zoo":
        return {}
    manifest = runtime.model.manifest
    return {"metrics": manifest.metrics, "lineage": msgspec.to_builtins(manifest.lineage)}


def _in_processes(name: str, source: str, home: Home, workers: int, sample: Any) -> Served:
    """Every process loads the model; the server keeps its schema only, and gives each process its share of the cores."""
    from .replicas.process import LOAD_TIMEOUT_S, ProcessReplica, example_of, signature_of

    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or 0) or len(os.sched_getaffinity(0)) // workers)
    replicas = [ProcessReplica(source, home, number, threads, sample) for number in range(workers)]
    try:
        for replica in replicas:
            if not replica.wait(LOAD_TIMEOUT_S):
                raise Unavailable(f"a process of {name} did not load its model", fix="The server's log says why.")
        ready = replicas[0].ready
        if ready is None:
            raise Unavailable(f"a process of {name} ended after it had loaded its model")
        signature = signature_of(ready)
        if signature is not None:
            return Served(name, TensorCodec(ready.kind, signature, example_of(ready)), replicas)
        codec, facts = _task_of(Path(source))
        return Served(name, codec, replicas, facts)
    except BaseException:
        for replica in replicas:
            replica.close()
        raise


def _task_of(folder: Path) -> tuple[TaskCodec, dict[str, Any]]:
    """Task and facts of a model's folder, without building its network."""
    from ..tasks.registry import task_class
    from ..zoo.files import read_model

    found = read_model(folder)
    task = task_class(found.manifest.task).from_state(found.manifest.task_state, found.files)
    return TaskCodec(task), {"metrics": found.manifest.metrics, "lineage": msgspec.to_builtins(found.manifest.lineage)}


def process_replicas(served: Served) -> list[ProcessReplica]:
    return [replica for replica in served.replicas if hasattr(replica, "pid")]


def _name_of(stem: str) -> str:
    return check_name(re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model", "service")


def _short(part: Any) -> str:
    if isinstance(part, list):
        return ", ".join(map(_short, part[:5])) + (f" and {len(part) - 5} more" if len(part) > 5 else "")
    return (
        f"{part['name']} ({part['type']}{' ' + str(tuple(part['shape'])) if part['shape'] else ''})"
        if isinstance(part, dict)
        else str(part)
    )


def _finite(prediction: Mapping[str, Any]) -> bool:
    values = [value for value in prediction.values() if isinstance(value, float)]
    scores = prediction.get("scores")
    values += [value for value in scores.values() if isinstance(value, float)] if isinstance(scores, dict) else []
    return all(map(math.isfinite, values))
