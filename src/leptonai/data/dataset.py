"""A Dataset is one immutable version of a table. To change it is to make the next version; equal content makes none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..base.errors import InvalidInput, did_you_mean
from ..base.home import Home
from ..base.paths import parse_ref
from .schema import SPLIT, Column, Schema

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from .columns import Columns

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """`digests`: content hash per column. `profile`: {column: {"type", "missing", …}}. `lineage`: where the version came from."""

    name: str
    version: int
    schema: Schema
    num_rows: int
    content_hash: str
    created_at: str
    description: str
    profile: dict[str, Any] = field(repr=False)
    lineage: dict[str, Any] = field(repr=False)
    digests: dict[str, str] = field(repr=False)
    lance_version: int = field(repr=False)
    home: Home = field(repr=False)

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    def __len__(self) -> int:
        return self.num_rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and (self.ref, self.home) == (other.ref, other.home)

    def __hash__(self) -> int:
        return hash((self.ref, self.home))

    def table(self, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
        """Rows in their order, typed; of one part if `split` is given."""
        names = self.check_columns(columns)
        if split is not None:
            self._check_part(split)
        where = f"{SPLIT} = '{split}'" if split else None
        if split == "train":
            where += f" OR {SPLIT} IS NULL"
        return self._typed(self._lance().to_table(columns=_physical(names), filter=where, scan_in_order=True))

    def head(self, n: int = 10) -> pa.Table:
        """The first n rows."""
        return self._typed(self._lance().to_table(columns=_physical(self.schema.names), limit=max(n, 0)))

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by number, in the order given. For a few; training reads `columns()`."""
        import numpy as np

        return self._typed(
            self._lance().take(np.asarray(rows, np.int64).tolist(), columns=_physical(self.check_columns(columns)))
        )

    def batches(self, columns: Sequence[str], rows: int = 8192):
        """Arrow record batches in the order of rows and of `columns`, so that no more than a few are in memory."""
        names = _physical(self.check_columns(columns))
        yield from self._lance().to_batches(columns=names, batch_size=rows, scan_in_order=True)

    def columns(self, names: Sequence[str] | None = None) -> Columns:
        """Memory-mapped arrays of this version; built once, then opened."""
        from .columns import Columns

        return Columns(self, self.check_columns(names))

    def rows(self, split: str) -> np.ndarray:
        """Row numbers (int64, ascending) of `train`, `validation` or `test`."""
        import numpy as np
        import pyarrow.compute as pc

        self._check_part(split)
        column = self._lance().to_table(columns=[SPLIT], scan_in_order=True).column(SPLIT)
        return np.flatnonzero(pc.fill_null(pc.equal(column, split), split == "train").to_numpy()).astype(np.int64)

    def append(self, table: Any, *, lineage: Mapping[str, Any]) -> Dataset:
        """A new version with `table`'s rows at the end. They are `train` unless they say otherwise; columns they lack are null."""
        from .versions import append

        return append(self, table, lineage)

    def split(
        self,
        *,
        test: float = 0.2,
        validation: float = 0.1,
        seed: int = 0,
        stratify: str | None = None,
        group: str | None = None,
    ) -> Dataset:
        """A new version with the column `split`. Parts that exist stay as they are: a test row remains a test row."""
        from .versions import split

        return split(self, test=test, validation=validation, seed=seed, stratify=stratify, group=group)

    def check_columns(self, names: Sequence[str] | None) -> list[str]:
        if isinstance(names, str):
            names = [names]
        for name in names if names is not None else ():
            if name not in self.schema:
                raise InvalidInput(
                    f"dataset {self.ref} has no such column", received=name, fix=did_you_mean(name, self.schema.names)
                )
        return list(names) if names is not None else self.schema.names

    def _check_part(self, split: str) -> None:
        if split not in PARTS:
            raise InvalidInput(
                "this is no part of a dataset",
                received=split,
                expected="train, validation or test",
                fix=did_you_mean(split, PARTS),
            )
        if SPLIT not in self.schema:
            raise InvalidInput(
                f"dataset {self.ref} is not split",
                fix=f"Split it: lep data split {self.name} --test 0.2 --validation 0.1.",
            )

    def storage(self, name: str) -> pa.DataType:
        """The Arrow type that a column is kept in."""
        return self._lance().schema.field(_physical([name])[0]).type

    def stored_schema(self, of: pa.Schema) -> pa.Schema:
        """The fields of `of` as they are in the files."""
        import pyarrow as pa

        stored = self._lance().schema
        return pa.schema([stored.field(_physical([name])[0]).with_name(name) for name in of.names])

    def _lance(self):
        from .store import Store

        return Store(self.name, self.home).open(self.lance_version)

    def _typed(self, table: pa.Table) -> pa.Table:
        """Lance keeps the values; the version's own schema says what they mean."""
        import pyarrow as pa

        from .fields import field_of
        from .store import logical

        fields = [field_of(self.schema[logical(field.name)], field.type) for field in table.schema]
        return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _physical(names: Sequence[str]) -> list[str]:
    from .store import physical

    return [physical(name) for name in names]


def open_dataset(ref: str, home: Home | None = None) -> Dataset:
    """`digits@3`, or `digits` for the newest version; raise NotFound with what there is."""
    from .store import existing

    home = home or Home.current()
    name, version = parse_ref(ref, "dataset")
    store = existing(name, home)
    if version is not None and not version.isdecimal():
        raise InvalidInput(
            "this is no version of a dataset",
            received=version,
            expected="a number",
            fix=f"There is: {', '.join(map(str, store.versions()))}.",
        )
    return from_record(store.read(int(version) if version else store.versions()[-1]), home)


def list_datasets(home: Home | None = None) -> list[Dataset]:
    """The newest version of every dataset, by name."""
    from .store import names

    home = home or Home.current()
    return [open_dataset(name, home) for name in names(home)]


def list_versions(name: str, home: Home | None = None) -> list[Dataset]:
    """All versions, oldest first."""
    from .store import existing

    home = home or Home.current()
    store = existing(name, home)
    return [from_record(store.read(version), home) for version in store.versions()]


def remove_dataset(ref: str, home: Home | None = None) -> None:
    """`digits@3`: that version (the last one takes the dataset with it); `digits`: all of them."""
    from .store import existing

    home = home or Home.current()
    name, version = parse_ref(ref, "dataset")
    store = existing(name, home)
    with store.writing():
        if version is None or store.versions() == [open_dataset(ref, home).version]:
            store.remove()
        else:
            store.remove_version(open_dataset(ref, home).version)


def from_record(record: Mapping[str, Any], home: Home) -> Dataset:
    columns = [Column(c["name"], c["type"], tuple(c["shape"]) if c["shape"] else None) for c in record["schema"]]
    keys = (
        "name",
        "version",
        "num_rows",
        "content_hash",
        "created_at",
        "description",
        "profile",
        "lineage",
        "digests",
        "lance_version",
    )
    return Dataset(schema=Schema(tuple(columns)), home=home, **{key: record[key] for key in keys})


def to_record(schema: Schema, **facts: Any) -> dict[str, Any]:
    """What `versions/<n>.json` holds, without its name and number."""
    columns = [{"name": c.name, "type": c.type, "shape": list(c.shape) if c.shape else None} for c in schema]
    return {"schema": columns, "created_at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
