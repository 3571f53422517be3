"""The contract of a compute driver: one noun, the workload, and what can be done with it. Owns no state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

HOST = "host"
"""The image name that means: a plain process of this machine."""

State = Literal["queued", "starting", "running", "exited", "lost"]
Reason = Literal["Completed", "Error", "OutOfMemory", "TimeLimit", "Stopped", "Preempted", "Lost"]


@dataclass(frozen=True)
class Resources:
    """What a workload claims, and at most gets. `cpu` in cores."""

    cpu: float = 1.0
    memory_bytes: int = 1 << 30
    gpus: int = 0

    def times(self, count: int) -> Resources:
        return Resources(self.cpu * count, self.memory_bytes * count, self.gpus * count)

    def plus(self, other: Resources) -> Resources:
        return Resources(self.cpu + other.cpu, self.memory_bytes + other.memory_bytes, self.gpus + other.gpus)

    def minus(self, other: Resources) -> Resources:
        return self.plus(other.times(-1))

    def fits(self, room: Resources) -> bool:
        # Shares of a core are floats that were added and taken away; a billionth of a core is noise.
        return self.cpu <= room.cpu + 1e-9 and self.memory_bytes <= room.memory_bytes and self.gpus <= room.gpus


NOTHING = Resources(0, 0, 0)


@dataclass(frozen=True)
class Capacity:
    total: Resources
    used: Resources


@dataclass(frozen=True)
class Mount:
    """`source` of this machine appears at `target`; for a plain process without a sandbox, at `target` inside its folder."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Workload:
    """One command, to be started once. `id` names it for ever: a second launch of an id does nothing."""

    id: str
    workspace: str
    owner: str
    """`kind/name` of the resource it belongs to."""
    command: tuple[str, ...]
    image: str | None = None
    """None or `host`: a plain process."""
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    ports: int = 0
    """How many free TCP ports it gets: `PORT` is the first, `LEPTON_PORTS` all of them, by commas."""
    container_ports: tuple[int, ...] = ()
    """Inside an image: the ports that the assigned ones are mapped to, in order."""
    folder: Path | None = None
    """Its working folder and HOME. None: a folder of its own, removed by `forget`."""
    mounts: tuple[Mount, ...] = ()
    gang: str | None = None
    gang_size: int = 1
    """Members of a gang start when all of them are there and fit; they learn MASTER_ADDR and MASTER_PORT of member 0."""
    index: int = 0
    time_limit_s: float | None = None
    grace_s: float = 30.0
    """Between SIGTERM and SIGKILL when its time is up or it is pre-empted."""
    priority: int = 5000
    preemptible: bool = False
    can_preempt: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What a driver knows about a workload. Times are seconds since 1970."""

    id: str
    workspace: str
    owner: str
    state: State
    pid: int | None = None
    ports: tuple[int, ...] = ()
    gpus: tuple[int, ...] = ()
    queued_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    """128 + n for a process that signal n ended, as a shell says it."""
    reason: Reason | None = None
    message: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ("exited", "lost")


@dataclass(frozen=True)
class LogLine:
    """A line, or (`partial`) a part of one whose end is not there yet. Text is whole UTF-8; times of a workload rise strictly."""

    time_ns: int
    stream: Literal["stdout", "stderr"]
    text: str
    partial: bool = False
    offset: int = 0
    """Where to read on after this line."""

    def __str__(self) -> str:
        return self.text if self.partial else self.text + "\n"


class Driver(Protocol):
    def launch(self, workload: Workload) -> None:
        """Accept the workload, durably; it starts when there is room. Idempotent by id.

        Raises InvalidInput (it can never be meant) or Unavailable (not on this machine: too large, no image runtime)."""

    def observe(self, owner: str | None = None) -> dict[str, Observation]:
        """All that this driver knows, dead or alive, by id; survives restarts of the plane. Moves the queue on.

        `owner` (`workspace/kind/name`): only its workloads, as the last look at all of them left them."""

    def stop(self, id: str, grace_s: float = 30.0) -> None:
        """SIGTERM, after `grace_s` SIGKILL of all its processes; returns at once. Idempotent; unknown ids are ignored."""

    def forget(self, id: str) -> None:
        """Remove record, logs and files of a workload that has ended. Raises Conflict if it has not."""

    def logs(
        self,
        id: str,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        offset: int = 0,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """Lines from `offset` on; with `follow` until the workload has ended. Raises NotFound."""

    def capacity(self) -> Capacity: ...
