"""Workloads with an image, by Docker or Podman. Owns how a workload becomes an argument list; never a shell."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from ...base.errors import Unavailable
from .driver import Workload


@functools.lru_cache(maxsize=1)
def _probe(_minute: int) -> str | None:
    for program in ("docker", "podman"):
        path = shutil.which(program)
        if path:
            try:
                answer = subprocess.run([path, "info"], capture_output=True, timeout=10, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if answer.returncode == 0:
                return path
    return None


def runtime(minute: int = 0) -> str | None:
    """The container runtime that answers on this machine. `minute`: asked again when it changes."""
    return _probe(minute)


def require_runtime(image: str, minute: int = 0) -> str:
    program = runtime(minute)
    if program is None:
        raise Unavailable(
            f"the image {image!r} cannot run: no container runtime (Docker or Podman) answers on this machine",
            fix="Start one, or use the image name 'host' (--container-image host) and a command: it runs as a plain process.",
        )
    return program


def container_name(id: str) -> str:
    return f"lepton-{id}"


def run_argv(
    program: str, workload: Workload, folder: Path, ports: tuple[int, ...], gpus: tuple[int, ...]
) -> list[str]:
    """The runtime in the foreground: it hands signals and the exit code on. Values of the environment come from its own
    (`--env NAME`), so that no secret is in an argument list, which every user of the machine can read."""
    resources = workload.resources
    argv = [program, "run", "--name", container_name(workload.id), "--init", "--workdir", "/workspace"]
    argv += ["--volume", f"{folder}:/workspace"]
    argv += [
        "--cpus",
        f"{resources.cpu:g}",
        "--memory",
        str(resources.memory_bytes),
        "--memory-swap",
        str(resources.memory_bytes),
    ]
    argv += ["--pids-limit", "32768", "--security-opt", "no-new-privileges"]
    for name in sorted(workload.env):
        argv += ["--env", name]
    for port, inside in zip(ports, workload.container_ports or ports, strict=False):
        argv += ["--publish", f"127.0.0.1:{port}:{inside}"]
    for mount in workload.mounts:
        argv += ["--volume", f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")]
    if gpus and Path(program).name == "docker":
        argv += ["--gpus", '"device=' + ",".join(map(str, gpus)) + '"']  # quoted: the runtime reads the value as CSV
    elif gpus:
        argv += [part for gpu in gpus for part in ("--device", f"nvidia.com/gpu={gpu}")]
    return [*argv, workload.image or "", *workload.command]


def oom_argv(program: str, id: str) -> list[str]:
    return [program, "inspect", "--format", "{{.State.OOMKilled}}", container_name(id)]


def remove_argv(program: str, id: str) -> list[str]:
    return [program, "rm", "--force", container_name(id)]
