"""How the demo says what it found."""

from __future__ import annotations

from typing import Any

HEADLINES = ("accuracy", "rmse")
"""The metric of a report that people ask for first; a report has one of them."""


def describe(dataset: Any, target: str) -> str:
    """Columns with their types; how many different values the target has."""
    kinds = []
    for column in list(dataset.schema)[:12]:
        shape = " " + "×".join(map(str, column.shape)) if column.shape else ""
        kinds.append(f"{column.name} ({column.type}{shape})")
    more = f" and {len(dataset.schema) - 12} more" if len(dataset.schema) > 12 else ""
    return f"columns: {', '.join(kinds)}{more}; {dataset.profile[target]['distinct']} values of {target}"


def interval(metric: dict[str, float], key: str) -> str:
    if key == "accuracy":
        return f"{100 * metric['value']:.2f} % ({100 * metric['low']:.2f} to {100 * metric['high']:.2f})"
    return f"{metric['value']:.4g} ({metric['low']:.4g} to {metric['high']:.4g})"


def measured(report: Any) -> str:
    found = [f"{key} {interval(report.metrics[key], key)}" for key in HEADLINES if key in report.metrics]
    return f"{report.rows:,} rows: {', '.join(found)}"


def difference(report: Any) -> str:
    """The comparison in one line."""
    found, points = report.comparison, report.comparison["metric"] == "accuracy"
    values = [100 * found[key] if points else found[key] for key in ("difference", "low", "high")]
    unit = "points" if points else found["metric"]
    text = "{:+.2f} {unit} ({:+.2f} to {:+.2f})" if points else "{:+.4g} {unit} ({:+.4g} to {:+.4g})"
    return f"new − old: {text.format(*values, unit=unit)}, p = {found['p_value']:.2g}: {found['verdict']}"
