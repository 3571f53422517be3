"""Pictures in requests and tables: encoded bytes or nested lists of pixels to uint8 (height, width, channels). Owns the limits."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from typing import Any

import numpy as np

from ..base.errors import InvalidInput, shorten
from ..data import images

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
# A few kilobytes can unpack to gigabytes: the size in the header is checked before a pixel is decoded.
MAX_PIXELS = 50_000_000
# 28×28×1, 32×32×3, …: (height, width, channels)
Shape = tuple[int, int, int]


def read_image(value: Any, shape: Shape, where: str) -> np.ndarray:
    """A picture of a request: base64 (a data: URL too) or bytes of an image file, resized; or pixels of exactly `shape`."""
    if isinstance(value, str):
        return decode(_from_base64(value, where), shape, where)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode(bytes(value), shape, where)
    if isinstance(value, (list, tuple, np.ndarray)):
        return read_pixels(value, shape, where)
    expected = f"a base64 PNG or JPEG, or a list of {shape_text(shape)} pixels"
    raise InvalidInput(f"{where} is not a picture", received=repr(value), expected=expected)


def decode(data: bytes, shape: Shape, where: str) -> np.ndarray:
    """An image file to pixels of `shape`, resized if it has another size, by the same code that reads a dataset's pictures."""
    from PIL import Image

    height, width, channels = shape
    if channels not in (1, 3):
        raise InvalidInput(
            f"{where} cannot be an image file",
            expected=f"{shape_text(shape)} pixels, because the model has {channels} channels",
        )
    try:
        # Only the header is read here: neither a rare format nor a bomb reaches a decoder.
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
            if pixels <= MAX_PIXELS:
                return images.decode(data, channels, (height, width))
    except Exception as error:  # Pillow raises many kinds for bytes that are not a whole picture
        raise InvalidInput(
            f"{where} cannot be decoded as a picture ({shorten(str(error), 60)})",
            expected="a whole PNG, JPEG, BMP, GIF or WebP",
        ) from error
    raise InvalidInput(f"{where} is too large", received=f"{pixels:,} pixels", expected=f"at most {MAX_PIXELS:,}")


def read_pixels(value: Any, shape: Shape, where: str) -> np.ndarray:
    """Lists or an array of whole numbers 0…255: (height, width, channels), (height, width) for one channel, or all in one row."""
    expected = f"{shape_text(shape)} whole numbers from 0 to 255"
    try:
        pixels = np.asarray(value)
    except ValueError:
        raise InvalidInput(f"{where} has rows of different lengths", expected=expected) from None
    if pixels.dtype.kind not in "iuf":
        raise InvalidInput(f"{where} holds what is not a number", received=shorten(repr(value)), expected=expected)
    flat = (math.prod(shape),)
    if pixels.shape not in (shape, flat) and not (shape[2] == 1 and pixels.shape == shape[:2]):
        raise InvalidInput(
            f"{where} has another size",
            received="×".join(map(str, pixels.shape)),
            expected=expected,
            fix="Send it as a base64 PNG instead, which is resized.",
        )
    whole = np.round(pixels)
    # Fractions are most likely pixels divided by 255 or standardised: taken as they are, they would be near black.
    if not (np.isfinite(pixels).all() and (whole == pixels).all() and pixels.min() >= 0 and pixels.max() <= 255):
        raise InvalidInput(
            f"{where} has pixels that are not whole numbers from 0 to 255",
            received=f"from {pixels.min():g} to {pixels.max():g}",
            expected=expected,
            fix="Send the pixels as they are in the image file.",
        )
    return whole.astype(np.uint8).reshape(shape)


def _from_base64(text: str, where: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{where} is not base64", received=text, expected="a base64 PNG or JPEG") from None


def png_base64(pixels: np.ndarray) -> str:
    return base64.b64encode(images.encode(pixels)).decode()


def shape_text(shape: Shape) -> str:
    return "×".join(map(str, shape if shape[2] > 1 else shape[:2]))
