"""Resource shapes of a machine: parts of it with a name, so that a spec written elsewhere means something sensible here."""

from __future__ import annotations

from typing import NamedTuple

from ...base.errors import InvalidInput, did_you_mean

GIB = 1 << 30


class Shape(NamedTuple):
    name: str
    description: str
    cpu: float
    memory_bytes: int
    accelerator_type: str = ""
    accelerators: float = 0


def shapes(cpu: float, memory_bytes: int, gpus: int = 0, gpu_type: str = "gpu") -> dict[str, Shape]:
    """What a machine with that much in all offers. CPU shapes are an eighth, a quarter, a half and all of it."""
    found = {}
    for name, part in (("cpu.small", 8), ("cpu.medium", 4), ("cpu.large", 2), ("cpu.xlarge", 1)):
        share = max(0.25, round(cpu / part, 2))
        memory = max(min(GIB, memory_bytes), memory_bytes // part)
        found[name] = Shape(name, f"{share:g} CPU, {memory / GIB:.1f} GiB", share, memory)
    kind = gpu_type.lower().replace(" ", "-")
    count = 1
    while gpus and count <= gpus:
        name = f"gpu.{kind}" if count == 1 else f"gpu.{count}x{kind}"
        share, memory = cpu * count / gpus, memory_bytes * count // gpus
        found[name] = Shape(
            name, f"{count} {gpu_type}, {share:g} CPU, {memory / GIB:.1f} GiB", share, memory, gpu_type, count
        )
        count *= 2
    return found


def shape_named(name: str | None, offered: dict[str, Shape]) -> Shape:
    """Raises InvalidInput with the nearest shape of this machine."""
    name = name or "cpu.small"
    if name not in offered:
        raise InvalidInput(f"this machine has no resource shape {name!r}", fix=did_you_mean(name, offered))
    return offered[name]
