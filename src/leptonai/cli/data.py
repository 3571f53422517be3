"""`lep data`: datasets on the command line. Every command that tells something prints JSON for programs with --json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import InvalidInput, did_you_mean
from .dataset_text import cell, number, origin, part_counts, parts, plain, print_columns, say_version
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..data.dataset import Dataset

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")


class DataGroup(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}. {did_you_mean(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=DataGroup)
def data() -> None:
    """Import, look at, split, compare and export datasets."""


@data.command("import", short_help="Import a file or folder as a version.")
@click.argument("name")
@click.argument("path")
@click.option("--type", "types", multiple=True, metavar="COLUMN=TYPE",
              help="number, integer, boolean, category, text, timestamp, image, audio or tensor. May be given again.")  # fmt: skip
@click.option("--description", default="", help="One line that `lep data ls` shows.")
@click.option("--encoding", help="Of a text file that is not UTF-8, such as latin-1.")
@JSON
def import_(
    name: str, path: str, types: tuple[str, ...], description: str, encoding: str | None, as_json: bool
) -> None:
    """Import PATH as the next version of dataset NAME.

    PATH: a CSV, TSV, JSONL, JSON, Parquet, Arrow, npz, idx, WAV or text file, a zip, or a folder of images (class folders),
    WAV files, texts or such files. Of a text file, each line that is not blank is a row.
    """
    from ..data.importing import import_data

    with Stages(quiet=as_json) as stages:
        dataset = import_data(
            name, path, types=dict(map(_typed, types)), description=description, encoding=encoding, progress=stages.show
        )
    if as_json:
        return print_json(summary(dataset))
    say_version(dataset)
    print_columns(dataset)
    click.echo(f"Next: lep data split {name} --test 0.2 --validation 0.1")


@data.command()
@JSON
def ls(as_json: bool) -> None:
    """List datasets."""
    from ..data.dataset import list_datasets

    datasets = list_datasets()
    if as_json:
        return print_json([summary(dataset) for dataset in datasets])
    if not datasets:
        click.echo("There are no datasets yet. Import one: lep data import NAME PATH")
        return
    rows = (
        [d.ref, f"{d.num_rows:,}", len(d.schema), parts(d), d.created_at[:16].replace("T", " "), d.description]
        for d in datasets
    )
    print_table(["dataset", "rows", "columns", "train / validation / test", "created (UTC)", "description"], rows)


@data.command()
@click.argument("ref", metavar="NAME[@VERSION]")
@JSON
def show(ref: str, as_json: bool) -> None:
    """Show schema, profile and lineage."""
    from ..data.dataset import open_dataset

    dataset = open_dataset(ref)
    if as_json:
        return print_json({**summary(dataset), "profile": dataset.profile, "lineage": dataset.lineage})
    say_version(dataset)
    if dataset.description:
        click.echo(dataset.description)
    print_columns(dataset)
    click.echo(f"from  {origin(dataset)}")
    click.echo(f"hash  {dataset.content_hash}")


@data.command()
@click.argument("ref", metavar="NAME[@VERSION]")
@click.option("-n", "rows", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many rows.")
@JSON
def head(ref: str, rows: int, as_json: bool) -> None:
    """Show the first rows."""
    from ..data.dataset import open_dataset

    dataset = open_dataset(ref)
    values = dataset.head(rows).to_pylist()
    if as_json:
        return print_json([{name: plain(value) for name, value in row.items()} for row in values])
    print_table(dataset.schema.names, ([cell(value) for value in row.values()] for row in values))


@data.command(short_help="List versions, oldest first.")
@click.argument("name")
@JSON
def versions(name: str, as_json: bool) -> None:
    """List the versions of a dataset, oldest first."""
    from ..data.dataset import list_versions

    found = list_versions(name)
    if as_json:
        return print_json([{**summary(dataset), "lineage": dataset.lineage} for dataset in found])
    rows = ([d.ref, f"{d.num_rows:,}", parts(d), origin(d), d.created_at[:16].replace("T", " ")] for d in found)
    print_table(["version", "rows", "train / validation / test", "from", "created (UTC)"], rows)


@data.command(short_help="Compare two versions or datasets.")
@click.argument("a", metavar="A[@VERSION]")
@click.argument("b", metavar="B[@VERSION]")
@JSON
def diff(a: str, b: str, as_json: bool) -> None:
    """Compare two versions, or two datasets: columns, rows, parts, values."""
    from ..data.dataset import open_dataset
    from ..data.diff import diff as compare

    found = compare(open_dataset(a), open_dataset(b))
    if as_json:
        return print_json(found.to_dict())
    if found.same:
        click.echo(f"{found.a} and {found.b} hold the same: {found.rows[0]:,} rows.")
        return
    click.echo(f"{found.a} → {found.b}")
    click.echo(f"rows     {found.rows[0]:,} → {found.rows[1]:,}  (+{found.rows_added:,} −{found.rows_removed:,})")
    for part, (before, after) in found.parts.items():
        if before != after:
            click.echo(f"         {part} {before:,} → {after:,}")
    changes = [f"+ {name}" for name in found.columns_added] + [f"− {name}" for name in found.columns_removed]
    changes += [f"{name}: {before} → {after}" for name, (before, after) in found.types_changed.items()]
    if changes:
        click.echo("columns  " + ", ".join(changes))
    shifts = [
        [name, fact, number(x), number(y)] for name, facts in found.shifts.items() for fact, (x, y) in facts.items()
    ]
    if shifts:
        print_table(["column", "", found.a, found.b], shifts)


@data.command(short_help="Make train, validation and test rows.")
@click.argument("ref", metavar="NAME[@VERSION]")
@click.option("--test", type=float, default=0.2, show_default=True, help="Fraction of rows to test on.")
@click.option("--validation", type=float, default=0.1, show_default=True, help="Fraction of rows to validate on.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--stratify", metavar="COLUMN", help="Every class in every part in its share.")
@click.option("--group", metavar="COLUMN", help="Rows with the same value stay in one part.")
@JSON
def split(
    ref: str, test: float, validation: float, seed: int, stratify: str | None, group: str | None, as_json: bool
) -> None:
    """Make a version whose rows are for training, validation or test. Parts that exist stay as they are."""
    from ..data.dataset import open_dataset

    dataset = open_dataset(ref).split(test=test, validation=validation, seed=seed, stratify=stratify, group=group)
    if as_json:
        return print_json(summary(dataset))
    click.echo(f"{dataset.ref}: {parts(dataset)} rows (train / validation / test)")


@data.command(short_help="Write to a file or folder.")
@click.argument("ref", metavar="NAME[@VERSION]")
@click.argument("path", type=click.Path(path_type=Path))
def export(ref: str, path: Path) -> None:
    """Write to PATH: .csv, .tsv, .jsonl, .parquet, .arrow, .feather, or (without ending) a folder of images or WAV files."""
    from ..data.dataset import open_dataset
    from ..data.export import export as write

    dataset = open_dataset(ref)
    click.echo(f"{dataset.ref} → {write(dataset, path)}  ({dataset.num_rows:,} rows)")


@data.command(short_help="Remove a version or a dataset.")
@click.argument("ref", metavar="NAME[@VERSION]")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(ref: str, yes: bool) -> None:
    """Remove a version, or a dataset with all its versions."""
    from ..data.dataset import list_versions, open_dataset, remove_dataset

    dataset = open_dataset(ref)
    whole = "@" not in ref or len(list_versions(dataset.name)) == 1
    what = f"dataset {dataset.name} with all its versions" if whole else f"version {dataset.ref}"
    if not yes:
        click.confirm(f"Remove {what}?", abort=True, err=True)
    remove_dataset(ref)
    click.echo(f"Removed {what}.")


def summary(dataset: Dataset) -> dict[str, Any]:
    """What every command tells of a dataset as JSON."""
    columns = [{"name": c.name, "type": c.type, "shape": list(c.shape) if c.shape else None} for c in dataset.schema]
    return {
        "ref": dataset.ref, "name": dataset.name, "version": dataset.version, "rows": dataset.num_rows, "columns": columns,
        "parts": part_counts(dataset), "content_hash": dataset.content_hash, "created_at": dataset.created_at,
        "description": dataset.description,
    }  # fmt: skip


class Stages:
    """What an import is doing, on stderr: a live line on a terminal, nothing elsewhere."""

    def __init__(self, quiet: bool):
        from rich.console import Console

        console = Console(stderr=True)
        self._status = console.status("") if console.is_terminal and not quiet else None

    def __enter__(self) -> Stages:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        if self._status:
            self._status.update(
                f"{stage}  {done:,}/{total:,} {100 * done // max(total, 1)}%" if total > 1 else f"{stage} …"
            )


def _typed(option: str) -> tuple[str, str]:
    name, equals, kind = option.rpartition("=")
    if not equals or not name or not kind:
        raise InvalidInput(
            "this does not give a column its type", received=option, expected="COLUMN=TYPE, such as zip=category"
        )
    return name, kind
