"""A dataset in words: its columns as a table with small histograms, where it came from, a cell in a few characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from .output import print_table

if TYPE_CHECKING:
    from ..data.dataset import Dataset

BARS = "▁▂▃▄▅▆▇█"


def say_version(dataset: Dataset) -> None:
    told = f"  ·  {parts(dataset)} (train / validation / test)" if part_counts(dataset) else ""
    click.secho(dataset.ref, bold=True, nl=False)
    click.echo(f"  {dataset.num_rows:,} rows × {len(dataset.schema)} columns{told}")


def print_columns(dataset: Dataset) -> None:
    rows = []
    for column in dataset.schema:
        profile = dataset.profile[column.name]
        missing = f"{100 * profile['missing'] / dataset.num_rows:.1f} %" if profile["missing"] else ""
        distinct = (
            f"{'≈ ' if profile.get('distinct_is_estimate') else ''}{profile['distinct']:,}"
            if "distinct" in profile
            else ""
        )
        histogram = bars(profile["histogram"]["counts"]) if "histogram" in profile else ""
        rows.append([column.name, column.type, missing, distinct, histogram, _says(profile)])
    print_table(["column", "type", "missing", "distinct", "histogram", "values"], rows)


def bars(counts: Iterable[int]) -> str:
    """Counts as a line of blocks; a count that is not 0 is never invisible."""
    counts = list(counts)
    top = max(counts, default=0) or 1
    return "".join(BARS[-(-count * len(BARS) // top) - 1] if count else " " for count in counts)


def _says(profile: dict[str, Any]) -> str:
    """A column's values in a few words."""
    if "top" in profile:
        names = [f"{cell(name, 24)} {count:,}" for name, count in profile["top"][:3]]
        return ", ".join(names) + (", …" if profile["distinct"] > 3 else "")
    if "true" in profile:
        return f"true {profile['true']:,}, false {profile['false']:,}"
    if "mean" in profile and "shape" not in profile:
        return f"{number(profile['min'])} … {number(profile['max'])}, mean {number(profile['mean'])} ± {number(profile['std'])}"
    if "characters" in profile:
        return f"{profile['characters']['min']}–{profile['characters']['max']} characters, mean {profile['characters']['mean']:.0f}"
    if "seconds" in profile:
        seconds, rates = profile["seconds"], ", ".join(profile["sample_rates"])
        return f"{seconds['min']:.2f}–{seconds['max']:.2f} s, mean {seconds['mean']:.2f}, {rates} Hz"
    if profile.get("shape"):
        return " × ".join(map(str, profile["shape"])) + (
            f", {', '.join(profile['formats'])}" if "formats" in profile else ""
        )
    if "sizes" in profile:
        return f"sizes differ: {', '.join(profile['sizes'])}"
    if "min" in profile:
        return f"{moment(profile['min'])} … {moment(profile['max'])}"
    return f"{profile['infinite']:,} infinite" if "infinite" in profile else ""


def moment(text: str) -> str:
    """`2024-01-31T00:00:00.000000` → `2024-01-31`: without what is 0."""
    return text.removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def part_counts(dataset: Dataset) -> dict[str, int] | None:
    if "split" not in dataset.schema:
        return None
    counts = dict(dataset.profile["split"].get("top", ()))
    known = ("train", "validation", "test")
    return {part: counts.get(part, 0) for part in known} if set(counts) <= set(known) else None


def parts(dataset: Dataset) -> str:
    return " / ".join(f"{count:,}" for count in (part_counts(dataset) or {}).values())


def origin(dataset: Dataset) -> str:
    lineage = dataset.lineage
    if "source" in lineage and "parent" not in lineage:
        return lineage["source"]
    if "split" in lineage:
        chosen = ", ".join(f"{key} {value}" for key, value in lineage["split"].items() if value is not None)
        return f"{lineage['parent']}, split: {chosen}"
    return f"{lineage.get('parent', '')}, {lineage.get('kind', '')}: +{lineage.get('rows', 0):,} rows"


def plain(value: Any) -> Any:
    """JSON has no bytes: a file is told by its size."""
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def cell(value: Any, width: int = 60) -> str:
    if value is None:
        return "–"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list):
        return f"[{len(value)} numbers]"
    text = " ".join(str(value).split())
    if not text:
        return '""'
    return text if len(text) <= width else text[: width - 1] + "…"
