"""Encoded images: checked when they come in, decoded to uint8 (H, W, C) when they are read. C is 1 for grey, 3 for colour.

Transparency is laid over white, so a drawing does not turn black.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from ..base.errors import InvalidInput, Refused

GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}
MOST_PIXELS = 100_000_000
"""A picture of more pixels than a large camera takes is a bomb or a mistake."""


def shape_of(content: bytes, name: str) -> tuple[int, int, int]:
    """(H, W, C) of an image that decodes whole; raise InvalidInput with its `name` otherwise."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Refused(
                    f"{name} has too many pixels",
                    received=f"{width} × {height}",
                    expected=f"at most {MOST_PIXELS:,}",
                    fix="Make it smaller.",
                )
            # PNG's own check sums are cheap to verify; other formats show a cut only when their pixels are decoded.
            image.verify() if image.format == "PNG" else image.load()
            return height, width, 1 if image.mode in GREY else 3
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(
            f"{name} does not decode as an image ({_reason(error)})", fix="Remove the file, or copy it again."
        ) from error


def _reason(error: Exception) -> str:
    return "unknown format" if "cannot identify" in str(error) else str(error)[:80]


def common_shape(
    values: pa.ChunkedArray, name_of: Callable[[int], str], progress: Callable[[str, int, int], None]
) -> tuple[int, int, int] | None:
    """The shape that all images share, or None. Every image is checked. Colour wins where only channels differ."""
    shapes: set[tuple[int, int, int]] = set()
    done = 0
    with ThreadPoolExecutor(2) as pool:
        for chunk in values.chunks:
            for start in range(0, len(chunk), 1024):
                contents = chunk.slice(start, 1024).to_pylist()
                rows = [(done + i, content) for i, content in enumerate(contents) if content is not None]
                shapes.update(pool.map(lambda row: shape_of(row[1], name_of(row[0])), rows))
                done += len(contents)
                progress("checking images", done, len(values))
    if len({shape[:2] for shape in shapes}) != 1:
        return None
    height, width, _ = next(iter(shapes))
    return height, width, max(shape[2] for shape in shapes)


def decode(content: bytes, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, channels) uint8; resized to `size` (H, W) if given."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith(("I", "F")):
            image = _to_eight_bits(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(image, np.uint8).reshape(image.size[1], image.size[0], channels)


def _to_eight_bits(image):
    from PIL import Image

    values = np.asarray(image, np.float64)
    # 16-bit scans use their whole range; 32-bit ones may use any.
    top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8), "L")


def encode(array: np.ndarray) -> bytes:
    """(H, W, C) uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()
