"""`lep model`: the local zoo. Versions never change; tags move."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import print_json, print_table

if TYPE_CHECKING:
    from ..zoo.store import ModelEntry

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def model() -> None:
    """Push, pull, list, show, tag and remove models.

    A REF is NAME (the newest version), NAME@3 or NAME@TAG.
    """


@model.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--tag", "tags", multiple=True, help="Let this tag mean the new version.")
@as_json
def push(folder: Path, name: str, tags: tuple[str, ...], as_json: bool) -> None:
    """Publish the model in FOLDER as the next version of NAME, after verifying every file."""
    from ..zoo.store import ModelStore

    entry = ModelStore().push(folder, name, tags)
    if as_json:
        print_json(summary(entry))
    else:
        click.echo(f"Published {entry.ref}{tag_text(entry)}. Serve it with: lep serve {entry.ref}")


@model.command()
@click.argument("ref")
@click.argument("destination", type=click.Path(path_type=Path))
@as_json
def pull(ref: str, destination: Path, as_json: bool) -> None:
    """Copy a version into the new folder DESTINATION, verified."""
    from ..zoo.store import ModelStore

    store = ModelStore()
    entry = store.resolve(ref)
    store.pull(entry.ref, destination)
    if as_json:
        print_json({**summary(entry), "folder": str(destination)})
    else:
        click.echo(f"Copied {entry.ref} to {destination}.")


@model.command()
@click.argument("name", required=False)
@as_json
def ls(name: str | None, as_json: bool) -> None:
    """List the models, or all versions of NAME."""
    from ..zoo.store import ModelStore

    entries = ModelStore().list(name)
    if as_json:
        print_json([summary(entry) for entry in entries])
        return
    if not entries:
        click.echo("There is no model yet. Train one with: lep train recipes/digits-cnn.yaml")
        return
    newest = [entry for i, entry in enumerate(entries) if i == 0 or entries[i - 1].name != entry.name]
    print_table(
        ["model", "task", "measured", "tags", "made"],
        [
            (
                entry.ref,
                entry.manifest.task,
                headline(entry),
                tags_of(entry, [entry] if name else [other for other in entries if other.name == entry.name]),
                entry.manifest.created_at[:16].replace("T", " "),
            )
            for entry in (entries if name else newest)
        ],
    )


@model.command()
@click.argument("ref")
@as_json
def show(ref: str, as_json: bool) -> None:
    """Show a version: its card with signature, metrics, lineage and files."""
    from ..zoo.store import ModelStore

    entry = ModelStore().resolve(ref)
    if as_json:
        print_json(
            {**entry.manifest.to_dict(), "ref": entry.ref, "tags": list(entry.tags), "folder": str(entry.folder)}
        )
        return
    from rich.console import Console
    from rich.markdown import Markdown

    from ..zoo.card import GENERATED, write_card

    # From the manifest, not from README.md: the card on disk may have been edited since it was verified.
    text = write_card(entry.manifest).split("---\n", 2)[-1].replace(GENERATED, "")
    Console(highlight=False).print(Markdown(text))
    click.echo(f"Tags: {', '.join(entry.tags) or 'none'}. Folder: {entry.folder}")


@model.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also remove a version that has tags, and the tags.")
@as_json
def rm(refs: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove versions such as mnist@2. A tagged one needs --force."""
    from ..zoo.store import ModelStore

    store = ModelStore()
    removed = [store.remove(ref, force).ref for ref in refs]
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"Removed {', '.join(removed)}.")


@model.command()
@click.argument("ref")
@click.argument("tag")
@as_json
def tag(ref: str, tag: str, as_json: bool) -> None:
    """Let TAG mean the version REF, whatever it meant before."""
    from ..zoo.store import ModelStore

    entry = ModelStore().tag(ref, tag)
    if as_json:
        print_json(summary(entry))
    else:
        click.echo(f"{entry.name}@{tag} is now {entry.ref}.")


def summary(entry: ModelEntry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "ref": entry.ref,
        "name": entry.name,
        "version": entry.version,
        "tags": list(entry.tags),
        "task": manifest.task,
        "network": manifest.network["kind"],
        "metrics": manifest.metrics,
        "bytes": entry.bytes,
        "created_at": manifest.created_at,
        "folder": str(entry.folder),
    }


def headline(entry: ModelEntry) -> str:
    """The first of the usual metrics that the manifest has."""
    from ..zoo.card import flat_metrics, number

    metrics = flat_metrics(entry.manifest.metrics)
    for name in ("accuracy", "rmse", *metrics):
        if name in metrics:
            return f"{name} {number(metrics[name][0])}"
    return ""


def tags_of(entry: ModelEntry, versions: list[ModelEntry]) -> str:
    """Tags of all `versions`; one that means another version than `entry` says which."""
    return ", ".join(tag if e.version == entry.version else f"{tag} (@{e.version})" for e in versions for tag in e.tags)


def tag_text(entry: ModelEntry) -> str:
    return f" ({', '.join(entry.tags)})" if entry.tags else ""
