"""An LSTM that tells good reviews from bad ones, as any PyTorch tutorial writes it, with four lines of Lepton (marked `#`):

    lep run examples/lstm_text.py --epochs 8

Its metrics are tracked, a killed run continues where it stood, and its weights are published as `lstm-text`. It reads the dataset
`sentiment` (columns `text` and `label`) if you have imported one, and sentences that it makes up if you have not.
"""

import argparse
import random
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leptonai as la

LENGTH = 24  # words of a sentence that are read


class LSTMClassifier(nn.Module):
    def __init__(self, words: int, width: int = 64, classes: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.output(self.dropout(hidden[-1]))


def made_up(count: int = 1500) -> tuple[list[str], list[int]]:
    """Reviews with a twist that needs word order: `not good` is bad."""
    pick = random.Random(0)
    words = {1: ["good", "great", "lovely", "reliable"], 0: ["bad", "awful", "noisy", "broken"]}
    things, texts, labels = ["phone", "soup", "film", "lamp", "chair", "room"], [], []
    for _ in range(count):
        label, negated = pick.randint(0, 1), pick.random() < 0.5
        word = pick.choice(words[label ^ negated])
        ends = ["", "in the end", "and it came late", "as I told my friend"]
        texts.append(f"the {pick.choice(things)} is {'not ' * negated}{word} {pick.choice(ends)}")
        labels.append(label)
    return texts, labels


def read() -> tuple[list[str], list[int]]:
    try:
        table = la.open_dataset("sentiment").table(["text", "label"])
    except la.LeptonError:
        return made_up()
    return table.column("text").to_pylist(), [int(label) for label in table.column("label").to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()

    texts, labels = read()
    rows = np.random.default_rng(0).permutation(len(texts))
    test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    counts = Counter(word for row in train for word in texts[row].lower().split())
    numbers = {
        word: number for number, (word, _) in enumerate(counts.most_common(5000), start=2)
    }  # 0: nothing, 1: unknown

    def encode(text: str) -> list[int]:
        found = [numbers.get(word, 1) for word in text.lower().split()][:LENGTH]
        return [0] * (LENGTH - len(found)) + found  # the sentence last: its end is what the LSTM saw last

    x, y = torch.tensor([encode(text) for text in texts]), torch.tensor(labels)

    run = la.Run("lstm-text", seed=0)  #
    model = LSTMClassifier(len(numbers) + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True)
    model, optimizer, loader = run.prepare(model, optimizer, loader)  #

    for _, (tokens, label) in run.steps(loader, until=f"{arguments.epochs} epochs"):  #
        logits = model(tokens)
        loss = nn.functional.cross_entropy(logits, label)
        run.backward(loss)  #
        optimizer.step()
        optimizer.zero_grad()
        run.log(loss=loss, accuracy=(logits.argmax(1) == label).float().mean())

    model.eval()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    run.log({"test.accuracy": accuracy})
    run.publish(model, "lstm-text")
    print(f"test accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
