"""Bubblewrap around a plain process: it sees the machine read-only, its own folder and its workspace, and none of the plane.

Owns the decision what a workload may see. The network stays the machine's: replicas listen on its ports.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .driver import Mount

WRAPPERS = 2
"""bwrap outside and its child inside: processes that must not get the SIGTERM meant for the command."""
MISSING = (
    "no bubblewrap: whoever may start a workload can read all that this user can, keys and other workspaces' files too. "
    "Install bubblewrap (on Debian: apt install bubblewrap) before people share this cloud who do not trust each other."
)
_HIDDEN = (
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".docker",
    ".netrc",
    ".pgpass",
    ".pypirc",
    ".git-credentials",
)


@functools.cache
def bubblewrap() -> str | None:
    """The program, if it is installed and this kernel lets us use it."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    try:
        probe = [program, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "true"]
        return program if subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        return None


def wrap(
    program: str,
    command: Iterable[str],
    *,
    folder: Path,
    home: Path,
    workspace: Path,
    mounts: Iterable[Mount],
    devices: bool,
) -> list[str]:
    """`command` in a sandbox. `home`: the plane's, hidden but for `workspace`. `devices`: it has GPUs, so it sees /dev."""
    argv = [program, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", *(("--dev-bind", "/dev") if devices else ("--dev",)), "/dev"]
    # Sockets of the machine's services and of its users are in these; names are resolved with a file in the last.
    argv += ["--bind", str(folder / "tmp"), "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/run"]  # noqa: S108
    argv += ["--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"]
    user = Path.home()
    for name in _HIDDEN:
        hidden = user / name
        if hidden.is_dir():
            argv += ["--tmpfs", str(hidden)]
        elif hidden.is_file():
            argv += ["--ro-bind", "/dev/null", str(hidden)]
    argv += ["--tmpfs", str(home), "--bind", str(workspace), str(workspace), "--bind", str(folder), str(folder)]
    for mount in mounts:
        argv += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), str(mount.source)]
    return [*argv, "--chdir", str(folder), "--", *command]
