"""CPU time of `import leptonai` and `lep --help` beyond bare Python. Target: ≤ 60 ms and ≤ 150 ms.

usage: python -m bench.startup
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

from .common import save, show


def cpu_ms(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    python, lep = sys.executable, str(Path(sys.executable).parent / "lep")
    commands = {
        "bare": [python, "-c", "pass"],
        "import leptonai": [python, "-c", "import leptonai"],
        "lep --help": [lep, "--help"],
    }
    # interleaved, so that a slow moment of the machine meets all of them
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(21):
        for name, command in commands.items():
            times[name].append(cpu_ms(command))
    bare = statistics.median(times["bare"])
    rows = [
        {
            "what": name,
            "ours": statistics.median(times[name]) - bare,
            "unit": "CPU ms beyond bare Python",
            "target": target,
            "limit": f"bare Python {bare:.0f} ms",
        }
        for name, target in (("import leptonai", "≤ 60"), ("lep --help", "≤ 150"))
    ]
    show(rows)
    save("startup", rows)


if __name__ == "__main__":
    main()
