"""The environment of a workload: built from nothing, so that no credential of the plane can be in it."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ...base.errors import InvalidInput
from ...base.home import Home
from .driver import Workload
from .tree import MARK

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_KEPT = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_HOME")
"""What a program needs to run on this machine and that is no secret."""
MAX_ENV_BYTES = 1 << 20


def check_env(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not _NAME.match(name):
            raise InvalidInput(
                "this cannot be the name of an environment variable", received=name, expected="letters, digits and _"
            )
        if "\0" in value:
            raise InvalidInput(f"the value of {name} may not hold a NUL byte")
    if sum(len(name) + len(value.encode()) + 2 for name, value in env.items()) > MAX_ENV_BYTES:
        raise InvalidInput("the environment is too large", expected=f"at most {MAX_ENV_BYTES // 1024} KiB in all")


def workload_env(
    workload: Workload,
    work: Path,
    home: Home,
    *,
    ports: tuple[int, ...],
    gpus: tuple[int, ...],
    master_port: int | None,
) -> dict[str, str]:
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True, mode=0o700)
    threads = str(max(1, math.ceil(workload.resources.cpu)))
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env = {"LANG": "C.UTF-8"} | env
    env |= {
        # The commands of this installation first: `lep`, `python` mean what they mean for the plane.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(work),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "LEPTON_HOME": str(home.root),
        "LEPTON_WORKSPACE": workload.workspace,
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
    }
    if ports:
        env |= {"PORT": str(ports[0]), "LEPTON_PORTS": ",".join(map(str, ports))}
    if master_port is not None:
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(master_port)}
    # The mark last: it is how leftovers are found.
    return env | dict(workload.env) | {MARK: workload.id}
