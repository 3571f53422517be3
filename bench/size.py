"""Installed size of the base (client, command line) and of all that the demo needs. Target: ≤ 120 MB and ≤ 1,600 MB.

usage: python -m bench.size     (installs into two new environments: takes some minutes)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from .common import ROOT, save, show


def megabytes(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() or file.is_symlink()) / 1e6


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        subprocess.run([base / "bin" / "pip", "install", "-q", ROOT], check=True, stderr=subprocess.DEVNULL)
        rows.append({"what": "base: client and lep", "ours": megabytes(base), "unit": "MB", "target": "≤ 120"})
        local = Path(temporary, "local")
        subprocess.run([ROOT / "scripts" / "install", local, "local"], check=True)
        torch = next(local.glob("lib/python*/site-packages/torch"))
        rows.append(
            {
                "what": "all that the demo needs",
                "ours": megabytes(local),
                "unit": "MB",
                "target": "≤ 1600",
                "limit": f"torch alone {megabytes(torch):.0f} MB",
            }
        )
    show(rows)
    save("size", rows)


if __name__ == "__main__":
    main()
