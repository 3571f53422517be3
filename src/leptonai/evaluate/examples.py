"""Rows as a person looks at them: pictures as small PNG data URIs, texts cut to a paragraph, table cells. And which rows are worst."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .classification import UNKNOWN, losses

WORST = 24
TEXT = 600
CELLS = 40
PICTURE = 112
"""Longest side of a picture in pixels; smaller pictures are enlarged by whole factors when shown."""


def worst_rows(truth: np.ndarray, outputs: np.ndarray, count: int = WORST) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows with the highest loss, worst first, and that loss: −log p(true), or |error|."""
    loss = losses(truth, outputs) if outputs.ndim == 2 else np.abs(outputs - truth)
    order = np.argsort(-loss, kind="stable")[:count]
    return order, loss[order]


def answers(
    truth: np.ndarray,
    outputs: np.ndarray,
    classes: Sequence[Any] | None,
    labels: Sequence[Any] | None,
    at: Iterable[int],
) -> list[dict[str, Any]]:
    """What is true and what the model says, for the positions `at`. `labels` are the true labels as the dataset has them."""
    if classes is None:
        return [
            {"true": float(truth[i]), "predicted": float(outputs[i]), "error": float(outputs[i] - truth[i])} for i in at
        ]
    entries = []
    for i in at:
        best = int(outputs[i].argmax())
        known = truth[i] >= 0
        true = classes[truth[i]] if known else labels[i] if labels is not None else UNKNOWN
        entry = {"true": true, "predicted": classes[best], "score": float(outputs[i, best])}
        entries.append(entry | {"score_of_true": float(outputs[i, truth[i]]) if known else 0.0})
    return entries


def show_row(columns: Mapping[str, Any], schema: Iterable[Any], row: int) -> dict[str, Any]:
    """The input columns of a row as JSON: `{"image": "data:image/png;base64,…"}` for pictures, short texts, plain cells."""
    shown: dict[str, Any] = {}
    for column in list(schema)[:CELLS]:
        values = columns[column.name]
        if column.type == "image":
            shown[column.name] = {"image": picture(values[row])}
        elif column.type in ("audio", "tensor"):
            shown[column.name] = f"({column.type})"
        else:
            shown[column.name] = cell(values, row)
    return shown


def cell(values: Any, row: int) -> Any:
    if hasattr(values, "strings"):
        text = values.strings(np.array([row]))[0]
        return text if text is None or len(text) <= TEXT else text[:TEXT] + "…"
    value = values[row]
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value.astype("datetime64[s]"))
    value = value.item() if hasattr(value, "item") else value
    return None if value != value else value


def picture(value: Any) -> str | None:
    """A PNG data URI of raw pixels (H, W, C) uint8 or of an encoded image; None if it does not decode."""
    from PIL import Image

    try:
        if isinstance(value, bytes | bytearray | memoryview):
            image = Image.open(io.BytesIO(bytes(value)))
            image.draft("RGB", (PICTURE, PICTURE))
        else:
            pixels = np.asarray(value)
            image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        image = image.convert("L" if image.mode in ("L", "1") else "RGB")
        image.thumbnail((PICTURE, PICTURE))
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return None
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
