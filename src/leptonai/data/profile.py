"""What a column looks like: missing, distinct, spread or top values. One pass of vectorised Arrow and numpy per column.

Past 200,000 rows `distinct` is estimated within a few percent where there are many values, and says so (`distinct_is_estimate`).
"""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .fields import is_raw, to_array
from .schema import SPLIT, Column

BINS = 20
TOP = 10
EXACT_ROWS = 200_000
KEPT = 32
"""Past EXACT_ROWS, of this many values one is counted."""
FEW = 2_000
SAMPLE_ARRAYS = 4_000
SAMPLE_FILES = 1_000


def profile_column(column: Column, values: pa.ChunkedArray) -> dict[str, Any]:
    """`{"type", "missing", …}`, all plain JSON."""
    profile: dict[str, Any] = {"type": column.type, "missing": values.null_count}
    if values.null_count == len(values):
        return profile
    if column.type in ("number", "integer", "timestamp"):
        return profile | _spread(column, values)
    if column.type == "boolean":
        trues = pc.sum(values).as_py()
        return profile | {
            "distinct": pc.count_distinct(values).as_py(),
            "true": trues,
            "false": len(values) - values.null_count - trues,
        }
    if column.type == "category" or column.name == SPLIT:
        return profile | _top(values)
    if column.type == "text":
        return profile | _text(values)
    if is_raw(values.type):
        return profile | _array(column, values)
    return profile | (_images(column, values) if column.type == "image" else _sounds(values))


def _spread(column: Column, values: pa.ChunkedArray) -> dict[str, Any]:
    is_time = column.type == "timestamp"
    numbers = values.cast(pa.int64()) if is_time else values
    numbers = numbers.drop_null().to_numpy()
    finite = numbers if numbers.dtype.kind == "i" else numbers[np.isfinite(numbers)]
    profile: dict[str, Any] = _distinct(numbers)
    if len(finite) < len(numbers):
        profile["infinite"] = len(numbers) - len(finite)
    if not len(finite):
        return profile
    low, high = finite.min(), finite.max()
    # Differences of large integers overflow; float64 is exact enough for a picture.
    bins, stop = BINS, float(high)
    if finite.dtype.kind == "i" and not is_time and int(high) - int(low) < BINS:
        # Few whole numbers: one bin for each.
        bins, stop = int(high) - int(low) + 1, float(high) + 1
    # Halves, because the distance between two float64 may be more than a float64.
    edges = 2 * np.linspace(float(low) / 2, stop / 2, bins + 1)
    counts = _histogram(finite, float(low), stop, bins)
    if is_time:
        spread = {"counts": counts, "edges": [_moment(edge) for edge in edges]}
        return profile | {"min": _moment(low), "max": _moment(high), "histogram": spread}
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(finite.mean(dtype=np.float64))
        apart = finite - mean
        deviation = float(np.sqrt(np.dot(apart, apart) / len(finite)))
    return profile | {
        "min": low.item(),
        "max": high.item(),
        "mean": mean if np.isfinite(mean) else None,
        "std": deviation if np.isfinite(deviation) else None,
        "histogram": {"counts": counts, "edges": edges.tolist()},
    }


def _moment(microseconds: float) -> str:
    return str(np.datetime64(int(microseconds), "us"))


def _histogram(values: np.ndarray, low: float, high: float, bins: int = BINS) -> list[int]:
    """Counts of equal bins. Several times faster than np.histogram, which checks every edge."""
    if high <= low:
        return [len(values), *[0] * (bins - 1)]
    with np.errstate(over="ignore", invalid="ignore"):
        scale = bins / (high - low)
        if not np.isfinite(scale) or scale == 0:
            return np.histogram(values / 2**64, bins)[0].tolist()
        places = ((values - low) * scale).astype(np.int32)
    np.clip(places, 0, bins - 1, out=places)
    return np.bincount(places, minlength=bins).tolist()


def _distinct(numbers: np.ndarray) -> dict[str, Any]:
    if len(numbers) <= EXACT_ROWS:
        return {"distinct": len(np.unique(numbers))}
    wide = numbers.astype(np.float64) + 0.0 if numbers.dtype.kind == "f" else numbers.astype(np.int64)  # −0 is 0
    return _estimate(mix(wide.view(np.uint64)))


def _estimate(hashes: np.ndarray) -> dict[str, Any]:
    """Distinct values from their hashes: all whose hash is below 1/32 of the range are counted, so repeated values weigh once."""
    counted = len(np.unique(hashes[hashes < np.uint64(2**64 // KEPT)]))
    if counted < FEW:
        return {"distinct": pc.count_distinct(pa.array(hashes)).as_py()}
    return {"distinct": min(KEPT * counted, len(hashes)), "distinct_is_estimate": True}


def mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): each bit of the input moves all of the output."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _top(values: pa.ChunkedArray) -> dict[str, Any]:
    counts = pc.value_counts(values.drop_null())
    names, numbers = counts.field("values"), counts.field("counts")
    # Equal counts are told apart by name, so that a profile does not depend on the order of rows.
    order = pc.sort_indices(
        pa.table({"count": numbers, "name": names}), [("count", "descending"), ("name", "ascending")]
    )[:TOP]
    top = [
        [name, count]
        for name, count in zip(names.take(order).to_pylist(), numbers.take(order).to_pylist(), strict=True)
    ]
    return {"distinct": len(counts), "top": top, "rarest": pc.min(numbers).as_py()}


def _text(values: pa.ChunkedArray) -> dict[str, Any]:
    lengths = pc.utf8_length(values.drop_null()).to_numpy()
    profile: dict[str, Any] = {
        "characters": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}
    }
    profile["empty"] = int((lengths == 0).sum())
    profile["histogram"] = {
        "counts": _histogram(lengths, float(lengths.min()), float(lengths.max())),
        "edges": np.linspace(float(lengths.min()), float(lengths.max()), BINS + 1).tolist(),
    }
    if len(values) <= EXACT_ROWS:
        return profile | {"distinct": pc.count_distinct(values).as_py()}
    hashes = np.concatenate([hash_texts(chunk.drop_null()) for chunk in values.chunks])
    return profile | _estimate(hashes)


def hash_texts(texts: pa.StringArray) -> np.ndarray:
    """(n,) uint64 from each text's length and 8 bytes at its start, quarters and end: enough to count texts, not to tell two apart."""
    if not len(texts):
        return np.empty(0, np.uint64)
    _, offsets, content = texts.buffers()
    edges = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    padded = np.concatenate([np.frombuffer(content or b"", np.uint8), np.zeros(8, np.uint8)])
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    starts, lengths = edges[:-1], np.diff(edges)
    hashes = mix(lengths.astype(np.uint64))
    # Of a text shorter than a word, only its own bytes.
    own = np.uint64(2**64 - 1) >> (8 * (8 - np.clip(lengths, 1, 8))).astype(np.uint64)
    own[lengths == 0] = 0
    for quarter in range(5):
        hashes = mix(hashes ^ (words[starts + np.maximum(lengths - 8, 0) * quarter // 4] & own))
    return hashes


def _array(column: Column, values: pa.ChunkedArray) -> dict[str, Any]:
    profile: dict[str, Any] = {"shape": list(column.shape or ())}
    stride = max(1, len(values) // SAMPLE_ARRAYS)
    sample = to_array(values.take(pa.array(np.arange(0, len(values), stride))) if stride > 1 else values, column.shape)
    sample = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
    if sample.size:
        profile |= {
            "min": sample.min().item(),
            "max": sample.max().item(),
            "mean": float(sample.mean(dtype=np.float64)),
            "std": float(sample.std(dtype=np.float64)),
        }
    if column.type == "image" and sample.dtype == np.uint8:
        counts = np.bincount(sample.reshape(-1), minlength=256)
        profile["histogram"] = {"counts": counts.reshape(16, 16).sum(axis=1).tolist(), "edges": list(range(0, 257, 16))}
    return profile


def _images(column: Column, values: pa.ChunkedArray) -> dict[str, Any]:
    from PIL import Image

    sizes, formats = {}, {}
    for content in _files(values):
        with Image.open(io.BytesIO(content)) as image:
            sizes[f"{image.height}x{image.width}"] = sizes.get(f"{image.height}x{image.width}", 0) + 1
            formats[image.format] = formats.get(image.format, 0) + 1
    return {
        "shape": list(column.shape) if column.shape else None,
        "sizes": _most(sizes),
        "formats": _most(formats),
        "bytes": _bytes(values),
    }


def _sounds(values: pa.ChunkedArray) -> dict[str, Any]:
    rates, seconds = {}, []
    for content in _files(values):
        try:
            with wave.open(io.BytesIO(content)) as sound:
                rate = sound.getframerate()
                rates[str(rate)] = rates.get(str(rate), 0) + 1
                seconds.append(sound.getnframes() / rate)
        except (wave.Error, EOFError, ZeroDivisionError):
            # WAV holds more codecs than `wave` reads (float, µ-law); they are counted, not refused.
            rates["other"] = rates.get("other", 0) + 1
    profile: dict[str, Any] = {"sample_rates": _most(rates), "bytes": _bytes(values)}
    if seconds:
        profile["seconds"] = {"min": min(seconds), "mean": sum(seconds) / len(seconds), "max": max(seconds)}
    return profile


def _files(values: pa.ChunkedArray) -> list[bytes]:
    """Up to SAMPLE_FILES files, spread over the rows."""
    stride = max(1, len(values) // SAMPLE_FILES)
    return [content for i in range(0, len(values), stride) if (content := values[i].as_py()) is not None]


def _bytes(values: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(values)).as_py()


def _most(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5])
