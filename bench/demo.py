"""Wall time of `lep demo --exit` on the digits, whole command, after installation. Target: ≤ 60 s on 2 cores.

usage: python -m bench.demo
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .common import save, show


def main() -> None:
    lep = Path(sys.executable).parent / "lep"
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as home:
            start = time.perf_counter()
            subprocess.run(
                [lep, "demo", "--exit"], check=True, env={**os.environ, "LEPTON_HOME": home}, stdout=subprocess.DEVNULL
            )
            seconds.append(time.perf_counter() - start)
    rows = [
        {"what": "lep demo --exit, digits", "ours": sorted(seconds)[1], "unit": "s wall, median of 3", "target": "≤ 60"}
    ]
    show(rows)
    save("demo", rows)


if __name__ == "__main__":
    main()
