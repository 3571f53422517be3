"""Image classification: one label for a picture of height × width × channels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base.errors import InvalidInput, did_you_mean
from ..data.schema import SPLIT, Column
from ..nets.registry import build, parameters
from .arrays import all_rows
from .classification import Classification, check_label_column
from .images import Shape, decode, png_base64, read_image, shape_text
from .labels import Labels
from .registry import choose_inputs, choose_target
from .task import Encoded

if TYPE_CHECKING:
    import torch

    from ..data.columns import Columns
    from ..data.dataset import Dataset

# Pictures of different sizes are brought to their median size, but to no more than this: a laptop trains it.
LARGEST_SIDE = 96
# Rows that the size and the statistics of pixels are taken from.
SAMPLE = 10_000
# A shift of up to 2 pixels of 28, as a fraction of the side (LeCun et al. 1998 distort digits by as much).
SHIFT = 2 / 28


class ImageClassification(Classification):
    name: ClassVar[str] = "image-classification"
    networks: ClassVar[tuple[str, ...]] = ("cnn",)

    def __init__(self, image: Column, target: Column):
        self.inputs, self.target = (image,), target
        self.shape: Shape | None = _shape(image)
        self.mean: list[float] = []
        self.std: list[float] = []

    @classmethod
    def plan(
        cls, dataset: Dataset, target: str | None, inputs: Sequence[str] | None, network: str | None = None
    ) -> ImageClassification:
        schema = dataset.schema
        column = choose_target(schema, target)
        check_label_column(column, cls.name)
        images = [c.name for c in schema if c.type == "image" and c.name not in (column.name, SPLIT)]
        chosen = choose_inputs(schema, column, inputs or images[:1] or None)
        if len(chosen) != 1 or chosen[0].type != "image":
            raise InvalidInput(
                f"{cls.name} needs one image column",
                received=", ".join(f"{c.name} ({c.type})" for c in chosen),
                fix=did_you_mean("image", images) if images else "Import an image folder, or use a tabular task.",
            )
        return cls(chosen[0], column)

    def fit(self, columns: Columns, rows: np.ndarray) -> None:
        self.labels = Labels.fit(columns[self.target.name], rows, self.target.name)
        # Evenly spaced: no randomness, and every part of the data is seen.
        sample = np.asarray(rows)[:: max(1, len(rows) // SAMPLE)]
        if self.shape is None:
            self.shape = _median_shape(columns[self.inputs[0].name], sample)
        pixels = self._pixels(columns, sample).reshape(-1, self.shape[2])
        mean = pixels.mean(0, dtype=np.float64)
        self.mean, self.std = mean.tolist(), np.maximum(pixels.std(0, dtype=np.float64), 1.0).tolist()

    def encode(self, columns: Mapping[str, Any], rows: np.ndarray | None = None) -> Encoded:
        target = self.truth(columns, rows) if self.target.name in columns else None
        return Encoded({"image": self._pixels(columns, rows)}, target)

    def _pixels(self, columns: Mapping[str, Any], rows: np.ndarray | None) -> np.ndarray:
        """(n, height, width, channels) uint8, whether the column holds pixels or image files of any size."""
        name = self.inputs[0].name
        column = columns[name]
        if isinstance(column, np.ndarray) and column.dtype == np.uint8 and column.ndim == 4:
            if column.shape[1:] == self.shape:
                return column[all_rows(column, rows)]
            raise InvalidInput(
                f"pictures of column {name!r} have another size",
                received=shape_text(column.shape[1:]),
                expected=shape_text(self.shape),
                fix="Use data with pictures of the size that the model was trained on.",
            )
        if hasattr(columns, "images"):
            pixels = columns.images(name, size=self.shape[:2], channels=self.shape[2])
            return np.asarray(pixels[all_rows(pixels, rows)]).reshape(-1, *self.shape)
        found = [decode(column[row], self.shape, f"row {row}, column {name!r}") for row in all_rows(column, rows)]
        return np.stack(found) if found else np.empty((0, *self.shape), np.uint8)

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        name, images = self.inputs[0].name, []
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidInput(
                    f"row {number} is not an object", received=row, expected=f'an object like {{"{name}": …}}'
                )
            if name not in row:
                raise InvalidInput(
                    f"row {number} has no {name!r}", received=list(row), expected=f"the picture as {name!r}"
                )
            images.append(read_image(row[name], self.shape, f"row {number}, column {name!r}"))
        return {name: np.stack(images) if images else np.empty((0, *self.shape), np.uint8)}

    def build(self, kind: str, config: Mapping[str, Any]) -> Any:
        height, width, channels = self.shape
        sizes = {"height": height, "width": width, "channels": channels, "outputs": len(self._labels.classes)}
        needed = parameters(kind)
        network = build(kind, {name: size for name, size in sizes.items() if name in needed} | dict(config))
        if hasattr(network, "set_statistics"):
            network.set_statistics(self.mean, self.std)
        return network

    def augment(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Each picture moved by up to 2/28 of its sides; its edge pixels fill what comes in."""
        import torch

        image = batch["image"]
        count, sides = len(image), image.shape[1:3]
        index = []
        for side in sides:
            most = max(1, round(side * SHIFT))
            by = torch.randint(-most, most + 1, (count, 1), generator=generator)
            index.append((torch.arange(side) + by).clamp_(0, side - 1).to(image.device))
        pictures = torch.arange(count, device=image.device)[:, None, None]
        return batch | {"image": image[pictures, index[0][:, :, None], index[1][:, None, :]]}

    @property
    def request_schema(self) -> dict[str, Any]:
        height, width, channels = self.shape
        pixel: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
        deep = {"type": "array", "items": pixel, "minItems": channels, "maxItems": channels}
        cell = {"anyOf": [pixel, deep]} if channels == 1 else deep
        row = {"type": "array", "items": cell, "minItems": width, "maxItems": width}
        pixels = {"type": "array", "items": row, "minItems": height, "maxItems": height}
        pixels["description"] = f"Pixels, {shape_text(self.shape)}."
        flat = {
            "type": "array",
            "items": pixel,
            "minItems": height * width * channels,
            "maxItems": height * width * channels,
            "description": "The same pixels in one list, row after row.",
        }
        encoded: dict[str, Any] = {
            "type": "string",
            "contentEncoding": "base64",
            "description": f"A PNG, JPEG, BMP, GIF or WebP file, or a data: URL; resized to {shape_text(self.shape)}.",
        }
        name = self.inputs[0].name
        picture = np.full(self.shape, round(sum(self.mean) / len(self.mean)), np.uint8)
        return {
            "type": "object",
            "properties": {name: {"anyOf": [*([encoded] if channels in (1, 3) else []), pixels, flat]}},
            "required": [name],
            "example": {name: png_base64(picture) if channels in (1, 3) else picture.tolist()},
        }

    def state(self) -> dict[str, Any]:
        return {
            "image": self.inputs[0].name,
            "shape": list(self.shape),
            "mean": self.mean,
            "std": self.std,
            "target": {"name": self.target.name, "type": self.target.type},
            "classes": self._labels.classes,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], files: Mapping[str, bytes]) -> ImageClassification:
        task = cls(Column(state["image"], "image", tuple(state["shape"])), Column(**state["target"]))
        task.mean, task.std, task.labels = list(state["mean"]), list(state["std"]), Labels(state["classes"])
        return task


def _shape(image: Column) -> Shape | None:
    if image.shape is None:
        return None
    return image.shape if len(image.shape) == 3 else (*image.shape, 1)


def _median_shape(column: Any, rows: np.ndarray) -> Shape:
    """The size for pictures of different sizes: the median of up to 200, and grey if all of them are."""
    from PIL import Image

    sizes, grey = [], True
    for row in rows[:: max(1, len(rows) // 200)]:
        with Image.open(io.BytesIO(bytes(column[row]))) as image:
            sizes.append((image.height, image.width))
            grey &= image.mode in ("1", "L", "LA", "I", "I;16")
    height, width = np.median(sizes, axis=0)
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink)), 1 if grey else 3
