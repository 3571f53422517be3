"""Run benchmarks one after the other, then write every kept result as one table into docs/results.md.

usage: python -m bench [NAME …]     (no name: all; `table`: only the table)
"""

from __future__ import annotations

import json
import subprocess
import sys

from .common import ROOT

ALL = (
    "startup", "size", "csv_import", "shuffled_reads", "trainer_overhead", "kill_resume", "mnist", "text", "serve", "gateway", "rollout", "plane_kills", "resources", "demo",
)  # fmt: skip
HEAD = """# Measured

Each row was printed by the command in its first column; what a row means, and how it is measured, is said at the head of that file in
`bench/`. `python -m bench` runs them all. Timings decide no test.
"""


def table() -> str:
    lines = [
        HEAD,
        "| command | what | ours | peer | ratio | to reach | unit | limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    machines = {}
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for row in result["rows"]:
            cells = [row.get(key, "") for key in ("what", "ours", "peer", "ratio", "target", "unit", "limit")]
            cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
            lines.append(f"| `python -m bench.{result['name']}` | " + " | ".join(cells) + " |")
        machines.setdefault(", ".join(f"{key} {value}" for key, value in result["machine"].items()), []).append(result)
    lines.append("")
    for machine, results in machines.items():
        when = ", ".join(f"{result['name']} {result['date']} ({result['commit']})" for result in results)
        lines.append(f"Machine: {machine}. Run: {when}.\n")
        lines += [f"* {result['name']}: {result['note']}" for result in results if result["note"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    names = sys.argv[1:] or ALL
    for name in names:
        if name != "table":
            print(f"\n── {name}", flush=True)
            subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=True)
    (ROOT / "docs" / "results.md").write_text(table())
    print("\n" + table())


if __name__ == "__main__":
    main()
