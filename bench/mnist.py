"""MNIST with recipes/mnist-cnn.yaml: accuracy, mean of seeds, and wall time of the whole command.

    python -m bench.mnist [--seeds 3] [--data FOLDER]

`--data`: a folder with MNIST's idx files. If the official test part is in it, accuracy is on that; else 10,000 of the training
images are held out. Each run is the command `lep train` in a process of its own, from start to exit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from .common import DATA, ROOT, save, show

FOUNDING = 0.9863
HELD_OUT = 10_000
LEP = [sys.executable, "-m", "leptonai.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA / "mnist")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="as of lep train; then nothing is saved"
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"There is no folder {arguments.data}: give MNIST's idx files with --data.")
    with tempfile.TemporaryDirectory() as home:
        os.environ["LEPTON_HOME"] = home
        test_rows = prepare(arguments.data)
        runs = [once(seed, arguments.settings) for seed in range(arguments.seeds)]
    accuracy, slowest = mean(run["accuracy"] for run in runs), max(run["wall_s"] for run in runs)
    rows = [
        {"what": f"test accuracy, mean of {len(runs)} seeds", "ours": accuracy, "unit": "share", "peer": FOUNDING, "ratio": accuracy / FOUNDING, "target": 0.99},
        {"what": "lep train, slowest seed", "ours": slowest, "unit": "s wall", "target": 60},
        {"what": "processor time of the slowest seed", "ours": max(run["cpu_s"] for run in runs), "unit": "s"},
    ]  # fmt: skip
    note = (
        f"{test_rows:,} test images; peer: accuracy that the founding document reports for a Keras CNN. Per seed: "
        + ", ".join(f"{run['accuracy']:.4f} in {run['wall_s']:.1f} s" for run in runs)
    )
    show(rows)
    print(note)
    if not arguments.settings:
        save("mnist", rows, note)


def prepare(folder: Path) -> int:
    """Import; hold out test rows if the files have no test part. The number of test rows."""
    from leptonai.data.importing import import_data
    from leptonai.data.schema import SPLIT

    dataset = import_data("mnist", folder)
    if SPLIT not in dataset.schema:
        dataset = dataset.split(test=HELD_OUT / dataset.num_rows, validation=0.0, seed=123, stratify="label")
    return len(dataset.rows("test"))


def once(seed: int, settings: list[str]) -> dict:
    command = [*LEP, "train", str(ROOT / "recipes" / "mnist-cnn.yaml"), "--json", "--set", f"train.seed={seed}"]
    began, spent = time.perf_counter(), os.times()
    done = subprocess.run(
        [*command, *(part for text in settings for part in ("--set", text))], stdout=subprocess.PIPE, check=True
    )
    after = os.times()
    cpu_s = after.children_user + after.children_system - spent.children_user - spent.children_system
    accuracy = json.loads(done.stdout)["metrics"]["test"]["accuracy"]
    run = {"accuracy": accuracy, "wall_s": time.perf_counter() - began, "cpu_s": cpu_s}
    print(f"seed {seed}: {accuracy:.4f} in {run['wall_s']:.1f} s, {cpu_s:.1f} s of processor time", flush=True)
    return run


if __name__ == "__main__":
    main()
