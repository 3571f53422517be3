"""What a shim is told (`start.json`): command, environment, limits, sandbox. A function of the record and of what it was granted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...base.home import Home
from . import container, sandbox
from .driver import Mount, Workload
from .environment import workload_env
from .limits import parent_cgroup
from .record import Record

_OF_THE_MACHINE = ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "LEPTON_HOME", "USER", "LD_LIBRARY_PATH")
"""Variables that mean nothing inside a container."""


def start_file(
    home: Home, record: Record, given: Mapping[str, Any], master: int | None, bubblewrap: str | None
) -> dict[str, Any]:
    """`given`: its ports and GPUs; `master`: the port of its gang's first member; `bubblewrap`: the program, None without sandbox.

    Raises FileNotFoundError if the environment is gone: it has started.
    """
    asked = record.asked
    workload = Workload(
        **{
            **asked,
            "command": tuple(asked["command"]),
            "resources": record.resources,
            "mounts": tuple(_mount(mount) for mount in asked["mounts"]),
            "container_ports": tuple(asked["container_ports"]),
            "env": record.environment(),
        }
    )
    ports, gpus = tuple(given["ports"]), tuple(given["gpus"])
    work = record.work
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    env = workload_env(workload, work, home, ports=ports, gpus=gpus, master_port=master)
    start = {
        "id": record.id,
        "env": env,
        "folder": str(work),
        "ports": ports,
        "gpus": gpus,
        "cpu": record.resources.cpu,
        "memory_bytes": record.resources.memory_bytes,
        "time_limit_s": asked["time_limit_s"],
        "grace_s": asked["grace_s"],
        "cgroup_parent": parent_cgroup(),
        "wrappers": 0,
        "watch": True,
    }
    if record.runtime:
        inside = env | {"PORT": str((workload.container_ports or ports or ("",))[0])}
        named = Workload(
            **{**vars(workload), "env": {name: inside[name] for name in env if name not in _OF_THE_MACHINE}}
        )
        return start | {
            "argv": container.run_argv(record.runtime, named, work, ports, gpus),
            "env": inside,
            "cgroup_parent": None,
            "watch": False,  # the runtime's daemon enforces the limits
            "oom_check": container.oom_argv(record.runtime, record.id),
            "cleanup": container.remove_argv(record.runtime, record.id),
        }
    _link_mounts(workload, work)
    if bubblewrap is None:
        return start | {"argv": workload.command}
    workspace = home.root / "workspaces" / workload.workspace
    workspace.mkdir(parents=True, exist_ok=True)
    argv = sandbox.wrap(
        bubblewrap,
        workload.command,
        folder=work,
        home=home.root,
        workspace=workspace,
        mounts=workload.mounts,
        devices=bool(gpus),
    )
    return start | {"argv": argv, "wrappers": sandbox.WRAPPERS}


def master_port(record: Record, records: Iterable[Record], admitted: Mapping[str, dict[str, Any]]) -> int | None:
    """The first port of member 0 of the gang."""
    gang = record.claim().gang
    for other in records if gang else ():
        ports = admitted.get(other.id, {}).get("ports")
        if other.claim().gang == gang and other.asked["index"] == 0 and ports:
            return ports[0]
    return None


def _mount(mount: dict[str, Any]) -> Mount:
    return Mount(Path(mount["source"]), mount["target"], mount["read_only"])


def _link_mounts(workload: Workload, work: Path) -> None:
    """A plain process finds what is mounted at /mnt/data at ./mnt/data of its folder."""
    for mount in workload.mounts:
        link = work / mount.target.lstrip("/")
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(mount.source)


def shim_env() -> dict[str, str]:
    """What a shim itself needs: nothing of the plane's but where its code is."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
