"""Run benchmarks one after the other, then print every kept result as one Markdown table.

usage: python -m bench [NAME …]     (no name: all that is not marked slow to set up; `table`: only the table)
"""

from __future__ import annotations

import json
import subprocess
import sys

from .common import ROOT

ALL = ("startup", "csv_import", "shuffled_reads", "trainer_overhead", "mnist", "text", "serve", "kill_resume", "demo")


def table() -> str:
    lines = ["| benchmark | what | ours | peer | ratio | target | unit |", "|---|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for row in result["rows"]:
            cells = [row.get(key, "") for key in ("what", "ours", "peer", "ratio", "target", "unit")]
            cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
            lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    names = sys.argv[1:] or ALL
    for name in names:
        if name != "table":
            print(f"\n── {name}", flush=True)
            subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=True)
    print("\n" + table())


if __name__ == "__main__":
    main()
