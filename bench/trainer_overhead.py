"""What a trainer costs per step: CPU µs for a small MLP, batch 32, AdamW, as the slope between 2 and 10 epochs on one thread.

    python -m bench.trainer_overhead [--rows 4096] [--repeat 5] [--peers-python PATH]

Ours runs as shipped: loss and accuracy logged at each step, JSONL and TensorBoard, early stopping on, signals handled, checkpoints.
Beside it, in the same process and in turn: the bare loop that a user would write with a DataLoader, and the limit, which is forward,
backward and a fused AdamW step on one fixed batch. Peers (HF Trainer, Lightning, Keras on torch) run in an environment of their own:

    python -m venv PEERS && PEERS/bin/pip install -r bench/peers/trainer.txt
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from leptonai.base.home import Home
from leptonai.train.loader import Loader
from leptonai.train.optim import make_optimizer
from leptonai.train.run import Run

from .common import ROOT, save, show

BATCH, INPUTS, CLASSES, FEW, MANY = 32, 20, 10, 2, 10


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def make_data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, rows)


class Rows(Dataset):
    """A dataset of the user's own: one row at a time."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[row], self.y[row]


def bare(dataset: Dataset, epochs: int) -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in DataLoader(dataset, BATCH, shuffle=True):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def ours(dataset: Dataset, epochs: int) -> None:
    """The same model, dataset and optimizer, with the four changed lines, and everything on."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run("bench", home=Home(Path(folder)))
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model, optimizer, loader = run.prepare(model, optimizer, DataLoader(dataset, BATCH, shuffle=True))
        run.stop_if("validation.loss", patience=1000)
        for _, (x, y) in run.steps(loader, until=f"{epochs} epochs"):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            run.backward(loss)
            optimizer.step()
            run.log(loss=loss)
            if run.epoch_ends:
                run.log({"validation.loss": loss.item()})
        run.finish()


def ours_resident(arrays: dict[str, np.ndarray], epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run("bench", home=Home(Path(folder)))
        model = make_model()
        model, optimizer, loader = run.prepare(model, make_optimizer(model), Loader(arrays, batch_size=BATCH))
        run.stop_if("validation.loss", patience=1000)
        for _, batch in run.steps(loader, until=f"{epochs} epochs"):
            loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
            optimizer.zero_grad()
            run.backward(loss)
            optimizer.step()
            run.log(loss=loss)
            if run.epoch_ends:
                run.log({"validation.loss": loss.item()})
        run.finish()


def limit(x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    model, inputs, target = make_model(), torch.from_numpy(x[:BATCH]), torch.from_numpy(y[:BATCH])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs * -(-len(x) // BATCH)):
        loss = nn.functional.cross_entropy(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def cpu_s(work: Callable[[int], None], epochs: int) -> float:
    began = time.process_time()
    work(epochs)
    return time.process_time() - began


def checkpoint_ms() -> float:
    """CPU ms of one checkpoint of this model; by default there is one a minute."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run("bench", home=Home(Path(folder)), track=("jsonl",))
        model = make_model()
        arrays = dict(zip("xy", make_data(BATCH), strict=True))
        model, optimizer, loader = run.prepare(model, make_optimizer(model), Loader(arrays, batch_size=BATCH))
        for _, batch in run.steps(loader, until="1 steps"):
            run.backward(nn.functional.cross_entropy(model(batch["x"]), batch["y"]))
            optimizer.step()
        began = time.process_time()
        for _ in range(10):
            run.save()
        spent = time.process_time() - began
        run.finish()
        return spent * 100


def peers(python: str | None, rows: int, repeat: int) -> dict[str, float]:
    """µs per step by name of the peer, from `bench/peers/trainer.py` in their own environment."""
    if python is None:
        print("Peers are absent: give --peers-python, the Python of an environment with bench/peers/trainer.txt.")
        return {}
    command = [python, str(ROOT / "bench" / "peers" / "trainer.py"), str(rows), str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the peers did not run:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--peers-python")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = make_data(options.rows)
    tensors, own, per_epoch = TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), Rows(x, y), -(-len(x) // BATCH)
    contenders: dict[str, Callable[[int], None]] = {
        "limit: forward, backward, fused AdamW": lambda epochs: limit(x, y, epochs),
        "bare loop, DataLoader of tensors": lambda epochs: bare(tensors, epochs),
        "ours, the same DataLoader": lambda epochs: ours(tensors, epochs),
        "bare loop, DataLoader of own dataset": lambda epochs: bare(own, epochs),
        "ours, the same DataLoader of own dataset": lambda epochs: ours(own, epochs),
        "ours, resident": lambda epochs: ours_resident({"x": x, "y": y}, epochs),
    }
    # In turn, so that a slow minute of the machine meets all of them; the least disturbed run of each length counts, and the
    # slope between FEW and MANY epochs, so that what starts and ends a training falls out.
    measured: dict[str, dict[int, list[float]]] = {name: {FEW: [], MANY: []} for name in contenders}
    for work in contenders.values():
        work(1)
    for _ in range(options.repeat):
        for name, work in contenders.items():
            for epochs, spent in measured[name].items():
                spent.append(cpu_s(work, epochs))
    steps = (MANY - FEW) * per_epoch
    best = {name: (min(spent[MANY]) - min(spent[FEW])) / steps * 1e6 for name, spent in measured.items()}
    tensors_us, own_us = best["bare loop, DataLoader of tensors"], best["bare loop, DataLoader of own dataset"]
    targets = {
        "ours, the same DataLoader": "≤ 1.15",
        "ours, the same DataLoader of own dataset": "≤ 1.15",
        "ours, resident": "≤ 0.6",
    }
    rows = []
    for name, value in (best | peers(options.peers_python, options.rows, options.repeat)).items():
        peer = own_us if "own dataset" in name else tensors_us
        row = {
            "what": name,
            "ours": value,
            "peer": peer,
            "ratio": value / peer,
            "target": targets.get(name, ""),
            "unit": "CPU µs/step",
        }
        rows.append(row)
    rows.append({"what": "one checkpoint (the default: one a minute)", "ours": checkpoint_ms(), "unit": "CPU ms"})
    show(rows)
    save(
        "trainer_overhead", rows, f"{options.rows} rows, batch {BATCH}; peer: the bare loop; least of {options.repeat}"
    )


if __name__ == "__main__":
    main()
