"""A training that is killed with SIGKILL at 20 random points, and continued each time: are the final weights those of the unbroken run?

    python -m bench.kill_resume [--kills 20] [--optimizer adamw]

The check is the test's (tests/train/test_run_kill.py): dropout, batch norm, averaged weights, accumulation, clipping, fp16 scaling,
one-cycle schedule, augmentation and early stopping at once, a checkpoint after every optimizer step. Weights, optimizer, generators and
logged metrics must be equal bit for bit, or it fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .common import ROOT, save, show

sys.path.insert(0, str(ROOT / "tests" / "train"))

from test_run_kill import check_killed_equals_unbroken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        killed = check_killed_equals_unbroken(Path(folder), options.kills, options.optimizer, options.seed)
    what = f"SIGKILL at {killed} random points, {options.optimizer}: final weights equal bit for bit"
    rows = [{"what": what, "ours": "yes", "target": "yes", "unit": f"in {time.monotonic() - began:.0f} s"}]
    show(rows)
    save("kill_resume", rows)


if __name__ == "__main__":
    main()
