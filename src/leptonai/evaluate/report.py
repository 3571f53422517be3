"""The report: a model measured on rows of a dataset version, with intervals; compared with another model; and the gate that reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..base.errors import InvalidInput, did_you_mean
from ..base.files import write_atomic
from ..zoo.manifest import now
from .classification import report_classification
from .compare import Comparison, check_comparable, compare_classification, compare_regression
from .examples import answers, show_row, worst_rows
from .regression import report_regression
from .rows import Chosen, choose_rows
from .slices import measure_slices, slice_groups

if TYPE_CHECKING:
    from ..base.home import Home
    from ..data.dataset import Dataset
    from ..tasks.model import Model

CHANGED = 8


@dataclass(frozen=True)
class Report:
    """`data` is all of it, as JSON; the properties are what programs ask for."""

    data: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """`{"accuracy": {"value", "low", "high"}, …}`; low and high are the ends of the 95 % interval."""
        return self.data["metrics"]

    @property
    def rows(self) -> int:
        return self.data["rows"]

    @property
    def comparison(self) -> dict[str, Any] | None:
        return self.data["comparison"]

    @property
    def warnings(self) -> list[str]:
        return self.data["warnings"]

    def to_dict(self) -> dict[str, Any]:
        return self.data

    def to_json(self) -> str:
        return json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False, default=str)

    def to_html(self) -> str:
        from .html import report_html

        return report_html(self.data)

    def save(self, folder: str | Path) -> Path:
        """Write `report.json` and the self-contained `report.html` into `folder`; return the latter's path."""
        folder = Path(folder)
        write_atomic(folder / "report.json", self.to_json() + "\n")
        write_atomic(folder / "report.html", self.to_html())
        return folder / "report.html"

    @property
    def title(self) -> str:
        """A folder's name for it: `mnist-3-on-digits-2-vs-mnist-2`."""
        parts = [self.data["model"]["ref"], "on", self.data["dataset"]["ref"]]
        parts += ["vs", self.comparison["other"]] if self.comparison else []
        text = "-".join(parts)
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip("-.")[:120] or "report"


def evaluate(
    model: Model | str | Path,
    dataset: Dataset | str,
    *,
    split: str = "test",
    slices: Sequence[str] = (),
    compare: Model | str | Path | None = None,
    seed: int = 0,
    home: Home | None = None,
) -> Report:
    """Measure `model` on the rows of `split`; slice by the columns `slices`; pair with the model `compare` on the same rows.

    Raises NotFound or InvalidInput, with what to do, if there is nothing to measure.
    """
    dataset = open_(dataset, home)
    subject, other = Subject(model, home), Subject(compare, home) if compare is not None else None
    notes = check_comparable(subject.task, other.task, subject.name, other.name) if other else []
    manifests = {part.name: part.model.manifest for part in (subject, other) if part}
    check_columns(dataset, subject, other, slices)
    chosen = choose_rows(dataset, split, manifests)
    needed = [column.name for part in (subject, other) if part for column in part.task.inputs]
    columns = dataset.columns(list(dict.fromkeys([*needed, subject.task.target.name, *slices])))
    measured = Measured(subject, columns, chosen)
    data = measured.report(seed)
    data["slices"] = measured.slices(dataset, columns, slices, seed)
    data["worst"] = measured.worst(columns)
    data["comparison"] = measured.compare(other, columns, seed) if other else None
    data["notes"] = [*chosen.notes, *measured.notes, *notes]
    data["warnings"] = chosen.warnings
    head = {
        "format": 1,
        "model": {"ref": subject.name, "network": subject.model.manifest.network.get("kind")},
        "task": subject.task.name,
        "dataset": {"ref": dataset.ref, "content_hash": dataset.content_hash, "rows": dataset.num_rows},
        "target": subject.task.target.name,
        "split": chosen.split,
        "rows": len(measured.rows),
        "skipped": measured.skipped,
        "unknown_labels": measured.unknown_labels,
        "metric": subject.task.metric,
        "seed": seed,
        "created_at": now(),
        "lepton_version": __version__,
    }
    return Report(plain({**head, **data}))


def gate(report: Report, tolerance: float = 0.0) -> bool:
    """Whether the measured model may take the other's place: better, or equal and not lower than `tolerance` allows.

    `tolerance` is in the unit of the comparison's metric. Raises InvalidInput for a report without a comparison.
    """
    comparison = report.comparison
    if comparison is None:
        raise InvalidInput(
            "this report compares nothing, so there is nothing to decide",
            fix="Evaluate with compare=OTHER (--compare OTHER).",
        )
    if tolerance < 0:
        raise InvalidInput("a tolerance is not negative", received=tolerance, expected="0 or more")
    gain = comparison["difference"] if comparison["higher_is_better"] else -comparison["difference"]
    return comparison["verdict"] == "better" or (comparison["verdict"] == "equal" and gain >= -tolerance)


class Subject:
    """A model under test and what to call it."""

    def __init__(self, model: Model | str | Path, home: Home | None):
        if isinstance(model, str | Path):
            from ..tasks.model import load

            self.model, given = load(model, home), str(model)
        else:
            self.model, given = model, "the model"
        manifest = self.model.manifest
        self.name = manifest.ref if manifest and manifest.version else given
        self.task = self.model.task


class Measured:
    """Truth and outputs of the labelled rows. `rows` are row numbers of the dataset."""

    def __init__(self, subject: Subject, columns: Any, chosen: Chosen):
        self.subject, self.task = subject, subject.task
        target = columns[self.task.target.name]
        truth = self.task.truth(columns, chosen.rows)
        self.labels: list[Any] | None = None
        if self.task.classes is None:
            labelled = np.isfinite(truth)
        else:
            from ..tasks.labels import values

            labels = values(target, chosen.rows)
            labelled = np.array([label is not None for label in labels], bool)
            self.labels = [label for label in labels if label is not None]
        self.rows, self.truth = chosen.rows[labelled], truth[labelled]
        self.skipped = int((~labelled).sum())
        if not len(self.rows):
            raise InvalidInput(
                f"none of the {len(labelled):,} rows has a value of {self.task.target.name!r} to measure against",
                fix="Label some rows, or choose another split.",
            )
        self.outputs = outputs_of(subject, columns, self.rows)
        self.notes = self._notes()

    def _notes(self) -> list[str]:
        notes = []
        if self.skipped:
            notes.append(f"{self.skipped:,} rows without a value of {self.task.target.name!r} were left out.")
        unknown = sum(entry["rows"] for entry in self.unknown_labels)
        if unknown:
            shown = ", ".join(str(entry["label"]) for entry in self.unknown_labels[:5])
            notes.append(
                f"{unknown:,} rows have labels that {self.subject.name} never saw ({shown}); they count as errors."
            )
        return notes

    @property
    def unknown_labels(self) -> list[dict[str, Any]]:
        if self.labels is None:
            return []
        counts = Counter(str(self.labels[i]) for i in np.flatnonzero(self.truth < 0))
        return [{"label": label, "rows": rows} for label, rows in counts.most_common()]

    def report(self, seed: int) -> dict[str, Any]:
        if self.task.classes is None:
            return report_regression(self.truth, self.outputs, seed=seed)
        return report_classification(self.truth, self.outputs, self.task.classes, seed=seed)

    def slices(self, dataset: Dataset, columns: Any, names: Sequence[str], seed: int) -> list[dict[str, Any]]:
        groups = {name: slice_groups(dataset.schema[name], columns[name], self.rows) for name in names}
        return measure_slices(groups, self.truth, self.outputs, seed=seed)

    def examples(self, columns: Any, positions: np.ndarray, task: Any = None) -> list[dict[str, Any]]:
        """Rows as a person looks at them, with what is true and what the model says."""
        said = answers(self.truth, self.outputs, self.task.classes, self.labels, positions)
        return [
            {"row": int(self.rows[i]), **answer, "inputs": show_row(columns, self.task.inputs, int(self.rows[i]))}
            for i, answer in zip(positions, said, strict=True)
        ]

    def worst(self, columns: Any) -> list[dict[str, Any]]:
        positions, loss = worst_rows(self.truth, self.outputs)
        return [
            {**entry, "loss": float(value)}
            for entry, value in zip(self.examples(columns, positions), loss, strict=True)
        ]

    def compare(self, other: Subject, columns: Any, seed: int) -> dict[str, Any]:
        theirs = outputs_of(other, columns, self.rows)
        if self.task.classes is None:
            found = compare_regression(self.truth, self.outputs, theirs, seed=seed)
            said: Any = theirs.tolist()
        else:
            their_truth, best = other.task.truth(columns, self.rows), theirs.argmax(1)
            found = compare_classification(self.truth == self.outputs.argmax(1), their_truth == best)
            said = [other.task.classes[k] for k in best]
        return {"other": other.name, **found.to_dict(), **self._changed(columns, found, said)}

    def _changed(self, columns: Any, found: Comparison, said: Sequence[Any]) -> dict[str, Any]:
        def entries(positions: np.ndarray) -> list[dict[str, Any]]:
            shown = positions[:CHANGED]
            return [
                {**entry, "other_predicted": said[i]}
                for entry, i in zip(self.examples(columns, shown), shown, strict=True)
            ]

        return {"gained_rows": entries(found.gained), "lost_rows": entries(found.lost)}


def outputs_of(subject: Subject, columns: Any, rows: np.ndarray) -> np.ndarray:
    outputs = np.asarray(subject.model.outputs(columns, rows))
    broken = int((~np.isfinite(outputs)).reshape(len(rows), -1).any(1).sum())
    if broken:
        raise InvalidInput(
            f"{subject.name} answers with NaN or infinity for {broken:,} of {len(rows):,} rows",
            expected="finite numbers",
            fix="Its weights are broken: train it again with a lower learning rate.",
        )
    return outputs


def open_(dataset: Dataset | str, home: Home | None) -> Dataset:
    if isinstance(dataset, str):
        from ..data.dataset import open_dataset

        return open_dataset(dataset, home)
    return dataset


def check_columns(dataset: Dataset, subject: Subject, other: Subject | None, slices: Sequence[str]) -> None:
    """Every column that is needed is there; raise InvalidInput with the nearest name otherwise."""
    wanted = [
        (column.name, f"{part.name} reads it") for part in (subject, other) if part for column in part.task.inputs
    ]
    wanted += [(subject.task.target.name, f"{subject.name} predicts it"), *((name, "to slice by") for name in slices)]
    for name, why in wanted:
        if name not in dataset.schema:
            raise InvalidInput(
                f"{dataset.ref} has no column {name!r} ({why})", fix=did_you_mean(name, dataset.schema.names)
            )


def plain(value: Any) -> Any:
    """JSON only: numpy numbers become Python's, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
