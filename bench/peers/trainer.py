"""The small MLP of bench/trainer_overhead.py in HF Trainer, Lightning and Keras on torch: CPU µs per step, as one line of JSON.

    PEERS/bin/python bench/peers/trainer.py ROWS REPEAT

Each logs its loss as it does by default, and saves nothing. A peer that is not installed is left out. Imports nothing of Lepton.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
import warnings

os.environ["KERAS_BACKEND"] = "torch"
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

BATCH, INPUTS, CLASSES, FEW, MANY = 32, 20, 10, 2, 10


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def make_data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, rows)


def hf(x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Rows(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, row):
            return {"x": x[row], "labels": int(y[row])}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=epochs, learning_rate=1e-3, logging_steps=50,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, log_level="error",
        )  # fmt: skip
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # it prints its log lines
            Trainer(Model(), arguments, train_dataset=Rows()).train()


def lightning(x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=pl.loggers.CSVLogger(folder), default_root_dir=folder,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(), DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), BATCH, shuffle=True))


def keras(x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    import keras as k

    dense = k.layers.Dense
    model = k.Sequential([k.Input((INPUTS,)), dense(64, "relu"), dense(64, "relu"), dense(CLASSES)])
    model.compile(
        k.optimizers.AdamW(1e-3), k.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)


PEERS = {
    "HF Trainer": ("transformers", hf),
    "Lightning": ("pytorch_lightning", lightning),
    "Keras on torch": ("keras", keras),
}


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows, repeat = int(sys.argv[1]), int(sys.argv[2])
    x, y = make_data(rows)
    found = {}
    for name, (package, work) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            continue
        work(x, y, 1)  # imports and first-call costs are not the trainer's steps
        spent = {FEW: [], MANY: []}
        for _ in range(repeat):
            for epochs in spent:
                began = time.process_time()
                work(x, y, epochs)
                spent[epochs].append(time.process_time() - began)
        # The least disturbed run of each length, as in bench/trainer_overhead.py.
        found[name] = (min(spent[MANY]) - min(spent[FEW])) / ((MANY - FEW) * -(-rows // BATCH)) * 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main()
